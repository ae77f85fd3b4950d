"""The two links, sigmoid for logits (n, 1) and softmax for logits (n, k): loss, residual, curvature, recession.

Both losses are convex in z with abs(L''') <= range(dz) L'' along every direction dz (Bach 2010, section 3), where the
range is abs(dz) for the sigmoid and the largest entry less the smallest for softmax. Step lengths, the bound of
f - f* and the test of separability rest on that.
"""

import jax
import jax.numpy as jnp

from fundl import losses
from fundl._precise import exp_minus_abs, exp_shifted, inner, rows_dot, safe_divide
from fundl._types import Array

SIGMOID, SOFTMAX = "sigmoid", "softmax"


def value(link: str, z: Array, Y: Array, s: Array) -> Array:
    """sum_i s_i L_i."""
    if link == SIGMOID:
        return losses.binary_cross_entropy_with_logits(z, Y, weights=s, reduction="sum")
    return losses.cross_entropy_with_logits(z, Y, weights=s, reduction="sum")


def residual(link: str, z: Array, Y: Array, s: Array) -> Array:
    """alpha_i = s_i dL_i/dz_i = s_i (p_i - y_i), without cancellation; (n, k)."""
    backward = (
        losses.binary_cross_entropy_with_logits_backward
        if link == SIGMOID
        else losses.cross_entropy_with_logits_backward
    )
    return backward(jnp.ones((), z.dtype), z, Y, weights=s, reduction="sum")[0]


def curvature(link: str, z: Array, Y: Array, s: Array) -> tuple[Array, Array]:
    """The Hessian of s_i L_i in z_i as diag(h_i) - q_i q_i^T: h and q, both (n, k); q = 0 for the sigmoid."""
    if link == SIGMOID:
        e = exp_minus_abs(z)
        return s[:, None] * e / ((1 + e) * (1 + e)), jnp.zeros_like(z)
    e, t, _, _ = exp_shifted(z)
    factor = s[:, None] * jnp.sum(Y, axis=-1, keepdims=True)  # soft labels need not sum to one
    p = e / (1 + t)
    return factor * p, jnp.sqrt(factor) * p


def curvature_times(h: Array, q: Array, v: Array) -> Array:
    """(diag(h_i) - q_i q_i^T) v_i for every row."""
    if v.shape[1] == 1:
        return (h - q * q) * v
    return h * v - q * inner(q, v)


def about_mean(h: Array, v: Array) -> Array:
    """u with v_i^T (diag(h_i) - q_i q_i^T) v_i = sum_k h_ik u_ik^2: v_i less its mean in p_i, or v for one logit."""
    if v.shape[1] == 1:
        return v
    return v - safe_divide(inner(h, v), jnp.sum(h, axis=1, keepdims=True))


def hessian(Z: Array, h: Array, q: Array) -> Array:
    """sum_i x_i x_i^T (diag(h_i) - q_i q_i^T) as (d, k, d, k)."""
    d, k = Z.shape[1], h.shape[1]
    if k == 1:
        return rows_dot(Z, h * Z)[:, None, :, None]

    def row_of_blocks(a: Array) -> Array:
        here = (jnp.arange(k) == a).astype(Z.dtype)
        qa = jnp.sum(q * here[None, :], axis=1, keepdims=True)
        A = h * here[None, :] - qa * q
        return rows_dot(Z, (Z[:, :, None] * A[:, None, :]).reshape(Z.shape[0], d * k))

    return jnp.moveaxis(jax.lax.map(row_of_blocks, jnp.arange(k)), 0, 1).reshape(d, k, d, k)


def spread(z: Array) -> Array:
    """range(z_i): abs(z_i) for one logit, max - min for k; (n,)."""
    return jnp.abs(z[:, 0]) if z.shape[1] == 1 else jnp.max(z, axis=1) - jnp.min(z, axis=1)


def recession(dz: Array, Y: Array) -> Array:
    """How far a label, however small its share, falls behind along dz: max over k with y_ik > 0 of max_l dz_il - dz_ik.

    Shape (n,). It is 0 for all rows exactly when no loss ever grows along dz: when dz separates the classes.
    """
    if dz.shape[1] == 1:
        v, y = dz[:, 0], Y[:, 0]
        return jnp.where(jnp.where(v > 0, y < 1, y > 0), jnp.abs(v), jnp.zeros_like(v))
    gap = jnp.max(dz, axis=1, keepdims=True) - dz
    return jnp.max(jnp.where(Y > 0, gap, jnp.zeros_like(gap)), axis=1)


def conjugate(a: Array, Y: Array) -> Array:
    """L*(a_i) = max over z of a_i z - L_i(z): minus the entropy of the probabilities y_i + a_i; (n,)."""
    u = jnp.maximum(Y + a, 0)
    if u.shape[1] == 1:
        rest = jnp.maximum((1 - Y) - a, 0)
        return (_xlogx(u) + _xlogx(rest))[:, 0]
    total = jnp.sum(Y, axis=1, keepdims=True)
    return jnp.sum(_xlogx(safe_divide(u, jnp.broadcast_to(total, u.shape))) * total, axis=1)


def _xlogx(u: Array) -> Array:
    return u * jnp.log(jnp.where(u > 0, u, jnp.ones_like(u)))
