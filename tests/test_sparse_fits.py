"""Concrete logistic regression under l1, in NumPy: the conditions of the minimum, in extended precision.

They are necessary and sufficient, since f is convex: with g = X^T s (p - y) + l2 w, sum s (p - y) = 0,
g_j = -l1 sign(w_j) where w_j is not 0, and abs(g_j) <= l1 where it is.
"""

import jax
import numpy as np
import pytest

from fundl import datasets, newton
from fundl import logistic_regression as lr
from fundl._result import Status
from fundl._types import Linear
from fundl.newton import _passes, _working_set
from test_newton import problems

pytestmark = pytest.mark.large


def concrete(X, y, *, l1, l2=0.0, weights=None, intercept=True, tol=0.0, max_steps=200, start=None):
    """The fit that compiled nothing; fails where it was left to the compiled program."""
    given = newton.prepared(X, y, k=1, weights=weights, intercept=intercept)
    assert given is not None
    found = newton.fit_prepared(given, newton.numbers(l2, l1, tol, max_steps), start)
    assert found is not None
    return found


def residual(X, y, w, b):
    z = np.asarray(X, np.longdouble) @ np.asarray(w, np.longdouble) + np.longdouble(b)
    return 1 / (1 + np.exp(-z)) - y


def breach(found, X, y, *, l1, l2=0.0, weights=None, intercept=True):
    """By how much of l1 the worst condition is broken; that of b by how much of the weights."""
    w, b = np.asarray(found.params.w, np.longdouble), float(found.params.b)
    s = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    X, y, s = X[s > 0], y[s > 0], s[s > 0]
    a = s * residual(X, y, w, b)
    g = a @ np.asarray(X, np.longdouble) + l2 * w
    at_zero = np.maximum(np.abs(g) - l1, 0)
    worst = np.max(np.where(w == 0, at_zero, np.abs(g + l1 * np.sign(w)))) / l1
    return float(max(worst, abs(a.sum()) / s.sum() if intercept else abs(b)))


def value(X, y, params, l1, l2=0.0, s=None):
    w = np.asarray(params.w, np.longdouble)
    z = np.asarray(X, np.longdouble) @ w + np.longdouble(params.b)
    L = np.logaddexp(0, z) - y * z
    return float((L if s is None else s * L).sum() + l2 / 2 * w @ w + l1 * np.abs(w).sum())


def top(X, y, s=None):
    """The smallest l1 with which w = 0, with the intercept."""
    s = np.ones(len(y)) if s is None else s
    return float(np.abs((s * (y - s @ y / s.sum())) @ X).max())


def made(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) + 0.7 * rng.normal(size=(n, 1))
    z = X[:, : min(d, 12)] @ rng.normal(size=min(d, 12)) - 0.5
    return X, (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)


SHAPES = {"few columns": (300, 6), "a working set": (150, 100), "more columns than rows": (60, 250)}
KINDS = ("labels", "soft", "weights", "l2", "no intercept")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_conditions_of_the_minimum(shape, kind):
    X, y = made(*SHAPES[shape])
    rng = np.random.default_rng(1)
    options = {}
    if kind == "soft":
        y = np.clip(y + rng.uniform(-1, 1, len(y)) * 0.4, 0.05, 0.95)
    if kind == "weights":
        options["weights"] = rng.integers(0, 4, len(y)).astype(float)
    if kind == "l2":
        options["l2"] = 0.7
    if kind == "no intercept":
        options["intercept"] = False
    sizes = []
    for share in (0.6, 0.1, 0.01):
        l1 = share * top(X, y, options.get("weights"))
        dirty = np.where((options.get("weights", np.ones(len(y))) == 0)[:, None], np.nan, X)
        found = concrete(dirty, y, l1=l1, **options)
        assert found.status is Status.converged
        assert breach(found, X, y, l1=l1, **options) < 1e-11
        f = value(X, y, found.params, l1, options.get("l2", 0.0), options.get("weights"))
        np.testing.assert_allclose(float(found.certificate.objective), f, rtol=1e-13)
        assert found.certificate.suboptimality <= 1e-11 * f
        sizes.append(np.count_nonzero(found.params.w))
    assert 0 < sizes[0] < sizes[2]


