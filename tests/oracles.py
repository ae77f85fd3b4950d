"""Textbook definitions and their derivatives at many digits, slow and obvious: what fundl is held against.

Nothing of fundl, and nothing of jax, is imported. Arrays are NumPy arrays of mpmath numbers, so each definition is
written as the book writes it; cancellation is paid for with digits, not with rearranged formulas. Every derivative is
a second definition, which `numeric_gradient` (central differences at hundreds of digits) confirms in test_oracles.py.

Signatures follow fundl's: f(*inputs, **options) and f_gradient(dy, *inputs, **options) -> tuple of gradients.
"""

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

mp = mpmath.mp.clone()
mp.dps = 400  # 1 + exp(-700) keeps its last term and 100 digits of it; tests lower it where fewer do

Exact = np.ndarray  # of dtype object, holding mpmath numbers


def exact(x: Any) -> Exact:
    """The same numbers, exactly, as an array of mpmath numbers (of every float format; integers become floats)."""
    return np.vectorize(lambda v: mp.mpf(float(v)), otypes=[object])(np.asarray(x))


def rounded(x: Exact, dtype: Any = np.float64) -> np.ndarray:
    """The nearest float64 (and then `dtype`) of each entry."""
    return np.vectorize(float, otypes=[np.float64])(x).astype(dtype)


def _elementwise(f: Callable[..., Any]) -> Callable[..., Exact]:
    return np.frompyfunc(f, 1, 1)


exp, log, sqrt, sign = (_elementwise(f) for f in (mp.exp, mp.log, mp.sqrt, mp.sign))
# Beyond 10^6 mpmath's series would need 10^12 digits; there erfc is 0 or 2 to any number that a float can hold.
erfc = _elementwise(lambda x: mp.erfc(x) if abs(x) < 10**6 else mp.mpf(1 - mp.sign(x)))
expm1, log1p = _elementwise(mp.expm1), _elementwise(mp.log1p)


def where(condition: np.ndarray, x: Any, y: Any) -> Exact:
    return np.where(np.asarray(condition, bool), x, y)


def numeric_gradient(
    f: Callable[..., Exact], dy: Any, *inputs: Exact, wrt: tuple[int, ...] = (0,), **options: Any
) -> tuple[Exact, ...]:
    """The derivative by its definition: d(sum dy f)/dx_i from central differences of step 1e-60, away from kinks."""
    h = mp.mpf(10) ** -60
    found = []
    for i in wrt:
        gradient = np.empty(inputs[i].shape, object)
        for index in np.ndindex(*inputs[i].shape):
            above, below = inputs[i].copy(), inputs[i].copy()
            above[index] += h
            below[index] -= h
            difference = f(*inputs[:i], above, *inputs[i + 1 :], **options) - f(
                *inputs[:i], below, *inputs[i + 1 :], **options
            )
            gradient[index] = np.sum(dy * difference) / (2 * h)
        found.append(gradient)
    return tuple(found)


# ---- norms -----------------------------------------------------------------------------------------------------------


def norm_l1(x: Exact, axis: Any = None) -> Exact:
    return np.sum(abs(x), axis=axis)


def norm_l1_gradient(dy: Exact, x: Exact, axis: Any = None) -> tuple[Exact]:
    return (_put_back(dy, x, axis) * sign(x),)


def norm_l2(x: Exact, axis: Any = None) -> Exact:
    return sqrt(np.sum(x * x, axis=axis))


def norm_l2_gradient(dy: Exact, x: Exact, axis: Any = None) -> tuple[Exact]:
    norm = _put_back(norm_l2(x, axis), x, axis) + np.zeros_like(x)
    return (_put_back(dy, x, axis) * where(norm == 0, mp.mpf(0), x / where(norm == 0, mp.mpf(1), norm)),)


def norm_squared_l2(x: Exact, axis: Any = None) -> Exact:
    return np.sum(x * x, axis=axis)


