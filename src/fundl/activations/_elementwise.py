"""Elementwise activations a = g(x)."""

import jax
import jax.numpy as jnp

from fundl import _check, _precise
from fundl._types import Array, ArrayLike
from fundl.activations._inputs import backward, forward
from fundl.activations._times_sigmoid import times_sigmoid, times_sigmoid_slope


def identity(x: ArrayLike) -> Array:
    """Identity: g(x) = x, the activation of a linear output.

    >>> print(identity([-1.0, 2.0]))
    [-1.  2.]
    """
    return forward(x)[0]


def identity_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `identity`: dx = dy.

    >>> print(identity_backward([3.0], [1.0]))
    [3.]
    """
    x, _, dy = backward(dy, x)
    return dy.astype(x.dtype)


def relu(x: ArrayLike) -> Array:
    """Rectified linear unit: g(x) = max(x, 0).

    Derivative: 1 for x > 0, 0 for x < 0, and 0 at x = 0, where every value in [0, 1] is a subgradient.

    >>> print(relu([-1.0, 2.0]))
    [0. 2.]

    Source: Goodfellow, Bengio and Courville, Deep Learning, 6.3.1.
    """
    x, v = forward(x)
    # Not jnp.maximum: jax differentiates it to 1/2 at 0. Not where(v > 0, v, 0): it would turn NaN into 0.
    return jnp.where(v <= 0, jnp.zeros_like(v), v).astype(x.dtype)


def relu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `relu`: dx = dy where x > 0, else 0.

    >>> print(relu_backward([3.0, 3.0, 3.0], [-1.0, 0.0, 2.0]))
    [0. 0. 3.]
    """
    x, v, dy = backward(dy, x)
    # y = x where x > 0, else 0
    return jnp.where(v <= 0, jnp.zeros_like(dy), dy).astype(x.dtype)


def leaky_relu(x: ArrayLike, *, negative_slope: ArrayLike = 0.01) -> Array:
    """Leaky rectified linear unit: g(x) = x for x > 0, negative_slope x for x <= 0.

    Derivative: 1 for x > 0, negative_slope for x < 0 and also at x = 0.

    >>> print(leaky_relu([-1.0, 2.0]))
    [-0.01 2. ]

    Source: Maas, Hannun and Ng, Rectifier nonlinearities improve neural network acoustic models, 2013.
    """
    x, v = forward(x)
    slope = _option("negative_slope", negative_slope, v)
    below = jnp.where(v <= 0, v, jnp.zeros_like(v))
    finite = jnp.maximum(below, jnp.finfo(v.dtype).min)  # 0 (-inf) = 0: that is relu
    return jnp.where(v <= 0, slope * jnp.where(slope == 0, finite, below), v).astype(x.dtype)


def leaky_relu_backward(dy: ArrayLike, x: ArrayLike, *, negative_slope: ArrayLike = 0.01) -> Array:
    """Gradient of `leaky_relu`: dx = dy where x > 0, else negative_slope dy.

    >>> print(leaky_relu_backward([1.0, 1.0], [-1.0, 2.0]))
    [0.01 1. ]
    """
    x, v, dy = backward(dy, x)
    # y = negative_slope x where x <= 0, else x
    return jnp.where(v <= 0, _option("negative_slope", negative_slope, v) * dy, dy).astype(x.dtype)


def elu(x: ArrayLike, *, alpha: ArrayLike = 1.0) -> Array:
    """Exponential linear unit: g(x) = x for x > 0, alpha (exp(x) - 1) for x <= 0.

    Derivative: 1 for x > 0, alpha exp(x) for x <= 0 (alpha at 0; with alpha = 1 there is no kink).

    >>> print(elu([-1.0, 2.0]))
    [-0.63212055  2.        ]

    Source: Clevert, Unterthiner and Hochreiter, arXiv 1511.07289, (15).
    """
    x, v = forward(x)
    # The branch not taken must not overflow, or its derivative is NaN.
    below = jnp.where(v <= 0, v, jnp.zeros_like(v))
    return jnp.where(v <= 0, _option("alpha", alpha, v) * jnp.expm1(below), v).astype(x.dtype)


