"""Problems that several questions share: real data of fundl, and synthetic data from a fixed seed."""

from typing import NamedTuple

import numpy as np

from benchmarks import options
from fundl import datasets


class Data(NamedTuple):
    X: np.ndarray
    y: np.ndarray
    k: int  # 1: binary


def standardised(X: np.ndarray) -> np.ndarray:
    spread = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1)


def normal(n: int, d: int, k: int, seed: int = 0) -> Data:
    """Correlated normal columns, labels drawn from a model of the same kind."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X += 0.5 * X[:, rng.permutation(d)]
    W = rng.normal(size=(d, max(k, 1))) * (2 / np.sqrt(d))
    z = X @ W
    if k == 1:
        return Data(X, (rng.random(n) < 1 / (1 + np.exp(-z[:, 0]))).astype(np.int32), 1)
    return Data(X, np.argmax(z + rng.gumbel(size=z.shape), axis=1).astype(np.int32), k)


def like_mnist(n: int = 60000) -> Data:
    """Ten classes of 28 x 28 pictures: a few strokes for each class, moved and blurred, most pixels 0."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, n)
    styles = rng.random((10, 12, 2)) * 18 + 5
    rows, cols = np.arange(28)[:, None], np.arange(28)[None, :]
    X = np.empty((n, 784))
    for start in range(0, n, 4000):
        part = slice(start, min(start + 4000, n))
        points = styles[y[part]] + rng.normal(size=(len(y[part]), 12, 2)) * 1.3 + rng.normal(size=(len(y[part]), 1, 2))
        a = np.exp(-((rows[None, None, :, 0] - points[:, :, :1]) ** 2) / 2.5)
        b = np.exp(-((cols[None, None, 0, :] - points[:, :, 1:]) ** 2) / 2.5)
        picture = np.minimum(np.einsum("npi,npj->nij", a, b), 1)
        X[part] = np.round(np.where(picture > 0.1, picture, 0) * 255).reshape(len(y[part]), 784) / 255
    return Data(X, y.astype(np.int32), 10)


def breast_cancer() -> Data:
    data = datasets.breast_cancer()
    return Data(standardised(np.asarray(data.X, float)), np.asarray(data.y, np.int32), 1)


def digits() -> Data:
    data = datasets.digits()
    return Data(np.asarray(data.X, float) / 16, np.asarray(data.y, np.int32), 10)


REAL = {"569x30": breast_cancer, "1797x64x10": digits, "60000x784x10": like_mnist}


def classes(size: str) -> Data:
    """The data of a size: real or like real for some, else NxD with two classes or NxDxK."""
    if size in REAL:
        return REAL[size]()
    n, d, *k = options.shape(size)
    return normal(n, d, *(k or [1]))
