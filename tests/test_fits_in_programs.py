"""Fits as parts of larger programs: influence of rows, penalties tuned by gradients, a probe as a head, calibration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import Status
from fundl import linear_regression as linear
from fundl import logistic_regression as lr
from fundl import softmax_regression as sr

pytestmark = pytest.mark.large

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 5))
P = 1 / (1 + np.exp(-(X @ [2.0, -1.0, 0.0, 0.0, 0.0])))
Y = (RNG.random(80) < P).astype(float)


def test_influence_of_a_row_is_the_derivative_in_its_weight():
    # The closed form: dtheta/ds_i = H^-1 x_i (y_i - p_i), with H = sum_i p_i (1 - p_i) x_i x_i^T + l2.
    influence = jax.jit(jax.jacrev(lambda s: lr.fit(X, Y, weights=s, l2=0.5).params))(jnp.ones(80))
    params = lr.fit(X, Y, l2=0.5).params
    A, p = np.column_stack([X, np.ones(80)]), np.asarray(lr.predict_proba(params, X))
    H = A.T @ (A * (p * (1 - p))[:, None]) + 0.5 * np.diag([1, 1, 1, 1, 1, 0])
    closed = np.linalg.solve(H, A.T * (Y - p))
    np.testing.assert_allclose(np.vstack([influence.w, influence.b]), closed, rtol=1e-9, atol=1e-13)
    # Leaving a row out moves w by minus its influence, and the terms of second order.
    i = int(np.argmax(np.abs(closed[0])))
    moved = lr.fit(X, Y, weights=np.arange(80) != i, l2=0.5).params.w - params.w
    np.testing.assert_allclose(moved, -closed[:5, i], atol=0.3 * np.abs(moved).max())


@pytest.mark.parametrize("kind", ["logistic", "logistic l1", "softmax", "ridge path", "least squares"])
def test_the_derivative_in_a_weight_of_0_is_that_of_adding_the_row(kind: str):
    classes = (Y + (X[:, 2] > 0)).astype(int)
    fits = {
        "logistic": lambda s, X: lr.fit(X, Y, weights=s, l2=0.5).params.w,
        "logistic l1": lambda s, X: lr.fit(X, Y, weights=s, l2=0.5, l1=1.0).params.w,
        "softmax": lambda s, X: sr.fit(X, classes, weights=s, l2=0.5, num_classes=3).params.w,
        "ridge path": lambda s, X: linear.ridge_path(X, Y, jnp.asarray([0.5]), weights=s).params.w,
        "least squares": lambda s, X: linear.fit(X, Y, weights=s, l2=0.5).params.w,
    }
    s, step = np.ones(80), 1e-5 * np.eye(80)[7]
    s[7] = 0
    derivative = jax.jacfwd(fits[kind])
    found = derivative(jnp.asarray(s), X)
    one_sided = (4 * fits[kind](s + step, X) - fits[kind](s + 2 * step, X) - 3 * fits[kind](s, X)) / 2e-5
    np.testing.assert_allclose(found[..., 7], one_sided, rtol=1e-6, atol=1e-8)
    assert np.abs(found[..., 7]).max() > 1e-4
    unusable = X.copy()
    unusable[7, 0] = np.nan  # no row to add: nothing else changes
    np.testing.assert_allclose(
        np.delete(derivative(jnp.asarray(s), unusable), 7, -1), np.delete(found, 7, -1), rtol=1e-9, atol=1e-12
    )


def test_the_gradient_of_the_validation_loss_tunes_the_penalty():
    train, held = slice(0, 40), slice(40, 80)

    def validation(log_l2):
        return lr.loss(lr.fit(X[train], Y[train], l2=jnp.exp(log_l2)).params, X[held], Y[held])

    step = jax.jit(jax.value_and_grad(validation))
    grid = np.linspace(-6, 6, 49)
    values = [float(step(jnp.asarray(v))[0]) for v in grid]
    log_l2, low, high = jnp.asarray(0.0), -6.0, 6.0
    for _ in range(30):  # bisection on the sign of the derivative
        J, slope = step(log_l2)
        low, high = (low, float(log_l2)) if slope > 0 else (float(log_l2), high)
        log_l2 = jnp.asarray((low + high) / 2)
    assert abs(float(step(log_l2)[1])) < 1e-7
    assert float(J) <= min(values) + 1e-9
    h = 1e-4
    central = (validation(0.3 + h) - validation(0.3 - h)) / (2 * h)
    np.testing.assert_allclose(step(jnp.asarray(0.3))[1], central, rtol=1e-6)


def test_a_linear_probe_is_the_head_of_a_network():
    V = jnp.asarray(RNG.normal(size=(5, 3)) / 2)

    def loss(V):  # the head is always the best one for the features
        features = jnp.tanh(X @ V)
        return lr.fit(features, Y, l2=0.1).certificate.objective

    J, slope = jax.jit(jax.value_and_grad(loss))(V)
    h = 1e-5
    move = RNG.normal(size=V.shape)
    central = (loss(V + h * move) - loss(V - h * move)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(slope * move), central, rtol=1e-6)
    assert loss(V - 0.01 * slope) < J


@pytest.mark.parametrize("free", [False, True], ids=["temperature", "Platt"])
def test_calibration_is_a_fit_of_the_logits(free):
    z = 3 * (X @ [2.0, -1.0, 0.0, 0.0, 0.0]) - 0.5  # three times too sure
    found = lr.fit(z[:, None], Y, intercept=free).check()
    w, b = float(found.params.w[0]), float(found.params.b)

    def cross_entropy(w, b):
        return np.sum(np.logaddexp(0, w * z + b) - Y * (w * z + b))

    for dw, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-2 * free), (0, -1e-2 * free)):
        assert cross_entropy(w, b) <= cross_entropy(w + dw, b + db)
    assert 0.15 < w < 0.6
    assert b == 0 or free
    p = np.asarray(lr.predict_proba(found.params, z[:, None]))
    np.testing.assert_allclose(np.sum((p - Y) * z), 0, atol=1e-10)


@pytest.mark.slow
def test_derivatives_in_every_argument_twice():
    # H of J(fit(X + t dX, y + t dy, s + t ds, l2 + t dl, l1)) along a line, forward over reverse, against differences.
    dX, dy, ds = RNG.normal(size=X.shape), RNG.normal(size=80) * 0.1, RNG.random(80)
    soft = 0.8 * P + 0.1

    def along(t, l1):
        params = lr.fit(X + t * dX, soft + t * dy, weights=1 + t * ds, l2=0.5 + t, l1=l1).params
        return jnp.sum(jnp.sin(params.w)) + params.b

    for l1 in (0.0, 3.0):
        f = jax.jit(lambda t, l1=l1: along(t, l1))
        first, second = jax.jit(jax.grad(f)), jax.jit(jax.hessian(f))
        zero, h = jnp.asarray(0.0), 1e-4
        np.testing.assert_allclose(first(zero), (f(h) - f(-h)) / (2 * h), rtol=1e-6)
        np.testing.assert_allclose(second(zero), (first(h) - first(-h)) / (2 * h), rtol=1e-5)


@pytest.mark.parametrize("method", ["newton", "subspace"])
@pytest.mark.parametrize(("scale", "l2"), [(1.0, 1e-8), (1e4, 1e-6), (1e8, 1.0)])
def test_derivatives_of_softmax_coefficients_sum_to_zero_as_they_do(scale, l2, method):
    """The penalty alone sees the same added to all classes: a small one would divide the rounding there."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(30, 3)) * [1, scale, 1], rng.integers(0, 3, 30)
    ones, along = np.ones(30), np.linspace(-1, 1, 30)
    for dtype in (np.float64, np.float32):
        A, small = X.astype(dtype), dtype(l2)

        def coefficients(s, A=A, small=small):
            return sr.fit(A, y, num_classes=3, weights=s, l2=small, method=method).params.w

        _, dw = jax.jvp(jax.jit(coefficients), (dtype(ones),), (dtype(along),))
        size = np.abs(dw).max(axis=1)
        assert np.all(np.abs(dw.sum(axis=1)) <= 100 * np.finfo(dtype).eps * size)
    h = 1e-5
    up, down = (sr.fit(X, y, weights=ones + t * along, l2=l2).params.w for t in (h, -h))
    right = (up - down) / (2 * h)
    found = jax.jvp(lambda s: sr.fit(X, y, weights=s, l2=l2, num_classes=3).params.w, (ones,), (along,))
    assert np.all(np.abs(found[1] - right).max(axis=1) <= 1e-8 * np.abs(right).max(axis=1))


