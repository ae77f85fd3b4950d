"""Backwards of activations from the output a = g(z) in place of the input z: what a network records anyway.

A chain that keeps a for the next layer need not keep z as well, which is most of what training stores. Where the
derivative is a function of a, it is written here. relu, leaky_relu, softplus and log_sigmoid lose nothing. sigmoid,
tanh and elu lose relative digits of a derivative that is nearly 0 because a has rounded to 1 or -1 (an absolute error
of one unit of rounding, the same as autodiff makes of them). `activations` has the accurate ones, from the input.
"""

from collections.abc import Callable

import jax.numpy as jnp

from fundl._types import Array

__all__ = ["BACKWARD"]


def _relu(da: Array, a: Array) -> Array:
    return jnp.where(a <= 0, jnp.zeros_like(da), da)  # a > 0 exactly where z > 0


def _leaky_relu(da: Array, a: Array) -> Array:
    return jnp.where(a <= 0, 0.01 * da, da)


def _elu(da: Array, a: Array) -> Array:
    return jnp.where(a <= 0, da * (a + 1), da)  # a = exp(z) - 1 where z <= 0


def _sigmoid(da: Array, a: Array) -> Array:
    return da * (a * (1 - a))


def _tanh(da: Array, a: Array) -> Array:
    return da * ((1 - a) * (1 + a))


def _softplus(da: Array, a: Array) -> Array:
    return da * -jnp.expm1(-a)  # a = log(1 + exp(z)), so sigma(z) = 1 - exp(-a)


def _log_sigmoid(da: Array, a: Array) -> Array:
    return da * -jnp.expm1(a)  # a = log sigma(z), so sigma(-z) = 1 - exp(a)


BACKWARD: dict[str, Callable[[Array, Array], Array]] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "softplus": _softplus,
    "log_sigmoid": _log_sigmoid,
}
