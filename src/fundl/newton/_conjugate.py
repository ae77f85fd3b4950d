"""Newton's method on concrete rows for many columns or classes: Hessians are only multiplied by vectors, in float32.

The gradient stays in float64 and is that of all rows, so nothing of the sample or of float32 is left in the minimum.
"""

import functools
from typing import NamedTuple

import numpy as np

from fundl._precise import inverse_of_lower
from fundl.newton import _passes
from fundl.newton._passes import N, Rows, Source
from fundl.newton._sampled import Found, Memory, quadratic, rank, rounding, sample

EPS = float(np.finfo(np.float64).eps)
LITTLE = 5_000_000  # n d k up to which no sample is taken
NARROW = 1000  # columns up to which the preconditioner is a matrix
ENTRIES = 1 << 24  # of the preconditioners of all classes
GRAM = 8192  # rows of the preconditioner, about
MOST = 200  # products for one step


class Curvature(NamedTuple):
    """The inverse Hessian of a fit near by, in the coordinates theta' of its own design: theta = change theta'."""

    inverse: N  # (D k, D k), float32: it preconditions only
    change: N  # (D, D), float32

    def times(self, r: N) -> N:
        """An approximation of H^-1 r."""
        D = len(self.change)
        v = (self.inverse @ (self.change.T @ r[:D]).reshape(-1)).reshape(D, -1)
        return np.concatenate([self.change @ v, r[D:]])


class Model(NamedTuple):
    """The Hessian at a theta, from sampled rows, and what preconditions it."""

    X: N  # (m, D), float32, with columns of zeros up to a multiple of 16, for the speed of the products
    p: N  # (m, k), float32: probabilities of the classes, or the weighted curvature of a single logit
    s: N  # (m, 1), float32
    K: N  # (D, 1), float32
    inverse: N | Curvature  # (D, D) for all classes, (k, D, D) or, of a diagonal, (D, 1); float32
    spent: list[int]  # products of each solve

    def times(self, v: N) -> N:
        """H v."""
        if self.p.shape[1] == 1:
            u = self.X @ v[:, 0]
            u *= self.p[:, 0]
            return self.K * v + (u @ self.X)[:, None]
        u = self.X @ v
        u = self.p * (u - np.einsum("nk,nk->n", self.p, u)[:, None])
        u *= self.s
        return self.K * v + (u.T @ self.X).T

    @property
    def for_each(self) -> bool:
        """One preconditioner for each class."""
        return isinstance(self.inverse, np.ndarray) and self.inverse.ndim == 3

    def precondition(self, r: N) -> N:
        if isinstance(self.inverse, Curvature):
            return self.inverse.times(r)
        if self.for_each:
            return (self.inverse @ np.ascontiguousarray(r.T)[:, :, None])[:, :, 0].T
        return self.inverse * r if self.inverse.shape[1] == 1 else self.inverse @ r

    def solve(self, g: N, accuracy: float) -> N:
        """H^-1 g by preconditioned conjugate gradients."""
        if g.shape[1] > 1:  # the same for all classes is rounding alone, and H hardly bends there
            g = g - g.mean(axis=1, keepdims=True)
        size = float(np.linalg.norm(g))
        r = padded(g / size)
        x = np.zeros_like(r)
        y = self.precondition(r)
        d, rho = y, float(np.vdot(r, y))
        first = rho
        self.spent.append(0)
        for _ in range(MOST):
            self.spent[-1] += 1
            Hd = self.times(d)
            curve = float(np.vdot(d, Hd))
            if not curve > 0:
                break
            a = np.float32(rho / curve)
            x += a * d
            r = r - a * Hd
            y = self.precondition(r)
            before, rho = rho, float(np.vdot(r, y))
            if not rho > accuracy * accuracy * first:
                break
            d = y + np.float32(rho / before) * d
        x = x[: len(g)].astype(np.float64) * size
        return x - x.mean(axis=1, keepdims=True) if x.shape[1] > 1 else x


def inverse_of(M: N) -> N:
    """M^-1 of a positive definite matrix, in float32: less than half the work of `numpy.linalg.inv`."""
    L = inverse_of_lower(np.linalg.cholesky(M)).astype(np.float32)
    return L.T @ L