def norm_squared_l2_gradient(dy: Exact, x: Exact, axis: Any = None) -> tuple[Exact]:
    return (_put_back(dy, x, axis) * 2 * x,)


def _put_back(v: Any, x: Exact, axis: Any) -> Exact:
    """The summed axes again, of length 1."""
    axes = tuple(range(x.ndim)) if axis is None else axis
    return np.expand_dims(np.asarray(v, object), axes)


# ---- activations: elementwise ----------------------------------------------------------------------------------------


def identity(x: Exact) -> Exact:
    return x


def identity_slope(x: Exact) -> Exact:
    return x * 0 + 1


def relu(x: Exact) -> Exact:
    return where(x > 0, x, mp.mpf(0))


def relu_slope(x: Exact) -> Exact:
    return where(x > 0, mp.mpf(1), mp.mpf(0))


def leaky_relu(x: Exact, negative_slope: Any = 0.01) -> Exact:
    return where(x > 0, x, negative_slope * x)


def leaky_relu_slope(x: Exact, negative_slope: Any = 0.01) -> Exact:
    return where(x > 0, mp.mpf(1), mp.mpf(negative_slope))


def elu(x: Exact, alpha: Any = 1.0) -> Exact:
    return where(x > 0, x, alpha * expm1(where(x > 0, mp.mpf(0), x)))


def elu_slope(x: Exact, alpha: Any = 1.0) -> Exact:
    return where(x > 0, mp.mpf(1), alpha * exp(where(x > 0, mp.mpf(0), x)))


def sigmoid(x: Exact) -> Exact:
    return 1 / (1 + exp(-x))


def sigmoid_slope(x: Exact) -> Exact:
    return sigmoid(x) * sigmoid(-x)


def log_sigmoid(x: Exact) -> Exact:
    return -log1p(exp(-x))


def log_sigmoid_slope(x: Exact) -> Exact:
    return sigmoid(-x)


def tanh(x: Exact) -> Exact:
    return expm1(2 * x) / (exp(2 * x) + 1)


def tanh_slope(x: Exact) -> Exact:
    return 4 * sigmoid_slope(2 * x)


def softplus(x: Exact) -> Exact:
    return log1p(exp(x))


def softplus_slope(x: Exact) -> Exact:
    return sigmoid(x)


def silu(x: Exact) -> Exact:
    return x * sigmoid(x)


def silu_slope(x: Exact) -> Exact:
    return sigmoid(x) + x * sigmoid_slope(x)


def gelu(x: Exact, approximate: bool = True) -> Exact:
    if approximate:
        return x * sigmoid(2 * _gelu_u(x))  # (1 + tanh u) / 2 = sigma(2 u)
    return x * _normal_cdf(x)


def gelu_slope(x: Exact, approximate: bool = True) -> Exact:
    if approximate:
        du = mp.sqrt(2 / mp.pi) * (1 + 3 * mp.mpf("0.044715") * x * x)
        return sigmoid(2 * _gelu_u(x)) + 2 * x * du * sigmoid_slope(2 * _gelu_u(x))
    return _normal_cdf(x) + x * exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def _gelu_u(x: Exact) -> Exact:
    return mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)


def _normal_cdf(x: Exact) -> Exact:
    return erfc(-x / mp.sqrt(2)) / 2


def gradient_of(slope: Callable[..., Exact]) -> Callable[..., tuple[Exact]]:
    """The gradient of an elementwise function from its slope: dx = dy g'(x)."""
    return lambda dy, x, **options: (dy * slope(x, **options),)


# ---- activations: over an axis ---------------------------------------------------------------------------------------


def softmax(z: Exact, axis: int = -1) -> Exact:
    e = exp(z - np.max(z, axis=axis, keepdims=True))  # without the shift exp(1e300) has too many digits
    return e / np.sum(e, axis=axis, keepdims=True)


