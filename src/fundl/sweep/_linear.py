"""The linear sweep: every replicate by its eigenvalues, and what does not settle by the exact solver."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check, least_squares
from fundl._result import Status
from fundl._types import Array
from fundl.least_squares._words import ceil_power_of_two
from fundl.sweep import _ridge
from fundl.sweep._ends import Ends, clean, in_float64, lanes, rows_of, scores
from fundl.sweep._inputs import Given


def solve(given: Given, *, intercept: bool, leave_one_out: bool) -> tuple[Ends, Ends]:
    """The ends of the replicates and, with folds, of the fits to all rows; lanes in the order (m, r, t)."""
    static = {"intercept": intercept, "leave_one_out": leave_one_out}
    if given.X.dtype.itemsize < 8 and all(_check.concrete(v) for v in jax.tree.leaves(given)):
        return in_float64(lambda wide: solve(wide, **static), given, "linear")
    if not _check.on_host(*jax.tree.leaves(given)):
        return _program(given, **static)
    ends, whole = _on_the_host(jax.tree.map(np.asarray, given), **static)
    bad = ends.code != int(Status.converged)
    if bad.any() or np.any(whole.code != int(Status.converged)):
        ends, whole = _program(given, **static)
    if leave_one_out and (bad | np.isnan(ends.loss)).any():
        ends = ends._replace(loss=_left_out(given, intercept, np.array(ends.loss), bad))
    return ends, whole


def _left_out(given: Given, intercept: bool, loss: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """The losses; those of bad lanes, and what is lost, from singular values, which do not square the condition."""
    host: Any = jax.tree.map(np.asarray, given)
    (X, Y), train = clean(host), rows_of(host).train[-len(host.weights) :]
    which = lanes(len(host.l2), range(len(train)), Y.shape[1])
    for i in np.flatnonzero(bad | np.isnan(loss)):
        p, r, j = which[:, i]
        A = X
        if host.l2[p] == 0:  # no column's unit matters then
            spread = np.ptp(X, axis=0) if intercept else np.abs(X).max(axis=0)
            A = X / ceil_power_of_two(np.where(spread > 0, spread, 1.0))
        loss[i] = least_squares.ridge_path(
            A, Y[:, j], host.l2[p : p + 1], weights=train[r], intercept=intercept
        ).leave_one_out[0]
    return loss


def _parts(given: Given) -> Any:
    """The indices of the replicates, and those of the fits to all rows."""
    rows = rows_of(given)
    return rows, (range(rows.first, rows.train.shape[0]), range(rows.first if given.held is not None else 0))


def _on_the_host(given: Given, *, intercept: bool, leave_one_out: bool) -> tuple[Ends, Ends]:
    """By numpy, which compiles nothing."""
    scored = given.held is not None or given.weights.shape[0] > 1
    rows, parts = _parts(given)
    X, Y = clean(given)
    l2, train, score = given.l2, rows.train, rows.score
    out = []
    with np.errstate(all="ignore"):
        for part in parts:
            ends = [
                _ridge.ridge(
                    X, Y, l2, train[r], score[r] if scored else None, intercept=intercept, leave_one_out=leave_one_out
                )
                for r in part
            ]
            out.append(_flat(jax.tree.map(lambda *v: np.stack(v, axis=1), *ends)) if ends else None)
    found, whole = out
    assert found is not None
    return found, jax.tree.map(lambda v: v[:0], found) if whole is None else whole


def _flat(ends: Ends) -> Ends:
    """(m, r, t, ...) as (L, ...)."""
    return jax.tree.map(lambda v: v.reshape(-1, *v.shape[3:]), ends)


@functools.partial(jax.jit, static_argnames=("intercept", "leave_one_out"))
def _program(given: Given, *, intercept: bool, leave_one_out: bool) -> tuple[Ends, Ends]:
    """In one compiled program; the lanes that have not settled one after another by the exact solver."""
    rows, parts = _parts(given)
    X, Y = clean(given)
    out = []
    for part in parts:
        if not part:
            out.append(jax.tree.map(lambda v: v[:0], out[0]))
            continue
        train, score = (v[part.start : part.stop] for v in (rows.train, rows.score))
        ends = jax.lax.map(
            lambda v: _ridge.ridge(X, Y, given.l2, *v, intercept=intercept, leave_one_out=leave_one_out),
            (train, score),
        )
        ends = _flat(jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1), ends))
        which = lanes(given.l2.shape[0], range(len(part)), Y.shape[1])
        out.append(_exactly(X, Y, given.l2, train, score, intercept, leave_one_out, ends, which))
    return out[0], out[1]


def _exactly(
    X: Array, Y: Array, l2: Array, train: Array, score: Array, intercept: bool, leave_one_out: bool, ends: Ends,
    which: np.ndarray,
) -> Ends:  # fmt: skip
    """The lanes that have not settled, by the exact solver."""
    bad = ends.code != int(Status.converged)
    order = jnp.argsort(~bad)
    p, r, j = (jnp.asarray(v) for v in which)

    def one(i: Array, ends: Ends) -> Ends:
        lane = order[i]
        y = jax.lax.dynamic_index_in_dim(Y, j[lane], 1, keepdims=False)
        s, q = train[r[lane]], score[r[lane]]
        fit = least_squares.fit(X, y, l2=l2[p[lane]], weights=s, intercept=intercept)
        proof, (w, b) = fit.certificate, fit.params
        loss, accuracy = scores("linear", X, y, w, b, q)
        if leave_one_out:
            e = least_squares.influence(X, y, l2=l2[p[lane]], weights=s, intercept=intercept).leave_one_out
            loss = jnp.sum(jnp.where(s > 0, s * e * e, jnp.zeros_like(s))) / jnp.sum(s)
        end = Ends(
            w, b, proof.objective, proof.gradient_norm, proof.suboptimality, proof.steps, fit.code,
            jnp.full_like(w, jnp.nan), jnp.full_like(b, jnp.nan), loss, accuracy,
        )  # fmt: skip
        return jax.tree.map(lambda all, v: all.at[lane].set(v), ends, end)

    return jax.lax.fori_loop(0, jnp.sum(bad), one, ends)
