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
from fundl.newton._certainty import at_worst, covariance, curvatures, lost, norm_of, proved, rank, reach, rounding
from fundl.newton._passes import EPS32, N, Pass, Rows, Source

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
        each = np.arange(D)
        H[each, :, each, :] += (shift / k)[:, None, None]
        H = H.reshape(D * k, D * k)
    return H


class Near(NamedTuple):
    """Near the minimum of some rows."""

    theta: N
    now: Pass
    steps: int
    rank: int
    part: Rows  # as their Hessian was formed
    formed: N  # the theta before, where that was
    H: N  # without weight and penalty


def singly(rows: Rows) -> bool:
    """The Hessian keeps its accuracy in float32: for one logit p, that of the error, is hardly ever near 1."""
    return not rows.soft and rows.within_single


def approach(rows: Rows, weight: float, K: N, enough: float, max_steps: int) -> Near | None:
    """Newton's method with all of it, until a step promises no more than `enough` f."""
    theta = np.zeros((len(K), rows.k))
    now = _passes.at(rows, theta)
    f, free, k, known = weight * now.f, not K.any(), K[:, None], 0
    part = rows
    for step in range(max_steps):
        g = weight * now.g + k * theta
        H = _passes.hessian(part, now.p.astype(part.dtype, copy=False))
        if step == 0:
            known = rank(H.reshape(len(K), rows.k, len(K), rows.k)[:, 0, :, 0], rows.intercept)
            if free and known < len(K) - 1:
                return None  # the compiled program finds the shortest of the minima
        curved = regular(weight * H, K, rows)
        v = -unshifted(np.linalg.solve(curved, g.reshape(-1)).reshape(g.shape))
        if step == 0 and singly(rows) and lost(np.linalg.inv(curved), curved, EPS32) < 0.01:
            part = rows.single().some(slice(None))
        delta = -float(np.vdot(g, v))
        if not delta >= 0:
            return None
        t = length(rows, weight, K, theta, v, now.z, delta) if delta > 0.01 * f else 1.0
        while True:
            after = theta + t * v
            trial = _passes.at(rows, after)
            value = weight * trial.f + quadratic(K, after)
            if value <= f - 0.1 * t * delta or delta <= 1e-9 * f:
                break
            if t >= 1.0:
                r = spread(trial.z - now.z)
                t = min(0.5, float(np.log1p(r) / r))
            else:
                t /= 4
            if not t > 1e-6:
                return None
        if delta <= enough * max(f, 1e-300):
            return Near(after, trial, step + 1, known, part, theta, H)
        theta, now, f = after, trial, value
        if free and np.abs(now.z).max() > 60:
            return None  # the compiled program looks for a separating direction
    return None


def length(rows: Rows, weight: float, K: N, theta: N, v: N, z: N, delta: float) -> float:
    """Of a Newton step v from logits z, at least 1: where f still falls there, by Newton's method along the line.

    Curvatures fall where logits grow, so a step from 0 is too short; for the same reason this stops before the minimum.
    """
    dz = _passes.logits(rows, v)
    _, a, p = _passes.loss(rows, z + dz)
    slope = weight * float(np.vdot(a, dz)) + float(np.vdot(K[:, None] * (theta + v), v))
    if not slope < -0.1 * delta:
        return 1.0
    curve = weight * _passes.bend(rows, p, dz) + 2 * quadratic(K, v)
    return 1.0 + min(-slope / curve, 3.0) if curve > 0 else 1.0  # NaN where a square overflows


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
    """A v for v (D, k), which sums to zero over several classes."""
    return unshifted((A @ v.reshape(-1)).reshape(v.shape))


def unshifted(v: N) -> N:
    """v (D, k) less what is the same for all classes: it changes no probability, and rounding of a Hessian feeds it."""
    return v if v.shape[1] == 1 else v - v.mean(axis=1, keepdims=True)


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
    single = rows.single() if begun.part.dtype == np.float32 else rows  # where its condition allows that
    if small:
        near = Local(begun.part, weight, begun.formed, begun.H, np.linalg.inv(regular(weight * begun.H, K, rows)))
    else:
        m = n // 4 if tol < 1e-8 else max(n // 16, min(n // 8, 128 * size))  # more rows leave less to the passes
        near = enlarged(single, theta, len(start.y), max(40 * size, min(m, PART // len(K))), K)
        if near is None:
            return None
        coarse = rows.single() if rows.held_in_single else rows
        theta, now = near.theta, _passes.full(coarse, near.theta)
    norms = rows.column_norms()
    memory, refreshed, before, last, ripe, at_rest = Memory(), 0, np.inf, False, np.inf, False
    while True:
        g = now.g + K[:, None] * theta
        f = now.f + quadratic(K, theta)
        v = -memory.times(functools.partial(flat_times, near.inverse), g)
        delta = -float(np.vdot(g, v))
        if not np.isfinite(delta):
            return None
        noise, passes = 1e-9 if coarse is rows else 1e-6, coarse
        if coarse is not rows:  # passes in float32, up to the last steps, or to the end where they tell enough of it
            error = rounding(rows.most, K, norms, now.alpha, theta, EPS32)
            floor = at_worst(near.inverse, error)
            # Of several classes the sums of a pass are longer than those `rounding` allows for.
            tells = rows.k == 1 and floor * near.times <= tol * f / 4 and delta > 0 and not free
            if tells and delta * near.times <= min(tol * f / 2, ripe):
                near, bound = proof(rows, near, K, theta, g, error)
                if bound <= tol * f:
                    break
                ripe = delta * near.times / 10
            left = min(delta / SINGLE, delta * near.times / max(tol / 2, 1e-300)) / max(f, 1e-300)
            if (left <= 1 and not tells) or delta > before / 2 or steps >= max_steps:
                coarse, now = rows, _passes.full(rows, theta)
                continue
            passes = rows if left * delta <= min(before, f) and not tells else coarse
        if coarse is rows and (delta * near.times <= tol * f / 2 or delta < 1e-16 * f or steps >= max_steps):
            error = rounding(rows.most, K, norms, now.alpha, theta)
            floor = at_worst(near.inverse, error)
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
            wide = single if refreshed == 1 else rows  # once more: it may be float32 that does not hold it
            near = local(*sample(wide, min(n, 8 * len(near.part.y))), theta, K)
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
    elif drift > 0.9:
        near, drift = local(near.part, near.times, theta, K), 0.0
    lower = regular(1.0 * near.H, K, rows)
    inverse = near.inverse if near.times == 1 else np.linalg.inv(lower)
    eps = float(np.finfo(near.part.dtype).eps)
    if eps > EPS and lost(inverse, lower, eps) >= 0.5:
        return proof(rows, local(*sample(rows, len(near.part.y)), theta, K), K, theta, g, error)
    far = reach(near.part, curvatures(lower, rows.k)) * norm_of(inverse, lower)
    return near, proved(far, lower, inverse, drift, g.reshape(-1, 1), error.reshape(-1, 1), rows.k, eps)
