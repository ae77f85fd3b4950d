"""What the tile loops of `_logit_tiles` are given, and how they cut it into tiles.

Rows go by strides where the tiles fit (rows i, i + T, ...): an axis that a mesh splits keeps its split. Where they do
not fit, the last tile overlaps the one before, and `not_seen` says what was not seen yet.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fundl._types import Array

Totals = tuple[Array, Array, Array, Array | None]


class Plan(NamedTuple):
    """What is fixed when the program is traced."""

    rows: int  # examples per tile
    columns: int  # classes per tile
    num_classes: int  # k over all shards
    softcap: float | None
    uniform: bool  # is u wanted?
    dtype: Any  # of sums and results: at least float32
    operands: Any  # of the products: bfloat16 where X and W are, else `dtype`
    mesh: Any = None  # an Explicit mesh: each device runs the loops on its shard
    row_axes: tuple[str, ...] = ()  # mesh axes that split the examples
    column_axes: tuple[str, ...] = ()  # mesh axes that split the classes
    binary: bool = False  # k binary targets with labels (n, k), in place of k classes


class Data(NamedTuple):
    """X (n, d), W (d, k), b (k,) or None, y (n,) classes or (n, k) labels, keep (n,) or None: False leaves out."""

    X: Array
    W: Array
    b: Array | None
    y: Array
    keep: Array | None


class Tangents(NamedTuple):
    """The same shapes as the data they belong to; None where nothing changes."""

    X: Array | None
    W: Array | None
    b: Array | None
    y: Array | None


def tile_count(length: int, size: int) -> int:
    return -(-length // size)


def start_of(length: int, size: int, index: Array) -> Array:
    return jnp.minimum(index * size, length - size)


def not_seen(length: int, size: int, index: Array) -> Array:
    if length % size == 0:
        return jnp.ones(size, bool)
    return start_of(length, size, index) + jnp.arange(size) >= index * size


def columns_of(v: Array, plan: Plan, j: Array, axis: int = -1) -> Array:
    length = v.shape[axis]
    if length == plan.columns:
        return v
    return lax.dynamic_slice_in_dim(v, start_of(length, plan.columns, j), plan.columns, axis=axis)


def add_columns(v: Array | None, tile: Array | None, plan: Plan, j: Array) -> Array | None:
    if v is None or tile is None:
        return None
    start = start_of(v.shape[-1], plan.columns, j)
    tile = columns_of(v, plan, j) + tile.astype(v.dtype)
    return lax.dynamic_update_slice_in_dim(v, tile, start, axis=-1)


def _strided(v: Array, rows: int) -> Array:
    return v.reshape(rows, v.shape[0] // rows, *v.shape[1:])


def rows_of(v: Array, plan: Plan, i: Array) -> Array:
    n = v.shape[0]
    if n == plan.rows:
        return v
    if n % plan.rows == 0:
        return lax.dynamic_index_in_dim(_strided(v, plan.rows), i, axis=1, keepdims=False)
    return lax.dynamic_slice_in_dim(v, start_of(n, plan.rows, i), plan.rows)


def rows_of_X(data: Data, plan: Plan, i: Array) -> Array:
    x = rows_of(data.X, plan, i)
    return x if data.keep is None else jnp.where(as_column(rows_of(data.keep, plan, i)), x, jnp.zeros_like(x))


def add_rows(v: Array, tile: Array, plan: Plan, i: Array) -> Array:
    n = v.shape[0]
    tile = rows_of(v, plan, i) + tile
    if n == plan.rows:
        return tile
    if n % plan.rows == 0:
        return lax.dynamic_update_index_in_dim(_strided(v, plan.rows), tile, i, axis=1).reshape(v.shape)
    return lax.dynamic_update_slice_in_dim(v, tile, start_of(n, plan.rows, i), axis=0)


def put(v: Array, tile: Array, fresh: Array, plan: Plan, i: Array, j: Array) -> Array:
    """Write the fresh columns of a tile of an (n, k) array."""
    n, k = v.shape
    column = start_of(k, plan.columns, j)
    tile = jnp.where(fresh, tile.astype(v.dtype), columns_of(rows_of(v, plan, i), plan, j))
    if n % plan.rows == 0:
        at = (jnp.zeros_like(column), i.astype(column.dtype), column)
        return lax.dynamic_update_slice(_strided(v, plan.rows), jnp.expand_dims(tile, 1), at).reshape(v.shape)
    return lax.dynamic_update_slice(v, tile, (start_of(n, plan.rows, i).astype(column.dtype), column))


def join_rows(tiles: Array, n: int) -> Array:
    """(tiles, rows) of one value per example as (n,)."""
    count, rows = tiles.shape
    if n % rows == 0:
        return tiles.T.reshape(n)
    return jnp.concatenate([tiles[:-1].reshape((count - 1) * rows), tiles[-1, count * rows - n :]])


def varying_zero(tree: Any, dtype: Any) -> Array:
    """0, marked as differing between devices wherever an array of `tree` does: the type of a loop's carry."""
    zero = jnp.zeros((), dtype)
    for v in jax.tree.leaves(tree):
        zero = zero + jnp.zeros_like(v[(0,) * v.ndim]).astype(dtype)
    return zero


def as_column(v: Array) -> Array:
    return jnp.expand_dims(v, 1)


def as_row(v: Array) -> Array:
    return jnp.expand_dims(v, 0)
