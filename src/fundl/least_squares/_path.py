"""Ridge for many penalties from one factorisation, with leave-one-out and generalised cross-validation."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check
from fundl._precise import matmul, rows_dot, safe_divide
from fundl._types import Array, ArrayLike, Linear
from fundl.least_squares import _blocks
from fundl.least_squares._blocks import Rows
from fundl.least_squares._inputs import (
    as_array,
    by_rows,
    in_dtype,
    rank_tolerance,
    refuse_not_finite,
    shaped,
    to_device,
    to_host,
)

EPS = float(np.finfo(np.float64).eps)
ROUNDED = 1e4  # of n eps: n - degrees_of_freedom below it has lost its digits


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Path:
    """The fits of m penalties.

    Attributes:
        l2: the penalties (m,).
        params: `Linear` with w (m, d), b (m,), or w (m, d, k), b (m, k).
        degrees_of_freedom: the trace of the hat matrix of each, the intercept among them (m,).
        leave_one_out: weighted mean square of y_i minus the prediction of a fit without example i; (m,) or (m, k).
        generalised: the generalised cross-validation n |r|^2 / (n - degrees_of_freedom)^2; (m,) or (m, k). NaN where
            n - degrees_of_freedom is no more than rounding.
    """

    l2: Array
    params: Linear
    degrees_of_freedom: Array
    leave_one_out: Array
    generalised: Array

    @property
    def best(self) -> Array:
        """The index of the penalty with the smallest leave-one-out error (summed over targets)."""
        error = self.leave_one_out
        return jnp.nanargmin(error if error.ndim == 1 else jnp.sum(error, axis=1))


def ridge_path(
    X: ArrayLike, y: ArrayLike, l2: ArrayLike, *, weights: ArrayLike | None = None, intercept: bool = True
) -> Path:
    """Ridge for many penalties; see `linear_regression.ridge_path`, where weights and intercept are explained.

    >>> print(ridge_path([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0], [0.0, 2.0]).params.w.round(6))
    [[2.]
     [1.]]
    """
    X, y, weights = shaped(X, y, weights)
    refuse_not_finite(X, y, weights)
    _check.penalty("l2", l2)
    penalties = as_array("l2", l2)
    _check.rank("l2", penalties, 1, shape="(m,), one for each fit")
    _check.nonempty("l2", penalties)
    Y, single = (y if y.ndim == 2 else y[:, None]), y.ndim == 1
    if not _check.on_host(X, Y, penalties, weights):
        return _traced(X, Y, *in_dtype(X.dtype, penalties, weights), _check.flag("intercept", intercept), single)
    with np.errstate(all="ignore"):
        wide_l2, s = to_host(penalties, weights)
        w, b, trace, loo, gcv = _concrete(np.asarray(X), np.asarray(Y), wide_l2, s, _check.flag("intercept", intercept))
        return to_device(_path(wide_l2, w, b, trace, loo, gcv, single), X.dtype)


def _path(l2: Any, w: Any, b: Any, trace: Any, loo: Any, gcv: Any, single: bool) -> Path:
    shown = (lambda v: v[..., 0]) if single else (lambda v: v)
    return Path(l2, Linear(shown(w), shown(b)), trace, shown(loo), shown(gcv))


def _concrete(X: np.ndarray, Y: np.ndarray, l2: np.ndarray, s: np.ndarray | None, intercept: bool) -> tuple[Any, ...]:
    """By the eigenvectors V of the (centred) Gram matrix: w = V (Lambda + l2)^-1 V^T Z^T S y."""
    if s is not None and not s.all():
        kept = s > 0
        X, Y, s = X[kept], Y[kept], s[kept]
    n, d = X.shape
    k, m = Y.shape[1], len(l2)
    if n == 0:
        zero = np.zeros((m, k))
        return np.zeros((m, d, k)), zero, np.zeros(m), zero * np.nan, zero * np.nan
    weight = float(n if s is None else s.sum())
    c, cy = np.zeros(d), np.zeros(k)
    if intercept:
        c, cy = _blocks.means(X, s), _blocks.means(Y, s)
    rows = Rows(X, Y, s, c, cy)
    V, values, target, live = _spectrum(rows, float(l2.min()), intercept)
    if values.min() + l2.min() < 1e-12 * values.max() and (found := _of_one_size(rows, l2, intercept)):
        return _finished(rows, *found)
    # What is no more than rounding of the data gets nothing without a penalty, as in `fit`.
    known = live[1][:, None] & (live[0][:, None] | (l2 > _tolerance(rows) ** 2 * values.max()))
    filters = np.divide(1, values[:, None] + l2, where=known, out=np.zeros(known.shape))  # (r, m)
    coordinates = V.T @ target
    w = np.einsum("dr,rm,rk->mdk", V, filters, coordinates, optimize=True)
    rss, loo = _blocks.squares(rows, w, (V, filters, intercept / weight))
    trace = (values[:, None] * filters).sum(axis=0) + intercept
    return _finished(rows, w, trace, rss, loo)


def _finished(rows: Rows, w: np.ndarray, trace: np.ndarray, rss: np.ndarray, loo: np.ndarray) -> tuple[Any, ...]:
    weight = float(len(rows.X) if rows.s is None else rows.s.sum())
    slack = weight - trace
    gcv = weight * rss / np.where(slack > ROUNDED * EPS * weight, slack, np.nan)[:, None] ** 2
    return w, rows.cy - np.einsum("d,mdk->mk", rows.c, w), trace, loo / weight, gcv


def _tolerance(rows: Rows) -> float:
    return rank_tolerance(float(np.finfo(rows.X.dtype).eps), rows.X.shape[1])


def _spectrum(rows: Rows, smallest: float, intercept: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """V, Lambda >= 0 of Z^T S Z, Z^T S (Y - cy), and which of Lambda are more than rounding without and with a penalty.

    From the Gram matrix where the condition with the smallest penalty leaves ten digits; from the SVD of Z otherwise,
    which does not square the condition, and where there are fewer rows than columns.
    """
    n, d = rows.X.shape
    if n > d:
        G = _blocks.gram(rows, intercept, np.float64)
        values, V = np.linalg.eigh(G[:d, :d])
        if np.isfinite(values).all() and values[0] + smallest > 1e-6 * values[-1]:
            live = values > n * EPS * values[-1]
            return V, np.maximum(values, 0), G[:d, d : d + rows.Y.shape[1]], np.stack([live, live])
    Z = _centred(rows)
    target = _blocks.residuals(rows, np.zeros((d, rows.Y.shape[1])), np.zeros(rows.Y.shape[1]), np.float64).g
    if n > 2 * d:
        Z = np.linalg.qr(Z, mode="r")
    _, sigma, Vt = np.linalg.svd(Z, full_matrices=False)
    # The rank is that of columns of one length, as in `fit`.
    norms = np.linalg.norm(Z, axis=0)
    scaled = np.linalg.svd(Z / np.where(norms > 0, norms, 1), compute_uv=False)
    live = np.stack([scaled > _tolerance(rows) * scaled[0], sigma > max(n, d) * EPS * sigma[0]])
    return Vt.T, sigma**2, target, live


def _centred(rows: Rows) -> np.ndarray:
    """The rows of X times the roots of their weights about their mean, free of the rounding of rows.c."""
    Z = rows.X - rows.c
    if rows.c.any():
        Z -= Z.mean(axis=0) if rows.s is None else rows.s @ Z / rows.s.sum()
    return Z if rows.s is None else Z * np.sqrt(rows.s)[:, None]


def _of_one_size(rows: Rows, l2: np.ndarray, intercept: bool) -> tuple[np.ndarray, ...] | None:
    """w, the trace of the hat matrix, and the sums of `_blocks.squares`, by the columns over sqrt(norm2^2 + l2).

    V takes what is 1e8 times smaller than another column for its rounding. None where sizes do not differ that much.
    """
    n, d = rows.X.shape
    s = np.ones(n) if rows.s is None else rows.s
    root = np.sqrt(s)[:, None]
    Z, T = _centred(rows), (rows.Y - rows.cy) * root
    norms = np.linalg.norm(Z, axis=0)
    norms[norms <= n * 2.2e-16 * np.linalg.norm(rows.c * root, axis=0)] = 0  # constant, but for rounding
    if n < d or not norms.max() > 1e4 * np.min(norms, where=norms > 0, initial=np.inf):
        return None
    Z = np.divide(Z, norms, where=norms > 0, out=np.zeros_like(Z))
    R = np.linalg.qr(Z, mode="r")
    found = []
    for penalty in l2:
        size = np.hypot(norms, np.sqrt(penalty))
        size[size == 0] = 1
        A = np.concatenate([R * (norms / size), np.diag(np.sqrt(penalty) / size)])
        _, sigma, Vt = np.linalg.svd(A, full_matrices=False)
        live = sigma > _tolerance(rows) * sigma[0]
        M = Vt[live].T / sigma[live]
        H = Z @ ((norms / size)[:, None] * M)
        w = (M @ (H.T @ T)) / size[:, None]
        if not live.all():  # of all that fit alike the smallest w; it was w times size
            free = Vt[~live].T / size[:, None]
            w -= free @ np.linalg.lstsq(free, w, rcond=None)[0]
        left_out = M * (norms > 0)[:, None] / size[:, None], np.ones((len(M.T), 1)), intercept / s.sum()
        rss, loo = _blocks.squares(rows, w[None], left_out)
        found.append((w, np.square(H).sum() + intercept, rss[0], loo[0]))
    w, trace, rss, loo = map(np.stack, zip(*found, strict=True))
    return w, trace, rss, loo


def means(A: Array, s: Array, weight: Array) -> Array:
    """As `_blocks.means`, in a trace. Twice: of what the first mean leaves it is free of a large offset's rounding."""
    about = safe_divide(rows_dot(A, s), weight)
    about = about + safe_divide(rows_dot(A - about[None, :], s), weight)
    used = (s > 0)[:, None]
    low = jnp.min(jnp.where(used, A, jnp.full_like(A, jnp.inf)), axis=0)
    high = jnp.max(jnp.where(used, A, jnp.full_like(A, -jnp.inf)), axis=0)
    rounding = jnp.where(low == high, low - about, jnp.zeros_like(about))
    return about + jax.lax.stop_gradient(rounding)


