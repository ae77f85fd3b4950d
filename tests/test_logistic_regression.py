"""Logistic regression against optima found with 40 digits, which import nothing of fundl."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from fundl import logistic_regression as lr
from fundl._result import Status
from fundl._types import Linear

pytestmark = pytest.mark.large


def optimum(X, y, l2=0.0, weights=None, intercept=True, start=None, digits=40):
    """(w, b, f) of the minimum by Newton's method in mpmath, started at float64 values near it if given."""
    mp = mpmath.mp.clone()
    mp.dps = digits
    n, d = X.shape
    A = [[mp.mpf(float(v)) for v in row] + [mp.mpf(1 if intercept else 0)] for row in X]
    t = [mp.mpf(float(v)) for v in y]
    s = [mp.mpf(1 if weights is None else float(weights[i])) for i in range(n)]
    D = d + 1 if intercept else d
    theta = [mp.mpf(0)] * (d + 1) if start is None else [mp.mpf(float(v)) for v in start]
    penalty = [mp.mpf(float(l2))] * d + [mp.mpf(0)]

    def value(theta):
        total = sum(penalty[j] * theta[j] ** 2 for j in range(d)) / 2
        for a, v, m in zip(A, t, s, strict=True):
            z = mp.fdot(a, theta)
            total += m * (mp.log(1 + mp.exp(z)) - v * z)
        return total

    f = value(theta)
    for _ in range(100):
        g, H = mp.matrix(D, 1), mp.matrix(D, D)
        for a, v, m in zip(A, t, s, strict=True):
            p = 1 / (1 + mp.exp(-mp.fdot(a, theta)))
            for i in range(D):
                g[i] += m * (p - v) * a[i]
                for j in range(i + 1):
                    H[i, j] += m * p * (1 - p) * a[i] * a[j]
        for i in range(D):
            g[i] += penalty[i] * theta[i]
            H[i, i] += penalty[i]
            for j in range(i):
                H[j, i] = H[i, j]
        step = mp.lu_solve(H, -g)
        length = mp.mpf(1)
        while True:
            trial = [theta[i] + length * (step[i] if i < D else 0) for i in range(d + 1)]
            new = value(trial)
            if new <= f or length < mp.mpf(10) ** -30:
                break
            length /= 2
        theta, f = trial, new
        if max(abs(v) for v in step) < mp.mpf(10) ** (-digits + 12):
            break
    return np.array([float(v) for v in theta[:d]]), float(theta[d]), f


def data(seed, n=40, d=3, soft=False, scale=1.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    p = 1 / (1 + np.exp(0.4 - scale * X @ rng.normal(size=d)))
    return X, (p if soft else (rng.random(n) < p).astype(float)), rng


def digits_right(found, expected):
    error = np.abs(np.asarray(found, float) - expected) / np.maximum(np.abs(expected), 1e-300)
    return -np.log10(np.maximum(error, 1e-17)).min()


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("kind", ["labels", "soft", "weights"])
def test_fit_has_the_digits_of_the_optimum(l2, intercept, kind):
    X, y, rng = data(1, soft=kind == "soft")
    weights = rng.integers(0, 4, size=len(y)) if kind == "weights" else None
    found = lr.fit(X, y, l2=l2, weights=weights, intercept=intercept).check()
    w, b, f = optimum(X, y, l2, weights, intercept)
    assert digits_right(found.params.w, w) > 12
    np.testing.assert_allclose(found.params.b, b, rtol=1e-12)
    np.testing.assert_allclose(found.certificate.objective, float(f), rtol=1e-13)
    assert found.certificate.suboptimality < 1e-21
    if not intercept:
        assert found.params.b == 0


def test_loss_gradient_and_predictions():
    X, y, rng = data(2)
    params = Linear(jnp.asarray(rng.normal(size=3)), jnp.asarray(0.3))
    weights = rng.integers(0, 3, size=len(y)).astype(float)
    z = X @ np.asarray(params.w) + 0.3
    p = 1 / (1 + np.exp(-z))
    L = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    np.testing.assert_allclose(lr.predict_proba(params, X), p, rtol=1e-14)
    np.testing.assert_array_equal(lr.predict(params, X), z > 0)
    np.testing.assert_allclose(lr.loss(params, X, y), L.mean(), rtol=1e-14)
    np.testing.assert_allclose(lr.loss(params, X, y, weights=weights, reduction="sum"), weights @ L, rtol=1e-14)
    for labels in (y, y.astype(bool), y.astype(int)):
        for reduction in ("mean", "sum"):
            total = weights.sum() if reduction == "mean" else 1
            by_hand = lr.gradient(params, X, labels, weights=weights, reduction=reduction)
            auto = jax.grad(lambda q, r=reduction: lr.loss(q, X, y, weights=weights, reduction=r))(params)
            assert isinstance(by_hand, Linear)
            np.testing.assert_allclose(by_hand.w, X.T @ (weights * (p - y)) / total, rtol=1e-12)
            np.testing.assert_allclose(by_hand.b, weights @ (p - y) / total, rtol=1e-12)
            np.testing.assert_allclose(by_hand.w, auto.w, rtol=1e-12)
            np.testing.assert_allclose(by_hand.b, auto.b, rtol=1e-12)


def test_separable_data_are_named_with_a_direction():
    X = np.array([[0.0], [1.0], [2.0], [3.0]])
    for y in ([0, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]):
        found = lr.fit(X, y)
        assert found.status is Status.separable
        direction = found.certificate.direction
        margin = (X @ np.asarray(direction.w) + float(direction.b)) * (2 * np.array(y) - 1)
        assert (margin >= -1e-12).all()
        assert margin.max() > 0.1
        assert found.certificate.suboptimality == np.inf
    # Quasi-separable: the two rows at 1 tie.
    X = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [2.0, 3.0], [1.0, 2.0], [1.0, 2.0], [1.0, 0.5]])
    y = np.array([0, 0, 1, 1, 0, 1, 1])
    found = lr.fit(X, y)
    assert found.status is Status.separable
    direction = found.certificate.direction
    margin = (X @ np.asarray(direction.w) + float(direction.b)) * (2 * y - 1)
    assert (margin >= -1e-12).all()
    assert margin.max() > 0.1


