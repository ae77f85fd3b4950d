"""The fit of both models: one compiled program from the data to the Fit, and its derivatives."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check
from fundl._precise import HIGHEST, matmul, rows_dot
from fundl._result import Certificate, Fit, Status
from fundl._types import Array, ArrayLike, Linear
from fundl.newton import _dense, _links, _subspace, _wide
from fundl.newton._design import Design, design, standardise
from fundl.newton._until_proved import until_proved

METHODS = ("auto", "newton", "subspace")


class Solution(NamedTuple):
    """What the solver returns, in the units of X; the parts after `code` are constants for the derivatives."""

    w: Array  # (d, k)
    b: Array  # (k,)
    f: Array
    gradient_norm: Array
    bound: Array
    steps: Array
    w_error: Array
    b_error: Array
    w_direction: Array
    b_direction: Array
    code: Array
    m: Array
    scale: Array
    null: Array
    shortest: Array
    rank: Array


def fit(
    X: Array,
    Y: Array,
    *,
    link: str,
    l2: ArrayLike,
    l1: ArrayLike,
    weights: Array | None,
    intercept: bool,
    method: str,
    tol: ArrayLike,
    max_steps: int,
    narrow: bool = False,
) -> Fit:
    """Minimise sum_i weights_i L_i + (l2 / 2) norm2(w)^2 + l1 norm1(w); see the two models.

    Y (n, 1) with the link "sigmoid", (n, k) with "softmax"; X and Y are floating and of one dtype. narrow: the result
    is float32, whatever the dtype of the data.
    """
    _check.choice("method", method, METHODS)
    _check.whole("max_steps", max_steps, 1)
    numbers = []
    for name, value in (("l2", l2), ("l1", l1), ("tol", tol)):
        (_check.nonnegative if name == "tol" else _check.penalty)(name, value)
        value = _check.array(name, value)
        if value.ndim:
            raise ValueError(f"{name} must be one number, shape (); got shape {value.shape}. Use vmap for many.")
        numbers.append(value.astype(X.dtype))
    sparse = not (_check.concrete(l1) and float(l1) == 0)  # type: ignore[arg-type]
    if weights is not None:
        _check.refuse_where(lambda v: ~(v > 0).any(keepdims=True), "weights", weights, "must not all be 0")
    s = jnp.ones_like(X[:, 0]) if weights is None else weights
    if method == "auto":
        method = _choose(X.shape[1], Y.shape[1], sparse, _check.concrete(l2) and float(l2) == 0)  # type: ignore[arg-type]
    elif method == "subspace" and sparse:
        raise ValueError('method="subspace" knows no l1: use method="newton" or "auto".')
    given = X, Y, s, *numbers[:2]
    stop = None if _check.real(tol) == 0 else numbers[2]
    static = link, _check.flag("intercept", intercept), "l1" if sparse else method
    dtype = jnp.dtype(jnp.float32) if narrow else X.dtype
    if dtype.itemsize < 8 and all(_check.concrete(v) for v in (*given, stop, max_steps)):
        return _wide.in_float64(_jitted, given, stop, max_steps, static, dtype)
    return _jitted(*given, stop, max_steps, *static)


def _choose(d: int, k: int, sparse: bool, free: bool) -> str:
    """The whole Hessian where it is small, where l1 needs it, or where without a penalty only it tells how far f is."""
    p = (d + 1) * k
    limit = 2000 if free else (400 if k == 1 else 150)
    return "newton" if sparse or p <= limit else "subspace"


@functools.partial(jax.jit, static_argnums=(7, 8, 9))
def _jitted(
    X: Array, Y: Array, s: Array, l2: Array, l1: Array, tol: Array | None, max_steps: Array, link: str, intercept: bool,
    method: str,
) -> Fit:  # fmt: skip
    found = _solution(X, Y, s, l2, l1, tol, max_steps, link, intercept, method)
    return _package(found, link == _links.SIGMOID)


@functools.partial(jax.custom_jvp, nondiff_argnums=(7, 8, 9))
def _solution(
    X: Array, Y: Array, s: Array, l2: Array, l1: Array, tol: Array | None, max_steps: Array, link: str, intercept: bool,
    method: str,
) -> Solution:  # fmt: skip
    sparse = method == "l1"
    Y = jnp.where((s > 0)[:, None], Y, jnp.zeros_like(Y))
    parts = design(X, s, l2, intercept, sparse)
    P = _dense.problem(parts, Y, s, l2, l1 if sparse else None, link)
    most = 10 * max_steps if method == "subspace" else max_steps

    def solve(start: Array, tol: Array, most: Array) -> _dense.Found:
        if method == "subspace":
            found = _subspace.minimise(P, parts.null, link, start, tol, most)
        else:
            found = _dense.minimise(P, link, start, tol, most)
        return found if sparse else found._replace(bound=found.bound + _dense.held_back(P, parts.null, found))

    start = rows_dot(P.Z, jnp.zeros_like(Y))
    if tol is None:  # 0: there is nothing to go on with, and the program is smaller by a loop
        tol = jnp.zeros_like(l2)
        found = solve(start, tol, most)
    else:
        found = until_proved(solve, start, tol, jnp.asarray(most))
    w, b = _outside(found.theta, parts)
    b = _sum_to_zero(b)
    w_direction, b_direction = _outside(found.direction, parts)
    g = parts.scale[:, None] * found.g[:-1] + parts.m[:, None] * found.g[-1][None, :]
    # b = theta_b - m w is rounded, and its error moves every logit.
    eps = jnp.finfo(X.dtype).eps
    db = jnp.abs(b) + jnp.sum(jnp.abs(parts.m[:, None] * w), axis=0)
    db = jnp.max(db) * (2 * eps if intercept else 0)
    bound = found.bound + _wide.rise_by(db, jnp.sum(jnp.abs(found.g[-1])), parts.gram[-1, -1], found.f, Y.shape[1])
    # The bound counts rounding errors at their worst, so it stops falling above the rounding of f itself.
    converged = bound <= jnp.maximum(tol, jnp.sqrt(eps) / 100) * found.f
    sharp = bound <= jnp.sqrt(eps) * found.f
    if method == "subspace":  # without a penalty it may know no bound: there the gradient, down to rounding, is enough
        held_back = _dense.held_back(P, parts.null, found)
        sharp = sharp | (P.free & jnp.isinf(bound) & (held_back <= jnp.sqrt(eps) * found.f))
    converged = converged | (found.solved & sharp)
    code = jnp.where(converged, int(Status.converged), int(Status.stalled))
    code = jnp.where(~converged & (found.steps >= most), int(Status.max_steps), code)
    code = jnp.where(converged & P.free & (parts.rank < X.shape[1]), int(Status.rank_deficient), code)
    code = jnp.where(found.separates, int(Status.separable), code)
    # Bad numbers in a trace, where nothing can be refused; each comparison is False for NaN.
    finite = found.finite & jnp.all(s >= 0) & (jnp.sum(s) > 0) & (l2 >= 0) & (l1 >= 0)
    code = jnp.where(finite, code, int(Status.non_finite)).astype(jnp.int32)
    if found.inverse is None:
        w_error, b_error = jnp.full_like(w, jnp.nan), jnp.full_like(b, jnp.nan)
    else:
        w_error, b_error = _standard_errors(found.inverse, parts, Y.shape[1])
        b_error = b_error if intercept else jnp.zeros_like(b_error)
    exists = P.free & finite & ~found.separates
    return Solution(
        w=jnp.where(finite, w, jnp.full_like(w, jnp.nan)),
        b=jnp.where(finite, b, jnp.full_like(b, jnp.nan)),
        f=jnp.where(finite, found.f, jnp.full_like(bound, jnp.nan)),
        gradient_norm=jnp.sqrt(jnp.sum(g * g) + jnp.sum(found.g[-1] ** 2)),
        bound=jnp.where(finite & ~found.separates, bound, jnp.full_like(bound, jnp.inf)),
        steps=found.steps,
        w_error=jnp.where(exists, w_error, jnp.full_like(w_error, jnp.nan)),
        b_error=jnp.where(exists, b_error, jnp.full_like(b_error, jnp.nan)),
        w_direction=jnp.where(found.separates, w_direction, jnp.full_like(w, jnp.nan)),
        b_direction=jnp.where(found.separates, b_direction, jnp.full_like(b, jnp.nan)),
        code=code,
        m=parts.m,
        scale=parts.scale,
        null=parts.null,
        shortest=parts.shortest,
        rank=parts.rank,
    )


def _sum_to_zero(b: Array) -> Array:
    """Of all b with the same probabilities the shortest; a single b is what it is."""
    return b if b.shape[0] == 1 else b - jnp.mean(b)


def _outside(theta: Array, parts: Any) -> tuple[Array, Array]:
    """theta in the units of X: w and b."""
    w = matmul(parts.shortest, theta[:-1] / parts.scale[:, None])
    return w, theta[-1] - matmul(parts.m[None, :], w)[0]


@_solution.defjvp
def _solution_jvp(link: str, intercept: bool, method: str, primals: Any, tangents: Any) -> Any:
    """At the minimum the gradient G(theta, data) is 0, so H dtheta = -(dG/d data) d data, with H the Hessian there.

    Under l1 the coefficients that are 0 stay 0, and the others keep their signs. The shift and the scale of the columns
    are constants, which changes no derivative.
    """
    X, Y, s, l2, l1 = primals[:5]
    sparse = method == "l1"
    found = _solution(*primals, link, intercept, method)
    constant = jax.lax.stop_gradient(found)
    m, scale, null = constant.m, constant.scale, constant.null
    D = X.shape[1] + 1
    theta = jnp.concatenate([found.w * scale[:, None], (found.b + matmul(m[None, :], found.w)[0])[None, :]])
    sign = jnp.concatenate([jnp.sign(constant.w), jnp.zeros_like(constant.b)[None, :]])
    last = (jnp.arange(D) == D - 1)[:, None]
    moves = (sign != 0) | (last & intercept) if sparse else jnp.ones_like(sign, bool) & (~last | intercept)
    one_over = jnp.concatenate([1 / scale, jnp.zeros_like(scale[:1])])[:, None]
    usable = _check.ordinary((X - m[None, :]) / scale[None, :]), (Y >= 0) & (Y <= 1)
    keep = jnp.asarray(_check.seen(s, *usable))  # a weight of 0 has a derivative

    def held(v: Array) -> Array:
        return jnp.where(moves, v, jnp.zeros_like(v))

    def stationarity(X: Array, Y: Array, s: Array, l2: Array, l1: Array) -> Array:
        Z = _rows(X, keep, m, scale, intercept)
        # The weights multiply last: a row of weight 0 has no residual here, but its weight has a derivative.
        Y = jnp.where(keep[:, None], Y, jnp.zeros_like(Y))
        alpha = _links.residual(link, matmul(Z, theta), Y, jnp.ones_like(s)) * s[:, None]
        return held(rows_dot(Z, alpha) + l2 * one_over**2 * theta + l1 * one_over * sign)

    def objective(X: Array, Y: Array, s: Array, l2: Array, l1: Array) -> Array:
        t = jax.lax.stop_gradient(theta)
        Y = jnp.where(keep[:, None], Y, jnp.zeros_like(Y))
        z = matmul(_rows(X, keep, m, scale, intercept), t)
        size = jnp.sum((one_over * t) ** 2) * l2 / 2 + jnp.sum(one_over * jnp.abs(t)) * l1
        return _links.value(link, z, Y, s) + size

    data = (X, Y, s, l2, l1)
    _, rhs = jax.jvp(stationarity, data, tuple(tangents[:5]))
    _, df = jax.jvp(objective, data, tuple(tangents[:5]))
    Z = _rows(X, keep, m, scale, intercept)
    h, q = _links.curvature(link, matmul(Z, theta), jnp.where(keep[:, None], Y, jnp.zeros_like(Y)), s)
    # Along the directions that change nothing dtheta is 0: those of dependent columns, and equal shifts of all classes,
    # which a penalty forbids, but in rounding.
    fix = jnp.pad(null, ((0, 1), (0, 1)))
    fix = jnp.where(l2 == 0, fix * jnp.sum(s), jnp.zeros_like(fix))
    shift = jnp.diag(jnp.where(last[:, 0] | (not sparse), 1.0, 0.0).astype(X.dtype))
    shift = jax.lax.stop_gradient(shift * jnp.sum(s) / 4)
    fix = jax.lax.stop_gradient(fix)

    def matvec(v: Array) -> Array:
        u = held(v)
        out = rows_dot(Z, _links.curvature_times(h, q, matmul(Z, u))) + l2 * one_over**2 * u + matmul(fix, u)
        if link == _links.SOFTMAX:
            out = out + matmul(shift, jnp.mean(u, axis=1, keepdims=True) + jnp.zeros_like(u))
        return jnp.where(moves, out, v)

    if method == "subspace":
        solve = _by_conjugate_gradients(Z, s, l2, one_over, fix, link)
    else:
        solve = _by_cholesky(_links.hessian(Z, h, q), l2, one_over, fix, shift, moves, link)
    dtheta = jax.lax.custom_linear_solve(matvec, -rhs, solve, symmetric=True)
    dw = dtheta[:-1] / scale[:, None]
    if not sparse:
        dw = jnp.where((l2 == 0) & (constant.rank < D - 1), _turned(dw, constant, X, tangents[0], s, intercept), dw)
    db = _sum_to_zero(dtheta[-1] - matmul(m[None, :], dw)[0])
    out = jax.tree.map(_no_tangent, found)
    return found, out._replace(w=dw, b=db, f=df)


def _by_cholesky(H: Array, l2: Array, one_over: Array, fix: Array, shift: Array, moves: Array, link: str) -> Any:
    """A solver of H v = rhs for custom_linear_solve: factors that are constants, and one refinement."""
    D, k = moves.shape
    H, l2 = jax.lax.stop_gradient((H, l2))
    own = fix + jnp.diag(l2 * one_over[:, 0] ** 2)
    H = H + own[:, None, :, None] * jnp.eye(k, dtype=H.dtype)[None, :, None, :]
    if link == _links.SOFTMAX:
        H = H + shift[:, None, :, None] * jnp.full((1, k, 1, k), 1 / k, H.dtype)
    both = moves.reshape(-1)[:, None] & moves.reshape(-1)[None, :]
    H = jnp.where(both, H.reshape(D * k, D * k), jnp.eye(D * k, dtype=H.dtype))
    factor = jnp.linalg.cholesky(H + jnp.diag(_dense.jitter(H)))

    def solve(matvec: Any, rhs: Array) -> Array:
        v = jnp.zeros_like(rhs)
        for _ in range(2):
            v = v + jax.scipy.linalg.cho_solve((factor, True), (rhs - matvec(v)).reshape(-1)).reshape(v.shape)
        return v

    return solve


def _by_conjugate_gradients(Z: Array, s: Array, l2: Array, one_over: Array, fix: Array, link: str) -> Any:
    """The same without the whole Hessian: conjugate gradients, preconditioned by the Gram matrix."""
    Z, s, l2 = jax.lax.stop_gradient((Z, s, l2))
    c = 1 / 4 if link == _links.SIGMOID else 1 / 2
    M = c * rows_dot(Z, s[:, None] * Z) + fix + jnp.diag(l2 * one_over[:, 0] ** 2)
    M = M + jnp.diag(jnp.where(jnp.diagonal(M) == 0, 1.0, 0.0).astype(M.dtype))
    factor = jnp.linalg.cholesky(M + jnp.diag(_dense.jitter(M)))

    def solve(matvec: Any, rhs: Array) -> Array:
        def inverse(v: Array) -> Array:
            return jax.scipy.linalg.cho_solve((factor, True), v)

        return jax.scipy.sparse.linalg.cg(matvec, rhs, tol=1e-13, maxiter=500, M=inverse)[0]

    return solve


def _turned(dw: Array, constant: Solution, X: Array, dX: Array, s: Array, intercept: bool) -> Array:
    """Of all dw that fit, the one that keeps w the shortest while the null space N of the columns turns with dX.

    P_N dw = P_N dX^T u for any u with X^T u = w that sums to 0, from X N = const (differentiate N^T w = 0).
    """
    s = jax.lax.stop_gradient(s)
    Z = jax.lax.stop_gradient(_rows(X, s > 0, constant.m, constant.scale, intercept))[:, :-1]
    C = rows_dot(Z, s[:, None] * Z) + constant.null * jnp.sum(s)
    factor = jnp.linalg.cholesky(C + jnp.diag(_dense.jitter(C)))
    u = s[:, None] * matmul(Z, jax.scipy.linalg.cho_solve((factor, True), constant.w / constant.scale[:, None]))
    turned = rows_dot(jnp.where((s > 0)[:, None], dX, jnp.zeros_like(dX)), u)
    return matmul(constant.shortest, dw) + turned - matmul(constant.shortest, turned)


def _rows(X: Array, keep: Array, m: Array, scale: Array, intercept: bool) -> Array:
    return standardise(X, keep.astype(X.dtype), m, scale, intercept)


def _no_tangent(x: Array) -> Any:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)


def _standard_errors(inverse: Array, parts: Design, k: int) -> tuple[Array, Array]:
    """Roots of the diagonal of the inverse Hessian in the units of X; NaN for columns that depend on others."""
    D = parts.Z.shape[1]
    C = jnp.einsum("iajb->abij", inverse.reshape(D, k, D, k))
    if k > 1:  # without the part along which nothing changes, the same number added to all classes
        C = C - jnp.mean(C, axis=0, keepdims=True)
        C = C - jnp.mean(C, axis=1, keepdims=True)
    C = jnp.einsum("aaij->aij", C)
    variance = jnp.diagonal(C, axis1=1, axis2=2)[:, :-1] / (parts.scale**2)[None, :]
    to_b = jnp.concatenate([-parts.m / parts.scale, jnp.ones_like(parts.m[:1])])
    b_variance = jnp.einsum("i,aij,j->a", to_b, C, to_b, precision=HIGHEST)
    dependent = jnp.sum(jnp.abs(parts.null), axis=1) > 1e-6
    w_error = jnp.where(dependent[:, None], jnp.full((1, 1), jnp.nan, variance.dtype), jnp.sqrt(variance.T))
    return w_error, jnp.sqrt(b_variance)


def _package(found: Solution, single: bool) -> Fit:
    def shown(w: Array, b: Array) -> Linear:
        return Linear(w[:, 0], b[0]) if single else Linear(w, b)

    certificate = Certificate(
        converged=(found.code == int(Status.converged)) | (found.code == int(Status.rank_deficient)),
        steps=found.steps,
        gradient_norm=found.gradient_norm,
        objective=found.f,
        suboptimality=found.bound,
        rank=found.rank,
        standard_errors=shown(found.w_error, found.b_error),
        direction=shown(found.w_direction, found.b_direction),
    )
    return Fit(params=shown(found.w, found.b), certificate=certificate, code=found.code)
