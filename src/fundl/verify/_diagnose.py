"""Why a gradient is wrong: each likely cause is a hypothesis that is tested at several points, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fundl.verify._engine import Engine
from fundl.verify._hypotheses import Case, elementwise_causes, factor_name, some_entries, structural_causes
from fundl.verify._judges import Bench, flat
from fundl.verify._points import Points
from fundl.verify._report import Failure

__all__ = ["Evidence", "diagnose"]

_ORDINARY = ("as given", "ordinary values", "scaled by 0.001")
_POINTS = 5


@dataclass
class Evidence:
    """Everything known of a wrong rule on one bench: its gradients, and the entries that differ from autodiff."""

    engine: Engine
    bench: Bench
    given: np.ndarray
    off: np.ndarray
    compute: Callable[..., Any]

    def rule(self, stacks: list[np.ndarray], dys: list[np.ndarray]) -> np.ndarray:
        """What the rule gives for other cotangents or arguments, (P, entries)."""
        return flat(self.engine.run(self.compute, self.compute, [stacks, dys], np.float64, self.bench.chunk))

    def reference(self, stacks: list[np.ndarray], dys: list[np.ndarray]) -> np.ndarray:
        """The true gradients for other cotangents or labels, (P, entries)."""
        bench = self.bench
        if bench.blackbox:
            return bench._by_differences(Points([""] * len(stacks[0]), stacks), dys)[0]
        return flat(self.engine.run("ad", self.engine.autodiff, [stacks, dys], np.float64, bench.chunk)[1])


def diagnose(
    evidence: Evidence, leaf: int, where: list[tuple[int, int]], truth: list[float], kinds: list[str]
) -> Failure:
    """The failure of one argument: the worst entry, where it appears, and the likely cause."""
    bench, engine = evidence.bench, evidence.engine
    a, b = int(bench.offsets[leaf]), int(bench.offsets[leaf + 1])
    best = min(range(len(where)), key=lambda i: (kinds[i] == "not finite", _rank(bench.points.kinds[where[i][0]]), i))
    (p, e), value, kind = where[best], truth[best], kinds[best]
    name = engine.arguments.leaves[engine.arguments.differentiable[leaf]].name
    g = float(evidence.given[p, e])
    wrong = int(evidence.off[p, a:b].sum())
    eps = float(np.finfo(np.float64).eps)
    failure = Failure(
        name, "unknown", f"{wrong} of {b - a} entries wrong" if b - a > 1 else "wrong", "", bench.where(e)[1], g,
        value, abs(g - value) / (eps * max(abs(value), 1e-300)), wrong, b - a, "float64",
        _seen_at(evidence, a, b, where), _judge_text(bench, kind, float(bench.gradients[p, e]), value),
    )  # fmt: skip
    if kind in ("kink", "tie"):
        failure.cause = "kink"
        failure.likely_cause = (
            "outside the subdifferential: no choice at this kink gives that value"
            if kind == "kink" else "the tied entries do not fit together: each has its own share, and they add up wrong"
        )  # fmt: skip
        return failure
    usual = _usual(evidence, leaf)
    if kind == "not finite" or not len(usual):
        failure.cause, failure.likely_cause = _region(evidence, leaf, kind, a, b, where)
        return failure
    for cause, text in _causes(evidence, leaf, usual):
        failure.cause, failure.likely_cause = cause, text
        break
    return failure


def _rank(kind: str) -> int:
    """The plainest points first: the arguments given, then ordinary ones."""
    return _ORDINARY.index(kind) if kind in _ORDINARY else len(_ORDINARY)


def _usual(evidence: Evidence, leaf: int) -> np.ndarray:
    """Points where the argument is wrong although nothing is special about them; none if it is right at most."""
    bench = evidence.bench
    a, b = bench.offsets[leaf], bench.offsets[leaf + 1]
    ordinary = np.array([k in _ORDINARY for k in bench.points.kinds])
    live = np.array([any(np.any(dy[i]) for dy in bench.dys) for i in range(len(bench.points))])
    finite = np.isfinite(bench.gradients[:, a:b]).any(axis=1) & np.isfinite(evidence.given[:, a:b]).all(axis=1)
    candidates = np.flatnonzero(ordinary & live & finite & bench.ok)
    hit = candidates[evidence.off[candidates][:, a:b].any(axis=1)]
    if not len(hit) or len(hit) < 0.6 * len(candidates):
        return hit[:0]
    # Huge and tiny cotangents hide what a half precision or an added constant looks like.
    top = np.max([np.abs(dy[hit]).reshape(len(hit), -1).max(axis=1, initial=0) for dy in bench.dys], axis=0)
    return hit[np.argsort(np.abs(np.log10(np.maximum(top, 1e-300))), kind="stable")][:_POINTS]


def _causes(evidence: Evidence, leaf: int, usual: np.ndarray) -> Iterator[tuple[str, str]]:
    """Causes that explain the whole error at every one of these points, the simplest first."""
    bench = evidence.bench
    mine = evidence.engine.arguments.differentiable
    leaves = evidence.engine.arguments.leaves
    a, b = bench.offsets[leaf], bench.offsets[leaf + 1]
    shape = bench.values[mine[leaf]].shape
    cases = []
    for p in usual:
        others = {
            leaves[k].name: bench.gradients[p, bench.offsets[j] : bench.offsets[j + 1]].reshape(
                bench.values[k].shape)
            for j, k in enumerate(mine) if j != leaf
        }  # fmt: skip
        cases.append(
            Case(
                evidence.given[p, a:b].reshape(shape),
                bench.gradients[p, a:b].reshape(shape),
                {leaves[k].name: bench.points.stacks[k][p] for k in mine},
                [v[p] for v in bench.outputs],
                [dy[p] for dy in bench.dys],
                others,
                leaves[mine[leaf]].name,
                1e-5 if bench.blackbox else 1e-7,
            )
        )
    sizes = sorted({s for v in [*bench.values, *bench.outputs] for s in v.shape if s > 1 and s != len(bench.points)})
    yield from elementwise_causes(cases, sizes)
    yield from _cotangent_causes(evidence, usual, slice(a, b), cases[0].tolerance)
    yield from structural_causes(cases)
    yield from _label_causes(evidence, usual, slice(a, b))
    yield from _dependence_causes(evidence, usual, slice(a, b))
    yield from some_entries(cases, few=False)


def _cotangent_causes(
    evidence: Evidence, usual: np.ndarray, mine: slice, tolerance: float
) -> Iterator[tuple[str, str]]:
    bench = evidence.bench
    scalar = all(dy.ndim == 1 for dy in bench.dys)

    def tail_zero(dy: np.ndarray) -> np.ndarray:
        out = dy.copy()
        if dy.ndim > 1:
            out[:, -1] = 0
        return out

    def flat_tail_zero(dy: np.ndarray) -> np.ndarray:
        out = dy.copy()
        out.reshape(len(dy), -1)[:, -1] = 0
        return out

    def each(fn: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda dy: np.broadcast_to(fn(dy.reshape(len(dy), -1)).reshape((-1,) + (1,) * (dy.ndim - 1)), dy.shape)

    changes: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = [
        ("the cotangent is ignored: the gradient is that for dy = 1", np.ones_like),
        ("the absolute value of the cotangent is used", np.abs),
        ("the cotangent is squared", np.square),
    ]
    if not scalar:
        changes += [
            ("the first entry of the cotangent is used for all", each(lambda dy: dy[:, 0])),
            ("the last entry of the cotangent is used for all", each(lambda dy: dy[:, -1])),
            ("the mean of the cotangent is used for all entries", each(lambda dy: dy.mean(axis=1))),
            ("the sum of the cotangent is used for all entries", each(lambda dy: dy.sum(axis=1))),
            ("the last row of the cotangent is left out", tail_zero),
            ("the last entry of the cotangent is left out", flat_tail_zero),
            ("the cotangent is reversed", lambda dy: dy[:, ::-1] if dy.ndim > 1 else dy),
            ("the cotangent is reversed", lambda dy: dy.reshape(len(dy), -1)[:, ::-1].reshape(dy.shape)),
            ("the cotangent is rolled by one row", lambda dy: np.roll(dy, 1, axis=1) if dy.ndim > 1 else dy),
            ("the cotangent is rolled by one row", lambda dy: np.roll(dy, -1, axis=1) if dy.ndim > 1 else dy),
            ("only the sign of the cotangent is used", np.sign),
            ("the first row of the cotangent is used for all rows",
             lambda dy: np.broadcast_to(dy[:, :1], dy.shape) if dy.ndim > 1 else dy),
            ("the mean of the cotangent over rows is used",
             lambda dy: np.broadcast_to(dy.mean(axis=1, keepdims=True), dy.shape) if dy.ndim > 1 else dy),
        ]  # fmt: skip
    else:
        changes += [("only the sign of the cotangent is used", np.sign)]
    given = evidence.given[usual, mine]
    stacks = bench.pick(bench.points.stacks, usual)
    dys = bench.pick(bench.dys, usual)
    for text, change in changes:
        changed = [np.ascontiguousarray(change(dy)) for dy in dys]
        if all(np.array_equal(x, y) for x, y in zip(changed, dys, strict=True)):
            continue
        other = evidence.reference(stacks, changed)[:, mine]
        factor = _common_factor(given, other, tolerance)
        if factor is not None:
            extra = "" if factor == 1 else f", and it is multiplied by {factor_name(factor, [])}"
            yield "cotangent", text + extra
            return


def _common_factor(g: np.ndarray, t: np.ndarray, tolerance: float) -> float | None:
    """The one factor c with g = c t at every point, or None; only 1, and 1 over a size, are looked for."""
    top = np.abs(t).max()
    if not np.isfinite(top) or top == 0:
        return None
    c = float(np.nansum(g * t) / np.nansum(t * t))
    if c == 0 or not np.isfinite(c):
        return None
    rows = np.abs(g - c * t) <= tolerance * np.abs(c) * np.abs(t).max(axis=1, keepdims=True) + 1e-300
    if not rows.all():
        return None
    return 1.0 if abs(c - 1) < tolerance else c


def _label_causes(evidence: Evidence, usual: np.ndarray, mine: slice) -> Iterator[tuple[str, str]]:
    bench, engine = evidence.bench, evidence.engine
    given = evidence.given[usual, mine]
    dys = bench.pick(bench.dys, usual)
    for k, leaf in enumerate(engine.arguments.leaves):
        if leaf.differentiable or leaf.value.size == 0 or leaf.value.dtype.kind == "b":
            continue
        top = int(leaf.value.max())
        for text, change in (
            (f"{leaf.name} is used one too high", lambda y, top=top: np.where(y + 1 > top, 0, y + 1)),
            (f"{leaf.name} is used one too high", lambda y: y + 1),
            (f"{leaf.name} is used one too low", lambda y, top=top: np.where(y < 1, top, y - 1)),
            (f"{leaf.name} is read in reversed order", lambda y: y[:, ::-1]),
            (f"{leaf.name} is read one row off", lambda y: np.roll(y, 1, axis=-1)),
            (f"the first of {leaf.name} is used for all",
             lambda y: np.broadcast_to(y.reshape(len(y), -1)[:, :1].reshape((-1,) + (1,) * (y.ndim - 1)), y.shape)),
        ):  # fmt: skip
            stacks = bench.pick(bench.points.stacks, usual)
            stacks[k] = np.ascontiguousarray(change(stacks[k])).astype(leaf.value.dtype)
            if _common_factor(given, evidence.reference(stacks, dys)[:, mine], 1e-7) == 1:
                yield "label", text
                return


def _dependence_causes(evidence: Evidence, usual: np.ndarray, mine: slice) -> Iterator[tuple[str, str]]:
    """Not linear in the cotangent, or blind to an argument that the true gradient depends on."""
    bench, engine = evidence.bench, evidence.engine
    stacks, dys = bench.pick(bench.points.stacks, usual), bench.pick(bench.dys, usual)
    given, truth = evidence.given[usual, mine], bench.gradients[usual, mine]

    def differs(x: np.ndarray, y: np.ndarray) -> bool:
        return bool(np.nanmax(np.abs(x - y), initial=0.0) > 1e-6 * np.nanmax(np.abs(y), initial=0.0))

    if differs(evidence.rule(stacks, [2 * dy for dy in dys])[:, mine], 2 * given):
        yield "nonlinear", "not linear in the cotangent: twice dy does not give twice the gradient"
        return
    rng = np.random.default_rng(0)
    for k, leaf in enumerate(engine.arguments.leaves):
        if not leaf.floating:
            continue
        moved = [x * rng.uniform(0.9, 1.1, x.shape) if i == k else x for i, x in enumerate(stacks)]
        if differs(evidence.reference(moved, dys)[:, mine], truth) and np.array_equal(
            evidence.rule(moved, dys)[:, mine], given
        ):
            why = "a term in it is missing, or the rule uses an array from outside"
            yield "independent", f"it does not depend on {leaf.name}, and should: {why}"
            return


def _seen_at(evidence: Evidence, a: int, b: int, where: list[tuple[int, int]]) -> str:
    bench = evidence.bench
    kinds = list(dict.fromkeys(bench.points.kinds[p] for p, e in where if a <= e < b))
    ordinary = sorted((k for k in kinds if k in _ORDINARY), key=_rank)
    shown = (ordinary or kinds)[:3]
    rows = int(evidence.off[:, a:b].any(axis=1).sum())
    return f"{', '.join(shown)} ({rows} of {int(bench.ok.sum())} points)"


def _judge_text(bench: Bench, kind: str, autodiff: float, value: float) -> str:
    if kind == "kink":
        return "the gradients just beside the point"
    if kind == "tie":
        return "the slope along the tied entries"
    if kind == "edge":
        return "jax.vjp here and beside, where f has values"
    if bench.blackbox:
        return "differences of f"
    if kind == "not finite":
        return f"jax.vjp {autodiff:.9g}"
    return "jax.vjp and differences agree" if autodiff == value else f"differences; jax.vjp gives {autodiff:.9g}"


def _region(evidence: Evidence, leaf: int, kind: str, a: int, b: int, where: list[tuple[int, int]]) -> tuple[str, str]:
    """Where in the range of the arguments the rule is wrong: a threshold, or the kinds of point."""
    bench = evidence.bench
    given, truth = evidence.given[:, a:b], bench.gradients[:, a:b]
    x = bench.entries()[:, a:b]
    if kind == "not finite":
        off = ~np.isfinite(given) & bench.ok[:, None]
        right = bench.ok[:, None] & ~off
    else:
        # Errors of the size of those judged, not of rounding; and only where one of that size would show.
        relative = np.abs(given - truth) / (np.abs(truth) + 1e-9 * bench.leaf_max(bench.gradients)[:, a:b])
        judged = [r for r in (relative[p, e - a] for p, e in where) if np.isfinite(r)]
        if not judged:
            return "region", "wrong where autodiff of f has no value itself"
        usual = float(np.median(judged))
        off = evidence.off[:, a:b] & (relative >= 0.01 * usual)
        visible = usual * np.abs(truth) > bench.tolerance(bench.gradients)[:, a:b]
        right = bench.ok[:, None] & ~off & visible
    what = "not finite" if kind == "not finite" else "wrong"
    rows = np.flatnonzero(off.any(axis=1))
    kinds = list(dict.fromkeys(bench.points.kinds[p] for p in rows))
    wrong_x, right_x = x[off], x[right]
    name = evidence.engine.arguments.leaves[evidence.engine.arguments.differentiable[leaf]].name
    if wrong_x.size and right_x.size:
        lo, hi = wrong_x.min(), wrong_x.max()
        if lo == hi == 0 and np.mean(right_x == 0) < 0.05:
            return "zero", f"{what} only where {name} is 0"
        for text, inside in (
            (f"{name} > {_before(right_x, lo, -1):.4g}", right_x >= lo),
            (f"{name} < {_before(-right_x, -hi, 1):.4g}", right_x <= hi),
            (f"abs({name}) > {_before(np.abs(right_x), np.abs(wrong_x).min(), -1):.4g}",
             np.abs(right_x) >= np.abs(wrong_x).min()),
            (f"abs({name}) < {np.abs(wrong_x).max():.4g}", np.abs(right_x) <= np.abs(wrong_x).max()),
        ):  # fmt: skip
            if inside.mean() < 0.02:
                tail = "saturated" if kind == "not finite" or np.abs(wrong_x).min() > 8 else "region"
                why = ": an exponential overflows without a shift by the largest entry" if kind == "not finite" else ""
                return tail, f"{what} only where {text}{why}"
    zeros = [k for k in kinds if "zero" in k]
    big = [k for k in kinds if any(w in k for w in ("saturated", "about", "spread", "scaled by 1e", " at "))]
    if kind == "not finite" and len(zeros) < len(kinds):
        return "overflow", "overflows at large inputs: no shift by the largest entry, or a product that is too large"
    if zeros and len(zeros) == len(kinds):
        return "zero", f"{what} only at zeros: a division by 0, or a missing case"
    if big:
        return "saturated", f"{what} only where saturated or very large ({big[0]})"
    return "region", f"{what} only at special points ({', '.join(kinds[:2])})"


def _before(right: np.ndarray, edge: float, sign: int) -> float:
    """The value next to the edge of the wrong region on the right side of it."""
    below = right[right < edge]
    return -sign * float(below.max() if below.size else edge)
