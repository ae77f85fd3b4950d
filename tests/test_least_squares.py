"""Least squares against exact rational solutions, and every mode against every other."""

import json
import math
import pathlib
import tracemalloc
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp

from fundl import least_squares as ls
from fundl import linear_regression as lr
from fundl._precise import inverse_of_lower
from fundl._result import FitError, Status
from fundl.least_squares import _exact, _gram, _plain, _refined, _spectral, _words
from fundl.least_squares._sweep import sweep_columns

STRD = sorted((pathlib.Path(__file__).parent / "strd").glob("*.json"))


def rational(a):
    return np.vectorize(lambda v: Fraction(float(v)), otypes=[object])(np.asarray(a))


def exact_fit(X, y, weights=None, l2=0.0, intercept=True):
    """The rational solution (w, b), residual sum of squares and inverse, by Gauss-Jordan on the normal equations."""
    A, t = rational(X), rational(y)
    n, d = A.shape
    if intercept:
        A = np.concatenate([A, rational(np.ones((n, 1)))], axis=1)
    s = rational(np.ones(n) if weights is None else weights)
    p = A.shape[1]
    G = A.T @ (s[:, None] * A)
    for j in range(d):
        G[j, j] += Fraction(float(l2))
    M = np.concatenate([G, (A.T @ (s * t))[:, None], rational(np.eye(p))], axis=1)
    for j in range(p):
        k = next(i for i in range(j, p) if M[i, j] != 0)
        M[[j, k]] = M[[k, j]]
        M[j] = M[j] / M[j, j]
        for i in range(p):
            if i != j:
                M[i] = M[i] - M[i, j] * M[j]
    beta = M[:, p]
    r = t - A @ beta
    return beta, sum(s * r * r), M[:, p + 1 :]


def exact_errors(X, y, weights=None, l2=0.0, intercept=True):
    """The residual deviation, the root of rss / (sum of weights - trace H), and standard errors, by diag(K G K)."""
    A = rational(np.column_stack([X, np.ones(len(X))]) if intercept else X)
    s = rational(np.ones(len(X)) if weights is None else weights)
    _, rss, K = exact_fit(X, y, weights, l2, intercept)
    KG = K @ (A.T @ (s[:, None] * A))
    variance = rss / (sum(s) - np.trace(KG))
    return math.sqrt(variance), np.array([math.sqrt(v * variance) for v in np.diag(KG @ K)])


def digits(got, expected):
    """Log relative error of the worst entry (absolute where the exact value is 0)."""
    worst = Fraction(0)
    for g, e in zip(np.ravel(got), np.ravel(expected), strict=True):
        if not math.isfinite(g):
            return -math.inf
        error = abs(Fraction(float(g)) - e)
        worst = max(worst, error / abs(e) if e else error)
    return 17.0 if worst == 0 else -math.log10(worst)


def flat(params, intercept=True):
    return np.append(np.asarray(params.w), params.b) if intercept else np.asarray(params.w)


def hard(name):
    """Full-rank data that cost other solvers some or all of their digits."""
    rng = np.random.default_rng(7)
    n, d = 12, 3
    X = rng.normal(size=(n, d))
    noise = rng.normal(size=n)
    weights = None
    if name == "offset 1e8":
        X[:, 0] += 1e8
    elif name == "offset 1e12":
        X[:, 0] += 1e12
    elif name == "timestamps":
        t = np.floor(1.7e9 + 1e5 * rng.random(n))
        X = np.stack([t, t**2, X[:, 0]], axis=1)
    elif name == "scales":
        X = X * np.array([1e-150, 1.0, 1e150])
    elif name == "close columns":
        X[:, 1] = X[:, 0] * (1 + 1e-7 * rng.normal(size=n))
    elif name == "hilbert":
        X = 1.0 / (1 + np.arange(n)[:, None] + np.arange(8))
    elif name == "vandermonde":
        X = np.linspace(0.0, 1.0, n)[:, None] ** np.arange(1, 9)
    elif name == "huge residual":
        noise = 1e9 * noise
    elif name == "weights":
        weights = 10.0 ** rng.integers(-12, 13, size=n)
    y = np.sum(X / np.abs(X).max(axis=0), axis=1) + noise
    return X, y, weights


HARD = [
    "offset 1e8", "offset 1e12", "timestamps", "scales", "close columns", "hilbert", "vandermonde", "huge residual",
    "weights",
]  # fmt: skip


@pytest.mark.parametrize("path", STRD, ids=lambda p: p.stem)
def test_nist_sets_to_the_last_digit(path):
    D = json.loads(path.read_text())
    A = np.array([[float.fromhex(v) for v in row] for row in D["X_hex"]])
    y = np.array([float.fromhex(v) for v in D["y_hex"]])
    beta, sd = ([Fraction(v) for v in D[key]] for key in ("beta_exact", "sd_exact"))
    constant = (A[:, 0] == 1).all()
    for intercept in {False, bool(constant)}:
        found = lr.fit(A[:, 1:] if intercept else A, y, intercept=intercept).check()
        errors = found.certificate.standard_errors
        got = np.append(found.params.b, found.params.w) if intercept else found.params.w
        got_sd = np.append(errors.b, errors.w) if intercept else errors.w
        assert digits(got, beta) >= 14.5
        assert digits(got_sd, sd) >= 14
        assert digits(found.certificate.residual_deviation, [Fraction(D["residual_sd_exact"])]) >= 14
        assert found.certificate.rank == D["p"] - intercept


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("name", HARD)
def test_hard_full_rank_data(name, intercept):
    X, y, weights = hard(name)
    expected, rss, inverse = exact_fit(X, y, weights, intercept=intercept)
    found = lr.fit(X, y, weights=weights, intercept=intercept).check()
    got = flat(found.params, intercept)
    assert digits(got, expected) >= 14.5
    # The bound holds, and the digits that the certificate promises are there.
    bound = flat(found.certificate.error_bound, intercept)
    assert all(abs(Fraction(float(g)) - e) <= Fraction(float(u)) for g, e, u in zip(got, expected, bound, strict=True))
    assert digits(got, expected) >= found.certificate.digits - 1e-9
    assert found.certificate.digits > 14
    A = rational(np.column_stack([X, np.ones(len(y))]) if intercept else X)
    r = rational(y) - A @ rational(got)
    rise = sum(rational(np.ones(len(y)) if weights is None else weights) * r * r) - rss
    assert 0 <= rise <= Fraction(float(found.certificate.suboptimality))
    freedom = (len(y) if weights is None else sum(rational(weights))) - len(expected)
    if freedom > 0:
        np.testing.assert_allclose(found.certificate.residual_deviation, math.sqrt(rss / freedom), rtol=1e-14)
        errors = [math.sqrt(rss / freedom) * math.sqrt(v) for v in np.diag(inverse)]
        np.testing.assert_allclose(flat(found.certificate.standard_errors, intercept), errors, rtol=1e-13)
    np.testing.assert_allclose(found.certificate.objective, float(rss), rtol=1e-13)


@pytest.mark.parametrize("name", ["offset 1e12", "weights", "timestamps", "close columns"])
def test_the_same_under_jit(name):
    X, y, weights = hard(name)
    expected, _, _ = exact_fit(X, y, weights)
    s = np.ones(len(y)) if weights is None else weights
    found = jitted(X, y, s)
    assert digits(flat(found.params), expected) >= 14.5
    assert found.check() is found


