"""Every coefficient to 11.5 digits on real data, against optima found with 45; both the NumPy and the compiled fit."""

import jax
import mpmath
import numpy as np
import pytest

from fundl import logistic_regression as lr
from fundl import softmax_regression as sr

pytestmark = pytest.mark.slow
mp = mpmath.mp.clone()
mp.dps = 45


def binary(name):
    """X, y, l2 of a real problem with two classes that has a minimum."""
    if name in ("spector", "fair", "anes96", "star98"):
        statsmodels = pytest.importorskip("statsmodels.api")
        data = getattr(statsmodels.datasets, name).load_pandas()
        X = data.exog.to_numpy(float)
        if name == "star98":  # shares of pupils: soft labels
            counts = data.endog.to_numpy(float)
            return X, counts[:, 0] / counts.sum(axis=1), 0.0
        if name == "anes96":
            return X[:, :5], data.data["vote"].to_numpy(float), 0.0
        return (
            (X[:, :3] if name == "spector" else X[::4]),
            (data.endog.to_numpy(float) > 0)[:: 1 if name == "spector" else 4] * 1.0,
            0.0,
        )
    datasets = pytest.importorskip("sklearn.datasets")
    name, classes, l2 = name.split()
    data = getattr(datasets, f"load_{name}")()
    if name == "diabetes":
        return data.data, (data.target > 140) * 1.0, float(l2)
    a, b = (int(c) for c in classes.split("/"))
    kept = np.isin(data.target, [a, b])
    return data.data[kept], (data.target[kept] == b) * 1.0, float(l2)


def improved(X, y, l2, params):
    """Newton's method with residuals in 45 digits from float64 values near the optimum; (d + 1, k)."""
    n, d = X.shape
    number, exp = np.frompyfunc(lambda v: mp.mpf(float(v)), 1, 1), np.frompyfunc(mp.exp, 1, 1)
    A = np.column_stack([X, np.ones(n)])
    scale = np.abs(A).max(axis=0)
    scale[scale == 0] = 1
    exact, S = number(A), A / scale
    theta = number(np.vstack([np.asarray(params.w).reshape(d, -1), np.asarray(params.b).reshape(1, -1)]))
    k = theta.shape[1]
    if k > 1:  # exactly the shortest
        theta = theta - theta.sum(axis=1)[:, None] / k
    ridge = number(np.append(np.full(d, l2), 0.0))[:, None]
    targets = number(y[:, None] if k == 1 else np.eye(k)[y])
    for _ in range(15):
        z = exact.dot(theta)
        if k == 1:
            p = 1 / (1 + exp(-z))
        else:
            e = exp(z - z.max(axis=1, keepdims=True))
            p = e / e.sum(axis=1, keepdims=True)
        g = (exact.T.dot(p - targets) + ridge * theta) / number(scale)[:, None]
        largest = max(abs(v) for v in g.ravel())
        if largest == 0:
            return theta
        P = p.astype(float)
        curvature = P[:, :, None] * np.eye(k) - P[:, :, None] * P[:, None, :]
        H = np.einsum("ni,nj,nab->iajb", S, S, (P * (1 - P))[:, :, None] if k == 1 else curvature)
        for a in range(k):
            H[:, a, :, a] += np.diag(np.append(np.full(d, l2), 0.0) / scale**2)
        if k > 1:
            H += np.einsum("ij,ab->iajb", np.diag(np.einsum("iaia->i", H)), np.full((k, k), 1 / k))
        H = H.reshape((d + 1) * k, -1)
        step = -np.linalg.solve(H, (g / largest).astype(float).reshape(-1)).reshape(g.shape)
        step = number(step) * largest / number(scale)[:, None]
        step = step - step.sum(axis=1)[:, None] / k if k > 1 else step
        theta = theta + step
        if all(abs(a) <= abs(b) * mp.mpf(10) ** -33 for a, b in zip(step.ravel(), theta.ravel(), strict=True)):
            return theta
    raise AssertionError("no optimum found")


def digits(found, theta):
    flat = np.vstack([np.asarray(found.w).reshape(len(theta) - 1, -1), np.asarray(found.b).reshape(1, -1)]).ravel()
    errors = [abs(mp.mpf(float(a)) - b) / abs(b) for a, b in zip(flat, theta.ravel(), strict=True) if b != 0]
    return min(float(-mp.log10(max(e, mp.mpf(10) ** -17))) for e in errors)


BINARY = (
    "spector", "fair", "anes96", "star98", "iris 1/2 0", "iris 0/1 1", "wine 1/2 1", "breast_cancer 0/1 1",
    "breast_cancer 0/1 1e-3", "digits 3/8 1", "digits 1/7 0.1", "diabetes 0/1 0",
)  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
def test_two_classes(name):
    X, y, l2 = binary(name)
    found = lr.fit(X, y, l2=l2).check()
    theta = improved(X, y, l2, found.params)
    assert digits(found.params, theta) > 11.5
    program = jax.jit(lambda X, y: lr.fit(X, y, l2=l2))(X, y)
    nonzero = [j for j in range(X.shape[1]) if np.ptp(X[:, j]) > 0]
    assert digits(lr.fit(X[:, nonzero], y, l2=l2, method="newton").params, theta[[*nonzero, -1]]) > 11.5
    assert program.certificate.converged
    narrow = lr.fit(X.astype(np.float32), y.astype(np.float32), l2=l2)
    wide = lr.fit(X.astype(np.float32).astype(float), y.astype(np.float32).astype(float), l2=l2)
    np.testing.assert_allclose(narrow.params.w, wide.params.w, rtol=1e-5)


@pytest.mark.parametrize(("name", "l2"), [("iris", 1.0), ("iris", 1e-2), ("wine", 1.0)])
def test_three_classes(name, l2):
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    found = sr.fit(X, y, l2=l2).check()
    theta = improved(X, y, l2, found.params)
    assert digits(found.params, theta) > 11.5
    assert digits(sr.fit(X, y, l2=l2, method="newton").params, theta) > 11.5
