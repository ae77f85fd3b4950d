"""The step of the proximal Newton method: the minimum of the quadratic model plus the l1 penalty."""

import jax
import jax.numpy as jnp

from fundl._precise import HIGHEST, matmul, rows_dot, safe_divide
from fundl._types import Array
from fundl.newton import _links


def step(H: Array, g: Array, theta: Array, l1: Array) -> tuple[Array, Array, Array, Array]:
    """The v that minimises g^T v + v^T H v / 2 + sum_j l1_j abs(theta_j + v_j), by coordinates and then exactly.

    Coordinate descent finds which coefficients are not 0; with those and their signs the minimum is a linear system,
    taken where it keeps the signs. Returns v; the smallest subgradient at theta; the decrease that the linear part
    promises; v^T H v.
    """
    shape = theta.shape
    p = theta.size
    a, t, c = theta.reshape(p), g.reshape(p), jnp.broadcast_to(l1[:, None], shape).reshape(p)
    diagonal = jnp.diagonal(H)
    tiny = jnp.sqrt(jnp.finfo(H.dtype).eps) * 1e-3

    def sweep(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        def coordinate(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            u, slope = state  # u = theta + v, slope = g + H v
            target = u[j] - slope[j] / diagonal[j]
            new = jnp.sign(target) * jnp.maximum(jnp.abs(target) - c[j] / diagonal[j], 0)
            return u.at[j].set(new), slope + (new - u[j]) * H[j]

        u, slope, _, count = state
        new, slope = jax.lax.fori_loop(0, p, coordinate, (u, slope))
        change = jnp.max(jnp.abs(new - u) * jnp.sqrt(diagonal))
        return new, slope, change, count + 1

    zero = jnp.zeros_like(a[0])
    u, _, _, _ = jax.lax.while_loop(
        lambda state: (state[3] < 60) & ~(state[2] <= tiny),
        sweep,
        (a, t, zero + jnp.inf, jnp.zeros((), jnp.int32)),
    )
    active = (u != 0) | (c == 0)
    both = active[:, None] & active[None, :]
    eye = jnp.eye(p, dtype=H.dtype)
    factor = jnp.linalg.cholesky(jnp.where(both, H, eye))
    rhs = jnp.where(active, matmul(H, a) - t - c * jnp.sign(u), jnp.zeros_like(a))
    exact = jax.scipy.linalg.cho_solve((factor, True), rhs)
    same = jnp.all(jnp.where(active & (c > 0), exact * u > 0, jnp.isfinite(exact)))
    v = jnp.where(same, exact, u) - a
    subgradient = jnp.where(a != 0, t + c * jnp.sign(a), jnp.sign(t) * jnp.maximum(jnp.abs(t) - c, 0))
    delta = -(jnp.vdot(t, v, precision=HIGHEST) + jnp.sum(c * (jnp.abs(a + v) - jnp.abs(a))))
    return v.reshape(shape), subgradient.reshape(shape), delta, jnp.vdot(v, matmul(H, v), precision=HIGHEST)


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
    bounded = ((l2 == 0) & (l1 > 0))[:, None]
    tau = jnp.min(jnp.where(bounded, jnp.minimum(safe_divide(l1[:, None] + 0 * v, v), 1), jnp.ones_like(v)))
    tau = jnp.where(jnp.any(v[:-1] > 0), tau, jnp.ones_like(tau))
    row = safe_divide(alpha, s[:, None] + 0 * alpha)
    dual = jnp.sum(s * _links.conjugate(tau * row, Y))
    excess = jnp.maximum(tau * v - l1[:, None], 0)
    quadratic = jnp.sum(
        jnp.where((l2 > 0)[:, None], safe_divide(excess**2, 2 * l2[:, None] + 0 * v), jnp.zeros_like(v))
    )
    moved = left * (jnp.max(_links.spread(z)) + 1)
    rounding = 16 * eps * (primal + penalty + jnp.abs(dual))
    return jnp.maximum(primal + penalty + dual + quadratic, 0) + moved + rounding
