"""The tile loops compiled, and on Explicit meshes run by each device on its own rows and classes."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fundl import _check
from fundl._types import Array
from fundl.losses._logit_slices import Data, Plan, Tangents, Totals, varying_zero
from fundl.losses._logit_tiles import cotangent_of, losses_of, tangent_of, totals_of

# Tiles of 512 x 512 float32 logits (1 MiB) stay in the cache of a CPU core and keep its products at full speed.
ROWS, COLUMNS = 512, 512


def align(data: Data) -> tuple[Data, Any, tuple[str, ...], tuple[str, ...]]:
    """The data with agreeing shardings on an Explicit mesh, the mesh, and the axes that split rows and classes.

    The rows follow X, the classes follow W; the inputs' axis d is gathered. Without a mesh, on Auto meshes and inside
    shard_map nothing is done.
    """
    mesh = next((m for m in map(_mesh, jax.tree.leaves(data)) if m is not None), None)
    if mesh is None:
        return data, None, (), ()
    row_axes = _split(data.X, 0)
    column_axes = tuple(a for a in _split(data.W, 1) if a not in row_axes)
    plan = Plan(0, 0, 0, None, False, None, None, mesh, row_axes, column_axes)
    return jax.tree.map(partial(_reshard, mesh), data, _specs(plan, data)), mesh, row_axes, column_axes


def plan_for(
    data: Data,
    dtype: Any,
    mesh: Any,
    row_axes: tuple[str, ...],
    column_axes: tuple[str, ...],
    softcap: float | None,
    uniform: bool,
    tile: tuple[int, int] | None,
) -> Plan:
    """The plan, with tile sizes chosen for one device's part of the data."""
    n, k = data.X.shape[0], data.W.shape[1]
    local_n = n // prod(mesh.shape[a] for a in row_axes)
    local_k = k // prod(mesh.shape[a] for a in column_axes)
    if tile is None:
        whole = local_n * local_k <= 2 * ROWS * COLUMNS  # one tile is made once, forward and backward
        rows, columns = (local_n, local_k) if whole else (tile_size(local_n, ROWS), tile_size(local_k, COLUMNS))
    else:
        sizes = [_check.count(v) for v in tile] if isinstance(tile, tuple | list) else []
        if len(sizes) != 2 or 0 in sizes:
            raise ValueError(f"tile must be two positive whole numbers, examples and classes per tile; got {tile}.")
        rows, columns = min(sizes[0], local_n), min(sizes[1], local_k)
    half = data.X.dtype == data.W.dtype == jnp.bfloat16
    dtype = jnp.dtype(dtype)
    operands = jnp.dtype(jnp.bfloat16) if half else dtype
    return Plan(rows, columns, k, softcap, uniform, dtype, operands, mesh, row_axes, column_axes)


def tile_size(length: int, target: int) -> int:
    """About `target`: a divisor of `length` if one is near, else the size whose last tile overlaps least."""
    tiles = -(-length // target)
    for count in range(tiles, 2 * tiles):
        if length % count == 0:
            return length // count
    return -(-length // tiles)


@partial(jax.jit, static_argnums=0)
def totals(plan: Plan, data: Data) -> Totals:
    """`totals_of` on every shard."""
    out = _row_spec(plan)
    outs = (out, out, out, out if plan.uniform else None)
    return _everywhere(plan, partial(totals_of, plan), (_specs(plan, data),), outs)(data)


@partial(jax.jit, static_argnums=0)
def binary_losses(plan: Plan, data: Data) -> Array:
    """`losses_of` on every shard."""
    return _everywhere(plan, partial(losses_of, plan), (_specs(plan, data),), _row_spec(plan))(data)


@partial(jax.jit, static_argnums=0)
def tangent(plan: Plan, data: Data, m: Array, s: Array, d: Tangents) -> tuple[Array, Array, Array | None]:
    """`tangent_of` on every shard."""
    row = _row_spec(plan)
    m, s = _split_alike(plan, (m, s))
    ins = (_specs(plan, data), row, row, _specs(plan, d))
    outs = (row, row, row if plan.uniform else None)
    return _everywhere(plan, partial(tangent_of, plan), ins, outs)(data, m, s, d)


@partial(jax.jit, static_argnums=0, static_argnames="wanted")
def cotangent(
    plan: Plan, data: Data, m: Array, s: Array, c: tuple[Array, Array, Array | None], wanted: tuple[bool, ...]
) -> Tangents:
    """`cotangent_of` on every shard."""
    row = _row_spec(plan)
    specs = _specs(plan, data)
    m, s, c = _split_alike(plan, (m, s, c))
    outs = Tangents(*(spec if want else None for spec, want in zip(specs, wanted, strict=False)))
    ins = (specs, row, row, jax.tree.map(lambda _: row, c))
    return _everywhere(plan, partial(cotangent_of, plan, wanted), ins, outs)(data, m, s, c)


def vary_alike(tangents: Tangents, data: Data) -> Tangents:
    """Inside shard_map: the tangents marked as differing between devices wherever the data do.

    The transpose then sums over the devices what belongs to data that they share.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tangents
    return jax.tree.map(lambda v: v + varying_zero((data, tangents), v.dtype), tangents)


def _everywhere(plan: Plan, f: Callable[..., Any], ins: Any, outs: Any) -> Callable[..., Any]:
    if plan.mesh is None:
        return f
    return jax.shard_map(f, mesh=plan.mesh, in_specs=ins, out_specs=outs, axis_names=_explicit(plan.mesh))


def _specs(plan: Plan, data: Any) -> Any:
    rows, columns = plan.row_axes or None, plan.column_axes or None
    specs = (
        PartitionSpec(rows, None),
        PartitionSpec(None, columns),
        PartitionSpec(columns),
        PartitionSpec(rows) if data.y is None or data.y.ndim == 1 else PartitionSpec(rows, columns),
        PartitionSpec(rows),
    )
    return type(data)(*(None if v is None else spec for v, spec in zip(data, specs, strict=False)))


def _split_alike(plan: Plan, tree: Any) -> Any:
    """Arrays of one number for each example, split as the rows are: constants may come unsplit."""
    return tree if plan.mesh is None else jax.tree.map(lambda v: _reshard(plan.mesh, v, _row_spec(plan)), tree)


def _row_spec(plan: Plan) -> PartitionSpec:
    return PartitionSpec(plan.row_axes or None)


def _mesh(v: Array) -> Any:
    mesh = jax.typeof(v).sharding.mesh
    return mesh if _explicit(mesh) else None


def _explicit(mesh: Any) -> set[str]:
    return {name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit}


def _split(v: Array, axis: int) -> tuple[str, ...]:
    names = jax.typeof(v).sharding.spec[axis]
    return () if names is None else names if isinstance(names, tuple) else (names,)


def _reshard(mesh: Any, v: Array, spec: PartitionSpec) -> Array:
    return jax.sharding.reshard(v, NamedSharding(mesh, spec))
