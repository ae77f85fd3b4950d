"""Newton's method on concrete rows: the Hessian comes from a sample of the rows, the gradient from all of them.

The Hessian of a part of the rows, with their own weights, is at most that of all rows. So it proves how far f is from
its minimum whatever the sample: f(theta + v) is at least its tangent plus what the sampled rows add to it.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fundl._result import Status
from fundl.newton import _passes
from fundl.newton._passes import N, Pass, Rows, Source

EPS = float(np.finfo(np.float64).eps)
PART = 5 << 20  # entries of the rows whose Hessian is formed, at most where they are enough
SINGLE = 1e-10  # of f, below which what a step promises is more than rounding to float32 may do
MEMORY = 40  # pairs of steps and gradients that correct the sampled Hessian


class Found(NamedTuple):
    """The end of the iteration with its proof, in the coordinates of the design."""

    theta: N
    f: float
    g: N
    bound: float
    steps: int
    solved: bool
    rank: int | None
    covariance: N | None
    code: int = Status.converged
    direction: N | None = None  # (D, k)
    norms: N | None = None  # of the columns (D,)


def sample(rows: Rows, m: int) -> tuple[Rows, float]:
    """At least m rows, evenly spread, and how many rows each stands for."""
    n = len(rows.y)
    stride = max(1, n // m)
    if stride == 1:
        return rows.some(slice(None)), 1.0
    part = rows.some(slice(stride // 2, None, stride))
    return part, rows.total / part.total


def quadratic(K: N, theta: N) -> float:
    return float(np.sum(K[:, None] * theta * theta)) / 2


def regular(H: N, K: N, rows: Source) -> N:
    """The Hessian with the penalty, and with 1 where nothing changes."""
    k = rows.k
    H.flat[:: len(H) + 1] += K if k == 1 else np.repeat(K, k)
    if not rows.intercept:
        last = np.arange(len(H) - k, len(H))
        H[last, last] += 1.0
    if k > 1:  # the same added to all classes: no gradient points there, and no rounding shall
        D = len(K)
        shift = np.abs(H.diagonal().reshape(D, k)).max(axis=1)
        H = H.reshape(D, k, D, k)
        for i in np.flatnonzero(shift):
            H[i, :, i, :] += shift[i] / k
        H = H.reshape(D * k, D * k)
    return H


class Near(NamedTuple):
    """Near the minimum of some rows."""

    theta: N
    now: Pass
    steps: int
    rank: int
    formed: N  # the theta before, where the Hessian was formed
    H: N  # without weight and penalty


def approach(rows: Rows, weight: float, K: N, enough: float, max_steps: int) -> Near | None:
    """Newton's method with all of it, until a step promises no more than `enough` f."""
    theta = np.zeros((len(K), rows.k))
    now = _passes.at(rows, theta)
    f, free, k, known = weight * now.f, not K.any(), K[:, None], 0
    for step in range(max_steps):
        g = weight * now.g + k * theta
        H = _passes.hessian(rows, now.p)
        if step == 0:
            known = rank(H.reshape(len(K), rows.k, len(K), rows.k)[:, 0, :, 0], rows.intercept, not free)
            if free and known < len(K) - 1:
                return None  # the compiled program finds the shortest of the minima
        v = -np.linalg.solve(regular(weight * H, K, rows), g.reshape(-1)).reshape(g.shape)
        delta = -float(np.vdot(g, v))
        if not delta >= 0:
            return None
        t = 1.0
        while True:
            after = theta + t * v
            trial = _passes.at(rows, after)
            value = weight * trial.f + quadratic(K, after)
            if value <= f - 0.1 * t * delta or delta <= 1e-9 * f:
                break
            if t == 1.0:
                r = spread(trial.z - now.z)
                t = min(0.5, float(np.log1p(r) / r))
            else:
                t /= 4
            if t < 1e-6:
                return None
        if delta <= enough * max(f, 1e-300):
            return Near(after, trial, step + 1, known, theta, H)
        theta, now, f = after, trial, value
        if free and np.abs(now.z).max() > 60:
            return None  # the compiled program looks for a separating direction
    return None


def spread(z: N) -> float:
    return float(np.abs(z).max() if z.shape[1] == 1 else np.max(z.max(axis=1) - z.min(axis=1)))


class Memory:
    """Two loops over the last pairs around a given inverse. Source: Nocedal and Wright, Algorithm 7.4."""

    def __init__(self) -> None:
        self.pairs: list[tuple[N, N, float]] = []

    def add(self, step: N, change: N) -> None:
        curve = float(np.vdot(step, change))
        if curve > 1e-14 * np.sqrt(float(np.vdot(step, step)) * float(np.vdot(change, change))):
            self.pairs = [*self.pairs[-MEMORY + 1 :], (step, change, curve)]

    def times(self, inverse: Callable[[N], N], g: N) -> N:
        parts = []
        for step, change, curve in reversed(self.pairs):
            a = float(np.vdot(step, g)) / curve
            parts.append(a)
            g = g - a * change
        v = inverse(g)
        for (step, change, curve), a in zip(self.pairs, reversed(parts), strict=True):
            v = v + (a - float(np.vdot(change, v)) / curve) * step
        return v


