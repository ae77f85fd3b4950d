"""Containers of parameters: named tuples of arrays, so that any pytree tool works on them.

Axis letters, here and in every docstring: n examples, d inputs, k outputs or classes.
"""

from typing import NamedTuple

import jax
from jax.typing import ArrayLike

__all__ = ["Array", "ArrayLike", "Layer", "Linear"]

Array = jax.Array


class Linear(NamedTuple):
    """Parameters of a regression: z = X w + b, with w (d,) and b (), or w (d, k) and b (k,)."""

    w: Array
    b: Array


class Layer(NamedTuple):
    """Parameters of one layer of a network: z = X W + b, with W (d, k) and b (k,)."""

    W: Array
    b: Array
