"""Newton's method with the whole Hessian: one loop without a search inside, and the proof of where it ended."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundl._precise import HIGHEST, matmul, rows_dot, safe_divide
from fundl._types import Array
from fundl.newton import _lasso, _links
from fundl.newton._design import Design


class Problem(NamedTuple):
    """sum_i s_i L_i(x_i theta) + theta^T K theta / 2 + sum_j l1_j norm1(theta_j), in the coordinates of the design."""

    Z: Array  # (n, D)
    Y: Array  # (n, k)
    s: Array  # (n,)
    K: Array  # (D, D)
    l2: Array  # (d,), of theta_j: l2 / scale_j^2
    l1: Array | None  # (D,)
    fix: Array  # (D, k, D, k): makes the Hessian regular in the directions along which nothing changes
    free: Array  # no penalty at all


class Path(NamedTuple):
    """Where the loop is: theta, what is known there, and the step from it."""

    theta: Array  # (D, k)
    step: Array  # (D, k), with its length in it
    g: Array  # the gradient at theta, with l1 the smallest subgradient
    f: Array  # at theta + step
    f_before: Array  # at theta
    H: Array  # (D k, D k), the Hessian of a theta before
    factor: Array  # its Cholesky factor
    drift: Array  # the largest change of a logit since H was formed
    r: Array  # the largest change of a logit by the step
    separating: Array  # steps in a row that separate the classes
    count: Array
    settled: Array  # the step is that of the model's minimum
    last: Array  # it is so small that it is the last
    done: Array


class Found(NamedTuple):
    """The end of the loop with its proof."""

    theta: Array
    f: Array
    g: Array
    inverse: Array | None  # (D k, D k) of the Hessian
    bound: Array  # of f - f*
    direction: Array  # (D, k)
    separates: Array
    steps: Array
    finite: Array
    solved: Array  # the loop ended where rounding did not let it go on


def problem(design: Design, Y: Array, s: Array, l2: Array, l1: Array | None, link: str) -> Problem:
    """Gather what the loop needs."""
    D, k = design.Z.shape[1], Y.shape[1]
    last = (jnp.arange(D) == D - 1).astype(Y.dtype)
    # Where theta may move freely along the null space of Z it stays where it is.
    fix = jnp.pad(design.null, ((0, 1), (0, 1))) * (jnp.sum(s) / 4)
    fix = fix + jnp.diag(jnp.where(design.gram[-1, -1] == 0, last, jnp.zeros_like(last)))
    fix = fix[:, None, :, None] * jnp.eye(k, dtype=Y.dtype)[None, :, None, :]
    if link == _links.SOFTMAX:
        # The same number added to all logits changes nothing: the steps sum to zero over the classes.
        shift = design.gram / 4 if l1 is None else jnp.diag(last) * (jnp.sum(s) / 4)
        fix = fix + shift[:, None, :, None] * jnp.full((1, k, 1, k), 1 / k, Y.dtype)
    return Problem(
        Z=design.Z,
        Y=Y,
        s=s,
        K=penalty_matrix(design, l2),
        l2=l2 / design.scale**2,
        l1=None if l1 is None else jnp.concatenate([l1 / design.scale, jnp.zeros_like(l1)[None]]),
        fix=fix,
        free=(l2 == 0) if l1 is None else (l2 == 0) & (l1 == 0),
    )


def penalty_matrix(design: Design, l2: Array) -> Array:
    """K with theta^T K theta = l2 norm2(w)^2 (D, D); the intercept is free."""
    inverse_scale = 1 / design.scale
    return jnp.pad(l2 * inverse_scale[:, None] * design.shortest * inverse_scale[None, :], ((0, 1), (0, 1)))


def penalty(P: Problem, theta: Array) -> Array:
    """The value of the penalties."""
    quadratic = jnp.vdot(theta, matmul(P.K, theta), precision=HIGHEST) / 2
    return quadratic if P.l1 is None else quadratic + jnp.sum(P.l1[:, None] * jnp.abs(theta))


def hessian(P: Problem, link: str, z: Array) -> Array:
    """The Hessian (D k, D k), made regular."""
    h, q = _links.curvature(link, z, P.Y, P.s)
    k = z.shape[1]
    H = _links.hessian(P.Z, h, q) + P.fix + P.K[:, None, :, None] * jnp.eye(k, dtype=z.dtype)[None, :, None, :]
    H = H.reshape(H.shape[0] * k, H.shape[0] * k)
    return H + jnp.diag(jitter(H))


def jitter(H: Array) -> Array:
    """What is added to the diagonal against rounding."""
    return 4 * H.shape[0] * jnp.finfo(H.dtype).eps * jnp.diagonal(H)


def minimise(P: Problem, link: str, start: Array, tol: Array, max_steps: Array) -> Found:
    """Newton steps from `start` until the next one no longer matters.

    With r the largest change of a logit by the step v, delta the decrease that the linear part promises, c = v^T H v,
    f(theta + t v) <= f - t delta + c (exp(t r) - t r - 1) / r^2, which is least at t = log(1 + r delta / c) / r.
    That length needs no search; the full step is taken where it is lower, and twice the step where that is lower still:
    curvatures fall where logits grow, so steps from 0 are too short. Where a step hardly changes the logits, the next
    keeps its Hessian; standard errors get a new one.
    Source: Bach, Self-concordant analysis for logistic regression, Electronic Journal of Statistics 4 (2010).
    """
    eps = jnp.finfo(P.Z.dtype).eps
    # Where a class is absent b runs away: far enough to tell, not until its curvature underflows.
    max_steps = jnp.where(absent_class(P, start)[1], jnp.minimum(max_steps, 8), max_steps)
    p = start.size
    zero, one = jnp.zeros_like(start[0, 0]), jnp.ones_like(start[0, 0])

    def body(path: Path) -> Path:
        theta = path.theta + path.step
        z = matmul(P.Z, theta)
        g = rows_dot(P.Z, _links.residual(link, z, P.Y, P.s)) + matmul(P.K, theta)

        def refresh(_: Array) -> tuple[Array, Array, Array]:
            H = hessian(P, link, z)
            return H, jnp.linalg.cholesky(H), zero

        def keep(_: Array) -> tuple[Array, Array, Array]:
            return path.H, path.factor, path.drift + path.r

        H, factor, drift = jax.lax.cond((path.r > 0.03) | (path.last & P.free), refresh, keep, zero)
        if P.l1 is None:
            whole = -jax.scipy.linalg.cho_solve((factor, True), g.reshape(p)).reshape(g.shape)
            delta = curve = -jnp.vdot(g, whole)
            settled = ~path.done
        else:
            whole, g, delta, curve, settled = _lasso.step(H, g, theta, P.l1)
        dz = matmul(P.Z, whole)
        r = jnp.max(_links.spread(dz))
        t = safe_divide(jnp.log1p(r * safe_divide(delta, curve)), r)
        t = jnp.where(r > 0, jnp.minimum(t, one), one)
        lengths = jnp.stack([one, t, 2 * one])
        values = jax.vmap(lambda t: _links.value(link, z + t * dz, P.Y, P.s) + penalty(P, theta + t * whole))(lengths)
        first = (r < 0.1) | (values[0] <= values[1])
        t, f = jnp.where(first, one, t), jnp.where(first, values[0], values[1])
        if P.l1 is None:  # which would turn back columns that have come to 0
            double = (r >= 0.1) & (values[2] < f)
            t, f = jnp.where(double, lengths[2], t), jnp.where(double, values[2], f)
            r = jnp.where(double, 2 * r, r)
        grows = jnp.max(_links.recession(dz, P.Y))
        separating = jnp.where(P.free & (grows <= 1e-7 * r) & (r > 0.1), path.separating + 1, 0)
        apart = P.free & (jnp.max(_links.recession(z, P.Y)) <= 0) & (jnp.max(_links.spread(z)) > 0)
        noise = (path.r < 1e-3) & (r > path.r / 2)
        return Path(
            theta=theta,
            step=t * whole,
            g=g,
            f=f,
            f_before=path.f,
            H=H,
            factor=factor,
            drift=drift,
            r=r,
            separating=separating,
            count=path.count + 1,
            settled=settled,
            last=path.last | noise | (r * (drift + r) <= eps / 16) | ((r < 0.5) & (delta <= tol * f)),
            done=path.last | apart | ~(jnp.isfinite(r) & jnp.isfinite(f)) | (separating >= 3),
        )

    false = jnp.zeros((), bool)
    first = Path(
        theta=start, step=jnp.zeros_like(start), g=jnp.zeros_like(start), f=zero, f_before=zero,
        H=jnp.zeros_like(P.fix).reshape(p, p), factor=jnp.zeros_like(P.fix).reshape(p, p), drift=zero, r=one,
        separating=jnp.zeros((), jnp.int32), count=jnp.zeros((), jnp.int32), settled=false,
        last=false, done=false,
    )  # fmt: skip
    path = jax.lax.while_loop(lambda path: ~path.done & (path.count <= max_steps), body, first)
    return finish(P, link, path)


def finish(P: Problem, link: str, path: Path) -> Found:
    """Prove how far at most the minimum can be."""
    eps = jnp.finfo(P.Z.dtype).eps
    theta, g = path.theta, path.g
    inverse = jax.scipy.linalg.cho_solve((path.factor, True), jnp.eye(theta.size, dtype=theta.dtype))
    bound = concordance(P, path.H, inverse, g, theta, path.f_before, path.drift)
    trusted = bound < jnp.inf
    if P.l1 is None:

        def convex(_: Array) -> Array:
            return strong_convexity(P, link, matmul(P.Z, theta), g, theta)

        # Where the penalty alone decides, rounding leaves of H too little for a proof, but that of l2 is exact.
        weak = ~(bound <= jnp.sqrt(eps) / 100 * path.f_before) & jnp.all(P.l2 > 0)
        bound = jnp.minimum(bound, jax.lax.cond(weak, convex, lambda bound: bound, bound))
    else:
        gap = _lasso.duality_gap(link, P.Z, P.Y, P.s, jnp.diagonal(P.K), P.l1, theta)
        bound = jnp.minimum(bound, jnp.where(P.free, jnp.inf, gap))
    direction, separates = separation(P, path, trusted)
    return Found(
        theta=theta,
        f=path.f_before,
        g=g,
        inverse=inverse,
        bound=bound,
        direction=direction,
        separates=separates,
        steps=path.count - 1,
        finite=jnp.isfinite(path.f) & jnp.isfinite(path.f_before) & jnp.all(jnp.isfinite(theta)),
        solved=path.last & path.settled,
    )


def absent_class(P: Problem, theta: Array) -> tuple[Array, Array]:
    """The direction in b alone along which a class that never occurs runs away, and whether there is one."""
    D, k = theta.shape
    counts = (P.s[:, None] > 0) & (P.Z[:, -1:] > 0)  # none without an intercept
    alone = -(~jnp.any(counts & (P.Y > 0), axis=0)).astype(theta.dtype)  # whatever the weights, which sums may lose
    if k == 1:
        alone = jnp.where(jnp.any(counts & (P.Y < 1), axis=0), alone, jnp.ones_like(alone))
    alone = jnp.where(jnp.any(counts), alone, jnp.zeros_like(alone))
    only_b = jnp.where((jnp.arange(D) == D - 1)[:, None], alone[None, :], jnp.zeros_like(theta))
    return only_b, jnp.any(alone != 0)


def separation(P: Problem, path: Path, trusted: Array) -> tuple[Array, Array]:
    """A direction along which no row's loss grows and some row's falls, and whether there is one.

    With a penalty on w only b can run away: where a class never occurs. Without, theta itself is such a direction
    once all rows are on their side, or the last Newton step, freed from what it does to the rows that stay.
    """
    eps = jnp.finfo(P.Z.dtype).eps
    theta = path.theta
    k = theta.shape[1]
    only_b, empty = absent_class(P, theta)
    z, dz = matmul(P.Z, theta), matmul(P.Z, path.step)
    size = jnp.max(_links.spread(z))
    apart = P.free & (jnp.max(_links.recession(z, P.Y)) <= 0) & (size > 0)
    reach = jnp.max(_links.spread(dz))

    def look(v: Array) -> tuple[Array, Array, Array]:
        # Rows (and classes) that tie along v shall tie exactly: leave the null space of those rows only.
        tied = jnp.abs(dz) <= 1e-5 * reach if k == 1 else jnp.max(dz, axis=1, keepdims=True) - dz <= 1e-5 * reach
        h = jnp.where(P.s[:, None] > 0, tied.astype(dz.dtype), jnp.zeros_like(dz))
        q = jnp.zeros_like(h) if k == 1 else h * safe_divide(jnp.ones_like(h), jnp.sqrt(jnp.sum(h, 1, keepdims=True)))
        G = _links.hessian(P.Z, h, q).reshape(theta.size, theta.size)
        ridge = 1e4 * theta.size * eps * (jnp.max(jnp.diagonal(G)) + eps)
        factor = jnp.linalg.cholesky(G + jnp.diag(jnp.full_like(G[0], ridge)))
        v = v.reshape(theta.size)
        for _ in range(3):
            v = ridge * jax.scipy.linalg.cho_solve((factor, True), v)
        v = v.reshape(theta.shape)
        z = matmul(P.Z, v)
        return v, jnp.max(_links.recession(z, P.Y)), jnp.max(_links.spread(z))

    search = P.free & ~empty & ~apart & ~(trusted & (path.separating == 0))
    cleaned, growth, left = jax.lax.cond(search, look, lambda v: (v, reach, reach), path.step)
    quasi = search & (growth <= 1e3 * eps * left) & (left > 1e-3 * reach)
    direction = jnp.where(empty, only_b, jnp.where(apart, theta, cleaned))
    size = jnp.where(empty, jnp.ones_like(size), jnp.where(apart, size, left))
    return safe_divide(direction, jnp.broadcast_to(size, direction.shape)), empty | apart | quasi


def rounding(P: Problem, theta: Array, f: Array) -> Array:
    """What rounding can do to each entry of the gradient (D, k).

    abs(dg_j) <= eps sum_i abs(x_ij) (abs(alpha_i) + h_i dz_i), by the Cauchy-Schwarz inequality.
    """
    eps = jnp.finfo(P.Z.dtype).eps
    squares = P.Z * P.Z
    norm_x = jnp.sqrt(jnp.max(jnp.sum(squares, axis=1)))
    # sum_i alpha_i^2 <= 2 sum_i s_i sum_i s_i L_i, and h_i <= s_i: no further pass over the rows
    s_norm = jnp.linalg.norm(P.s)
    alpha = jnp.minimum(s_norm, jnp.sqrt(2 * jnp.max(P.s) * f))
    noise = jnp.sqrt(jnp.sum(squares, axis=0)) * (alpha + s_norm * 2 * norm_x * jnp.linalg.norm(theta))
    error = 8 * eps * (noise[:, None] + matmul(jnp.abs(P.K), jnp.abs(theta)))
    return error + jnp.zeros_like(theta) if P.l1 is None else error + 8 * eps * P.l1[:, None]


def held_back(P: Problem, null: Array, found: Found) -> Array:
    """What f may still fall along the columns that are held still as dependent, since their products are rounded.

    By strong convexity; without a penalty nothing where the gradient there is rounding, and else there is no bound.
    """
    still, own = matmul(null, found.g[:-1]), P.l2[:, None] + jnp.zeros_like(found.g[:-1])
    noise = matmul(jnp.abs(null), rounding(P, found.theta, found.f)[:-1])
    unknown = jnp.where(jnp.abs(still) > noise, jnp.full_like(still, jnp.inf), jnp.zeros_like(still))
    return jnp.sum(jnp.where(own > 0, safe_divide(still * still, own), unknown))


def concordance(
    P: Problem, H: Array, inverse: Array, g: Array, theta: Array, f: Array, moved: Array | float = 0.0
) -> Array:
    """f - f* <= lambda^2 / (2 (1 - R lambda)) where R lambda < 1 (Bach 2010, proposition 1, minimised over v).

    At theta, with the Hessian H, lambda^2 = g^T H^-1 g, and R the largest range of x_i v over all v with v^T H v = 1.
    H (D k, D k), or (D, D) for all classes alike, was formed where the logits differ by `moved`, and may be larger
    there by the factor exp(moved). The rounding errors of g are added.
    """
    eps = jnp.finfo(P.Z.dtype).eps
    m, (D, k) = H.shape[0], theta.shape
    squares = P.Z * P.Z
    g, error = g.reshape(m, -1), rounding(P, theta, f).reshape(m, -1)
    drift = jnp.exp(jnp.minimum(moved, 1.0))
    decrement = jnp.sqrt(jnp.abs(jnp.vdot(g, matmul(inverse, g)))) + jnp.sqrt(
        jnp.vdot(error, matmul(jnp.abs(inverse), error))
    )
    decrement = decrement * jnp.sqrt(2 * drift)  # twice: against what was added to H
    # Both in the units in which H has a diagonal of ones, or one column under a large penalty would spoil them.
    root = jnp.sqrt(jnp.diagonal(H))
    norm_inverse = jnp.linalg.norm(inverse * root[:, None] * root[None, :])
    unit = jnp.min(root.reshape(D, -1), axis=1)
    far = jnp.sqrt(jnp.max(jnp.sum(squares / (unit * unit)[None, :], axis=1)))
    u = decrement * far * jnp.sqrt((1 if k == 1 else 2) * norm_inverse * drift)
    trusted = (u < 0.9) & (moved < 1) & (4 * m * eps * norm_inverse < 0.5)
    return jnp.where(trusted, decrement**2 / 2 / (1 - jnp.where(trusted, u, jnp.zeros_like(u))), jnp.inf)


def strong_convexity(P: Problem, link: str, z: Array, g: Array, theta: Array) -> Array:
    """f - f* <= sum_j g_j^2 / (2 l2_j) over w, the duality gap of alpha where the gradient in b is 0; inf without l2.

    P.K theta is the gradient of the penalty at the w of least norm, so g is that of all w, dependent columns or not.
    What rounding leaves of the gradient in b is moved between the rows, which the last term and `moved` count.
    """
    eps = jnp.finfo(z.dtype).eps
    alpha, (h, _) = _links.residual(link, z, P.Y, P.s), _links.curvature(link, z, P.Y, P.s)
    terms = jnp.abs(P.Z)
    dz = jnp.max(matmul(terms, jnp.abs(theta)), axis=1, keepdims=True)
    h = jnp.where(8 * eps * dz < 0.1, h, P.s[:, None])  # where logits are rounded so much h is not that of any of them
    noise = 8 * eps * (rows_dot(terms, jnp.abs(alpha) + 2 * h * dz) + jnp.abs(matmul(P.K, theta)))
    left = jnp.sum(jnp.abs(g[-1])) + eps * jnp.sum(jnp.abs(alpha))
    moved = left * jnp.max(terms, axis=0)[:, None]
    u = (jnp.abs(g) + noise + moved)[:-1]
    bound = jnp.sum(safe_divide(u * u, 2 * P.l2[:, None] + 0 * u)) + left * (jnp.max(_links.spread(z)) + 1)
    return jnp.where(jnp.all(P.l2 > 0), bound, jnp.full_like(bound, jnp.inf))
