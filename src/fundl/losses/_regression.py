"""Losses of predictions y_hat against real targets y: L1, mean squared error, Huber."""

import math
from typing import Any

import jax.numpy as jnp

from fundl import _check
from fundl._precise import apart
from fundl._types import Array, ArrayLike
from fundl.losses._reduction import gradients, leave_out, reduce, reduce_backward, rows, within


def l1(y_hat: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean") -> Array:
    """L1 loss: J = (1/n) sum_i norm1(y_i - y_hat_i); robust to outliers.

    Shapes: y_hat and y (n,) or (n, k), alike; weights (n,). Per example a sum over outputs.
    Derivative: sign(y_hat - y), 0 where they are equal (the subdifferential there is [-1, 1]).
    Errors: ValueError for shapes that differ, (n,) against (n, 1) among them, for empty arrays and bad weights.

    >>> print(l1([1.0, 2.0], [0.0, 4.0]))
    1.5

    Source: Bishop, Pattern Recognition and Machine Learning, (1.91) with q = 1.
    """
    _, (r, w) = _inputs(y_hat, y, weights)
    r = leave_out(w, within, r)
    return reduce(_per_example(jnp.sign(r) * r), w, reduction)  # sign(r) r: see norms.l1


def l1_backward(
    dJ: ArrayLike, y_hat: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Any:
    """Gradients of `l1`: dy_hat = dL sign(y_hat - y), dy = -dy_hat; dL = dJ w / sum(w) for the mean.

    >>> print(*l1_backward(1.0, [1.0, 2.0], [0.0, 4.0]))
    [ 0.5 -0.5] [-0.5 0.5]
    """
    given, (r, w) = _inputs(y_hat, y, weights, backward=True)
    dL = reduce_backward(dJ, w, reduction, r.shape[:1], r.dtype)
    dr = rows(dL, r) * jnp.sign(leave_out(w, 0, r))  # L = sum abs(r)
    return gradients((given[0], lambda: dr), (given[1], lambda: -dr))  # r = y_hat - y


def mse(y_hat: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean") -> Array:
    """Mean squared error: J = (1/n) sum_i norm2(y_i - y_hat_i)^2, without a factor one half.

    Shapes: y_hat and y (n,) or (n, k), alike; weights (n,). Per example a sum over outputs, then the mean over
    examples (numpy's mean over all n k entries is smaller by the factor k). `reduction="sum"` is the lecture's
    matrix form (X theta - y)^T (X theta - y).
    Derivative: 2 (y_hat - y).
    Errors: ValueError for shapes that differ, (n,) against (n, 1) among them, for empty arrays and bad weights.

    >>> print(mse([1.0, 2.0], [0.0, 4.0]), mse([1.0, 2.0], [0.0, 4.0], reduction="sum"))
    2.5 5.0

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, (3.2); Bishop's (3.12) has the half.
    """
    _, (r, w) = _inputs(y_hat, y, weights)
    r = leave_out(w, lambda r, most: within(r, math.sqrt(most)), r)
    return reduce(_per_example(r * r), w, reduction)


def mse_backward(
    dJ: ArrayLike, y_hat: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Any:
    """Gradients of `mse`: dy_hat = 2 dL (y_hat - y), dy = -dy_hat; dL = dJ w / sum(w) for the mean.

    >>> print(*mse_backward(1.0, [1.0, 2.0], [0.0, 4.0]))
    [ 1. -2.] [-1. 2.]
    """
    given, (r, w) = _inputs(y_hat, y, weights)  # not `apart`: r, made once, is written where dy_hat will be
    dL = reduce_backward(dJ, w, reduction, r.shape[:1], r.dtype)
    dr = rows(dL, r) * (2 * leave_out(w, 0, r))  # L = sum r^2
    return gradients((given[0], lambda: dr), (given[1], lambda: -dr))  # r = y_hat - y


def huber(
    y_hat: ArrayLike,
    y: ArrayLike,
    delta: ArrayLike = 1.0,
    *,
    weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> Array:
    """Huber loss: with r = y_hat - y, r^2 / 2 where abs(r) <= delta, delta (abs(r) - delta / 2) beyond.

    Shapes: y_hat and y (n,) or (n, k), alike; weights (n,). Per example a sum over outputs.
    Derivative: r clipped to [-delta, delta]; there is no kink.
    Errors: ValueError for shapes that differ, for empty arrays, bad weights, and delta <= 0.

    >>> print(huber([0.5, 3.0], [0.0, 0.0], reduction="none"))
    [0.125 2.5 ]

    Source: Huber, Robust estimation of a location parameter, Ann. Math. Statist. 35 (1964), section 1.
    """
    _, (r, w) = _inputs(y_hat, y, weights)
    delta = _delta(delta, r)
    a = jnp.abs(leave_out(w, lambda r, most: within(r, _with_finite_loss(delta, most)), r))
    c = jnp.minimum(a, delta)
    return reduce(_per_example(c * (a - c / 2)), w, reduction)  # both branches at once, and r^2 cannot overflow


def huber_backward(
    dJ: ArrayLike,
    y_hat: ArrayLike,
    y: ArrayLike,
    delta: ArrayLike = 1.0,
    *,
    weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> Any:
    """Gradients of `huber`: dy_hat = dL clip(y_hat - y, -delta, delta), dy = -dy_hat.

    >>> print(*huber_backward(1.0, [0.5, 3.0], [0.0, 0.0], reduction="sum"))
    [0.5 1. ] [-0.5 -1. ]
    """
    given, (r, w) = _inputs(y_hat, y, weights, backward=True)
    dL = reduce_backward(dJ, w, reduction, r.shape[:1], r.dtype)
    (delta,) = apart(_delta(delta, r), like=r)
    dr = rows(dL, r) * jnp.clip(leave_out(w, 0, r), -delta, delta)  # L = r^2 / 2, or delta (abs(r) - delta / 2)
    return gradients((given[0], lambda: dr), (given[1], lambda: -dr))  # r = y_hat - y


def _inputs(
    y_hat: ArrayLike, y: ArrayLike, weights: ArrayLike | None, *, backward: bool = False
) -> tuple[tuple[Array, Array], tuple[Array, Array | None]]:
    """The two arrays as given; and in the dtype of computation their difference, and the weights."""
    given = _check.array("y_hat", y_hat), _check.array("y", y)
    v, t = _check.floats(y_hat=given[0], y=given[1])
    _check.same_shape(y_hat=v, y=t)
    _check.nonempty("y_hat", v)
    w = _check.per_example_weights(weights, v.shape[:1], v.dtype)
    if backward:
        v, t = apart(v, t)
    return given, (v - t, w)


def _per_example(x: Array) -> Array:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def _with_finite_loss(delta: Array, most: float) -> Array:
    """The largest r of which delta r, or r^2 where that is less, is at most `most`."""
    return jnp.clip(most / delta, math.sqrt(most), most)


def _delta(delta: ArrayLike, v: Array) -> Array:
    return _check.number("delta", delta, lambda d: ~(d > 0), "must be positive", v.dtype)