def test_the_same_fit_and_certificate_as_the_compiled_program():
    X, y = made(80, 5)
    for options in ({}, {"l2": 0.5}, {"intercept": False}):
        l1 = 0.1 * top(X, y)
        a, b = concrete(X, y, l1=l1, **options), lr.fit(X, y, l1=l1, method="newton", **options)
        np.testing.assert_allclose(a.params.w, b.params.w, rtol=1e-10)
        np.testing.assert_allclose(a.params.b, b.params.b, rtol=1e-10)
        assert jax.tree.structure(a) == jax.tree.structure(b)
        assert [v.dtype for v in jax.tree.leaves(a)] == [v.dtype for v in jax.tree.leaves(b)]
        assert a.certificate.rank == b.certificate.rank == 5
        assert a.certificate.suboptimality <= 1e-18 * a.certificate.objective  # no more than self-concordance tells
        assert a.certificate.gradient_norm < 1e-12
        assert np.isnan(a.certificate.standard_errors.w).all()
        still = concrete(np.c_[X, np.zeros(80)], y, l1=l1, **options)
        assert still.certificate.suboptimality <= 1e-18 * a.certificate.objective


def test_all_coefficients_are_zero_from_the_penalty_on_that_makes_them():
    X, y = made(50, 120)
    s = np.arange(50) % 3 + 0.5
    for weights in (None, s):
        l1 = top(X, y, weights)
        above, below = (concrete(X, y, l1=share * l1, weights=weights) for share in (1 + 1e-9, 1 - 1e-3))
        assert not np.any(above.params.w)
        share = y.mean() if weights is None else s @ y / s.sum()
        np.testing.assert_allclose(above.params.b, np.log(share / (1 - share)), rtol=1e-13)
        assert np.count_nonzero(below.params.w) == 1
    none = concrete(X, y, l1=1e9, intercept=False)
    assert not np.any(none.params.w)
    np.testing.assert_allclose(none.certificate.objective, 50 * np.log(2), rtol=1e-14)


@pytest.mark.parametrize("l2", [0.0, 1e-3])
def test_duplicated_correlated_and_constant_columns(l2):
    X, y = made(90, 70)
    rng = np.random.default_rng(2)
    near = X[:, :20] + 1e-5 * rng.normal(size=(90, 20))
    wide = np.column_stack([X, X[:, :30], -X[:, 30:50], near, np.full(90, 0.1), np.zeros(90)])
    for share in (0.3, 0.01):
        l1 = share * top(X, y)
        found, alone = concrete(wide, y, l1=l1, l2=l2), concrete(X, y, l1=l1, l2=l2)
        assert breach(found, wide, y, l1=l1, l2=l2) < 1e-9
        assert not np.any(found.params.w[-2:])
        if l2 == 0:  # more columns can do no worse, and better by what the logits move without the noise: |dL/dz| <= 1
            gain = alone.certificate.objective - found.certificate.objective
            noise = (near - X[:, :20]) @ np.asarray(found.params.w)[120:140]
            assert gain <= np.abs(noise).sum() + 1e-13 * alone.certificate.objective
            assert gain <= 1e-3 * alone.certificate.objective
            assert found.certificate.objective <= alone.certificate.objective * (1 + 1e-13)
    doubled = concrete(np.column_stack([X, X]), y, l1=l1, l2=0.0)
    np.testing.assert_allclose(doubled.certificate.objective, concrete(X, y, l1=l1).certificate.objective, rtol=1e-12)


