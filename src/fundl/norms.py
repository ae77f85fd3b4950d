"""Norms of vectors, each with its hand-written derivative: L1, L2 and the squared L2 norm.

Half-precision inputs are summed, and the norm returned, in float32.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fundl import _check
from fundl._types import Array, ArrayLike

__all__ = ["l1", "l1_backward", "l2", "l2_backward", "squared_l2", "squared_l2_backward"]

Axis = int | tuple[int, ...] | None


def l1(x: ArrayLike, axis: Axis = None) -> Array:
    """L1 norm: norm1(x) = sum_i abs(x_i).

    Shapes: x any; the axes in `axis` (all by default) are summed away.
    Derivative: sign(x), which is 0 at x_i = 0, the middle of the subdifferential [-1, 1].
    Errors: TypeError for text, objects or complex numbers; ValueError for an axis that x does not have.

    >>> print(l1([3.0, -4.0]))
    7.0

    Source: Boyd and Vandenberghe, Convex Optimization, A.1.2.
    """
    (x,) = _check.floats(x=x)
    # sign(x) x is abs(x) to the last bit; jax differentiates abs to 1 at 0, and sign(x) x to 0.
    return jnp.sum(jnp.sign(x) * x, axis=_axes(x, axis))


def l1_backward(dy: ArrayLike, x: ArrayLike, axis: Axis = None) -> Array:
    """Gradient of `l1`: dx_i = dy sign(x_i).

    >>> print(l1_backward(1.0, [3.0, -4.0, 0.0]))
    [ 1. -1.  0.]
    """
    x, v, dy = _inputs(dy, x, axis)
    # y = sum_i abs(x_i)
    return (dy * jnp.sign(v)).astype(x.dtype)


def squared_l2(x: ArrayLike, axis: Axis = None) -> Array:
    """Squared L2 norm: sum_i x_i^2; differentiable everywhere, and cheap.

    Shapes: x any; the axes in `axis` (all by default) are summed away.
    Derivative: 2 x.
    Errors: TypeError for text, objects or complex numbers; ValueError for an axis that x does not have.

    >>> print(squared_l2([3.0, -4.0]))
    25.0

    Source: Goodfellow, Bengio and Courville, Deep Learning, 2.5.
    """
    (x,) = _check.floats(x=x)
    return jnp.sum(x * x, axis=_axes(x, axis))


def squared_l2_backward(dy: ArrayLike, x: ArrayLike, axis: Axis = None) -> Array:
    """Gradient of `squared_l2`: dx_i = 2 x_i dy.

    >>> print(squared_l2_backward(1.0, [3.0, -4.0]))
    [ 6. -8.]
    """
    x, v, dy = _inputs(dy, x, axis)
    # y = sum_i x_i^2
    return (dy * 2 * v).astype(x.dtype)


def l2(x: ArrayLike, axis: Axis = None) -> Array:
    """L2 (Euclidean) norm: norm2(x) = sqrt(sum_i x_i^2), without overflow or underflow inside.

    Shapes: x any; the axes in `axis` (all by default) are summed away.
    Derivative: x / norm2(x); at x = 0 it is taken as 0, the middle of the subdifferential (the unit ball);
    where entries are infinite, the direction shared by the infinite entries.
    Errors: TypeError for text, objects or complex numbers; ValueError for an axis that x does not have.

    >>> print(l2([3.0, -4.0]))
    5.0
    >>> print(l2([3e30, 4e30]) / 1e30)
    5.0

    Source: Goodfellow, Bengio and Courville, Deep Learning, 2.5; the scaling is that of BLAS nrm2.
    """
    (x,) = _check.floats(x=x)
    axes = _axes(x, axis)
    return jnp.squeeze(_l2(x, axes), axis=axes)


def l2_backward(dy: ArrayLike, x: ArrayLike, axis: Axis = None) -> Array:
    """Gradient of `l2`: dx = dy x / norm2(x), and 0 at x = 0.

    >>> print(l2_backward(1.0, [3.0, -4.0]), l2_backward(1.0, [0.0, 0.0]))
    [ 0.6 -0.8] [0. 0.]
    """
    x, v, dy = _inputs(dy, x, axis)
    # y = norm2(x)
    return (dy * _direction(v, _axes(v, axis))).astype(x.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _l2(x: Array, axes: tuple[int, ...]) -> Array:
    """The norm, its axes kept with length 1. With its own rule: autodiff's products of scales would leave the range."""
    u, scale = _scaled(x, axes)
    return scale * jnp.sqrt(jnp.sum(u * u, axis=axes, keepdims=True))


