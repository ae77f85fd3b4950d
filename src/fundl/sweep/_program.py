"""From the data to the ends of all lanes in one compiled program: together where that is quick, else one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fundl import newton
from fundl._precise import exp_minus_abs, matmul, within_unit_interval
from fundl._result import Status
from fundl._types import Array
from fundl.newton._design import shift_and_scale, standardise
from fundl.newton._wide import rise_by
from fundl.sweep import _lanes
from fundl.sweep._ends import Ends, Rows, clean, end_of, lanes, parents, rows_of, scores
from fundl.sweep._inputs import Given

CHUNK = 128  # lanes that step together


@functools.partial(jax.jit, static_argnames=("link", "intercept", "sparse", "together"))
def solve(
    given: Given,
    tol: Array,
    max_steps: Array,
    *,
    link: str,
    intercept: bool,
    sparse: bool,
    together: bool,
) -> tuple[Ends, Ends]:
    """The ends of the replicates and, with folds, of the fits to all rows; lanes in the order (m, r, t).

    together: first all in lockstep. Then those without a proof, or all, one by one.
    """
    rows = rows_of(given)
    X, Y = clean(given)
    R, m, t = rows.train.shape[0], given.l2.shape[0], Y.shape[1] if link == "sigmoid" else 1
    before = lanes(m, range(rows.first if given.held is not None else 0), t)
    after = lanes(m, range(rows.first, R), t)
    all_lanes = np.concatenate([before, after], axis=1)
    if together:
        ends = _together(X, Y, rows, given.l2, tol, max_steps, intercept, kept=before.shape[1] > 0)
        bad = ends.code != int(Status.converged)
        order, count = jnp.argsort(~bad), jnp.sum(bad)
    else:
        ends = _nothing(X, Y, all_lanes.shape[1], link)
        order, count = jnp.arange(all_lanes.shape[1]), jnp.asarray(all_lanes.shape[1])
    p, r, j = (jnp.asarray(v) for v in all_lanes)

    def one(i: Array, ends: Ends) -> Ends:
        lane = order[i]
        y = jax.lax.dynamic_slice_in_dim(Y, j[lane], 1, axis=1) if link == "sigmoid" else Y
        s, q = rows.train[r[lane]], rows.score[r[lane]]
        l1 = given.l1[p[lane]] if sparse else 0.0
        fit = newton.fit(
            X, y, link=link, l2=given.l2[p[lane]], l1=l1, weights=s, intercept=intercept, method="auto", tol=tol,
            max_steps=max_steps,  # type: ignore[bad-argument-type]
        )  # fmt: skip
        scored = scores(link, X, y[:, 0] if link == "sigmoid" else y, fit.params.w, fit.params.b, q)
        return jax.tree.map(lambda all, v: all.at[lane].set(v), ends, end_of(fit, scored))

    ends = jax.lax.fori_loop(0, count, one, ends)
    split = before.shape[1]
    return jax.tree.map(lambda v: v[split:], ends), jax.tree.map(lambda v: v[:split], ends)


def _nothing(X: Array, Y: Array, L: int, link: str) -> Ends:
    """Room for the ends of L lanes."""
    k = () if link == "sigmoid" else (Y.shape[1],)
    w, b, v = jnp.zeros((L, X.shape[1], *k), X.dtype), jnp.zeros((L, *k), X.dtype), jnp.zeros((L,), X.dtype)
    i = jnp.zeros((L,), jnp.int32)
    return Ends(w, b, v, v, v, i, i, w, b, v, v)


def _together(
    X: Array, Y: Array, rows: Rows, l2: Array, tol: Array, max_steps: Array, intercept: bool, *, kept: bool
) -> Ends:
    """All lanes in lockstep, a chunk at a time; those that others start from are kept, or left out of the ends."""
    m, t, d = l2.shape[0], Y.shape[1], X.shape[1]
    mean = jnp.mean(rows.train[: max(rows.first, 1)], axis=0)
    centre, scale = shift_and_scale(X, mean, intercept)
    Z = standardise(X, mean, centre, scale, intercept)
    k = jnp.concatenate([1 / (scale * scale), jnp.zeros_like(scale[:1])])
    shared = _lanes.Shared(Z, _lanes.pairs(Z), k)
    targets = within_unit_interval(Y).T

    which, parent, L_first = parents(rows, m, t)
    L = which.shape[1]
    queue = _chunks(L_first, L)

    def chunk(ended: Array, lane: Array) -> tuple[Array, tuple[Array, ...]]:
        p, r, j = (jnp.asarray(v)[lane] for v in which)
        y, q, s = targets[j], rows.score[r], rows.train[r]
        found = _lanes.minimise(shared, _lanes.Lanes(s, y, l2[p], ended[jnp.asarray(parent)[lane]]), tol, max_steps)
        z, total = found.z, jnp.sum(q, axis=1)
        loss = (1 - y) * jnp.maximum(z, 0) + y * jnp.maximum(-z, 0) + jnp.log1p(exp_minus_abs(z))
        right = ((z > 0) == (y > 0.5)).astype(z.dtype)
        scored = (jnp.sum(q * loss, axis=1) / total, jnp.sum(q * right, axis=1) / total)
        db = _error_of_b(found.theta, centre / scale, intercept)
        bound = found.bound + rise_by(db, jnp.abs(found.gradient[:, -1]), jnp.sum(s, axis=1), found.f, 1)
        usable = jnp.isfinite(bound)[:, None] & jnp.isfinite(found.theta)
        ended = ended.at[lane].set(jnp.where(usable, found.theta, jnp.zeros_like(found.theta)))
        return ended, (found.theta, found.f, found.gradient, bound, found.steps, *scored)

    _, out = jax.lax.scan(chunk, jnp.zeros((L, d + 1), X.dtype), jnp.asarray(queue))
    place = np.zeros(L, int)
    place[queue.reshape(-1)] = np.arange(queue.size)
    place = place[np.arange(0 if kept else L_first, L)]
    out = tuple(v.reshape(-1, *v.shape[2:])[place] for v in out)
    theta, f, g, bound, steps, loss, accuracy = out
    w = theta[:, :-1] / scale[None, :]
    b = theta[:, -1] - matmul(w, centre[:, None])[:, 0]
    outside = scale[None, :] * g[:, :-1] + centre[None, :] * g[:, -1:]
    eps = jnp.finfo(f.dtype).eps
    good = (bound <= jnp.maximum(tol, jnp.sqrt(eps) / 100) * f) & jnp.all(jnp.isfinite(theta), axis=1)
    code = jnp.where(good, int(Status.converged), int(Status.stalled)).astype(jnp.int32)
    nan = jnp.full_like(w, jnp.nan)
    gradient_norm = jnp.sqrt(jnp.sum(outside * outside, axis=1) + g[:, -1] ** 2)
    return Ends(w, b, f, gradient_norm, bound, steps, code, nan, nan[:, 0], loss, accuracy)


def _chunks(first: int, L: int) -> np.ndarray:
    """The lanes 0..L-1 in chunks of one size, those before `first` in chunks of their own; the last are filled up."""
    size = -(-(L - first) // -(-(L - first) // CHUNK))
    queue = []
    for low, high in ((0, first), (first, L)):
        queue += [np.minimum(np.arange(a, a + size), high - 1) for a in range(low, high, size)]
    return np.stack(queue)


def _error_of_b(theta: Array, ratio: Array, intercept: bool) -> Array:
    """How far b = theta_b - m w may be rounded, which moves every logit."""
    eps = jnp.finfo(theta.dtype).eps
    moved = jnp.sum(jnp.abs(theta[:, :-1] * ratio[None, :]), axis=1)
    return (2 * eps * (jnp.abs(theta[:, -1]) + 2 * moved)) * (1 if intercept else 0)
