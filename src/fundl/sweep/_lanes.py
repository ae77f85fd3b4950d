"""Many logistic regressions on the same rows in lockstep: products over all lanes at once, finished lanes frozen.

A lane is one fit: its weights s, its targets y and its penalty. All share Z, standardised once. A step costs two
products with Z for all lanes. The Hessian of a lane is its curvatures times the products of all pairs of columns, so
the Hessians of many lanes are one product; they precondition only, so float32 suffices, and a lane keeps its own while
that serves. Each step is the minimum of the quadratic model over two directions, the preconditioned gradient and the
last step; its length is that of Bach's bound, improved along the line, so every step goes down.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundl._precise import exp_minus_abs, matmul, safe_divide
from fundl._types import Array

GROUP = 32  # lanes whose Hessians are formed together


class Shared(NamedTuple):
    """What all lanes have in common."""

    Z: Array  # (n, D), the last column ones (zeros without intercept)
    pairs: Array  # (n, D (D + 1) / 2) in float32, the products of columns i <= j
    k: Array  # (D,), the penalty is l2 sum_j k_j theta_j^2 / 2


class Lanes(NamedTuple):
    """The fits, C of them."""

    s: Array  # (C, n)
    y: Array  # (C, n)
    l2: Array  # (C,)
    start: Array  # (C, D)


class Path(NamedTuple):
    """Where the lanes are."""

    theta: Array  # (C, D)
    z: Array  # (C, n)
    last: Array  # (C, D), the last step
    dz: Array  # (C, n), its change of the logits
    factor: Array  # (C, D, D) in float32
    drift: Array  # (C,), the largest change of a logit since the factor
    r: Array  # (C,), that of the last step
    stale: Array  # (C,), the Hessian no longer serves
    count: Array  # (C,)
    done: Array  # (C,)


class Found(NamedTuple):
    """The end of each lane with its proof."""

    theta: Array  # (C, D)
    z: Array  # (C, n)
    f: Array
    gradient: Array  # (C, D)
    bound: Array  # of f - f*, inf where none is known
    steps: Array


def pairs(Z: Array) -> Array:
    """The products of the columns i <= j, in float32."""
    i, j = np.triu_indices(Z.shape[1])
    Z = Z.astype(jnp.float32)
    return Z[:, i] * Z[:, j]


def minimise(shared: Shared, lanes: Lanes, tol: Array, max_steps: Array) -> Found:
    """Steps until each lane's next one no longer matters."""
    Z, s, y = shared.Z, lanes.s, lanes.y
    eps = jnp.finfo(Z.dtype).eps
    K = lanes.l2[:, None] * shared.k[None, :]
    (C, D), free = K.shape, lanes.l2 == 0

    def body(path: Path) -> Path:
        theta, z = path.theta, path.z
        up, down = _sigmoids(z)
        g = matmul(s * ((1 - y) * up - y * down), Z) + K * theta
        h = s * up * down
        stale = path.stale & ~path.done
        factor = _refreshed(shared, h, K, path.factor, stale)
        drift = jnp.where(stale, jnp.zeros_like(path.drift), path.drift)
        v = -_solved(factor, g)
        v_z = matmul(v, Z.T)
        c1, c2 = _plane(v, path.last, v_z, path.dz, g, h, K)
        step, dz = c1 * v + c2 * path.last, c1 * v_z + c2 * path.dz
        r = jnp.max(jnp.abs(dz), axis=1)
        t = jnp.where(r > 0, safe_divide(jnp.log1p(r), r), jnp.ones_like(r))
        t = jax.lax.cond(
            jnp.any((r > 0.2) & ~path.done), lambda t: _along(t, r, s, y, z, dz, theta, step, K), lambda t: t, t
        )
        r = t * r
        # Strong convexity, as in `_bound`: a step beyond where it suffices, so that it holds at the end.
        apart = jnp.sum(safe_divide(g * g, 2 * K)[:, :-1], axis=1) + jnp.abs(g[:, -1]) * (
            1 + jnp.max(jnp.abs(z), axis=1)
        )
        least = jnp.sum(s * ((1 - y) * jnp.maximum(z, 0) + y * jnp.maximum(-z, 0) + 0.69 * down * up), axis=1)
        small = r <= 2 * eps * (1 + jnp.max(jnp.abs(z), axis=1))
        noise = (path.r < jnp.sqrt(eps)) & (r > path.r / 2)
        near = (r < 0.1) & (apart <= tol * least) & ~free
        lost = ~jnp.isfinite(r) | (free & jnp.all((2 * y - 1) * z * jnp.sign(s) >= 0, axis=1) & (r > 0))
        moved = jnp.where(path.done | lost, jnp.zeros_like(t), t)[:, None]
        step, dz = jnp.where(moved > 0, moved * step, 0 * theta), jnp.where(moved > 0, moved * dz, 0 * z)
        drift = drift + jnp.where(path.done, jnp.zeros_like(r), r)
        return Path(
            theta=theta + step,
            z=z + dz,
            last=step,
            dz=dz,
            factor=factor,
            drift=drift,
            r=jnp.where(path.done, path.r, r),
            stale=(r > 0.3) | ((r > 0.25 * path.r) & (drift > 1e-3) & (r > 1e-9)),
            count=path.count + (~path.done).astype(jnp.int32),
            done=path.done | small | noise | near | lost | (path.count >= max_steps),
        )

    z = matmul(lanes.start, Z.T)
    zero, true = jnp.zeros_like(lanes.l2), jnp.ones_like(free)
    first = Path(
        theta=lanes.start, z=z, last=jnp.zeros_like(lanes.start), dz=jnp.zeros_like(z),
        factor=jnp.zeros((C, D, D), jnp.float32), drift=zero, r=zero + 1, stale=true,
        count=jnp.zeros_like(zero, jnp.int32), done=~true,
    )  # fmt: skip
    path = jax.lax.while_loop(lambda path: ~jnp.all(path.done), body, first)
    return _finished(shared, lanes, K, path)


