"""Concrete rows on the CPU: the same minimum and the same proof through NumPy, with nothing to compile.

What is not plainly solved here (separable or dependent columns without a penalty, a step that does not converge, input
that is to be refused) is left to the compiled program: `fit` then returns None.
"""

from typing import Any, NamedTuple

import numpy as np

from fundl._result import Certificate, Fit, Status
from fundl._types import Linear
from fundl.newton import _certainty, _conjugate, _passes, _sampled, _working_set
from fundl.newton._passes import EPS32, LARGE, N, Source
from fundl.newton._prepared import Numbers, Prepared, numbers, prepared
from fundl.newton._wide import after_rounding, rise_by, upwards

EPS = float(np.finfo(np.float64).eps)
DENSE = {True: 400, False: 150}  # of k == 1: rows of a Hessian that is formed


class Inverse(NamedTuple):
    """The inverse Hessian at the minimum of a fit, in the coordinates of its design [(X - m) / scale, 1]."""

    matrix: N  # (D k, D k), float32
    m: N
    scale: N

    def brought(self, m: N, scale: N, intercept: bool) -> _conjugate.Curvature:
        """To another design: w = theta_w / scale and b = theta_b - m w in either, so theta_b moves with m."""
        change = np.diag(np.append(scale / self.scale, 1.0))
        if intercept:
            change[-1, :-1] = (m - self.m) / self.scale
        return _conjugate.Curvature(self.matrix, change.astype(np.float32))


class Start(NamedTuple):
    """What is known of a fit near by: its parameters and, where that is worth its price, its inverse Hessian."""

    params: Linear
    inverse: Inverse | None = None


def fit_concrete(
    X: Any, y: Any, *, k: int | None, l2: Any, l1: Any, weights: Any, intercept: bool, method: str, tol: Any,
    max_steps: Any,
) -> Fit | None:  # fmt: skip
    """The `Fit` of concrete rows on the CPU, in NumPy's arrays, or None where the compiled program is to look at them.

    X (n, d); y (n,), in [0, 1] for k = 1, else integer classes, counted where k is None. The options l2=, l1= (with
    k = 1 only), weights=, intercept=, method= ("auto" only), tol= and max_steps= are those of the two models.

    >>> found = fit_concrete(
    ...     np.arange(4.0)[:, None], np.array([0, 1, 0, 1]), k=1, l2=0.0, l1=0.0, weights=None, intercept=True,
    ...     method="auto", tol=0.0, max_steps=200,
    ... )
    >>> print(round(float(found.params.w[0]), 3), found.status)
    0.908 converged
    """
    options = numbers(l2, l1, tol, max_steps) if method == "auto" else None
    given = None if options is None else prepared(X, y, k=k, weights=weights, intercept=intercept)
    return None if options is None or given is None else fit_prepared(given, options)


def fit_prepared(given: Prepared, options: Numbers, start: Start | None = None, *, ranked: bool = True) -> Fit | None:
    """`fit_concrete` of rows that are prepared already. start: saves time where there are many columns or classes.

    ranked=False: the rank is not sought where a penalty makes it unimportant.

    >>> given = prepared(np.arange(4.0)[:, None], np.array([0, 1, 0, 1]), k=1, weights=None, intercept=True)
    >>> print(fit_prepared(given, Numbers(l2=1.0, l1=0.0, tol=0.0, max_steps=200)).params.w.round(3))
    [0.453]
    """
    rows, m, scale, dtype = given
    k = rows.k
    if dtype == np.float32:  # parameters that are right to 3e-9 round to the same numbers
        options = options._replace(tol=max(options.tol, 1e-17))
    with np.errstate(all="ignore"):
        K = np.append(options.l2 / scale**2, 0.0)
        dense = len(K) * k <= DENSE[k == 1]
        if (options.l1 > 0 and k > 1) or (not dense and options.l2 == 0 and options.l1 == 0):
            return None
        theta = np.zeros((len(K), k)) if start is None else _theta(start.params, given)
        near = None if start is None or start.inverse is None else start.inverse.brought(m, scale, rows.intercept)
        try:
            if options.l1 > 0:
                c = np.append(options.l1 / scale, 0.0)
                found = _working_set.minimise(rows, K, c, options.tol, options.max_steps, theta)
            elif dense:
                found = _sampled.newton(rows, K, options.tol, options.max_steps)
            else:
                found = _conjugate.minimise(rows, K, options.tol, options.max_steps, theta, near)
        except np.linalg.LinAlgError:
            return None
        if found is None or not ended_well(found, options):
            return None
        if ranked and found.rank is None and rows.scale is None and len(m) <= (100 if options.l1 > 0 else 400):
            s = np.ones(len(rows.y)) if rows.s is None else rows.s
            C = _passes.weighted_gram(rows.X, s)  # little beside the fit
            found = found._replace(rank=_certainty.rank(C, rows.intercept))
        return package(found, rows, m, scale, options, dtype)


def start_from(params: Linear, given: Prepared, l2: float, fits: int) -> Start:
    """What the fit that has ended at `params` is to so many `fits` of other penalties or of nearly the same rows.

    The inverse Hessian goes along where several classes share it, in fits that do not form their own.

    >>> given = prepared(np.eye(60), np.arange(60) % 3, k=3, weights=None, intercept=True)
    >>> start_from(Linear(np.zeros((60, 3)), np.zeros(3)), given, l2=1.0, fits=5).inverse.matrix.shape
    (183, 183)
    """
    rows, m, scale, _ = given
    n, d, k = len(rows.y), len(m), rows.k
    size = (d + 1) * k
    # The inverse costs less than about 70 products of 4 n (d + 1) k, which it saves each of the fits.
    pays = 280 * n * size * fits > n * size**2 + 2 * size**3
    # For k = 1 a fit's own Gram matrix is nearer; without a penalty the compiled program fits.
    if not (pays and k > 1 and size > DENSE[False] and l2 > 0 and n * d <= LARGE):
        return Start(params)
    with np.errstate(all="ignore"):
        p = _passes.at(rows, _theta(params, given)).p
        narrow = rows.single().some(slice(None))
        H = _sampled.regular(_passes.hessian(narrow, p.astype(np.float32)), np.append(l2 / scale**2, 0.0), rows)
        H.flat[:: len(H) + 1] *= 1 + 1e-6  # what float32 leaves of it is positive
        try:
            matrix = _conjugate.inverse_of(H)
        except np.linalg.LinAlgError:
            return Start(params)
    return Start(params, Inverse(matrix, m, scale) if np.isfinite(matrix).all() else None)


