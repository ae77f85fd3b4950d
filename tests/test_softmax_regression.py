"""Softmax regression against optima found with 40 digits, which import nothing of fundl."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from fundl import softmax_regression as sr
from fundl._result import Status
from fundl._types import Linear

pytestmark = pytest.mark.large


def optimum(X, Y, l2=0.0, weights=None, digits=40):
    """(w, b, f) of the minimum by Newton's method in mpmath, summing to zero over the classes."""
    mp = mpmath.mp.clone()
    mp.dps = digits
    n, d = X.shape
    k = Y.shape[1]
    A = [[mp.mpf(float(v)) for v in row] + [mp.mpf(1)] for row in X]
    T = [[mp.mpf(float(v)) for v in row] for row in Y]
    s = [mp.mpf(1 if weights is None else float(weights[i])) for i in range(n)]
    D = d + 1
    theta = mp.zeros(D, k)
    penalty = [mp.mpf(float(l2))] * d + [mp.mpf(0)]

    def probabilities(theta, a):
        z = [mp.fdot(a, theta[:, c]) for c in range(k)]
        m = max(z)
        e = [mp.exp(v - m) for v in z]
        return z, m + mp.log(sum(e)), [v / sum(e) for v in e]

    def value(theta):
        total = sum(penalty[j] * theta[j, c] ** 2 for j in range(D) for c in range(k)) / 2
        for a, t, m in zip(A, T, s, strict=True):
            z, log_sum, _ = probabilities(theta, a)
            total += m * sum(t[c] * (log_sum - z[c]) for c in range(k))
        return total

    f = value(theta)
    for _ in range(100):
        g, H = mp.zeros(D * k, 1), mp.zeros(D * k, D * k)
        for a, t, m in zip(A, T, s, strict=True):
            _, _, p = probabilities(theta, a)
            total = sum(t)
            for i in range(D):
                for c in range(k):
                    g[i * k + c] += m * (total * p[c] - t[c]) * a[i]
                    for j in range(D):
                        for e in range(k):
                            H[i * k + c, j * k + e] += m * total * p[c] * ((c == e) - p[e]) * a[i] * a[j]
        for i in range(D):
            for c in range(k):
                g[i * k + c] += penalty[i] * theta[i, c]
                H[i * k + c, i * k + c] += penalty[i]
                for e in range(k):
                    H[i * k + c, i * k + e] += 1  # steps that sum to zero
        step = mp.lu_solve(H, -g)
        length = mp.mpf(1)
        while True:
            trial = theta + length * mp.matrix(D, k)
            for i in range(D):
                for c in range(k):
                    trial[i, c] = theta[i, c] + length * step[i * k + c]
            new = value(trial)
            if new <= f or length < mp.mpf(10) ** -30:
                break
            length /= 2
        theta, f = trial, new
        if max(abs(v) for v in step) < mp.mpf(10) ** (-digits + 12):
            break
    all_of_it = np.array([[float(theta[i, c]) for c in range(k)] for i in range(D)])
    return all_of_it[:d], all_of_it[d], f


def data(seed, n=30, d=2, k=3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    z = X @ rng.normal(size=(d, k))
    y = np.argmax(z + rng.gumbel(size=z.shape), axis=1)
    return X, y, rng


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["labels", "soft", "weights"])
def test_fit_has_the_digits_of_the_optimum(l2, kind):
    X, y, rng = data(1)
    Y = np.eye(3)[y] if kind != "soft" else rng.dirichlet(np.ones(3), size=len(y)) * rng.choice([1.0, 0.5], (len(y), 1))
    weights = rng.integers(0, 4, size=len(y)) if kind == "weights" else None
    found = sr.fit(X, Y if kind == "soft" else y, l2=l2, weights=weights).check()
    w, b, f = optimum(X, Y, l2, weights)
    np.testing.assert_allclose(found.params.w, w, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.params.b, b, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.certificate.objective, float(f), rtol=1e-14)
    np.testing.assert_allclose(np.sum(found.params.w, axis=1), 0, atol=1e-14)
    assert found.certificate.suboptimality < 1e-20


