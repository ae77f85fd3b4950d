"""Ridge paths, influence and intervals against brute force: every example left out and every penalty fitted alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fundl import least_squares as ls
from fundl import linear_regression as lr
from fundl import sweep
from fundl.least_squares._student import quantile

pytestmark = pytest.mark.large

L2 = np.array([0.0, 0.3, 2.0])


def data(k=None, weighted=False, n=12):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3)) + np.array([5.0, 0.0, -1.0])
    y = rng.normal(size=n if k is None else (n, k))
    return X, y, rng.integers(1, 4, size=n).astype(float) if weighted else None


def without(X, y, s, i, l2, intercept):
    """The residual of example i in the fit of the others."""
    keep = np.arange(len(X)) != i
    p = lr.fit(X[keep], y[keep], l2=l2, weights=None if s is None else s[keep], intercept=intercept).params
    return y[i] - np.asarray(X[i] @ p.w + p.b)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("k", "weighted"), [(None, False), (2, True)])
def test_each_penalty_is_the_fit_and_each_example_is_left_out(intercept, k, weighted):
    X, y, s = data(k, weighted)
    path = lr.ridge_path(X, y, L2, weights=s, intercept=intercept)
    weight = np.ones(len(X)) if s is None else s
    for j, l2 in enumerate(L2):
        found = lr.fit(X, y, l2=l2, weights=s, intercept=intercept)
        np.testing.assert_allclose(path.params.w[j], found.params.w, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(path.params.b[j], found.params.b, rtol=1e-12, atol=1e-14)
        alone = np.stack([without(X, y, s, i, l2, intercept) for i in range(len(X))])
        np.testing.assert_allclose(path.leave_one_out[j], np.average(alone**2, axis=0, weights=weight), rtol=1e-12)
        effect = lr.influence(X, y, l2=l2, weights=s, intercept=intercept)
        np.testing.assert_allclose(effect.leave_one_out, alone, rtol=1e-11)
        p = path.degrees_of_freedom[j]
        np.testing.assert_allclose(effect.leverage.sum(), p, rtol=1e-13)
        rss = np.sum((weight * np.asarray(effect.residuals).T ** 2).T, axis=0)
        np.testing.assert_allclose(path.generalised[j], weight.sum() * rss / (weight.sum() - p) ** 2, rtol=1e-12)
        np.testing.assert_allclose(rss / (weight.sum() - p), found.certificate.residual_deviation**2, rtol=1e-12)
    assert path.best == np.argmin(np.sum(np.asarray(path.leave_one_out).reshape(3, -1), axis=1))


@pytest.mark.parametrize("intercept", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_influence_is_the_derivative_of_the_fit_and_cooks_distance_that_of_the_predictions(intercept):
    X, y, _ = data()
    s, l2 = np.ones(12), 0.3
    effect = lr.influence(X, y, l2=l2, intercept=intercept)
    d = jax.jacfwd(lambda s: lr.fit(jnp.asarray(X), jnp.asarray(y), l2=l2, weights=s, intercept=intercept).params)(s)
    np.testing.assert_allclose(effect.d_params.w, np.moveaxis(np.asarray(d.w), -1, 0), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(effect.d_params.b, d.b, rtol=1e-10, atol=1e-13)
    # Cook's definition for ordinary least squares: how far all predictions move when i is left out
    effect, found = (f(X, y, intercept=intercept) for f in (lr.influence, lr.fit))
    for i in range(12):
        keep = np.arange(12) != i
        other = lr.fit(X[keep], y[keep], intercept=intercept).params
        moved = np.asarray(lr.predict(found.params, X) - lr.predict(other, X))
        expected = moved @ moved / ((3 + intercept) * found.certificate.residual_deviation**2)
        np.testing.assert_allclose(effect.cooks_distance[i], expected, rtol=1e-11)


@pytest.mark.parametrize("intercept", [True, False])
def test_interval_is_the_textbooks(intercept):
    X, y, _ = data()
    new = data()[0][:4] + 1
    A, B = ((np.column_stack([v, np.ones(len(v))]) if intercept else v) for v in (X, new))
    theta = np.linalg.lstsq(A, y)[0]
    r = y - A @ theta
    freedom = len(y) - A.shape[1]
    t = stats.t.ppf(0.975, freedom)
    spread = np.einsum("qi,ij,qj->q", B, np.linalg.inv(A.T @ A), B)
    for of_mean in (False, True):
        found = lr.interval(X, y, new, of_mean=of_mean, intercept=intercept)
        half = t * np.sqrt(r @ r / freedom * (spread + (not of_mean)))
        np.testing.assert_allclose(found.y_hat, B @ theta, rtol=1e-12)
        np.testing.assert_allclose(found.low, B @ theta - half, rtol=1e-11)
        np.testing.assert_allclose(found.high, B @ theta + half, rtol=1e-11)


def test_new_targets_fall_inside_their_interval():
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(300):
        X, y = rng.normal(size=(8, 2)), rng.normal(size=8)
        found = ls.interval(X, y, rng.normal(size=(4, 2)), level=0.8)
        fresh = rng.normal(size=4)
        inside.append((found.low < fresh) & (fresh < found.high))
    assert abs(np.mean(inside) - 0.8) < 0.04


def test_the_same_in_a_trace_with_derivatives():
    X, y, s = data(2, True)
    X32 = X.astype(np.float32)
    for f, given in (
        (lambda X, y, s: lr.ridge_path(X, y, jnp.asarray(L2, X.dtype), weights=s), (X, y, s)),
        (lambda X, y, s: lr.influence(X, y, l2=0.3, weights=s), (X, y, s)),
        (lambda X, y, s: lr.interval(X, y, X[:2] + 1, l2=0.3, weights=s), (X, y, s)),
    ):
        for a, b in zip(jax.tree.leaves(jax.jit(f)(*given)), jax.tree.leaves(f(*given)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)

    def error(X, l2):
        return lr.ridge_path(X, y[:, 0], l2).leave_one_out.sum()

    direction, h = np.random.default_rng(2).normal(size=X.shape), 1e-6
    slope = jax.jvp(error, (jnp.asarray(X), jnp.asarray(L2[1:])), (jnp.asarray(direction), jnp.zeros(2)))[1]
    np.testing.assert_allclose(
        slope, (error(X + h * direction, L2[1:]) - error(X - h * direction, L2[1:])) / (2 * h), rtol=1e-7
    )
    # Equal singular values
    square = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    assert np.isfinite(jax.grad(lambda X: lr.ridge_path(X, jnp.arange(6.0), L2[1:]).leave_one_out.sum())(square)).all()
    found = lr.ridge_path(X32, y.astype(np.float32), L2.astype(np.float32))
    assert found.params.w.dtype == found.leave_one_out.dtype == np.float32
    np.testing.assert_allclose(found.params.w, lr.ridge_path(X32.astype(float), y, L2).params.w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("intercept", "jit"), [(True, False), (False, True)])
def test_an_example_of_weight_0_has_an_influence(intercept, jit):
    """It moves nothing; its residual, the derivative in its weight, and the fit without it are as of any other."""
    X, y, s = data(weighted=True)
    s = np.where(np.arange(len(s)) == 4, 0.0, s)
    X[7], s[7] = np.nan, 0.0
    influence = functools.partial(lr.influence, l2=0.3, intercept=intercept)
    found = (jax.jit(influence) if jit else influence)(X, y, weights=s)
    fit, h = functools.partial(lr.fit, X, y, l2=0.3, intercept=intercept), 1e-6
    p, q = fit(weights=s).params, fit(weights=s + h * (np.arange(len(s)) == 4)).params
    np.testing.assert_allclose(found.d_params.w[4], (q.w - p.w) / h, rtol=1e-5)
    np.testing.assert_allclose(found.d_params.b[4], (q.b - p.b) / h, rtol=1e-5)
    left = y[4] - lr.predict(p, X[4:5])[0]
    np.testing.assert_allclose([found.residuals[4], found.leave_one_out[4]], left, rtol=1e-11)
    assert found.leverage[4] == found.leverage[7] == found.cooks_distance[4] == 0
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(found))


@pytest.mark.parametrize("l2", [0.0, 1e-30, 1e-8])
def test_a_trace_says_nan_where_a_penalty_leaves_no_digits(l2):
    """Square data of float32: Cholesky's factor of a singular matrix may exist by rounding alone."""
    given = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((5, 5 + seed % 2)).astype(np.float32)
        y = rng.standard_normal(5).astype(np.float32)
        w = jax.jit(lr.ridge_path)(X, y, np.float32([l2])).params.w
        expected = lr.ridge_path(X, y, np.float32([l2])).params.w
        if not np.isnan(w).all():
            given += 1
            np.testing.assert_allclose(w, expected, atol=0.1 * np.abs(expected).max())
    assert given < 20


