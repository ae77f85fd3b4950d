"""The design matrix inside a fit: centred, scaled by powers of two, with a column of ones; and its null space."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundl._precise import matmul, namespace, rows_dot, safe_divide
from fundl._types import Array


class Design(NamedTuple):
    """Z = [(X - m) / scale, 1], and what its Gram matrix says.

    X w + b = Z theta for w = theta_w / scale and b = theta_b - m w. A column that does not vary is 0 in Z, so its
    coefficient is 0. `null` projects onto the directions of theta_w that change no logit, and `shortest` removes
    their part from w: of all w with the same logits it gives the one of least norm.
    """

    Z: Array  # (n, d + 1)
    m: Array  # (d,)
    scale: Array  # (d,)
    gram: Array  # (d + 1, d + 1), Z^T S Z
    null: Array  # (d, d)
    shortest: Array  # (d, d)
    rank: Array


def shift_and_scale(X: Any, s: Any, intercept: bool) -> tuple[Any, Any]:
    """m and scale: weighted means, and powers of two near the weighted root mean squares; constants to autodiff.

    Of NumPy's arrays in NumPy.
    """
    xp = namespace(X)
    X, s = (X, s) if xp is np else jax.lax.stop_gradient((X, s))
    keep = (s > 0)[:, None]
    zero = xp.zeros((), X.dtype)
    total = xp.sum(s)
    low = xp.min(xp.where(keep, X, xp.full_like(X, xp.inf)), axis=0)
    high = xp.max(xp.where(keep, X, xp.full_like(X, -xp.inf)), axis=0)
    m = xp.zeros_like(low)
    if intercept:
        share = (s / total)[:, None]
        # Twice: the mean of what the first mean left is free of the rounding that a large offset brings.
        m = xp.sum(xp.where(keep, share * X, zero), axis=0)
        m = m + xp.sum(xp.where(keep, share * (X - m[None, :]), zero), axis=0)
        m = xp.clip(m, low, high)  # so that a constant column is exactly 0
    largest = xp.maximum(xp.maximum(high - m, m - low), zero)
    largest = power_of_two(largest)
    U = xp.where(keep, (X - m[None, :]) / largest[None, :], zero)
    square = xp.sum(s[:, None] / total * U * U, axis=0)
    return m, largest * power_of_two(xp.sqrt(square))


def power_of_two(x: Any) -> Any:
    """The power of two at or below x > 0; 1 for 0 and for what is not finite."""
    xp = namespace(x)
    usable = xp.isfinite(x) & (x > 0)
    _, e = xp.frexp(xp.where(usable, x, xp.ones_like(x)))
    return xp.where(usable, xp.ldexp(xp.ones_like(x), e - 1), xp.ones_like(x))


def standardise(X: Any, s: Any, m: Any, scale: Any, intercept: bool) -> Any:
    """Z (n, d + 1); rows of weight 0 are 0, whatever they hold. Without intercept the last column is 0."""
    xp = namespace(X)
    keep = s > 0
    Z = xp.where(keep[:, None], (X - m[None, :]) / scale[None, :], xp.zeros((), X.dtype))
    ones = (keep if intercept else xp.zeros_like(keep)).astype(X.dtype)
    return xp.concatenate([Z, ones[:, None]], axis=1)


def design(X: Array, s: Array, l2: Array, intercept: bool, sparse: bool) -> Design:
    """Standardise and find the null space of Z."""
    m, scale = shift_and_scale(X, s, intercept)
    Z = standardise(X, s, m, scale, intercept)
    gram = rows_dot(Z, s[:, None] * Z)
    null, shortest, rank = null_space(gram[:-1, :-1], scale, l2)
    if sparse:
        # l1 chooses among the w with the same logits itself; only columns of zeros are held where they are.
        null = jnp.diag((jnp.diagonal(gram)[:-1] == 0).astype(X.dtype))
        shortest = jnp.zeros_like(shortest) + jnp.eye(X.shape[1], dtype=X.dtype)
    return Design(Z, m, scale, gram, null, shortest, rank)


def null_space(C: Array, scale: Array, l2: Array) -> tuple[Array, Array, Array]:
    """Projections onto the null space of C, and off it in the units of w; and the rank.

    Singular values of Z below sqrt(32 eps) to sqrt(4 eps d) of the largest count as 0, which is where C is rounded.
    With a penalty only those below sqrt(2 eps): the penalty decides what the data do not; and only of the columns for
    which it is small beside C, since it keeps the others regular by itself. The rank is that without one.
    """
    d = C.shape[0]
    eps = float(jnp.finfo(C.dtype).eps)
    tolerance = 4 * eps * max(d, 8)
    smallest = jnp.where(l2 > 0, 2 * eps, tolerance).astype(C.dtype)
    eye = jnp.eye(d, dtype=C.dtype)
    largest = jnp.max(jnp.diagonal(C))
    regular_by_itself = l2 / scale**2 > eps**0.25 * largest
    either = regular_by_itself[:, None] | regular_by_itself[None, :]
    pivots = jnp.diagonal(jnp.linalg.cholesky(C))
    # The smallest pivot bounds the smallest eigenvalue from above only; with a margin it sorts out the common case.
    full = jnp.all(pivots * pivots > 1e4 * tolerance * largest)

    def regular(C: Array) -> tuple[Array, Array, Array]:
        return jnp.zeros_like(C), jnp.zeros_like(C) + eye, jnp.zeros((), jnp.int32)

    def deficient(C: Array) -> tuple[Array, Array, Array]:
        eigenvalues = jnp.linalg.eigvalsh(C)
        rank = jnp.sum(eigenvalues > tolerance * eigenvalues[-1]).astype(jnp.int32)
        eigenvalues, V = jnp.linalg.eigh(jnp.where(either, largest * eye, C))
        lost = ~(eigenvalues > smallest * eigenvalues[-1])[None, :]  # the first ones
        # Without what is only rounding there: division by a small scale would make it large.
        N = jnp.where(lost & (jnp.abs(V) > 64 * jnp.finfo(C.dtype).eps), V, jnp.zeros_like(V))
        W = N / scale[:, None]
        Q, _ = jnp.linalg.qr(safe_divide(W, jnp.broadcast_to(jnp.max(jnp.abs(W), axis=0, keepdims=True), W.shape)))
        Q = jnp.where(lost, Q, jnp.zeros_like(Q))
        return matmul(N, N.T), eye - matmul(Q, Q.T), d - rank

    null, shortest, lost = jax.lax.cond(full, regular, deficient, C)
    return null, shortest, d - lost
