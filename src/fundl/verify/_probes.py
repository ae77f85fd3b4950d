"""Hypotheses about a wrong gradient that need the rule or the reference at other cotangents and arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fundl.verify._engine import Engine
from fundl.verify._hypotheses import factor_name
from fundl.verify._judges import Bench, flat
from fundl.verify._points import Points

__all__ = [
    "Evidence", "cotangent_causes", "dependence_causes", "label_causes", "moves_in_steps", "replaced_causes",
    "rounding_causes", "where_labels_say",
]  # fmt: skip


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


def cotangent_causes(evidence: Evidence, usual: np.ndarray, mine: slice, tolerance: float) -> Iterator[tuple[str, str]]:
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


def label_causes(evidence: Evidence, usual: np.ndarray, mine: slice) -> Iterator[tuple[str, str]]:
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


def dependence_causes(evidence: Evidence, usual: np.ndarray, mine: slice) -> Iterator[tuple[str, str]]:
    """Not linear in the cotangent, or blind to an argument that the true gradient depends on."""
    bench, engine = evidence.bench, evidence.engine
    stacks, dys = bench.pick(bench.points.stacks, usual), bench.pick(bench.dys, usual)
    given, truth = evidence.given[usual, mine], bench.gradients[usual, mine]

    def differs(x: np.ndarray, y: np.ndarray) -> bool:
        return bool(np.nanmax(np.abs(x - y), initial=0.0) > 1e-6 * np.nanmax(np.abs(y), initial=0.0))

    if differs(evidence.rule(stacks, [-2 * dy for dy in dys])[:, mine], -2 * given):
        yield "nonlinear", "not linear in the cotangent: -2 dy does not give -2 times the gradient"
        return
    rng = np.random.default_rng(0)
    for k, leaf in enumerate(engine.arguments.leaves):
        if not leaf.floating:
            continue
        moved = [x * rng.uniform(0.9, 1.1, x.shape) if i == k else x for i, x in enumerate(stacks)]
        if differs(evidence.reference(moved, dys)[:, mine], truth) and np.array_equal(
            evidence.rule(moved, dys)[:, mine], given
        ):
            why = "a term or a mask is missing, or the rule uses an array from outside"
            yield "independent", f"it does not depend on {leaf.name}, and should: {why}"
            return


def replaced_causes(evidence: Evidence, usual: np.ndarray, mine: slice, name: str) -> Iterator[tuple[str, str]]:
    """The gradient that is right for other arguments: one transposed, one in another's place, the output for x."""
    bench = evidence.bench
    given, dys = evidence.given[usual, mine], bench.pick(bench.dys, usual)
    stacks = bench.pick(bench.points.stacks, usual)
    floats = [k for k, leaf in enumerate(evidence.engine.arguments.leaves) if leaf.floating]
    names = [leaf.name for leaf in evidence.engine.arguments.leaves]
    tries: list[tuple[str, str, int, np.ndarray]] = []
    for k in floats:
        shape = stacks[k].shape
        if len(shape) > 2 and shape[-1] == shape[-2] > 1:
            tries.append(("transposed", f"{names[k]} is used transposed", k, np.swapaxes(stacks[k], -1, -2)))
        tries += [("added", f"{names[j]} is used where {names[k]} belongs", k, stacks[j])
                  for j in floats if j != k and stacks[j].shape == shape]  # fmt: skip
        if names[k] == name:
            tries += [("added", f"the output is used where {name} belongs", k, v)
                      for v in bench.pick(bench.outputs, usual) if v.shape == shape]  # fmt: skip
    for cause, text, k, other in tries:
        changed = [np.ascontiguousarray(other) if i == k else x for i, x in enumerate(stacks)]
        if _common_factor(given, evidence.reference(changed, dys)[:, mine], 1e-7) == 1:
            yield cause, text
            return


def where_labels_say(
    evidence: Evidence, points: np.ndarray, mine: slice, shape: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    """Wrong only where an integer or boolean argument points to: its class, rows that it names twice, its mask."""
    bench = evidence.bench
    if not len(points) or not shape:
        return
    wrong = evidence.off[points, mine].reshape(len(points), *shape)
    for k, leaf in enumerate(evidence.engine.arguments.leaves):
        y = bench.points.stacks[k][points]
        if leaf.floating or not y.size:
            continue
        masks = [(f"where {leaf.name} is {v}", y == v) for v in np.unique(y)[:8] if y.shape[1:] == shape]
        if y.dtype.kind != "b":
            if y.shape[1:] == shape[:-1]:
                masks.append((f"at the class that {leaf.name} names", y[..., None] == np.arange(shape[-1])))
            count = np.stack([np.bincount(row[(row >= 0) & (row < shape[0])], minlength=shape[0])
                              for row in y.reshape(len(points), -1).astype(np.int64)])  # fmt: skip
            twice = np.broadcast_to((count > 1).reshape(count.shape + (1,) * (len(shape) - 1)), wrong.shape)
            masks.append((f"in rows that {leaf.name} names more than once (a write where an addition belongs?)", twice))
        for text, mask in masks:
            if wrong.any() and not (wrong & ~mask).any() and mask.mean() < 0.9:
                yield "entries", f"wrong only {text}"
                return


def moves_in_steps(evidence: Evidence, usual: np.ndarray, mine: slice) -> bool:
    """Whether a rule that is nearly right does not follow tiny moves of its arguments, as only rounding does."""
    bench = evidence.bench
    if bench.blackbox:
        return True  # differences do not see so tiny a move
    rng = np.random.default_rng(0)

    def moved(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [x * (1 + 1e-9 * rng.uniform(-1, 1, x.shape)) if x.dtype.kind == "f" else x for x in arrays]

    stacks, dys = moved(bench.pick(bench.points.stacks, usual)), moved(bench.pick(bench.dys, usual))
    ours = evidence.rule(stacks, dys)[:, mine] - evidence.given[usual, mine]
    true = evidence.reference(stacks, dys)[:, mine] - bench.gradients[usual, mine]
    return bool(np.median(np.abs(ours - true).sum(axis=1) - 0.1 * np.abs(true).sum(axis=1)) > 0)


def rounding_causes(evidence: Evidence, usual: np.ndarray, mine: slice) -> Iterator[tuple[str, str]]:
    """A small error that is not smooth: something on the way was rounded, a residual perhaps."""
    given, truth = evidence.given[usual, mine], evidence.bench.gradients[usual, mine]
    error = np.abs(given - truth).max(axis=1) / np.abs(truth).max(axis=1)
    if error.max() < 2.0**-6:
        kind = "float32" if error.max() < 1e-6 else "a half precision"
        yield (
            "precision",
            f"right to a part in {1 / error.max():,.0f}: rounded to {kind} on the way, a residual perhaps",
        )