def softmax_gradient(dy: Exact, z: Exact, axis: int = -1) -> tuple[Exact]:
    p = softmax(z, axis)
    return (p * (dy - np.sum(p * dy, axis=axis, keepdims=True)),)


def log_softmax(z: Exact, axis: int = -1) -> Exact:
    return z - np.expand_dims(logsumexp(z, axis), axis)


def log_softmax_gradient(dy: Exact, z: Exact, axis: int = -1) -> tuple[Exact]:
    return (dy - softmax(z, axis) * np.sum(dy, axis=axis, keepdims=True),)


def logsumexp(z: Exact, axis: int = -1) -> Exact:
    m = np.max(z, axis=axis, keepdims=True)
    return np.squeeze(m, axis) + log(np.sum(exp(z - m), axis=axis))


def logsumexp_gradient(dy: Exact, z: Exact, axis: int = -1) -> tuple[Exact]:
    return (np.expand_dims(np.asarray(dy, object), axis) * softmax(z, axis),)


# ---- losses per example ----------------------------------------------------------------------------------------------


def l1(y_hat: Exact, y: Exact) -> Exact:
    return _per_example(abs(y_hat - y))


def l1_gradient(y_hat: Exact, y: Exact) -> tuple[Exact, Exact]:
    return sign(y_hat - y), -sign(y_hat - y)


def mse(y_hat: Exact, y: Exact) -> Exact:
    return _per_example((y_hat - y) ** 2)


def mse_gradient(y_hat: Exact, y: Exact) -> tuple[Exact, Exact]:
    return 2 * (y_hat - y), -2 * (y_hat - y)


def huber(y_hat: Exact, y: Exact, delta: Any = 1.0) -> Exact:
    r = abs(y_hat - y)
    delta = mp.mpf(delta)
    return _per_example(where(r <= delta, r * r / 2, delta * (r - delta / 2)))


def huber_gradient(y_hat: Exact, y: Exact, delta: Any = 1.0) -> tuple[Exact, Exact]:
    r = y_hat - y
    slope = where(abs(r) <= delta, r, mp.mpf(delta) * sign(r))
    return slope, -slope


def binary_cross_entropy(p: Exact, y: Exact) -> Exact:
    return _per_example(-(_times_log(y, p) + _times_log(1 - y, 1 - p)))


def binary_cross_entropy_gradient(p: Exact, y: Exact) -> tuple[Exact, Exact]:
    return _divided(1 - y, 1 - p) - _divided(y, p), log(1 - p) - log(p)


def binary_cross_entropy_with_logits(z: Exact, y: Exact) -> Exact:
    return _per_example(_entropy(z, y))


def binary_cross_entropy_with_logits_gradient(z: Exact, y: Exact) -> tuple[Exact, Exact]:
    return sigmoid(z) - y, -z


def focal_with_logits(z: Exact, y: Exact, gamma: Any = 2.0) -> Exact:
    return _per_example(_wrong(z, y) ** mp.mpf(gamma) * _entropy(z, y))


def focal_with_logits_gradient(z: Exact, y: Exact, gamma: Any = 2.0) -> tuple[Exact, Exact]:
    q, L, gamma = _wrong(z, y), _entropy(z, y), mp.mpf(gamma)
    through_q = gamma * q ** (gamma - 1) * L
    dq_dz, dq_dy = (1 - 2 * y) * sigmoid_slope(z), sigmoid(-z) - sigmoid(z)
    return q**gamma * (sigmoid(z) - y) + through_q * dq_dz, -(q**gamma) * z + through_q * dq_dy


def _wrong(z: Exact, y: Exact) -> Exact:
    """1 - p_t, the probability of the wrong label."""
    return sigmoid(z) * (1 - y) + sigmoid(-z) * y


def _entropy(z: Exact, y: Exact) -> Exact:
    return -(y * log_sigmoid(z) + (1 - y) * log_sigmoid(-z))