def test_a_trace_gives_what_has_its_digits():
    """Sixty columns, condition 300 in float32: right to a third of the digits, so no NaN. A large row of weight 0."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((n, 60)))[0] for n in (300, 60))
    X = ((U * np.geomspace(1, 300, 60)) @ V.T).astype(np.float32)
    y = rng.standard_normal(300).astype(np.float32)
    w = jax.jit(lr.ridge_path)(X, y, np.float32([0.0])).params.w
    np.testing.assert_allclose(w[0], lr.fit(X, y).params.w, atol=5e-3 * float(jnp.abs(w).max()))
    X, y, s = np.float32([[0], [1], [2], [3]]), np.float32([1, 3, 5, 1e15]), np.float32([1, 1, 1, 0])
    for influence in (lr.influence, jax.jit(lr.influence)):
        np.testing.assert_allclose(influence(X, y, weights=s).residuals, [0, 0, 0, 1e15], atol=1e-5, rtol=1e-6)


def test_ill_conditioned_and_dependent_columns():
    X, y, _ = data()
    close = np.column_stack([X, X[:, 0] + 1e-6 * X[:, 1] ** 2])
    path = lr.ridge_path(close, y, np.array([0.0, 1e-20]))
    expected = lr.fit(close, y).params.w
    np.testing.assert_allclose(path.params.w[0], expected, rtol=1e-8)
    twice = np.column_stack([X, X[:, 0]])
    path, effect = lr.ridge_path(twice, y, np.array([0.0])), lr.influence(twice, y)
    np.testing.assert_allclose(path.params.w[0], lr.fit(twice, y).params.w, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(effect.leverage, lr.influence(X, y).leverage, rtol=1e-10)
    np.testing.assert_allclose(path.leave_one_out[0], np.mean(lr.influence(X, y).leave_one_out ** 2), rtol=1e-10)
    assert np.isnan(jax.jit(lr.influence)(twice, y).leverage).all()
    # An example that decides its own prediction has no residual without it; few rows, many columns.
    alone = np.column_stack([X, np.arange(12) == 0])
    assert np.isnan(lr.influence(alone, y).leave_one_out[0])
    assert np.isnan(lr.ridge_path(alone, y, np.zeros(1)).leave_one_out).all()
    wide = lr.ridge_path(X[:3], y[:3], L2[1:])
    np.testing.assert_allclose(wide.params.w[0], lr.fit(X[:3], y[:3], l2=0.3).params.w, rtol=1e-12)


def test_a_path_of_columns_of_very_different_size():
    """One 1e16 times as large as another: its rounding is larger than the other's whole variance."""
    X, y, s = data(weighted=True)
    size = 10.0 ** np.array([-8, 8, 0])[: X.shape[1]]
    l2 = np.array([0.0, 1e-16, 1.0])
    for Y, weights, intercept in ((y, None, True), (np.stack([y, y**2], 1), s, True), (y, s, False)):
        path = lr.ridge_path(X * size, Y, l2, weights=weights, intercept=intercept)
        for i, penalty in enumerate(l2):
            one = lr.fit(X * size, Y, l2=penalty, weights=weights, intercept=intercept)
            np.testing.assert_allclose(path.params.w[i], one.params.w, rtol=1e-8)
        plain = lr.ridge_path(X, Y, l2[:1], weights=weights, intercept=intercept)  # without penalty sizes do not matter
        for name in ("degrees_of_freedom", "leave_one_out", "generalised"):
            np.testing.assert_allclose(getattr(path, name)[0], getattr(plain, name)[0], rtol=1e-9)
    T, plain = X * size, lr.ridge_path(X, y, l2[:1])
    for more in (np.full(12, 7.1), X[:, 2], T[:, 0]):  # constant; depends on another column
        path, one = lr.ridge_path(np.column_stack([T, more]), y, l2), lr.fit(np.column_stack([T, more]), y)
        np.testing.assert_allclose(path.params.w[0], one.params.w, rtol=1e-8, atol=1e-12)
        for name in ("degrees_of_freedom", "leave_one_out", "generalised"):
            np.testing.assert_allclose(getattr(path, name)[0], getattr(plain, name)[0], rtol=1e-9)
    alone = np.column_stack([X * size, 1e9 * (np.arange(12) == 0)])
    assert np.isnan(lr.ridge_path(alone, y, np.zeros(1)).leave_one_out).all()


