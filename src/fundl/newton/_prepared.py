"""Concrete rows on the CPU as the solvers in NumPy take them, or None for what is not plainly good."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fundl import _check
from fundl.newton._design import power_of_two
from fundl.newton._passes import LARGE, N, Rows


class Numbers(NamedTuple):
    """The options as Python floats."""

    l2: float
    l1: float
    tol: float
    max_steps: int


class Prepared(NamedTuple):
    """Rows of the design [(X - m) / scale, 1], and the dtype of the result."""

    rows: Rows
    m: N
    scale: N
    dtype: Any


def prepared(X: Any, y: Any, *, k: int | None, weights: Any, intercept: bool) -> Prepared | None:
    """The rows that count, or None; X, y, k=, weights= and intercept= as in `fit_concrete`.

    >>> prepared(np.arange(4.0)[:, None], np.array([0, 1, 0, 1]), k=1, weights=None, intercept=True).m
    array([1.5])
    """
    given = _read(X, y, k, weights)
    if given is None:
        return None
    data, labels, s, classes, soft = given
    dtype = jax.dtypes.canonicalize_dtype(data.dtype)  # of the result: float64 data count as they are
    with np.errstate(all="ignore"):
        return Prepared(*_standardised(data, labels, s, classes, soft, intercept), dtype)


def _on_host(x: Any) -> N | None:
    if isinstance(x, (list, tuple)):
        try:
            x = np.asarray(x)
        except (TypeError, ValueError, jax.errors.JAXTypeError):
            return None
    if isinstance(x, np.ndarray):  # a masked array or a matrix is no array like others
        return x if x.dtype.kind in "fiub" and type(x) in (np.ndarray, np.memmap) else None
    if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer) or x.dtype.name not in _PLAIN:
        return None
    return np.asarray(x) if _check.on_host(x) else None


_PLAIN = ("float64", "float32", "int64", "int32", "int8", "uint8", "bool")


def plain(X: Any, y: Any, weights: Any, k: int | None) -> tuple[N, N, N | None] | None:
    """X, y and weights (None: all are 1) of the rows that count; None for what is not plainly good."""
    X, y = _on_host(X), _on_host(y)
    if X is None or y is None or X.ndim != 2 or y.ndim != 1 or len(X) != len(y) or X.size == 0:
        return None
    floating = [v.dtype for v in (X, y) if v.dtype.kind == "f"]
    if any(v.itemsize not in (4, 8) for v in floating):
        return None
    dtype = np.result_type(*floating) if floating else np.dtype(np.float64)
    X = X.astype(dtype, copy=False)
    s = None
    if weights is not None:
        s = _on_host(weights)
        if s is None or s.shape != y.shape or not np.all(np.isfinite(s) & (s >= 0)):
            return None
        most = s.max(initial=0.0)
        if most > np.finfo(dtype).max or 0 < most < np.finfo(dtype).tiny:
            return None  # the check that all fits share names it
        s = s.astype(dtype, copy=False).astype(np.float64, copy=False)
        keep = s > 0
        if not keep.all():
            X, y, s = X[keep], y[keep], s[keep]
        if np.all(s == 1):
            s = None
    if k == 1:
        y = y.astype(dtype, copy=False) if y.dtype.kind == "f" else y
        good = len(y) == 0 or (y.min() >= 0 and y.max() <= 1)  # which is False with NaN
        y = y.astype(np.float64, copy=False)
    else:
        good = y.dtype.kind in "iu" and np.all(y >= 0)
        y = y.astype(np.int64, copy=False) if good else y  # products with it are to be right
    return (X, y, s) if good else None


def _read(X: Any, y: Any, k: int | None, weights: Any) -> Any:
    """The same with k and whether labels are soft, where every class occurs."""
    given = plain(X, y, weights, k)
    if given is None or len(given[1]) == 0:
        return None
    X, y, s = given
    soft = False
    if k == 1:
        ones = np.count_nonzero(y == 1)
        soft = ones + np.count_nonzero(y == 0) < len(y)
        total = (y.sum() if soft else ones) if s is None else s @ y
        if total <= 0 or total >= (len(y) if s is None else s.sum()):
            return None
        if not soft:
            y = -2 * y
            y += 1
    else:
        counts = np.bincount(y) if y.max() < 10_000 else None
        k = max(int(y.max()) + 1, 2) if k is None else k
        if counts is None or len(counts) > k or len(counts) < k or not counts.all():
            return None
    return X, y, s, k, soft


def numbers(l2: Any, l1: Any, tol: Any, max_steps: Any) -> Numbers | None:
    """The options, or None where one of them is traced or to be refused.

    >>> numbers(np.float32(1), 0, 1e-6, 200)
    Numbers(l2=1.0, l1=0.0, tol=1e-06, max_steps=200)
    """
    given = [_check.real(v) for v in (l2, l1, tol, max_steps)]
    good = [v for v in given if v is not None and 0 <= v < np.inf]
    if len(good) < 4 or good[3] < 1 or good[3] != int(good[3]):
        return None
    return Numbers(good[0], good[1], good[2], int(good[3]))


def _standardised(X: N, y: N, s: N | None, k: int, soft: bool, intercept: bool) -> tuple[Rows, N, N]:
    """The rows with m and scale, from a sample where X is large and its offsets do not matter."""
    rows = Rows(X, y, s, k, soft, intercept, None)
    zero = np.zeros(X.shape[1])
    if X.size > (LARGE if X.shape[1] <= 400 else LARGE // 4):  # of few columns Z is used for the rank
        sample = X[:: max(1, len(X) // 4096, min(X.size >> 20, len(X) // 256))].astype(np.float64, copy=False)
        squares = np.einsum("ij,ij->j", sample, sample) / len(sample)
        scale, m = power_of_two(np.sqrt(squares)), np.ones(len(sample)) @ sample / len(sample)
        if not intercept or np.all(65 * m * m <= 64 * squares) or np.all(np.abs(m) <= scale):
            return rows._replace(scale=scale), zero, scale
    n, d = X.shape
    share = np.full(n, 1 / n) if s is None else s / s.sum()
    Z = np.empty((n, d + 1))
    U = Z[:, :-1]
    m = zero
    if intercept:
        m = share @ X
        np.subtract(X, m, out=U)
        again = share @ U
        sample = U[:: max(1, n // 1024)]
        spread = np.sqrt(np.einsum("ij,ij->j", sample, sample) / len(sample))
        doubtful = np.abs(again) > 1e-3 * spread
        if doubtful.any():  # what a large offset left; a column that does not vary is to be 0
            own = X[:, doubtful].astype(np.float64)
            m[doubtful] = np.clip(m[doubtful] + again[doubtful], own.min(axis=0), own.max(axis=0))
            U[:, doubtful] = own - m[doubtful]
    else:
        U[:] = X
    sample = U[:: max(1, n // 1024)]
    within = np.sqrt(np.einsum("ij,ij->j", sample, sample) / len(sample))
    unseen = ~(within > 1e-100)
    if unseen.any():
        within[unseen] = np.abs(U[:, unseen]).max(axis=0)
    scale = power_of_two(within)
    U /= scale
    Z[:, -1] = float(intercept)
    return rows._replace(X=Z), m, scale
