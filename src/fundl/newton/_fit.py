"""The fit of both models: refusals, one compiled program, and the Fit that comes out of it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundl import _check
from fundl._precise import matmul
from fundl._result import Certificate, Fit, Status
from fundl._types import Array, ArrayLike, Linear
from fundl.newton import _dense, _links
from fundl.newton._design import design

METHODS = ("auto", "newton")


class Solution(NamedTuple):
    """What the compiled program returns, in the units of X."""

    w: Array
    b: Array
    f: Array
    gradient_norm: Array
    bound: Array
    steps: Array
    rank: Array
    code: Array
    w_error: Array
    b_error: Array
    w_direction: Array
    b_direction: Array


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
) -> Fit:
    """Minimise sum_i weights_i L_i + (l2 / 2) norm2(w)^2 + l1 norm1(w); see the two models.

    Y (n, 1) with the link "sigmoid", (n, k) with "softmax"; X and Y are floating and of one dtype.
    """
    _check.choice("method", method, METHODS)
    _check.nonnegative("l2", l2)
    _check.nonnegative("l1", l1)
    _check.nonnegative("tol", tol)
    if weights is not None:
        _check.refuse_where(lambda v: ~jnp.any(v > 0)[None], "weights", weights, "must not all be 0")
    numbers = []
    for name, value in (("l2", l2), ("l1", l1), ("tol", tol)):
        value = _check.array(name, value)
        if value.ndim:
            raise ValueError(f"{name} must be one number, shape (); got shape {value.shape}. Use vmap for many.")
        numbers.append(value.astype(X.dtype))
    s = jnp.ones_like(X[:, 0]) if weights is None else weights
    found = _jitted(X, Y, s, *numbers, jnp.asarray(max_steps, jnp.int32), link, bool(intercept))
    return _package(found, link)


@functools.partial(jax.jit, static_argnums=(7, 8))
def _jitted(
    X: Array, Y: Array, s: Array, l2: Array, l1: Array, tol: Array, max_steps: Array, link: str, intercept: bool
) -> Solution:
    return _solution(X, Y, s, l2, l1, tol, max_steps, link, intercept)


def _solution(
    X: Array, Y: Array, s: Array, l2: Array, l1: Array, tol: Array, max_steps: Array, link: str, intercept: bool
) -> Solution:
    Y = jnp.where((s > 0)[:, None], Y, jnp.zeros_like(Y))
    parts = design(X, s, intercept)
    P = _dense.problem(parts, Y, s, l2, link)
    found = _dense.minimise(P, link, tol, max_steps)
    k = Y.shape[1]

    def outside(theta: Array) -> tuple[Array, Array]:
        """theta in the units of X."""
        w = matmul(parts.shortest, theta[:-1] / parts.scale[:, None])
        return w, theta[-1] - matmul(parts.m[None, :], w)[0]

    w, b = outside(found.theta)
    w_direction, b_direction = outside(found.direction)
    g = parts.scale[:, None] * found.g[:-1] + parts.m[:, None] * found.g[-1][None, :]
    gradient_norm = jnp.sqrt(jnp.sum(g * g) + jnp.sum(found.g[-1] ** 2))
    # b = theta_b - m w is rounded: its error moves every logit.
    db = 2 * jnp.finfo(X.dtype).eps * (jnp.abs(b) + jnp.max(jnp.abs(parts.m[:, None] * w), axis=0) * w.shape[0])
    db = jnp.sum(db) * (1 if intercept else 0)
    moved = jnp.sum(jnp.abs(found.g[-1])) * db + parts.gram[-1, -1] * db * db / 2
    bound = found.bound + moved
    w_error, b_error = _standard_errors(found.inverse, parts, k)
    free = (l2 == 0) & (l1 == 0)
    eps = jnp.finfo(X.dtype).eps
    # The bound counts rounding errors at their worst, so it stops falling above the rounding of f itself.
    converged = bound <= jnp.maximum(tol, jnp.sqrt(eps) / 100) * found.f
    code = jnp.where(converged, int(Status.converged), int(Status.stalled))
    code = jnp.where(~converged & (found.steps >= max_steps), int(Status.max_steps), code)
    code = jnp.where(converged & free & (parts.rank < X.shape[1]), int(Status.rank_deficient), code)
    code = jnp.where(found.separates, int(Status.separable), code)
    code = jnp.where(found.finite & (jnp.sum(s) > 0), code, int(Status.non_finite)).astype(jnp.int32)
    nothing = found.separates | ~found.finite
    return Solution(
        w=w,
        b=b,
        f=found.f,
        gradient_norm=gradient_norm,
        bound=jnp.where(nothing, jnp.full_like(bound, jnp.inf), bound),
        steps=found.steps,
        rank=parts.rank,
        code=code,
        w_error=jnp.where(nothing | ~free, jnp.full_like(w_error, jnp.nan), w_error),
        b_error=jnp.where(nothing | ~free, jnp.full_like(b_error, jnp.nan), b_error),
        w_direction=w_direction,
        b_direction=b_direction,
    )


def _standard_errors(inverse: Array, parts: Any, k: int) -> tuple[Array, Array]:
    """Roots of the diagonal of the inverse Hessian in the units of X; NaN for columns that depend on others."""
    D = parts.Z.shape[1]
    C = jnp.einsum("iajb->abij", inverse.reshape(D, k, D, k))
    if k > 1:  # without the part along which nothing changes, the same number added to all classes
        C = C - jnp.mean(C, axis=0, keepdims=True)
        C = C - jnp.mean(C, axis=1, keepdims=True)
    C = jnp.einsum("aaij->aij", C)
    variance = jnp.diagonal(C, axis1=1, axis2=2)[:, :-1] / (parts.scale**2)[None, :]
    to_b = jnp.concatenate([-parts.m / parts.scale, jnp.ones_like(parts.m[:1])])
    b_variance = jnp.einsum("i,aij,j->a", to_b, C, to_b, precision=jax.lax.Precision.HIGHEST)
    dependent = jnp.sum(jnp.abs(parts.null), axis=1) > 1e-6
    w_error = jnp.where(dependent[:, None], jnp.full((1, 1), jnp.nan, variance.dtype), jnp.sqrt(variance.T))
    return w_error, jnp.sqrt(b_variance)


def _package(found: Solution, link: str) -> Fit:
    single = link == _links.SIGMOID
    finite = found.code != int(Status.non_finite)
    separable = found.code == int(Status.separable)

    def shown(w: Array, b: Array, usable: Array) -> Linear:
        w, b = (jnp.where(usable, v, jnp.full_like(v, jnp.nan)) for v in (w, b))
        return Linear(w[:, 0], b[0]) if single else Linear(w, b)

    def number(v: Array) -> Array:
        return jnp.where(finite, v, jnp.full_like(v, jnp.nan))

    done = (found.code == int(Status.converged)) | (found.code == int(Status.rank_deficient))
    certificate = Certificate(
        converged=done,
        steps=found.steps,
        gradient_norm=number(found.gradient_norm),
        objective=number(found.f),
        suboptimality=found.bound,
        rank=found.rank,
        standard_errors=shown(found.w_error, found.b_error, finite),
        direction=shown(found.w_direction, found.b_direction, separable),
    )
    return Fit(params=shown(found.w, found.b, finite), certificate=certificate, code=found.code)
