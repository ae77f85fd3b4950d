"""Where rule and autodiff differ, differences decide: wrong, a choice at a kink, or autodiff itself in error.

Where autodiff is right by definition they are not asked: what it gives near by tells a kink from a mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fundl.verify._judges import Bench
from fundl.verify._report import Failure, Report
from fundl.verify._single import FAINT
from fundl.verify._verdict import Verdict

__all__ = ["Wrong", "arbitrate", "confirm"]

_JUDGED = 12  # entries arbitrated per leaf and kind of point
# Digits lost to the rounding of terms of usual size are said, not failed.
_LOST = (
    "where the gradient of {name} is nearly 0 it keeps few digits, as 1 - sigmoid does: "
    "{given:.6g} at {at:.4g}, exactly {other:.6g}"
)
_NEITHER = "f has a value at {at:.6g} ({kind}), but the rule gives {given} in {name}, and jax.grad {other}"
_UNDECIDED = (
    "undecided in {name} at {at:.6g} ({kind}): the rule gives {given:.6g}, jax.grad {other:.6g}, "
    "and {judge} cannot tell"
)


@dataclass
class Wrong:
    """Entries of one bench that are wrong: (point, entry), the true value, and what judged it."""

    where: list[tuple[int, int]] = field(default_factory=list)
    truth: list[float] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)


def arbitrate(bench: Bench, given: np.ndarray, compute: Callable[..., Any], kink: str | None, report: Report) -> Wrong:
    """The entries that are wrong, after arbitration; conventions and a wrong reference go to the report."""
    truth, allowed = bench.gradients, bench.tolerance(bench.gradients)
    wrong = Wrong()
    off = np.abs(given - truth) > allowed
    finite_given, finite_truth = np.isfinite(given), np.isfinite(truth)
    decided = np.isfinite(bench.errors) if bench.blackbox else np.ones(given.shape, bool)
    bad = bench.ok[:, None] & finite_truth & ~finite_given & decided
    chosen = _choose(bad, np.ones(given.shape), bench)
    # An infinite gradient is right where differences are infinite too.
    infinite = [i for i, pe in enumerate(chosen) if np.isinf(given[pe])]
    steep = {chosen[i] for i, v in zip(infinite, bench.verdicts([chosen[i] for i in infinite]), strict=True)
             if not np.isfinite(v.error)}  # fmt: skip
    for p, e in (pe for pe in chosen if pe not in steep):
        wrong.where.append((p, e))
        wrong.truth.append(float(truth[p, e]))
        wrong.kind.append("not finite")
    suspect = bench.ok[:, None] & finite_given & (off | ~finite_truth) & decided
    size = np.abs(given - truth) / allowed
    faint = FAINT * np.finfo(np.float64).eps * bench.usual()
    minor = finite_truth & (np.abs(given - truth) <= faint)
    size = np.where(np.isfinite(size), size, 1.0)
    chosen = _choose(suspect & ~minor, size, bench) + _choose(suspect & minor, size, bench)[:4]
    # Where autodiff has no value there is none near by either: there the values of f must do.
    chosen.sort(key=lambda pe: bool(finite_truth[pe]))
    blind = sum(not finite_truth[pe] for pe in chosen)
    verdicts = bench.verdicts(chosen[:blind], values_only=True) + bench.verdicts(chosen[blind:])
    lows, highs = bench.rounding(compute, chosen)
    kinks: list[tuple[int, int, Verdict]] = []
    lost: list[tuple[int, int, float, float]] = []
    open_still: list[tuple[int, int, float, float]] = []
    for (p, e), v, least, most in zip(chosen, verdicts, lows, highs, strict=True):
        g, t, noise = float(given[p, e]), float(truth[p, e]), float(most - least)
        if v.kind == "kink":  # there the rule may jump; its rounding is what leaves the interval
            noise = min(noise, max(v.low - float(least), float(most) - v.high, 0.0))
        slack = 4 * v.error + 4 * noise + float(allowed[p, e] if finite_truth[p, e] else 0.0)
        if v.kind == "smooth" and abs(g - v.value) > slack + 1e-9 * abs(v.value):
            if abs(g - v.value) <= faint[p, e]:
                lost.append((p, e, g, v.value))
                continue
            wrong.where.append((p, e))
            wrong.truth.append(t if abs(t - v.value) <= slack else v.value)
            wrong.kind.append("smooth")
        elif v.kind == "smooth" and (not np.isfinite(t) or abs(t - v.value) > slack + 1e-9 * abs(v.value)):
            text = _reference_text(bench, p, e, g, t, v)
            if len(report.reference) < 4 and not any(r.split(" at ")[0] == text.split(" at ")[0]
                                                     for r in report.reference):  # fmt: skip
                report.reference.append(text)
        elif v.kind == "edge":
            # Autodiff must follow from the gradients beside the point, which may still vary, and the rule must not.
            width, size = v.high - v.low, 1e-2 * max(abs(v.low), abs(v.high))
            if abs(t - v.value) <= 2 * width + size and abs(g - v.value) > 10 * width + size + faint[p, e]:
                wrong.where.append((p, e))
                wrong.truth.append(t)
                wrong.kind.append("edge")
            elif np.isnan(t):
                open_still.append((p, e, g, t))
        elif v.kind == "kink":
            reach = v.slack + slack
            if not v.low - reach <= g <= v.high + reach or _contradicts(kink, g, v):
                wrong.where.append((p, e))
                wrong.truth.append(min(max(g, v.low), v.high))
                wrong.kind.append("kink")
            else:
                kinks.append((p, e, v))
        elif (v.kind == "undecided" or v.error > 0.1 * abs(g - t)) and not (
            abs(g - t) <= 4 * noise + 1e-3 * max(abs(g), abs(t))  # the rule's own rounding may explain it
        ):
            open_still.append((p, e, g, t))
    _along_ties(bench, given, kinks, wrong)
    if not wrong.where:
        nowhere = np.argwhere(bench.ok[:, None] & np.isnan(given) & ~finite_truth)
        neither = [(int(p), int(e), float(given[p, e]), float(truth[p, e])) for p, e in nowhere]
        report.notes += _first_of_each(bench, neither, _NEITHER)
        report.conventions += _conventions(bench, given, kinks)
        report.notes += _first_of_each(bench, lost, _LOST) + _first_of_each(bench, open_still, _UNDECIDED)
    return wrong


def confirm(bench: Bench, given: np.ndarray, report: Report) -> list[Failure]:
    """Differences at a few points where rule and autodiff agree: both may share one mistake."""
    rng = np.random.default_rng(bench.seed + 5)
    ordinary = [p for p in np.flatnonzero(bench.ok) if bench.points.kinds[p] in ("as given", "ordinary values")]
    count = 3 if bench.size <= 20_000 else 1
    chosen = []
    for p in ordinary[:count]:
        for a, b in zip(bench.offsets[:-1], bench.offsets[1:], strict=True):
            if b > a:
                chosen += [(int(p), int(e)) for e in rng.integers(a, b, 2 if bench.size <= 20_000 else 1)]
    gaps = []
    tops = bench.leaf_max(bench.gradients)
    for (p, e), v in zip(chosen, bench.verdicts(chosen, values_only=True), strict=True):
        t, top = float(bench.gradients[p, e]), float(tops[p, e])
        if not np.isfinite(v.value) or v.error > 1e-6 * top:
            continue
        gap = abs(t - v.value)
        slack = 8 * v.error + 1e-6 * top
        if v.kind == "smooth" and gap > slack and abs(float(given[p, e]) - v.value) <= slack:
            continue  # autodiff alone is wrong here, and has been reported
        if v.kind == "smooth":
            gaps.append(gap / top if top else 0.0)
            if gap > slack:
                return [_both_wrong(bench, given, p, e, v)]
    if gaps:
        report.judges += f", confirmed by differences to {max(max(gaps), 1e-16):.0e}"
    else:
        report.notes.append("differences could not confirm autodiff at the points tried")
    return []


def _both_wrong(bench: Bench, given: np.ndarray, p: int, e: int, v: Verdict) -> Failure:
    return Failure(
        _name(bench, e), "shared", "the rule and autodiff agree with each other, and not with f",
        "f holds a stop_gradient or a custom derivative that is wrong; if it is meant, pass reference='autodiff'",
        bench.where(e)[1], float(given[p, e]), v.value, seen_at=bench.points.kinds[p], judges="differences of f",
    )  # fmt: skip


def _first_of_each(bench: Bench, entries: list[tuple[int, int, float, float]], text: str) -> list[str]:
    """One note for each leaf with such entries: what the rule gave there, and the other value."""
    out: dict[str, str] = {}
    for p, e, given, other in entries:
        name, at, kind = _name(bench, e), bench.entries()[p, e] + 0.0, bench.points.kinds[p]
        judge = "jax.grad near by" if bench.trusted else "differences"
        out.setdefault(name, text.format(name=name, at=at, kind=kind, given=given + 0.0, other=other, judge=judge))
    return list(out.values())


def _reference_text(bench: Bench, p: int, e: int, g: float, t: float, v: Verdict) -> str:
    _, index = bench.where(e)
    name = _name(bench, e)
    at = bench.entries()[p, e] + 0.0
    judge = "near by" if bench.trusted else "differences"
    return (
        f"jax.grad of f is wrong in {name} at {at:.6g} ({bench.points.kinds[p]}, index {list(index)}): "
        f"it gives {t:.9g}, {judge} {v.value:.9g}, the rule {g:.9g}"
    )


def _contradicts(kink: str | None, g: float, v: Verdict) -> bool:
    if kink is None or np.isnan(v.left):
        return False
    declared = {"left": v.left, "right": v.right, "average": (v.left + v.right) / 2, "zero": 0.0}[kink]
    return abs(g - declared) > 1e-3 * (v.high - v.low)


def _along_ties(bench: Bench, given: np.ndarray, kinks: list[tuple[int, int, Verdict]], wrong: Wrong) -> None:
    """At a tie the entries must fit together too: along the whole tied set the slope has its own interval."""
    if bench.blackbox:
        return
    for p in list(dict.fromkeys(p for p, _, _ in kinks))[:6]:
        near, _ = bench.nearby_all(np.array([p]))
        near = near[0][np.isfinite(near[0]).all(axis=1)]
        if len(near) < 8:
            continue
        width = np.ptp(near, axis=0)
        top = np.abs(near).max(axis=0)
        tied = width > 1e-3 * top + 1e-12
        reach = np.abs(near[:, tied]).max(axis=0, initial=0.0).sum()
        along = near[:, tied].sum(axis=1)
        mine = given[p, tied].sum()
        spread = max(np.ptp(along), 1e-5 * reach)
        middle = (along.min() + along.max()) / 2
        if abs(mine - middle) > 8 * spread:
            e = next(e for q, e, _ in kinks if q == p)
            wrong.where.append((p, e))
            wrong.truth.append(float(bench.gradients[p, e]))
            wrong.kind.append("tie")


def _conventions(bench: Bench, given: np.ndarray, kinks: list[tuple[int, int, Verdict]]) -> list[str]:
    out: dict[str, str] = {}
    for p, e, v in kinks:
        name = _name(bench, e)
        g, word = float(given[p, e]), "a value between"
        if not np.isnan(v.left):
            choices = {"left": v.left, "right": v.right, "average": (v.left + v.right) / 2, "zero": 0.0}
            near = [w for w, c in choices.items() if abs(g - c) <= 1e-3 * (v.high - v.low)]
            word = " = ".join(near) or word
        elif g == 0:
            word = "zero"
        out.setdefault(
            f"{name}{word}",
            f"{name} at {bench.entries()[p, e] + 0.0:.4g} ({bench.points.kinds[p]}): the rule takes {word}, "
            f"{g + 0.0:.4g}; jax.grad {bench.gradients[p, e] + 0.0:.4g}; "
            f"any value in [{v.low + 0.0:.4g}, {v.high + 0.0:.4g}] is right",
        )
    return list(out.values())[:6]


def _name(bench: Bench, entry: int) -> str:
    arguments = bench.engine.arguments
    return arguments.leaves[arguments.differentiable[bench.where(entry)[0]]].name


def _choose(mask: np.ndarray, size: np.ndarray, bench: Bench) -> list[tuple[int, int]]:
    """Some of the marked entries: the largest of every leaf at every kind of point, then more of the largest."""
    chosen: list[tuple[int, int]] = []
    limit = _JUDGED if bench.size <= 20_000 else 2
    for a, b in zip(bench.offsets[:-1], bench.offsets[1:], strict=True):
        rows = np.flatnonzero(mask[:, a:b].any(axis=1))
        seen: dict[str, int] = {}
        mine: list[tuple[int, int]] = []
        for p in rows:
            kind = bench.points.kinds[p]
            if seen.get(kind, 0) >= 2:
                continue
            seen[kind] = seen.get(kind, 0) + 1
            part = np.where(mask[p, a:b], size[p, a:b], -1)
            mine.append((int(p), int(a + np.argmax(part))))
        plain = [m for m in mine if bench.points.kinds[m[0]] in ("as given", "ordinary values")][: max(1, limit // 3)]
        rest = sorted((m for m in mine if m not in plain), key=lambda pe: -size[pe])
        chosen += plain + rest[:limit]
    return chosen