@jax.jit
def jitted(X, y, s):
    return lr.fit(X, y, weights=s)


def test_features_with_a_large_mean_in_float32():
    rng = np.random.default_rng(0)
    X = (1e4 + rng.normal(size=(12, 3))).astype(np.float32)
    y = (X.astype(float) @ [1.0, -2.0, 3.0]).astype(np.float32)
    expected, _, _ = exact_fit(X, y)
    s = np.ones(12, np.float32)
    for found in (lr.fit(X, y), jitted(X, y, s)):
        assert found.params.w.dtype == np.float32
        np.testing.assert_allclose(found.params.w, [1, -2, 3], atol=1e-2)  # y itself is rounded
        assert digits(flat(found.params), expected) >= max(6.9, found.certificate.digits - 1e-6)


@pytest.mark.parametrize(
    ("make", "rank"),
    [
        (lambda X: X[:, [0, 1, 0]], 2),
        (lambda X: np.stack([X[:, 0], np.full(len(X), 0.1), X[:, 1]], axis=1), 2),
        (lambda X: np.stack([X[:, 0], np.zeros(len(X)), X[:, 1]], axis=1), 2),
        (lambda X: np.eye(3)[np.arange(len(X)) % 3], 2),
        (lambda X: np.stack([X[:, 0], X[:, 1], X[:, 0] + X[:, 1]], axis=1), 2),
        (lambda X: X[:3], 2),
        (lambda X: X[:1], 0),
        (lambda X: np.stack([X[:, 0], X[:, 0] * 1e3, X[:, 0] * 3e-4], axis=1), 1),
    ],
)
def test_rank_deficiency_gives_the_shortest_solution(make, rank):
    rng = np.random.default_rng(3)
    X = make(rng.normal(size=(12, 3)))
    y = rng.normal(size=len(X))
    found = lr.fit(X, y)
    assert found.status is Status.rank_deficient
    assert found.certificate.rank == rank
    with pytest.raises(FitError, match="linearly dependent"):
        found.check()
    Xc, yc = X - X.mean(axis=0), y - y.mean()
    w = np.linalg.pinv(Xc, rcond=1e-12) @ yc
    np.testing.assert_allclose(found.params.w, w, rtol=1e-11, atol=1e-12 * max(np.abs(w).max(), 1e-30))
    np.testing.assert_allclose(found.params.b, y.mean() - X.mean(axis=0) @ w, rtol=1e-11)
    assert np.isnan(found.certificate.standard_errors.w).all()