def test_columns_of_other_units_and_far_from_zero():
    X, y = made(100, 80)
    scale = 10.0 ** np.random.default_rng(3).uniform(-3, 3, 80)
    T = X * scale + 100 * scale * (np.arange(80) % 2)
    l1 = 0.02 * top(X, y)
    for part, most in ((1.0, 1e-7), (1e-3, 1e-5)):  # of l1, where columns are 1e5 times as large; then logits of 188
        found = concrete(T, y, l1=part * l1)
        assert found.status is Status.converged
        assert breach(found, T, y, l1=part * l1) < most


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rows_that_are_not_copied(dtype):
    X, y = made(60_000, 80)
    X[:, 3] *= 50
    X, y = X.astype(dtype), y.astype(dtype)
    assert X.size > _passes.LARGE
    l1 = 0.02 * top(X.astype(float), y)
    found = concrete(X, y, l1=l1)
    assert found.params.w.dtype == dtype
    assert 0 < np.count_nonzero(found.params.w) < 80
    # Rounded to float32 the parameters miss the minimum by their rounding.
    assert breach(found, X, y, l1=l1) < (1e-10 if dtype == "float64" else 1e-3)
    f = value(X, y, found.params, l1)
    np.testing.assert_allclose(found.certificate.objective, f, rtol=1e-12 if dtype == "float64" else 1e-6)
    assert found.certificate.suboptimality <= 1e-9 * f


def test_float32_rows_have_the_minimum_of_float64():
    X, y = made(60, 90)
    X = X.astype(np.float32)
    l1 = 0.1 * top(X.astype(float), y)
    narrow, wide = concrete(X, y.astype(np.float32), l1=l1), concrete(X.astype(float), y, l1=l1)
    assert narrow.params.w.dtype == np.float32
    np.testing.assert_allclose(narrow.params.w, wide.params.w, rtol=1e-6)
    gap = value(X, y, narrow.params, l1) - value(X, y, wide.params, l1)
    assert -1e-13 <= gap <= narrow.certificate.suboptimality


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fit_from_the_last_of_a_path_is_the_fit_from_zero(shape):
    X, y = made(*SHAPES[shape])
    before = None
    for share in (0.9, 0.5, 0.2, 0.05, 0.02, 0.05, 0.9):
        l1 = share * top(X, y)
        start = None if before is None else newton.Start(before.params)
        warm, cold = concrete(X, y, l1=l1, start=start), concrete(X, y, l1=l1)
        assert breach(warm, X, y, l1=l1) < 1e-11
        np.testing.assert_allclose(warm.params.w, cold.params.w, rtol=1e-7, atol=1e-9)
        before = warm
    again = concrete(X, y, l1=l1, start=newton.Start(before.params))
    assert again.certificate.steps <= 2 < cold.certificate.steps


def test_a_start_far_away_does_no_harm():
    X, y = made(300, 6)
    l1 = 0.05 * top(X, y)
    rng = np.random.default_rng(6)
    for size in (3.0, 30.0):
        far = Linear(size * rng.normal(size=6), size)
        found = concrete(X, y, l1=l1, start=newton.Start(far))
        assert breach(found, X, y, l1=l1) < 1e-11


def test_a_class_that_the_sample_misses():
    X, _ = made(60_000, 80)
    y = np.zeros(60_000)
    y[1:60_000:6000] = 1
    found = concrete(X, y, l1=0.5 * top(X, y))
    assert breach(found, X, y, l1=0.5 * top(X, y)) < 1e-9
    assert found.certificate.steps < 20


def bounds_hold(lanes, n, d):
    """At loose tolerances, on nasty problems."""
    X, y, s, l2 = problems(lanes, n, d)
    rng, told = np.random.default_rng(3), 0
    for i in range(lanes):
        if i % 4 == 0:
            X[i][:, :2] = X[i][:, 2:3] + 1e-4 * X[i][:, 2:3].std() * rng.normal(size=(n, 2))
        l1 = top(X[i] - X[i].mean(axis=0), y[i], s[i]) * 10.0 ** rng.uniform(-4, 0)
        options = {"l1": l1, "l2": 0.0 if i % 2 else l2[i], "weights": s[i]}
        best = concrete(X[i], y[i], **options)
        f_best = value(X[i], y[i], best.params, l1, options["l2"], s[i])
        assert best.certificate.suboptimality <= 1e-9 * f_best
        for tol in (0.3, 1e-2, 1e-5):
            early = concrete(X[i], y[i], tol=tol, **options)
            f, bound = value(X[i], y[i], early.params, l1, options["l2"], s[i]), float(early.certificate.suboptimality)
            assert f - f_best <= bound + 1e-12 * f, (i, tol)
            assert bound <= tol * f * (1 + 1e-9)
            told += f - f_best > 1e-12 * f
    return told