def test_many_rows_in_blocks_and_threads():
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(70_000, 8)) + 3, rng.normal(size=70_000)
    s = rng.integers(0, 3, size=70_000).astype(float)
    X[s == 0] = np.nan
    path = lr.ridge_path(X, y, L2, weights=s)
    keep = s > 0
    effect = ls.influence(X[keep], y[keep], l2=2.0, weights=s[keep])
    np.testing.assert_allclose(path.leave_one_out[2], np.average(effect.leave_one_out**2, weights=s[keep]), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda X, y: lr.ridge_path(X, y, 1.0), ValueError, "l2 must have shape"),
        (lambda X, y: lr.ridge_path(X, y, [1.0, -1.0]), ValueError, "negative"),
        (lambda X, y: lr.ridge_path(X, y, []), ValueError, "empty"),
        (lambda X, y: lr.interval(X, y, X[:, :2]), ValueError, "3 columns"),
        (lambda X, y: lr.interval(X, y, X, level=95), ValueError, "level"),
        (lambda X, y: lr.interval(X, y, X, level="0.95"), ValueError, "level must be one number"),
        (lambda X, y: lr.interval(X, y, X, of_mean="no"), TypeError, "of_mean must be True or False"),
        (lambda X, y: lr.influence(X, np.where(y == y[0], np.nan, y)), ValueError, "finite"),
    ],
)
def test_refusals(call, error, message):
    X, y, _ = data()
    with pytest.raises(error, match=message):
        call(X, y)


