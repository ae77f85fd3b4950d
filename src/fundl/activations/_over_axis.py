"""Activations over an axis: softmax, its logarithm, and the logarithm of its denominator."""

import jax.numpy as jnp

from fundl import _check, _precise
from fundl._types import Array, ArrayLike
from fundl.activations._inputs import cotangent, forward


def softmax(z: ArrayLike, axis: int = -1) -> Array:
    """Softmax: p_j = exp(z_j) / sum_l exp(z_l) along `axis`.

    Shapes: z any, p the same. Invariant to a shift of z, so the largest logit is subtracted first.
    Edges: a logit of -inf has probability 0; logits of +inf share all of it; only -inf logits give NaN.
    Derivative: dz_j = p_j (dp_j - sum_l p_l dp_l).

    >>> print(softmax([0.0, 0.0, 1000.0, -jnp.inf]))
    [0. 0. 1. 0.]

    Source: Goodfellow, Bengio and Courville, Deep Learning, (6.29).
    """
    z, v = _logits(z, axis)
    e = jnp.exp(_precise.shifted(v, axis)[0])
    return (e / jnp.sum(e, axis, keepdims=True)).astype(z.dtype)


def softmax_backward(dy: ArrayLike, z: ArrayLike, axis: int = -1) -> Array:
    """Gradient of `softmax`: dz_j = p_j (dy_j - sum_l p_l dy_l).

    >>> print(softmax_backward([1.0, 0.0], [0.0, 0.0]))
    [ 0.25 -0.25]
    """
    z, v = _logits(z, axis)
    dy = cotangent(dy, v, v.shape)
    e = jnp.exp(_precise.shifted(v, axis)[0])
    r = 1 / jnp.sum(e, axis, keepdims=True)
    # A constant added to dy changes nothing; measured from its entry at the largest p, no digit of 1 - p is lost.
    top = jnp.floor(*_precise.apart(e))  # 1 at the largest p, else 0
    dy = dy - jnp.sum(top * dy, axis, keepdims=True) / jnp.sum(top, axis, keepdims=True)
    # p_j = exp(z_j) / sum_l exp(z_l)
    return (e * r * (dy - r * _precise.inner(e, dy, axis))).astype(z.dtype)


def log_softmax(z: ArrayLike, axis: int = -1) -> Array:
    """Logarithm of the softmax: log p_j = z_j - logsumexp(z) along `axis`.

    Shapes: z any, the result the same. The largest logit's own entry is -log1p(sum of the others), which keeps
    its digits when that class is nearly certain.
    Derivative: dz_j = dy_j - p_j sum_l dy_l.

    >>> print(log_softmax([0.0, 40.0]))
    [-4.000000e+01 -4.248354e-18]
    """
    z, v = _logits(z, axis)
    _, s, d, _ = _precise.exp_shifted(v, axis)
    return (d - jnp.log1p(s)).astype(z.dtype)


def log_softmax_backward(dy: ArrayLike, z: ArrayLike, axis: int = -1) -> Array:
    """Gradient of `log_softmax`: dz_j = dy_j - p_j sum_l dy_l.

    >>> print(log_softmax_backward([1.0, 0.0], [0.0, 0.0]))
    [ 0.5 -0.5]
    """
    z, v = _logits(z, axis)
    dy = cotangent(dy, v, v.shape)
    e, s, _, _ = _precise.exp_shifted(v, axis)
    # log p_j = z_j - log(sum_l exp(z_l)): dz_j = dy_j (1 - p_j) - p_j (the other dy), where 1 - p does not cancel
    dz = (dy * (s + (1 - e)) - e * _precise.sum_of_others(dy, e, axis)) / (1 + s)
    return dz.astype(z.dtype)


def logsumexp(z: ArrayLike, axis: int = -1) -> Array:
    """Logarithm of a sum of exponentials: y = log sum_l exp(z_l) along `axis`, which is summed away.

    With m the largest logit it is m + log1p(sum over the others of exp(z_l - m)).
    Edges: -inf logits add nothing; only -inf logits give -inf; a +inf logit gives +inf.
    Derivative: dz_j = dy p_j, p = softmax(z).

    >>> print(logsumexp([1000.0, 1000.0]))
    1000.6932

    Source: Blanchard, Higham and Higham, IMA J. Numer. Anal. 41 (2021), algorithm 3.1 with log1p.
    """
    z, v = _logits(z, axis)
    _, s, _, m = _precise.exp_shifted(v, axis)
    y = jnp.where(jnp.isneginf(m), m, m + jnp.log1p(s))
    return jnp.squeeze(y, axis).astype(z.dtype)


def logsumexp_backward(dy: ArrayLike, z: ArrayLike, axis: int = -1) -> Array:
    """Gradient of `logsumexp`: dz_j = dy p_j with p = softmax(z).

    >>> print(logsumexp_backward(2.0, [0.0, 0.0]))
    [1. 1.]
    """
    z, v = _logits(z, axis)
    dy = cotangent(dy, v, v.shape[: axis % v.ndim] + v.shape[axis % v.ndim + 1 :])
    e, s, _, _ = _precise.exp_shifted(v, axis)
    # y = log sum_l exp(z_l)
    return (e * (jnp.expand_dims(dy, axis) / (1 + s))).astype(z.dtype)


def _logits(z: ArrayLike, axis: int) -> tuple[Array, Array]:
    z = _check.array("z", z)
    if z.ndim == 0:
        raise ValueError("z must have at least one axis, that of the classes; got a scalar.")
    if _check.index(axis) is None:
        raise TypeError(f"axis must be one whole number; got {axis!r}.")
    if not -z.ndim <= axis < z.ndim:
        raise ValueError(f"axis={axis} does not exist: z has shape {z.shape}.")
    _check.nonempty("z", z)
    return forward(z)
