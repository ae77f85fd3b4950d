"""Why a gradient is wrong: each likely cause is a hypothesis that is tested at several points, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fundl.verify._hypotheses import Case, elementwise_causes, some_entries, structural_causes, threshold_causes
from fundl.verify._judges import Bench, flat
from fundl.verify._probes import (
    Evidence,
    cotangent_causes,
    dependence_causes,
    label_causes,
    moves_in_steps,
    replaced_causes,
    rounding_causes,
    where_labels_say,
)  # fmt: skip
from fundl.verify._report import Failure

__all__ = ["diagnose"]

_ORDINARY = ("as given", "ordinary values", "scaled by 0.001")
_ZEROS = ("all zero", "all zeros", "one zero entry", "all equal to 0")
_POINTS = 5


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
    hit, missed = _ordinary(evidence, leaf)
    usual = hit[:_POINTS]
    if kind != "not finite" and len(hit) and len(hit) >= 1.5 * len(missed):
        found = _causes(evidence, leaf, usual)
    else:
        # Where it overflows it may be wrong beside that too: 0 for what is infinity over infinity next to it.
        kind = "not finite" if "not finite" in kinds else kind
        failure.cause, failure.likely_cause = _region(evidence, leaf, kind, a, b, where)
        found = _at_times(evidence, leaf, usual, missed) if not failure.likely_cause else iter(())
    for cause, text in found:
        if cause == "precision" and not moves_in_steps(evidence, usual, slice(a, b)):
            continue
        if cause in ("factor", "sign", "zero") and np.any(bench.gradients[missed, a:b]):
            continue  # not so where it is right
        failure.cause, failure.likely_cause = cause, text
        break
    return failure


def _rank(kind: str) -> int:
    """The plainest points first: the arguments given, then ordinary ones."""
    return _ORDINARY.index(kind) if kind in _ORDINARY else len(_ORDINARY)


def _ordinary(evidence: Evidence, leaf: int) -> tuple[np.ndarray, np.ndarray]:
    """The points where nothing is special about the argument: those where it is wrong, and those where it is right."""
    bench = evidence.bench
    a, b = bench.offsets[leaf], bench.offsets[leaf + 1]
    ordinary = np.array([k in _ORDINARY for k in bench.points.kinds])
    live = np.array([any(np.any(dy[i]) for dy in bench.dys) for i in range(len(bench.points))])
    finite = np.isfinite(bench.gradients[:, a:b]).any(axis=1) & np.isfinite(evidence.given[:, a:b]).all(axis=1)
    candidates = np.flatnonzero(ordinary & live & finite & bench.ok)
    off = evidence.off[candidates][:, a:b].any(axis=1)
    hit = candidates[off]
    # Huge and tiny cotangents hide what a half precision or an added constant looks like.
    top = np.max([np.abs(dy).reshape(len(dy), -1).max(axis=1, initial=0) for dy in bench.dys], axis=0)[hit]
    return hit[np.argsort(np.abs(np.log10(np.maximum(top, 1e-300))), kind="stable")], candidates[~off]


def _cases(evidence: Evidence, leaf: int, usual: np.ndarray) -> list[Case]:
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
    return cases


def _at_times(evidence: Evidence, leaf: int, hit: np.ndarray, missed: np.ndarray) -> Iterator[tuple[str, str]]:
    """Causes of an error that shows at some ordinary points and not at others; they must explain both."""
    both, entries = np.concatenate([hit[:3], missed[:3]]), slice(*evidence.bench.offsets[leaf : leaf + 2])
    if len(hit):
        yield from cotangent_causes(evidence, both, entries, 1e-5 if evidence.bench.blackbox else 1e-7)
        yield from dependence_causes(evidence, both, entries)
        yield from some_entries(_cases(evidence, leaf, hit), few=True)
    yield from _other_labels(evidence, np.flatnonzero(evidence.off[:, entries].any(axis=1)))


def _other_labels(evidence: Evidence, rows: np.ndarray) -> Iterator[tuple[str, str]]:
    """Wrong at no point that has the integers or booleans of the arguments given."""
    bench = evidence.bench
    for k, v in enumerate(bench.values):
        changed = (bench.points.stacks[k] != v).reshape(len(bench.points), -1).any(axis=1)
        if v.dtype.kind != "f" and changed[rows].all() and not changed[bench.ok].all():
            yield "region", f"wrong only where {evidence.engine.arguments.leaves[k].name} is another than that given"
            return


def _causes(evidence: Evidence, leaf: int, usual: np.ndarray) -> Iterator[tuple[str, str]]:
    """Causes that explain the whole error at every one of these points, the simplest first."""
    bench = evidence.bench
    mine, leaves = evidence.engine.arguments.differentiable, evidence.engine.arguments.leaves
    a, b = bench.offsets[leaf], bench.offsets[leaf + 1]
    shape = bench.values[mine[leaf]].shape
    cases = _cases(evidence, leaf, usual)
    sizes = sorted({s for v in [*bench.values, *bench.outputs] for s in v.shape if s > 1 and s != len(bench.points)})
    yield from elementwise_causes(cases, sizes)
    entries = slice(a, b)
    yield from cotangent_causes(evidence, usual, entries, cases[0].tolerance)
    yield from structural_causes(cases)
    yield from label_causes(evidence, usual, entries)
    yield from replaced_causes(evidence, usual, entries, leaves[mine[leaf]].name)
    yield from where_labels_say(evidence, usual, entries, shape)
    yield from dependence_causes(evidence, usual, entries)
    yield from rounding_causes(evidence, usual, entries)
    yield from threshold_causes(cases)
    yield from some_entries(cases, few=False)


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
    if bench.trusted:
        return "jax.vjp"
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
        near, far = np.abs(wrong_x).min(), np.abs(wrong_x).max()
        less = x[evidence.off[:, a:b] & ~off]  # wrong by less, or by rounding
        inside: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
            (f"{name} > {_before(right_x, lo, -1):.4g}", lambda v: v >= lo),
            (f"{name} < {_before(-right_x, -hi, 1):.4g}", lambda v: v <= hi),
            (f"abs({name}) > {_before(np.abs(right_x), near, -1):.4g}", lambda v: np.abs(v) >= near),
            (f"abs({name}) < {far:.4g}", lambda v: np.abs(v) <= far),
        )
        for text, holds in inside:
            if holds(right_x).mean() < 0.02:
                tail = "saturated" if kind == "not finite" or np.abs(wrong_x).min() > 8 else "region"
                why = ": an exponential overflows without a shift by the largest entry" if kind == "not finite" else ""
                only = "only" if kind == "not finite" or holds(less).all() else "most"
                return tail, f"{what} {only} where {text}{why}"
    shape = bench.values[evidence.engine.arguments.differentiable[leaf]].shape
    for cause, text in where_labels_say(evidence, rows, slice(a, b), shape):
        return cause, text
    zero = np.any(flat([x == 0 for x in bench.points.stacks if x.dtype.kind == "f"]), axis=1)
    zeros = zero[rows].all() and any(k.endswith(_ZEROS) for k in kinds)
    big = [
        k for k in kinds if any(w in k for w in ("saturated", "about", "spread", "scaled by 1e+", "by 1000", " at "))
    ]
    tiny = [k for k in kinds if "scaled by 1e-" in k]
    if kind == "not finite" and not zeros and set(kinds) & set(_ORDINARY[:2]):
        return "region", "NaN or infinite at ordinary inputs"
    if kind == "not finite" and not zeros and (big or not tiny):
        return "overflow", "overflows at large inputs: no shift by the largest entry, or a product that is too large"
    if zeros:
        return "zero", f"{what} only at zeros: a division by 0, or a missing case"
    if set(kinds) & set(_ORDINARY):
        return "region", ""
    for cause, text in _other_labels(evidence, rows):
        return cause, text
    if big and not tiny:
        return "saturated", f"{what} only where saturated or very large ({big[0]})"
    if tiny and not big:
        return "region", f"{what} only where very small ({tiny[0]})"
    return "region", f"{what} only at special points ({', '.join(kinds[:2])})"


def _before(right: np.ndarray, edge: float, sign: int) -> float:
    """The value next to the edge of the wrong region on the right side of it."""
    below = right[right < edge]
    return -sign * float(below.max() if below.size else edge)
