"""Newton's method over rows that come in batches: memory holds one batch and a sample, and every step reads them anew.

The fit of the sample leaves a few steps to do, and each is worth its reading: that gives the value, the gradient and
the Hessian of all rows where the step ends, and how far it moved the logits. Where the whole Hessian is too large, that
of the sample serves in its place.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from fundl import _check
from fundl._result import Fit, Status, on_device
from fundl.newton import _certainty, _conjugate, _distance, _passes, _sampled
from fundl.newton._concrete import DENSE, ended_well, package
from fundl.newton._passes import N, Rows
from fundl.newton._prepared import Numbers, power_of_two
from fundl.newton._sampled import Found, quadratic
from fundl.newton._survey import Reader, Survey, labels_of

EPS = float(np.finfo(np.float64).eps)
FORMED = 2000  # rows of a Hessian that is formed where another would not serve
ENOUGH = 20  # rows of a sample, for each coefficient, that give a Hessian


class Batched:
    """Rows that come in batches, standardised as they come: a `_passes.Source`."""

    def __init__(self, reader: Reader, survey: Survey, m: N, scale: N, k: int, intercept: bool) -> None:
        self.reader, self.m, self.scale, self.n = reader, m, scale, survey.n
        self.k, self.soft, self.intercept = k, survey.soft, intercept
        self.total, self.most = survey.total, survey.most
        away = np.sqrt(survey.n) * np.abs(m - survey.near)
        self.norms = np.append((np.sqrt(survey.squares) + away) / scale, np.sqrt(survey.n) * intercept)
        # What the sums of a reading must be, but for their rounding.
        self.labels = survey.labels
        self.share, self.expected = self.labels / self.total, (survey.m - m) / scale
        rounded = EPS * np.maximum(np.abs(survey.low), np.abs(survey.high)) / scale
        self.slack = 1e-7 + np.append(100 * rounded, 0 * self.share)
        self.y: N = np.zeros(0)  # (n,) where the logits are held, as is s
        self.s: N | None = None
        self.dtype = np.float64

    def rows(self, X: N, y: N, s: N | None) -> Rows:
        """Some of them."""
        Z = np.empty((len(y), len(self.m) + 1))
        np.subtract(X, self.m, out=Z[:, :-1])
        Z[:, :-1] *= 1 / self.scale
        Z[:, -1] = self.intercept
        return Rows(Z, y if self.k > 1 or self.soft else 1 - 2 * y, s, self.k, self.soft, self.intercept, None)

    def blocks(self) -> Iterator[tuple[slice, Rows]]:
        """All of them, read once; refuses rows that are not those of the survey."""
        start, step = 0, _passes.rows_of_block(len(self.m) + 1, self.k)
        sums, labels, same = np.zeros(len(self.m) + 1), np.zeros_like(self.labels), True
        for X, y, s in self.reader:
            same = self.k == 1 or y.max() < self.k
            if not same:
                break
            for i in range(0, len(y), step):
                at = slice(i, min(i + step, len(y)))
                block = self.rows(X[at], y[at], None if s is None else s[at])
                where = slice(start + i, start + at.stop)
                weights = np.ones(len(block.y)) if block.s is None else block.s
                sums += weights @ block.X
                labels += labels_of(y[at], weights, self.k, len(labels))
                if self.s is not None:
                    self.y[where], self.s[where] = block.y, weights
                yield where, block
            start += len(y)
        away = np.abs(np.append(sums[:-1] / self.total - self.expected, labels / self.total - self.share))
        if not same or start != self.n or np.any(away > self.slack):
            raise ValueError(
                f"batches must give the same rows each time they are read; first they were {self.n}, then {start} or "
                "others."
            )

    def column_norms(self) -> N:
        return self.norms

    def hold_labels(self) -> None:
        """From the next reading on, y and s."""
        self.y, self.s = np.zeros(self.n, float if self.k == 1 else int), np.zeros(self.n)


class Reading(NamedTuple):
    """What one reading finds at theta."""

    f: float  # sum_i s_i L_i
    g: N  # (D, k), of that
    alpha: float  # norm2 of dL/dz
    H: N | None  # (D k, D k)
    far: float  # the `reach` of the rows
    moved: float  # the largest change of a logit since `formed`
    size: float  # the largest logit
    growth: float  # of any row's loss along theta: 0 where theta separates the classes
    step_growth: float  # along theta - formed


def read(rows: Batched, theta: N, formed: N, units: N, hessian: bool) -> Reading:
    """The reading at theta; the reach in these units."""
    D, k = theta.shape
    f, g, square, H = 0.0, np.zeros((D, k)), 0.0, np.zeros((D * k, D * k)) if hessian else None
    far = moved = size = growth = step_growth = 0.0
    for _, block in rows.blocks():
        z, dz = _passes.logits(block, theta), _passes.logits(block, theta - formed)
        L, a, p = _passes.loss(block, z)
        f, g, square = f + L, g + _passes.back(block, a), square + float(np.vdot(a, a))
        if H is not None:
            H += _passes.hessian(block, p)
        far = max(far, _certainty.reach(block, units))
        moved, size = max(moved, _sampled.spread(dz)), max(size, _sampled.spread(z))
        growth = max(growth, _passes.recession(block, z))
        step_growth = max(step_growth, _passes.recession(block, dz))
    return Reading(f, g, float(np.sqrt(square)), H, far, moved, size, growth, step_growth)


def newton(rows: Batched, sample: Rows, K: N, null: N, tol: float, max_steps: int) -> Found:
    """To the minimum with the whole Hessian.

    A step that does not lower f enough gets the length of `_dense.minimise`, which is sure to. null (d, d): as there,
    what keeps theta where it is along directions that change no logit.
    """
    theta = started(sample, K, 1e-8, max_steps)
    k, free = rows.k, not K.any()
    fix = np.kron(np.pad(null, (0, 1)), np.eye(k)) * (rows.total / 4 if free else 0.0)
    units = np.full(len(K), rows.total / 4)
    now = read(rows, theta, theta, units, True)
    H = inverse = formed = last = theta
    steps, before, separating, rest = 0, np.inf, 0, False
    while True:
        g, f = now.g + K[:, None] * theta, now.f + quadratic(K, theta)
        far, drift = now.far, now.moved
        if now.H is not None:
            H = _sampled.regular(now.H, K, rows) + fix
            H.flat[:: len(H) + 1] += H.diagonal() == 0
            inverse, formed, drift = np.linalg.inv(H), theta, 0.0
            new = _certainty.curvatures(H, k)
            far, units = far * float(np.max(units / new)), new
        v = -_sampled.flat_times(inverse, g)
        delta = -float(np.vdot(g, v))
        moved = _certainty.moved(now.f, far, units, theta)
        error = _certainty.rounding(rows.most, K, rows.norms, now.alpha, theta, moved=moved).reshape(-1)
        floor = _certainty.at_worst(inverse, error)
        bound = _certainty.proved(
            far * _certainty.norm_of(inverse, H), H, inverse, drift, g.reshape(-1, 1), error[:, None], k
        )
        if free and np.any(np.abs(null @ g[:-1]) > np.abs(null) @ error.reshape(g.shape)[:-1]):
            bound = np.inf  # as `_dense.held_back`
        apart = free and now.growth == 0 < now.size
        # `floor` counts rounding at its worst: above 1e-16 f the steps go on for as long as they shrink.
        rest = delta <= min(floor, 1e-16 * f) or (delta < 1e-9 * f and delta >= before / 4)
        if rest or apart or separating >= 3 or bound <= tol * f or steps >= max_steps or not np.isfinite(delta):
            break
        anew = free or delta > 1e-10 * f  # later the Hessian hardly changes
        after = theta + v
        trial = read(rows, after, formed, units, anew)
        if delta > 1e-9 * f and not trial.f + quadratic(K, after) <= f - 0.1 * delta:
            if steps == 0 and theta.any():  # what separates the sample is too sure of itself
                theta = np.zeros_like(theta)
                now = read(rows, theta, theta, units, True)
                continue
            after = theta + np.log1p(trial.moved) / trial.moved * v
            trial = read(rows, after, formed, units, anew)
            if not trial.f + quadratic(K, after) < f:
                break  # no step improves f any more
        away = free and trial.moved > 0.1 and trial.step_growth <= 1e-7 * trial.moved
        separating = separating + 1 if away else 0
        last, theta, now, steps, before = after - theta, after, trial, steps + 1, delta
    direction = theta / now.size if apart else separation(rows, last) if separating >= 3 else None
    converged = bound <= max(tol, np.sqrt(EPS) * (1 if rest else 0.01)) * f
    dependent = free and bool(null.any())
    if direction is not None:
        code, bound = Status.separable, np.inf
    elif converged:
        code = Status.rank_deficient if dependent else Status.converged
    else:
        code = Status.max_steps if steps >= max_steps else Status.stalled
    exists = free and not dependent and direction is None
    return Found(
        theta, f, g, bound, steps, rest, None, _certainty.covariance(inverse, k) if exists else None, code, direction
    )


def separation(rows: Batched, v: N) -> N | None:
    """v, along which the loss of hardly any row grows, freed from what it does to the rows that stay, if that helps.

    As `_dense.separation`: the rows, or classes of a row, that tie along v shall tie exactly.
    """
    size, G = v.size, np.zeros((v.size, v.size))
    reach = max(_sampled.spread(_passes.logits(block, v)) for _, block in rows.blocks())
    for _, block in rows.blocks():
        dz = _passes.logits(block, v)
        gap = np.abs(dz) if rows.k == 1 else dz.max(axis=1, keepdims=True) - dz
        tied = (gap <= 1e-5 * reach).astype(float)
        G += _passes.hessian(block._replace(s=None), tied / (2 if rows.k == 1 else tied.sum(axis=1, keepdims=True)))
    ridge = 1e4 * size * EPS * (G.diagonal().max() + EPS)
    G.flat[:: size + 1] += ridge
    for _ in range(3):
        v = ridge * np.linalg.solve(G, v.reshape(-1)).reshape(v.shape)
    growth = left = 0.0
    for _, block in rows.blocks():
        dz = _passes.logits(block, v)
        growth, left = max(growth, _passes.recession(block, dz)), max(left, _sampled.spread(dz))
    return v / left if growth <= 1e3 * EPS * left and left > 1e-3 * reach else None


def started(sample: Rows, K: N, tol: float, max_steps: int) -> N:
    """theta from the fit of the sample; zeros where that has no plain minimum."""
    theta, found = np.zeros((len(K), sample.k)), None
    with contextlib.suppress(np.linalg.LinAlgError):
        if theta.size <= DENSE[sample.k == 1] or not K.any():
            found = _sampled.newton(sample, K, tol, max_steps)
        else:
            found = _conjugate.minimise(sample, K, tol, max_steps, theta)
    return theta if found is None else found.theta


def rounded_out(sample: Rows, C: N, theta: N) -> Rows:
    """The sample with rows of the moments C of all rows, which count the more the fewer it has for each coefficient.

    Where it has few its Hessian hardly bends along some directions, and steps overshoot. The added rows are so small
    that their classes are equally likely; their curvature is the mean of the sample's at theta.
    """
    small, n = 1e-6, len(sample.y)
    keep, weights = n / (n + theta.size), np.ones(n) if sample.s is None else sample.s
    p = _passes.at(sample, theta).p
    mean = 4 * np.mean(p * (1 - p)) if sample.k == 1 else np.mean(1 - np.sum(p * p, axis=1)) / (1 - 1 / sample.k)
    values, V = np.linalg.eigh(C)
    X = small * np.sqrt(np.maximum(values, 0))[:, None] * V.T
    return sample._replace(
        X=np.concatenate([sample.X, np.pad(X, [(0, 0), (0, 1)])]),
        y=np.concatenate([sample.y, np.zeros(len(X), sample.y.dtype)]),
        s=np.concatenate([keep * weights, np.full(len(X), (1 - keep) * mean / small**2)]),
    )


def conjugate(rows: Batched, sample: Rows, C: N, K: N, numbers: Numbers, max_steps: int) -> Found:
    """The Hessian is that of the sample, and only multiplied; the gradient is that of all rows, as are moments C."""
    theta = started(sample, K, 1e-6, max_steps)
    rows.hold_labels()
    part = rounded_out(sample, C, theta)
    bends = _conjugate.narrowed(part, 1.0)._replace(proves=False)
    found = _conjugate.descend(rows, rows, 1.0, K, theta, bends, numbers.tol, 0.0, max_steps, None)
    if found is None:
        now = _passes.full(rows, theta)
        g = now.g + K[:, None] * theta
        found = _distance.ended(rows, K, rows.norms, theta, now, g, 0, False)
    failed = Status.max_steps if found.steps >= max_steps else Status.stalled
    return found._replace(code=Status.converged if ended_well(found, numbers) else failed)


def numbers_of(l2: Any, tol: Any, max_steps: Any) -> Numbers:
    """The options, or a refusal."""
    values = []
    for name, value in (("l2", l2), ("tol", tol), ("max_steps", max_steps)):
        if not _check.concrete(value):
            raise TypeError(f"{name} is traced, and fit_batches reads rows: call it outside of jit, grad and vmap.")
        (_check.penalty if name == "l2" else _check.nonnegative)(name, value)
        values.append(float(_check.scalar(name, _check.option(name, value))))
    if values[2] < 1 or values[2] % 1 != 0:
        raise ValueError(f"max_steps must be a whole number, at least 1; got {max_steps}.")
    return Numbers(float(l2), 0.0, min(float(tol), np.finfo(np.float64).max), int(max_steps))


def fit_batches(
    batches: Any, *, k: int | None, l2: Any, intercept: bool, tol: Any, max_steps: Any,
    inputs: Callable[[Any, Any, Any], Any], fit: Callable[[Any, Any, Any], Fit],
) -> Fit:  # fmt: skip
    """The `Fit` of all rows of all batches, one batch in memory at a time.

    batches: see `logistic_regression.fit_batches`; the options k=, l2=, intercept=, tol= and max_steps= are those of
    `fit_concrete`; inputs=, called for a batch that is not plainly good, refuses it or returns what it is; fit= fits
    rows that are few.

    >>> batches = [(np.array([[0.0], [1.0]]), np.array([0, 1])), (np.array([[2.0], [3.0]]), np.array([0, 1]))]
    >>> options = {"l2": 0.0, "intercept": True, "tol": 0.0, "max_steps": 200}
    >>> found = fit_batches(batches, k=1, **options, inputs=lambda *batch: batch, fit=lambda X, y, s: X.shape)
    >>> found  # so few rows are fitted as they are
    (4, 1)
    """
    numbers = numbers_of(l2, tol, max_steps)
    reader, survey = Reader(batches, k, inputs), Survey(k)
    with np.errstate(all="ignore"):
        for X, y, s in reader:
            survey.take(X, y, s)
    if survey.n == 0:
        raise ValueError("There is no row whose weight is not 0; give at least one batch (X, y).")
    _, X, y, s = (np.concatenate(v) for v in zip(*survey.sample, strict=True))
    if survey.share == 1:
        return fit(X, y.astype(X.dtype) if k == 1 else y, s)
    k = max(2, len(survey.labels)) if k is None else k
    with np.errstate(all="ignore"):
        m, C = survey.m if intercept else 0 * survey.m, survey.C
        m = np.where(survey.low == survey.high, survey.low, m) if intercept else m
        C = C if intercept else C + survey.total * np.outer(survey.m, survey.m)
        scale = power_of_two(np.sqrt(C.diagonal() / survey.total))
        constant = (survey.low == survey.high) & (intercept or survey.low == 0)
        extreme = np.flatnonzero(~constant & ~((C.diagonal() > 0) & np.isfinite(C.diagonal())))
        if len(extreme):
            raise ValueError(
                f"X has columns whose squares float64 does not hold: {extreme[:10].tolist()}. Scale them to be near 1."
            )
        C = np.where(constant | constant[:, None], 0.0, C) / (scale * scale[:, None])
        null, shortest, rank = null_space(C, scale, numbers.l2 > 0)
        rows = Batched(reader, survey, m, scale, k, bool(intercept))
        K = np.append(numbers.l2 / scale**2, 0.0)
        missing = survey.labels <= 0
        lost = bool(intercept) and bool(missing.any())  # a class never occurs, and its intercept runs away
        most = min(numbers.max_steps, 8) if lost else numbers.max_steps
        sample = rows.rows(X, y, s * (survey.total / s.sum()))
        if len(K) * k <= (DENSE[k == 1] if numbers.l2 > 0 and len(y) >= ENOUGH * len(K) * k else FORMED):
            found = newton(rows, sample, K, null, numbers.tol, most)
            w = shortest @ (found.theta[:-1] / scale[:, None])
            found = found._replace(theta=np.append(w * scale[:, None], found.theta[-1:], axis=0))
        elif numbers.l2 > 0:
            found = conjugate(rows, sample, C, K, numbers, most)
        else:
            raise ValueError(
                f"{len(K)} columns with the intercept and {k} classes are too many for a fit of batches without a "
                f"penalty: more than {FORMED} in all; give l2 > 0."
            )
        if lost:
            direction = np.zeros_like(found.theta)
            direction[-1] = (1.0 if missing[0] else -1.0) if k == 1 else -missing.astype(float)
            found = found._replace(code=Status.separable, direction=direction, bound=np.inf, covariance=None)
        dtype = jax.dtypes.canonicalize_dtype(survey.dtype)
        return on_device(package(found._replace(rank=rank), rows, m, scale, numbers, dtype))


def null_space(C: N, scale: N, penalised: bool) -> tuple[N, N, int]:
    """As `_design.null_space`; with a penalty the minimum is unique, and only the rank is told."""
    d = len(C)
    eigenvalues, V = np.linalg.eigh(C)
    lost = ~(eigenvalues > 4 * EPS * max(d, 8) * eigenvalues[-1])
    N_ = V[:, lost & (not penalised)]
    N_ = np.where(np.abs(N_) > 64 * EPS, N_, 0.0)
    Q = np.linalg.qr(N_ / scale[:, None])[0]
    return N_ @ N_.T, np.eye(d) - Q @ Q.T, d - int(lost.sum())