def elu_backward(dy: ArrayLike, x: ArrayLike, *, alpha: ArrayLike = 1.0) -> Array:
    """Gradient of `elu`: dx = dy where x > 0, else dy alpha exp(x).

    >>> print(elu_backward([1.0, 1.0], [-1.0, 2.0]))
    [0.36787945 1.        ]
    """
    x, v, dy = backward(dy, x)
    # y = alpha (exp(x) - 1) where x <= 0, else x
    return jnp.where(v <= 0, dy * (_option("alpha", alpha, v) * jnp.exp(jnp.minimum(v, 0))), dy).astype(x.dtype)


def sigmoid(x: ArrayLike) -> Array:
    """Sigmoid: sigma(x) = 1 / (1 + exp(-x)).

    Derivative: sigma(x) (1 - sigma(x)) = e / (1 + e)^2 with e = exp(-abs(x)), which keeps its digits in both tails.

    >>> print(sigmoid([0.0, 2.0]))
    [0.5      0.880797]

    Source: Bishop, Pattern Recognition and Machine Learning, (4.59).
    """
    x, v = forward(x)
    e = _precise.exp_minus_abs(v)
    return (jnp.where(v > 0, jnp.ones_like(e), e) / (1 + e)).astype(x.dtype)


def sigmoid_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `sigmoid`: dx = dy e / (1 + e)^2 with e = exp(-abs(x)).

    >>> print(sigmoid_backward([1.0, 1.0], [0.0, -40.0]))
    [2.500000e-01 4.248354e-18]
    """
    x, v, dy = backward(dy, x)
    # y = sigma(x); dy/dx = sigma(x) sigma(-x)
    e = _precise.exp_minus_abs(v)
    r = 1 / (1 + e)
    return (dy * (e * r * r)).astype(x.dtype)


def log_sigmoid(x: ArrayLike) -> Array:
    """Logarithm of the sigmoid: log sigma(x) = -softplus(-x) = min(x, 0) - log(1 + exp(-abs(x))).

    Derivative: sigma(-x).

    >>> print(log_sigmoid([0.0, -1000.0]))
    [-6.931472e-01 -1.000000e+03]
    """
    x, v = forward(x)
    return (jnp.where(v > 0, jnp.zeros_like(v), v) - _precise.log1p(_precise.exp_minus_abs(v))).astype(x.dtype)


def log_sigmoid_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `log_sigmoid`: dx = dy sigma(-x).

    >>> print(log_sigmoid_backward([1.0, 1.0], [0.0, -1000.0]))
    [0.5 1. ]
    """
    x, v, dy = backward(dy, x)
    # y = -softplus(-x)
    e = _precise.exp_minus_abs(v)
    return (dy * (jnp.where(v > 0, e, jnp.ones_like(e)) / (1 + e))).astype(x.dtype)


def tanh(x: ArrayLike) -> Array:
    """Hyperbolic tangent: g(x) = (exp(x) - exp(-x)) / (exp(x) + exp(-x)) = 2 sigma(2x) - 1.

    Derivative: 1 - tanh(x)^2 = 1 / cosh(x)^2, from e = exp(-abs(x)), which keeps its digits in both tails.

    >>> print(tanh([0.0, 1.0]))
    [0.        0.7615942]

    Source: Goodfellow, Bengio and Courville, Deep Learning, 6.3.2.
    """
    x, v = forward(x)
    return jnp.tanh(v).astype(x.dtype)


def tanh_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `tanh`: dx = dy / cosh(x)^2 = dy (2 e / (1 + e^2))^2 with e = exp(-abs(x)).

    >>> print(tanh_backward([1.0, 1.0], [0.0, 20.0]))
    [1.000000e+00 1.699342e-17]
    """
    x, v, dy = backward(dy, x)
    # y = tanh(x); dy/dx = 1 - y^2, which is 0 / 0 digits where y rounds to 1
    e = _precise.exp_minus_abs(v)
    return (dy * (4 * e * e / jnp.square(1 + e * e))).astype(x.dtype)


def softplus(x: ArrayLike) -> Array:
    """Softplus: g(x) = log(1 + exp(x)).

    Derivative: sigma(x).

    >>> print(softplus([0.0, 1000.0]))
    [6.931472e-01 1.000000e+03]

    Source: Goodfellow, Bengio and Courville, Deep Learning, (3.31).
    """
    x, v = forward(x)
    return _precise.softplus(v).astype(x.dtype)


def softplus_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `softplus`: dx = dy sigma(x).

    >>> print(softplus_backward([1.0, 1.0], [0.0, 1000.0]))
    [0.5 1. ]
    """
    x, v, dy = backward(dy, x)
    # y = log(1 + exp(x))
    return (dy * _precise.sigmoid(v)).astype(x.dtype)