def test_ridge_weights_and_targets():
    rng = np.random.default_rng(5)
    X, Y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    weights = rng.integers(0, 4, size=12)
    found = lr.fit(X, Y, weights=weights, l2=0.7).check()
    for k in range(2):
        expected, _, _ = exact_fit(X, Y[:, k], weights, l2=0.7)
        assert digits(np.append(found.params.w[:, k], found.params.b[k]), expected) >= 14.5
    # An integer weight is that many copies, in the certificate too.
    copies = lr.fit(np.repeat(X, weights, axis=0), np.repeat(Y, weights, axis=0), l2=0.7)
    np.testing.assert_allclose(found.params.w, copies.params.w, rtol=1e-15)
    for name in ("rank", "condition", "objective", "residual_deviation"):
        np.testing.assert_allclose(getattr(found.certificate, name), getattr(copies.certificate, name), rtol=1e-12)
    for a, b in zip(found.certificate.standard_errors, copies.certificate.standard_errors, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("method", ["auto", "exact", "spectral"])
def test_standard_errors_under_a_penalty_do_not_cancel(method, monkeypatch):
    """Columns that are nothing beside it, and fewer rows than columns with a small one: residuals and errors of it."""
    if method == "spectral":
        monkeypatch.setattr(_spectral, "costly", lambda d: True)
        monkeypatch.setattr(_plain, "attempt", lambda *given: None)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    wide = rng.normal(size=(6, 8))
    # In float64 the rounding of the means takes digits of a small column, and residuals of the size of l2 cancel.
    for A, l2, lost in (
        (X * [1.0, 1e-4, 1e-9], 1.0, 1.0),
        (X * [1.0, 1e-4, 1e-9] + 1.0, 1e4, 1e4),
        (X * 1e-30, 1.0, 1.0),
        (wide, 1e-2, 1e2),
        (wide, 1e-6, 1e6),
    ):
        rtol = 1e-14 * (lost if method == "spectral" else 1.0)
        for intercept in (True, False):
            found = lr.fit(A, y[: len(A)], l2=l2, intercept=intercept, method="exact" if method == "exact" else "auto")
            deviation, errors = exact_errors(A, y[: len(A)], None, l2, intercept)
            got = flat(found.certificate.standard_errors, intercept)
            np.testing.assert_allclose(got, errors, rtol=rtol)
            np.testing.assert_allclose(found.certificate.residual_deviation, deviation, rtol=rtol)
    # What rounding leaves nothing of is not known.
    near = lr.fit(wide, y[:6], l2=1e-60, method="exact" if method == "exact" else "auto")
    assert np.isnan(near.certificate.residual_deviation)


def test_weight_zero_removes_a_row_of_nan():
    rng = np.random.default_rng(6)
    X, y, weights = rng.normal(size=(12, 3)), rng.normal(size=12), np.ones(12)
    weights[:2] = 0
    expected = lr.fit(X[2:], y[2:])
    X[0], y[1] = np.nan, np.inf
    for found in (lr.fit(X, y, weights=weights), jitted(X, y, weights)):
        np.testing.assert_allclose(flat(found.params), flat(expected.params), rtol=1e-15)
    nothing = lr.fit(X, y, weights=np.zeros(12))
    assert nothing.status is Status.rank_deficient
    np.testing.assert_array_equal(flat(nothing.params), 0)
    traced = jitted(X, y, np.ones(12))
    assert traced.status is Status.non_finite
    assert np.isnan(flat(traced.params)).all()


def test_sliced_products_are_exact():
    rng = np.random.default_rng(8)
    Z = rng.uniform(-0.5, 0.5, size=(40, 3)) * 10.0 ** rng.integers(-12, 1, size=(40, 3))
    s = rng.random(40)
    expected = rational(Z).T @ (rational(s)[:, None] * rational(Z))
    for run in (_gram.words_of, jax.jit(_gram.words_of)):
        args = (Z, np.zeros_like(Z), s) if run is _gram.words_of else [jnp.asarray(v) for v in (Z, np.zeros_like(Z), s)]
        got = sum(rational(v) for v in run(*args))
        assert max(abs(e) for e in np.ravel(got - expected)) < Fraction(1, 2**150)


@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_refinement_gives_what_the_sweeps_give(spread):
    rng = np.random.default_rng(27)
    d, k, D = 6, 2, 7
    X = rng.normal(size=(50, d)) @ np.diag(np.geomspace(1, spread, d)) @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    Y = X @ rng.normal(size=(d, k)) + rng.normal(size=(50, k)) * [1.0, 1e-6]
    Z = np.concatenate([X + 0.1, np.ones((50, 1)), Y], axis=1) / 8
    A = _gram.words_of(Z, np.zeros_like(Z), None)
    found = _refined.swept(A, D, k)
    assert found is not None
    expected = sweep_columns(A, d, True, 1e-15, np.zeros(len(A[0])))[0]
    got, sure = (sum(rational(v) for v in x) for x in (found, expected))
    for rows, columns, bits in ((slice(D), slice(D, None), 100), (slice(D, None), slice(D, None), 90)):
        error = np.max(np.abs(got[rows, columns] - sure[rows, columns]), axis=0)
        assert all(error < np.max(np.abs(sure[rows, columns]), axis=0) * Fraction(1, 2**bits))
    np.testing.assert_allclose(found[0][:D, :D], expected[0][:D, :D], rtol=1e-14, atol=0)
    np.testing.assert_array_equal(found[0], found[0].T)
    # What asks for more bits is left to the sweeps: a coefficient that a penalty makes nothing beside the others,
    A[0][1, 1] += 2.0**200
    assert _refined.swept(A, D, k) is None
    # dependent columns, a column of zeros, targets that are met.
    for a, b in ((X[:, 0] * 2, Y[:, 0]), (X[:, 0] * 0, Y[:, 0]), (X[:, 1], X[:, 0] - 3 * X[:, 2])):
        Z[:, 1], Z[:, D] = a + 0.1 * a.any(), b
        assert _refined.swept(_gram.words_of(Z / 8, np.zeros_like(Z), None), D, k) is None


def nasty(kind, n, d, rng):
    X = rng.normal(size=(n, d))
    kinds = (
        lambda: X,
        lambda: X * 10.0 ** rng.integers(-150, 150, d),
        lambda: X + 10.0 ** rng.integers(0, 13),
        lambda: np.column_stack([X[:, :-1], X[:, 0] + 10.0 ** -rng.integers(1, 9) * X[:, -1]]),
        lambda: np.vander(rng.random(n), d),
        lambda: np.exp(5 * X),
        lambda: rng.integers(0, 2, (n, d)).astype(float),
        lambda: X * (rng.random((n, d)) < 0.2),
    )
    return kinds[kind]()


@pytest.mark.slow
def test_refinement_and_sweeps_agree_on_thousands_of_problems(monkeypatch):
    rng = np.random.default_rng(29)
    refined, used, problems = _refined.swept, [], 2000
    for i in range(problems):
        n, d, k = int(rng.integers(2, 60)), int(rng.integers(1, 9)), int(rng.integers(1, 3))
        X = nasty(i % 8, n, d, rng)
        y = rng.normal(size=(n, k)) * 10.0 ** rng.integers(-12, 4)
        y = y + X @ rng.normal(size=(d, k)) / max(np.abs(X).max(), 1e-300)
        s = 10.0 ** rng.uniform(-6, 6, n) * (rng.random(n) < 0.8) if rng.random() < 0.5 else None
        options = {"intercept": bool(rng.random() < 0.6), "l2": float(rng.choice([0, 0, 1e-8, 1.0, 1e6]))}
        monkeypatch.setattr(_refined, "swept", lambda *given: used.append(refined(*given)) or used[-1])
        found = lr.fit(X, y, weights=s, method="exact", **options)
        monkeypatch.setattr(_refined, "swept", lambda *_: None)
        sure = lr.fit(X, y, weights=s, method="exact", **options)
        for a, b, e, u in zip(
            found.params, sure.params, found.certificate.error_bound, sure.certificate.error_bound, strict=True
        ):
            assert (np.abs(a - b) <= e + u).all()
        assert found.status is sure.status
        assert abs(found.certificate.digits - sure.certificate.digits) < 0.5
        for a, b in zip(found.certificate.standard_errors, sure.certificate.standard_errors, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8)
    assert sum(x is not None for x in used) > problems / 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compiled", [False, True])
def test_words_keep_three_words_of_bits(dtype, compiled):
    if dtype == np.float32 and not compiled:
        pytest.skip("numpy solves float32 data in float64")
    rng = np.random.default_rng(9)
    unit = float(np.finfo(dtype).eps) / 2
    a, b = (tuple((rng.uniform(0.5, 1, 50) * unit**i).astype(dtype) for i in range(3)) for _ in range(2))
    value = lambda v: sum(rational(x) for x in v)  # noqa: E731
    for f, exact in (
        (_words.product, value(a) * value(b)),
        (_words.quotient, value(a) / value(b)),
        (_words.sum_words, value(a) + value(b)),
        (_words.total, value(a).sum()),
    ):
        given = (a,) if f is _words.total else (a, b)
        run = jax.jit(f) if compiled else f
        got = value([np.asarray(v) for v in run(*(jax.tree.map(jnp.asarray, given) if compiled else given))])
        assert np.max(np.abs((got - exact) / exact)) < 64 * unit**3


# Derivatives


def numeric_solution(X, y, s, l2):
    """w and b by numpy on the centred normal equations: the textbook, for finite differences of smooth data."""
    X, y, s = np.asarray(X), np.asarray(y), np.asarray(s)
    m, my = s @ X / s.sum(), s @ y / s.sum()
    Xc = X - m
    w = np.linalg.solve(Xc.T @ (s[:, None] * Xc) + l2 * np.eye(X.shape[1]), Xc.T @ (s * (y - my)))
    return np.append(w, my - m @ w)


def fitted(X, y, s, l2):
    p = lr.fit(X, y, weights=s, l2=l2).params
    return jnp.append(p.w, p.b)


def plain(X, y, s, l2):
    """The same formula for autodiff."""
    m, my = s @ X / s.sum(), s @ y / s.sum()
    Xc = X - m[None, :]
    w = jnp.linalg.solve(Xc.T @ (s[:, None] * Xc) + l2 * jnp.eye(X.shape[1]), Xc.T @ (s * (y - my)))
    return jnp.append(w, my - m @ w)


@pytest.mark.large
def test_derivatives_of_first_and_second_order():
    rng = np.random.default_rng(10)
    args = (rng.normal(size=(7, 2)), rng.normal(size=7), rng.uniform(0.5, 2, size=7), np.float64(0.3))
    args = tuple(jnp.asarray(a) for a in args)
    which = (0, 1, 2, 3)
    got, expected = jax.jit(jax.jacrev(fitted, which))(*args), jax.jacrev(plain, which)(*args)
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-10, atol=1e-12)
    # the second way: central differences of numpy's solution
    h = 1e-6
    direction = [rng.normal(size=a.shape) for a in args]
    slope = (
        numeric_solution(*(a + h * t for a, t in zip(args, direction, strict=True)))
        - numeric_solution(*(a - h * t for a, t in zip(args, direction, strict=True)))
    ) / (2 * h)
    got = jax.jvp(fitted, args, tuple(map(jnp.asarray, direction)))[1]
    np.testing.assert_allclose(got, slope, rtol=1e-7)


@pytest.mark.slow
def test_second_derivatives():
    rng = np.random.default_rng(10)
    args = (rng.normal(size=(7, 2)), rng.normal(size=7), rng.uniform(0.5, 2, size=7), np.float64(0.3))
    args, which = tuple(jnp.asarray(a) for a in args), (0, 1, 2, 3)
    weigh = jnp.asarray(rng.normal(size=3))
    second = [jax.jit(jax.hessian(lambda *a, f=f: weigh @ f(*a), which))(*args) for f in (fitted, plain)]
    for g, e in zip(jax.tree.leaves(second[0]), jax.tree.leaves(second[1]), strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-8, atol=1e-10)


