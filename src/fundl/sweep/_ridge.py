"""Ridge regression for all penalties of a replicate from one eigendecomposition, with exact leave-one-out residuals.

The same lines serve numpy, for concrete arrays on the host, and jax.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fundl._precise import matmul, rows_dot
from fundl._result import Status
from fundl.sweep._ends import Ends


def namespace(x: Any) -> Any:
    """numpy for its own arrays, jax.numpy for all others."""
    return np if isinstance(x, np.ndarray) else jnp


def mm(A: Any, B: Any) -> Any:
    """A @ B at full precision."""
    return A @ B if isinstance(A, np.ndarray) else matmul(A, B)


def over_rows(A: Any, B: Any) -> Any:
    """A.T @ B, over the rows of a mesh too."""
    return A.T @ B if isinstance(A, np.ndarray) else rows_dot(A, B)


def ridge(X: Any, Y: Any, l2: Any, s: Any, q: Any | None, *, intercept: bool, leave_one_out: bool) -> Ends:
    """The ends (m, t) of one replicate with weights s, scored on rows weighted by q.

    About the means, w = V (V^T Z^T Y / (Lambda + l2)) for Z^T Z = V Lambda V^T, with rows multiplied by sqrt(s),
    corrected once by the residual of the normal equations. The gradient on the rows, g = Z^T (Y - Z w) - l2 w, and its
    rounding errors bound what is left. A lane has converged where together they move no coefficient (in the units of
    its column) by more than 1e-8 of the largest.
    """
    xp = namespace(X)
    (n, d), t, m = X.shape, Y.shape[1], l2.shape[0]
    eps = float(jnp.finfo(X.dtype).eps)
    total = xp.sum(s)
    x_mean, y_mean = (_mean(A, s, total, intercept) for A in (X, Y))
    Z, E, root = X - x_mean[None, :], Y - y_mean[None, :], xp.sqrt(s)[:, None]
    Zs, Es = Z * root, E * root
    C, B = over_rows(Zs, Zs), over_rows(Zs, Es)
    Lambda, V = xp.linalg.eigh(C)
    divisor = xp.maximum(Lambda, xp.zeros_like(Lambda))[:, None] + l2[None, :]  # (d, m)
    one_over = 1 / xp.where(divisor > 0, divisor, xp.ones_like(divisor)) * (divisor > 0).astype(X.dtype)

    def solved(g: Any) -> Any:  # (d, m t), targets last
        turned = mm(V.T, g).reshape(d, m, t) * one_over[:, :, None]
        return mm(V, turned.reshape(d, m * t))

    penalty = _each(l2, t)[None, :]
    right = xp.reshape(xp.broadcast_to(B[:, None, :], (d, m, t)), (d, m * t))
    W = solved(right)
    W = W + solved(right - mm(C, W) - penalty * W)
    R = xp.reshape(xp.broadcast_to(Es[:, None, :], (n, m, t)), (n, m * t)) - mm(Zs, W)
    g = over_rows(Zs, R) - penalty * W
    squares = xp.einsum("ij,ij->j", R, R)
    size = xp.abs(W)
    column = xp.sqrt(xp.diagonal(C))[:, None]
    noise = 8 * eps * (column * (xp.sqrt(squares) + xp.sum(column * size, axis=0))[None, :] + penalty * size)
    turned = (xp.abs(mm(V.T, g)) + mm(xp.abs(V.T), noise)).reshape(d, m, t)
    off = mm(xp.abs(V), (turned * one_over[:, :, None]).reshape(d, m * t))
    regular = xp.all(divisor > 100 * d * eps * xp.max(divisor, axis=0)[None, :], axis=0)
    good = _each(regular, t) & (xp.max(off * column, axis=0) <= 1e-8 * xp.max(size * column, axis=0))
    mean = mm(x_mean[None, :], W)[0]
    b = xp.reshape(xp.broadcast_to(y_mean[None, :], (m, t)), (m * t,)) - mean
    db = 4 * eps * (xp.abs(b) + mm(xp.abs(x_mean)[None, :], size)[0]) * (1 if intercept else 0)
    bound = xp.sum((turned * turned * one_over[:, :, None]).reshape(d, m * t), axis=0) + total * db * db
    in_b = mm(root.T, R)[0]
    outside = g + x_mean[:, None] * in_b[None, :]
    norm = 2 * xp.sqrt(xp.sum(outside * outside, axis=0) + (in_b * in_b if intercept else 0))
    nan = xp.full((m * t,), np.nan, X.dtype)
    loss = nan
    if leave_one_out:
        U = mm(Zs, V)
        left = 1 - mm(U * U, one_over) - (s[:, None] / total if intercept else 0)  # 1 - h, (n, m)
        safe = left > 0
        e = R.reshape(n, m, t) / xp.where(safe, left, xp.ones_like(left))[:, :, None]
        e = e.reshape(n, m * t)
        loss = xp.einsum("ij,ij->j", e, e) / total
        loss = xp.where(_each(xp.all(safe, axis=0), t), loss, nan)
    elif q is not None:
        R = xp.reshape(xp.broadcast_to(E[:, None, :], (n, m, t)), (n, m * t)) - mm(Z, W)
        loss = xp.sum(q[:, None] * R * R, axis=0) / xp.sum(q)
    f = squares + _each(l2, t) * xp.sum(W * W, axis=0)
    good = good & xp.isfinite(f) & (total > 0)
    codes = [xp.asarray(int(status), np.int32) for status in (Status.converged, Status.stalled)]
    code = xp.where(good, codes[0], codes[1])
    w = xp.moveaxis(W.reshape(d, m, t), 0, 2)
    none = xp.full_like(w, np.nan)
    b, f, norm, bound, code, loss, nan = (v.reshape(m, t) for v in (b, f, norm, bound, code, loss, nan))
    return Ends(w, b, f, norm, bound, xp.zeros_like(code), code, none, none[:, :, 0], loss, nan)


def _each(v: Any, t: int) -> Any:
    """An entry of each penalty for every target, (m t,)."""
    return namespace(v).repeat(v, t)


def _mean(A: Any, s: Any, total: Any, intercept: bool) -> Any:
    """The weighted mean of the columns, twice: of what the first mean left, it is free of a large offset's rounding."""
    if not intercept:
        return namespace(A).zeros_like(A[0])
    about = over_rows(A, s) / total
    return about + over_rows(A - about[None, :], s) / total
