"""The losses and activations of fundl, each with what others offer for it.

`plain` is the formula as one would write it, for jax.grad; `jax` what jax.nn or optax has; `torch` gets
torch.nn.functional and tensors. Inputs are drawn in float64 from a seed; losses take the mean over examples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Inputs = tuple[np.ndarray, ...]


class Function(NamedTuple):
    """`kind` elementwise, axis or loss; `axis` and some losses need rows."""

    kind: str
    sample: Callable[[np.random.Generator, tuple[int, ...], float], Inputs]
    plain: Callable[..., Any]
    jax: Callable[..., Any] | None = None
    torch: Callable[..., Any] | None = None
    rows: bool = False


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Inputs:
    return (scale * rng.normal(size=shape),)


def _errors(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Inputs:
    return scale * rng.normal(size=shape), scale * rng.normal(size=shape)


def _binary(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Inputs:
    return scale * rng.normal(size=shape), (rng.random(shape) < 0.5).astype(float)


def _probabilities(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Inputs:
    z, y = _binary(rng, shape, min(scale, 4.0))
    return 1 / (1 + np.exp(-z)), y


def _classes(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Inputs:
    return scale * rng.normal(size=shape), rng.integers(0, shape[-1], shape[:-1]).astype(np.int32)


def _rows_of_probabilities(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Inputs:
    z, y = _classes(rng, shape, min(scale, 4.0))
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True), y


def _mean(L: Any) -> Any:
    """Over the examples of losses of single entries: the sum over what is not the first axis."""
    return jnp.sum(L) / L.shape[0]


def _picked(rows: Any, y: Any) -> Any:
    return jnp.take_along_axis(rows, y[:, None], axis=-1)[:, 0]


def _softmax(z: Any) -> Any:
    e = jnp.exp(z - jnp.max(z, axis=-1, keepdims=True))
    return e / jnp.sum(e, axis=-1, keepdims=True)


def _logsumexp(z: Any) -> Any:
    m = jax.lax.stop_gradient(jnp.max(z, axis=-1, keepdims=True))
    return m[..., 0] + jnp.log(jnp.sum(jnp.exp(z - m), axis=-1))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + jnp.exp(-x))


def _huber(r: Any) -> Any:
    a = jnp.abs(r)
    return jnp.where(a <= 1, r * r / 2, a - 0.5)


def _focal(z: Any, y: Any) -> Any:
    q = y * _sigmoid(-z) + (1 - y) * _sigmoid(z)
    return q**2 * (jnp.logaddexp(z, 0) - y * z)


def _torch_focal(F: Any, z: Any, y: Any) -> Any:
    """torchvision.ops.sigmoid_focal_loss without its alpha; torch itself has none."""
    p = z.sigmoid()
    p_t = p * y + (1 - p) * (1 - y)
    return F.binary_cross_entropy_with_logits(z, y, reduction="none") * (1 - p_t) ** 2


def _e(plain: Any, jax: Any, torch: Any) -> Function:
    return Function("elementwise", _numbers, plain, jax, torch)


FUNCTIONS = {
    "relu": _e(lambda x: jnp.maximum(x, 0), jax.nn.relu, lambda F, x: F.relu(x)),
    "leaky_relu": _e(lambda x: jnp.where(x > 0, x, 0.01 * x), jax.nn.leaky_relu, lambda F, x: F.leaky_relu(x)),
    "elu": _e(lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0))), jax.nn.elu, lambda F, x: F.elu(x)),
    "sigmoid": _e(_sigmoid, jax.nn.sigmoid, lambda F, x: x.sigmoid()),
    "log_sigmoid": _e(lambda x: -jnp.logaddexp(-x, 0), jax.nn.log_sigmoid, lambda F, x: F.logsigmoid(x)),
    "tanh": _e(jnp.tanh, None, lambda F, x: x.tanh()),
    "softplus": _e(lambda x: jnp.logaddexp(x, 0), jax.nn.softplus, lambda F, x: F.softplus(x)),
    "silu": _e(lambda x: x * _sigmoid(x), jax.nn.silu, lambda F, x: F.silu(x)),
    "gelu": _e(
        lambda x: 0.5 * x * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        jax.nn.gelu, lambda F, x: F.gelu(x, approximate="tanh"),
    ),
    "softmax": Function("axis", _numbers, _softmax, jax.nn.softmax, lambda F, z: F.softmax(z, -1), rows=True),
    "log_softmax": Function(
        "axis", _numbers, lambda z: z - _logsumexp(z)[..., None], jax.nn.log_softmax,
        lambda F, z: F.log_softmax(z, -1), rows=True,
    ),
    "logsumexp": Function(
        "axis", _numbers, _logsumexp, lambda z: jax.nn.logsumexp(z, axis=-1), lambda F, z: z.logsumexp(-1), rows=True
    ),
    "mse": Function(
        "loss", _errors, lambda a, y: _mean((a - y) ** 2), lambda a, y: _mean(optax.squared_error(a, y)),
        lambda F, a, y: F.mse_loss(a, y, reduction="sum") / len(a),
    ),
    "l1": Function(
        "loss", _errors, lambda a, y: _mean(jnp.abs(a - y)), None,
        lambda F, a, y: F.l1_loss(a, y, reduction="sum") / len(a),
    ),
    "huber": Function(
        "loss", _errors, lambda a, y: _mean(_huber(a - y)), lambda a, y: _mean(optax.huber_loss(a, y)),
        lambda F, a, y: F.huber_loss(a, y, reduction="sum") / len(a),
    ),
    "binary_cross_entropy": Function(
        "loss", _probabilities, lambda p, y: -_mean(y * jnp.log(p) + (1 - y) * jnp.log1p(-p)), None,
        lambda F, p, y: F.binary_cross_entropy(p, y, reduction="sum") / len(p),
    ),
    "binary_cross_entropy_with_logits": Function(
        "loss", _binary, lambda z, y: _mean(jnp.logaddexp(z, 0) - y * z),
        lambda z, y: _mean(optax.sigmoid_binary_cross_entropy(z, y)),
        lambda F, z, y: F.binary_cross_entropy_with_logits(z, y, reduction="sum") / len(z),
    ),
    "focal_with_logits": Function(
        "loss", _binary, lambda z, y: _mean(_focal(z, y)), lambda z, y: _mean(optax.sigmoid_focal_loss(z, y)),
        lambda F, z, y: _torch_focal(F, z, y).sum() / len(z),
    ),
    "cross_entropy": Function(
        "loss", _rows_of_probabilities, lambda p, y: -_mean(jnp.log(_picked(p, y))), None,
        lambda F, p, y: F.nll_loss(p.log(), y.long()), rows=True,
    ),
    "cross_entropy_with_logits": Function(
        "loss", _classes, lambda z, y: _mean(_logsumexp(z) - _picked(z, y)),
        lambda z, y: _mean(optax.softmax_cross_entropy_with_integer_labels(z, y)),
        lambda F, z, y: F.cross_entropy(z, y.long()), rows=True,
    ),
}  # fmt: skip