def test_loss_gradient_and_predictions():
    X, y, rng = data(2)
    params = Linear(jnp.asarray(rng.normal(size=(2, 3))), jnp.asarray(rng.normal(size=3)))
    weights = rng.integers(0, 3, size=len(y)).astype(float)
    z = X @ np.asarray(params.w) + np.asarray(params.b)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    Y = np.eye(3)[y]
    L = -np.log((p * Y).sum(axis=1))
    np.testing.assert_allclose(sr.predict_proba(params, X), p, rtol=1e-14)
    np.testing.assert_array_equal(sr.predict(params, X), z.argmax(axis=1))
    np.testing.assert_allclose(sr.loss(params, X, y), L.mean(), rtol=1e-14)
    np.testing.assert_allclose(sr.loss(params, X, Y, weights=weights, reduction="sum"), weights @ L, rtol=1e-14)
    for labels in (y, Y):
        for reduction in ("mean", "sum"):
            total = weights.sum() if reduction == "mean" else 1
            by_hand = sr.gradient(params, X, labels, weights=weights, reduction=reduction)
            auto = jax.grad(lambda q, r=reduction: sr.loss(q, X, y, weights=weights, reduction=r))(params)
            assert isinstance(by_hand, Linear)
            np.testing.assert_allclose(by_hand.w, X.T @ (weights[:, None] * (p - Y)) / total, rtol=1e-11, atol=1e-15)
            np.testing.assert_allclose(by_hand.b, weights @ (p - Y) / total, rtol=1e-11, atol=1e-15)
            np.testing.assert_allclose(by_hand.w, auto.w, rtol=1e-11, atol=1e-15)
            np.testing.assert_allclose(by_hand.b, auto.b, rtol=1e-11, atol=1e-15)


def test_separable_data_are_named_with_a_direction():
    X = np.array([[0.0], [1.0], [2.0], [3.0], [4.0]])
    for y, k in (([0, 0, 1, 1, 2], 3), ([0, 0, 1, 0, 1], 3), ([0, 1, 0, 2, 2], 3)):
        found = sr.fit(X, y, num_classes=k)
        assert found.status is Status.separable
        z = X @ np.asarray(found.certificate.direction.w) + np.asarray(found.certificate.direction.b)
        gap = z[np.arange(5), y][:, None] - z
        assert (gap >= -1e-12).all()
        assert gap.max() > 0.1


def test_two_classes_are_logistic_regression_with_half_the_weights():
    # Softmax logits (-v, v) are a sigmoid logit 2 v: w = (-v, v) has the penalty l2 v^2, the sigmoid's l2/2 (2 v)^2.
    from fundl import logistic_regression as lr

    X, y, _ = data(3)
    y = (y > 0).astype(int)
    two, one = sr.fit(X, y, num_classes=2, l2=0.2), lr.fit(X, y, l2=0.1)
    np.testing.assert_allclose(two.params.w[:, 1] - two.params.w[:, 0], one.params.w, rtol=1e-11)
    np.testing.assert_allclose(two.params.b[1] - two.params.b[0], one.params.b, rtol=1e-11)


def test_a_class_that_never_occurs_runs_away():
    X, y, _ = data(1)
    found = sr.fit(X, y, num_classes=4, l2=0.3)
    assert found.status is Status.separable
    np.testing.assert_array_equal(found.certificate.direction.w, 0)
    b = found.certificate.direction.b
    assert b[3] < b[0] == b[1] == b[2]


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_l1_meets_the_conditions_of_the_minimum(l2):
    X, y, _ = data(1)
    Y = np.eye(3)[y]
    for l1 in (0.5, 2.0, 100.0):
        found = sr.fit(X, y, num_classes=3, l1=l1, l2=l2).check()
        w = np.asarray(found.params.w)
        z = X @ w + np.asarray(found.params.b)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        g = X.T @ (p - Y) + l2 * w
        np.testing.assert_allclose((p - Y).sum(axis=0), 0, atol=1e-11)
        np.testing.assert_allclose(g[w != 0], -l1 * np.sign(w[w != 0]), rtol=1e-9)
        assert (np.abs(g[w == 0]) <= l1 * (1 + 1e-9)).all()
        assert ((w == 0).all()) == (l1 == 100.0)
        np.testing.assert_allclose(np.sum(found.params.b), 0, atol=1e-14)