def flat_times(A: N, v: N) -> N:
    """A v for v (D, k)."""
    return (A @ v.reshape(-1)).reshape(v.shape)


def rounding(most: float, K: N, norms: N, alpha: float, theta: N) -> N:
    """What rounding can do to each entry of the gradient: 8 eps times its terms, by the Cauchy-Schwarz inequality.

    most: the largest weight; norms: of the columns; alpha: norm2 of dL/dz.
    """
    z = most / 2 * float(np.sum(norms[:, None] * np.abs(theta)))
    return 8 * EPS * (norms[:, None] * (alpha + z) + K[:, None] * np.abs(theta))


class Local(NamedTuple):
    """The Hessian of some rows at a theta, and the inverse of what that of all rows is taken to be."""

    part: Rows
    times: float  # each of them stands for so many
    theta: N
    H: N  # without weight and penalty
    inverse: N


def local(part: Rows, times: float, theta: N, K: N, p: N | None = None) -> Local:
    """With probabilities p, if they are known."""
    H = _passes.hessian(part, _passes.probabilities(part, theta) if p is None else p)
    return Local(part, times, theta, H, np.linalg.inv(regular(times * H, K, part)))


def enlarged(rows: Rows, theta: N, size: int, m: int, K: N) -> Local | None:
    """From the minimum of so many rows to near that of m.

    Ever more rows, with a step for each number: it leaves the square of what was missing, and that was the larger the
    fewer the rows. Where it does not help, what they tell is too sure of itself, and theta starts anew.
    """
    while True:
        size = m if 32 * size > m else 16 * size
        part, weight = sample(rows, size)
        now = _passes.at(part, theta)
        near = local(part, weight, theta, K, now.p)
        after = theta - flat_times(near.inverse, weight * now.g + K[:, None] * theta)
        trial = _passes.at(part, after)
        if not weight * trial.f + quadratic(K, after) < weight * now.f + quadratic(K, theta):
            found = approach(part, weight, K, 1e-2, 40)
            if found is None:
                return None
            after, trial = found.theta, found.now
        if size == m:
            return local(part, weight, after, K, trial.p)
        theta = after