@pytest.mark.large
def test_derivative_where_singular_values_are_equal():
    X = jnp.concatenate([jnp.eye(2), -jnp.eye(2)])
    y = jnp.asarray([1.0, 2.0, 0.5, -1.0])
    s, l2 = jnp.ones(4), jnp.zeros(())
    for g, e in zip(
        jax.jacrev(fitted, (0, 1, 2, 3))(X, y, s, l2), jax.jacrev(plain, (0, 1, 2, 3))(X, y, s, l2), strict=True
    ):
        np.testing.assert_allclose(g, e, rtol=1e-12, atol=1e-14)


def test_derivative_with_dependent_columns():
    rng = np.random.default_rng(11)
    B, C = rng.normal(size=(7, 2)), rng.normal(size=(2, 3))
    dB, dC, y = rng.normal(size=(7, 2)), rng.normal(size=(2, 3)), rng.normal(size=7)
    h = 1e-6

    def shortest(t):  # X stays of rank 2 along this path
        X = (B + t * dB) @ (C + t * dC)
        return np.linalg.pinv(X - X.mean(axis=0), rcond=1e-10) @ (y - y.mean())

    got = jax.jvp(lambda X: lr.fit(X, jnp.asarray(y)).params.w, (jnp.asarray(B @ C),), (jnp.asarray(dB @ C + B @ dC),))[
        1
    ]
    np.testing.assert_allclose(got, (shortest(h) - shortest(-h)) / (2 * h), rtol=1e-7)


@pytest.mark.large
def test_vmap():
    rng = np.random.default_rng(12)
    X, y = rng.normal(size=(3, 12, 3)), rng.normal(size=(3, 12))
    X[1, :, 2] = X[1, :, 0]
    s = np.ones((3, 12))
    many = jax.vmap(lambda X, y, s: lr.fit(X, y, weights=s))(X, y, s)
    np.testing.assert_array_equal(many.status, [0, Status.rank_deficient, 0])
    for i in range(3):
        np.testing.assert_allclose(many.params.w[i], lr.fit(X[i], y[i]).params.w, rtol=1e-12)


@pytest.mark.large
@pytest.mark.parametrize("kind", [pytest.param("Auto", marks=pytest.mark.slow), "Explicit"])
def test_rows_sharded_over_a_mesh(kind):
    rng = np.random.default_rng(13)
    X, y, s = rng.normal(size=(16, 3)), rng.normal(size=16), rng.random(16)
    X[:, 0] += 1e8
    expected = lr.fit(X, y, weights=s)
    # d w / d y = (X^T S X)^-1 X^T S for the centred X
    Xc = X - np.array([1e8, 0.0, 0.0])
    Xc = Xc - s @ Xc / s.sum()
    expected_slope = np.ones(3) @ np.linalg.solve(Xc.T @ (s[:, None] * Xc), Xc.T * s)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    P = jax.sharding.PartitionSpec
    X, y, s = (
        jax.device_put(v, jax.sharding.NamedSharding(mesh, P("rows", *[None] * (v.ndim - 1)))) for v in (X, y, s)
    )
    found = lr.fit(X, y, weights=s)
    np.testing.assert_allclose(flat(found.params), flat(expected.params), rtol=1e-15)
    assert int(found.certificate.rank) == 3
    with jax.set_mesh(mesh):
        slope = jax.jit(jax.grad(lambda y: jnp.sum(lr.fit(X, y, weights=s).params.w)))(y)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-7)


@pytest.mark.large
@pytest.mark.parametrize(("of_X", "of_Y"), [(("a",), ("a", "b")), ((), ("a",)), ((None, "b"), ("b",))])
def test_data_split_over_a_mesh_in_any_way(of_X, of_Y):
    """Targets, columns, or rows of one of them only: what is not alike is brought to the rows that are split."""
    rng = np.random.default_rng(2)
    X, Y = rng.normal(size=(16, 4)), rng.normal(size=(16, 4))
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    placed = [
        jax.device_put(v, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))
        for v, spec in ((X, of_X), (Y, of_Y))
    ]
    np.testing.assert_allclose(flat(lr.fit(*placed).params), flat(lr.fit(X, Y).params), rtol=1e-14)


# Batches


def test_batches_in_any_order_give_the_fit_in_memory():
    X, y, weights = hard("weights")
    X[:, 0] += 1e12
    expected, _, _ = exact_fit(X, y, weights)
    parts = [slice(0, 1), slice(1, 6), slice(6, 7), slice(7, 12)]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        state = None
        for i in order:
            state = ls.update(state, X[parts[i]], y[parts[i]], weights=weights[parts[i]])
        assert digits(flat(ls.solve(state).check().params), expected) >= 14.5
    states = [ls.update(None, X[p], y[p], weights=weights[p]) for p in parts]
    merged = ls.merge(ls.merge(states[3], states[0]), ls.merge(states[1], states[2]))
    found = ls.solve(merged).check()
    assert digits(flat(found.params), expected) >= 14.5
    np.testing.assert_allclose(found.certificate.objective, lr.fit(X, y, weights=weights).certificate.objective)


def test_bounds_hold_where_the_first_batch_is_far_from_the_rest():
    """They are about the mean, and the sums about the first row: the rise was 5 times the bound, the error of b 1e9."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(8, 2)) + 1e6
        X[0] = 0
        y = X @ [1.0, -2.0] + rng.normal(size=8)
        found = ls.fit_batches((X[i : i + 1], y[i : i + 1]) for i in range(8))
        A, (_, rss, _) = rational(np.column_stack([X, np.ones(8)])), exact_fit(X, y)
        r = rational(y) - A @ rational(flat(found.params))
        assert 0 <= sum(r * r) - rss <= Fraction(float(found.certificate.suboptimality))
        x, s = rng.normal(size=8), np.ones(8)
        x[0], s[0] = 1e9 * (1 + rng.random()), 1e-9
        y = x + rng.normal(size=8)
        twice = np.stack([x, 2 * x], axis=1)
        found = ls.fit_batches((twice[i : i + 1], y[i : i + 1], s[i : i + 1]) for i in range(8))
        (_, b), _, _ = exact_fit(x[:, None], y, s)
        assert abs(Fraction(float(found.params.b)) - b) <= Fraction(float(found.certificate.error_bound.b))


def test_the_dtype_of_a_stream_is_the_widest_of_its_batches():
    """Not that of the first, which decided the rank and rounded the result: two orders gave two fits."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2))
    X[:, 1] = X[:, 0] + 1e-8 * rng.normal(size=30)
    y = X @ [1.0, 2.0] + 1e-9 * rng.normal(size=30)
    narrow, wide = (X[:3].astype(np.float32), y[:3].astype(np.float32)), (X[3:], y[3:])
    expected = lr.fit(*(np.concatenate(v) for v in zip(narrow, wide, strict=True))).check()
    a, b = (ls.update(None, *v) for v in (narrow, wide))
    found = [ls.fit_batches(v) for v in ((narrow, wide), (wide, narrow))]
    for fit in (*found, ls.solve(ls.merge(a, b)), ls.solve(ls.merge(b, a))):
        assert fit.check().params.w.dtype == np.float64
        np.testing.assert_allclose(flat(fit.params), flat(expected.params), rtol=1e-13)
    traced = jax.eval_shape(lambda *v: ls.update(ls.merge(ls.update(None, *v[:2]), ls.update(None, *v[2:])), *v[:2]),
                            *narrow, *wide)  # fmt: skip
    assert {str(v.dtype) for v in jax.tree.leaves(traced.moments)} == {"float64", "bool"}


