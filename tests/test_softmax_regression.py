"""Softmax regression against optima found with 40 digits, which import nothing of fundl."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from fundl import softmax_regression as sr
from fundl._result import Status
from fundl._types import Linear


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
