"""The quantile of Student's t distribution."""

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def quantile(level: float, freedom: Any) -> Any:
    """t > 0 with P(abs(T) < t) = level; `freedom` is one number above 0, NaN gives NaN. A constant to autodiff.

    Bisection on log t for P = I_u(1/2, freedom/2) with u = t^2 / (freedom + t^2); for many degrees of freedom, where
    that loses its digits, the expansion about the normal quantile.

    >>> print(quantile(0.95, jnp.asarray(2.0)).round(4))
    4.3027

    Source: NIST Digital Library of Mathematical Functions, 8.17; Abramowitz and Stegun, 26.7.5.
    """
    given = jnp.asarray(freedom)
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    found = _quantile(1 - level, z, jax.lax.stop_gradient(given))
    return np.asarray(found) if isinstance(freedom, (np.ndarray, np.generic)) else found


@jax.jit
def _quantile(outside: Any, z: Any, freedom: Any) -> Any:
    half = freedom / 2

    def step(_: Any, bounds: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = bounds
        middle = (low + high) / 2
        t = jnp.exp(middle)
        beyond = jax.scipy.special.betainc(half, jnp.full_like(half, 0.5), freedom / (freedom + t * t)) > outside
        return jnp.where(beyond, middle, low), jnp.where(beyond, high, middle)

    limit = (jnp.log(jnp.finfo(freedom.dtype).max) + jnp.minimum(jnp.log(freedom), 0)) / 2 - 1  # beyond it u is 1
    low, high = jax.lax.fori_loop(0, 60, step, (-limit, limit))
    t = jnp.where(high == limit, jnp.inf, jnp.exp((low + high) / 2))
    # z + g_1 / freedom + ... + g_4 / freedom^4
    w = z * z
    g = (
        z * (w + 1) / 4,
        z * ((5 * w + 16) * w + 3) / 96,
        z * (((3 * w + 19) * w + 17) * w - 15) / 384,
        z * ((((79 * w + 776) * w + 1482) * w - 1920) * w - 945) / 92160,
    )
    near_normal = z + sum(c / freedom ** (i + 1) for i, c in enumerate(g))
    many = freedom >= (1000 if freedom.dtype.itemsize == 8 else 30)
    return jnp.where(freedom > 0, jnp.where(many, near_normal, t), jnp.nan)
