"""Ridge regression for all penalties of a replicate from one eigendecomposition, with exact leave-one-out residuals.

The same lines serve numpy, for concrete arrays on the host, and jax.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fundl._precise import matmul, namespace, rows_dot
from fundl._result import Status
from fundl.least_squares import _blocks
from fundl.least_squares._path import means
from fundl.sweep._ends import Ends


def mm(A: Any, B: Any) -> Any:
    """A @ B at full precision."""
    return A @ B if isinstance(A, np.ndarray) else matmul(A, B)


def ridge(X: Any, Y: Any, l2: Any, s: Any, q: Any | None, *, intercept: bool, leave_one_out: bool) -> Ends:
    """The ends (m, t) of one replicate with weights s, scored on rows weighted by q.

    About the means, w = V (V^T Z^T Y / (Lambda + l2)) for Z^T Z = V Lambda V^T, with rows multiplied by sqrt(s),
    corrected once by the residual of the normal equations. The gradient g = Z^T Y - Z^T Z w - l2 w and its rounding
    errors bound what is left. A lane has converged where together they move no coefficient (in the units of
    its column) by more than 1e-8 of the largest.
    """
    xp = namespace(X)
    d, t, m = X.shape[1], Y.shape[1], l2.shape[0]
    eps = float(jnp.finfo(X.dtype).eps)
    total = xp.sum(s)
    x_mean, y_mean, C, B, longest = _about_means(X, Y, s, total, intercept)
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
    g = right - mm(C, W) - penalty * W
    size = xp.abs(W)
    column = xp.sqrt(xp.diagonal(C))[:, None]
    longest = xp.reshape(xp.broadcast_to(longest, (m, t)), (m * t,))
    noise = 8 * eps * (column * (longest + xp.sum(column * size, axis=0))[None, :] + penalty * size)
    turned = (xp.abs(mm(V.T, g)) + mm(xp.abs(V.T), noise)).reshape(d, m, t)
    off = mm(xp.abs(V), (turned * one_over[:, :, None]).reshape(d, m * t))
    regular = xp.all(divisor > 100 * d * eps * xp.max(divisor, axis=0)[None, :], axis=0)
    good = _each(regular, t) & (xp.max(off * column, axis=0) <= 1e-8 * xp.max(size * column, axis=0))
    mean = mm(x_mean[None, :], W)[0]
    b = xp.reshape(xp.broadcast_to(y_mean[None, :], (m, t)), (m * t,)) - mean
    db = 4 * eps * (xp.abs(b) + mm(xp.abs(x_mean)[None, :], size)[0]) * (1 if intercept else 0)
    bound = xp.sum((turned * turned * one_over[:, :, None]).reshape(d, m * t), axis=0) + total * db * db
    outside = xp.abs(g) + xp.abs(x_mean)[:, None] * (total * db)[None, :]
    norm = 2 * xp.sqrt(xp.sum(outside * outside, axis=0) + (total * db) ** 2)
    nan = xp.full((m * t,), np.nan, X.dtype)
    hat = (V, one_over, 1 / total if intercept else xp.zeros_like(total)) if leave_one_out else None
    squares, loss = _of_rows(X, Y, s, q, x_mean, y_mean, xp.moveaxis(W.reshape(d, m, t), 0, 1), hat)
    squares, loss = squares.reshape(-1), nan if loss is None else loss.reshape(-1)
    if leave_one_out:  # what a row has in the hat matrix loses the square of the condition; singular values do not
        lost = 1e-6 if xp is np else 1e-10
        loss = xp.where(_each(xp.all(divisor > lost * xp.max(divisor, axis=0)[None, :], axis=0), t), loss, nan)
    f = squares + _each(l2, t) * xp.sum(W * W, axis=0)
    good = good & xp.isfinite(f) & (total > 0)
    codes = [xp.asarray(int(status), np.int32) for status in (Status.converged, Status.stalled)]
    code = xp.where(good, codes[0], codes[1])
    w = xp.moveaxis(W.reshape(d, m, t), 0, 2)
    none = xp.full_like(w, np.nan)
    b, f, norm, bound, code, loss, nan = (v.reshape(m, t) for v in (b, f, norm, bound, code, loss, nan))
    return Ends(w, b, f, norm, bound, xp.zeros_like(code), code, none, none[:, :, 0], loss, nan)


def _about_means(X: Any, Y: Any, s: Any, total: Any, intercept: bool) -> tuple[Any, ...]:
    """The means of X and Y, then Z^T S Z, Z^T S E and the lengths of E about them (about 0 without intercept)."""
    if not isinstance(X, np.ndarray):
        x_mean, y_mean = (means(A, s, total) if intercept else jnp.zeros_like(A[0]) for A in (X, Y))
        root = jnp.sqrt(s)[:, None]
        Z, E = (X - x_mean[None, :]) * root, (Y - y_mean[None, :]) * root
        return x_mean, y_mean, rows_dot(Z, Z), rows_dot(Z, E), jnp.sqrt(jnp.sum(E * E, axis=0))
    (_, d), t = X.shape, Y.shape[1]
    rows = _weighted(X, Y, s, *(_blocks.means(A, s) if intercept else np.zeros(A.shape[1]) for A in (X, Y)))
    G = _blocks.gram(rows, intercept, np.float64)
    left = G[-1, : d + t] / total if intercept else np.zeros(d + t)  # of a large offset, after its rounded mean
    G = G[: d + t, : d + t] - total * np.outer(left, left)
    longest = np.sqrt(np.maximum(np.diagonal(G)[d:], 0))
    return rows.c + left[:d], rows.cy + left[d:], np.ascontiguousarray(G[:d, :d]), G[:d, d:], longest


def _weighted(X: np.ndarray, Y: np.ndarray, s: np.ndarray, c: np.ndarray, cy: np.ndarray) -> _blocks.Rows:
    return _blocks.Rows(X, Y, None if (s == 1).all() else s, c, cy)


def _of_rows(
    X: Any, Y: Any, s: Any, q: Any | None, x_mean: Any, y_mean: Any, w: Any, hat: tuple[Any, Any, Any] | None
) -> tuple[Any, Any]:
    """sum_i s_i r_i^2 (m, t), and the mean of that of the residuals left out (with `hat`), or weighted by q, or None.

    hat = (V, F, a), see `_blocks.squares`.
    """
    if isinstance(X, np.ndarray):
        squares, out = _blocks.squares(_weighted(X, Y, s, x_mean, y_mean), w, hat)
        if hat is not None:
            return squares, out / s.sum()
        if q is None:
            return squares, None
        held = q > 0
        out, _ = _blocks.squares(_weighted(X[held], Y[held], q[held], x_mean, y_mean), w)
        return squares, out / q.sum()
    Z = X - x_mean[None, :]
    W = jnp.moveaxis(w, 0, 1).reshape(Z.shape[1], -1)
    R = (Y - y_mean[None, :])[:, None, :] - matmul(Z, W).reshape(Z.shape[0], *w.shape[::2])
    squares = jnp.sum(s[:, None, None] * R * R, axis=0)
    if hat is not None:
        V, F, share = hat
        U = matmul(Z, V)
        left = 1 - s[:, None] * (matmul(U * U, F) + share)  # 1 - h, (n, m)
        safe = left > _blocks.ALONE
        e = R / jnp.where(safe, left, jnp.ones_like(left))[:, :, None]
        loss = jnp.sum(s[:, None, None] * e * e, axis=0) / jnp.sum(s)
        return squares, jnp.where(jnp.all(safe, axis=0)[:, None], loss, jnp.nan)
    return squares, None if q is None else jnp.sum(q[:, None, None] * R * R, axis=0) / jnp.sum(q)


def _each(v: Any, t: int) -> Any:
    """An entry of each penalty for every target, (m t,)."""
    return namespace(v).repeat(v, t)