def _sigmoids(z: Array) -> tuple[Array, Array]:
    """sigma(z) and sigma(-z), neither with cancellation."""
    e = exp_minus_abs(z)
    one = jnp.ones_like(e)
    q = 1 / (1 + e)
    return jnp.where(z > 0, one, e) * q, jnp.where(z > 0, e, one) * q


def _refreshed(shared: Shared, h: Array, K: Array, factor: Array, stale: Array) -> Array:
    """Cholesky factors of the Hessians of the lanes that ask for them, a group at a time."""
    C, D = K.shape
    group = min(GROUP, C)
    order = jnp.argsort(~stale)
    order = jnp.concatenate([order, jnp.broadcast_to(order[-1:], (group,))])
    i, j = np.triu_indices(D)
    place = np.zeros((D, D), np.int32)
    place[i, j] = place[j, i] = np.arange(len(i))
    eye = jnp.eye(D, dtype=jnp.float32)

    def form(a: Array, factor: Array) -> Array:
        chosen = jax.lax.dynamic_slice_in_dim(order, a * group, group)
        packed = matmul(h[chosen].astype(jnp.float32), shared.pairs)
        H = packed[:, place.reshape(-1)].reshape(group, D, D)
        diagonal = jnp.diagonal(H, axis1=1, axis2=2)
        own = K[chosen].astype(jnp.float32)
        own = own + 4 * D * jnp.finfo(jnp.float32).eps * (diagonal + own)
        own = own + jnp.where((shared.Z[-1, -1] == 0) & (jnp.arange(D) == D - 1), 1.0, 0.0).astype(H.dtype)[None, :]
        return factor.at[chosen].set(jnp.linalg.cholesky(H + own[:, :, None] * eye[None]))

    return jax.lax.fori_loop(0, (jnp.sum(stale) + group - 1) // group, form, factor)


def _solved(factor: Array, g: Array) -> Array:
    """H^-1 g for every lane; g is scaled so that float32 holds it."""
    size = jnp.max(jnp.abs(g), axis=1, keepdims=True)
    unit = safe_divide(g, jnp.broadcast_to(size, g.shape)).astype(factor.dtype)[:, :, None]
    v = jax.lax.linalg.triangular_solve(factor, unit, left_side=True, lower=True)
    v = jax.lax.linalg.triangular_solve(factor, v, left_side=True, lower=True, transpose_a=True)
    return v[:, :, 0].astype(g.dtype) * size


def _plane(v: Array, u: Array, v_z: Array, u_z: Array, g: Array, h: Array, K: Array) -> tuple[Array, Array]:
    """The c1 and c2 for which c1 v + c2 u minimises the quadratic model of each lane; (C, 1) each."""
    vv = jnp.sum(h * v_z * v_z, axis=1) + jnp.sum(K * v * v, axis=1)
    vu = jnp.sum(h * v_z * u_z, axis=1) + jnp.sum(K * v * u, axis=1)
    uu = jnp.sum(h * u_z * u_z, axis=1) + jnp.sum(K * u * u, axis=1)
    a, b = -jnp.sum(g * v, axis=1), -jnp.sum(g * u, axis=1)
    determinant = vv * uu - vu * vu
    both = determinant > 1e-4 * vv * uu
    c1 = jnp.where(both, safe_divide(a * uu - b * vu, determinant), safe_divide(a, vv))
    c2 = jnp.where(both, safe_divide(b * vv - a * vu, determinant), jnp.zeros_like(a))
    return c1[:, None], c2[:, None]


def _along(t: Array, r: Array, s: Array, y: Array, z: Array, dz: Array, theta: Array, step: Array, K: Array) -> Array:
    """A few steps on the length t of the step, each safe by the same bound."""
    linear, curve = jnp.sum(K * theta * step, axis=1), jnp.sum(K * step * step, axis=1)

    def once(_: Array, t: Array) -> Array:
        up, down = _sigmoids(z + t[:, None] * dz)
        slope = jnp.sum(s * ((1 - y) * up - y * down) * dz, axis=1) + linear + t * curve
        bend = jnp.sum(s * up * down * dz * dz, axis=1) + curve
        x = safe_divide(slope, bend)
        return t - jnp.sign(x) * safe_divide(jnp.log1p(r * jnp.abs(x)), r)

    return jax.lax.fori_loop(0, 3, once, t)


def _finished(shared: Shared, lanes: Lanes, K: Array, path: Path) -> Found:
    """One more step from logits that are formed anew, and the proof there."""
    Z, s, y = shared.Z, lanes.s, lanes.y

    def at(theta: Array) -> tuple[Array, Array, Array]:
        z = matmul(theta, Z.T)
        up, down = _sigmoids(z)
        alpha = s * ((1 - y) * up - y * down)
        return z, alpha, matmul(alpha, Z) + K * theta

    v = _solved(path.factor, at(path.theta)[2])
    theta = path.theta - jnp.where((path.r < 1e-3)[:, None], v, jnp.zeros_like(v))
    z, alpha, g = at(theta)
    L = (1 - y) * jnp.maximum(z, 0) + y * jnp.maximum(-z, 0) + jnp.log1p(exp_minus_abs(z))
    f = jnp.sum(s * L, axis=1) + jnp.sum(K * theta * theta, axis=1) / 2
    bound = _bound(shared, lanes, K, path, theta, z, alpha, g, f)
    return Found(theta=theta, z=z, f=f, gradient=g, bound=bound, steps=path.count)


def _bound(
    shared: Shared, lanes: Lanes, K: Array, path: Path, theta: Array, z: Array, alpha: Array, g: Array, f: Array
) -> Array:
    """f - f* <= sum_j g_j^2 / (2 K_j) over w, the duality gap of alpha where the gradient in b is 0.

    What rounding leaves of the gradient in b is moved between the rows, which is counted.
    """
    Z, s = shared.Z, lanes.s
    eps = jnp.finfo(Z.dtype).eps
    column = jnp.sqrt(jnp.sum(Z * Z, axis=0))[None, :]
    size = jnp.sqrt(jnp.sum(alpha * alpha, axis=1)) + jnp.sqrt(jnp.sum((s * z) ** 2, axis=1))
    noise = 8 * eps * (column * size[:, None] + K * jnp.abs(theta))
    left = jnp.abs(g[:, -1]) + eps * jnp.sum(jnp.abs(alpha), axis=1)
    u = (jnp.abs(g) + noise + left[:, None] * jnp.max(jnp.abs(Z), axis=0)[None, :])[:, :-1]
    k = K[:, :-1]
    bound = jnp.sum(safe_divide(u * u, 2 * k), axis=1) + left * (jnp.max(jnp.abs(z), axis=1) + 1)
    return jnp.where(jnp.all(k > 0, axis=1) & jnp.isfinite(f), bound, jnp.full_like(bound, jnp.inf))
