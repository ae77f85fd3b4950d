"""From concrete data to the ends of all lanes in NumPy, where they are to step together: see `_program`."""

from typing import Any

import jax
import numpy as np

from fundl import newton
from fundl._result import Status
from fundl._threads import TALL, on_all, processors
from fundl._types import Array
from fundl.newton._design import shift_and_scale, standardise
from fundl.newton._wide import rise_by
from fundl.sweep import _concrete_lanes
from fundl.sweep._ends import Ends, clean, end_of, parents, rows_of, scores
from fundl.sweep._inputs import Given

ENTRIES = 1 << 18  # logits of the lanes that step together: many share what a call costs, and the cache holds them
FEW = 32  # lanes that are not split among processors
EPS = float(np.finfo(np.float64).eps)


def solve(given: Given, tol: Array, max_steps: int, *, intercept: bool) -> tuple[Ends, Ends]:
    """The ends of the replicates and, with folds, of the fits to all rows; lanes without a proof are fitted alone."""
    host: Any = jax.tree.map(np.asarray, given)
    rows = rows_of(host)
    X, Y = clean(host)
    train, score, l2, targets = rows.train, rows.score, host.l2, np.ascontiguousarray(Y.T)
    mean = train[: max(rows.first, 1)].mean(axis=0)
    centre, scale = shift_and_scale(X, mean, intercept)
    Z = standardise(X, mean, centre, scale, intercept)
    shared = _concrete_lanes.shared(Z, scale)

    which, parent, first = parents(rows, len(l2), len(targets))
    L, (n, D) = which.shape[1], Z.shape
    start, reached = np.zeros((L, D)), np.zeros((L, D))
    ends = {name: np.zeros(L) for name in ("b", "f", "gradient_norm", "bound", "loss", "accuracy")}
    ends |= {name: np.zeros(L, np.int32) for name in ("steps", "code")}
    ends |= {"w": np.zeros((L, D - 1)), "w_direction": np.full((L, D - 1), np.nan), "b_direction": np.full(L, np.nan)}

    def chunk(lane: np.ndarray) -> None:
        p, r, j = which[:, lane]
        y, q, s = targets[j], score[r], train[r]
        found = _concrete_lanes.minimise(shared, s, y, l2[p], start[lane], float(tol), max_steps)
        z, theta, g = found.z, found.theta, found.gradient
        w = theta[:, :-1] / scale
        b = theta[:, -1] - w @ centre
        rounded = 2 * EPS * (np.abs(theta[:, -1]) + 2 * np.abs(w) @ np.abs(centre)) * intercept  # moves every logit
        bound = found.bound + rise_by(rounded, np.abs(g[:, -1]), s.sum(axis=1), found.f, 1)
        usable = np.isfinite(bound) & np.isfinite(theta).all(axis=1)
        reached[lane] = np.where(usable[:, None], theta, 0.0)
        near = bound <= np.where(found.steps < max_steps, max(float(tol), np.sqrt(EPS) / 100), float(tol)) * found.f
        good = near & np.isfinite(theta).all(axis=1)
        outside = scale * g[:, :-1] + centre * g[:, -1:]
        total = q.sum(axis=1)
        loss = found.L + np.where(z > 0, (1 - y) * z, -y * z)
        values = {
            "w": w, "b": b, "f": found.f, "bound": bound, "steps": found.steps,
            "gradient_norm": np.sqrt(np.sum(outside * outside, axis=1) + g[:, -1] ** 2),
            "code": np.where(good, int(Status.converged), int(Status.stalled)),
            "loss": np.sum(q * loss, axis=1) / total,
            "accuracy": np.sum(q * ((z > 0) == (y > 0.5)), axis=1) / total,
        }  # fmt: skip
        for name, v in values.items():
            ends[name][lane] = v

    def run(lane: np.ndarray) -> None:
        workers = processors() if max(n, shared.pairs.shape[1]) <= TALL else 1  # where no product takes all
        at_once = min(ENTRIES // n + 1, max(FEW, -(-len(lane) // workers)))
        parts = -(-len(lane) // at_once)
        # Every part has some of the small penalties, which take longer.
        on_all(chunk, [lane[i::parts] for i in range(parts)], workers)

    if first:
        run(np.arange(first))
    # Lanes along the path of penalties (m, lanes of one), and the parents that they start from.
    path = first + np.arange(L - first).reshape(len(l2), -1)[np.argsort(-l2)]
    origin = reached[parent[path]] if first else np.zeros((*path.shape, D))
    known: list[int] = []
    for places in _levels(len(l2)):
        so_far = reached[path]
        for p in places:
            start[path[p]] = origin[p] + _away(so_far, origin, known, p)
        run(path[places].reshape(-1))
        known += places
    options = {"intercept": intercept, "method": "auto", "tol": float(tol), "max_steps": max_steps}
    for i in np.flatnonzero(ends["code"] != int(Status.converged)):
        p, r, j = which[:, i]
        own = {"l2": l2[p], "l1": 0.0, "weights": train[r], **options}
        fit = newton.fit_concrete(X, Y[:, j], k=1, **own)
        if fit is None:
            fit = newton.fit(X, Y[:, j : j + 1], link="sigmoid", **own)
        for name, v in end_of(fit, scores("sigmoid", X, Y[:, j], *fit.params, rows.score[r]))._asdict().items():
            ends[name][i] = v
    whole = slice(first if given.held is None else 0, first)
    return _part(ends, slice(first, L)), _part(ends, whole)


def _away(reached: np.ndarray, origin: np.ndarray, known: list[int], p: int) -> np.ndarray:
    """How far from their parents the lanes of penalty p begin: between the nearest that are known, grown as those."""
    if not known:
        return np.zeros(())
    size = np.linalg.norm(origin, axis=2, keepdims=True)
    size[size == 0] = 1
    a, b = max(q for q in known if q < p), min(q for q in known if q > p)
    before, after = ((reached[q] - origin[q]) / size[q] for q in (a, b))
    return size[p] * (before + (p - a) / (b - a) * (after - before))


def _part(ends: dict[str, np.ndarray], lane: slice) -> Ends:
    return Ends(**{name: v[lane] for name, v in ends.items()})


def _levels(m: int) -> list[list[int]]:
    """The places 0..m-1 in the order they are fitted: every fourth and the last, then those between."""
    first = sorted({*range(0, m, 4), m - 1})
    between = sorted({*range(m)} - {*first})
    return [first, between] if between else [first]
