"""Work in NumPy on all processors: threads suffice, since products and loops over arrays leave Python free."""

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

TOGETHER = 16  # rows of a piece of a product
PIECE = 1 << 18  # of multiplications, up to which OpenBLAS takes one thread and no lock
TALL = 4096  # rows or columns from which a product is left to the threads of BLAS


@functools.cache
def processors() -> int:
    """Those that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def on_all(work: Callable[[Any], Any], items: Iterable[Any], most: int | None = None) -> list[Any]:
    """work(item) of every item, in their order, on at most so many processors.

    NumPy's warnings are off: threads start with its default state.
    """

    def quietly(item: Any) -> Any:
        with np.errstate(all="ignore"):
            return work(item)

    given = list(items)
    workers = min(most or processors(), len(given))
    if workers < 2:
        return [quietly(item) for item in given]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(quietly, given))


def in_pieces(A: np.ndarray, B: np.ndarray, rows: int) -> np.ndarray:
    """A^T B in float64 from products of so many rows, in the dtype of A and B.

    Small products take no lock of OpenBLAS, and short sums round little, also those of equal rows, which round alike.
    """
    whole = len(A) // rows * rows
    a, b = (v[:whole].reshape(-1, rows, v.shape[1]) for v in (A, B))
    return (a.transpose(0, 2, 1) @ b).sum(axis=0, dtype=np.float64) + A[whole:].T @ B[whole:]


def product(A: np.ndarray, B: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """A @ B; of many rows in small pieces: the threads of BLAS would wait for those that run other chunks."""
    C, K, columns = len(A), len(B), B.shape[1]
    if max(K, columns) > TALL:
        return np.matmul(A, B, out=out)
    out = np.empty((C, columns), A.dtype) if out is None else out
    if K == 0:
        out[:] = 0
        return out
    deep = min(K, 256)
    wide = max(PIECE // (TOGETHER * deep), 16)
    full = C - C % TOGETHER
    for rows, shape in ((slice(full), (-1, TOGETHER)), (slice(full, C), (1, C - full))):
        if rows.start == C or rows.stop == 0:
            continue
        a, c = A[rows].reshape(*shape, K), out[rows].reshape(*shape, columns)
        for j in range(0, columns, wide):
            part = c[..., j : j + wide]
            np.matmul(a[..., :deep], B[:deep, j : j + wide], out=part)
            for i in range(deep, K, deep):
                part += a[..., i : i + deep] @ B[i : i + deep, j : j + wide]
    return out
