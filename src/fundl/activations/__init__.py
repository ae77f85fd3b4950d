"""Activations a = g(z), elementwise and over an axis, each with its hand-written backward.

A backward takes the derivative from the input, never from the output: 1 - a loses every digit of a derivative
where a is close to 1. `jax.grad` of g is autodiff of its formula, without those digits.
Half-precision inputs are computed in float32; the result has the dtype of the input.
"""

from fundl.activations._elementwise import (
    elu,
    elu_backward,
    gelu,
    gelu_backward,
    identity,
    identity_backward,
    leaky_relu,
    leaky_relu_backward,
    log_sigmoid,
    log_sigmoid_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    softplus,
    softplus_backward,
    tanh,
    tanh_backward,
)
from fundl.activations._over_axis import (
    log_softmax,
    log_softmax_backward,
    logsumexp,
    logsumexp_backward,
    softmax,
    softmax_backward,
)

__all__ = [
    "elu", "elu_backward", "gelu", "gelu_backward", "identity", "identity_backward", "leaky_relu",
    "leaky_relu_backward", "log_sigmoid", "log_sigmoid_backward", "log_softmax", "log_softmax_backward",
    "logsumexp", "logsumexp_backward", "relu", "relu_backward", "sigmoid", "sigmoid_backward", "silu",
    "silu_backward", "softmax", "softmax_backward", "softplus", "softplus_backward", "tanh", "tanh_backward",
]  # fmt: skip
