"""Products with a sigmoid that is itself too small to be held, for x sigma(x) and its kin."""

import math

import jax
import jax.numpy as jnp

from fundl._types import Array

_Parts = tuple[Array, Array, Array]


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
    k, r, s = _parts(v)
    largest = jnp.finfo(v.dtype).max  # inf sigma(-inf) is 0
    return times_sigmoid(a, v), (da + jnp.minimum(a, largest) * s * dv) * r * k


def times_sigmoid_slope(a: Array, v: Array) -> Array:
    """sigma(v) (1 + a sigma(-v)) with a of at most 1e10: the derivative of x sigma(v) in x where a = x dv/dx."""
    k, r, s = _parts(v)
    return (r * (1 + a * s)) * k


def _denominator(v: Array) -> tuple[Array, Array]:
    """k and k exp(-v), finite: k is 1, or exp(-64) where exp(-v) might overflow."""
    v = jnp.maximum(v, -math.log(jnp.finfo(v.dtype).max) - 32)
    far = v < -32
    k = jnp.where(far, jnp.full_like(v, math.exp(-64)), jnp.ones_like(v))
    return k, jnp.exp(-jnp.where(far, v + 64, v))  # v + 64 is exact there


@jax.custom_jvp
def _parts(v: Array) -> _Parts:
    """k, sigma(v) / k and sigma(-v), with derivatives of every order: autodiff's leave the range, by powers of 1/k."""
    k, e = _denominator(v)
    r = 1 / (k + e)
    return k, r, e * r


@_parts.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[_Parts, _Parts]:
    k, r, s = _parts(*primals)
    return (k, r, s), (jnp.zeros_like(k), r * s * tangents[0], -(s * (r * k)) * tangents[0])
