"""The step of the proximal Newton method: the minimum of the quadratic model plus the l1 penalty."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundl._precise import HIGHEST, matmul, rows_dot, safe_divide
from fundl._types import Array
from fundl.newton import _links


class Turn(NamedTuple):
    """Where the minimum of the model is looked for."""

    u: Array  # theta + v
    sign: Array  # of u before its Newton step; 0 without l1
    whole: Array  # the step was not cut short
    settled: Array
    count: Array


SWEEPS = 3  # over the coordinates before each Newton step: they find the support and cost less
TURNS = 60  # of sweeps and Newton steps, at most


def step(H: Array, g: Array, theta: Array, l1: Array) -> tuple[Array, Array, Array, Array, Array]:
    """The v that minimises g^T v + v^T H v / 2 + sum_j l1_j abs(theta_j + v_j): sweeps and Newton steps in turn.

    Coordinate descent finds which coefficients are not 0 and their signs; with these the minimum is a linear system.
    The step towards it ends where the model is least: its slope jumps where a coefficient comes to 0, and one that
    ends there stays 0. Sweeps go on once a step is whole. Each turn lowers the model, so that no support comes twice,
    however nearly dependent the columns are; where a sweep leaves the signs as they were, u is the minimum.
    Returns v; the smallest subgradient at theta; the decrease that the linear part promises; v^T H v; whether v is it.
    Source: Lee, Battle, Raina and Ng, Efficient sparse coding algorithms, NIPS 2006 (feature-sign search).
    """
    shape = theta.shape
    p = theta.size
    a, t, c = theta.reshape(p), g.reshape(p), jnp.broadcast_to(l1[:, None], shape).reshape(p)
    diagonal = jnp.diagonal(H)
    eye = jnp.eye(p, dtype=H.dtype)

    def coordinate(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        u, slope = state  # u = theta + v, slope = g + H v
        j = i % p
        target = u[j] - slope[j] / diagonal[j]
        new = jnp.sign(target) * jnp.maximum(jnp.abs(target) - c[j] / diagonal[j], 0)
        return u.at[j].set(new), slope + (new - u[j]) * H[j]

    def signs(u: Array) -> Array:
        return jnp.where(c > 0, jnp.sign(u), zeros)

    def turn(state: Turn) -> Turn:
        sweeps = jnp.where(state.whole, SWEEPS * p, 0)
        u, _ = jax.lax.fori_loop(0, sweeps, coordinate, (state.u, t + matmul(H, state.u - a)))
        sign = signs(u)
        slope = t + matmul(H, u - a) + c * sign
        active = (u != 0) | (c == 0)
        factor = jnp.linalg.cholesky(jnp.where(active[:, None] & active[None, :], H, eye))
        v = -jax.scipy.linalg.cho_solve((factor, True), jnp.where(active, slope, zeros))
        v = jnp.where(jnp.all(jnp.isfinite(v)), v, zeros)
        until = jnp.where(v * sign < 0, safe_divide(-u, v), zeros + jnp.inf)
        jump = jnp.where(v * sign < 0, 2 * c * jnp.abs(v), zeros)
        jumps = jnp.sum(jnp.where(until[None, :] <= until[:, None], jump[None, :], zeros[None, :]), axis=1)
        turned = -safe_divide(jnp.vdot(slope, v) + jumps, jnp.vdot(v, matmul(H, v)) + zeros)
        length = jnp.minimum(jnp.min(jnp.maximum(until, turned)), 1)
        return Turn(
            u=jnp.where(until == length, zeros, u + length * v),
            sign=sign,
            whole=length == 1,
            settled=state.whole & jnp.all(sign == state.sign),
            count=state.count + 1,
        )

    zeros, false = jnp.zeros_like(a), jnp.zeros((), bool)
    first = Turn(a, sign=zeros + 2, whole=~false, settled=false, count=jnp.zeros((), jnp.int32))
    end = jax.lax.while_loop(lambda state: ~state.settled & (state.count < TURNS), turn, first)
    v = end.u - a
    subgradient = jnp.where(a != 0, t + c * jnp.sign(a), jnp.sign(t) * jnp.maximum(jnp.abs(t) - c, 0))
    delta = -(jnp.vdot(t, v, precision=HIGHEST) + jnp.sum(c * (jnp.abs(end.u) - jnp.abs(a))))
    curve = jnp.vdot(v, matmul(H, v), precision=HIGHEST)
    return v.reshape(shape), subgradient.reshape(shape), delta, curve, end.settled


def duality_gap(link: str, Z: Array, Y: Array, s: Array, l2: Array, l1: Array, theta: Array) -> Array:
    """f - D >= f - f* for the dual value D = -sum_i s_i L_i*(a_i) - sum_j max(abs(v_j) - l1_j, 0)^2 / (2 l2_j).

    a_i = tau (p_i - y_i) and v = X^T S a, with tau <= 1 so small that abs(v_j) <= l1_j where there is no l2. The dual
    asks that sum_i s_i a_i = 0; the rest that rounding leaves is counted by what moving it between the rows can change.
    l2 and l1 are (D,), in the coordinates of Z. Source: Boyd and Vandenberghe, Convex Optimization, 5.1 and 5.5.
    """
    eps = jnp.finfo(Z.dtype).eps
    z = matmul(Z, theta)
    primal = _links.value(link, z, Y, s)
    penalty = jnp.sum(l2[:, None] * theta * theta) / 2 + jnp.sum(l1[:, None] * jnp.abs(theta))
    alpha = _links.residual(link, z, Y, s)
    v = rows_dot(Z, alpha)
    left = jnp.sum(jnp.abs(v[-1]))
    v = jnp.abs(v) + (left + eps * jnp.sum(jnp.abs(alpha))) * jnp.max(jnp.abs(Z), axis=0)[:, None]
    bounded = ((l2 == 0) & (l1 > 0))[:, None] & (v > 0)
    tau = jnp.min(jnp.where(bounded, jnp.minimum(safe_divide(l1[:, None] + 0 * v, v), 1), jnp.ones_like(v)))
    row = safe_divide(alpha, s[:, None] + 0 * alpha)
    dual = jnp.sum(s * _links.conjugate(tau * row, Y))
    excess = jnp.maximum(tau * v - l1[:, None], 0)
    quadratic = jnp.sum(
        jnp.where((l2 > 0)[:, None], safe_divide(excess**2, 2 * l2[:, None] + 0 * v), jnp.zeros_like(v))
    )
    moved = left * (jnp.max(_links.spread(z)) + 1)
    rounding = 16 * eps * (primal + penalty + jnp.abs(dual))
    return jnp.maximum(primal + penalty + dual + quadratic, 0) + moved + rounding
