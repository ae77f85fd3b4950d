"""Columns that do not vary, which real data have many of: the rest by the quick way, and zeros for them.

With an intercept a constant column says nothing that the intercept does not say, and without one a column of zeros
says nothing: of all solutions the shortest gives them 0, and so does a penalty.
"""

from typing import Any

import numpy as np

from fundl.least_squares import _plain
from fundl.least_squares._exact import Solution


def attempt(
    X: np.ndarray, Y: np.ndarray, s: np.ndarray | None, l2: Any, intercept: bool, eps: float
) -> Solution | None:
    """The solution where there are such columns and the others have one of full rank, else None."""
    rows = X if s is None else X[s > 0]
    if not len(rows):
        return None
    low, high = rows.min(axis=0), rows.max(axis=0)
    varies = (low != high) | (False if intercept else high != 0)
    if varies.all() or not varies.any() or not np.isfinite(high).all():
        return None
    found = _plain.attempt(X[:, varies], Y, s, l2, intercept, eps)
    if found is None:
        return None
    weight = len(X) if s is None else s.sum()
    lengths = np.abs(high).astype(np.float64) * np.sqrt(weight)
    lengths[varies] = found.lengths

    def among_all(v: np.ndarray) -> np.ndarray:
        out = np.zeros((len(varies), v.shape[1]))
        out[varies] = v
        return out

    full = bool(l2 > 0)
    return found._replace(
        w=among_all(found.w),
        rank=np.asarray(len(varies)) if full else found.rank,
        condition=found.condition if full else np.asarray(np.inf),
        gradient_norm=2 * np.sqrt(found.suboptimality * (lengths @ lengths + weight + l2)),
        w_error=among_all(found.w_error) if full else np.full((len(varies), Y.shape[1]), np.nan),
        b_error=found.b_error if full or not intercept else np.full_like(found.b_error, np.nan),
        w_bound=among_all(found.w_bound),
        lengths=lengths,
    )
