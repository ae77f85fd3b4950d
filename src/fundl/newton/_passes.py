"""Passes over concrete rows in NumPy: X is read once for margins and gradient, in blocks that stay in the cache."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

N = np.ndarray
EPS32 = float(np.finfo(np.float32).eps)
BLOCK = 1 << 22  # bytes of X in a block
WHOLE = 1 << 26  # bytes of X up to which it is taken as one block
FEW = 32  # classes
LARGE = 1 << 22  # entries of X from which no copy is made


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

    def some(self, rows: slice) -> "Rows":
        """A part of the rows, standardised."""
        X = self.X[rows].astype(np.float64, copy=False)
        X = X if self.scale is None else with_ones(X / self.scale, self.intercept)
        return self._replace(X=X, y=self.y[rows], s=None if self.s is None else self.s[rows], scale=None)

    def blocks(self) -> Iterator[tuple[slice, "Rows"]]:
        """Blocks of float64 that stay in the cache, scaled where they are used; one is gone when the next is there."""
        n, step = len(self.y), rows_of_block(self.X.shape[1], self.k)
        wide = self.X.dtype == np.float64
        room = np.empty((0 if wide else min(step, n), self.X.shape[1]))  # a new one each time would cost more to find
        for start in range(0, n, step):
            at = slice(start, min(start + step, n))
            X = self.X[at]
            if not wide:
                room[: len(X)] = X
                X = room[: len(X)]
            yield at, self._replace(X=X, y=self.y[at], s=None if self.s is None else self.s[at])

    @property
    def total(self) -> float:
        return float(len(self.y) if self.s is None else self.s.sum())

    @property
    def most(self) -> float:
        return 1.0 if self.s is None else float(self.s.max())

    def column_norms(self) -> N:
        step, total = rows_of_block(self.X.shape[1], self.k), np.zeros(self.X.shape[1])
        for start in range(0, len(self.y), step):
            X = self.X[start : start + step]
            total += np.einsum("ij,ij->j", X, X)
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


def with_ones(X: N, intercept: bool) -> N:
    """X and a last column of ones; of zeros without intercept."""
    return np.concatenate([X, np.full((len(X), 1), float(intercept), X.dtype)], axis=1)


def logits(rows: Rows, theta: N) -> N:
    """Z theta (n, k); of few classes each column is contiguous, which makes sums over them faster."""
    if rows.k == 1:
        v = theta[:, 0]
        z = rows.X @ v if rows.scale is None else rows.X @ (v[:-1] / rows.scale) + v[-1]
        return z[:, None]
    v = theta if rows.scale is None else theta[:-1] / rows.scale[:, None]
    z = (v.T @ rows.X.T).T if rows.k <= FEW else rows.X @ v
    return z if rows.scale is None else z + theta[-1]


def back(rows: Rows, alpha: N) -> N:
    """Z^T alpha (D, k)."""
    g = (alpha[:, 0] @ rows.X)[:, None] if rows.k == 1 else (alpha.T @ rows.X).T
    if rows.scale is None:
        return g
    return np.concatenate([g / rows.scale[:, None], alpha.sum(axis=0, keepdims=True) * rows.intercept])


def loss(rows: Source, z: N) -> tuple[float, N, N]:
    """sum_i s_i L_i; alpha_i = s_i dL_i/dz_i without cancellation (n, k); probabilities: of the error for k = 1."""
    s = rows.s
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
            L = np.log1p(1 / e) if e.min() > 1e-300 else np.log1p(np.exp(-np.abs(u))) + np.maximum(u, 0)
        if s is None:
            return float(L.sum()), a[:, None], p[:, None]
        return float(s @ L), (s * a)[:, None], p[:, None]
    here = np.arange(len(z)), rows.y
    d = z - z.max(axis=1, keepdims=True)
    e = np.exp(d)
    own = e[here]
    e[here] = 0
    others = e.sum(axis=1)
    total = own + others
    # L = log(total / own): log1p of the others where the own class leads
    if own.min() > 1e-300:
        L = np.log1p(others / own)
    else:
        L = np.where(own > others, np.log1p(others / np.maximum(own, 1e-300)), np.log(total) - d[here])
    e /= total[:, None]
    p = e.copy()
    p[here] = own / total
    e[here] = -others / total
    if s is None:
        return float(L.sum()), e, p
    return float(s @ L), e * s[:, None], p


def rows_of_block(D: int, k: int) -> int:
    """Rows of a block with D columns."""
    return max(256, BLOCK // (8 * D + 32 * k))


def recession(rows: Rows, dz: N) -> float:
    """How fast any row's loss grows at last along dz, as `_links.recession`; 0 where none does."""
    if rows.k == 1:
        v = dz[:, 0]
        return float(np.max(np.where(v > 0, 1 - rows.y, -rows.y) * v if rows.soft else np.maximum(rows.y * v, 0)))
    return float(np.max(dz.max(axis=1) - dz[np.arange(len(dz)), rows.y]))


def at(rows: Rows, theta: N) -> Pass:
    """The pass over rows that are few."""
    z = logits(rows, theta)
    f, a, p = loss(rows, z)
    return Pass(f, back(rows, a), float(np.sqrt(np.vdot(a, a))), z, p)


def full(rows: Source, theta: N) -> Pass:
    """f, gradient and logits at theta, in one pass."""
    if isinstance(rows, Rows) and rows.scale is None and rows.X.nbytes <= WHOLE:
        return at(rows, theta)
    f, g, square = 0.0, np.zeros_like(theta), 0.0
    z = np.empty((len(rows.y), rows.k), order="F" if rows.k <= FEW else "C")
    for part, block in rows.blocks():
        here = at(block, theta)
        f, g, square, z[part] = f + here.f, g + here.g, square + here.alpha**2, here.z
    return Pass(f, g, float(np.sqrt(square)), z, np.empty((0, rows.k)))


def value(rows: Source, theta: N) -> float:
    """f alone."""
    return sum(loss(block, logits(block, theta))[0] for _, block in rows.blocks())


def hessian(rows: Rows, p: N) -> N:
    """sum_i s_i z_i z_i^T (diag(p_i) - p_i p_i^T), p_i (1 - p_i) for one logit: (D k, D k); of standardised rows."""
    k, D = rows.k, rows.X.shape[1]
    if k == 1:
        h = p[:, 0] * (1 - p[:, 0])
        return weighted_gram(rows.X, h if rows.s is None else h * rows.s)
    blocks, H, step = np.zeros((D, k, D), p.dtype), np.zeros((k * D, k * D), p.dtype), 1 << 10
    for start in range(0, len(p), step):
        X, c = rows.X[start : start + step], np.ascontiguousarray(p[start : start + step])
        if rows.s is not None:
            X = np.sqrt(rows.s[start : start + step])[:, None] * X
        A = (c[:, :, None] * X[:, None, :]).reshape(len(X), k * D)
        blocks += (X.T @ A).reshape(D, k, D)
        H -= A.T @ A  # of a matrix with itself: half the work
    H = H.reshape(k, D, k, D).transpose(1, 0, 3, 2).copy()
    for a in range(k):
        H[:, a, :, a] += blocks[:, a]
    return H.reshape(D * k, D * k)


def weighted_gram(X: N, c: N) -> N:
    """X^T diag(c) X; for c >= 0 as a product of one matrix with itself, which is half the work."""
    if len(X) * X.shape[1] > 1 << 16 and c.min() >= 0:
        R = X * np.sqrt(c)[:, None]
        return R.T @ R
    return X.T @ (c[:, None] * X)
