"""Passes over concrete rows in NumPy: X is read once for margins and gradient, in blocks that stay in the cache."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from fundl._threads import in_pieces

N = np.ndarray
EPS32 = float(np.finfo(np.float32).eps)
BLOCK = 1 << 22  # bytes of X in a block
WHOLE = 1 << 26  # bytes of X up to which it is taken as one block
FEW = 32  # classes
PIECE = 128  # rows of a sum in float32
LARGE = 1 << 22  # entries of X from which it is not standardised as a whole


class Source(Protocol):
    """Rows of the design Z = [(X - m) / scale, 1], wherever they are: what a solver asks of them."""

    @property
    def y(self) -> N: ...  # as in `Rows`, and s, k, soft and intercept too
    @property
    def s(self) -> N | None: ...
    @property
    def k(self) -> int: ...
    @property
    def soft(self) -> bool: ...
    @property
    def intercept(self) -> bool: ...
    @property
    def dtype(self) -> type: ...
    @property
    def total(self) -> float: ...  # the sum of the weights
    @property
    def most(self) -> float: ...  # the largest weight
    def column_norms(self) -> N: ...  # norm2 of every column of Z (D,)
    def blocks(self) -> Iterator[tuple[slice, "Rows"]]: ...  # all rows, once


class Rows(NamedTuple):
    """n rows of the design Z = [(X - m) / scale, 1]: Z itself or, for large X, the data, scaled where they are used."""

    X: N  # (n, D), standardised with the column of ones, where `scale` is None; (n, d), the data, where it is not
    y: N  # sigmoid: 1 - 2 y, and y itself for soft labels; softmax: integer classes
    s: N | None  # (n,)
    k: int  # 1: sigmoid
    soft: bool  # labels between 0 and 1
    intercept: bool
    scale: N | None  # (d,)
    dtype: type = np.float64  # of the passes

    def some(self, rows: slice) -> "Rows":
        """A part of the rows, standardised."""
        X = self.X[rows]
        if self.scale is None:
            X = X.astype(self.dtype, copy=False)
        else:
            data, X = X, np.empty((len(X), X.shape[1] + 1), self.dtype)
            scale = self.scale.astype(data.dtype) if within_single(self.scale) else self.scale  # powers of 2
            np.divide(data, scale, out=X[:, :-1], casting="same_kind")
            X[:, -1] = self.intercept
        return self._replace(X=X, y=self.y[rows], s=None if self.s is None else self.s[rows], scale=None)

    def single(self) -> "Rows":
        """The same with passes in float32."""
        y = self.y.astype(np.float32) if self.k == 1 else self.y
        return self._replace(y=y, s=None if self.s is None else self.s.astype(np.float32), dtype=np.float32)

    @property
    def within_single(self) -> bool:
        """float32 holds the weights."""
        return self.s is None or within_single(self.s)

    @property
    def held_in_single(self) -> bool:
        """A pass in float32 reads the data as they are."""
        return (
            self.X.dtype == np.float32 and self.scale is not None and within_single(self.scale) and self.within_single
        )

    def blocks(self) -> Iterator[tuple[slice, "Rows"]]:
        """Blocks that stay in the cache, scaled where they are used; one is gone when the next is there."""
        n, step = len(self.y), rows_of_block(self.X.shape[1], self.k)
        as_is = self.X.dtype == self.dtype
        room = np.empty((0 if as_is else min(step, n), self.X.shape[1]), self.dtype)  # one, which the cache keeps
        for start in range(0, n, step):
            at = slice(start, min(start + step, n))
            X = self.X[at]
            if not as_is:
                room[: len(X)] = X
                X = room[: len(X)]
            yield at, self._replace(X=X, y=self.y[at], s=None if self.s is None else self.s[at])

    def standardised(self) -> Iterator["Rows"]:
        """The same blocks, of Z."""
        for _, block in self.blocks():
            yield block.some(slice(None))

    @property
    def total(self) -> float:
        return float(len(self.y) if self.s is None else self.s.sum())

    @property
    def most(self) -> float:
        return 1.0 if self.s is None else float(self.s.max())

    def column_norms(self) -> N:
        (n, D), step = self.X.shape, rows_of_block(self.X.shape[1], self.k)
        abreast = max(1, 2048 // D)  # rows taken as one, which makes the inner loop longer
        wide = np.zeros(abreast * D)
        for start in range(0, n, step):
            X = self.X[start : start + step]
            whole = len(X) // abreast * abreast
            for V in (X[:whole].reshape(-1, abreast * D), X[whole:]):
                wide[: V.shape[1]] += np.einsum("ij,ij->j", V, V)
        total = wide.reshape(abreast, D).sum(axis=0)
        if self.X.dtype != np.float64:
            total *= 1 + step * EPS32  # what the sums of a block may have lost
            if not ((total > 1e-20) & (total < np.inf)).all():  # float32 may not hold the squares
                total[:] = 0
                for _, block in self.blocks():
                    total += np.einsum("ij,ij->j", block.X, block.X)
        if self.scale is None:
            return np.sqrt(total)
        return np.append(np.sqrt(total) / self.scale, np.sqrt(len(self.y)) if self.intercept else 0.0)


class Pass(NamedTuple):
    """What one pass finds at theta."""

    f: float  # sum_i s_i L_i
    g: N  # (D, k), of that
    alpha: float  # norm2 of dL/dz
    z: N  # (n, k)
    p: N  # probabilities (n, k), of the error for k = 1; none where the rows are not one block


def logits(rows: Rows, theta: N) -> N:
    """Z theta (n, k); of few classes each column is contiguous, which makes sums over them faster."""
    v = theta if rows.scale is None else np.append(theta[:-1] / rows.scale[:, None], theta[-1:], axis=0)
    v = v.astype(rows.X.dtype, copy=False)
    w = v if rows.scale is None else v[:-1]
    z = (w.T @ rows.X.T).T if rows.k <= FEW else rows.X @ w
    return z if rows.scale is None else z + v[-1]


def back(rows: Rows, alpha: N) -> N:
    """Z^T alpha (D, k)."""
    # A proof from float32 passes, of one logit only, rests on sums that lose no more than `_certainty.rounding` allows.
    short = alpha.dtype == np.float32 and rows.k == 1
    g = in_pieces(rows.X, alpha, PIECE) if short else rows.X.T @ alpha
    if rows.scale is None:
        return g
    return np.concatenate([g / rows.scale[:, None], alpha.sum(axis=0, keepdims=True) * rows.intercept])


def loss(rows: Source, z: N, wanted: bool = True) -> tuple[float, N, N]:
    """sum_i s_i L_i; alpha_i = s_i dL_i/dz_i without cancellation (n, k); if wanted p, of the error for k = 1."""
    s, tiny = rows.s, np.finfo(z.dtype).tiny
    if rows.k == 1:
        if rows.soft:
            y, v = rows.y, z[:, 0]
            e = np.exp(-np.abs(v))
            small, one = e / (1 + e), 1 / (1 + e)
            up = v > 0
            p = np.where(up, one, small)
            a = (1 - y) * p - y * np.where(up, small, one)
            L = np.log1p(e) + np.where(up, (1 - y) * v, -y * v)
        else:
            u = rows.y * z[:, 0]  # the label is wrong where u > 0: L = log(1 + exp(u))
            e = np.exp(-u)
            p = 1 / (1 + e)
            a = rows.y * p
            L = np.log1p(1 / e) if e.min() > tiny else np.log1p(np.exp(-np.abs(u))) + np.maximum(u, 0)
        a, p = a[:, None], p[:, None]
    else:
        n, k = z.shape
        top = z.max(axis=1, keepdims=True)
        e = z - top
        here = np.arange(n) * k + rows.y if e.flags.c_contiguous else rows.y * n + np.arange(n)
        np.exp(e, out=e)
        flat = e.ravel(order="K")  # the same memory
        own = flat[here]
        flat[here] = 0
        others = e.sum(axis=1)
        total = own + others
        # L = log(total / own): log1p of the others where the own class leads
        if own.min() > tiny:
            L = np.log1p(others / own)
        else:
            d = z[np.arange(n), rows.y] - top[:, 0]
            L = np.where(own > others, np.log1p(others / np.maximum(own, tiny)), np.log(total) - d)
        e /= total[:, None]
        p = e.copy(order="K") if wanted else np.empty((0, k))
        if wanted:
            p.ravel(order="K")[here] = own / total
        flat[here] = -others / total
        a = e
    if s is None:
        return float(L.sum(dtype=np.float64)), a, p
    return float((s * L).sum(dtype=np.float64)), a * s[:, None], p


def bend(rows: Rows, p: N, dz: N) -> float:
    """The second derivative of sum_i s_i L_i along dz, where the probabilities are p."""
    h = p * (1 - p) * dz * dz if rows.k == 1 else p * (dz - np.einsum("nk,nk->n", p, dz)[:, None]) ** 2
    return float(np.sum(h if rows.s is None else h * rows.s[:, None]))


def rows_of_block(D: int, k: int) -> int:
    """Rows of a block with D columns."""
    return max(256, BLOCK // (8 * D + 32 * k))


def recession(rows: Rows, dz: N) -> float:
    """How far any row's label falls behind along dz, as `_links.recession`; 0 where none does."""
    if rows.k == 1:
        v = dz[:, 0]
        behind = np.where(v > 0, rows.y < 1, rows.y > 0) if rows.soft else rows.y * v > 0
        return float(np.max(np.abs(v) * behind))
    return float(np.max(dz.max(axis=1) - dz[np.arange(len(dz)), rows.y]))