@pytest.mark.parametrize(("n", "d"), [(24, 4), (30, 80)])
def test_the_bound_holds_wherever_the_steps_end(n, d):
    assert bounds_hold(40, n, d) > 40


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(24, 4), (40, 12), (30, 80), (100, 200)])
def test_the_bound_holds_on_many_problems(n, d):
    assert bounds_hold(400, n, d) > 400


def test_a_model_has_few_columns_and_all_that_are_not_zero():
    X, y = made(40, 2000)
    rows = _passes.Rows(np.c_[X, np.ones(40)], 1 - 2 * y, None, 1, False, True, None)
    rng = np.random.default_rng(4)
    a, slope = np.zeros(2001), rng.normal(size=2001)
    a[rng.permutation(2000)[:90]] = 1.0
    W = _working_set.columns(rows, slope, a, np.r_[np.full(2000, 0.1), 0.0])
    assert len(W) == 181
    assert np.isin(np.flatnonzero(a), W).all()
    assert W[-1] == 2000
    taken = np.isin(np.arange(2000), W)
    assert np.abs(slope[:2000])[taken & (a[:2000] == 0)].min() >= np.abs(slope[:2000])[~taken].max()


def test_the_minimum_of_a_model_is_that_of_coordinate_descent():
    rng = np.random.default_rng(5)
    for n, d in ((40, 8), (200, 30)):
        A = rng.normal(size=(n, d)) + rng.normal(size=(n, 1))
        H, g, a = A.T @ A, 20 * rng.normal(size=d), rng.normal(size=d) * (rng.random(d) < 0.5)
        c = np.r_[rng.uniform(1, 20, d - 1), 0.0]
        u, slope = a.copy(), g.copy()
        for _ in range(5000):
            for j in range(d):
                to = u[j] - slope[j] / H[j, j]
                new = np.sign(to) * max(abs(to) - c[j] / H[j, j], 0)
                slope, u[j] = slope + (new - u[j]) * H[j], new
        np.testing.assert_allclose(_working_set.model_minimum(H, g, a, c, 40), u, rtol=1e-9, atol=1e-12)
        assert 1 < np.count_nonzero(u) < d


@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_goes_on_where_the_value_still_falls_and_keeps_zeros_and_signs(weighted):
    X, y = made(400, 12, seed=8)
    rng, longer = np.random.default_rng(9), 0
    s = rng.random(400) if weighted else None
    Z = np.c_[X / X.std(axis=0), np.ones(400)]
    rows = _passes.Rows(Z, 1 - 2.0 * y, s, 1, False, True, None)
    K, c = np.r_[np.full(12, 0.3), 0.0], np.r_[np.full(12, 2.0), 0.0]
    for size in (1e-4, 1e-3, 4e-3):
        start = np.zeros((13, 1))
        start[::3] = rng.normal(size=(5, 1)) / 20
        g = _passes.at(rows, start).g
        v = -size * np.sign(g) * np.maximum(np.abs(g) - c[:, None], 0)
        v[::3] = -start[::3]  # columns that come to 0
        now = _passes.at(rows, start + v)

        def after(u, start=start):
            return _working_set.value(_passes.at(rows, start + u), K, c, start + u)

        more = _working_set.further(rows, K, c, start + v, v, now)
        if more is not None:
            end, longer = start + more, longer + 1
            assert np.all(end[::3] == 0)
            assert np.all(end * (start + v) >= 0)
            assert after(more) < after(v)
            assert after(more) < after(more - 0.01 * (more - v))  # not beyond the lowest point
    assert longer >= 2


def test_few_steps_lead_to_the_optimum_of_breast_cancer():
    data = datasets.breast_cancer()
    X, y = np.asarray(data.X, float), np.asarray(data.y, float)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    found = concrete(X, y, l1=0.01 * top(X, y), tol=1e-6)
    assert breach(found, X, y, l1=0.01 * top(X, y)) < 0.01
    assert int(found.certificate.steps) <= 7  # 9 with steps that are not lengthened
