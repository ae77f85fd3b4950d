"""Linear regression against numpy and exact rational arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import linear_regression as lr
from fundl._types import Linear

pytestmark = pytest.mark.large


def problem(seed, n=12, d=3, k=None, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shape = (lambda *a: a) if k is None else (lambda *a: (*a, k))
    X = rng.normal(size=(n, d)).astype(dtype)
    y = rng.normal(size=shape(n)).astype(dtype)
    params = Linear(jnp.asarray(rng.normal(size=shape(d)).astype(dtype)), jnp.asarray(rng.normal(size=shape()), dtype))
    return X, y, params, rng


def test_prediction_and_loss_are_the_lectures():
    theta = np.array([0.5, -2.0])
    X = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
    y = np.array([1.0, 0.0, 2.0])
    expected = [sum(X[i, j] * theta[j] for j in range(2)) for i in range(3)]
    np.testing.assert_allclose(lr.predict(theta, X), expected, rtol=1e-15)
    J = (X @ theta - y) @ (X @ theta - y)
    np.testing.assert_allclose(lr.loss(theta, X, y, reduction="sum"), J, rtol=1e-15)
    np.testing.assert_allclose(lr.loss(theta, X, y), J / 3, rtol=1e-15)
    np.testing.assert_allclose(lr.loss(theta, X, y, reduction="none"), (X @ theta - y) ** 2, rtol=1e-15)
    np.testing.assert_allclose(lr.gradient(theta, X, y, reduction="sum"), 2 * X.T @ X @ theta - 2 * X.T @ y, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [None, 1, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_is_that_of_autodiff_and_of_exact_arithmetic(dtype, k, reduction, weighted):
    X, y, params, rng = problem(0, k=k, dtype=dtype)
    weights = rng.integers(0, 4, size=len(X)).astype(dtype) if weighted else None
    found = lr.gradient(params, X, y, weights=weights, reduction=reduction)
    assert isinstance(found, Linear)
    auto = jax.grad(lambda p: lr.loss(p, X, y, weights=weights, reduction=reduction))(params)
    w = np.asarray(params.w).reshape(X.shape[1], -1)
    b = np.asarray(params.b).reshape(-1)
    Y = y.reshape(len(X), -1)
    exact = np.vectorize(Fraction)
    s = exact(np.ones(len(X)) if weights is None else np.asarray(weights, float))
    R = exact(X.astype(float)) @ exact(w.astype(float)) + exact(b.astype(float)) - exact(Y.astype(float))
    scale = 2 if reduction == "sum" else Fraction(2) / sum(s)
    dw = (scale * exact(X.astype(float)).T @ (s[:, None] * R)).astype(float)
    db = (scale * (s[:, None] * R).sum(axis=0)).astype(float)
    tolerance = 50 * np.finfo(dtype).eps
    for got in (found, auto):
        assert got.w.dtype == dtype
        assert got.w.shape == params.w.shape
        assert got.b.shape == params.b.shape
        np.testing.assert_allclose(np.asarray(got.w).reshape(dw.shape), dw, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(np.asarray(got.b).reshape(-1), db, rtol=tolerance, atol=tolerance)


def test_rows_of_weight_zero_may_hold_nan():
    X, y, params, _ = problem(1)
    weights = np.ones(len(X))
    weights[[2, 5]] = 0
    dirty_X, dirty_y = X.copy(), y.copy()
    dirty_X[2] = np.nan
    dirty_y[5] = np.inf
    clean = [0, 1, 3, 4, *range(6, len(X))]
    np.testing.assert_allclose(
        lr.loss(params, dirty_X, dirty_y, weights=weights), lr.loss(params, X[clean], y[clean]), rtol=1e-14
    )
    for g in (
        lr.gradient(params, dirty_X, dirty_y, weights=weights),
        jax.grad(lambda p: lr.loss(p, dirty_X, dirty_y, weights=weights))(params),
    ):
        expected = lr.gradient(params, X[clean], y[clean])
        np.testing.assert_allclose(g.w, expected.w, rtol=1e-13)
        np.testing.assert_allclose(g.b, expected.b, rtol=1e-13)


def test_normal_equations_solve_and_say_when_they_cannot():
    X, y, _, _ = problem(2)
    np.testing.assert_allclose(lr.normal_equations(X, y), np.linalg.lstsq(X, y)[0], rtol=1e-12)
    Y = np.stack([y, 2 * y], axis=1)
    np.testing.assert_allclose(lr.normal_equations(X, Y), np.linalg.lstsq(X, Y)[0], rtol=1e-12)
    for bad in (X[:, [0, 0]], X[:2], X + 1e9, np.zeros((4, 1))):
        with pytest.warns(lr.IllConditionedWarning, match="Use fit"):
            theta = lr.normal_equations(bad, y[: len(bad)])
        assert np.isnan(theta).all()
        assert np.isnan(jax.jit(lr.normal_equations)(bad, y[: len(bad)])).all()
    # Columns of very different scale are no harm to Cholesky, and no warning comes.
    scaled = X * np.array([1e-120, 1.0, 1e120])
    np.testing.assert_allclose(
        lr.normal_equations(scaled, y) * np.array([1e-120, 1.0, 1e120]), lr.normal_equations(X, y), rtol=1e-11
    )


def test_fit_small():
    X, y, _, _ = problem(3)
    found = lr.fit(X, y)
    A = np.column_stack([X, np.ones(len(X))])
    expected = np.linalg.lstsq(A, y)[0]
    np.testing.assert_allclose(found.params.w, expected[:-1], rtol=1e-12)
    np.testing.assert_allclose(found.params.b, expected[-1], rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda X, y: lr.gradient(jnp.ones(3), X, y, reduction="none"), ValueError, "reduction"),
        (lambda X, y: lr.loss(jnp.ones(3), X, y[:, None]), ValueError, "reshape"),
        (lambda X, y: lr.predict(jnp.ones(2), X), ValueError, "columns"),
        (lambda X, y: lr.fit(X, y[:-1]), ValueError, "first axes"),
        (lambda X, y: lr.fit(X[:, 0], y), ValueError, "X must have shape"),
        (lambda X, y: lr.fit(X, y[:, None, None]), ValueError, "y must have shape"),
        (lambda X, y: lr.fit(X[:0], y[:0]), ValueError, "empty"),
        (lambda X, y: lr.fit(X[:, :0], y), ValueError, "empty"),
        (lambda X, y: lr.fit(X + 1j, y), TypeError, "complex"),
        (lambda X, y: lr.fit(X.astype(str), y), TypeError, "X must hold real numbers"),
        (lambda X, y: lr.fit(np.where(X[1, 1] == X, np.nan, X), y), ValueError, "X must be finite"),
        (lambda X, y: lr.fit(X, np.where(y == y[1], np.inf, y)), ValueError, "y must be finite"),
        (lambda X, y: lr.fit(X, y, weights=-np.ones(len(X))), ValueError, "weights"),
        (lambda X, y: lr.fit(X, y, weights=np.full(len(X), np.nan)), ValueError, "weights"),
        (lambda X, y: lr.fit(X, y, weights=np.ones((len(X), 1))), ValueError, "weights"),
        (lambda X, y: lr.fit(X, y, l2=-1.0), ValueError, "l2"),
        (lambda X, y: lr.fit(X, y, method="magic"), ValueError, "method"),
        (lambda X, y: lr.normal_equations(X, y[:-1]), ValueError, "first axes"),
    ],
)
def test_refusals(call, error, message):
    X, y, _, _ = problem(4)
    with pytest.raises(error, match=message):
        call(X, y)
