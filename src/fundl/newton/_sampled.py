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


def enlarged(rows: Rows, start: Near, first: int, m: int, K: N) -> tuple[N, Rows, float, N]:
    """From the minimum of `first` rows to near that of m: theta, those rows, their weight and their Hessian there.

    Ever more rows, with a step for each number: it leaves the square of what was missing, and that was the larger the
    fewer the rows.
    """
    theta = start.theta
    while True:
        first = m if 32 * first > m else 16 * first
        part, weight = sample(rows, first)
        now = _passes.at(part, theta)
        H = _passes.hessian(part, now.p)
        g = weight * now.g + K[:, None] * theta
        after = theta - np.linalg.solve(regular(weight * H, K, rows), g.reshape(-1)).reshape(g.shape)
        trial = _passes.at(part, after)
        lower = weight * trial.f + quadratic(K, after) < weight * now.f + quadratic(K, theta)
        if first == m or not lower:
            return (after, part, weight, _passes.hessian(part, trial.p)) if lower else (theta, part, weight, H)
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
    theta, now, steps, known = begun.theta, begun.now, begun.steps, begun.rank
    part, times, H, formed = start, weight, begun.H, begun.formed
    # One logit's Hessian keeps its accuracy in float32: p, that of the error, may be small but is hardly ever near 1.
    single = rows.single() if k == 1 and not rows.soft else rows
    in_single = rows.X.dtype == np.float32 and rows.scale is not None and _passes.within_single(rows.scale)
    coarse = rows.single() if in_single else rows
    if not small:
        m = max(40 * size, min(n // 4, PART // len(K)))
        theta, part, times, H = enlarged(single, begun, len(start.y), m, K)
        formed, now = theta, _passes.full(coarse, theta)
    inverse = np.linalg.inv(regular(times * H, K, rows))
    norms = rows.column_norms()
    memory, refreshed, before, last = Memory(), 0, np.inf, False
    while True:
        g = now.g + K[:, None] * theta
        f = now.f + quadratic(K, theta)
        v = -memory.times(functools.partial(flat_times, inverse), g)
        delta = -float(np.vdot(g, v))
        if not np.isfinite(delta):
            return None
        noise = 1e-9 if coarse is rows else 1e-6
        if coarse is not rows:  # passes in float32, up to the last steps
            left = delta * times / max(tol / 2 * f, 1e-8 * f)
            if left <= 1 or left * delta <= min(before, f) or steps >= max_steps:
                coarse = rows
                if left <= 1 or steps >= max_steps:
                    now = _passes.full(rows, theta)
                    continue
        enough = delta * times <= tol * f / 2 or steps >= max_steps
        if enough or delta < 1e-16 * f:
            error = rounding(rows.most, K, norms, now.alpha, theta).reshape(-1)
            floor = float(error @ (np.abs(inverse) @ error))
            # `floor` counts rounding at its worst: below it a new Hessian goes on for as long as that helps.
            at_rest = (last and delta >= before / 4) or delta <= 0
            if at_rest or enough:
                break
            if delta <= floor / 4 and not last:
                H = _passes.hessian(part, _passes.at(part, theta).p)
                inverse, formed, memory = np.linalg.inv(regular(times * H, K, rows)), theta, Memory()
                last, before = True, np.inf
                continue
        if not last and (delta > before / 2 or steps % 20 == 19):  # the sample is too small
            refreshed += 1
            if refreshed > 3:
                return None
            part, times = sample(single, min(n, 8 * len(part.y)))
            H = _passes.hessian(part, _passes.at(part, theta).p)
            inverse, formed, memory, before = np.linalg.inv(regular(times * H, K, rows)), theta, Memory(), np.inf
            steps += 1
            continue
        t = 1.0
        while True:
            after = theta + t * v
            trial = _passes.full(coarse, after)
            if trial.f + quadratic(K, after) <= f - 0.1 * t * delta or delta <= noise * f:
                break
            t /= 4
            if t < 1e-6:
                return None
        memory.add(t * v, trial.g + K[:, None] * after - g)
        theta, now, steps, before = after, trial, steps + 1, delta
    drift = spread(_passes.logits(part, theta - formed))
    if free or drift > 0.3:
        part = rows.some(slice(None)) if free else part
        H, drift = _passes.hessian(part, _passes.at(part, theta).p), 0.0
    lower = regular(H, K, rows)
    inverse = inverse if times == 1 and not free and drift else np.linalg.inv(lower)
    bound = proved(reach(part, curvatures(lower, k)), lower, inverse, drift, g, error, np.finfo(part.X.dtype).eps)
    if free and not bound < np.inf:
        return None
    sure = known == len(K) - 1 or len(start.y) == n
    C = covariance(inverse, k) if free else None
    return Found(theta, f, g, bound, steps, bool(at_rest), known if sure else None, C, norms=norms)


def curvatures(H: N, k: int) -> N:
    """The smallest of the classes' diagonal entries of H, for each column (D,)."""
    return H.diagonal().reshape(-1, k).min(axis=1)


def reach(rows: Rows, units: N) -> float:
    """max_i sum_j z_ij^2 / units_j."""
    return max(float(np.max((block.X * block.X) @ (1 / units).astype(block.X.dtype))) for _, block in rows.blocks())


def proved(far: float, H: N, inverse: N, drift: float, g: N, error: N, eps: float = EPS) -> float:
    """The bound of `_dense.finish`, from this Hessian, of products in eps, and the `reach` of its rows in `curvatures`."""
    flat, root = g.reshape(-1), np.sqrt(H.diagonal())
    norm_inverse = float(np.linalg.norm(inverse * root[:, None] * root))
    lost = 4 * len(flat) * eps * norm_inverse  # of the Hessian, in its rounding
    if not (lost < 0.5 and drift < 1):
        return np.inf
    widened = np.exp(drift) / (1 - lost)
    decrement = np.sqrt(abs(float(flat @ (inverse @ flat)))) + np.sqrt(float(error @ (np.abs(inverse) @ error)))
    decrement *= np.sqrt(2 * widened)
    u = decrement * np.sqrt(far * (1 if g.shape[1] == 1 else 2) * norm_inverse * widened)
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