def cross_entropy(p: Exact, y: Exact) -> Exact:
    return -np.sum(_times_log(onehot(y, p), p), axis=-1)


def cross_entropy_gradient(p: Exact, y: Exact) -> tuple[Exact, Exact]:
    return -onehot(y, p) / p, -log(p)


def cross_entropy_with_logits(z: Exact, y: Exact, label_smoothing: Any = 0.0) -> Exact:
    return -np.sum(_smooth(onehot(y, z), label_smoothing) * log_softmax(z), axis=-1)


def cross_entropy_with_logits_gradient(z: Exact, y: Exact, label_smoothing: Any = 0.0) -> tuple[Exact, Exact]:
    t = _smooth(onehot(y, z), label_smoothing)
    log_p = log_softmax(z)
    a, k = mp.mpf(label_smoothing), z.shape[-1]
    return softmax(z) * np.sum(t, axis=-1, keepdims=True) - t, -(1 - a) * log_p - a / k * np.zeros_like(log_p)


def onehot(y: np.ndarray, like: Exact) -> Exact:
    """Integer classes as rows of 0 and 1; labels that are rows already, as they are."""
    if y.shape == like.shape:
        return y
    rows = exact(np.zeros(like.shape))
    for index in np.ndindex(*y.shape):
        rows[(*index, int(y[index]))] = mp.mpf(1)
    return rows


def _smooth(t: Exact, label_smoothing: Any) -> Exact:
    a = mp.mpf(label_smoothing)
    return (1 - a) * t + a / t.shape[-1]


def _times_log(a: Exact, b: Exact) -> Exact:
    """a log b, with 0 log b = 0."""
    return where(a == 0, mp.mpf(0), a * log(where(a == 0, mp.mpf(1), b)))


def _divided(a: Exact, b: Exact) -> Exact:
    """a / b, with 0 / 0 = 0."""
    return where(a == 0, mp.mpf(0), a / where(a == 0, mp.mpf(1), b))


def _per_example(L: Exact) -> Exact:
    return np.sum(L, axis=tuple(range(1, L.ndim)))


# ---- from losses per example to J ------------------------------------------------------------------------------------


def reduced(
    loss: Callable[..., Exact], *inputs: Exact, weights: Exact | None = None, reduction: str = "mean", **options: Any
) -> Exact:
    L = loss(*inputs, **options)
    w = np.full(L.shape, mp.mpf(1)) if weights is None else weights
    if reduction == "none":
        return w * L
    return np.sum(w * L) / (np.sum(w) if reduction == "mean" else 1)


def reduced_gradient(
    loss_gradient: Callable[..., tuple[Exact, ...]],
    dJ: Exact,
    *inputs: Exact,
    weights: Exact | None = None,
    reduction: str = "mean",
    **options: Any,
) -> tuple[Exact, ...]:
    slopes = loss_gradient(*inputs, **options)
    w = np.full(inputs[-1].shape[:1], mp.mpf(1)) if weights is None else weights
    dL = dJ * w / (np.sum(w) if reduction == "mean" else 1)
    return tuple(np.reshape(dL, dL.shape + (1,) * (s.ndim - dL.ndim)) * s for s in slopes)


# ---- layers ----------------------------------------------------------------------------------------------------------


def linear(X: Exact, W: Exact, b: Exact) -> Exact:
    return X @ W + b


def linear_gradient(dz: Exact, X: Exact, W: Exact, b: Exact) -> tuple[Exact, Exact, Exact]:
    return dz @ W.T, X.T @ dz, np.sum(dz, axis=0)


def linear_vector_gradient(dz: Exact, X: Exact, w: Exact, b: Exact) -> tuple[Exact, Exact, Exact]:
    """One output: w (d,), b ()."""
    return np.outer(dz, w), X.T @ dz, np.asarray(np.sum(dz), object)
