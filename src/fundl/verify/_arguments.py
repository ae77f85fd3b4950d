"""What a rule is called with: the leaves of its arguments, and which of them are differentiable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Arguments", "Leaf", "is_none", "to_numpy"]


def is_none(x: Any) -> bool:
    """Whether x is None, for tree functions that must see None as a leaf."""
    return x is None


def to_numpy(x: Any) -> np.ndarray:
    """Any array-like as a NumPy array; half precisions become float32, which holds them exactly."""
    a = np.asarray(x)
    if a.dtype.kind == "V" or (a.dtype.itemsize < 4 and jnp.issubdtype(a.dtype, jnp.floating)):
        a = a.astype(np.float32)
    return a


@dataclass(frozen=True)
class Leaf:
    """One array among the arguments: its name, position and value, and whether a gradient is owed for it."""

    name: str
    argument: int
    value: np.ndarray
    dtype: Any
    floating: bool
    differentiable: bool

    @property
    def describe(self) -> str:
        """The dtype and shape, as `float32[8,3]`."""
        return f"{np.dtype(self.dtype).name}[{','.join(map(str, self.value.shape))}]"


class Arguments:
    """The arguments of a function, taken apart into leaves and put together again.

    Arrays are leaves; anything else (Python integers, strings, functions, random keys) stays as it is. Leaves of
    floating dtype are differentiable; with `wrt`, only those of the arguments it lists. Arguments in `fixed` are not
    taken apart at all.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        args: Sequence[Any],
        *,
        wrt: Sequence[int] | None = None,
        fixed: Sequence[int] = (),
    ) -> None:
        self.names = _argument_names(f, len(args))
        self.leaves: list[Leaf] = []
        self._plan: list[tuple[Any, list[Any]]] = []  # per argument: its tree, and a leaf number or the value itself
        for i, arg in enumerate(args):
            paths, tree = jax.tree_util.tree_flatten_with_path(arg)
            slots: list[Any] = []
            for path, value in paths:
                leaf = (
                    None
                    if i in fixed
                    else _leaf(self.names[i] + jax.tree_util.keystr(path), i, value, wrt is None or i in wrt)
                )
                if leaf is None:
                    slots.append((None, value))
                else:
                    slots.append((len(self.leaves), None))
                    self.leaves.append(leaf)
            self._plan.append((tree, slots))
        self.differentiable = [k for k, leaf in enumerate(self.leaves) if leaf.differentiable]
        self.arguments = sorted({self.leaves[k].argument for k in self.differentiable})
        if not self.differentiable:
            raise TypeError(
                "no argument has a floating dtype, so there is no gradient to check; "
                f"got {', '.join(leaf.describe for leaf in self.leaves) or 'no arrays'}. Pass float arrays."
            )

    def build(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments with these values in place of the leaves."""
        return tuple(
            jax.tree.unflatten(tree, [fixed if k is None else values[k] for k, fixed in slots])
            for tree, slots in self._plan
        )

    def take(self, args: Sequence[Any]) -> list[Any]:
        """The inverse of `build`: the leaves of such arguments."""
        out: list[Any] = [None] * len(self.leaves)
        for arg, (_, slots) in zip(args, self._plan, strict=True):
            for value, (k, _) in zip(jax.tree.leaves(arg), slots, strict=True):
                if k is not None:
                    out[k] = value
        return out

    def pack(self, gradients: Sequence[Any]) -> tuple[Any, ...]:
        """One gradient per differentiable leaf as one tree per differentiable argument."""
        by_leaf = dict(zip(self.differentiable, gradients, strict=True))
        return tuple(
            jax.tree.unflatten(self._plan[i][0], [by_leaf.get(k) for k, _ in self._plan[i][1]]) for i in self.arguments
        )

    def align(self, gradients: Any) -> tuple[list[Any], list[str]]:
        """The gradient of each differentiable leaf (None where missing), and what is wrong with the structure."""
        expected = ", ".join(self.names[i] for i in self.arguments)
        parts = self._split(gradients)
        if parts is None:
            got = f"{len(gradients)} values" if isinstance(gradients, (tuple, list)) else "one value"
            return [None] * len(self.differentiable), [
                f"returned {got}; expected {len(self.arguments)} gradients ({expected}), one per differentiable "
                "argument, in the order of the arguments"
            ]
        found: dict[int, Any] = {}
        problems: list[str] = []
        for i, part in zip(self.arguments, parts, strict=True):
            tree, slots = self._plan[i]
            mine = [k for k, _ in slots if k is not None and self.leaves[k].differentiable]
            if part is None:
                found.update(dict.fromkeys(mine))
                continue
            values, given_tree = jax.tree.flatten(part, is_leaf=is_none)
            if len(values) == len(slots) and given_tree == jax.tree.structure(
                jax.tree.unflatten(tree, [0] * len(slots))
            ):
                found.update({k: v for (k, _), v in zip(slots, values, strict=True) if k in mine})
            elif len(values) == len(mine) == 1:
                found[mine[0]] = values[0]
            else:
                problems.append(f"the gradient of {self.names[i]} has the tree {given_tree}; expected {tree}")
                found.update(dict.fromkeys(mine))
        return [found[k] for k in self.differentiable], problems

    def _split(self, gradients: Any) -> list[Any] | None:
        """One gradient per differentiable argument, or None where the number cannot be right."""
        wanted, total = len(self.arguments), len(self._plan)
        if wanted == 1:
            tree = self._plan[self.arguments[0]][0]
            bare = jax.tree.structure(gradients, is_leaf=is_none) == tree
            if bare or not isinstance(gradients, (tuple, list)):
                return [gradients]
        if isinstance(gradients, (tuple, list)):
            if len(gradients) == wanted:
                return list(gradients)
            if len(gradients) == total:  # None or float0 in the places of integer arguments
                return [gradients[i] for i in self.arguments]
        return None


def _leaf(name: str, argument: int, value: Any, wanted: bool) -> Leaf | None:
    if isinstance(value, float):
        value = np.asarray(value, dtype=jnp.result_type(float))
    if not isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return None
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        return None  # random keys
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{name} is complex; only real gradients are checked. Pass real and imaginary parts.")
    floating = bool(jnp.issubdtype(value.dtype, jnp.floating))
    if not floating and np.asarray(value).dtype.kind not in "iub":
        return None
    dtype = jax.dtypes.canonicalize_dtype(value.dtype)
    return Leaf(name, argument, to_numpy(value), np.dtype(dtype), floating, floating and wanted)


def _argument_names(f: Callable[..., Any], count: int) -> list[str]:
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):  # built-ins have no signature
        parameters = []
    names: list[str] = []
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name}[{i}]" for i in range(count - len(names))]
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
    names += [f"argument {i}" for i in range(len(names), count)]
    return names[:count]
