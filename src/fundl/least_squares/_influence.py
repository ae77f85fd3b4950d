"""What each example does to a least squares fit, and what the fit knows about a new one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check
from fundl._precise import namespace, rows_dot
from fundl._types import Array, ArrayLike, Linear
from fundl.least_squares import _inputs
from fundl.least_squares._covariance import variance
from fundl.least_squares._inputs import (
    by_rows,
    held,
    in_dtype,
    on_mesh_of,
    penalty_of,
    rank_tolerance,
    refuse_not_finite,
    shaped,
    to_device,
    to_host,
)
from fundl.least_squares._path import inverse_factor
from fundl.least_squares._shortest import mm
from fundl.least_squares._student import quantile


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Influence:
    """Of each of the n examples; arrays of y's shape unless said otherwise.

    Attributes:
        leverage: h_i = dy_hat_i / dy_i (n,).
        residuals: r_i = y_i - y_hat_i.
        leave_one_out: r_i / (1 - h_i), which is y_i minus the prediction of the fit without example i; NaN where only
            example i determines its own prediction.
        cooks_distance: s_i r_i^2 h_i / (p sigma^2 (1 - h_i)^2) with p = sum of h and the residual variance sigma^2.
        d_params: the derivative of the parameters with respect to the weight of example i: `Linear` with w (n, d),
            b (n,), or w (n, d, k), b (n, k).
    """

    leverage: Array
    residuals: Array
    leave_one_out: Array
    cooks_distance: Array
    d_params: Linear


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Interval:
    """Predictions with the bounds between which the target (or its mean) lies; (q,) or (q, k) for q new examples."""

    y_hat: Array
    low: Array
    high: Array


def influence(
    X: ArrayLike, y: ArrayLike, *, l2: ArrayLike = 0.0, weights: ArrayLike | None = None, intercept: bool = True
) -> Influence:
    """What each example does to the fit; see `linear_regression.influence`, where l2, weights, intercept are explained.

    >>> print(influence([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0]).leverage.round(4))
    [0.8333 0.3333 0.8333]
    """
    return _run(_influence, X, y, l2, weights, _check.flag("intercept", intercept), ())


def interval(
    X: ArrayLike,
    y: ArrayLike,
    X_new: ArrayLike,
    *,
    level: float = 0.95,
    of_mean: bool = False,
    l2: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    intercept: bool = True,
) -> Interval:
    """Prediction intervals; see `linear_regression.interval`, where all of level, of_mean, l2, weights, intercept are.

    >>> found = interval([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0], [[3.0]])
    >>> print(found.y_hat.round(4))
    [7.]
    """
    share = _check.real(level)
    if share is None or not 0 < share < 1:
        raise ValueError(f"level must be one number between 0 and 1, for example 0.95; got {level!r}.")
    new = _inputs.as_array("X_new", X_new)
    _check.rank("X_new", new, 2, shape="(q, d), one row for each new example")
    more = (new, share, _check.flag("of_mean", of_mean))
    return _run(_interval, X, y, l2, weights, _check.flag("intercept", intercept), more)


def _run(f: Any, X: Any, y: Any, l2: Any, weights: Any, intercept: bool, more: Any) -> Any:
    X, y, weights = shaped(X, y, weights)
    refuse_not_finite(X, y, weights)
    penalty = penalty_of(l2, X.dtype)
    if more:
        if more[0].shape[1] != X.shape[1]:
            raise ValueError(f"X_new must have the {X.shape[1]} columns of X; got shape {more[0].shape}.")
        X_new = np.asarray(more[0], X.dtype) if _check.on_host(more[0]) else more[0].astype(held(X.dtype))
        more = (X_new, *more[1:])
    Y, single = (y if y.ndim == 2 else y[:, None]), y.ndim == 1
    if not _check.on_host(X, Y, penalty, weights, *more[:1]):
        return _jitted(f, X, Y, *in_dtype(X.dtype, penalty, weights), intercept, single, *more)
    wide_X, wide_Y, wide_l2, s, *new = to_host(X, Y, penalty, weights, *more[:1])
    with np.errstate(all="ignore"):
        eps = float(np.finfo(X.dtype).eps)
        found = f(_model(wide_X, wide_Y, wide_l2, s, intercept, eps), single, *new, *more[1:])
        return to_device(found, X.dtype)


def _traced(f: Any, X: Any, Y: Any, l2: Any, s: Any, intercept: bool, single: bool, *more: Any) -> Any:
    X, Y, s = by_rows(X, Y, s)
    if more:
        more = (on_mesh_of(X, more[0]), *more[1:])
    l2 = jnp.where(l2 >= 0, l2, jnp.full_like(l2, jnp.nan))
    return f(_model(X, Y, l2, s, intercept, float(jnp.finfo(X.dtype).eps)), single, *more)


_jitted: Any = jax.jit(_traced, static_argnums=(0, 5, 6, 8, 9))


@dataclasses.dataclass(frozen=True)
class _Model:
    """The fit about the centre: T = Z w + r, with M^T M = (Z^T S Z + l2)^-1 (its pseudo-inverse where singular)."""

    s: Any
    Z: Any
    M: Any
    w: Any
    r: Any
    c: Any
    low: Any  # what the rounding of c leaves of the mean
    cy: Any
    weight: Any
    l2: Any
    leverage: Any
    intercept: bool

    def variance(self) -> tuple[Any, Any]:
        """sigma^2 (k,) and the degrees of freedom left, NaN where there are none."""
        xp = namespace(self.Z)
        freedom = self.weight - xp.sum(self.leverage)
        freedom = xp.where(freedom > 1e-9 * self.weight, freedom, xp.full_like(freedom, np.nan))
        return xp.sum(self.s[:, None] * self.r**2, axis=0) / freedom, freedom


def _model(X: Any, Y: Any, l2: Any, weights: Any, intercept: bool, eps: float) -> _Model:
    xp = namespace(X)
    over_rows: Any = (lambda A, B: A.T @ B) if xp is np else rows_dot
    zero, one = xp.zeros((), X.dtype), xp.ones((), X.dtype)
    s = xp.ones_like(X[:, 0]) if weights is None else weights
    # A row of weight 0 moves nothing and has an influence all the same, if it is not so large that NaN comes of it.
    most = float(np.finfo(X.dtype).max) ** 0.5
    keep = ((s != 0) | xp.all(xp.abs(xp.concatenate([X, Y], axis=1)) < most, axis=1))[:, None]
    X, Y = xp.where(keep, X, zero), xp.where(keep, Y, zero)
    weight = xp.sum(s)
    share = s / xp.where(weight > 0, weight, one)
    c, cy = (xp.zeros(A.shape[1:], X.dtype) for A in (X, Y))
    Z, T, low = X, Y, c
    if intercept:
        for _ in range(2):  # the first mean is rounded
            c, cy = (v + over_rows(xp.where(keep, A - v[None, :], zero), share) for v, A in ((c, X), (cy, Y)))
        Z, T = (xp.where(keep, A - v[None, :], zero) for A, v in ((X, c), (Y, cy)))
        low = over_rows(Z, share)
        Z = xp.where(keep, Z - low[None, :], zero)
    root = xp.sqrt(s)[:, None]
    own = xp.sum((root * Z) ** 2, axis=0) + l2
    varies = own != 0
    size = xp.sqrt(xp.where(varies, own, xp.ones_like(own)))
    A = Z / size[None, :] * root
    if xp is np:
        corner = np.diag(np.sqrt(l2) / size)
        _, sigma, Vt = np.linalg.svd(np.concatenate([A, corner]) if l2 > 0 else A, full_matrices=False)
        live = sigma > rank_tolerance(eps, X.shape[1]) * sigma.max(initial=0.0)
        # Of all that fit alike the shortest: with size V = Q R the inverse of U Sigma V^T size is Q R^-T Sigma^-1 U^T.
        Q, R = np.linalg.qr(size[:, None] * Vt[live].T)
        full = live.sum() == X.shape[1]
        M = Vt / sigma[:, None] / size if full else np.linalg.solve(R, Q.T) / sigma[live][:, None]
    else:
        M = inverse_factor(over_rows(A, A) + jnp.diag(jnp.where(varies, l2 / size**2, 1.0)))
        M = M * jnp.where(varies, 1 / size, zero)[None, :]
    w = mm(M.T, mm(M, over_rows(Z, s[:, None] * T)))
    for _ in range(2):
        w = w + mm(M.T, mm(M, over_rows(Z, s[:, None] * (T - mm(Z, w))) - l2 * w))
    r = T - mm(Z, w)
    H = mm(Z, M.T)
    leverage = xp.sum((root * H) ** 2, axis=1) + (share if intercept else xp.zeros_like(share))
    return _Model(s, Z, M, w, r, c, low, cy, weight, l2, leverage, intercept)


def _influence(m: _Model, single: bool) -> Influence:
    xp = namespace(m.Z)
    rest = 1 - m.leverage
    alone = rest <= 64 * float(np.finfo(rest.dtype).eps)
    rest = xp.where(alone, xp.full_like(rest, np.nan), rest)[:, None]
    loo = m.r / rest
    sigma2, _ = m.variance()
    cook = m.s[:, None] * loo**2 * m.leverage[:, None] / (xp.sum(m.leverage) * sigma2)[None, :]
    dw = mm(mm(m.Z, m.M.T), m.M)[:, :, None] * m.r[:, None, :]
    if m.intercept:
        db = m.r / xp.where(m.weight > 0, m.weight, xp.ones_like(m.weight)) - xp.einsum("d,ndk->nk", m.c, dw)
    else:
        db = xp.zeros_like(m.r)
    shown = (lambda v: v[..., 0]) if single else (lambda v: v)
    return Influence(m.leverage, shown(m.r), shown(loo), shown(cook), Linear(shown(dw), shown(db)))


def _interval(m: _Model, single: bool, X_new: Any, level: float, of_mean: bool) -> Interval:
    xp = namespace(m.Z)
    Z = X_new - m.c[None, :] - m.low[None, :]
    sigma2, freedom = m.variance()
    H = mm(Z, m.M.T)
    share = (1 / m.weight if m.intercept else 0) + (0 if of_mean else 1)
    whole, V = xp.sum(H * H, axis=1), mm(H, m.M)
    over_rows: Any = (lambda A, B: A.T @ B) if xp is np else rows_dot
    G = over_rows(m.Z, m.s[:, None] * m.Z)
    unit = (len(G) + 2) * float(np.finfo(G.dtype).eps)
    under = variance(whole - m.l2 * xp.sum(V**2, axis=1) + share, unit * (whole + share), V, G, share, unit)
    spread = xp.where(m.l2 > 0, under, whole + share)
    half = quantile(level, freedom) * xp.sqrt(spread[:, None] * sigma2[None, :])
    y_hat = mm(Z, m.w) + m.cy[None, :]
    shown = (lambda v: v[..., 0]) if single else (lambda v: v)
    return Interval(shown(y_hat), shown(y_hat - half), shown(y_hat + half))
