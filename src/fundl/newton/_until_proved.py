"""A solver stops by what a step promises; whether f is near its minimum only the proof tells."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fundl._types import Array
from fundl.newton._dense import Found


def until_proved(solve: Callable[[Array, Array, Array], Found], start: Array, tol: Array, max_steps: Array) -> Found:
    """solve(start, tol, max_steps), and from there to rounding, with tol 0, where its bound is more than tol f.

    A loop, so that the program of the solver is there once.
    """

    def again(state: tuple[Found, Array]) -> Array:
        found, tol = state
        enough = jnp.maximum(tol, jnp.sqrt(jnp.finfo(start.dtype).eps) / 100)
        open_ = found.finite & ~found.separates & (found.steps < max_steps)
        return (found.steps < 0) | ((tol > 0) & open_ & ~(found.bound <= enough * found.f))

    def body(state: tuple[Found, Array]) -> tuple[Found, Array]:
        before, _ = state
        first = before.steps < 0
        steps = jnp.maximum(before.steps, 0)
        found = solve(before.theta, jnp.where(first, tol, jnp.zeros_like(tol)), max_steps - steps)
        return found._replace(steps=found.steps + steps), jnp.where(first, tol, jnp.zeros_like(tol))

    nothing = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), jax.eval_shape(solve, start, tol, max_steps))
    first = nothing._replace(theta=start, steps=nothing.steps - 1)
    return jax.lax.while_loop(again, body, (first, tol))[0]