def test_scale_and_offset_of_the_columns_do_not_matter():
    X, y, _ = data(3)
    w, _, _ = optimum(X, y)
    for scale, shift in (([1e-8, 1.0, 1e8], [0.0, 0.0, 0.0]), ([1.0, 1.0, 1.0], [1e8, 0.0, -1e8])):
        T = X * np.array(scale) + np.array(shift)
        found = lr.fit(T, y).check()
        # The shifted columns are rounded: compare with the fit of what is left of them.
        expected = lr.fit(T - np.array(shift), y).params.w if any(shift) else w / scale
        assert digits_right(found.params.w, np.asarray(expected)) > 11.5
    few = optimum(X * np.array([1e-3, 1.0, 1e3]), y, 0.3)
    found = lr.fit(X * np.array([1e-3, 1.0, 1e3]), y, l2=0.3).check()
    assert digits_right(found.params.w, few[0]) > 11.5
    np.testing.assert_allclose(found.params.b, few[1], rtol=1e-11)


def test_constant_zero_and_duplicate_columns():
    X, y, _ = data(3)
    w, b, _ = optimum(X, y)
    for extra, left in ((np.full(40, 0.1), 0.0), (np.zeros(40), 0.0), (X[:, 0], w[0] / 2)):
        T = np.column_stack([X, extra])
        found = lr.fit(T, y)
        assert found.status is Status.rank_deficient
        assert found.certificate.converged
        assert found.certificate.rank == 3
        np.testing.assert_allclose(found.params.w, [w[0] - left, w[1], w[2], left], rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(found.params.b, b, rtol=1e-11)
        lr.fit(T, y, l2=1e-3).check()
    T = np.column_stack([X[:, 0], X[:, 0]])
    single = optimum(X[:, :1], y, 0.15)  # two equal columns share: their penalty is half of one column's
    np.testing.assert_allclose(lr.fit(T, y, l2=0.3).params.w, [single[0][0] / 2] * 2, rtol=1e-11)


@pytest.mark.parametrize("l2", [0.0, 0.5])
def test_l1_meets_the_conditions_of_the_minimum(l2):
    X, y, _ = data(5, n=60, d=5)
    for l1 in (1.0, 4.0, 1e3):
        found = lr.fit(X, y, l1=l1, l2=l2).check()
        w = np.asarray(found.params.w)
        p = 1 / (1 + np.exp(-X @ w - float(found.params.b)))
        g = X.T @ (p - y) + l2 * w
        assert abs((p - y).sum()) < 1e-12
        np.testing.assert_allclose(g[w != 0], -l1 * np.sign(w[w != 0]), rtol=1e-11)
        assert (np.abs(g[w == 0]) <= l1 * (1 + 1e-12)).all()
        assert ((w == 0).all()) == (l1 == 1e3)
        # On its active set and signs the problem is smooth: its optimum in many digits.
        assert found.certificate.suboptimality < 1e-9 * found.certificate.objective
        wide = lr.fit(np.column_stack([X, X[:, :2]]), y, l1=l1, l2=0.0)
        assert wide.certificate.converged
        if l2 == 0:
            np.testing.assert_allclose(wide.certificate.objective, found.certificate.objective, rtol=1e-9)


def test_weight_zero_removes_a_row_and_integers_repeat_it():
    X, y, rng = data(6)
    weights = rng.integers(0, 4, size=len(y))
    dirty = X.copy()
    dirty[weights == 0] = np.nan
    found = lr.fit(dirty, np.where(weights == 0, np.inf, y), weights=weights, l2=0.1)
    copies = lr.fit(np.repeat(X, weights, axis=0), np.repeat(y, weights), l2=0.1)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(copies.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda X, y: lr.fit(X, y + 1), ValueError, r"\[0, 1\]"),
        (lambda X, y: lr.fit(X, -y), ValueError, r"\[0, 1\]"),
        (lambda X, y: lr.fit(X, y[:, None]), ValueError, "reshape"),
        (lambda X, y: lr.fit(X, y[:-1]), ValueError, "first axes"),
        (lambda X, y: lr.fit(X[:, 0], y), ValueError, "X must have shape"),
        (lambda X, y: lr.fit(X[:0], y[:0]), ValueError, "empty"),
        (lambda X, y: lr.fit(X[:, :0], y), ValueError, "empty"),
        (lambda X, y: lr.fit(X + 1j, y), TypeError, "complex"),
        (lambda X, y: lr.fit(X, y.astype(str)), TypeError, "real numbers"),
        (lambda X, y: lr.fit(np.where(X[1, 1] == X, np.nan, X), y), ValueError, "X must be finite"),
        (lambda X, y: lr.fit(X, np.where(y == 1, np.nan, y)), ValueError, "y must be finite"),
        (lambda X, y: lr.fit(X, y, weights=-np.ones(len(X))), ValueError, "weights"),
        (lambda X, y: lr.fit(X, y, weights=np.zeros(len(X))), ValueError, "all be 0"),
        (lambda X, y: lr.fit(X, y, weights=np.ones((len(X), 1))), ValueError, "weights"),
        (lambda X, y: lr.fit(X, y, l2=-1.0), ValueError, "l2"),
        (lambda X, y: lr.fit(X, y, l1=np.nan), ValueError, "l1"),
        (lambda X, y: lr.fit(X, y, l2=np.ones(2)), ValueError, "vmap"),
        (lambda X, y: lr.fit(X, y, method="magic"), ValueError, "method"),
        (lambda X, y: lr.fit(X, y, max_steps=0), ValueError, "max_steps"),
        (lambda X, y: lr.gradient(Linear(np.ones(3), 0.0), X, y, reduction="none"), ValueError, "reduction"),
        (lambda X, y: lr.loss(Linear(np.ones(3), 0.0), X, y[:, None]), ValueError, "shape"),
        (lambda X, y: lr.predict(Linear(np.ones(2), 0.0), X), ValueError, "columns"),
    ],
)
def test_refusals(call, error, message):
    X, y, _ = data(4)
    with pytest.raises(error, match=message):
        call(X, y)


