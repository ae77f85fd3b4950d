"""X, W, b and y of the losses that hold no logits: checked, and in the dtype of computation."""

from typing import Any

import jax.numpy as jnp

from fundl import _check
from fundl._types import Array, ArrayLike
from fundl.losses._logit_slices import Data

Given = tuple[Array, Array, Array | None, Array]


def linear_inputs(X: ArrayLike, W: ArrayLike, b: ArrayLike | None, y: ArrayLike) -> tuple[Given, Data, Any]:
    """The arrays as given; X, W and b for the tiles, y still to come; the dtype of sums and losses."""
    named = {"X": _check.array("X", X), "W": _check.array("W", W)}
    if b is not None:
        named["b"] = _check.array("b", b)
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
    _check.positive("softcap", softcap)
    return float(softcap)