def newton(rows: Rows, K: N, tol: float, max_steps: int) -> Found | None:
    """With a Hessian that is formed and inverted."""
    n, k = len(rows.y), rows.k
    size, free = len(K) * k, not K.any()
    small = n * size <= 1 << 20
    start, weight = sample(rows, n if small else 40 * size)
    begun = approach(start, weight, K, 1e-3 if small else 3e-4, min(40, max_steps))
    if begun is None:
        return None
    theta, now, steps, coarse = begun.theta, begun.now, begun.steps, rows
    # One logit's Hessian keeps its accuracy in float32: p, that of the error, may be small but is hardly ever near 1.
    single = rows.single() if k == 1 and not rows.soft and rows.within_single else rows
    if small:
        near = Local(start, weight, begun.formed, begun.H, np.linalg.inv(regular(weight * begun.H, K, rows)))
    else:
        near = enlarged(single, theta, len(start.y), max(40 * size, min(n // 4, PART // len(K))), K)
        if near is None:
            return None
        coarse = rows.single() if rows.held_in_single else rows
        theta, now = near.theta, _passes.full(coarse, near.theta)
    norms = rows.column_norms()
    memory, refreshed, before, last, ripe = Memory(), 0, np.inf, False, np.inf
    while True:
        g = now.g + K[:, None] * theta
        f = now.f + quadratic(K, theta)
        v = -memory.times(functools.partial(flat_times, near.inverse), g)
        delta = -float(np.vdot(g, v))
        if not np.isfinite(delta):
            return None
        noise, passes = 1e-9 if coarse is rows else 1e-6, coarse
        if coarse is not rows:  # passes in float32, up to the last steps
            left = min(delta / SINGLE, delta * near.times / max(tol / 2, 1e-300)) / max(f, 1e-300)
            if left <= 1 or delta > before / 2 or steps >= max_steps:
                coarse, now = rows, _passes.full(rows, theta)
                continue
            passes = rows if left * delta <= min(before, f) else coarse
        if delta * near.times <= tol * f / 2 or delta < 1e-16 * f or steps >= max_steps:
            error = rounding(rows.most, K, norms, now.alpha, theta)
            floor = float(np.vdot(error, flat_times(np.abs(near.inverse), error)))
            # `floor` counts rounding at its worst: below it a new Hessian goes on for as long as that helps.
            at_rest = (last and delta >= before / 4) or delta <= 0
            if at_rest or delta * near.times <= min(tol * f / 2, ripe) or steps >= max_steps:
                near, bound = proof(rows, near, K, theta, g, error)
                if at_rest or free or bound <= tol * f or steps >= max_steps:
                    break
                ripe = delta * near.times / 10  # not proved yet: each time costs as much as a step
            if delta <= floor / 4 and not last:
                near, memory, last, before = local(near.part, near.times, theta, K), Memory(), True, np.inf
                continue
        if not last and (delta > before / 2 or steps % 20 == 19):  # the sample is too small
            refreshed += 1
            if refreshed > 3:
                return None
            near = local(*sample(single, min(n, 8 * len(near.part.y))), theta, K)
            memory, before, steps = Memory(), np.inf, steps + 1
            continue
        t = 1.0
        while True:
            after = theta + t * v
            trial = _passes.full(passes, after)
            if trial.f + quadratic(K, after) <= f - 0.1 * t * delta or delta <= noise * f:
                break
            t /= 4
            if t < 1e-6:
                return None
        memory.add(t * v, trial.g + K[:, None] * after - g)
        theta, now, steps, before, coarse = after, trial, steps + 1, delta, passes
    if free and not bound < np.inf:
        return None
    sure = begun.rank == len(K) - 1 or len(start.y) == n
    C = covariance(near.inverse, k) if free else None
    return Found(theta, f, g, bound, steps, bool(at_rest), begun.rank if sure else None, C, norms=norms)


def proof(rows: Rows, near: Local, K: N, theta: N, g: N, error: N) -> tuple[Local, float]:
    """The Hessian and the bound of f - f* that it gives; without a penalty that of all rows, for the covariance.

    Where columns depend on each other what float32 has left of it does not do.
    """
    drift = spread(_passes.logits(near.part, theta - near.theta))
    if not K.any():
        H, drift = np.zeros_like(near.H), 0.0
        for block in rows.standardised():
            H += _passes.hessian(block, _passes.probabilities(block, theta))
        near = Local(rows, 1.0, theta, H, np.linalg.inv(regular(1.0 * H, K, rows)))
    elif drift > 0.3:
        near, drift = local(near.part, near.times, theta, K), 0.0
    lower = regular(1.0 * near.H, K, rows)
    inverse = near.inverse if near.times == 1 else np.linalg.inv(lower)
    eps = float(np.finfo(near.part.dtype).eps)
    if eps > EPS and lost(inverse, lower, eps) >= 0.5:
        return proof(rows, local(*sample(rows, len(near.part.y)), theta, K), K, theta, g, error)
    far = reach(near.part, curvatures(lower, rows.k)) * norm_of(inverse, lower)
    return near, proved(far, lower, inverse, drift, g.reshape(-1, 1), error.reshape(-1, 1), rows.k, eps)


def curvatures(H: N, k: int) -> N:
    """The smallest of the classes' diagonal entries of H, for each column (D,)."""
    return H.diagonal().reshape(-1, k).min(axis=1)


def reach(rows: Rows, units: N) -> float:
    """max_i sum_j z_ij^2 / units_j."""
    blocks = (block.X for block in rows.standardised())
    return float(np.max([np.max((X * X) @ (1 / units).astype(X.dtype)) for X in blocks]))  # NaN stays


def norm_of(inverse: N, H: N) -> float:
    """At least norm2 of the inverse of H in the units in which the diagonal of H is 1."""
    root = np.sqrt(H.diagonal())
    return float(np.linalg.norm(inverse * root[:, None] * root))


def lost(inverse: N, H: N, eps: float) -> float:
    """The share of the Hessian that is lost in its rounding, along the direction where that is most; about."""
    return 4 * len(H) * eps * norm_of(inverse, H)


def proved(far: float, H: N, inverse: N, drift: float, g: N, error: N, k: int, eps: float = EPS) -> float:
    """The bound of `_dense.finish`, from this Hessian, of products in eps, and far, max_i x_i^T H^-1 x_i of its rows.

    H (m, m) may be for each column of g and error, (m, 1) or (m, k), the same.
    """
    share = lost(inverse, H, eps)
    if not (share < 0.5 and drift < 1):
        return np.inf
    widened = np.exp(drift) / (1 - share)
    decrement = np.sqrt(abs(float(np.vdot(g, inverse @ g)))) + np.sqrt(float(np.vdot(error, np.abs(inverse) @ error)))
    decrement *= np.sqrt(2 * widened)
    u = decrement * np.sqrt(far * (1 if k == 1 else 2) * widened)
    return decrement**2 / 2 / (1 - u) if u < 0.9 else np.inf


def covariance(inverse: N, k: int) -> N:
    """The inverse Hessian, without the part along which nothing changes."""
    if k == 1:
        return inverse
    D = len(inverse) // k
    C = inverse.reshape(D, k, D, k)
    C = C - C.mean(axis=1, keepdims=True)
    return (C - C.mean(axis=3, keepdims=True)).reshape(D * k, D * k)


def rank(C: N, intercept: bool, penalised: bool) -> int:
    """Of the centred rows with the Gram matrix C, up to a factor, as `_design.null_space` counts it."""
    C = C[:-1, :-1] - (np.outer(C[-1, :-1], C[-1, :-1]) / C[-1, -1] if intercept else 0)
    eigenvalues = np.linalg.eigvalsh(C)
    smallest = 2 * EPS if penalised else 4 * EPS * max(len(C), 8)
    return int(np.sum(eigenvalues > smallest * eigenvalues[-1]))
