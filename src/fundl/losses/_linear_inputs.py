"""X, W, b and y of the losses that hold no logits: checked, in the dtype of computation, and their derivatives."""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fundl import _check
from fundl._types import Array, ArrayLike
from fundl.losses._logit_shards import vary_alike
from fundl.losses._logit_slices import Data, Tangents
from fundl.losses._reduction import gradients

Given = tuple[Array, Array, Array | None, Array]


def linear_inputs(X: ArrayLike, W: ArrayLike, b: ArrayLike | None, y: ArrayLike) -> tuple[Given, Data, Any]:
    """The arrays as given; X, W and b for the tiles, y still to come; the dtype of sums and losses."""
    named = {"X": _check.array("X", X), "W": _check.array("W", W)}
    if b is not None:
        named["b"] = _check.array("b", b)
    _check.within_integers("y", y)
    t = _check.array("y", y)
    _check.rank("X", named["X"], 2, shape="(n, d); reshape further axes into one, X.reshape(-1, X.shape[-1])")
    _check.rank("W", named["W"], 2, shape="(d, k)")
    for name, v in named.items():
        _check.nonempty(name, v)
    (n, d), k = named["X"].shape, named["W"].shape[1]
    if named["W"].shape[0] != d:
        raise ValueError(
            f"X has {d} columns, shape {(n, d)}, but W has {named['W'].shape[0]} rows, shape {named['W'].shape}. "
            "They are both d, the number of inputs."
        )
    if b is not None and named["b"].shape != (k,):
        raise ValueError(f"b must have one entry for each class, shape {(k,)}; got {named['b'].shape}.")
    given = (named["X"], named["W"], named.get("b"), t)
    dtype = _check.compute_dtype(*(v for v in (*named.values(), t) if jnp.issubdtype(v.dtype, jnp.floating)))
    return given, Data(*(floating(v, dtype) for v in (*given[:3], None, None))), dtype


def floating(v: Array | None, dtype: Any) -> Any:
    return v if v is None or jnp.issubdtype(v.dtype, jnp.floating) else v.astype(dtype)


def cap(softcap: float | None) -> float | None:
    if softcap is None:
        return None
    if not _check.concrete(softcap):
        raise TypeError("softcap is fixed when the program is traced: give a Python number, not a traced array.")
    _check.scalar("softcap", softcap)
    _check.positive("softcap", softcap)
    if not math.isfinite(softcap):
        raise ValueError(f"softcap must be finite; got {softcap}. None is no cap.")
    return float(softcap)


def moving(tangents: Any, data: Data) -> tuple[Tangents, tuple[bool, ...]]:
    """The tangents of X, W, b and y, None where nothing changes, and which of the four there are."""
    found = Tangents(*(None if isinstance(d, SymbolicZero) else d for d in tangents[:4]))
    return vary_alike(found, data), tuple(d is not None for d in found)


def wanted_of(given: Given) -> tuple[bool, ...]:
    """Which of X, W, b and y get a gradient by hand."""
    return True, True, given[2] is not None, jnp.issubdtype(given[3].dtype, jnp.floating)


def returned(given: Given, found: Tangents) -> Any:
    """The gradients that there are, in the dtypes of what was given."""
    pairs = [(x, dx) for x, dx in zip(given, found, strict=True) if x is not None and dx is not None]
    return gradients(*((x, partial(_the, dx)) for x, dx in pairs))


def _the(value: Array) -> Array:
    return value
