"""The fit itself."""

import functools

import jax
import jax.numpy as jnp

from fundl import _check
from fundl._precise import matmul
from fundl._result import Certificate, Fit, Status
from fundl._types import Array, ArrayLike, Linear
from fundl.least_squares._inputs import inputs

METHODS = ("auto", "qr", "normal_equations")


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
    _check.nonnegative("l2", l2)
    X, y, w = inputs(X, y, weights)
    return _fit(X, y, w, _check.array("l2", l2).astype(X.dtype), intercept=bool(intercept))


@functools.partial(jax.jit, static_argnames="intercept")
def _fit(X: Array, y: Array, weights: Array | None, l2: Array, *, intercept: bool) -> Fit:
    n, d = X.shape
    s = jnp.ones_like(X[:, 0]) if weights is None else weights
    keep = s > 0
    X = jnp.where(keep[:, None], X, jnp.zeros_like(X))
    Y = y if y.ndim == 2 else y[:, None]
    Y = jnp.where(keep[:, None], Y, jnp.zeros_like(Y))
    total = jnp.sum(s)
    m = jnp.sum(s[:, None] * X, axis=0) / total if intercept else jnp.zeros_like(X[0])
    my = jnp.sum(s[:, None] * Y, axis=0) / total if intercept else jnp.zeros_like(Y[0])
    root = jnp.sqrt(s)[:, None]
    A = jnp.concatenate([root * (X - m[None, :]), jnp.sqrt(l2) * jnp.eye(d, dtype=X.dtype)])
    B = jnp.concatenate([root * (Y - my[None, :]), jnp.zeros((d, Y.shape[1]), X.dtype)])
    U, sigma, Vt = jnp.linalg.svd(A, full_matrices=False)
    kept = sigma > jnp.finfo(X.dtype).eps * max(n, d) * sigma[0]
    inverse = jnp.where(kept, 1 / jnp.where(kept, sigma, 1.0), 0.0)
    w = matmul(Vt.T, inverse[:, None] * matmul(U.T, B))
    b = my - matmul(m, w)
    rank = jnp.sum(kept)
    r = root * (matmul(X, w) + b[None, :] - Y)
    ok = jnp.all(jnp.isfinite(w))
    code = jnp.where(ok, jnp.where(rank < d, Status.rank_deficient, Status.converged), Status.non_finite)
    certificate = Certificate(
        converged=ok,
        steps=jnp.zeros((), jnp.int32),
        gradient_norm=jnp.linalg.norm(matmul(A.T, matmul(A, w) - B)),
        objective=jnp.sum(r * r) + l2 * jnp.sum(w * w),
        suboptimality=jnp.full((), jnp.inf, X.dtype),
        rank=rank,
        condition=sigma[0] / sigma[-1],
    )
    params = Linear(w, b) if y.ndim == 2 else Linear(w[:, 0], b[0])
    return Fit(params=params, certificate=certificate, code=code.astype(jnp.int32))
