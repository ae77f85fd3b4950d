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
    return tuple(v if v is None else jnp.asarray(v) for v in (X, y, weights))  # type: ignore[return-value]


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
        plain = w.shape == X.shape[:1] and _check.on_host(w) and _good(np.asarray(w), np.finfo(X.dtype))
        if isinstance(weights, list | tuple) or not plain:
            _check.per_example_weights(weights, X.shape[:1], held(X.dtype))
        weights = np.asarray(w, X.dtype) if _check.on_host(w) else w.astype(held(X.dtype))
    return X, y, weights


def refuse_not_finite(X: Any, y: Any, weights: Any) -> None:
    """Refuse concrete NaN and infinities in rows whose weight is not 0."""
    for name, v in (("X", X), ("y", y)):
        if not (_check.on_host(v) and np.isfinite(np.asarray(v)).all()):
            _check.finite(name, jnp.asarray(v), None if weights is None else jnp.asarray(weights))


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
    """The penalty as a scalar of the dtype of X."""
    if isinstance(l2, (int, float)) and 0 <= l2 < np.inf:
        return np.asarray(l2, dtype)
    _check.penalty("l2", l2)
    penalty = _check.array("l2", l2)
    if penalty.ndim:
        raise ValueError(f"l2 must be one number, shape (); got shape {penalty.shape}. Fit once for each penalty.")
    return penalty.astype(held(dtype))


def by_rows(*arrays: Array | None) -> tuple[Any, ...]:
    """On an Explicit mesh with their rows split as those of the first that are, and all columns on each device."""
    shardings = [jax.typeof(v).sharding for v in arrays if v is not None]
    mesh = next((s.mesh for s in shardings if not s.mesh.empty and s.mesh.are_all_axes_explicit), None)
    if mesh is None:
        return arrays
    rows = next((s.spec[0] for s in shardings if len(s.spec) and s.spec[0] is not None), None)
    spec = NamedSharding(mesh, PartitionSpec(rows))
    return tuple(None if v is None else jax.sharding.reshard(v, spec) for v in arrays)


def to_host(*arrays: Array | None) -> list[Any]:
    """The same as numpy's float64."""
    return [None if x is None else np.asarray(x, np.float64) for x in arrays]


def to_device(tree: Tree, dtype: Any) -> Tree:
    """numpy's arrays as jax arrays, the floats in `dtype`, all in one call; copies, as jax may take their memory."""
    dtype = held(dtype)
    with np.errstate(all="ignore"):
        return on_device(jax.tree.map(lambda v: np.array(v, SHORT.get(v.dtype.kind, dtype)), tree))


def _good(w: np.ndarray, range_of: Any) -> bool:
    return bool(((w == 0) | ((w >= range_of.tiny) & (w <= range_of.max))).all())