def test_batches_refuse_what_does_not_fit():
    rng = np.random.default_rng(14)
    X, y = rng.normal(size=(4, 2)), rng.normal(size=4)
    state = ls.update(None, X, y)
    with pytest.raises(ValueError, match="2 columns"):
        ls.update(state, X[:, :1], y)
    with pytest.raises(ValueError, match="y \\(n,\\)"):
        ls.update(state, X, y[:, None])
    with pytest.raises(ValueError, match="same columns"):
        ls.merge(state, ls.update(None, X[:, :1], y))
    with pytest.raises(ValueError, match="intercept True and False"):
        ls.merge(state, ls.update(None, X, y, intercept=False))
    with pytest.raises(ValueError, match="began with intercept=True"):
        ls.update(state, X, y, intercept=False)
    assert ls.update(ls.update(None, X, y, intercept=False), X, y).intercept is False
    for call in (lambda: ls.solve(None), lambda: ls.update(ls.fit(X, y), X, y), lambda: ls.merge(state, None)):
        with pytest.raises(TypeError, match=r"must come from update\(None, X, y\)"):
            call()
    for batch, given in ((X, "ndarray"), ((X,), "1 parts")):
        with pytest.raises(TypeError, match=given):
            ls.fit_batches([batch])


class ArrowBatch:
    """What `from_arrow` asks of a pyarrow.RecordBatch."""

    metadata = None

    def __init__(self, **columns):
        self.columns = columns

    @property
    def schema(self):
        return type("Schema", (), {"names": list(self.columns), "metadata": self.metadata})

    def column(self, i):
        return list(self.columns.values())[i]


def test_what_is_not_a_number_in_arrow_data():
    """Nulls are NaN, whatever the type; text is refused, though numpy would read the numbers in it."""
    days = np.array(["1970-01-05", "NaT"], "M8[D]")
    for v, first in (
        (days, 4), (days - days[0], 0), (np.array([True, None]), 1), (np.array([Fraction(1, 2), None]), 0.5)
    ):  # fmt: skip
        ((X, y),) = ls.from_arrow([ArrowBatch(x=v, y=np.arange(2))], target="y")
        np.testing.assert_array_equal(X, [[first], [np.nan]])
        np.testing.assert_array_equal(y, [0, 1])
    text, numbers = np.array(["1.5", "2"]), np.ones(2)
    same = ArrowBatch(x=numbers, y=numbers)
    same.columns = type("Twice", (dict,), {"__iter__": lambda self: iter(["x", "x", "y"])})(same.columns)
    for source, columns, error, message in (
        ([ArrowBatch(x=text, y=numbers)], None, TypeError, "'x' does not hold numbers"),
        ([ArrowBatch(x=text.astype(object), y=numbers)], None, TypeError, "'x' does not hold numbers"),
        ([ArrowBatch(y=numbers)], None, ValueError, "No column is left for X"),
        ([ArrowBatch(x=numbers, y=numbers)], [], ValueError, "No column is left for X"),
        ([same], None, ValueError, "Two columns have the name 'x'"),
        ("a.parquet", None, TypeError, "must hold record batches"),
        (pathlib.Path("a.parquet"), None, TypeError, "must hold record batches"),
        ({"x": numbers, "y": numbers}, None, TypeError, "must hold record batches"),
    ):
        with pytest.raises(error, match=message):
            next(ls.from_arrow(source, target="y", columns=columns))


def test_arrow_tables_readers_and_batches():
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed; its interface is tested with a stand-in")
    rng = np.random.default_rng(21)
    X = rng.normal(size=(100, 2))
    y = X @ [1.0, 2.0] + rng.normal(size=100)
    table = pa.table({"a": X[:, 0], "b": X[:, 1], "y": y})
    batches = table.to_batches(max_chunksize=30)
    expected = flat(lr.fit(X, y).params)
    for source in (table, batches, iter(batches), pa.RecordBatchReader.from_batches(table.schema, batches)):
        found = ls.fit_batches(ls.from_arrow(source, target="y"))
        np.testing.assert_allclose(flat(found.params), expected, rtol=1e-15)
    with pytest.raises(TypeError, match="Column 'c' does not hold numbers"):
        next(ls.from_arrow(table.append_column("c", pa.array(["x"] * 100)), target="y"))
    holes = table.set_column(0, "a", pa.array([None, *X[1:, 0]]))
    with pytest.raises(ValueError, match="X must be finite"):
        ls.fit_batches(ls.from_arrow(holes, target="y"))


def test_iterators_arrow_batches_and_memory_maps_give_the_fit_in_memory(tmp_path, monkeypatch):
    X, y, weights = hard("weights")
    expected = lr.fit(X, y, weights=weights)
    given = lambda: ((X[i : i + 5], y[i : i + 5], weights[i : i + 5]) for i in (5, 0, 10))  # noqa: E731
    np.testing.assert_array_equal(flat(ls.fit_batches(given()).params), flat(expected.params))
    arrow = [ArrowBatch(c=A[:, 2], y=t, a=A[:, 0], s=s, b=A[:, 1]) for A, t, s in given()]
    found = ls.fit_batches(ls.from_arrow(arrow, target="y", weights="s", columns=["a", "b", "c"]))
    np.testing.assert_array_equal(flat(found.params), flat(expected.params))
    found = ls.fit_batches(ls.from_arrow(arrow, target="y", weights="s"))
    np.testing.assert_array_equal(found.params.w, expected.params.w[jnp.array([2, 0, 1])])
    table = type("Table", (), {"to_batches": lambda self: arrow})()
    assert sum(len(batch[1]) for batch in ls.from_arrow(table, target="y")) == 12
    with pytest.raises(KeyError, match="no column 'z'"):
        next(ls.from_arrow(arrow, target="z"))
    # What pandas keeps the index of a frame in is no feature, unless it is named.
    arrow[0].metadata = {b"pandas": b'{"index_columns": ["c", {"kind": "range"}]}'}
    for columns, width in ((None, 3), (["a", "c"], 2)):
        assert next(ls.from_arrow(arrow, target="y", columns=columns))[0].shape == (5, width)
    with pytest.raises(ValueError, match="no batch"):
        ls.fit_batches([])
    with pytest.raises(ValueError, match="finite"):
        ls.fit_batches(ls.from_arrow([ArrowBatch(x=np.array([1.0, np.nan]), y=np.ones(2))], target="y"))
    # Exact sums of more rows than fit a block
    monkeypatch.setattr("fundl.least_squares._fit.ENTRIES", 20)
    for name, v in (("X", X), ("y", y), ("s", weights)):
        np.save(tmp_path / f"{name}.npy", v)
    A, t, s = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "Xys")
    np.testing.assert_array_equal(flat(lr.fit(A, t, weights=s).params), flat(expected.params))