def _theta(params: Linear, given: Prepared) -> N:
    """The parameters in the coordinates of the design."""
    w, b = (np.asarray(v, np.float64).reshape(-1, given.rows.k) for v in params)
    return np.concatenate([w * given.scale[:, None], (b + given.m @ w) * float(given.rows.intercept)])


def ended_well(found: _sampled.Found, numbers: Numbers) -> bool:
    """As `_fit._solution` decides that a fit has converged."""
    if not (np.isfinite(found.f) and np.isfinite(found.bound) and np.all(np.isfinite(found.theta))):
        return False
    return bool(found.bound <= max(numbers.tol, np.sqrt(EPS) * (1 if found.solved else 0.01)) * found.f)


def _bend(rows: Source, norms: N | None, change: N, K: N) -> float:
    """At most half of what the Hessian, wherever it is, makes of a change of theta: curvatures are at most s_i / 2."""
    dz = (rows.column_norms() if norms is None else norms) @ np.abs(change)
    return rows.most / 4 * float(dz @ dz) + float(K @ np.sum(change[:-1] ** 2, axis=1)) / 2


def package(found: _sampled.Found, rows: Source, m: N, scale: N, numbers: Numbers, dtype: Any) -> Fit:
    k, d, free = rows.k, len(m), numbers.l2 == 0 and numbers.l1 == 0
    w = found.theta[:-1] / scale[:, None]
    b = found.theta[-1] - m @ w if rows.intercept else np.zeros(k)
    if k > 1:
        b = b - b.mean()
    g = scale[:, None] * found.g[:-1] + m[:, None] * found.g[-1]
    size = np.max(np.abs(b) + np.sum(np.abs(m[:, None] * w), axis=0)) * (2 * EPS if rows.intercept else 0)
    bound, f = found.bound + rise_by(size, np.abs(found.g[-1]).sum(), rows.total, found.f, k), found.f
    if dtype != np.float64:
        w, b = w.astype(dtype), b.astype(dtype)
        theta = np.concatenate([w * scale[:, None].astype(np.float64), (b + m @ w.astype(np.float64))[None, :]])
        change = theta - found.theta
        change[-1] -= change[-1].mean() if k > 1 else 0.0
        change[-1] = np.abs(change[-1]) + size
        # f* <= f(theta - t change) <= f - t g^T change + t^2 c for any t: so that adds at most 2 sqrt(bound c) + c.
        c = _bend(rows, found.norms, change, numbers.l2 / scale**2) if numbers.l1 == 0 else np.inf
        if 2 * np.sqrt(bound * c) + c <= max(1e-9, min(numbers.tol, EPS32) / 4) * f:  # less than the dtype can tell
            bound = (np.sqrt(bound) + np.sqrt(c)) ** 2
        else:
            rounded = _passes.value(rows, theta) + numbers.l2 / 2 * float(np.sum(w.astype(np.float64) ** 2))
            rounded += numbers.l1 * float(np.sum(np.abs(w.astype(np.float64))))
            # A logit off by e moves a loss L by 2 L e at most.
            bound, f = bound + max(rounded - f, 0.0) + (4 * EPS + 2 * size) * abs(rounded), rounded
    code = Status(int(after_rounding(np.asarray(found.code), np.asarray(bound), f, numbers.tol, dtype)))
    code = code if np.isfinite(f) else Status.non_finite  # float32 may not hold the parameters
    w_error, b_error = np.full((d, k), np.nan), np.full(k, np.nan)
    if free and found.covariance is not None:
        C = found.covariance.reshape(d + 1, k, d + 1, k)
        to_b = np.append(-m / scale, 1.0)
        w_error = np.sqrt(np.einsum("iaia->ia", C)[:-1]) / scale[:, None]
        b_error = np.sqrt(np.einsum("i,iaja,j->a", to_b, C, to_b)) if rows.intercept else np.zeros(k)

    def shown(w: Any, b: Any) -> Linear:
        w, b = w.astype(dtype, copy=False), b.astype(dtype, copy=False)
        return Linear(w[:, 0], b[0]) if k == 1 else Linear(w, b)

    def number(v: float) -> Any:
        return np.asarray(v, dtype)

    def whole(v: Any) -> Any:
        return np.asarray(v, np.int32)

    direction = np.full((d + 1, k), np.nan) if found.direction is None else found.direction
    w_direction = direction[:-1] / scale[:, None]
    certificate = Certificate(
        converged=whole(code in (Status.converged, Status.rank_deficient)).astype(bool),
        steps=whole(found.steps),
        gradient_norm=number(np.sqrt(np.sum(g * g) + np.sum(found.g[-1] ** 2))),
        objective=number(f),
        suboptimality=number(upwards(bound, dtype)),
        rank=None if found.rank is None else whole(found.rank),
        standard_errors=shown(w_error, b_error),
        direction=shown(w_direction, direction[-1] - m @ w_direction),
    )
    return Fit(shown(w, b), certificate, whole(code))
