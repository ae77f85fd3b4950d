"""Softmax totals of the logits z = X W + b, tile by tile: the (n, k) logits are never held.

Three loops over tiles of `rows` examples by `columns` classes, each written by hand: `totals_of` (forward),
`tangent_of` (the change of the totals when X, W, b and y change) and `cotangent_of` (its transpose: the backward).
Each computes the tiles of logits anew; a loop of one tile is none to XLA, which makes that once for all who ask.

The totals per example are the largest logit m, s = sum of exp(z - m) without m's own 1, the cross-entropy
ce = -sum_k y_k log p_k, and u = -mean_k log p_k for label smoothing; so logsumexp = m + log1p(s) and
p = exp(z - m) / (1 + s). m only sets a scale: what is computed from (m, s) does not change when m moves and s with
it. Derivatives therefore hold m fixed and put the whole derivative of the logsumexp into s.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fundl._precise import HIGHEST, within_unit_interval
from fundl._types import Array
from fundl.losses._binary import entropy, slope_of
from fundl.losses._logit_slices import (
    Data,
    Plan,
    Tangents,
    Totals,
    add_columns,
    add_rows,
    as_column,
    as_row,
    columns_of,
    join_rows,
    not_seen,
    put,
    rows_of,
    rows_of_X,
    start_of,
    tile_count,
    varying_zero,
)


def totals_of(plan: Plan, data: Data) -> Totals:
    """m, s, ce and u (None unless wanted), each (n,): one pass, the logsumexp carried along."""
    n, k = data.X.shape[0], data.W.shape[1]
    dtype = plan.dtype
    soft = data.y.ndim == 2
    zero = varying_zero(data, dtype)

    def row_tile(_: None, i: Array) -> tuple[None, Any]:
        x, y = rows_of_X(data, plan, i), rows_of(data.y, plan, i) if not soft else None
        start = jnp.zeros(plan.rows, dtype) + zero

        def column_tile(carry: Any, j: Array) -> tuple[Any, None]:
            m, s, a, tau, u = carry
            z, _, fresh = _logits(data, plan, x, j)
            M = jnp.maximum(m, jnp.max(z, axis=1))
            top = z == as_column(M)
            e = jnp.exp(_shifted(z, M))
            ties = jnp.sum(jnp.where(top, jnp.ones_like(e), jnp.zeros_like(e)), axis=1)
            # s lacks the 1 of one entry at the maximum; when the maximum moves, the old 1 joins and a new one leaves.
            # Whole numbers are added first, or a small sum would be lost beside them.
            moved = m < M
            s = jnp.where(moved, (1 + s) * jnp.exp(m - M), s) + jnp.where(moved, ties - 1, ties)
            s = s + jnp.sum(jnp.where(top, jnp.zeros_like(e), e), axis=1)
            rise = _gap(M, m)
            if soft:
                t = _labels(data, plan, i, j, fresh)
                a = a + _times(tau, rise) + jnp.sum(_times(t, _gap(as_column(M), z)), axis=1)
                tau = tau + jnp.sum(t, axis=1)
            else:
                a = a + jnp.sum(jnp.where(_onehot(plan, y, j, k) & fresh, z, jnp.zeros_like(z)), axis=1)
            if u is not None:
                before = jnp.where(j == 0, 0, jnp.minimum(j * plan.columns, k)).astype(dtype)
                below = jnp.where(fresh, _gap(as_column(M), z), jnp.zeros_like(z))
                u = u + _times(jnp.broadcast_to(before, rise.shape), rise) + jnp.sum(below, axis=1)
            return (M, s, a, tau, u), None

        first = (start - jnp.inf, start - 1, start, start if soft else None, start if plan.uniform else None)
        return None, lax.scan(column_tile, first, jnp.arange(tile_count(k, plan.columns)))[0]

    m, s, a, tau, u = jax.tree.map(
        lambda v: join_rows(v, n), lax.scan(row_tile, None, jnp.arange(tile_count(n, plan.rows)))[1]
    )
    if plan.column_axes:
        m, s, a, tau, u = _merge_shards(plan, k, m, s, a, tau, u)
    log_total = jnp.log1p(s)
    if soft:
        ce = jnp.where(jnp.isneginf(m), jnp.full_like(a, jnp.nan), _times(tau, log_total) + a)
    else:
        ce = log_total + jnp.where(jnp.isposinf(a), jnp.zeros_like(a), m - a)
    return m, s, ce, None if u is None else log_total + u / plan.num_classes


def losses_of(plan: Plan, data: Data) -> Array:
    """L_i = sum_k [log(1 + exp(z_ik)) - y_ik z_ik] of binary targets, (n,)."""
    n, k = data.X.shape[0], data.W.shape[1]
    start = jnp.zeros(plan.rows, plan.dtype) + varying_zero(data, plan.dtype)

    def row_tile(_: None, i: Array) -> tuple[None, Array]:
        x = rows_of_X(data, plan, i)

        def column_tile(L: Array, j: Array) -> tuple[Array, None]:
            z, _, fresh = _logits(data, plan, x, j)
            return L + jnp.sum(entropy(z, _labels(data, plan, i, j, fresh)), axis=1), None

        return None, lax.scan(column_tile, start, jnp.arange(tile_count(k, plan.columns)))[0]

    L = join_rows(lax.scan(row_tile, None, jnp.arange(tile_count(n, plan.rows)))[1], n)
    return lax.psum(L, plan.column_axes) if plan.column_axes else L


def _merge_shards(
    plan: Plan, k: int, m: Array, s: Array, a: Array, tau: Array | None, u: Array | None
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """The totals over all shards of the classes; one shard that holds the maximum keeps it out of its s."""
    axes = plan.column_axes
    M = lax.pmax(m, axes)
    here = jnp.full(m.shape, lax.axis_index(axes), jnp.int32)
    owner = lax.pmin(jnp.where(m == M, here, jnp.full_like(here, jnp.iinfo(jnp.int32).max)), axes)
    total = jnp.where(m == M, 1 + s, (1 + s) * jnp.exp(m - M))
    rise = _gap(M, m)
    if tau is not None:
        a, tau = a + _times(tau, rise), lax.psum(tau, axes)
    if u is not None:
        u = lax.psum(u + k * rise, axes)
    return M, lax.psum(jnp.where(here == owner, s, total), axes), lax.psum(a, axes), tau, u


def tangent_of(plan: Plan, data: Data, m: Array, s: Array, d: Tangents) -> tuple[Array, Array, Array | None]:
    """Changes of ce, logsumexp and u: with dz = dX W + X dW + db, sum (p tau - y) dz - sum log(p) dy, sum p dz, ..."""
    n, k = data.X.shape[0], data.W.shape[1]
    dtype = plan.dtype
    soft = data.y.ndim == 2
    tau = _label_sums(data, plan, dtype)
    zero = varying_zero((data, m, s, d), dtype)

    def row_tile(_: None, i: Array) -> tuple[None, Any]:
        x, y = rows_of_X(data, plan, i), rows_of(data.y, plan, i) if not soft else None
        dx = None if d.X is None else rows_of_X(data._replace(X=d.X), plan, i)
        M, S, tau_i = rows_of(m, plan, i), rows_of(s, plan, i), rows_of(tau, plan, i)

        def column_tile(carry: Any, j: Array) -> tuple[Any, None]:
            z, slope, fresh = _logits(data, plan, x, j)
            t = _labels(data, plan, i, j, fresh) if soft else _onehot(plan, y, j, k) & fresh
            p, q = _slopes(plan, z, M, S, t, tau_i)
            ce, lse, u = carry
            dz = jnp.zeros_like(z)
            if dx is not None:
                dz = dz + _dot("id,dk->ik", dx, columns_of(data.W, plan, j), plan)
            if d.W is not None:
                dz = dz + _dot("id,dk->ik", x, columns_of(d.W, plan, j), plan)
            if d.b is not None:
                dz = dz + as_row(columns_of(d.b, plan, j).astype(dtype))
            dz = dz if slope is None else slope * dz
            ce = ce + jnp.sum(q * dz, axis=1)
            if d.y is not None:
                dt = _labels(data, plan, i, j, fresh, d.y)
                ce = ce + jnp.sum(_times(dt, _of_label(plan, z, M, S)), axis=1)
            if u is not None:
                u = u + jnp.sum(jnp.where(fresh, dz, jnp.zeros_like(dz)), axis=1) / plan.num_classes
            return (ce, lse + jnp.sum(p * dz, axis=1), u), None

        start = jnp.zeros(plan.rows, dtype) + zero
        first = (start, start, start if plan.uniform else None)
        return None, lax.scan(column_tile, first, jnp.arange(tile_count(k, plan.columns)))[0]

    out = jax.tree.map(lambda v: join_rows(v, n), lax.scan(row_tile, None, jnp.arange(tile_count(n, plan.rows)))[1])
    ce, lse, mean = jax.tree.map(lambda v: lax.psum(v, plan.column_axes), out) if plan.column_axes else out
    return ce, lse, None if mean is None else lse - mean  # u = logsumexp - mean_k z_k


def cotangent_of(
    plan: Plan, wanted: tuple[bool, ...], data: Data, m: Array, s: Array, c: tuple[Array, Array, Array | None]
) -> Tangents:
    """The transpose of `tangent_of`: from one number per example for ce, logsumexp and u to gradients of X, W, b and y.

    The loop over classes is outside, so that each slice of dW is summed in a tile of its own and written once.
    """
    (n, _), k = data.X.shape, data.W.shape[1]
    dtype = plan.dtype
    soft = data.y.ndim == 2
    tau = _label_sums(data, plan, dtype)
    ce, lse, u = c
    zero = varying_zero((data, m, s, c), dtype)

    def zeros(like: Array | None, want: bool, dtype: Any) -> Array | None:
        return jnp.zeros(like.shape, dtype) + zero.astype(dtype) if want and like is not None else None

    def column_tile(carry: Any, j: Array) -> tuple[Any, None]:
        dX, dW, db, dy = carry
        w = columns_of(data.W, plan, j)

        def row_tile(carry: Any, i: Array) -> tuple[Any, None]:
            dX, dw, dbias, dy = carry
            x, y = rows_of_X(data, plan, i), rows_of(data.y, plan, i) if not soft else None
            M, S, tau_i, ce_i, lse_i = (rows_of(v, plan, i) for v in (m, s, tau, ce, lse))
            z, slope, fresh = _logits(data, plan, x, j)
            t = _labels(data, plan, i, j, fresh) if soft else _onehot(plan, y, j, k) & fresh
            p, q = _slopes(plan, z, M, S, t, tau_i)
            unseen = not_seen(n, plan.rows, i)  # rows of an overlapping last tile count once
            if dy is not None:
                # ce = -sum_k y_k log p_k
                dy = put(dy, _times(as_column(ce_i), _of_label(plan, z, M, S)), fresh, plan, i, j)
            dz = as_column(jnp.where(unseen, ce_i, 0)) * q + as_column(jnp.where(unseen, lse_i, 0)) * p
            if u is not None:
                # u = logsumexp - mean_k z_k
                u_i = as_column(jnp.where(unseen, rows_of(u, plan, i), 0))
                dz = dz + u_i * jnp.where(fresh, p - 1 / plan.num_classes, jnp.zeros_like(p))
            dz = dz if slope is None else slope * dz  # z = softcap tanh((X W + b) / softcap)
            if dX is not None:
                # z = X W + b
                dX = add_rows(dX, _dot("ik,dk->id", dz, w, plan), plan, i)
            if dw is not None:
                dw = dw + _dot("id,ik->dk", x, dz, plan)  # z = X W + b
            if dbias is not None:
                dbias = dbias + jnp.sum(dz, axis=0)  # z = X W + b
            return (dX, dw, dbias, dy), None

        first = (dX, zeros(w, dW is not None, dtype), None if db is None else jnp.zeros(plan.columns, dtype) + zero, dy)
        (dX, dw, dbias, dy), _ = lax.scan(row_tile, first, jnp.arange(tile_count(n, plan.rows)))
        return (dX, add_columns(dW, dw, plan, j), add_columns(db, dbias, plan, j), dy), None

    first = (
        zeros(data.X, wanted[0], dtype),
        zeros(data.W, wanted[1], data.W.dtype),
        zeros(data.b, wanted[2], dtype),
        zeros(data.y, wanted[3], data.y.dtype),
    )
    (dX, dW, db, dy), _ = lax.scan(column_tile, first, jnp.arange(tile_count(k, plan.columns)))
    if plan.column_axes and dX is not None:
        dX = lax.psum(dX, plan.column_axes)
    if plan.row_axes:
        dW, db = (v if v is None else lax.psum(v, plan.row_axes) for v in (dW, db))
    return Tangents(
        None if dX is None else dX.astype(data.X.dtype),
        dW,
        None if db is None or data.b is None else db.astype(data.b.dtype),
        dy,
    )


def _logits(data: Data, plan: Plan, x: Array, j: Array) -> tuple[Array, Array | None, Array]:
    """A tile of logits, the derivative of the soft cap there, and which columns no earlier tile has seen."""
    z = _dot("id,dk->ik", x, columns_of(data.W, plan, j), plan)
    if data.b is not None:
        z = z + as_row(columns_of(data.b, plan, j).astype(z.dtype))
    slope = None
    if plan.softcap is not None:
        v = z / plan.softcap
        e = jnp.exp(-2 * jnp.abs(v))
        slope = 4 * e / (1 + e) ** 2  # 1 - tanh(v)^2 without cancellation
        z = plan.softcap * jnp.tanh(v)
    fresh = as_row(not_seen(data.W.shape[1], plan.columns, j))
    return jnp.where(fresh, z, jnp.full_like(z, -jnp.inf)), slope, fresh


def _probabilities(z: Array, m: Array, s: Array, t: Array, tau: Array) -> tuple[Array, Array]:
    """p, and q = p tau - y, the derivative of ce, without the cancellation in p - 1."""
    S, share = as_column(s), as_column(1 / (1 + s))
    p = jnp.exp(_shifted(z, m)) * share
    # At the largest logit 1 - p = s / (1 + s). The correction is a matter of digits, not of derivatives.
    digits = jnp.where(z == as_column(m), S * share - (1 - p), jnp.zeros_like(p))
    one_minus_p = (1 - p) + lax.stop_gradient(digits)
    if t.dtype == jnp.bool_:
        return p, jnp.where(t, -one_minus_p, p)
    return p, p * (as_column(tau) - t) - t * one_minus_p


def _slopes(plan: Plan, z: Array, m: Array, s: Array, t: Array, tau: Array) -> tuple[Array, Array]:
    """dlogsumexp/dz = p, and dce/dz; of binary targets there is no logsumexp."""
    return (jnp.zeros_like(z), slope_of(z, t)) if plan.binary else _probabilities(z, m, s, t, tau)


def _of_label(plan: Plan, z: Array, m: Array, s: Array) -> Array:
    """dce/dy: -log p, or -z of a binary target."""
    return -z if plan.binary else as_column(jnp.log1p(s)) - _shifted(z, m)


def _shifted(z: Array, m: Array) -> Array:
    """z - m; logits of +inf count as equal."""
    return jnp.where(jnp.isposinf(z), jnp.zeros_like(z), z - as_column(m))


def _gap(m: Array, z: Array) -> Array:
    """m - z, and 0 where both are the same infinity."""
    return jnp.where(m == z, jnp.zeros_like(z), m - z)


def _times(t: Array, x: Array) -> Array:
    """t x with 0 inf = 0: a masked class without label adds nothing."""
    return jnp.where((t == 0) & jnp.isinf(x), jnp.zeros_like(x), t * x)


def _dot(subscripts: str, a: Array, b: Array, plan: Plan) -> Array:
    """A product of tiles at full precision: bfloat16 with bfloat16 summed in float32, all else in the wide dtype."""
    a, b = a.astype(plan.operands), b.astype(plan.operands)
    return jnp.einsum(subscripts, a, b, precision=HIGHEST, preferred_element_type=plan.dtype)


def _onehot(plan: Plan, y: Array | None, j: Array, k: int) -> Array:
    """Which class of column tile j is the label; on a shard of the classes, counted from its first."""
    assert y is not None
    first = start_of(k, plan.columns, j)
    classes = (first + jnp.arange(plan.columns)).astype(jnp.int32)
    if plan.column_axes:
        classes = classes + lax.axis_index(plan.column_axes).astype(jnp.int32) * k
    return as_column(y.astype(jnp.int32)) == as_row(classes)


def _labels(data: Data, plan: Plan, i: Array, j: Array, fresh: Array, y: Array | None = None) -> Array:
    """A tile of soft labels (or their tangent y), 0 in rows that are left out and in columns that were seen before."""
    t = columns_of(rows_of(data.y if y is None else y, plan, i), plan, j, axis=1).astype(plan.dtype)
    if y is None and plan.binary:
        t = within_unit_interval(t)  # traced labels cannot be refused; those of several classes poison L
    keep = fresh if data.keep is None else fresh & as_column(rows_of(data.keep, plan, i))
    return jnp.where(keep, t, jnp.zeros_like(t))


def _label_sums(data: Data, plan: Plan, dtype: Any) -> Array:
    if data.y.ndim == 1 or plan.binary:
        return jnp.ones(data.y.shape[:1], dtype)
    tau = jnp.sum(data.y.astype(dtype), axis=1)
    tau = tau if data.keep is None else jnp.where(data.keep, tau, jnp.zeros_like(tau))
    return lax.psum(tau, plan.column_axes) if plan.column_axes else tau
