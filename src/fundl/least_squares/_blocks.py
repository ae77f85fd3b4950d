"""Sums over the rows of concrete arrays in plain floats, block by block so that each block stays in the cache.

Narrow blocks run on as many threads as there are processors; wide ones leave them to numpy's matrix product.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fundl._threads import in_pieces, on_all, processors

ENTRIES = 1 << 18  # of a block
MANY = 128  # columns from which it is worth much that numpy, which mirrors each product A^T A, forms few of them
LONG = 1 << 14  # rows of a block then
NARROW = 48  # columns up to which numpy's product of a block gains nothing from a second thread
PIECE = 256  # rows of a product so small that BLAS takes one thread, where its threads would wait for ours
ALONE = 1e-10  # 1 - h of an example that alone decides its prediction, but for rounding
WORTH_IT = 1 << 19  # entries of X from which a second thread pays


class Rows(NamedTuple):
    """X (n, d), Y (n, k) and weights (n,) or None, with the centre that is taken from each row."""

    X: np.ndarray
    Y: np.ndarray
    s: np.ndarray | None
    c: np.ndarray
    cy: np.ndarray


def means(A: np.ndarray, s: np.ndarray | None) -> np.ndarray:
    """The (weighted) means of the columns; of one that does not vary its very value, so that nothing is left of it.

    Else the rounding of its mean would be a direction of the data.
    """
    used = range(len(A)) if s is None else np.flatnonzero(s)
    c = A.mean(axis=0, dtype=np.float64) if s is None else s @ A / s.sum()
    first, middle, last = (A[used[i]] for i in (0, len(used) // 2, -1))
    same = np.flatnonzero((first == middle) & (first == last))
    if same.size:
        constant = same[(A[:, same] == first[same]).all(axis=0, where=True if s is None else (s > 0)[:, None])]
        c[constant] = first[constant]
    return c


def blocks(n: int, d: int, least: int = 256) -> list[slice]:
    """Slices of the rows."""
    rows = min(max(ENTRIES // max(d, 1), least), 16384)
    return [slice(i, min(i + rows, n)) for i in range(0, n, rows)]


def gram(rows: Rows, intercept: bool, dtype: Any) -> np.ndarray:
    """Z^T S Z for Z = [X - c, Y - cy, 1] (the ones with an intercept only), in float64 from products in `dtype`."""
    n, d = rows.X.shape
    k = rows.Y.shape[1]
    p = d + k + intercept
    cy = rows.cy.astype(dtype)
    threads = p <= NARROW and n * p >= WORTH_IT

    def part(given: list[slice]) -> np.ndarray:
        total, room = np.zeros((p, p)), np.empty((d, d), dtype)
        for at, A in _centred(rows, given, dtype, own=rows.s is not None):
            V = np.ones((p - d, len(A)), dtype)
            np.subtract(rows.Y[at].T, cy[:, None], out=V[:k], dtype=dtype, casting="same_kind")
            if rows.s is not None:
                root = np.sqrt(rows.s[at]).astype(dtype)
                A *= root[:, None]
                V *= root
            total[d:, d:] += V @ V.T
            if threads and dtype == np.float64:  # so narrow that it is not the work that counts
                total[:d, :d] += in_pieces(A, A, PIECE)
                total[d:, :d] += in_pieces(V.T, A, PIECE)
                continue
            # numpy hands A^T A to syrk: half the work
            if at is given[0] and dtype == np.float64:
                np.matmul(A.T, A, out=total[:d, :d])
            else:
                total[:d, :d] += np.matmul(A.T, A, out=room)
            # Of few rows each by itself: the product of a matrix would take twice as long.
            total[d:, :d] += [v @ A for v in V] if len(V) <= 4 else V @ A
        total[:d, d:] = total[d:, :d].T
        return total

    in_place = rows.s is None and rows.X.dtype == dtype and not rows.c.any()
    return shared(part, blocks(n, p, LONG if in_place and d >= MANY else max(4 * p, 1024)), threads=threads)


def _centred(rows: Rows, given: list[slice], dtype: Any, *, own: bool = False) -> Iterator[tuple[slice, np.ndarray]]:
    """X - c in `dtype`, block by block: X itself where that changes nothing, unless it is to be changed (own)."""
    c = rows.c.astype(dtype)
    moved = bool(c.any())
    copied = own or moved or rows.X.dtype != dtype
    room = np.empty((given[0].stop - given[0].start if copied else 0, rows.X.shape[1]), dtype)
    for at in given:
        A = rows.X[at]
        if copied:
            room[: len(A)] = A
            A = room[: len(A)]
        if moved:
            A -= c
        yield at, A


class Residuals(NamedTuple):
    """Of r = Y - cy - (X - c) slope - beta: (X - c)^T S r, sums of s r, s r^2 and of the squared sizes of its terms."""

    g: np.ndarray
    g0: np.ndarray
    rss: np.ndarray
    noise: np.ndarray


def residuals(rows: Rows, slope: np.ndarray, beta: np.ndarray, dtype: Any) -> Residuals:
    """One pass over the data in `dtype`."""
    n, d = rows.X.shape
    k = rows.Y.shape[1]

    def part(given: list[slice]) -> Residuals:
        g, g0, rss = np.zeros((d, k), dtype), np.zeros(k, dtype), np.zeros(k, dtype)
        noise = np.zeros(k)
        for at, A in _centred(rows, given, dtype):
            moved = A @ slope if dtype == np.float64 else _long_product(A, slope)
            moved += beta
            r = rows.Y[at] - rows.cy.astype(dtype)
            size = np.abs(r)
            size += np.abs(moved)
            r -= moved
            q = r if rows.s is None else r * rows.s[at][:, None]
            g += (q.T @ A).T
            g0 += q.sum(axis=0)
            rss += np.einsum("nk,nk->k", q, r)
            weighted = size if rows.s is None else size * rows.s[at][:, None]
            noise += np.einsum("nk,nk->k", size, weighted).astype(np.float64)
        return Residuals(g, g0, rss, noise)

    return shared(part, blocks(n, d), threads=d <= 4 * NARROW and n * d >= WORTH_IT)


def squares(
    rows: Rows, w: np.ndarray, left_out: tuple[np.ndarray, np.ndarray, float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """sum_i s_i r_i^2 for r = Y - cy - (X - c) w of many fits w (m, d, k), and of r_i / (1 - h_i) with `left_out`.

    left_out = (V, F, a) for h_i = s_i (a + sum_r ((x_i - c) V)_r^2 F_rm); where rounding leaves no 1 - h_i it is NaN.
    """
    (n, d), (m, _, k) = rows.X.shape, w.shape
    V, F, share = left_out or (np.zeros((d, 0)), np.zeros((0, m)), 0.0)
    # What is to be added is a column of the product: r = [a, T] [-w; 1] and 1 - h = [(a V)^2, 1 - s share] [-F; 1].
    W = np.concatenate([-w.transpose(1, 0, 2).reshape(d, m * k), np.tile(np.eye(k), (1, m))])
    F = np.concatenate([-F, np.ones((1, F.shape[1]))])
    size = max(ENTRIES // 2 // (m * k + d), 256)
    A, B, R, H = (np.empty((min(size, n), v)) for v in (d + k, len(F), m * k, F.shape[1]))
    rss, loo = np.zeros((m, k)), np.zeros((m, k))
    for at in (slice(i, min(i + size, n)) for i in range(0, n, size)):
        a, b, r, h = (v[: at.stop - at.start] for v in (A, B, R, H))
        np.subtract(rows.X[at], rows.c, out=a[:, :d])
        np.subtract(rows.Y[at], rows.cy, out=a[:, d:])
        if rows.s is not None:
            a *= np.sqrt(rows.s[at])[:, None]
        r = np.matmul(a, W, out=r).reshape(-1, m, k)
        rss += np.einsum("nmk,nmk->mk", r, r)
        if left_out is not None:
            np.matmul(a[:, :d], V, out=b[:, :-1])
            b *= b
            b[:, -1] = 1 - share * (1.0 if rows.s is None else rows.s[at])
            np.matmul(b, F, out=h)
            if h.min() < ALONE:
                h[h < ALONE] = np.nan
            r /= h[:, :, None]
            loo += np.einsum("nmk,nmk->mk", r, r)
    return rss, loo


def _long_product(A: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A v in extended precision: numpy's einsum of one column is three times as fast as its product."""
    return np.stack([np.einsum("nd,d->n", A, column) for column in np.ascontiguousarray(v.T)], axis=1)