def test_a_memory_map_is_read_in_blocks(tmp_path):
    rng = np.random.default_rng(17)
    n, d = 400_000, 10
    X = rng.normal(size=(n, d)) + 2
    y = X @ np.arange(d) + rng.normal(size=n)
    np.save(tmp_path / "X.npy", X)
    expected = lr.fit(X, y)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    tracemalloc.start()
    found = lr.fit(mapped, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(flat(found.params), flat(expected.params))
    assert peak < X.nbytes / 2  # blocks only, on as many threads as there are processors


# The quick way


def test_the_quick_way_reaches_the_digits_of_exact_sums():
    rng = np.random.default_rng(18)
    for n, d, scale, shift, weighted in (
        (100, 5, 1.0, 0.0, False),
        (30_000, 6, 1.0, 1e8, True),
        (1500, 60, 1e-3, 1.0, False),
        (180_000, 3, 1.0, 5.0, True),
    ):
        X = rng.normal(size=(n, d)) * scale + shift
        y = X[:, 0] / scale - X[:, -1] / scale + rng.normal(size=n)
        s = rng.uniform(0.1, 3, size=n) if weighted else None
        found = _plain.attempt(X, y[:, None], s, 0.1, True, 2.0**-52)
        assert found is not None
        exact = lr.fit(X, y, weights=s, l2=0.1, method="exact")
        error = np.abs(found.w[:, 0] - np.asarray(exact.params.w))
        assert (error <= found.w_bound[:, 0]).all()
        assert np.max(error) <= 1e-14 * np.max(np.abs(exact.params.w))
        np.testing.assert_allclose(found.w_error[:, 0], exact.certificate.standard_errors.w, rtol=1e-11)
        np.testing.assert_allclose(found.b_error[0], exact.certificate.standard_errors.b, rtol=1e-10)
        if d <= 128:
            np.testing.assert_allclose(found.condition, exact.certificate.condition, rtol=1e-9)
        thin = lr.fit(X.astype(np.float32), y.astype(np.float32), weights=None if s is None else s.astype(np.float32))
        rounded = lr.fit(
            X.astype(np.float32), y.astype(np.float32), method="exact",
            weights=None if s is None else s.astype(np.float32),
        )  # fmt: skip
        np.testing.assert_allclose(thin.params.w, rounded.params.w, rtol=1e-6, atol=2e-7)


def test_singular_values_give_what_exact_sums_give():
    rng = np.random.default_rng(20)
    X, y, s = rng.normal(size=(12, 4)), rng.normal(size=12), rng.uniform(0.5, 2, size=12)
    s[3] = 0
    for A, t, weights, l2, intercept in (
        (X, y, s, 0.7, True),
        (X + 1e6, y, None, 0.0, True),
        (X, y, s, 0.3, False),
        (X[:, [0, 1, 0, 2]], y, s, 0.0, True),
        (X * [1.0, 1e3, 1.0, 0.0] + [0.0, 0.0, 0.1, 0.0], y, None, 0.0, True),
        (np.column_stack([X[:, 0], X[:, 0] * 1e3, X[:, 1] * 3e-4]), y, None, 0.0, True),
        (rng.normal(size=(5, 9)), y[:5], None, 0.0, True),
        (rng.normal(size=(5, 9)), y[:5], None, 0.3, True),
        (X[:1], y[:1], None, 0.0, True),
    ):
        found = _spectral.solve(A, t[:, None], weights, np.float64(l2), intercept, 2.0**-52)
        exact = lr.fit(A, t, weights=weights, l2=l2, intercept=intercept, method="exact")
        sure = exact.certificate
        assert int(found.rank) == int(sure.rank)
        assert (np.abs(found.w[:, 0] - exact.params.w) <= found.w_bound[:, 0] + sure.error_bound.w).all()
        assert abs(found.b[0] - exact.params.b) <= found.b_bound[0] + sure.error_bound.b
        assert found.digits > 2  # very uneven columns keep few for sure
        np.testing.assert_allclose(found.deviation[0], sure.residual_deviation, rtol=1e-10)
        np.testing.assert_allclose(found.objective, sure.objective, rtol=1e-10)
        np.testing.assert_allclose(found.w_error[:, 0], sure.standard_errors.w, rtol=1e-10)
        np.testing.assert_allclose(found.b_error[0], sure.standard_errors.b, rtol=1e-10)
        assert np.isinf(found.condition) == np.isinf(sure.condition)
    X, y = rng.normal(size=(40, 250)), rng.normal(size=40)  # more columns than rows, too many to eliminate exactly
    found = lr.fit(X, y)
    assert found.status is Status.rank_deficient
    assert found.certificate.rank == 39
    expected = np.linalg.pinv(X - X.mean(axis=0), rcond=1e-10) @ (y - y.mean())  # rank 39: the means are taken out
    np.testing.assert_allclose(found.params.w, expected, atol=1e-13 * np.abs(expected).max())


def test_triangles_and_conditions_of_large_matrices():
    rng = np.random.default_rng(19)
    A = rng.normal(size=(900, 300))
    L = np.linalg.cholesky(A.T @ A)
    M = inverse_of_lower(L)
    np.testing.assert_allclose(M @ L, np.eye(300), atol=1e-13)
    expected = np.linalg.cond(L) ** 2
    assert 0.5 * expected < _plain._condition(L @ L.T, M) < 1.001 * expected


def test_what_a_refinement_leaves_is_bounded(monkeypatch):
    rng = np.random.default_rng(21)

    def factors(A, dtype):
        G = A.T @ A
        lengths = np.sqrt(np.diagonal(G))
        scale = _words.ceil_power_of_two(lengths)
        found = _plain._from_gram(G, lengths, scale, np.zeros(A.shape[1]), len(A), False, dtype)
        return found, G / scale / scale[:, None]

    def left(found, P):
        M = found.M.astype(np.float64)
        return np.linalg.norm(M @ P @ M.T - np.eye(len(P)), 2)

    for d, dtype, top in ((60, np.float64, 6), (300, np.float64, 6), (60, np.float32, 2), (300, np.float32, 2)):
        for power in (0, top / 2, top):
            A = np.linalg.qr(rng.normal(size=(2 * d, d)))[0] @ np.linalg.qr(rng.normal(size=(d, d)))[0]
            A = A @ (np.logspace(0, -power / 2, d) * np.linalg.qr(rng.normal(size=(d, d)))[0]).T
            found, P = factors(A, dtype)
            assert left(found, P) < found.loss
    for dtype in (np.float64, np.float32):
        A = np.kron(np.eye(150), np.ones((4, 1)))  # all that Lanczos finds is there after one step
        found, P = factors(A, dtype)
        np.testing.assert_allclose(found.condition, 1, rtol=4 * np.finfo(dtype).eps)
        assert left(found, P) == 0 < found.loss < 1e-3
    exact = _plain.inverse_cholesky
    monkeypatch.setattr(_plain, "inverse_cholesky", lambda P: exact(P) * (1 + 1e-5))  # an inverse that is off is seen
    found, P = factors(rng.normal(size=(600, 300)), np.float64)
    assert 2e-5 < left(found, P) < found.loss


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("l2", [0.0, 0.7])
def test_columns_that_do_not_vary_cost_no_exact_sums(l2, intercept, weighted, monkeypatch):
    rng = np.random.default_rng(22)
    X = np.insert(rng.normal(size=(60, 4)), [0, 2], [0.0, 7.0 if intercept else 0.0], axis=1)
    y = X[:, [1, 2]] @ [[1.0, 0.0], [2.0, -1.0]] + rng.normal(size=(60, 2))
    s = rng.integers(0, 3, 60).astype(float) if weighted else None
    if weighted:
        X[s == 0, 0] = rng.normal(size=(s == 0).sum())  # which do not count
    exact = lr.fit(X, y, l2=l2, weights=s, intercept=intercept, method="exact")
    monkeypatch.setattr(_exact, "solve", lambda *a, **options: pytest.fail("exact sums"))
    found = lr.fit(X, y, l2=l2, weights=s, intercept=intercept)
    one, other = found.certificate, exact.certificate
    np.testing.assert_array_equal(found.params.w[jnp.array([0, 3])], 0)
    for name in ("w", "b"):
        bound = getattr(one.error_bound, name) + getattr(other.error_bound, name)
        assert np.all(np.abs(getattr(found.params, name) - getattr(exact.params, name)) <= bound)
        errors = (getattr(c.standard_errors, name) for c in (one, other))
        np.testing.assert_allclose(*errors, rtol=1e-12, atol=1e-12)
    assert found.status is exact.status
    assert one.rank == other.rank
    assert one.digits > 13.5
    np.testing.assert_allclose(one.condition, other.condition, rtol=1e-12)
    np.testing.assert_allclose(one.objective, other.objective, rtol=1e-13)
    np.testing.assert_allclose(one.residual_deviation, other.residual_deviation, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_coefficient_of_zero_is_no_bad_condition(dtype, monkeypatch):
    """Every row twice, with noise and its negative: w = (2, 0) exactly, and a residual that is no rounding."""
    monkeypatch.setattr(_exact, "solve", lambda *a, **options: pytest.fail("exact sums"))
    rng = np.random.default_rng(23)
    A, noise = rng.integers(0, 2, (12_000, 2)).astype(dtype), rng.integers(-9, 10, 12_000).astype(dtype)
    found = lr.fit(np.concatenate([A, A]), np.concatenate([2 * A[:, 0] + noise, 2 * A[:, 0] - noise]))
    assert found.status is Status.converged
    assert found.certificate.converged
    assert found.certificate.digits < 1  # those of the second coefficient, which is rounding
    error, bound = np.abs(np.asarray(found.params.w) - [2.0, 0.0]), np.asarray(found.certificate.error_bound.w)
    assert np.all(error <= bound)
    assert np.all(bound <= 2 * np.finfo(dtype).eps)


def test_conditions_of_few_different_singular_values():
    X = np.eye(150)[np.arange(900) % 150]
    y = np.random.default_rng(24).normal(size=900)
    found = lr.fit(X, y, l2=6.0)
    np.testing.assert_allclose(found.certificate.condition, np.sqrt(2), rtol=1e-12)
    P = np.eye(300) + 1e-9
    np.testing.assert_allclose(_plain._largest(lambda v: P @ v, 300), 1 + 3e-7, rtol=1e-15)


def test_error_bound_holds_on_many_problems():
    rng = np.random.default_rng(15)
    for _ in range(150):
        n, d = int(rng.integers(5, 20)), int(rng.integers(1, 4))
        X = rng.normal(size=(n, d)) + rng.integers(0, 3) * 10.0 ** rng.integers(0, 6)
        y = X @ rng.normal(size=d) + rng.normal(size=n) * 10.0 ** rng.integers(-6, 7)
        found = lr.fit(X, y)
        expected, _, _ = exact_fit(X, y)
        got, bound = flat(found.params), flat(found.certificate.error_bound)
        assert digits(got, expected) >= max(14.0, float(found.certificate.digits))
        assert all(
            abs(Fraction(float(g)) - e) <= Fraction(float(u)) for g, e, u in zip(got, expected, bound, strict=True)
        )


def test_large_problems_are_quick_and_right():
    rng = np.random.default_rng(16)
    X = rng.normal(size=(9000, 5)) + 3
    y = X @ np.arange(1.0, 6.0) + rng.normal(size=9000)
    weights = rng.integers(0, 3, size=9000).astype(float)
    quick, exact = (lr.fit(X, y, weights=weights, l2=2.0, method=m) for m in ("auto", "exact"))
    error = np.abs(flat(quick.params) - flat(exact.params))
    assert (error <= flat(quick.certificate.error_bound)).all()
    assert (error <= 1e-15).all()
    for name in ("objective", "residual_deviation", "rank"):
        np.testing.assert_allclose(getattr(quick.certificate, name), getattr(exact.certificate, name), rtol=1e-12)
    for a, b in zip(quick.certificate.standard_errors, exact.certificate.standard_errors, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


@pytest.mark.parametrize("method", ["auto", "exact"])
@pytest.mark.parametrize("weights", [None, np.array([1.0, 2.0, 1.0, 0.0, 3.0])])
def test_float64_data_keep_their_digits_where_jax_holds_float32_only(weights, method):
    """The data are read in float64 whatever jax_enable_x64 says; the result and its bounds are those of float32."""
    x = np.array([0.0, 0.4, 1.1, 1.6, 2.2])
    X, y = (1e9 + x)[:, None], 3 * x
    wide = ls.fit(X, y, weights=weights, method=method)
    with jax.enable_x64(False):
        found = ls.fit(X, y, weights=weights, method=method)
        s = np.ones(5) if weights is None else weights
        batches = ls.fit_batches([(X[:2], y[:2], s[:2]), (X[2:], y[2:], s[2:])])
        path = ls.ridge_path(X, y, [0.0, 1.0], weights=weights)
        interval = ls.interval(X, y, np.array([[1e9 + 3.0]]), weights=weights)
    for got in (found, batches):
        assert got.status == wide.status
        assert got.params.w.dtype == jnp.float32
        for a, b, bound in zip(got.params, wide.params, got.certificate.error_bound, strict=True):
            assert np.all(np.abs(np.asarray(a, float) - np.asarray(b)) <= np.asarray(bound, float))
        assert float(got.certificate.digits) < 7.3
        residual = X @ np.asarray(got.params.w, float) + float(got.params.b) - y
        worse = np.sum(s * residual**2) - float(wide.certificate.objective)
        assert worse <= float(got.certificate.suboptimality)
    np.testing.assert_allclose(path.params.w[0], wide.params.w, rtol=1e-6)
    np.testing.assert_allclose(interval.y_hat, [9.0], rtol=1e-5)


def test_numbers_that_float32_does_not_hold_are_not_returned_as_infinite():
    x = np.array([0.0, 1.0, 2.0])
    assert ls.fit(1e-100 * x[:, None], x).status == Status.converged
    with jax.enable_x64(False):
        assert ls.fit(1e-100 * x[:, None], x).status == Status.non_finite


def test_weights_and_penalties_that_the_dtype_of_the_data_does_not_hold():
    """In float64 they are there: as float32 they were 0 or infinite, with a warning of NumPy's."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 2)).astype(np.float32), rng.normal(size=20).astype(np.float32)
    one = lr.fit(X, y)
    for size in (1e-46, 1e39):
        s = np.full(20, size)
        fit, stream = lr.fit(X, y, weights=s), ls.fit_batches([(X, y, s)])
        path = lr.ridge_path(X, y, [0.0], weights=s).params
        for w in (fit.params.w, stream.params.w, path.w[0], lr.fit(X, y, weights=s, l2=size * 1e-9).params.w):
            np.testing.assert_allclose(w, one.params.w, rtol=1e-6)
        assert fit.status is stream.status is Status.converged
        np.testing.assert_allclose(lr.influence(X, y, weights=s).residuals, lr.influence(X, y).residuals, rtol=1e-5)
        if size > 1:
            found = lr.fit(X, y, l2=size)
            assert found.status is Status.converged
            np.testing.assert_allclose(found.certificate.objective, np.sum((y - y.mean()) ** 2), rtol=1e-6)
            np.testing.assert_allclose(lr.ridge_path(X, y, [size]).params.w, 0, atol=1e-35)


def test_integers_beyond_int32_are_the_numbers_they_are():
    t = 1_700_000_000_000 + 1000 * np.arange(20)
    with jax.enable_x64(False):
        fit = ls.fit(t[:, None], np.arange(20))
    np.testing.assert_allclose(fit.params.w, [1e-3], rtol=1e-6)


def test_whole_numbers_that_float32_rounds_are_the_numbers_they_are():
    t = 1_000_000_000 + np.arange(5)
    with jax.enable_x64(False):
        for X in (t[:, None], t[:, None].tolist(), t[:, None].astype(np.uint32)):
            fit = ls.fit(X, np.arange(5))
            assert fit.status == Status.converged
            np.testing.assert_allclose(fit.params.w, [1.0], rtol=1e-6)


def test_a_negative_penalty_in_a_trace_is_not_a_fit():
    x = jnp.arange(4.0)
    fit = jax.jit(lambda l2: ls.fit(x[:, None], x, l2=l2))(-0.5)
    assert fit.status == Status.non_finite
    assert jnp.isnan(fit.params.w).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("l2", [1e-300, 1e-40, 1e-12])
def test_the_smallest_penalties_of_a_constant_column(l2, dtype):
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    X[:, 1] = 2.0
    A = np.c_[X[:, [0, 2]], np.ones(50)].astype(dtype).astype(float)
    w0, w2, b = np.linalg.lstsq(A, y.astype(dtype).astype(float))[0]
    fit = ls.fit(X.astype(dtype), y.astype(dtype), l2=l2, method="exact")
    np.testing.assert_allclose([*fit.params.w, fit.params.b], [w0, 0, w2, b], rtol=100 * np.finfo(dtype).eps)


# ---- columns, rows and penalties of very different size --------------------------------------------------------------


def shortest(X, y):
    """Of all that X has rows for, in 60 digits: X^T (X X^T)^-1 y."""
    with mp.workdps(60):
        A = mp.matrix(X.tolist())
        return np.array((A.T * mp.lu_solve(A * A.T, mp.matrix(y.tolist()))).tolist(), dtype=float)[:, 0]


@pytest.mark.parametrize("sizes", [1.0, 1e2, 1e4, 1e6])
def test_the_shortest_solution_where_columns_differ_in_size(sizes):
    """A projection of the first solution found, 1e5 times as long, left 3 digits at 1e6, and the bound said 7."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        X = rng.normal(size=(5, 8)) * np.array([1 / sizes, 1, sizes, 1, 1 / sizes, sizes, 1, 1])
        y = rng.normal(size=5)
        fit = ls.fit(X, y, intercept=False)
        assert (fit.status, int(fit.certificate.rank)) == (Status.rank_deficient, 5)
        error = np.abs(np.asarray(fit.params.w) - shortest(X, y))
        assert (error <= fit.certificate.error_bound.w).all()
        assert error.max() < 1e-13 * np.abs(fit.params.w).max()


def test_a_dependent_column_has_a_bound_for_b_that_holds():
    X = np.array([[1, 1], [2, 2], [4, 4], [7, 7]], np.float32)
    y = np.float32(0.3) * X[:, 0]
    (w, b), _, _ = exact_fit(X[:, :1], y)
    fit = jax.jit(ls.fit)(X, y)
    assert abs(float(fit.params.b) - b) <= float(fit.certificate.error_bound.b)
    off = abs(np.asarray(fit.params.w, float) - float(w / 2))
    assert (off <= np.asarray(fit.certificate.error_bound.w, float)).all()


@pytest.mark.parametrize("l2", [1e-30, 1e-8, 1.0, 1e12, 1e20])
def test_penalties_of_any_size_in_float32(l2):
    X, y = np.array([[1e-9], [2e-9]], np.float32), np.array([1.0, 2.0], np.float32)
    fit = of_one_column(X, y, np.float32(l2))
    (w,), _, _ = exact_fit(X, y, l2=np.float32(l2), intercept=False)
    assert fit.status == Status.converged
    np.testing.assert_allclose(fit.params.w[0], float(w), rtol=2e-7)


@jax.jit
def of_one_column(X, y, l2):
    return ls.fit(X, y, l2=l2, intercept=False)


def test_weights_and_rows_of_any_size_in_float32():
    """The bound holds, where a column was small beside its largest entry, which had a small weight, and was lost."""
    rng = np.random.default_rng(0)
    found = jax.jit(lambda X, y, s, l2: ls.fit(X, y, weights=s, l2=l2, intercept=False))
    problems = [(np.eye(2, dtype=np.float32), np.ones(2, np.float32), np.float32([1e12, 1e-12]), np.float32(1e-8))]
    for _ in range(40):
        X = np.float32(rng.normal(size=(12, 2)) * 10.0 ** rng.uniform(-6, 6, (12, 1)))
        s, l2 = np.float32(10.0 ** rng.uniform(-12, 12, 12)), np.float32(10.0 ** rng.uniform(-12, 12))
        problems.append((X, np.float32(rng.normal(size=12)), s, l2))
    # Of a column that is nothing beside the penalty the standard error was the rounding of a difference.
    X, y = np.float32(rng.normal(size=(12, 2)) * [1, 1e-6]), np.float32(rng.normal(size=12))
    problems.append((X, y, np.ones(12, np.float32), np.float32(1)))
    known = 0
    for X, y, s, l2 in problems:
        fit = found(X, y, s, l2)
        w, _, _ = exact_fit(X, y, s, l2, intercept=False)
        if fit.status == Status.converged:
            off = abs(np.asarray(fit.params.w, float) - w.astype(float))
            assert (off <= 1.001 * np.asarray(fit.certificate.error_bound.w, float)).all()
            assert float(fit.certificate.digits) > 5
            if len(X) == 12 and sum(s) > 3:
                deviation, errors = exact_errors(X, y, s, l2, intercept=False)
                got = np.append(fit.certificate.standard_errors.w, fit.certificate.residual_deviation)
                there = ~np.isnan(got)
                known += there.all()
                np.testing.assert_allclose(got[there], np.append(errors, deviation)[there], rtol=1e-5)
    assert known > 30
    assert found(*problems[0]).status == Status.converged
