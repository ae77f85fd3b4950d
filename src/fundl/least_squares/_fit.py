"""The fit: the exact solver for any array, with its derivatives."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check
from fundl._precise import matmul, namespace, rows_dot, safe_divide
from fundl._result import Certificate, Fit, Status
from fundl._types import Array, ArrayLike, Linear
from fundl.least_squares import _constant, _exact, _plain, _spectral
from fundl.least_squares._inputs import (
    by_rows,
    held,
    in_dtype,
    penalty_of,
    refuse_not_finite,
    shaped,
    to_device,
    to_host,
)

METHODS = ("auto", "exact")
ENTRIES = 1 << 22  # of a block of the exact sums, which take about a hundred times their memory


def fit(
    X: ArrayLike,
    y: ArrayLike,
    *,
    l2: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    intercept: bool = True,
    method: str = "auto",
) -> Fit:
    """Minimise sum_i weights_i (x_i w + b - y_i)^2 + l2 norm2(w)^2; see `linear_regression.fit`.

    >>> print(fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0]).params.w)
    [2.]
    """
    _check.choice("method", method, METHODS)
    X, y, weights = shaped(X, y, weights)
    penalty = penalty_of(l2, X.dtype)
    Y = y if y.ndim == 2 else y[:, None]
    intercept, single = _check.flag("intercept", intercept), y.ndim == 1
    if not _check.on_host(X, Y, penalty, weights):
        refuse_not_finite(X, y, weights)
        return _jitted(X, Y, *in_dtype(X.dtype, penalty, weights), intercept, single)
    # numpy compiles nothing, and holds float64 whatever jax is told: float32 data are solved in float64.
    eps = float(jnp.finfo(X.dtype).eps)
    wide_l2, s = to_host(penalty, weights)
    found = None
    with np.errstate(all="ignore"):
        for quick in (_plain.attempt, _constant.attempt) if method == "auto" else ():
            found = quick(np.asarray(X), np.asarray(Y), s, wide_l2, intercept, eps) if found is None else found
    if found is None:
        refuse_not_finite(X, y, weights)  # the quick way saw to that by itself
        with np.errstate(all="ignore"):
            if method == "auto" and _spectral.costly(X.shape[1]):
                wide_X, wide_Y = to_host(X, Y)
                found = _spectral.solve(wide_X, wide_Y, s, wide_l2, intercept, eps)
            else:
                M = _moments(np.asarray(X), np.asarray(Y), s, intercept)
                found = _exact.solve(M, wide_l2, d=X.shape[1], intercept=intercept, eps=eps)
    dtype = held(X.dtype)
    with np.errstate(all="ignore"):
        if dtype != X.dtype:
            found = narrowed(found, len(X) if s is None else s.sum(), wide_l2, dtype)
        return to_device(package(found, single, dtype), dtype)


def narrowed(found: _exact.Solution, weight: Any, l2: Any, dtype: Any) -> _exact.Solution:
    """What float64 data gave, with the bounds of the result rounded to `dtype`, or not finite where that overflows.

    The objective rises by ||X dw + db||^2 + l2 ||dw||^2.
    """
    limits = jnp.finfo(dtype)
    unit = float(limits.eps) / 2 * 1.000001
    w, b, lengths = abs(found.w), abs(found.b), found.lengths
    rise = np.hypot(np.linalg.norm(lengths @ w + np.sqrt(weight) * b), np.sqrt(l2) * np.linalg.norm(w)) * unit
    suboptimality = np.square(np.sqrt(found.suboptimality) + rise)
    return found._replace(
        finite=found.finite & (max(w.max(), b.max()) <= float(limits.max)),
        digits=np.minimum(found.digits, -np.log10(unit)),
        suboptimality=suboptimality,
        gradient_norm=2 * np.sqrt(suboptimality * (lengths @ lengths + weight + l2)),
        w_bound=found.w_bound + unit * w,
        b_bound=found.b_bound + unit * b,
    )


def _moments(X: np.ndarray, Y: np.ndarray, s: np.ndarray | None, intercept: bool) -> _exact.Moments:
    """Exact sums in float64, block by block, so that data larger than the memory pass too."""
    found, rows = None, max(1, ENTRIES // (X.shape[1] + Y.shape[1]))
    for i in range(0, len(X), rows):
        A, B = (np.asarray(v[i : i + rows], np.float64) for v in (X, Y))
        part = None if s is None else s[i : i + rows]
        if found is None:
            found = _exact.moments(A, B, part, intercept)
        else:
            found = _exact.sum_moments(found, _exact.moments(A, B, part, intercept, (found.m, found.my)))
    assert found is not None
    return found


@functools.partial(jax.jit, static_argnums=(4, 5))
def _jitted(X: Array, Y: Array, l2: Array, weights: Array | None, intercept: bool, single: bool) -> Fit:
    X, Y, weights = by_rows(X, Y, weights)
    return package(_solution(X, Y, l2, weights, intercept), single, X.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _solution(X: Array, Y: Array, l2: Array, weights: Array | None, intercept: bool) -> _exact.Solution:
    M = _exact.moments(X, Y, weights, intercept)
    return _exact.solve(M, l2, d=X.shape[1], intercept=intercept, eps=float(jnp.finfo(X.dtype).eps))


@_solution.defjvp
def _solution_jvp(intercept: bool, primals: Any, tangents: Any) -> Any:
    """At the minimum X^T S r = l2 w with r = y - X w - b; differentiate that, and solve for dw and db.

    M dw = X^T S (dy - dX w) + dX^T S r + X^T dS r - dl2 w with M = X^T S X + l2 I: the same matrix again, whose
    inverse the solution brought along. Columns are shifted and scaled by constants, which changes no derivative.
    """
    X, Y, l2, weights = primals
    dX, dY, dl2, ds = tangents
    found = _solution(X, Y, l2, weights, intercept)
    constant = jax.lax.stop_gradient(found)
    d = X.shape[1]
    scale, m, K = constant.scale, constant.m, constant.inverse
    deficient = constant.rank < d
    s = jnp.ones_like(X[:, 0]) if weights is None else weights
    keep = (s != 0)[:, None]
    zero = jnp.zeros((), X.dtype)
    # A row of weight 0 has no say, but its residual is the derivative with respect to its weight, if it is a number.
    counts = _check.seen(weights, _check.ordinary(X), _check.ordinary(Y))
    counts = jnp.ones_like(keep) if counts is None else counts[:, None]
    Z = jnp.where(counts, (X - m[None, :]) / scale[None, :], zero)
    dZ, dY = jnp.where(keep, dX / scale[None, :], zero), jnp.where(keep, dY, zero)
    Z = _without_slope(Z, deficient)
    w_hat = found.w * scale[:, None]
    centre = found.b + matmul(m[None, :], found.w)[0]
    r = jnp.where(counts, Y - matmul(Z, w_hat) - centre[None, :], zero)
    penalty = (l2 / scale**2)[:, None]

    def matvec(v: Array) -> Array:
        if not intercept:
            return rows_dot(Z, s[:, None] * matmul(Z, v)) + penalty * v
        q = s[:, None] * (matmul(Z, v[:d]) + v[d][None, :])
        return jnp.concatenate([rows_dot(Z, q) + penalty * v[:d], jnp.sum(q, axis=0)[None, :]])

    def solve(matvec: Any, rhs: Array) -> Array:
        v = matmul(K, rhs) / constant.s_scale
        return v + matmul(K, rhs - matvec(v)) / constant.s_scale

    q = s[:, None] * (dY - matmul(dZ, w_hat))
    if weights is not None:
        q = q + ds[:, None] * r
    rhs = rows_dot(Z, q) + rows_dot(dZ, s[:, None] * r) - dl2 * w_hat / scale[:, None] ** 2
    if intercept:
        rhs = jnp.concatenate([rhs, jnp.sum(q, axis=0)[None, :]])
    v = jax.lax.custom_linear_solve(matvec, rhs, solve, symmetric=True)
    dw = v[:d] / scale[:, None]

    # Dependent columns: of all dw that fit, the one that keeps the solution the shortest while the null space turns
    # with dX: P_N dw = P_N dX^T S z with z = X M^+ w (Golub and Pereyra, SIAM J. Numer. Anal. 10 (1973), (4.12)).
    unit = jnp.where(deficient, scale, jnp.ones_like(scale))[:, None]
    a = matmul(K[:d, :d], found.w / unit) / unit / constant.s_scale
    z = matmul(Z, matmul(constant.projection, a) * unit)
    if intercept:
        z = z - safe_divide(jnp.sum(s[:, None] * z, axis=0), jnp.sum(s))[None, :]
    turned = rows_dot(dZ * jnp.where(deficient, scale, jnp.ones_like(scale))[None, :], s[:, None] * z)
    turned = turned - matmul(constant.projection, turned)
    dw = jnp.where(deficient, matmul(constant.projection, dw) + turned, dw)
    db = v[d] - matmul(m[None, :], dw)[0] if intercept else jnp.zeros_like(found.b)
    return found, jax.tree.map(_no_tangent, found)._replace(w=dw, b=db)


@jax.custom_jvp
def _without_slope(x: Array, unknown: Array) -> Array:
    """x; its derivative is NaN where `unknown`: second derivatives at dependent columns are refused, not guessed."""
    return x


@_without_slope.defjvp
def _without_slope_jvp(primals: Any, tangents: Any) -> Any:
    x, unknown = primals
    return x, jnp.where(unknown, jnp.full_like(x, jnp.nan), jnp.ones_like(x)) * tangents[0]


def _no_tangent(x: Array) -> Any:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)


def _code(finite: Any, full: Any, trusted: Any) -> Any:
    """The status; without arrays where numpy knows the answer."""
    if namespace(finite) is np:
        known = Status.converged if trusted else Status.ill_conditioned
        known = known if full else Status.rank_deficient
        return np.asarray(int(known if finite else Status.non_finite), np.int32)
    code = jnp.where(trusted, jnp.int32(Status.converged), jnp.int32(Status.ill_conditioned))
    code = jnp.where(full, code, jnp.int32(Status.rank_deficient))
    return jnp.where(finite, code, jnp.int32(Status.non_finite))


def package(found: _exact.Solution, single: bool, dtype: Any) -> Fit:
    """The Fit: NaN parameters where the data were not finite, one column for a y of one axis."""
    tiny = float(jnp.finfo(dtype).tiny)
    w, b = found.w, found.b
    xp = namespace(w)
    finite = found.finite & xp.all(xp.isfinite(w)) & xp.all(xp.isfinite(b))
    full = found.rank == w.shape[0]
    trusted = ~(found.digits < 1) if found.trusted is None else found.trusted
    code = _code(finite, full, trusted)
    plain = xp is np and bool(finite)  # a concrete fit without NaN: nothing to replace

    def number(v: Any) -> Any:
        return v if plain else xp.where(finite, v, xp.full_like(v, np.nan))

    def shown(v: Any) -> Any:
        return number(v[..., 0] if single else v)

    def bound(v: Any, size: Any) -> Any:
        # Below the smallest normal number of the result only that is certain.
        if plain and (abs(size) >= tiny).all():
            return shown(v)
        return shown(xp.where(abs(size) < tiny, v + tiny, v))

    inf = xp.full_like(found.suboptimality, np.inf)
    certificate = Certificate(
        converged=finite & trusted,
        steps=xp.asarray(0, np.int32),
        gradient_norm=number(found.gradient_norm),
        objective=number(found.objective),
        suboptimality=found.suboptimality if plain else xp.where(finite, found.suboptimality, inf),
        rank=found.rank,
        condition=number(found.condition),
        digits=xp.where(finite, found.digits, xp.zeros_like(found.digits)),
        residual_deviation=shown(found.deviation),
        standard_errors=Linear(shown(found.w_error), shown(found.b_error)),
        error_bound=Linear(bound(found.w_bound, w), bound(found.b_bound, b)),
    )
    return Fit(params=Linear(shown(w), shown(b)), certificate=certificate, code=code)