def silu(x: ArrayLike) -> Array:
    """Sigmoid linear unit (swish): g(x) = x sigma(x).

    Derivative: sigma(x) (1 + x sigma(-x)). The limit at -inf is 0.

    >>> print(silu([0.0, 1.0]))
    [0.        0.7310586]

    Source: Elfwing, Uchibe and Doya, arXiv 1702.03118, (5).
    """
    x, v = forward(x)
    return times_sigmoid(jnp.maximum(v, -_SIGMOID_SATURATED), v).astype(x.dtype)


def silu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `silu`: dx = dy sigma(x) (1 + x sigma(-x)).

    >>> print(silu_backward([1.0, 1.0], [0.0, 1.0]))
    [0.5        0.92767054]
    """
    x, v, dy = backward(dy, x)
    # y = x sigma(x)
    c = jnp.clip(v, -_SIGMOID_SATURATED, _SIGMOID_SATURATED)
    return (dy * times_sigmoid_slope(c, v)).astype(x.dtype)


def gelu(x: ArrayLike, approximate: bool = True) -> Array:
    """Gaussian error linear unit: g(x) = x Phi(x), Phi the standard normal distribution function.

    approximate=True (the default, as in jax.nn) takes x sigma(2u) with u = sqrt(2/pi) (x + 0.044715 x^3), which is
    the same as x (1 + tanh(u)) / 2; approximate=False the exact Phi(x) = erfc(-x / sqrt(2)) / 2.
    Derivative: Phi(x) + x phi(x), or that of the approximation. The limit at -inf is 0.

    >>> print(gelu([1.0]), gelu([1.0], approximate=False))
    [0.841192] [0.8413447]

    Source: Hendrycks and Gimpel, arXiv 1606.08415, section 2.
    """
    x, v = forward(x)
    c = jnp.maximum(v, -_GELU_SATURATED)
    if not _check.flag("approximate", approximate):
        return (c * _normal_cdf(c)).astype(x.dtype)
    u2, _ = _gelu_argument(jnp.clip(v, -_GELU_SATURATED, _GELU_SATURATED))
    return times_sigmoid(c, u2).astype(x.dtype)


def gelu_backward(dy: ArrayLike, x: ArrayLike, approximate: bool = True) -> Array:
    """Gradient of `gelu`: dx = dy (Phi(x) + x phi(x)), or for the approximation dy (s + 2 x u' s (1 - s)).

    >>> print(gelu_backward([1.0, 1.0], [0.0, 1.0]))
    [0.5       1.0829641]
    """
    x, v, dy = backward(dy, x)
    c = jnp.clip(v, -_GELU_SATURATED, _GELU_SATURATED)
    if _check.flag("approximate", approximate):
        # y = x s, s = sigma(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
        u2, du2 = _gelu_argument(c)
        slope = times_sigmoid_slope(c * du2, u2)
    else:
        # y = x Phi(x), and Phi' = phi
        slope = _normal_cdf(c) + c * (_INVERSE_SQRT_2_PI * jnp.exp(-0.5 * c * c))
    return (dy * slope).astype(x.dtype)


_SQRT_2_OVER_PI = 0.7978845608028654
_INVERSE_SQRT_2_PI = 0.3989422804014327
_SQRT_HALF = 0.7071067811865476
_GELU_CUBIC = 0.044715
_SIGMOID_SATURATED = 1e4  # beyond it sigma(x), and x times it, are exactly 0, or sigma(x) is 1
_GELU_SATURATED = 64.0  # beyond it Phi and sigma(2u) are exactly 0 or 1, and powers of x would only overflow


def _option(name: str, value: ArrayLike, v: Array) -> Array:
    return _check.scalar(name, value).astype(v.dtype)


def _normal_cdf(v: Array) -> Array:
    return 0.5 * jax.lax.erfc(-_SQRT_HALF * v)


def _gelu_argument(c: Array) -> tuple[Array, Array]:
    """2u and 2u' with u = sqrt(2/pi) (x + 0.044715 x^3)."""
    cubic = _GELU_CUBIC * (c * c)
    return (2 * _SQRT_2_OVER_PI) * c * (1 + cubic), (2 * _SQRT_2_OVER_PI) * (1 + 3 * cubic)
