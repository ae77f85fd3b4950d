"""Newton's method on a few directions at a time, for problems whose whole Hessian is too large to form or to factor.

Each step minimises the quadratic model over the span of the preconditioned gradient and the last steps. Their logits
are kept, so the model costs no pass over X: a step reads X twice, once for the gradient and once for its logits. On a
quadratic this is the conjugate gradient method, preconditioned by the blocks of the Hessian that belong to one class.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundl._precise import HIGHEST, matmul, rows_dot, safe_divide
from fundl._types import Array
from fundl.newton import _dense, _links
from fundl.newton._dense import Found, Problem

MEMORY = 5  # steps kept


class Path(NamedTuple):
    """Where the loop is."""

    theta: Array  # (D, k)
    z: Array  # (n, k)
    basis: Array  # (MEMORY, D, k), the last steps
    shadow: Array  # (MEMORY, n, k), their logits
    f: Array
    best: Array  # the smallest squared gradient yet, in the norm of the preconditioner
    since: Array  # steps since it halved
    near: Array  # the gradient is down to rounding; once more with logits that are not updated but formed
    factor: Array  # (k, D, D), of the preconditioner
    drift: Array  # the change of the logits since it was formed, at most
    count: Array
    done: Array


def preconditioner(P: Problem, h: Array, q: Array, null: Array) -> Array:
    """Cholesky factors (k, D, D) of the blocks of the Hessian on its diagonal, one for each class."""
    eps = jnp.finfo(P.Z.dtype).eps

    def block(a: Array) -> Array:
        here = (jnp.arange(h.shape[1]) == a).astype(h.dtype)[None, :]
        own = jnp.sum((h - q * q) * here, axis=1)
        M = rows_dot(P.Z, own[:, None] * P.Z) + P.K + held(P, null)
        # A class that no row is in doubt about has no curvature: a small part of the largest keeps it regular.
        least = 1e3 * eps * jnp.max(jnp.diagonal(M)) + jnp.finfo(M.dtype).tiny
        M = M + jnp.diag(jnp.where(jnp.diagonal(M) == 0, 1.0, least).astype(M.dtype))
        return jnp.linalg.cholesky(M + jnp.diag(_dense.jitter(M)))

    return jax.lax.map(block, jnp.arange(h.shape[1]))


def minimise(P: Problem, null: Array, link: str, start: Array, tol: Array, max_steps: Array) -> Found:
    """Steps from `start` until the gradient is down to its rounding errors."""
    eps = jnp.finfo(P.Z.dtype).eps
    max_steps = jnp.where(_dense.absent_class(P, start)[1], jnp.minimum(max_steps, 10), max_steps)  # as `_dense` does
    zero, one = jnp.zeros_like(start[0, 0]), jnp.ones_like(start[0, 0])

    def gradient(z: Array, theta: Array) -> tuple[Array, Array]:
        alpha = _links.residual(link, z, P.Y, P.s)
        return rows_dot(P.Z, alpha) + matmul(P.K, theta), alpha

    def off(v: Array) -> Array:
        return v - jnp.pad(matmul(null, v[:-1]), ((0, 1), (0, 0)))

    def body(path: Path) -> Path:
        theta = path.theta
        formed = path.near | (path.count % 16 == 15)
        z = jax.lax.cond(formed, lambda z: matmul(P.Z, theta), lambda z: z, path.z)
        g, alpha = gradient(z, theta)
        # What dependent columns leave free is not seen by the model below, and would grow with each of its steps.
        g = off(g)
        h, q = _links.curvature(link, z, P.Y, P.s)
        renew = path.drift > 0.5
        factor = jax.lax.cond(renew, lambda _: preconditioner(P, h, q, null), lambda factor: factor, path.factor)
        direction = -jax.vmap(lambda L, v: jax.scipy.linalg.cho_solve((L, True), v), (0, 1), 1)(factor, g)
        direction = off(direction)
        if link == _links.SOFTMAX:
            direction = direction - jnp.mean(direction, axis=1, keepdims=True)
        size = -jnp.vdot(g, direction, precision=HIGHEST)
        basis = jnp.concatenate([direction[None], path.basis])
        shadow = jnp.concatenate([matmul(P.Z, direction)[None], path.shadow])
        about = jax.vmap(lambda v: _links.about_mean(h, v))(shadow)  # as h v - q (q v) what is flat is lost in rounding
        S = jnp.einsum("ank,bnk->ab", about, h[None] * about, precision=HIGHEST)
        S = S + jnp.einsum("aik,bik->ab", basis, jax.vmap(lambda v: matmul(P.K, v))(basis), precision=HIGHEST)
        slope = -jnp.einsum("aik,ik->a", basis, g, precision=HIGHEST)
        root = jnp.sqrt(jnp.maximum(jnp.diagonal(S), jnp.finfo(S.dtype).tiny))
        scaled = S / root[:, None] / root[None, :] + 100 * eps * jnp.eye(S.shape[0], dtype=S.dtype)
        empty = jnp.diagonal(S) <= 0  # no step yet
        scaled = jnp.where(empty[:, None] | empty[None, :], jnp.eye(S.shape[0], dtype=S.dtype), scaled)
        c = jax.scipy.linalg.cho_solve(
            (jnp.linalg.cholesky(scaled), True), jnp.where(empty, jnp.zeros_like(slope), slope / root)
        )
        c = jnp.where(empty, jnp.zeros_like(c), c / root)
        # Steps that rounding cannot tell apart have no model: the preconditioned gradient alone has.
        alone = jnp.where(jnp.arange(c.size) == 0, safe_divide(slope, jnp.diagonal(S)), jnp.zeros_like(c))
        c = jnp.where(jnp.all(jnp.isfinite(c)), c, alone)
        step = jnp.einsum("a,aik->ik", c, basis, precision=HIGHEST)
        dz = jnp.einsum("a,ank->nk", c, shadow, precision=HIGHEST)
        r = jnp.max(_links.spread(dz))
        delta = jnp.vdot(c, slope, precision=HIGHEST)
        curve = jnp.vdot(c, matmul(S, c), precision=HIGHEST)
        t = jnp.where(r > 0, safe_divide(jnp.log1p(r * safe_divide(delta, curve)), r), one)
        lengths = jnp.stack([one, t])
        values = jax.vmap(lambda t: _links.value(link, z + t * dz, P.Y, P.s) + _dense.penalty(P, theta + t * step))(
            lengths
        )
        first = (r < 0.1) | (values[0] <= values[1])
        t, f = jnp.where(first, one, t), jnp.where(first, values[0], values[1])
        # What rounding leaves of the gradient: eps times its terms, in the norm of the preconditioner.
        floor = 4 * eps**2 * theta.size * (jnp.sum(alpha * alpha) + jnp.sum((P.s[:, None] * z) ** 2) / 16)
        improved = renew | (size < path.best / 2)
        since = jnp.where(improved, 0, path.since + 1)
        near = (
            (size <= floor)
            | ((since > 15) & (r < max(1e-6, float(eps) ** 0.5)))
            | ((r < 0.1) & (delta <= tol * f) & (tol > 0))
        )
        apart = P.free & (jnp.max(_links.recession(z, P.Y)) <= 0) & (jnp.max(_links.spread(z)) > 0)
        # Where rounding has spoilt the model a step may go up, or have no end: it is not taken, and the last steps are
        # forgotten. Where f has no more to fall but logits still move, rows run away (some of the others tie).
        rises = ~(f <= path.f + jnp.sqrt(eps) * jnp.abs(path.f))
        away = (rises & ~jnp.any(path.basis != 0)) | (P.free & (r > 1) & (delta <= 100 * eps * f))
        done = (near & path.near) | apart | away | (since > 200)
        t, step, dz = (jnp.where(done | rises, jnp.zeros_like(v), v) for v in (t, step, dz))
        return Path(
            theta=theta + t * step,
            z=z + t * dz,
            basis=jnp.where(rises, jnp.zeros_like(path.basis), jnp.concatenate([step[None], path.basis[:-1]])),
            shadow=jnp.where(rises, jnp.zeros_like(path.shadow), jnp.concatenate([dz[None], path.shadow[:-1]])),
            f=jnp.where(rises, path.f, f),
            best=jnp.where(improved, size, path.best),
            since=since,
            near=near,
            factor=factor,
            drift=jnp.where(rises, one, jnp.where(renew, zero, path.drift) + t * r),
            count=path.count + 1,
            done=done,
        )

    false = jnp.zeros((), bool)
    begin = jnp.zeros((), jnp.int32)
    z = matmul(P.Z, start)
    first = Path(
        theta=start, z=z, basis=jnp.stack([jnp.zeros_like(start)] * MEMORY),
        shadow=jnp.stack([jnp.zeros_like(z)] * MEMORY), f=_links.value(link, z, P.Y, P.s) + _dense.penalty(P, start),
        best=zero + jnp.inf, since=begin, near=false,
        factor=jnp.stack([jnp.zeros_like(P.K)] * P.Y.shape[1]), drift=zero + 1, count=begin, done=false,
    )  # fmt: skip
    path = jax.lax.while_loop(lambda path: ~path.done & (path.count < max_steps), body, first)
    theta = path.theta
    z = matmul(P.Z, theta)
    g, _ = gradient(z, theta)
    f = _links.value(link, z, P.Y, P.s) + _dense.penalty(P, theta)
    spread = jnp.max(_links.spread(z))
    apart = P.free & (jnp.max(_links.recession(z, P.Y)) <= 0) & (spread > 0)
    bound = _dense.strong_convexity(P, link, z, g, theta)
    weak = ~(bound <= jnp.sqrt(eps) / 100 * f)
    bound = jnp.minimum(
        bound, jax.lax.cond(weak, lambda _: concordance(P, link, z, g, f, theta, null), lambda b: b, bound)
    )
    # Along a direction that separates some rows from ties the gradient falls too, until their curvature is rounding.
    bent = (bound < jnp.inf) | (spread <= -jnp.log(eps))
    only_b, absent = _dense.absent_class(P, theta)
    direction = jnp.where(absent, only_b, safe_divide(theta, jnp.broadcast_to(spread, theta.shape)))
    return Found(
        theta=theta,
        f=f,
        g=g,
        inverse=None,
        bound=bound,
        direction=direction,
        separates=absent | apart,
        steps=path.count,
        finite=jnp.isfinite(f) & jnp.all(jnp.isfinite(theta)),
        solved=path.done & path.near & (bent | ~P.free),
    )


def concordance(P: Problem, link: str, z: Array, g: Array, f: Array, theta: Array, null: Array) -> Array:
    """The bound of `_dense.concordance`: each row bends by the smallest of its probabilities at least, in all classes.

    v^T (diag(p) - p p^T) v >= min(p) v^T v for v that sums to zero over the classes, as theta and g do.
    """
    h, _ = _links.curvature(link, z, P.Y, P.s)
    H = rows_dot(P.Z, jnp.min(h, axis=1, keepdims=True) * P.Z) + P.K + held(P, null)
    H = H + jnp.diag((jnp.diagonal(H) == 0).astype(H.dtype))
    H = H + jnp.diag(_dense.jitter(H))
    inverse = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(H), True), jnp.eye(H.shape[0], dtype=H.dtype))
    return _dense.concordance(P, H, inverse, g, theta, f)


def held(P: Problem, null: Array) -> Array:
    """What makes blocks of the Hessian regular along dependent columns."""
    return jnp.pad(null, ((0, 1), (0, 1))) * (jnp.sum(P.s) / 4)
