"""Newton's method with the whole Hessian: one loop, no search inside it, and the proof of where it ended."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundl._precise import HIGHEST, rows_dot, safe_divide
from fundl._types import Array
from fundl.newton import _links
from fundl.newton._design import Design


class Problem(NamedTuple):
    """sum_i s_i L_i(x_i theta) + quadratic penalty theta^T K theta / 2, in the coordinates of the design."""

    Z: Array  # (n, D)
    Y: Array  # (n, k)
    s: Array  # (n,)
    K: Array  # (D, D)
    fix: Array  # (D, k, D, k): makes the Hessian regular in the directions along which nothing changes


class Path(NamedTuple):
    """Where the loop is: theta, the step from it, and how it went."""

    theta: Array  # (D, k)
    step: Array  # (D, k), with its length in it
    f: Array
    factor: Array  # (D k, D k), Cholesky of the Hessian at theta
    jitter: Array
    r: Array  # the largest change of a logit by the whole step
    r_before: Array
    separating: Array  # steps in a row that separate the classes
    count: Array
    done: Array


class Found(NamedTuple):
    """The end of the loop with its proof."""

    theta: Array
    f: Array
    g: Array
    inverse: Array  # (D k, D k) of the Hessian
    bound: Array  # of f - f*
    direction: Array  # (D, k)
    separates: Array
    steps: Array
    finite: Array


def problem(design: Design, Y: Array, s: Array, l2: Array, link: str) -> Problem:
    """Gather what the loop needs."""
    D, k = design.Z.shape[1], Y.shape[1]
    inverse_scale = 1 / design.scale
    K = l2 * inverse_scale[:, None] * design.shortest * inverse_scale[None, :]
    K = jnp.pad(K, ((0, 1), (0, 1)))
    eye_k = jnp.eye(k, dtype=Y.dtype)
    # Where theta may move freely along the null space of Z it stays where it is.
    free = jnp.pad(design.null, ((0, 1), (0, 1)))
    no_intercept = design.gram[-1, -1] == 0
    free = free + jnp.where(no_intercept, 1.0, 0.0).astype(Y.dtype) * jnp.diag((jnp.arange(D) == D - 1).astype(Y.dtype))
    size = jnp.sum(s) / 4
    fix = (size * free)[:, None, :, None] * eye_k[None, :, None, :]
    if link == _links.SOFTMAX:
        # The same number added to all logits changes nothing: the steps sum to zero over the classes.
        fix = fix + (design.gram / 4)[:, None, :, None] * jnp.full((k, k), 1 / k, Y.dtype)[None, :, None, :]
    return Problem(design.Z, Y, s, K, fix)


def logits(P: Problem, theta: Array) -> Array:
    return jnp.matmul(P.Z, theta, precision=HIGHEST)


def penalty(P: Problem, theta: Array) -> Array:
    return jnp.vdot(theta, jnp.matmul(P.K, theta, precision=HIGHEST), precision=HIGHEST) / 2


def gradient(P: Problem, link: str, z: Array, theta: Array) -> tuple[Array, Array]:
    """The gradient in theta, and the residuals s_i (p_i - y_i)."""
    alpha = _links.residual(link, z, P.Y, P.s)
    return rows_dot(P.Z, alpha) + jnp.matmul(P.K, theta, precision=HIGHEST), alpha


def hessian(P: Problem, link: str, z: Array) -> tuple[Array, Array]:
    """The Hessian (D k, D k), regular, and what was added to its diagonal against rounding."""
    h, q = _links.curvature(link, z, P.Y, P.s)
    k = z.shape[1]
    H = _links.hessian(P.Z, h, q) + P.fix + P.K[:, None, :, None] * jnp.eye(k, dtype=z.dtype)[None, :, None, :]
    H = H.reshape(H.shape[0] * k, H.shape[0] * k)
    jitter = 4 * H.shape[0] * jnp.finfo(H.dtype).eps * jnp.diagonal(H)
    return H + jnp.diag(jitter), jnp.max(jitter)


def minimise(P: Problem, link: str, tol: Array, max_steps: Array) -> Found:
    """Newton steps until the next one no longer matters.

    With r the largest change of a logit, f(theta + t step) <= f - t delta + delta (exp(t r) - t r - 1) / r^2, which
    falls until t = log(1 + r) / r. That length needs no search; the full step is taken where it is lower.
    Source: Bach, Self-concordant analysis for logistic regression, Electronic Journal of Statistics 4 (2010).
    """
    eps = jnp.finfo(P.Z.dtype).eps
    start = rows_dot(P.Z, jnp.zeros_like(P.Y))
    p = start.size

    def body(path: Path) -> Path:
        theta = path.theta + path.step
        z = logits(P, theta)
        f = _links.value(link, z, P.Y, P.s) + penalty(P, theta)
        g, _ = gradient(P, link, z, theta)
        H, jitter = hessian(P, link, z)
        factor = jnp.linalg.cholesky(H)
        step = -jax.scipy.linalg.cho_solve((factor, True), g.reshape(p)).reshape(g.shape)
        dz = logits(P, step)
        r = jnp.max(_links.spread(dz))
        t = jnp.where(r > 0, jnp.log1p(r) / jnp.where(r > 0, r, jnp.ones_like(r)), jnp.ones_like(r))
        whole = _links.value(link, z + dz, P.Y, P.s) + penalty(P, theta + step)
        short = _links.value(link, z + t * dz, P.Y, P.s) + penalty(P, theta + t * step)
        t = jnp.where((r < 0.1) | (whole <= short), jnp.ones_like(t), t)
        delta = -jnp.vdot(g, step)
        # z separates: no row's loss grows along theta itself. A step that separates, thrice: neither will the next.
        grows = jnp.max(_links.recession(dz, P.Y))
        separating = jnp.where((grows <= 1e-7 * r) & (r > 0.1), path.separating + 1, 0)
        apart = (jnp.max(_links.recession(z, P.Y)) <= 0) & (jnp.max(_links.spread(z)) > 0) & jnp.all(P.K == 0)
        small = (r <= jnp.sqrt(eps) / 4) | ((r < 0.5) & (delta <= tol * f))
        noise = (r < 1e-3) & (r > path.r_before / 2)
        usable = jnp.isfinite(r) & jnp.isfinite(f)
        return Path(
            theta=theta,
            step=jnp.where(usable & ~apart, t * step, jnp.zeros_like(step)),
            f=f,
            factor=factor,
            jitter=jitter,
            r=r,
            r_before=r,
            separating=separating,
            count=path.count + 1,
            done=small | noise | apart | ~usable | (separating >= 3),
        )

    zero = jnp.zeros_like(start[0, 0])
    big = zero + jnp.inf
    first = Path(
        theta=start,
        step=start,
        f=big,
        factor=jnp.zeros_like(P.fix).reshape(p, p),
        jitter=zero,
        r=big,
        r_before=big,
        separating=jnp.zeros((), jnp.int32),
        count=jnp.zeros((), jnp.int32),
        done=jnp.zeros((), bool),
    )
    path = jax.lax.while_loop(lambda path: ~path.done & (path.count < max_steps), body, first)
    return finish(P, link, path)


def finish(P: Problem, link: str, path: Path) -> Found:
    """Take the last step, and prove how far at most the minimum can be.

    At theta, with the Hessian H, lambda^2 = g^T H^-1 g, and R the largest range of x_i v over all v with v^T H v = 1,
    f - f* <= lambda^2 / (2 (1 - R lambda)) where R lambda < 1 (from Bach 2010, proposition 1, minimised over v).
    H was formed one step earlier and may be larger there by the factor exp(r). The rounding errors of g are added.
    """
    eps = jnp.finfo(P.Z.dtype).eps
    theta = path.theta + path.step
    z = logits(P, theta)
    f = _links.value(link, z, P.Y, P.s) + penalty(P, theta)
    g, alpha = gradient(P, link, z, theta)
    p, k = theta.size, theta.shape[1]
    inverse = jax.scipy.linalg.cho_solve((path.factor, True), jnp.eye(p, dtype=theta.dtype))
    norm_x = jnp.sqrt(jnp.max(jnp.sum(P.Z * P.Z, axis=1)))
    column = jnp.sqrt(jnp.sum(P.Z * P.Z, axis=0))
    drift = jnp.minimum(path.r, 1.0)
    # |dg| <= sum_i |x_ij| (|alpha_i| + h_i |dz_i|) eps, by Cauchy and Schwarz
    h, _ = _links.curvature(link, z, P.Y, P.s)
    dz = 2 * norm_x * jnp.linalg.norm(theta)
    error = 8 * eps * (column * (jnp.linalg.norm(alpha) + jnp.linalg.norm(h) * dz))[:, None]
    error = error + 8 * eps * jnp.matmul(jnp.abs(P.K), jnp.abs(theta), precision=HIGHEST)
    flat, rounding = g.reshape(p), jnp.broadcast_to(error, g.shape).reshape(p)
    decrement = jnp.sqrt(jnp.abs(jnp.vdot(flat, jnp.matmul(inverse, flat, precision=HIGHEST)))) + jnp.sqrt(
        jnp.vdot(rounding, jnp.matmul(jnp.abs(inverse), rounding, precision=HIGHEST))
    )
    decrement = decrement * jnp.sqrt(2 * jnp.exp(drift))
    norm_inverse = jnp.linalg.norm(inverse)
    R = norm_x * jnp.sqrt((1 if k == 1 else 2) * norm_inverse * jnp.exp(drift))
    u = R * decrement
    trusted = (u < 0.9) & (path.r < 1) & (path.jitter * norm_inverse < 0.5)
    bound = jnp.where(trusted, decrement**2 / 2 / (1 - jnp.where(trusted, u, jnp.zeros_like(u))), jnp.inf)
    direction, separates = separation(P, theta, path, trusted)
    return Found(
        theta=theta,
        f=f,
        g=g,
        inverse=inverse,
        bound=bound,
        direction=direction,
        separates=separates,
        steps=path.count,
        finite=jnp.isfinite(f) & jnp.all(jnp.isfinite(theta)),
    )


def separation(P: Problem, theta: Array, path: Path, trusted: Array) -> tuple[Array, Array]:
    """A direction along which no row's loss grows and some row's falls, and whether there is one.

    With a penalty on w only b can run away: where a class never occurs. Without, theta itself is such a direction
    once all rows are on their side, or the last Newton step, freed from what it does to the rows that stay.
    """
    eps = jnp.finfo(P.Z.dtype).eps
    D, k = theta.shape
    total = jnp.sum(P.s[:, None] * P.Y, axis=0)
    intercept = P.Z[:, -1:]
    mass = jnp.sum(P.s[:, None] * intercept)
    if k == 1:
        alone = jnp.where(total >= mass, 1.0, jnp.where(total <= 0, -1.0, 0.0)).astype(theta.dtype)
    else:
        alone = -(total <= 0).astype(theta.dtype)
    alone = jnp.where(mass > 0, alone, jnp.zeros_like(alone))
    only_b = jnp.where((jnp.arange(D) == D - 1)[:, None], alone[None, :], jnp.zeros_like(theta))
    empty = jnp.any(alone != 0)
    free = jnp.all(P.K == 0) & ~empty

    def grows(v: Array) -> tuple[Array, Array]:
        z = logits(P, v)
        return jnp.max(_links.recession(z, P.Y)), jnp.max(_links.spread(z))

    def look(v: Array) -> Array:
        # Rows (and classes) that tie along v shall tie exactly: project onto the null space of those rows.
        z = logits(P, v)
        near = 1e-5 * jnp.max(_links.spread(z))
        tied = jnp.abs(z) <= near if k == 1 else jnp.max(z, axis=1, keepdims=True) - z <= near
        h = jnp.where(P.s[:, None] > 0, tied.astype(z.dtype), jnp.zeros_like(z))
        q = jnp.zeros_like(h) if k == 1 else safe_divide(h, jnp.sqrt(jnp.sum(h, axis=1, keepdims=True)) + 0 * h)
        gram = _links.hessian(P.Z, h, q) + P.fix * (2 / (1 + jnp.sum(P.s)))
        values, V = jnp.linalg.eigh(gram.reshape(theta.size, theta.size))
        V = jnp.where((values <= 1e3 * eps * theta.size * jnp.maximum(values[-1], eps))[None, :], V, jnp.zeros_like(V))
        v = v.reshape(theta.size)
        for _ in range(2):
            v = jnp.matmul(V, jnp.matmul(V.T, v, precision=HIGHEST), precision=HIGHEST)
        return v.reshape(theta.shape)

    growth, size = grows(theta)
    apart = free & (growth <= 0) & (size > 0)
    search = free & ~apart & ~(trusted & (path.separating == 0))
    step = path.step / jnp.maximum(jnp.max(jnp.abs(path.step)), jnp.finfo(theta.dtype).tiny)
    cleaned = jax.lax.cond(search, look, lambda v: jnp.zeros_like(v), step)
    growth, size = grows(cleaned)
    quasi = search & (growth <= 1e3 * eps * size) & (size > 1e-3 * jnp.max(_links.spread(logits(P, step))))
    direction = jnp.where(empty, only_b, jnp.where(apart, theta, cleaned))
    size = jnp.max(_links.spread(logits(P, direction)))
    return safe_divide(direction, jnp.broadcast_to(size, direction.shape)), empty | apart | quasi
