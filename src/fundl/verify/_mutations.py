"""Wrong versions of a program: its jaxpr is run with one operation changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl.verify._programs import bind, walk

__all__ = ["Site", "Sites", "run_with", "sites_of"]

# Moves and conversions: a mutation there is one of the operation that feeds them.
_UNCHANGED = {
    "convert_element_type", "stop_gradient", "copy", "copy_p", "broadcast_in_dim", "reshape", "squeeze",
    "expand_dims", "iota", "device_put", "sharding_constraint", "mesh_cast", "reshard", "eq_to",
}  # fmt: skip
_CLOSE = {"gt": "ge", "ge": "gt", "lt": "le", "le": "lt"}
_FLIP = {"gt": "le", "ge": "lt", "lt": "ge", "le": "gt", "eq": "ne", "ne": "eq"}

Change = Callable[[Any, list[Any]], Any]


@dataclass(frozen=True)
class Site:
    """One operation of a program, the nth of its primitive, and one way to get it wrong."""

    primitive: str
    number: int
    name: str
    kind: str
    change: Change

    def __str__(self) -> str:
        return f"{self.primitive} {self.number}: {self.name}"


Sites = list[Site]


def run_with(site: Site | None, function: Callable[..., Any], args: Sequence[Any]) -> Any:
    """function(*args), with the operation of `site` changed. Sites that the program does not have change nothing."""
    static = [not isinstance(x, (np.ndarray, np.generic, jax.Array, float)) for x in jax.tree.leaves(args)]
    leaves, tree = jax.tree.flatten(tuple(args))
    live = [x for x, s in zip(leaves, static, strict=True) if not s]

    def of_arrays(*arrays: Any) -> Any:
        it = iter(arrays)
        return function(*jax.tree.unflatten(tree, [x if s else next(it) for x, s in zip(leaves, static, strict=True)]))

    closed, shape = jax.make_jaxpr(of_arrays, return_shape=True)(*live)
    counts: dict[str, int] = {}

    def visit(eqn: Any, values: list[Any]) -> Any:
        name = eqn.primitive.name
        counts[name] = counts.get(name, -1) + 1
        if site is not None and (name, counts[name]) == (site.primitive, site.number):
            return site.change(eqn, values)
        return bind(eqn, values)

    out = walk(closed.jaxpr, closed.consts, [jnp.asarray(x) for x in live], visit)
    return jax.tree.unflatten(jax.tree.structure(shape), out)


def sites_of(function: Callable[..., Any], args: Sequence[Any]) -> Sites:
    """Every operation of function(*args) with every way to get it wrong that keeps its shape."""
    found: Sites = []
    counts: dict[str, int] = {}

    def visit(eqn: Any, values: list[Any]) -> Any:
        name = eqn.primitive.name
        counts[name] = counts.get(name, -1) + 1
        out = bind(eqn, values)
        for text, kind, change in _changes(eqn, values, out):
            found.append(Site(name, counts[name], text, kind, change))
        return out

    leaves, tree = jax.tree.flatten(tuple(args))
    live = [i for i, x in enumerate(leaves) if isinstance(x, (np.ndarray, np.generic, jax.Array, float))]

    def of_arrays(*arrays: Any) -> Any:
        full = list(leaves)
        for i, a in zip(live, arrays, strict=True):
            full[i] = a
        return function(*jax.tree.unflatten(tree, full))

    arrays = [jnp.asarray(leaves[i]) for i in live]
    closed = jax.make_jaxpr(of_arrays)(*arrays)
    jax.eval_shape(lambda *a: walk(closed.jaxpr, closed.consts, list(a), visit), *arrays)
    return found


def _changes(eqn: Any, values: list[Any], out: Any) -> Iterator[tuple[str, str, Change]]:
    name = eqn.primitive.name
    if name in _UNCHANGED or eqn.primitive.multiple_results:
        return
    shape, floating = out.shape, jnp.issubdtype(out.dtype, jnp.floating)
    if name in _FLIP and not floating:
        yield "comparison flipped", "structural", lambda e, v: jnp.logical_not(bind(e, v))
        if name in _CLOSE:
            yield "other side of the kink", "convention", lambda e, v: getattr(jax.lax, _CLOSE[name])(*_pair(v))
        return
    if not floating:
        return
    for i in range(len(values)):
        if name in ("add", "sub", "mul", "div", "max", "min", "pow") and np.shape(values[i]) == shape:
            kept = ("second", "first")[i]
            yield f"only the {kept if i else 'first'} operand kept", "structural", lambda e, v, i=i: jnp.asarray(v[i])
    if name in ("sub", "div"):
        yield "operands swapped", "structural", lambda e, v: bind(e, v[::-1])
    other = {"add": "sub", "sub": "add", "mul": "div", "max": "min", "min": "max"}.get(name)
    if other:
        yield f"{other} in its place", "structural", lambda e, v: getattr(jax.lax, other)(*_pair(v))
    if name == "reduce_sum":
        axes = tuple(eqn.params["axes"])
        count = int(np.prod([values[0].shape[a] for a in axes])) if axes else 1
        if count > 1:
            yield "mean for sum", "structural", lambda e, v: bind(e, v) / np.prod(
                [v[0].shape[a] for a in e.params["axes"]]).astype(v[0].dtype)  # fmt: skip
            yield (
                "only the first summed",
                "structural",
                lambda e, v: bind(e, [_masked(v[0], e.params["axes"], "first")]),
            )
            yield "the last not summed", "structural", lambda e, v: bind(e, [_masked(v[0], e.params["axes"], "last")])
            yield "maximum for sum", "structural", lambda e, v: jnp.max(v[0], axis=tuple(e.params["axes"]))
    if name == "dot_general":
        for i in (0, 1):
            if values[i].ndim == 2 and values[i].shape[0] == values[i].shape[1]:
                yield f"operand {i} transposed", "structural", lambda e, v, i=i: bind(
                    e, [v[0].T, v[1]] if i == 0 else [v[0], v[1].T])  # fmt: skip
    if name == "select_n" and len(values) == 3:
        yield "cases swapped", "structural", lambda e, v: bind(e, [v[0], v[2], v[1]])
    if name == "integer_pow":
        yield "power one higher", "structural", lambda e, v: bind(e, v, y=e.params["y"] + 1)
    if name in ("exp", "log", "tanh", "logistic", "sqrt", "rsqrt", "sin", "cos", "neg", "sign", "abs", "square", "erf"):
        yield "left out", "structural", lambda e, v: v[0]
    yield "sign", "structural", lambda e, v: -bind(e, v)
    yield "times 2", "structural", lambda e, v: bind(e, v) * np.asarray(2, e.outvars[0].aval.dtype)
    yield "times 1.01", "one percent", lambda e, v: bind(e, v) * np.asarray(1.01, e.outvars[0].aval.dtype)
    if shape and int(np.prod(shape)) > 1:
        yield "last entry zeroed", "sparse", lambda e, v: _last_zero(bind(e, v))


def _pair(values: list[Any]) -> tuple[Any, Any]:
    """Both operands as arrays of one shape; a literal is a scalar."""
    a, b = (jnp.asarray(v) for v in values)
    return (a, b) if a.shape == b.shape else tuple(jnp.broadcast_arrays(a, b))  # type: ignore[return-value]


def _masked(x: Any, axes: Sequence[int], which: str) -> Any:
    axis = next((a for a in axes if x.shape[a] > 1), axes[0])
    i = jax.lax.broadcasted_iota(np.int32, x.shape, axis)
    keep = i == 0 if which == "first" else i < x.shape[axis] - 1
    return jnp.where(keep, x, jnp.zeros_like(x))


def _last_zero(x: Any) -> Any:
    flat = jnp.reshape(x, (-1,))
    return jnp.reshape(jnp.where(jnp.arange(flat.size) == flat.size - 1, jnp.zeros_like(flat), flat), x.shape)
