"""Products with a sigmoid that is itself too small to be held, for x sigma(x) and its kin."""

import math

import jax
import jax.numpy as jnp

from fundl._precise import exp_minus_abs, sigmoid
from fundl._types import Array


@jax.custom_jvp
def times_sigmoid(a: Array, v: Array) -> Array:
    """a sigma(v) = a / (1 + exp(-v)), also where sigma(v) is too small to be held but the product is not.

    0 where v is below -log(largest number) - 32, as long as a is above -1e10.
    """
    k, e = _denominator(v)
    return a / (k + e) * k


@times_sigmoid.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, v), (da, dv) = primals, tangents
    largest = jnp.finfo(v.dtype).max  # inf sigma(-inf) is 0
    root = _root_of_sigmoid(v)
    return times_sigmoid(a, v), da * root * root + jnp.minimum(a, largest) * root * sigmoid(-v) * dv * root


@jax.custom_jvp
def times_sigmoid_slope(a: Array, v: Array) -> Array:
    """sigma(v) (1 + a sigma(-v)) with a of at most 1e10: the derivative of x sigma(v) in x where a = x dv/dx."""
    k, e = _denominator(v)
    r = 1 / (k + e)
    return (r * (1 + a * (e * r))) * k


@times_sigmoid_slope.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, v), (da, dv) = primals, tangents
    root, s = _root_of_sigmoid(v), sigmoid(-v)
    dv = (1 + a * (s - sigmoid(v))) * root * s * dv
    return times_sigmoid_slope(a, v), da * s * root * root + dv * root


@jax.custom_jvp
def _root_of_sigmoid(v: Array) -> Array:
    """The root of sigma(v), with derivatives of every order: powers of 1 + exp(-v) would leave the range."""
    e = exp_minus_abs(v)
    return jnp.where(v > 0, jnp.ones_like(v), jnp.exp(v / 2)) / jnp.sqrt(1 + e)


@_root_of_sigmoid.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    root = _root_of_sigmoid(*primals)
    return root, root * sigmoid(-primals[0]) * (tangents[0] / 2)


def _denominator(v: Array) -> tuple[Array, Array]:
    """k and k exp(-v), finite: k is 1, or exp(-64) where exp(-v) might overflow."""
    v = jnp.maximum(v, -math.log(jnp.finfo(v.dtype).max) - 32)
    far = v < -32
    k = jnp.where(far, jnp.full_like(v, math.exp(-64)), jnp.ones_like(v))
    return k, jnp.exp(-jnp.where(far, v + 64, v))  # v + 64 is exact there