def probabilities(rows: Rows, theta: N) -> N:
    """Those of `loss`."""
    return loss(rows, logits(rows, theta))[2]


def at(rows: Rows, theta: N, wanted: bool = True) -> Pass:
    """The pass over rows that are few, with their probabilities if wanted."""
    z = logits(rows, theta)
    f, a, p = loss(rows, z, wanted)
    flat = a.ravel(order="K")
    return Pass(f, back(rows, a), float(np.sqrt(flat @ flat)), z, p)


def full(rows: Source, theta: N) -> Pass:
    """f, gradient and logits at theta, in one pass."""
    if isinstance(rows, Rows) and rows.scale is None and rows.X.nbytes <= WHOLE:
        return at(rows, theta)
    f, g, square = 0.0, np.zeros_like(theta), 0.0
    z = np.empty((len(rows.y), rows.k), rows.dtype, order="F" if rows.k <= FEW else "C")
    for part, block in rows.blocks():
        here = at(block, theta, False)
        f, g, square, z[part] = f + here.f, g + here.g, square + here.alpha * here.alpha, here.z
    return Pass(f, g, float(np.sqrt(square)), z, np.empty((0, rows.k)))


def value(rows: Source, theta: N) -> float:
    """f alone."""
    return sum(loss(block, logits(block, theta), False)[0] for _, block in rows.blocks())