def padded(A: N, fill: float = 0.0) -> N:
    """A in float32, its first axis filled up to a multiple of 16 where it is long."""
    more = -len(A) % 16 if len(A) > 64 else 0
    return np.pad(A.astype(np.float32), [(0, more)] + [(0, 0)] * (A.ndim - 1), constant_values=fill)


def model(part: Rows, narrow: N, times: float, K: N, p: N, old: Model | None, near: Curvature | None) -> Model:
    """The model where the probabilities are p.

    The preconditioner of the old one serves again where that costs less than a new one: about D^3 + m D^2 for one
    matrix from m rows, against 4 n D k for a product, which is a fifth as fast. Where a matrix for each class is soon
    paid for, it takes a third to a half of the products.
    """
    s = np.full((len(part.y), 1), times) if part.s is None else times * part.s[:, None]
    each = (p * (1 - p) * s).astype(np.float32)
    mean = each.mean(axis=1, keepdims=True)
    p = mean if part.k == 1 else p.astype(np.float32)
    free = 0.0 if part.intercept else 1.0
    K, last = padded(K, 1.0), len(K) - 1
    n, D = narrow.shape
    stride = max(1, n // GRAM)
    kept, curvature = near, mean
    if near is None and old is not None:
        spent = 20 * n * old.spent[-1]
        dear = spent > 3 * (D * D + n // stride * D)
        if D > NARROW or spent * part.k <= D * D + n * D or (old.for_each and not dear):
            kept = old.inverse
        elif dear and 1 < part.k <= ENTRIES // D**2:
            curvature = each
    if kept is not None:
        return Model(narrow, p, s.astype(np.float32), K[:, None], kept, [])
    if D <= NARROW:
        inverses = []
        for own in curvature[::stride].T:
            M = stride * _passes.weighted_gram(narrow[::stride], own).astype(np.float64)
            M.flat[:: D + 1] += K + 1e-6 * M.diagonal()
            M[last, last] += free
            try:
                inverses.append(inverse_of(M))
            except np.linalg.LinAlgError:  # columns that depend on each other to float32
                inverses.append(np.linalg.inv(M))
        inverse = inverses[0] if len(inverses) == 1 else np.stack(inverses)
    else:
        diagonal = float(mean.mean()) * np.einsum("ij,ij->j", narrow, narrow) + K
        diagonal[last] += free
        inverse = 1 / diagonal[:, None]
    return Model(narrow, p, s.astype(np.float32), K[:, None], inverse.astype(np.float32), [])


class Levelled(NamedTuple):
    """theta with the best intercepts for its w, and what bounds f - f* there."""

    theta: N
    f: float
    left: float  # of the gradient in b
    moved: float  # norm2 of the change of dL/dz


def level(rows: Source, K: N, theta: N, z: N) -> Levelled:
    """Newton's method in b alone, which needs no pass over X."""
    f, before, p = _passes.loss(rows, z)
    b, a = np.zeros(rows.k), before
    for _ in range(4 if rows.intercept else 0):
        if np.abs(a.sum(axis=0)).sum() <= EPS * np.abs(a).sum():
            break
        weighted = p if rows.s is None else p * rows.s[:, None]
        H = np.diag(weighted.sum(axis=0)) - weighted.T @ p
        if rows.k > 1:
            H += H.diagonal().max() / rows.k
        b = b - np.linalg.solve(H, a.sum(axis=0))
        f, a, p = _passes.loss(rows, z + b)
    theta = np.concatenate([theta[:-1], theta[-1:] + b])
    left = float(np.abs(a.sum(axis=0)).sum() + EPS * np.abs(a).sum()) if rows.intercept else 0.0
    return Levelled(theta, f + quadratic(K, theta), left, float(np.linalg.norm(a - before)))


def proved(K: N, norms: N, z: N, g: N, error: N, at: Levelled) -> float:
    """The bound of `_subspace.strong_convexity`: the gradient in w has moved by norm2 of z_j times that of dL/dz."""
    u = (np.abs(g) + error + (at.moved + at.left) * norms[:, None])[:-1]
    reach = float(np.abs(z).max()) * (1 if z.shape[1] == 1 else 2) + 1
    return float(np.sum(u * u / (2 * K[:-1, None]))) + at.left * reach


def hopeful(K: N, g: N) -> float:
    """About what `proved` will be."""
    u = np.abs(g[:-1]) + np.abs(g[-1]).max()
    return float(np.sum(u * u / (2 * K[:-1, None])))


def ended(rows: Source, K: N, norms: N, theta: N, now: _passes.Pass, g: N, steps: int, at_rest: bool) -> Found:
    """With the best intercepts, and the proof."""
    at = level(rows, K, theta, now.z)
    bound = proved(K, norms, now.z, g, rounding(rows.most, K, norms, now.alpha, theta), at)
    return Found(at.theta, at.f, np.append(g[:-1], 0 * g[-1:], axis=0), bound, steps, at_rest, None, None, norms=norms)


def descend(
    rows: Source, weight: float, K: N, theta: N, part: Rows, narrow: N, times: float, tol: float, enough: float,
    max_steps: int, near: Curvature | None,
) -> Found | None:  # fmt: skip
    """From theta to the minimum over `rows`, with the curvature of `part`; enough > 0: only to delta <= enough f."""
    same = rows is part
    if rows.k > 1:
        theta = theta - theta.mean(axis=1, keepdims=True)  # the steps sum to zero too
    norms = rows.column_norms()
    now = _passes.full(rows, theta)
    memory, current, steps, before = Memory(), None, 0, np.inf
    while True:
        g = weight * now.g + K[:, None] * theta
        f = weight * now.f + quadratic(K, theta)
        last = steps >= max_steps
        if enough == 0 and (last or hopeful(K, g) <= tol * f):
            found = ended(rows, K, norms, theta, now, g, steps, False)
            if last or found.bound <= tol * found.f:
                return found
        if current is None or same:
            p = (now.p if len(now.p) else _passes.loss(rows, now.z)[2]) if same else _passes.at(part, theta).p
            current = model(part, narrow, times, K, p, current, near)
        # Far out an inexact step does as well; later each costs a pass over all rows.
        accuracy = 0.2 if before > 0.1 * f else 0.02
        v = -memory.times(functools.partial(current.solve, accuracy=accuracy), g)
        delta = -float(np.vdot(g, v))
        if not delta >= -EPS * f:  # less is more than rounding can do
            return None
        if last or (enough > 0 and delta <= enough * f):
            return Found(theta, f, g, np.inf, steps, False, None, None)
        if delta < 1e-16 * f:
            error = rounding(rows.most, K, norms, now.alpha, theta)
            floor = float(np.vdot(error, np.abs(current.precondition(padded(error))[: len(K)])))
            # `floor` counts rounding at its worst: below it the steps go on for as long as they shrink.
            if (before < 1e3 * floor and delta >= before / 4) or delta <= 0:
                return ended(rows, K, norms, theta, now, g, steps, True)
        t = 1.0
        while True:
            trial = _passes.full(rows, theta + t * v)
            if weight * trial.f + quadratic(K, theta + t * v) <= f - 0.1 * t * delta or delta <= 1e-9 * f:
                break
            t /= 4
            if t < 1e-6:
                return None
        if not same:
            memory.add(t * v, weight * trial.g + K[:, None] * (theta + t * v) - g)
        theta, now, steps, before = theta + t * v, trial, steps + 1, delta


def minimise(rows: Rows, K: N, tol: float, max_steps: int, theta: N, near: Curvature | None = None) -> Found | None:
    """From theta: first on a sample where there are many rows, then on all."""
    n, d = len(rows.y), rows.X.shape[1]
    if n * d * rows.k <= LITTLE or n < 20 * d * rows.k:
        found = descend(rows, 1.0, K, theta, rows, narrowed(rows), 1.0, tol, 0.0, max_steps, near)
    else:
        part, times = sample(rows, n // 8)
        narrow = narrowed(part)
        begun = descend(part, times, K, theta, part, narrow, times, 0.0, 1e-3, max_steps, near)
        if begun is None:
            return None
        found = descend(rows, 1.0, K, begun.theta, part, narrow, times, tol, 0.0, max_steps, near)
    if found is None or d > 400 or rows.scale is not None:
        return found
    s = np.ones(n) if rows.s is None else rows.s
    return found._replace(rank=rank(_passes.weighted_gram(rows.X, s), rows.intercept, True))


def narrowed(rows: Rows) -> N:
    """Z in float32, with columns of zeros up to a multiple of 16."""
    D = rows.X.shape[1] + (rows.scale is not None)
    narrow = np.zeros((len(rows.y), D + (-D % 16 if D > 64 else 0)), np.float32)
    for part, block in rows.blocks():
        narrow[part, :D] = block.some(slice(None)).X
    return narrow
