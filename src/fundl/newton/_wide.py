"""Concrete float32 data are solved in float64, and float64 data of NumPy are read as they are."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check
from fundl._precise import matmul, namespace
from fundl._result import Fit, Status
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
        params = jax.tree.map(lambda v: rounded(v).astype(jnp.float64), found.params)
        f, error = _objective(params, *wide, link=static[0])
        proof = found.certificate
        worse = jnp.maximum(f - proof.objective, 0) + error
        code = after_rounding(found.code, worse, f, 0.0 if tol is None else tol, dtype)
        proof = dataclasses.replace(
            proof, objective=f, suboptimality=upwards(proof.suboptimality + worse, dtype),
            converged=proof.converged & (code == found.code),
        )  # fmt: skip
        return jax.tree.map(rounded, dataclasses.replace(found, certificate=proof, code=code))


def after_rounding(code: Any, rise: Any, f: Any, tol: Any, dtype: Any) -> Any:
    """The code of a fit whose objective f may be higher by so much since its parameters are rounded to dtype."""
    ended = (code == int(Status.converged)) | (code == int(Status.rank_deficient))
    xp = namespace(rise)
    far = ~(rise <= xp.maximum(tol, float(np.finfo(dtype).eps) ** 0.5) * f)
    return xp.where(ended & far, int(Status.stalled), code).astype(np.int32)


def rise_by(db: Any, slope: Any, total: Any, f: Any, k: int) -> Any:
    """At most what f rises by where each logit is off by db, slope being sum |df/db| and total the sum of the weights.

    Along the way second derivatives are at most those of all rows at their worst, and they grow from h <= L by a factor
    of exp(db) at most, for k classes from h <= 4 L by exp(2 db).
    """
    xp = namespace(db)
    return slope * db + xp.minimum(total, 4 * f * xp.exp(2 * db)) * db * db / (8 if k == 1 else 2)


def upwards(bound: Any, dtype: Any) -> Any:
    """What is no less than the bound when it is rounded to dtype."""
    return bound * (1 + float(np.finfo(dtype).eps))


def _objective(params: Any, X: Array, Y: Array, s: Array, l2: Array, l1: Array, *, link: str) -> tuple[Array, Array]:
    """The objective, and what rounding may do to it: a logit off by e moves a loss L by 2 L e at most."""
    kept = (s > 0)[:, None]
    X, Y = jnp.where(kept, X, jnp.zeros_like(X)), jnp.where(kept, Y, jnp.zeros_like(Y))
    W, b = params.w.reshape(X.shape[1], -1), params.b.reshape(1, -1)
    value = _links.value(link, matmul(X, W) + b, Y, s)
    f = value + l2 / 2 * jnp.sum(W * W) + l1 * jnp.sum(jnp.abs(W))
    e = 2 * jnp.max(matmul(jnp.abs(X), jnp.abs(W)) + jnp.abs(b))
    return f, (4 + 2 * e) * float(np.finfo(np.float64).eps) * f
