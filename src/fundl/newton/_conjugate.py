"""Newton's method on concrete rows for many columns or classes: Hessians are only multiplied by vectors, in float32.

At the end the gradient is in float64 and that of all rows: nothing of the sample or of float32 is left in the minimum.
"""

import functools
from typing import NamedTuple

import numpy as np

from fundl._precise import inverse_cholesky
from fundl.newton import _distance, _passes
from fundl.newton._certainty import rounding
from fundl.newton._passes import N, Rows, Source
from fundl.newton._sampled import SINGLE, Found, Memory, length, quadratic, sample, unshifted

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


class Bends(NamedTuple):
    """The rows whose curvature serves."""

    rows: Rows  # standardised, in float32
    narrow: N  # their Z with columns of zeros up to a multiple of 16, for the speed of the products
    times: float  # each stands for so many
    proves: bool  # they are some of the rows themselves, so that their curvature is at most that of all


class Model(NamedTuple):
    """The Hessian at a theta, from sampled rows, and what preconditions it."""

    X: N  # (m, D), float32
    p: N  # (m, k), float32: probabilities of the classes
    c: N  # (m, k), float32: the same, weighted, or the weighted curvature of a single logit
    K: N  # (D, 1), float32
    inverse: N | Curvature  # (D, D) for all classes, (k, D, D) or, of a diagonal, (D, 1); float32
    spent: list[int]  # products of each solve

    def times(self, v: N) -> N:
        """H v."""
        if self.c.shape[1] == 1:
            u = self.X @ v[:, 0]
            u *= self.c[:, 0]
            return self.K * v + (u @ self.X)[:, None]
        u = self.X @ v
        u -= np.einsum("nk,nk->n", self.p, u)[:, None]
        u *= self.c
        return self.K * v + self.X.T @ u

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

    def promise(self, g: N) -> float:
        """About g^T H^-1 g."""
        size = float(np.linalg.norm(g))
        r = padded(g / size)
        return size * size * float(np.vdot(r, self.precondition(r)))

    def solve(self, g: N, accuracy: float) -> N:
        """H^-1 g by preconditioned conjugate gradients."""
        g = unshifted(g)  # the same for all classes is rounding alone, and H hardly bends there
        self.spent.append(0)
        size = float(np.linalg.norm(g))
        if size == 0:
            return np.zeros_like(g)
        r = padded(g / size)
        x = np.zeros_like(r)
        y = self.precondition(r)
        d, rho = y, float(np.vdot(r, y))
        first = rho
        for _ in range(MOST):
            self.spent[-1] += 1
            Hd = self.times(d)
            curve = float(np.vdot(d, Hd))
            if not curve > 0:
                x = x if self.spent[-1] > 1 else np.full_like(x, np.nan)  # float32 does not hold this problem
                break
            a = np.float32(rho / curve)
            x += a * d
            r = r - a * Hd
            y = self.precondition(r)
            before, rho = rho, float(np.vdot(r, y))
            if not rho > accuracy * accuracy * first:
                break
            d = y + np.float32(rho / before) * d
        return unshifted(x[: len(g)].astype(np.float64) * size)


def inverse_of(M: N) -> N:
    """M^-1 of a positive definite matrix, in float32: less than half the work of `numpy.linalg.inv`."""
    L = inverse_cholesky(M).astype(np.float32)
    return L.T @ L


def padded(A: N, fill: float = 0.0) -> N:
    """A in float32, its first axis filled up to a multiple of 16 where it is long."""
    more = -len(A) % 16 if len(A) > 64 else 0
    room = np.full((len(A) + more, *A.shape[1:]), fill, np.float32)  # np.pad takes ten times as long
    room[: len(A)] = A
    return room


