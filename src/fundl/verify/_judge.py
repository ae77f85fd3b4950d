"""Whether two values of one quantity agree to rounding: the judgement of whole arrays, under jit too."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["AGREEMENT", "agreement", "judge"]

AGREEMENT = ("exact", "within rounding", "wrong")
_UNITS = 64


def judge(given: Any, reference: Any, terms: int = 1) -> str:
    """How two values of one quantity agree: "exact", "within rounding" or "wrong".

    Rounding allows 64 units of rounding of the coarser dtype per entry, 16 of the largest entry for cancellation, and
    no more than 32 of that; `terms`, the number of terms summed into an entry, widens it by its square root and never
    by the array's size.
    Values that are not finite agree with themselves only.

    >>> judge([1.0, 2.0], [1.0, 2.0]), judge([1.0, 2.1], [1.0, 2.0])
    ('exact', 'wrong')
    """
    a, b = jnp.asarray(given), jnp.asarray(reference)
    return "wrong" if a.shape != b.shape else AGREEMENT[int(agreement(a, b, terms)[0])]


def agreement(given: jax.Array, reference: jax.Array, terms: Any = 1, floor: Any = 0) -> tuple[jax.Array, jax.Array]:
    """The place in AGREEMENT, and the largest error in the units of rounding of which 64 are allowed.

    A unit is eps sqrt(terms) min(abs(reference) + top / 4, top / 2) of each entry, where top is its array's largest
    entry, or `floor` where what cancels in it was larger.
    """
    eps = max((float(jnp.finfo(x.dtype).eps) for x in (given, reference) if jnp.issubdtype(x.dtype, jnp.floating)),
              default=0.0)  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):
        x, y = (a.astype(jnp.result_type(given, reference, jnp.float32)) for a in (given, reference))
    same = (x == y) | (jnp.isnan(x) & jnp.isnan(y))
    size = jnp.where(jnp.isfinite(y), jnp.abs(y), 0)
    top = jnp.maximum(jnp.max(size, initial=0), jnp.asarray(floor, y.dtype))
    unit = eps * jnp.sqrt(jnp.asarray(terms, y.dtype)) * jnp.minimum(size + top / 4, top / 2)
    # Integers have no rounding, and zeros among zeros none: any difference is infinitely many units.
    error = jnp.max(jnp.where(same, 0, jnp.abs(x - y) / unit), initial=0)
    wrong = ~(error <= _UNITS)  # NaN on one side alone is wrong
    return jnp.where(jnp.all(same), 0, jnp.where(wrong, 2, 1)), error
