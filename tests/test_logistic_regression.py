"""Logistic regression against optima found with 40 digits, which import nothing of fundl."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from fundl import logistic_regression as lr
from fundl._result import Status
from fundl._types import Linear


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