def test_what_rounding_leaves_of_the_degrees_of_freedom_is_no_divisor():
    X, y = np.array([[1e4, 1.0], [3e3, 2e4]]), np.array([1.0, 1.5])
    found = lr.ridge_path(X, y, [1e-8, 1e8], intercept=False)
    penalty = X.T @ X + 1e8 * np.eye(2)
    rest = np.eye(2) - X @ np.linalg.solve(penalty, X.T)
    np.testing.assert_allclose(found.generalised[1], 2 * np.sum((rest @ y) ** 2) / np.trace(rest) ** 2, rtol=1e-10)
    assert np.isnan(found.generalised[0])
    traced = jax.jit(lambda l2: lr.ridge_path(X, y, l2, intercept=False).generalised)(jnp.asarray([1e-8, 1e8]))
    np.testing.assert_allclose(traced, found.generalised, rtol=1e-9)


@pytest.mark.parametrize("constant", [1e5 / 3, -1e15 / 3, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_column_that_does_not_vary_changes_no_path(constant, weighted):
    """The rounding of its mean was taken for a direction of the data."""
    rng = np.random.default_rng(0)
    x, y, l2 = rng.normal(size=12), rng.normal(size=12), np.array([0.0, 1e-30, 1e-3, 1.0])
    X, s = np.stack([np.full(12, constant), x], 1), None
    if weighted:
        s = rng.uniform(size=12)
        s[3], X[3, 0] = 0, 7.0
    right = lr.ridge_path(x[:, None], y, l2, weights=s)
    traced = jax.jit(lambda X: lr.ridge_path(X, y, jnp.asarray(l2), weights=s))(X)
    for path in (lr.ridge_path(X, y, l2, weights=s), traced):
        for name in ("degrees_of_freedom", "leave_one_out", "generalised"):
            np.testing.assert_allclose(getattr(path, name), getattr(right, name), rtol=1e-10)
        np.testing.assert_allclose(path.params.b, right.params.b, rtol=1e-10)
    effect = jax.jit(lambda X: lr.influence(X, y, weights=s))(X)
    alone = lr.influence(x[:, None], y, weights=s)
    assert np.all(lr.influence(X, y, weights=s).d_params.w[:, 0] == 0)
    np.testing.assert_allclose(effect.leave_one_out, alone.leave_one_out, rtol=1e-9)
    np.testing.assert_allclose(effect.d_params.w[:, 1:], alone.d_params.w, rtol=1e-9, atol=1e-14)
    assert np.all(effect.d_params.w[:, 0] == 0)
    swept = sweep.linear(X, y, l2=l2, weights=s, leave_one_out=True).scores
    assert swept is not None
    np.testing.assert_allclose(swept.loss[:, 0, 0], right.leave_one_out, rtol=1e-10)


def test_a_path_over_columns_that_say_nothing():
    y = np.arange(6.0)
    found = lr.ridge_path(np.ones((6, 2)), y, np.array([0.0, 1.0]))
    np.testing.assert_array_equal(found.params.w, 0)
    np.testing.assert_allclose(found.params.b, 2.5)
    left_out = [y[i] - np.delete(y, i).mean() for i in range(6)]
    np.testing.assert_allclose(found.leave_one_out, np.mean(np.square(left_out)))


@pytest.mark.parametrize("wide", [False, True])
def test_quantiles_of_t_for_few_and_many_degrees_of_freedom(wide):
    """In float32 too, where the incomplete beta function has no digits left of many."""
    with jax.enable_x64(wide):
        for level in (0.5, 0.9, 0.95, 0.999):
            for freedom in (0.3, 1.0, 5.0, 29.0, 31.0, 999.0, 1001.0, 1e5, 1e7, 3e9):
                found = quantile(level, jnp.asarray(freedom))
                np.testing.assert_allclose(found, stats.t.isf((1 - level) / 2, freedom), rtol=1e-11 if wide else 1e-5)
        assert np.isinf(quantile(0.9999, jnp.asarray(0.01)))
        assert np.isnan(quantile(0.9, jnp.asarray(np.nan)))


@pytest.mark.parametrize("kind", ["twice", "a million times", "fewer rows"])
def test_intervals_and_influence_of_dependent_columns_are_those_of_the_shortest_solution(kind):
    y, x = np.array([1.0, 2, 2.5, 4, 7]), np.array([0.0, 1, 2, 3, 5])
    X = np.stack([x, (2 if kind == "twice" else 1e6) * x], axis=1)
    for intercept in (True, False):
        if kind == "fewer rows":
            X = np.random.default_rng(1).normal(size=(5, 7)) * np.array([1, 10, 100, 1, 1, 0.1, 1])
        new, options = np.eye(4, X.shape[1]), {"intercept": intercept}
        fit = lr.fit(X, y, **options)
        np.testing.assert_allclose(
            lr.interval(X, y, new, **options).y_hat, lr.predict(fit.params, new), rtol=1e-11, atol=1e-13
        )
        by_autodiff = jax.jacobian(lambda s, X=X, o=options: lr.fit(X, y, weights=s, **o).params)(jnp.ones(5))
        found = lr.influence(X, y, **options).d_params
        np.testing.assert_allclose(found.w, by_autodiff.w.T, rtol=1e-9, atol=1e-12 * max(1e-2, np.abs(found.w).max()))
        np.testing.assert_allclose(found.b, by_autodiff.b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["rounded to float32", "wide", "large means"])
def test_the_rank_is_that_of_the_fit(kind):
    """Columns that depend but for the rounding of the data, or of their means, gave numbers by that rounding alone."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2)).astype(np.float32)
    X = np.column_stack([X, np.float32(0.1) * X[:, 0] + np.float32(0.2) * X[:, 1]])
    if kind == "wide":
        X = (rng.normal(size=(20, 3)) @ rng.normal(size=(3, 30))).astype(np.float32)
    if kind == "large means":
        X = rng.integers(-9, 10, size=(50, 3)) + np.array([100_003.0, 70_001.0, 0.0])
        X[:, 2] = X[:, 0] + X[:, 1]
    y = (X[:, 0] - X[:, 0].mean() + rng.normal(size=len(X))).astype(X.dtype)
    fit = lr.fit(X, y)
    assert int(fit.certificate.rank) < X.shape[1]
    eps = np.finfo(X.dtype).eps
    tol = {"rtol": 0, "atol": 8 * eps * np.abs(fit.params.w).max()}
    new = X[:3] + rng.normal(size=(3, X.shape[1])).astype(X.dtype)
    terms = np.abs(new) @ np.abs(fit.params.w) + np.abs(fit.params.b)
    np.testing.assert_array_less(np.abs(lr.interval(X, y, new).y_hat - lr.predict(fit.params, new)), 8 * eps * terms)
    np.testing.assert_allclose(lr.influence(X, y).leverage.sum(), fit.certificate.rank + 1, rtol=8 * eps)
    path = lr.ridge_path(X, y, np.array([0.0, 1e-16, 1.0], X.dtype))
    for w in path.params.w[:2]:
        np.testing.assert_allclose(w, fit.params.w, **tol)
    np.testing.assert_allclose(path.params.w[2], lr.fit(X, y, l2=1.0).params.w, **tol)


def test_under_a_penalty_the_interval_of_the_mean_keeps_its_width_and_a_negative_one_gives_nan():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)).astype(np.float32) * np.float32([1, 1e-4]), rng.normal(size=40).astype(np.float32)
    new, A = np.float32([[0, 1e-4], [1, 0]]), X.astype(float)

    @jax.jit
    def traced(X, l2):
        options = {"l2": l2, "intercept": False}
        mean = lr.interval(X, y, new, of_mean=True, **options)
        return mean, lr.influence(X, y, **options).leverage, lr.ridge_path(X, y, l2[None], intercept=False).params.w

    for l2 in (1.0, 100.0, 1e8):
        K = np.linalg.inv(A.T @ A + l2 * np.eye(2))
        freedom = 40 - np.trace(K @ A.T @ A)
        sigma2 = np.sum((y - A @ (K @ (A.T @ y))) ** 2) / freedom
        half = stats.t.ppf(0.975, freedom) * np.sqrt(sigma2 * np.einsum("qi,ij,qj->q", new, K @ A.T @ A @ K, new))
        concrete = lr.interval(X, y, new, of_mean=True, l2=l2, intercept=False)
        for found in (concrete, traced(X, jnp.float32(l2))[0]):
            np.testing.assert_allclose((found.high - found.low) / 2, half, rtol=1e-5)
    assert all(np.isnan(v).all() for v in jax.tree.leaves(traced(X, jnp.float32(-1.0))))


@pytest.mark.parametrize("intercept", [True, False])
def test_rows_split_over_an_explicit_mesh(intercept):
    X, y, _ = data(n=16)
    s, new = np.arange(16) % 3 + 1.0, X[:5] + 1
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    options = {"intercept": intercept}
    for f in (
        lambda X, y, s: lr.influence(X, y, weights=s, l2=0.3, **options),
        lambda X, y, s: lr.interval(X, y, new, weights=s, l2=0.3, **options),
        lambda X, y, s: lr.ridge_path(X, y, L2, weights=s, **options),
    ):
        found = f(*(jax.device_put(v, split) for v in (X, y, s)))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(f(X, y, s)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