@pytest.mark.parametrize("options", [{"l2": 0.3}, pytest.param({"l2": 0.3, "l1": 0.5}, marks=pytest.mark.slow)])
def test_derivatives_against_differences_of_the_fit(options):
    X, y, rng = data(2)
    Y = rng.dirichlet(np.ones(3), size=len(y))

    def value(X, Y, s, l2):
        params = sr.fit(X, Y, weights=s, **{**options, "l2": l2}).params
        return jnp.sum(jnp.sin(params.w)) + jnp.sum(params.b**2 * jnp.arange(3.0))

    value = jax.jit(value)
    arguments = [jnp.asarray(v) for v in (X, Y, rng.random(len(y)) + 0.5, 0.3)]
    gradients = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(*arguments)
    for i, (a, g) in enumerate(zip(arguments, gradients, strict=True)):
        d = rng.normal(size=a.shape) * 0.1
        if i == 1:
            d = (d - d.mean(axis=1, keepdims=True)) * np.asarray(Y).min(axis=1, keepdims=True)
        ends = [value(*[v + t * d if j == i else v for j, v in enumerate(arguments)]) for t in (1e-4, -1e-4)]
        np.testing.assert_allclose(jnp.sum(g * d), (ends[0] - ends[1]) / 2e-4, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", [pytest.param("Auto", marks=pytest.mark.slow), "Explicit"])
def test_rows_on_a_mesh_give_the_same_fit(kind):
    rng = np.random.default_rng(0)
    X, y, _ = data(1, n=32)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    weights = rng.random(32)
    rows = [jax.device_put(v, jax.NamedSharding(mesh, jax.P("rows", *[None] * (v.ndim - 1)))) for v in (X, y, weights)]
    here = sr.fit(X, y, num_classes=3, l2=0.3, weights=weights)
    there = sr.fit(rows[0], rows[1], num_classes=3, l2=0.3, weights=rows[2])
    np.testing.assert_allclose(there.params.w, here.params.w, rtol=1e-12)
    np.testing.assert_allclose(there.params.b, here.params.b, rtol=1e-12)
    for f in (sr.gradient, sr.loss):
        for a, b in zip(jax.tree.leaves(f(here.params, X, y)), jax.tree.leaves(f(here.params, *rows[:2])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda X, y: sr.fit(X, y - 1), ValueError, "classes in 0"),
        (lambda X, y: sr.fit(X, y, num_classes=2), ValueError, "classes in 0"),
        (lambda X, y: sr.fit(X, y.astype(float)), TypeError, "integers"),
        (lambda X, y: sr.fit(X, np.eye(3)[y] * 2), ValueError, r"\[0, 1\]"),
        (lambda X, y: sr.fit(X, np.eye(3)[y], num_classes=4), ValueError, "num_classes"),
        (lambda X, y: sr.fit(X, (y > 0)[:, None]), ValueError, "two classes"),
        (lambda X, y: sr.fit(X, y.astype(str)), TypeError, "real numbers"),
        (lambda X, y: sr.fit(X, y, weights=np.zeros(len(y))), ValueError, "all be 0"),
        (lambda X, y: sr.fit(np.where(X[1, 1] == X, np.inf, X), y), ValueError, "X must be finite"),
        (lambda X, y: jax.jit(lambda y: sr.fit(X, y))(y), ValueError, "num_classes"),
        (lambda X, y: sr.gradient(Linear(np.ones((2, 3)), np.ones(3)), X, y, reduction="none"), ValueError, "reduct"),
    ],
)
def test_refusals(call, error, message):
    X, y, _ = data(4)
    with pytest.raises(error, match=message):
        call(X, y)


def test_inside_a_trace_bad_labels_give_nan_and_a_status():
    X, y, _ = data(1)
    found = jax.jit(lambda X, y: sr.fit(X, y, num_classes=3, l2=0.3))(X, np.where(y == 1, 7, y))
    assert found.status is Status.non_finite
    assert np.isnan(found.params.w).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iris", "wine"])
def test_real_data_have_the_digits_of_the_optimum(name):
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    found = sr.fit(X, y, l2=1.0).check()
    w, b, _ = optimum(X, np.eye(3)[y], 1.0, digits=32)
    np.testing.assert_allclose(found.params.w, w, rtol=10**-11.5)
    np.testing.assert_allclose(found.params.b, b, rtol=10**-11.5)
    assert sr.fit(X, y).status is Status.separable


def test_the_subspace_method_finds_the_same_optimum():
    X, y, _ = data(1)
    whole = sr.fit(X, y, num_classes=3, l2=0.3)
    few = sr.fit(X, y, num_classes=3, l2=0.3, method="subspace").check()
    np.testing.assert_allclose(few.params.w, whole.params.w, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(few.params.b, whole.params.b, rtol=1e-11, atol=1e-13)
    assert few.certificate.suboptimality < 1e-9
    by = [
        jax.grad(lambda l2, m=m: jnp.sum(sr.fit(X, y, num_classes=3, l2=l2, method=m).params.w ** 2))(0.3)
        for m in ("newton", "subspace")
    ]
    np.testing.assert_allclose(by[0], by[1], rtol=1e-9)
    with pytest.raises(ValueError, match="l1"):
        sr.fit(X, y, num_classes=3, l1=0.3, method="subspace")


def test_labels_that_are_constants_of_a_program_are_counted():
    X, y = np.arange(6.0)[:, None] % 4, np.array([0, 1, 2, 0, 1, 2])
    fit = jax.jit(lambda l2: sr.fit(X, y, l2=l2))(1.0)
    np.testing.assert_allclose(fit.params.w, sr.fit(X, y, l2=1.0).params.w, atol=1e-9)
