"""The quantile of Student's t distribution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def quantile(level: float, freedom: Any) -> Any:
    """t > 0 with P(abs(T) < t) = level; `freedom` is one number above 0, NaN gives NaN. A constant to autodiff.

    Bisection on log t for P = I_u(1/2, freedom/2) with u = t^2 / (freedom + t^2).

    >>> print(quantile(0.95, jnp.asarray(2.0)).round(4))
    4.3027

    Source: NIST Digital Library of Mathematical Functions, 8.17.
    """
    given = jnp.asarray(freedom)
    found = _quantile(level, jax.lax.stop_gradient(given))
    return np.asarray(found) if isinstance(freedom, (np.ndarray, np.generic)) else found


@jax.jit
def _quantile(level: Any, freedom: Any) -> Any:
    half = freedom / 2

    def step(_: Any, bounds: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = bounds
        middle = (low + high) / 2
        t = jnp.exp(middle)
        # 1 - P from the other side, which keeps the digits of a level near 1.
        outside = jax.scipy.special.betainc(half, jnp.full_like(half, 0.5), freedom / (freedom + t * t))
        inside = 1 - outside < level
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    limit = jnp.full_like(freedom, 30.0)
    low, high = jax.lax.fori_loop(0, 60, step, (-limit, limit))
    return jnp.where(freedom > 0, jnp.exp((low + high) / 2), jnp.nan)
