"""What least squares accepts, the refusals, and the way to numpy and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fundl import _check
from fundl._result import Tree, on_device
from fundl._types import Array, ArrayLike

SHORT = {"i": np.dtype(np.int32), "b": np.dtype(bool)}
WHOLE = 1 << 24  # float32 holds all whole numbers up to it
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def inputs(X: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array | None]:
    """X (n, d), y (n,) or (n, k) and weights (n,) in one dtype; refuses what is not that, and concrete NaN."""
    X, y, weights = shaped(X, y, weights)
    refuse_not_finite(X, y, weights)
    return jnp.asarray(X), jnp.asarray(y), in_dtype(X.dtype, weights)[0]


def shaped(X: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Any, Any, Any]:
    """The same without the look for NaN in X and y; numpy's arrays of floats stay what they are, uncopied.

    So float64 data keep their digits whatever jax_enable_x64 says: only what is returned is rounded to `held`.
    """
    X, y = as_array("X", X), as_array("y", y)
    if np.dtype(np.float64) in (X.dtype, y.dtype) and _check.on_host(X, y):
        X, y = np.asarray(X, np.float64), np.asarray(y, np.float64)
    _check.rank("X", X, 2, shape="(n, d), one row for each example; X.reshape(-1, 1) for one column")
    _check.rank("y", y, 1, 2, shape="(n,), or (n, k) for k targets")
    _check.examples(X=X, y=y)
    if not (X.dtype == y.dtype and X.dtype in FLOATS) or getattr(X, "weak_type", False):
        X, y = _check.floats(X=X, y=y)
    if weights is not None:
        w = as_array("weights", weights)
        # A look through numpy compiles nothing; what it finds is said by the check that all fits share.
        host = _check.on_host(X, y, w)
        if isinstance(weights, list | tuple) or not (host and w.shape == X.shape[:1] and _good(np.asarray(w))):
            _check.per_example_weights(weights, X.shape[:1], held(X.dtype))
        # NumPy solves in float64, which holds weights that the dtype of X may not.
        weights = np.asarray(w, np.float64) if host else in_dtype(X.dtype, w)[0]
    return X, y, weights


def refuse_not_finite(X: Any, y: Any, weights: Any) -> None:
    """Refuse concrete NaN and infinities in rows whose weight is not 0."""
    for name, v in (("X", X), ("y", y)):
        if not (_check.on_host(v) and np.isfinite(np.asarray(v)).all()):
            _check.finite(name, jnp.asarray(v), weights)


def as_array(name: str, x: ArrayLike) -> Any:
    x = _check.readable(name, x)
    if isinstance(x, np.ndarray) and x.dtype in FLOATS:
        return np.asarray(x)  # a memory map stays one
    x = _check.array(name, x)
    if x.dtype.kind in "iu" and x.dtype.itemsize >= 4 and _check.on_host(x):
        v = np.asarray(x, np.float64)
        return v if np.abs(v).max(initial=0) > WHOLE else x
    return x


def held(dtype: Any) -> Any:
    """The dtype in which jax holds numbers of this one: float32 for float64 unless jax_enable_x64 is on."""
    return jax.dtypes.canonicalize_dtype(dtype)


def penalty_of(l2: ArrayLike, dtype: Any) -> Any:
    """The penalty as a scalar: in float64 on the host, and else in the dtype of X."""
    if isinstance(l2, (int, float)) and 0 <= l2 < np.inf:
        return np.asarray(l2, np.float64)
    _check.penalty("l2", l2)
    penalty = _check.array("l2", l2)
    if penalty.ndim:
        raise ValueError(f"l2 must be one number, shape (); got shape {penalty.shape}. Fit once for each penalty.")
    return np.asarray(penalty, np.float64) if _check.on_host(penalty) else penalty.astype(held(dtype))


def in_dtype(dtype: Any, *arrays: Any) -> list[Any]:
    """As jax takes them, in the dtype of X; None stays None."""
    with np.errstate(all="ignore"):
        return [None if v is None else jnp.asarray(v, held(dtype)) for v in arrays]


def by_rows(*arrays: Array | None) -> tuple[Any, ...]:
    """On an Explicit mesh with their rows split as those of the first that are, and all columns on each device."""
    shardings = [jax.typeof(v).sharding for v in arrays if v is not None]
    mesh = next((s.mesh for s in shardings if not s.mesh.empty and s.mesh.are_all_axes_explicit), None)
    if mesh is None:
        return arrays
    rows = next((s.spec[0] for s in shardings if len(s.spec) and s.spec[0] is not None), None)
    spec = NamedSharding(mesh, PartitionSpec(rows))
    return tuple(None if v is None else jax.sharding.reshard(v, spec) for v in arrays)


def on_mesh_of(X: Array, v: Array) -> Array:
    """v, which may have other rows than X, whole on each device of X's Explicit mesh, or split as it is by rows."""
    mesh = jax.typeof(X).sharding.mesh
    if mesh.empty or not mesh.are_all_axes_explicit or not jax.typeof(v).sharding.mesh.empty:
        return by_rows(v)[0]
    return jax.sharding.reshard(v, NamedSharding(mesh, PartitionSpec()))


def rank_tolerance(eps: float, d: int) -> float:
    """The singular value of columns of one length below which, beside the largest, their rounding may be all of it."""
    return 8 * eps * d**0.5


def to_host(*arrays: Array | None) -> list[Any]:
    """The same as numpy's float64."""
    return [None if x is None else np.asarray(x, np.float64) for x in arrays]


def to_device(tree: Tree, dtype: Any) -> Tree:
    """numpy's arrays as jax arrays, the floats in `dtype`, all in one call; copies, as jax may take their memory."""
    dtype = held(dtype)
    with np.errstate(all="ignore"):
        return on_device(jax.tree.map(lambda v: np.array(v, SHORT.get(v.dtype.kind, dtype)), tree))


def _good(w: np.ndarray) -> bool:
    return bool(((w >= 0) & np.isfinite(w)).all())