def inverse_factor(A: Array) -> Array:
    """M with M^T M = A^-1 for A of unit diagonal; NaN where rounding leaves less than a third of the digits."""
    eye = jnp.eye(len(A), dtype=A.dtype)
    M = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(A), eye, lower=True)
    lost = jnp.finfo(A.dtype).eps * jnp.linalg.norm(matmul(M.T, M))
    return jnp.where(lost < jnp.finfo(A.dtype).eps ** (1 / 3), M, jnp.full_like(M, jnp.nan))


@functools.partial(jax.jit, static_argnums=(4, 5))
def _traced(X: Array, Y: Array, l2: Array, s: Array | None, intercept: bool, single: bool) -> Path:
    """One Cholesky factor for each penalty: dearer than eigenvectors, whose derivatives are NaN where two are equal."""
    X, Y, s = by_rows(X, Y, s)
    l2 = jnp.where(l2 >= 0, l2, jnp.full_like(l2, jnp.nan))
    keep = _check.seen(s, _check.ordinary(X), _check.ordinary(Y))
    if keep is not None:
        keep = keep[:, None]
        X, Y = jnp.where(keep, X, jnp.zeros_like(X)), jnp.where(keep, Y, jnp.zeros_like(Y))
    s = jnp.ones_like(X[:, 0]) if s is None else s
    weight = jnp.sum(s)
    zero = jnp.zeros((), X.dtype)
    c, cy = (means(A, s, weight) if intercept else jnp.zeros(A.shape[1:], A.dtype) for A in (X, Y))
    Z, T = X - c[None, :], Y - cy[None, :]
    G, C = rows_dot(Z, s[:, None] * Z), rows_dot(Z, s[:, None] * T)
    scale = jnp.sqrt(jax.lax.stop_gradient(jnp.diagonal(G)))
    eye = jnp.eye(X.shape[1], dtype=X.dtype)

    def one(penalty: Array) -> tuple[Array, ...]:
        size = jnp.sqrt(scale**2 + jax.lax.stop_gradient(penalty))
        nothing = size == 0  # a column that does not vary, and no penalty: its coefficient is 0
        size = jnp.where(nothing, jnp.ones_like(size), size)
        own = jnp.where(nothing, jnp.ones_like(size), penalty)
        M = inverse_factor((G + own[:, None] * eye) / size[:, None] / size[None, :]) / size[None, :]
        w = matmul(M.T, matmul(M, C))
        H = matmul(Z, M.T)
        share = s * (jnp.sum(H * H, axis=1) + (safe_divide(jnp.ones_like(weight), weight) if intercept else zero))
        r = T - matmul(Z, w)
        trace = jnp.sum(share)
        rest = jnp.where(share < 1 - _blocks.ALONE, 1 - share, jnp.full_like(share, jnp.nan))
        loo = r / rest[:, None]
        rss, cross = (rows_dot(v * v, s) for v in (r, loo))
        slack = weight - trace
        slack = jnp.where(slack > ROUNDED * jnp.finfo(X.dtype).eps * weight, slack, jnp.full_like(slack, jnp.nan))
        b = cy - matmul(c[None, :], w)[0] if intercept else jnp.zeros_like(cy)
        return w, b, trace, safe_divide(cross, weight), weight * safe_divide(rss, slack**2)

    w, b, trace, loo, gcv = jax.lax.map(one, l2)
    return _path(l2, w, b, trace, loo, gcv, single)