def test_a_weight_of_0_on_a_row_that_is_not_finite_has_no_derivative_in_least_squares():
    rng = np.random.default_rng(0)
    X, y, s = rng.normal(size=(8, 3)), rng.normal(size=8), np.ones(8)
    X[1, 0], y[2], s[[1, 2, 3]] = np.inf, np.nan, 0.0
    found = jax.jit(jax.jacobian(lambda s: linear.fit(X, y, weights=s, l2=1.0).params.w))(s)
    assert np.all(found[:, [1, 2]] == 0)
    assert np.all(found[:, 3] != 0)
    effect = linear.influence(X, y, l2=1.0, weights=s)
    np.testing.assert_allclose(found.T, effect.d_params.w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_class_of_hardly_any_weight_is_there(dtype):
    """A sum of the weights rounds it away; with the penalty the minimum is near b = log of the odds."""
    x, y, s = np.linspace(-1, 1, 20, dtype=dtype)[:, None], np.arange(20) != 10, np.ones(20, dtype)
    s[10] = np.finfo(dtype).eps / 16
    found = jax.jit(lambda s: lr.fit(x, y, weights=s, l2=1.0))(s)
    assert found.status is Status.converged
    np.testing.assert_allclose(found.params.b, np.log(19 / s[10]), rtol=1e-6)


@pytest.mark.parametrize("method", ["newton", "subspace"])
@pytest.mark.parametrize("least", [1e-6, 1e-8])
def test_soft_labels_however_near_to_0_do_not_separate(least, method):
    """Each such row's loss grows without end in both directions, so there is a minimum; also where 1 - y is 1."""
    x = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    y = np.where(x[:, 0] > 0, 1, least).astype(np.float32)
    best = lr.fit(x.astype(float), y.astype(float))
    assert best.status is Status.converged
    found = jax.jit(lambda y: lr.fit(x, y, method=method))(y)
    assert found.status is not Status.separable
    assert float(found.certificate.objective) < float(best.certificate.objective) * (1 + 1e-5)
