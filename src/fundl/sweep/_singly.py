"""Lanes of concrete data one after another through NumPy: nothing is compiled, and each starts near its minimum.

A fit to all rows (or to the mean weights of the replicates) starts from that of the next larger penalty, a replicate
from that parent: it differs by a few rows only.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import newton
from fundl._result import Fit
from fundl._types import Array
from fundl.sweep._ends import Ends, clean, lanes, rows_of, scores
from fundl.sweep._inputs import Given

_scores = jax.jit(scores, static_argnums=0)


def solve(given: Given, tol: Array, max_steps: Any, *, link: str, intercept: bool) -> tuple[Ends, Ends] | None:
    """The ends of the replicates and, with folds, of the fits to all rows; None for soft classes.

    Lanes in the order (m, r, t). One that NumPy does not settle is left to the compiled program by itself.
    """
    rows = rows_of(given)
    X, Y = clean(given)
    train, host, l2 = (np.asarray(v) for v in (rows.train, Y, given.l2))
    softmax = link == "softmax"
    kept = host[np.any(train > 0, axis=0)]
    if softmax and not (np.all((kept == 0) | (kept == 1)) and np.all(kept.sum(axis=1) == 1)):
        return None
    targets = [host.argmax(axis=1)] if softmax else list(host.T)
    k = host.shape[1] if softmax else 1
    options = {"l1": 0.0, "intercept": intercept, "method": "auto", "tol": float(tol), "max_steps": int(max_steps)}
    per_parent = max(1, (len(train) - rows.first) // max(1, rows.first))
    found: dict[tuple[int, int | None, int], Fit] = {}
    for r in range(len(train)):
        before = None
        for p in np.argsort(-l2, kind="stable").tolist():
            for j, y in enumerate(targets):
                near = found.get(((r - rows.first) // per_parent, p, j) if r >= rows.first > 0 else (r, before, j))
                fit = newton.fit_concrete(
                    np.asarray(X),
                    y,
                    k=k,
                    l2=l2[p],
                    weights=train[r],
                    **options,
                    start=None if near is None else near.params,
                )
                if fit is None:
                    target = Y if softmax else Y[:, j : j + 1]
                    fit = newton.fit(X, target, link=link, l2=given.l2[p], weights=rows.train[r], **options)
                found[r, p, j] = fit
            before = p

    def ends(replicates: range) -> Ends:
        of_lanes = []
        for p, r, j in lanes(len(l2), replicates, len(targets)).T.tolist():
            fit = found[r, p, j]
            proof, w, b = fit.certificate, fit.params.w, fit.params.b
            scored = _scores(link, X, Y if softmax else Y[:, j], w, b, rows.score[r])
            of_lanes.append(Ends(
                w, b, proof.objective, proof.gradient_norm, proof.suboptimality, proof.steps, fit.code,
                *proof.direction, *scored,
            ))  # fmt: skip
        if not of_lanes:
            nothing = jax.tree.map(jnp.zeros_like, ends(range(1)))
            return jax.tree.map(lambda v: v[:0], nothing)
        return Ends(*(jnp.stack(v) for v in zip(*of_lanes, strict=True)))

    return ends(range(rows.first, len(train))), ends(range(rows.first if given.held is not None else 0))