def test_inside_a_trace_bad_values_give_nan_and_a_status():
    X, y, _ = data(1)
    run = jax.jit(lambda X, y: lr.fit(X, y, l2=0.3))
    for bad in (
        (np.where(X[1, 1] == X, np.nan, X), y),
        (X, np.where(y == 1, 2.0, y)),
        (X, np.where(y == 1, np.nan, y)),
    ):
        found = run(*bad)
        assert found.status is Status.non_finite
        assert np.isnan(found.params.w).all()
        assert np.isnan(found.params.b)


def test_derivatives_are_those_of_the_optimum():
    X, y, rng = data(7, n=20, soft=True)
    weights = rng.random(20) + 0.5
    exact = optimum(X, y, 0.3, weights, digits=50)[:2]
    moves = [rng.normal(size=X.shape), rng.normal(size=20) * 0.1, rng.normal(size=20) * 0.3, 0.7]
    h = 1e-5

    def at(t, which):
        args = [X, y, weights, 0.3]
        args[which] = args[which] + t * moves[which]
        w, b, _ = optimum(args[0], args[1], args[3], args[2], digits=40)
        return np.append(w, b)

    fit = jax.jit(lambda X, y, s, l2: lr.fit(X, y, weights=s, l2=l2).params)
    arguments = (X, y, weights, jnp.asarray(0.3))
    np.testing.assert_allclose(fit(*arguments).w, exact[0], rtol=1e-12)
    _, pull = jax.vjp(fit, *arguments)
    rows = [pull(Linear(jnp.eye(3)[i], jnp.zeros(()))) for i in range(3)]
    rows.append(pull(Linear(jnp.zeros(3), jnp.ones(()))))
    for which in range(4):
        difference = (at(h, which) - at(-h, which)) / (2 * h)
        by_vjp = [float(np.sum(np.asarray(row[which]) * moves[which])) for row in rows]
        tangents = [jnp.zeros_like(jnp.asarray(a)) for a in arguments]
        tangents[which] = jnp.asarray(moves[which])
        _, tangent = jax.jvp(fit, tuple(jnp.asarray(a) for a in arguments), tuple(tangents))
        np.testing.assert_allclose(by_vjp, difference, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(np.append(tangent.w, tangent.b), by_vjp, rtol=1e-10, atol=1e-13)
    # The second derivative, against differences of the first.
    slope = jax.jit(jax.grad(lambda l2: jnp.sum(fit(X, y, weights, l2).w ** 2)))
    second = jax.jit(jax.hessian(lambda l2: jnp.sum(fit(X, y, weights, l2).w ** 2)))(jnp.asarray(0.3))
    np.testing.assert_allclose(second, (slope(0.3 + 1e-4) - slope(0.3 - 1e-4)) / 2e-4, rtol=1e-6)


def test_lanes_of_vmap_equal_their_separate_fits():
    X, y, rng = data(1)
    l2 = jnp.array([0.0, 0.3, 100.0])
    Y = np.stack([X[:, 0] > 0, y, rng.random(40) < 0.5]).astype(float)
    lanes = jax.jit(jax.vmap(lambda y, l2: lr.fit(X, y, l2=l2)))(Y, l2)
    assert lanes.status.tolist() == [Status.separable, Status.converged, Status.converged]
    for i in range(3):
        alone = lr.fit(X, Y[i], l2=l2[i], method="newton")
        np.testing.assert_allclose(lanes.params.w[i], alone.params.w, rtol=1e-12)
        assert lanes.certificate.steps[i] == alone.certificate.steps


@pytest.mark.parametrize("kind", [pytest.param("Auto", marks=pytest.mark.slow), "Explicit"])
def test_rows_on_a_mesh_give_the_same_fit(kind):
    X, y, rng = data(1)
    weights = rng.random(40)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    rows = [jax.device_put(v, jax.NamedSharding(mesh, jax.P("rows", *[None] * (v.ndim - 1)))) for v in (X, y, weights)]
    for options in ({"l2": 0.3}, {"l1": 1.0})[: 2 if kind == "Auto" else 1]:
        here = lr.fit(X, y, weights=weights, **options)
        there = lr.fit(rows[0], rows[1], weights=rows[2], **options)
        np.testing.assert_allclose(there.params.w, here.params.w, rtol=1e-12)
        np.testing.assert_allclose(there.params.b, here.params.b, rtol=1e-12)
    params = lr.fit(X, y, l2=0.3).params
    for f in (lr.gradient, lr.loss):
        for a, b in zip(jax.tree.leaves(f(params, X, y)), jax.tree.leaves(f(params, *rows[:2])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_float32_is_near_float64():
    X, y, _ = data(1)
    wide = lr.fit(X, y, l2=0.3)
    narrow = lr.fit(X.astype(np.float32), y.astype(np.float32), l2=0.3).check()
    assert narrow.params.w.dtype == np.float32
    same = lr.fit(X.astype(np.float32).astype(float), y, l2=0.3)
    np.testing.assert_allclose(narrow.params.w, same.params.w, rtol=1e-5)
    np.testing.assert_allclose(narrow.params.w, wide.params.w, rtol=1e-5)


@pytest.mark.slow
def test_breast_cancer_has_the_digits_of_the_optimum():
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = datasets.load_breast_cancer(return_X_y=True)
    assert lr.fit(X, y).status is Status.separable
    for columns, l2 in ((30, 1.0), (30, 1e-3), (6, 0.0)):
        found = lr.fit(X[:, :columns], y, l2=l2).check()
        start = np.append(found.params.w, found.params.b)
        w, b, _ = optimum(X[:, :columns], y.astype(float), l2, start=start, digits=32)
        assert digits_right(found.params.w, w) > 11.5
        assert digits_right(found.params.b, b) > 11.5


def test_a_certificate_counts_directions_that_rounding_hides():
    """Columns that differ in the 9th digit, and no intercept to take the rest: an honest bound, or a better fit."""
    rng = np.random.default_rng(1)
    Z, y = rng.normal(size=(60, 3)), np.arange(60) % 2 * 1.0
    Z[:, 0] += 2 * y
    X, w = 1e8 + Z, np.array([1.0, -0.5, -0.5])
    found = lr.fit(X, y, l2=1.0, intercept=False)
    better = np.sum(np.logaddexp(0, X @ w) - y * (X @ w)) + w @ w / 2
    assert found.certificate.suboptimality >= found.certificate.objective - better
    assert found.status is not Status.converged