@_l2.defjvp
def _(axes: tuple[int, ...], primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return _l2(x, axes), jnp.sum(_direction(x, axes) * dx, axis=axes, keepdims=True)


def _direction(x: Array, axis: tuple[int, ...]) -> Array:
    """x / norm2(x), and 0 at x = 0."""
    u, _ = _scaled(x, axis)
    s = jnp.sum(u * u, axis=axis, keepdims=True)
    zero = s == 0
    # The scale of u cancels; sqrt has an infinite derivative at 0, so 0 never reaches it.
    return jnp.where(zero, jnp.zeros_like(u), u / jnp.sqrt(jnp.where(zero, jnp.ones_like(s), s)))


def l2_of_leaves(tree: Any) -> Array:
    """L2 norm of all entries of a pytree; one pass over them where the sum of their squares tells it.

    Else one more, of entries scaled by one power of two for all small sums and one for all large: less to compile than
    `l2` of each leaf, and the squares that underflow do not count.
    """
    leaves = _check.floats(**{f"leaf {i}": v for i, v in enumerate(jax.tree.leaves(tree))})

    def scaled() -> Array:
        scale = jnp.where(s < 1, one * 2.0**k, one * 2.0**-k)
        # The maximum changes nothing, but without it XLA squares scale and v each alone where both are constants.
        S = sum((jnp.sum(jnp.maximum(scale * v, info.min) ** 2) for v in leaves), jnp.zeros_like(scale))
        zero = S == 0  # sqrt has an infinite derivative at 0, so 0 never reaches it
        return jnp.where(zero, jnp.zeros_like(S), jnp.sqrt(jnp.where(zero, one, S)) / scale)

    one = jnp.ones((), _check.compute_dtype(*leaves))
    info = jnp.finfo(one.dtype)
    k, s = 9 * info.maxexp // 16, sum((jnp.sum(v**2) for v in leaves), jnp.zeros_like(one))
    told = (s > info.tiny / info.eps**2) & (s <= info.max)  # in a smaller sum, squares that underflow might count
    # Under vmap both are computed, and differentiated.
    return jax.lax.cond(told, lambda: jnp.sqrt(jnp.where(told, s, one)), scaled)


def _scaled(x: Array, axis: tuple[int, ...]) -> tuple[Array, Array]:
    """x = u scale with the largest abs(u_i) in [1, 2); scale is a power of two, so nothing is rounded."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0))
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, jnp.ones_like(largest)))
    k, one = exponent - 1, jnp.ones_like(largest)
    scale = jnp.ldexp(one, k)
    # Two factors: 2^-k itself may be subnormal, which XLA flushes to 0 (it divides by such a scale in this way too).
    scaled = x * jnp.ldexp(one, -(k // 2)) * jnp.ldexp(one, -(k - k // 2))
    # Infinite entries outweigh all finite ones: the direction is theirs alone, and the norm is infinite.
    infinite = jnp.isposinf(largest)
    u = jnp.where(infinite, jnp.where(jnp.isinf(x), jnp.sign(x), jnp.zeros_like(x)), scaled)
    return u, jnp.where(infinite, largest, scale)


def _inputs(dy: ArrayLike, x: ArrayLike, axis: Axis) -> tuple[Array, Array, Array]:
    """x as given, x in the dtype of computation, and dy with the summed axes put back as axes of length 1."""
    x = _check.array("x", x)
    (v,) = _check.floats(x=x)
    dy = _check.array("dy", dy).astype(v.dtype)
    axes = _axes(x, axis)
    expected = tuple(m for i, m in enumerate(x.shape) if i not in axes)
    if dy.shape != expected:
        raise ValueError(f"dy must have the shape of the norm, {expected}; got {dy.shape}.")
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else v
    return x, v, jnp.expand_dims(dy, axes)


def _axes(x: Array, axis: Axis) -> tuple[int, ...]:
    """The axes that are summed away, counted from 0; refuses those that x does not have, or that are given twice."""
    given = range(x.ndim) if axis is None else axis if isinstance(axis, tuple | list) else (axis,)
    axes = [i for i in map(_check.index, given) if i is not None]
    if len(axes) < len(given):
        raise TypeError(f"axis must be a whole number, a tuple of them, or None for all; got {axis!r}.")
    if not all(-x.ndim <= i < x.ndim for i in axes):
        raise ValueError(f"axis={axis} does not exist: x has shape {x.shape}.")
    found = tuple(i % x.ndim for i in axes)
    if len(set(found)) < len(found):
        raise ValueError(f"axis={axis} names one axis twice: x has shape {x.shape}.")
    return found
