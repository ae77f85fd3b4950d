"""From losses per example to J and back: weights, reductions, and which gradients a backward returns."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fundl import _check
from fundl._precise import safe_divide
from fundl._types import Array, ArrayLike


def reduce(L: Array, w: Array | None, reduction: str) -> Array:
    """J from the losses per example."""
    _check.choice("reduction", reduction, _check.REDUCTIONS)
    wL = L if w is None else w * L
    if reduction == "none":
        return wL
    if reduction == "sum":
        return jnp.sum(wL)
    return jnp.mean(L) if w is None else safe_divide(jnp.sum(wL), jnp.sum(w))


def reduce_backward(dJ: ArrayLike, w: Array | None, reduction: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """dL_i = dJ w_i / sum_i w_i for the mean, dJ w_i for the sum, dJ_i w_i for none."""
    _check.choice("reduction", reduction, _check.REDUCTIONS)
    dJ = _check.array("dJ", dJ).astype(dtype)
    expected = shape if reduction == "none" else ()
    if dJ.shape != expected:
        raise ValueError(f'dJ must have the shape of J, {expected} with reduction="{reduction}"; got {dJ.shape}.')
    if w is None:
        dL = dJ / math.prod(shape) if reduction == "mean" else dJ
        return jnp.broadcast_to(dL, shape)
    return safe_divide(dJ, jnp.sum(w)) * w if reduction == "mean" else dJ * w


def leave_out(
    w: Array | None,
    put: float | Callable[[Array, float], Array],
    x: Array,
    usable: Callable[[Array], Array] = _check.ordinary,
) -> Array:
    """x with `put` for what is not usable in the rows of weight 0, so that NaN there reaches neither J nor a gradient.

    dJ/dw_i is the loss of example i, also where w_i is 0: what is usable stays, and a function `put` gives of the rest
    constants with that loss, where it is finite. Its second argument is a number that as many sums and differences as
    an example has entries leave finite.
    """
    if w is None:
        return x
    if callable(put):
        most = float(jnp.finfo(x.dtype).max) / (4 * math.prod(x.shape[w.ndim :]))
        constant = jax.lax.stop_gradient(put(x, most))
    else:
        constant = jnp.full_like(x, put)
    return jnp.where((rows(w, x) == 0) & ~usable(x), constant, x)


def within(x: Array, most: Array | float) -> Array:
    """The number nearest to x in [-most, most], and 0 for NaN."""
    return jnp.clip(jnp.where(jnp.isnan(x), jnp.zeros_like(x), x), -most, most)


def possible(p: Array, fill: Array) -> Array:
    """p, and `fill` where it is not between 0 and 1."""
    return jnp.where((p >= float(jnp.finfo(p.dtype).tiny)) & (p < 1), p, fill)


def inside(p: Array) -> Array:
    """True for probabilities that are neither 0 nor 1, where losses may be infinite."""
    eps = float(jnp.finfo(p.dtype).eps)
    return (p > eps) & (p < 1 - eps)


def label(y: Array) -> Array:
    """True for labels 0, 1 or between."""
    return (y >= 0) & (y <= 1)


def rows(v: Array, like: Array) -> Array:
    """One value per example, with the trailing axes that `like` has."""
    return jnp.expand_dims(v, tuple(range(v.ndim, like.ndim)))


def gradients(*pairs: tuple[Array, Callable[[], Array]]) -> Any:
    """One gradient for each differentiable input, in its dtype; alone when there is only one.

    Each pair is an input as it was given and a function of its gradient. The first input is always
    differentiable; the others are when they are floating (integer labels are not).
    """
    first, *others = pairs
    kept = [first, *(pair for pair in others if jnp.issubdtype(pair[0].dtype, jnp.floating))]
    found = tuple(g().astype(given.dtype) if jnp.issubdtype(given.dtype, jnp.floating) else g() for given, g in kept)
    return found if len(found) > 1 else found[0]


def sum_and_weight(loss: Callable[..., Array], *args: ArrayLike, **options: Any) -> tuple[Array, Array]:
    """The weighted sum of a loss and the total weight: two numbers that add over micro-batches and shards.

    (sum of sums) / (sum of weights) over any split of the examples is the mean over all of them.

    Shapes: both scalars. Options are those of the loss, without `reduction`.

    >>> from fundl import losses
    >>> a = losses.sum_and_weight(losses.mse, [1.0, 2.0], [0.0, 0.0])
    >>> b = losses.sum_and_weight(losses.mse, [3.0], [0.0])
    >>> print((a[0] + b[0]) / (a[1] + b[1]), losses.mse([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]))
    4.6666665 4.666667
    """
    if "reduction" in options:
        raise TypeError("sum_and_weight chooses the reduction itself; leave out reduction=.")
    wL = loss(*args, reduction="none", **options)
    weights = options.get("weights")
    weight = (
        jnp.full((), wL.size, wL.dtype)
        if weights is None
        else jnp.sum(_check.array("weights", weights).astype(wL.dtype))
    )
    return jnp.sum(wL), weight
