"""Concrete float32 data are solved in float64, and float64 data of NumPy are read as they are."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check
from fundl._precise import matmul
from fundl._result import Fit
from fundl._types import Array
from fundl.newton import _links


@contextlib.contextmanager
def digits_of(*given: Any) -> Iterator[bool]:
    """Where jax holds float32 only, float64 data of NumPy keep their digits in here; whether that is so, for `fit`."""
    float64 = any(isinstance(v, np.ndarray) and v.dtype == np.float64 for v in given)
    holds = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    narrow = float64 and not holds and all(map(_check.concrete, given))
    with jax.enable_x64(True) if narrow else contextlib.nullcontext():
        yield narrow


def in_float64(
    solve: Callable[..., Fit], given: tuple[Array, ...], tol: Array | None, max_steps: int,
    static: tuple[str, bool, str], dtype: Any,
) -> Fit:  # fmt: skip
    """Solve in float64, where the bound is sharp, and round what is found to `dtype`.

    The products of float32 numbers are exact in float64, so the optimum is that of the data as they are. Only for
    concrete data: inside a trace the dtype of the program holds.
    """
    with jax.enable_x64(True):
        wide = tuple(v.astype(jnp.float64) for v in given)
        found = solve(*wide, None if tol is None else tol.astype(jnp.float64), max_steps, *static)

        def rounded(v: Array) -> Array:
            if v.dtype == jnp.bool_:
                return v
            return v.astype(dtype if jnp.issubdtype(v.dtype, jnp.floating) else jnp.int32)

        # The objective and the bound are to be those of the rounded parameters.
        f = _objective(jax.tree.map(lambda v: rounded(v).astype(jnp.float64), found.params), *wide, link=static[0])
        proof = found.certificate
        worse = jnp.maximum(f - proof.objective, 0) + 4 * jnp.finfo(jnp.float64).eps * jnp.abs(f)
        proof = dataclasses.replace(proof, objective=f, suboptimality=proof.suboptimality + worse)
        return jax.tree.map(rounded, dataclasses.replace(found, certificate=proof))


def _objective(params: Any, X: Array, Y: Array, s: Array, l2: Array, l1: Array, *, link: str) -> Array:
    kept = (s > 0)[:, None]
    W = params.w.reshape(X.shape[1], -1)
    z = matmul(jnp.where(kept, X, jnp.zeros_like(X)), W) + params.b.reshape(1, -1)
    value = _links.value(link, z, jnp.where(kept, Y, jnp.zeros_like(Y)), s)
    return value + l2 / 2 * jnp.sum(W * W) + l1 * jnp.sum(jnp.abs(W))
