"""The arguments of activations: floating arrays, in the dtype given and in that of computation."""

from fundl import _check
from fundl._precise import apart
from fundl._types import Array, ArrayLike


def forward(x: ArrayLike) -> tuple[Array, Array]:
    """The input as a floating array, and the same in the dtype of computation (at least float32)."""
    x = _check.array("x", x)
    x = x.astype(_check.common_dtype(x))
    return x, x.astype(_check.compute_dtype(x))


def backward(dy: ArrayLike, x: ArrayLike) -> tuple[Array, Array, Array]:
    """The pair of `forward`, `apart` from the forward pass, and the cotangent in the dtype of computation."""
    x, v = forward(x)
    (v,) = apart(v)
    return x, v, cotangent(dy, v, v.shape)


def cotangent(dy: ArrayLike, v: Array, shape: tuple[int, ...]) -> Array:
    """dy in the dtype of v; refused when it has not the shape of the output."""
    dy = _check.array("dy", dy)
    if dy.shape != shape:
        raise ValueError(f"dy must have the shape of the output, {shape}; got {dy.shape}.")
    return dy.astype(v.dtype)
