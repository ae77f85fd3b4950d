"""Lanes of concrete data one after another through NumPy: nothing is compiled, and each starts near its minimum.

A fit to all rows (or to the mean weights of the replicates) starts from that of the next larger penalty, a replicate
from that parent: it differs by a few rows only.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import newton
from fundl._result import Fit
from fundl._types import Array, Linear
from fundl.sweep._ends import Ends, clean, end_of, lanes, rows_of, scores
from fundl.sweep._inputs import Given


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
    options = {"intercept": intercept, "method": "auto", "tol": float(tol), "max_steps": int(max_steps)}
    per_parent = max(1, (len(train) - rows.first) // max(1, rows.first))
    found: dict[tuple[int, int, int], Fit] = {}
    larger: dict[tuple[int, int], newton.Start] = {}  # of the next larger penalty
    for p in np.lexsort((-l2, -l1)).tolist():
        here: dict[tuple[int, int], newton.Start] = {}
        for r, (j, y) in itertools.product(range(len(train)), enumerate(targets)):
            own = {"k": k, "l2": l2[p], "weights": train[r]}
            near = larger.get((r, j))
            if r >= rows.first > 0:
                parent = (r - rows.first) // per_parent, j
                near = here[parent] if near is None or l1[p] else _moved(here[parent], near, larger[parent])
            fit = newton.fit_concrete(X, y, l1=l1[p], start=near, **own, **options)
            if fit is None:
                target = Y if softmax else Y[:, j : j + 1]
                penalties = {"l2": l2[p], "l1": l1[p]}
                fit = newton.fit(X, target, link=link, weights=rows.train[r], **penalties, **options)
            found[r, p, j] = fit
            here[r, j] = newton.Start(fit.params)
            if r < rows.first:
                here[r, j] = newton.start_from(fit.params, X, y, intercept=intercept, fits=per_parent, **own)
        larger = here

    before = lanes(len(l2), range(rows.first if given.held is not None else 0), len(targets))
    of_lanes = []
    for p, r, j in [*before.T.tolist(), *lanes(len(l2), range(rows.first, len(train)), len(targets)).T.tolist()]:
        w, b = found[r, p, j].params
        scored = scores(link, X, Y if softmax else Y[:, j], w, b, rows.score[r])
        of_lanes.append(end_of(found[r, p, j], scored))
    ends, split = Ends(*(jnp.stack(v) for v in zip(*of_lanes, strict=True))), before.shape[1]
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
