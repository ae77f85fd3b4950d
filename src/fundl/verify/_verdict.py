"""What is said of one gradient entry: smooth, a kink, an edge of the domain, or undecided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Verdict", "decided", "verdict"]


@dataclass
class Verdict:
    """What the judges say of one entry: `smooth`, `kink`, `edge` or `undecided`, and the values that are right."""

    kind: str
    value: float = np.nan
    error: float = np.inf
    low: float = np.nan
    high: float = np.nan
    left: float = np.nan
    right: float = np.nan
    slack: float = 0.0


def verdict(near: np.ndarray, moves: np.ndarray, value: float, error: float, top: float, edge: bool) -> Verdict:
    """The verdict on an entry from the gradients near by, how far it was moved there, and its value and error here."""
    seen = np.isfinite(near)
    edge |= seen.sum() <= 3 * len(near) // 4
    if edge and seen.sum() >= len(near) // 8 and not np.isfinite(value):
        # The domain ends here: only one side has values, and differences would need both.
        return Verdict("edge", float(near[seen].mean()), error, float(near[seen].min()), float(near[seen].max()))
    if seen.sum() < len(near) // 2:
        return Verdict("undecided", value, error)
    half = np.arange(len(near)) >= len(near) // 2
    inner, outer = near[seen & half], near[seen & ~half]
    near, moves = near[seen], moves[seen]
    shrinks = inner.size > 4 and outer.size > 4 and np.ptp(inner) < 0.2 * np.ptp(outer)
    if shrinks:
        near, moves = inner, moves[-inner.size :]
    low, high = float(near.min()), float(near.max())
    width = high - low
    magnitude = max(abs(low), abs(high))
    if shrinks or width <= 1e-3 * magnitude + 1e-6 * top:
        middle = float(near.mean())
        # Differences may have stepped over a kink near by; then they disagree with the gradients around.
        if not np.isfinite(value) or abs(value - middle) > 4 * error + 2 * width + 1e-2 * magnitude:
            return Verdict("undecided", value, error, low, high)
        return Verdict("smooth", value, error, low, high)
    if width <= 4 * error:
        return Verdict("undecided", value, error, low, high)  # the spread may be rounding of the gradients
    distinct = np.unique(np.round((near - low) / width, 3)).size
    found = Verdict("kink", value, error, low, high)
    found.slack = 1e-3 * width
    if distinct > 2:
        # Many kinks meet: the samples do not reach the corners of the subdifferential.
        found.slack = (0.5 if distinct <= 4 else 3.5) * width
    right, left = near[moves > 0], near[moves < 0]
    if right.size and left.size and np.ptp(right) < 1e-3 * width and np.ptp(left) < 1e-3 * width:
        found.left, found.right = float(left.mean()), float(right.mean())
    return found


def decided(v: Verdict) -> Verdict:
    """The verdict where autodiff is right by definition, and `v.value` is its own at the point.

    Where that is not between its values beside the point its gradient jumps there, and all between them are right.
    """
    if v.kind != "undecided" or (np.isnan(v.value) and np.isnan(v.low)):
        return v
    if not np.isfinite(v.value):
        return Verdict("smooth", (v.low + v.high) / 2, v.high - v.low, v.low, v.high)
    if np.isnan(v.low) or v.low <= v.value <= v.high:
        return Verdict("smooth", v.value, v.error)
    slack = 2 * (v.high - v.low)  # they still vary beside it
    return Verdict("kink", v.value, v.error, min(v.low, v.value), max(v.high, v.value), slack=slack)