def model(bends: Bends, K: N, p: N, old: Model | None, near: Curvature | None) -> Model:
    """The model where the probabilities are p.

    The preconditioner of the old one serves again where that costs less than a new one: about D^3 + m D^2 for one
    matrix from m rows, against 4 n D k for a product, which is a fifth as fast. A new matrix for all classes saves
    about a third of the products, for one logit nearly all; one for each class, where it is soon paid for, two thirds.
    """
    part, narrow, times, _ = bends
    s = np.full((len(part.y), 1), times) if part.s is None else times * part.s[:, None]
    each = (p * (1 - p) * s).astype(np.float32)
    mean = each.mean(axis=1, keepdims=True)
    p = p.astype(np.float32)
    c = mean if part.k == 1 else p * s.astype(np.float32)
    free = 0.0 if part.intercept else 1.0
    K, last = padded(K, 1.0), len(K) - 1
    n, D = narrow.shape
    stride = max(1, n // GRAM)
    kept, curvature = near, mean
    if near is None and old is not None:
        spent, build = 20 * n * old.spent[-1], D * D + n // stride * D
        if D <= NARROW and spent > (9 if old.for_each else 3) * build and 1 < part.k <= ENTRIES // D**2:
            curvature = each
        elif D > NARROW or old.for_each or spent * part.k <= (1 if part.k == 1 else 3) * build:
            kept = old.inverse
    if kept is not None:
        return Model(narrow, p, c, K[:, None], kept, [])
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
    return Model(narrow, p, c, K[:, None], inverse.astype(np.float32), [])


def descend(
    rows: Source, coarse: Source, weight: float, K: N, theta: N, bends: Bends, tol: float, enough: float,
    max_steps: int, near: Curvature | None,
) -> Found | None:  # fmt: skip
    """From theta to the minimum over `rows`, with the curvature of `bends`; enough > 0: only to delta <= enough f.

    Passes are over `coarse`, the same in float32 if there is such a thing, up to the last steps.
    """
    part, same = bends.rows, coarse is bends.rows
    cheap = rows.k > 1 and len(part.y) * len(K) <= 10 * len(rows.y) * rows.k  # beside a step
    weak = bends.times if bends.proves and cheap else np.inf  # how weak the proof by `concordance` may be
    theta = unshifted(theta)  # the steps sum to zero too
    norms = rows.column_norms() if enough == 0 else np.zeros(len(K))  # far from where rounding counts
    now = _passes.full(coarse, theta)
    memory, current, steps, before, earlier, t = Memory(), None, 0, np.inf, np.inf, 1.0
    while True:
        g = weight * now.g + K[:, None] * theta
        f = weight * now.f + quadratic(K, theta)
        last = steps >= max_steps
        if enough == 0 and coarse is rows and current is not None and weak * current.promise(g) <= tol * f:
            bound = _distance.concordance(part, K, theta, g, rounding(rows.most, K, norms, now.alpha, theta))
            if bound <= tol * f:
                return Found(theta, f, g, bound, steps, False, None, None, norms=norms)
            weak *= 10  # asked again where that may have helped
        if enough == 0 and coarse is rows and (last or _distance.hopeful(K, g) <= tol * f):
            found = _distance.ended(rows, K, norms, theta, now, g, steps, False, tol)
            if last or found.bound <= tol * found.f:
                return found
        if current is None or same:
            p = (now.p if len(now.p) else _passes.loss(rows, now.z)[2]) if same else _passes.probabilities(part, theta)
            current = model(bends, K, p, current, near)
        # Far out an inexact step does as well; later each costs a pass over all rows.
        accuracy = 0.2 if before > 0.1 * f else min(max(before / earlier, 0.02), 0.2)
        v = -memory.times(functools.partial(current.solve, accuracy=accuracy), g)
        delta = -float(np.vdot(g, v))
        if not delta >= -1e-14 * f:  # less is more than rounding can do
            return None
        if enough > 0 and (last or delta <= enough * f):
            return Found(theta, f, g, np.inf, steps, False, None, None)
        noise, passes = 1e-9 if coarse is rows else 1e-6, coarse
        if enough == 0 and coarse is not rows:
            bound = min(_distance.hopeful(K, g), 8 * weak * delta)
            left = min(delta / SINGLE, bound / max(tol, 1e-300)) / max(f, 1e-300)
            if left <= 1 or before / 2 < delta < 1e-3 * f or last:
                coarse, now = rows, _passes.full(rows, theta)
                continue
            passes = rows if left * delta <= min(before, f) else coarse
        if delta < 1e-16 * f:
            error = rounding(rows.most, K, norms, now.alpha, theta)
            floor = float(np.vdot(error, np.abs(current.precondition(padded(error))[: len(K)])))
            # `floor` counts rounding at its worst: below it the steps go on for as long as they shrink.
            if (before < 1e3 * floor and delta >= before / 4) or delta <= 0:
                return _distance.ended(rows, K, norms, theta, now, g, steps, True)
        t = length(part, weight, K, theta, v, now.z, delta) if same and delta > 0.01 * f else min(1.0, 2 * t)
        while t > 1e-6:
            trial = _passes.full(passes, theta + t * v)
            if weight * trial.f + quadratic(K, theta + t * v) <= f - 0.1 * t * delta or delta <= noise * f:
                break
            t *= shorter(rows, weight, K, now.z, trial.z, theta, t * v)
        else:
            if coarse is rows:
                return None
            coarse, now, t = rows, _passes.full(rows, theta), 1.0  # as far as float32 gets
            continue
        if not same:
            memory.add(t * v, weight * trial.g + K[:, None] * (theta + t * v) - g)
        theta, now, steps, before, earlier, coarse = theta + t * v, trial, steps + 1, delta, before, passes


def shorter(rows: Source, weight: float, K: N, z: N, after: N, theta: N, step: N) -> float:
    """The best share, from a tenth to a half, of a step that moves the logits from z to `after`; no pass over X."""
    linear, curve = float(np.vdot(K[:, None] * theta, step)), 2 * quadratic(K, step)
    low, high = 0.1, 0.5
    for _ in range(5):
        t = (low + high) / 2
        slope = linear + t * curve
        for part, block in _distance.loose(rows, z):
            dz = after[part] - z[part]
            slope += weight * float(np.einsum("nk,nk->", _passes.loss(block, z[part] + t * dz, False)[1], dz))
        low, high = (low, t) if slope > 0 else (t, high)
    return low


def minimise(rows: Rows, K: N, tol: float, max_steps: int, theta: N, near: Curvature | None = None) -> Found | None:
    """From theta: first on a sample where there are many rows, then on all."""
    n, d = len(rows.y), rows.X.shape[1]
    if not rows.within_single:
        return None
    if n * d * rows.k <= LITTLE or n < 20 * d * rows.k:
        bends = narrowed(rows, 1.0)
        return descend(rows, bends.rows, 1.0, K, theta, bends, tol, 0.0, max_steps, near)
    bends = narrowed(*sample(rows, n // 8))
    begun = descend(bends.rows, bends.rows, bends.times, K, theta, bends, 0.0, 1e-3, max_steps, near)
    if begun is None:
        return None
    coarse = rows.single() if rows.held_in_single else rows
    return descend(rows, coarse, 1.0, K, begun.theta, bends, tol, 0.0, max_steps, near)


def narrowed(rows: Rows, times: float) -> Bends:
    """The rows, each of which stands for so many."""
    D = rows.X.shape[1] + (rows.scale is not None)
    narrow = np.zeros((len(rows.y), D + (-D % 16 if D > 64 else 0)), np.float32)
    for part, block in (rows.single() if rows.held_in_single else rows).blocks():
        narrow[part, :D] = block.some(slice(None)).X
    return Bends(rows.single()._replace(X=narrow[:, :D], scale=None), narrow, times, True)
