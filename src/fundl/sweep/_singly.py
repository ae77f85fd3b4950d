"""Lanes of concrete data one after another through NumPy: nothing is compiled, and each starts near its minimum.

A fit to all rows (or to the mean weights of the replicates) starts from that of the next larger penalty, a replicate
from that parent: it differs by a few rows only.
"""

import functools
import itertools
from typing import Any

import jax
import numpy as np

from fundl import newton
from fundl._result import Fit
from fundl._types import Array, Linear
from fundl.sweep._ends import Ends, clean, end_of, lanes, rows_of, scores
from fundl.sweep._inputs import Given

HELD = 2**26  # entries of all the rows that are held ready for the next penalty


def solve(given: Given, tol: Array, max_steps: Any, *, link: str, intercept: bool) -> tuple[Ends, Ends] | None:
    """The ends of the replicates and, with folds, of the fits to all rows; None for soft classes.

    Lanes in the order (m, r, t). One that NumPy does not settle is left to the compiled program by itself.
    """
    host: Any = jax.tree.map(np.asarray, given)
    rows = rows_of(host)
    X, Y = clean(host)
    labels, train, l2, l1 = Y, rows.train, host.l2, host.l1
    softmax = link == "softmax"
    kept = labels[np.any(train > 0, axis=0)]
    if softmax and not (np.all((kept == 0) | (kept == 1)) and np.all(kept.sum(axis=1) == 1)):
        return None
    targets = [labels.argmax(axis=1)] if softmax else list(labels.T)
    k = labels.shape[1] if softmax else 1
    ends_at = {"tol": float(tol), "max_steps": int(max_steps)}

    @functools.lru_cache(max(1, HELD // X.size))
    def given_to(r: int, j: int) -> Any:
        return newton.prepared(X, targets[j], k=k, weights=train[r], intercept=intercept)

    per_parent = max(1, (len(train) - rows.first) // max(1, rows.first))
    found: dict[tuple[int, int, int], Fit] = {}
    larger: dict[tuple[int, int], newton.Start] = {}  # of the next larger penalty
    for p in np.lexsort((-l2, -l1)).tolist():
        here: dict[tuple[int, int], newton.Start] = {}
        for r, j in itertools.product(range(len(train)), range(len(targets))):
            near = larger.get((r, j))
            if r >= rows.first > 0:
                parent = (r - rows.first) // per_parent, j
                near = here[parent] if near is None or l1[p] else _moved(here[parent], near, larger[parent])
            ready, options = given_to(r, j), {"l2": float(l2[p]), "l1": float(l1[p]), **ends_at}
            numbers = newton.numbers(**options)
            fit = None if ready is None or numbers is None else newton.fit_prepared(ready, numbers, near, ranked=False)
            if fit is None:
                fit = newton.fit(
                    X, Y if softmax else Y[:, j : j + 1], link=link, weights=train[r], intercept=intercept,
                    method="auto", **options,
                )  # fmt: skip
            found[r, p, j] = fit
            here[r, j] = newton.Start(fit.params)
            if r < rows.first and ready is not None:
                here[r, j] = newton.start_from(fit.params, ready, float(l2[p]), per_parent)
        larger = here

    before = lanes(len(l2), range(rows.first if given.held is not None else 0), len(targets))
    of_lanes = []
    for p, r, j in [*before.T.tolist(), *lanes(len(l2), range(rows.first, len(train)), len(targets)).T.tolist()]:
        fit, q = found[r, p, j], rows.score[r]
        scored = scores(link, X, Y if softmax else Y[:, j], *fit.params, q) if q.any() else (np.nan, np.nan)
        of_lanes.append([np.asarray(v) for v in end_of(fit, scored)])
    ends, split = Ends(*(np.stack(v) for v in zip(*of_lanes, strict=True))), before.shape[1]
    return jax.tree.map(lambda v: v[split:], ends), jax.tree.map(lambda v: v[:split], ends)


def _moved(parent: newton.Start, before: newton.Start, parent_before: newton.Start) -> newton.Start:
    """The parent, moved as the fit was from its own at the penalty before, by as much more as the parent has grown."""
    here, own, there = (_whole(v.params) for v in (parent, before, parent_before))
    grown = np.linalg.norm(here) / max(np.linalg.norm(there), 1e-300)
    moved: Any = here + grown * (own - there)
    return parent._replace(params=Linear(moved[:-1], moved[-1])) if np.isfinite(moved).all() else parent


def _whole(params: Linear) -> np.ndarray:
    """w with b as its last row."""
    return np.append(np.asarray(params.w), np.asarray(params.b)[None], axis=0)