def triangle(rows: Rows, scale: np.ndarray, penalty: np.ndarray, intercept: bool) -> np.ndarray:
    """R (d, d) of the QR factors of the centred columns over `scale`, with the rows of the penalty, block by block.

    A column of ones goes first, so that the rest of R is that of columns without it.
    """
    n, d = rows.X.shape
    R = np.concatenate([np.zeros((d, int(intercept))), np.diag(np.sqrt(penalty))], axis=1)
    size = max(4 * d, ENTRIES // d)
    for i in range(0, n, size):
        Z = (rows.X[i : i + size] - rows.c) / scale
        if intercept:
            Z = np.concatenate([np.ones((len(Z), 1)), Z], axis=1)
        if rows.s is not None:
            Z = Z * np.sqrt(rows.s[i : i + size])[:, None]
        R = np.asarray(np.linalg.qr(np.concatenate([R, Z]), mode="r"))
    return R[int(intercept) :, int(intercept) :]


def shared(part: Callable[[list[slice]], Any], given: list[slice], *, threads: bool) -> Any:
    """The sum of part(...) over the blocks, split among the processors; the order of the sum is fixed."""
    workers = min(processors(), len(given) // 2) if threads else 1
    if workers < 2:
        return part(given)
    size = -(-len(given) // workers)
    return functools.reduce(_added, on_all(part, [given[i : i + size] for i in range(0, len(given), size)]))


def _added(a: Any, b: Any) -> Any:
    return type(a)(*map(np.add, a, b)) if isinstance(a, tuple) else a + b


def sample(n: int, limit: int = 256) -> slice:
    """Some rows, evenly spread."""
    return slice(None, None, max(n // limit, 1))
