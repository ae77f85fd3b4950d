"""What least squares accepts, the refusals, and the way to numpy and back."""

from typing import Any, TypeVar

import jax
import numpy as np

from fundl import _check
from fundl._types import Array, ArrayLike

Tree = TypeVar("Tree")


def inputs(X: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array | None]:
    """X (n, d), y (n,) or (n, k) and weights (n,) in one dtype; refuses what is not that, and concrete NaN."""
    given = _check.array("X", X), _check.array("y", y)
    _check.rank("X", given[0], 2, shape="(n, d), one row for each example; X.reshape(-1, 1) for one column")
    _check.rank("y", given[1], 1, 2, shape="(n,), or (n, k) for k targets")
    _check.examples(X=given[0], y=given[1])
    X, y = _check.floats(X=given[0], y=given[1])
    if weights is not None:
        w = _check.array("weights", weights)
        # A look through numpy compiles nothing; what it finds is said by the check that all fits share.
        if not (w.shape == X.shape[:1] and on_host(w) and _good(np.asarray(w))):
            _check.per_example_weights(w, X.shape[:1], X.dtype)
        weights = w.astype(X.dtype)
    for name, v in (("X", X), ("y", y)):
        if not (on_host(v) and np.isfinite(np.asarray(v)).all()):
            _check.finite(name, v, weights)
    return X, y, weights


def penalty_of(l2: ArrayLike, X: Array) -> Array:
    """The penalty as a scalar of X's dtype."""
    if not (isinstance(l2, (int, float)) and 0 <= l2 < np.inf):
        _check.nonnegative("l2", l2)
    penalty = _check.array("l2", l2)
    if penalty.ndim:
        raise ValueError(f"l2 must be one number, shape (); got shape {penalty.shape}. Fit once for each penalty.")
    return penalty.astype(X.dtype)


def on_host(*arrays: Array | None) -> bool:
    """True for concrete values on one CPU device, which numpy sees without a copy."""
    return all(x is None or (_check.concrete(x) and _on_cpu(x)) for x in arrays)


def to_host(*arrays: Array | None) -> list[Any]:
    """The same as numpy's float64."""
    return [None if x is None else np.asarray(x, np.float64) for x in arrays]


def to_device(tree: Tree, dtype: Any) -> Tree:
    """numpy's arrays as jax arrays, the floats in `dtype`, in one transfer."""

    def cast(v: Any) -> Any:
        v = np.asarray(v)
        return v.astype(dtype) if v.dtype == np.float64 else v.astype(np.int32) if v.dtype == np.int64 else v

    with np.errstate(all="ignore"):
        return jax.device_put(jax.tree.map(cast, tree))


def _on_cpu(x: Array) -> bool:
    devices = x.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def _good(w: np.ndarray) -> bool:
    return bool(((w >= 0) & np.isfinite(w)).all())