def hessian(rows: Rows, p: N) -> N:
    """sum_i s_i z_i z_i^T (diag(p_i) - p_i p_i^T), p_i (1 - p_i) for one logit: (D k, D k); of standardised rows.

    As float64, from products in the dtype of the rows and p.
    """
    k, D = rows.k, rows.X.shape[1]
    if k == 1:
        h = p[:, 0] * (1 - p[:, 0])
        return weighted_gram(rows.X, h if rows.s is None else h * rows.s).astype(np.float64, copy=False)
    H, step = np.zeros((k * D, k * D), p.dtype), 1 << 10
    room = np.empty((k, D, min(step, len(p))), p.dtype)
    for start in range(0, len(p), step):
        part = slice(start, start + step)
        X, c = np.array(rows.X[part].T, order="C"), np.ascontiguousarray(p[part].T)
        if rows.s is not None:
            X *= np.sqrt(rows.s[part])
        A = np.multiply(c[:, None], X, out=room[:, :, : X.shape[1]]).reshape(k * D, -1)
        H -= A @ A.T  # of a matrix with itself: half the work
    H = H.reshape(k, D, k, D).astype(np.float64)
    for a in range(k):  # p_a (1 - p_a) is the sum of p_a p_b over the others: no product, and no digit of 1 - p_a lost
        H[a, :, a] = 0
        H[a, :, a] = -H[a].sum(axis=1)
    return H.transpose(1, 0, 3, 2).reshape(D * k, D * k)


def weighted_gram(X: N, c: N) -> N:
    """X^T diag(c) X for c >= 0, as products of one matrix with itself, which is half the work, in blocks."""
    n, D = X.shape
    root, step = np.sqrt(c)[:, None], rows_of_block(D, 1)
    room = np.empty((min(step, n), D), np.result_type(X, c))
    G = np.zeros((D, D), room.dtype)
    for start in range(0, n, step):
        part = X[start : start + step]
        R = np.multiply(part, root[start : start + step], out=room[: len(part)])
        G += R.T @ R
    return G


def within_single(v: N) -> bool:
    """float32 holds products and quotients of v > 0 with numbers that are not extreme."""
    return bool(np.all((v > 1e-15) & (v < 1e15)))
