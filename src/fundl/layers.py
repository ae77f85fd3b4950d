"""The linear map of every model: z = X W + b, and its backward."""

import jax.numpy as jnp

from fundl import _check
from fundl._precise import accumulated_in, matmul, rows_dot
from fundl._types import Array, ArrayLike

__all__ = ["linear", "linear_backward"]


def linear(X: ArrayLike, W: ArrayLike, b: ArrayLike) -> Array:
    """Linear map z = X W + b, that is z_ij = sum_l x_il w_lj + b_j.

    Shapes: X (n, d), W (d, k), b (k,), z (n, k); or W (d,), b (), z (n,) for one output; X may be one example (d,).
    Derivative: dX = dz W^T, dW = X^T dz, db = sum_i dz_i (`linear_backward`).
    Errors: ValueError naming the shapes that do not fit, and for empty arrays.

    >>> print(linear([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [10.0, 20.0]))
    [[11. 22.]]

    Source: Bishop, Pattern Recognition and Machine Learning, (5.2).
    """
    X, W, b = _inputs(X, W, b)
    z = matmul(X, W)
    return z + jnp.expand_dims(b, tuple(range(z.ndim - b.ndim)))


def linear_backward(dz: ArrayLike, X: ArrayLike, W: ArrayLike, b: ArrayLike) -> tuple[Array, Array, Array]:
    """Gradients of `linear`: dX = dz W^T, dW = X^T dz, db = sum_i dz_i.

    >>> dX, dW, db = linear_backward([[1.0]], [[1.0, 2.0]], [[3.0], [4.0]], [0.0])
    >>> print(dX, dW.ravel(), db)
    [[3. 4.]] [1. 2.] [1.]
    """
    given = [_check.array(name, v) for name, v in (("X", X), ("W", W), ("b", b))]
    X, W, b = _inputs(X, W, b)
    dz = _check.array("dz", dz).astype(X.dtype)
    expected = X.shape[:-1] + W.shape[1:]
    if dz.shape != expected:
        raise ValueError(f"dz must have the shape of X W + b, {expected}; got {dz.shape}.")
    if X.ndim == 1:  # one example: the sums over i have one term
        dW = jnp.outer(X, dz) if W.ndim == 2 else X * dz
        db = dz
    else:
        dW = rows_dot(X, dz)  # z_ij = sum_l x_il w_lj
        db = jnp.sum(dz, axis=0, dtype=accumulated_in(dz))  # + b_j, once for each example
    # z_ij = sum_l x_il w_lj
    dX = matmul(dz, W.T) if W.ndim == 2 else jnp.expand_dims(dz, -1) * jnp.broadcast_to(W, X.shape)
    return tuple(_like(g, v) for g, v in zip((dX, dW, db), given, strict=True))  # type: ignore[return-value]


def _like(g: Array, x: Array) -> Array:
    return g.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else g


def _inputs(X: ArrayLike, W: ArrayLike, b: ArrayLike) -> tuple[Array, Array, Array]:
    """The three arrays in one floating dtype (half precision is kept), with shapes that fit."""
    X, W, b = _check.array("X", X), _check.array("W", W), _check.array("b", b)
    _check.rank("X", X, 1, 2, shape="(n, d), or (d,) for one example")
    _check.rank("W", W, 1, 2, shape="(d, k), or (d,) for one output")
    for name, v in (("X", X), ("W", W), ("b", b)):
        _check.nonempty(name, v)
    if X.shape[-1] != W.shape[0]:
        raise ValueError(
            f"X has {X.shape[-1]} columns, shape {X.shape}, but W has {W.shape[0]} rows, shape {W.shape}. "
            "They are both d, the number of inputs."
        )
    if b.shape != W.shape[1:]:
        raise ValueError(f"b must have one entry for each output, shape {W.shape[1:]}; got {b.shape}.")
    dtype = _check.common_dtype(X, W, b)
    return X.astype(dtype), W.astype(dtype), b.astype(dtype)
