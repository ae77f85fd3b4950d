"""The lanes of `_lanes` for concrete arrays, in NumPy: the same steps, but nothing is compiled, lanes that have ended
make room for the others, and chunks of lanes run on all processors.
"""

from typing import NamedTuple

import numpy as np

from fundl._precise import inverse_of_lower
from fundl._threads import product

N = np.ndarray
EPS, EPS32 = (float(np.finfo(t).eps) for t in (np.float64, np.float32))


class Shared(NamedTuple):
    """What all lanes have in common; see `_lanes.Shared`."""

    Z: N
    ZT: N  # its transpose, contiguous
    pairs: N
    k: N
    place: N  # (D D,), where the product of two columns is among the pairs


class Lanes(NamedTuple):
    """The fits that have not ended, C of them."""

    at: N  # (C,), their numbers
    s: N  # (C, n)
    wrong: N  # (C, n), s (1 - y)
    right: N  # (C, n), s y
    total: N  # (C,), the sum of s
    K: N  # (C, D)
    theta: N  # (C, D)
    z: N  # (C, n)
    last: N  # (C, D), the last step
    dz: N  # (C, n), its change of the logits
    M: N  # (C, D, D) in float32, the inverse of the Cholesky factor
    drift: N  # (C,), the largest change of a logit since the factor
    r: N  # (C,), that of the last step
    stale: N  # (C,), the Hessian no longer serves


class Found(NamedTuple):
    """The end of each lane with its proof."""

    theta: N
    z: N
    L: N  # (C, n), the loss of each row
    f: N
    gradient: N
    bound: N
    steps: N


def shared(Z: N, scale: N) -> Shared:
    """Z (n, D) with the column of ones; the penalty is that of the columns before they were scaled."""
    n, D = Z.shape
    i, j = np.triu_indices(D)
    place = np.zeros((D, D), np.int32)
    place[i, j] = place[j, i] = np.arange(len(i))
    thin, pairs = Z.astype(np.float32), np.empty((n, len(i)), np.float32)
    for a, here in enumerate(place):  # without copies of the columns
        np.multiply(thin[:, a : a + 1], thin[:, a:], out=pairs[:, here[a] : here[-1] + 1])
    k = np.append(1 / (scale * scale), 0.0)
    return Shared(Z, np.ascontiguousarray(Z.T), pairs, k, place.reshape(-1))


def minimise(given: Shared, s: N, y: N, l2: N, start: N, tol: float, max_steps: int) -> Found:
    """Steps until the next one no longer matters; s and y (C, n), l2 (C,), start (C, D). Its steps: `_lanes`."""
    (C, D), n = start.shape, len(given.Z)
    K, zero = l2[:, None] * given.k, np.zeros(C)
    wrong, right = s * (1 - y), s * y
    theta, M, r, steps = start.copy(), np.zeros((C, D, D), np.float32), zero.copy(), np.zeros(C, np.int32)
    lanes = Lanes(
        np.arange(C), s, wrong, right, s.sum(axis=1), K, start, product(start, given.ZT), np.zeros((C, D)),
        np.zeros((C, n)), M.copy(), zero, zero + 1, np.ones(C, bool),
    )  # fmt: skip
    room = np.empty((4, C, n))  # memory that is there already: what is new costs as much as a product
    over = np.zeros(C, bool)
    for count in range(1, max_steps + 1):
        lanes, ended = _stepped(given, lanes, room[:, : len(over)], tol, first=count == 1)
        new = np.flatnonzero((ended | (count == max_steps)) & ~over)
        at = lanes.at[new]
        theta[at], M[at], r[at], steps[at] = lanes.theta[new], lanes.M[new], lanes.r[new], count
        over[new] = True
        if over.all():
            break
        if np.mean(over) > 0.2:
            on = np.flatnonzero(~over)
            lanes = Lanes(*(v.take(on, axis=0) for v in lanes))  # which leaves Python to other threads, unlike v[on]
            over = over[on]
        lanes = lanes._replace(stale=lanes.stale & ~over)
    return _finished(given, s, wrong, right, K, theta, M, r, steps, room)


def _stepped(given: Shared, lanes: Lanes, room: N, tol: float, *, first: bool) -> tuple[Lanes, N]:
    """All lanes one step on, in their own memory, and which have ended."""
    at, s, wrong, right, total, K, theta, z, last, u_z, M, drift, before, stale = lanes
    g, h = _gradient(given, wrong, right, K, theta, z, room)
    h *= s
    if stale.any():
        old = np.flatnonzero(stale)
        M[old] = _inverses(given, h if len(old) == len(h) else h.take(old, axis=0), K[old])
    v = -_solved(M, g)
    v_z = product(v, given.ZT, room[1])
    c1, c2 = _plane(v, v_z, last, u_z, g, h, K, room[2], first=first)
    step = c1 * v + c2 * last
    v_z *= c1
    dz = u_z
    dz *= c2
    dz += v_z
    r = np.maximum(dz.max(axis=1), -dz.min(axis=1))
    t = np.where(r > 0, np.log1p(r) / r, 1.0)
    far = np.flatnonzero(r > 0.2)
    if len(far):
        rows = [v if len(far) == len(r) else v.take(far, axis=0) for v in (wrong, right, s, z, dz)]
        t[far] = _along(t[far], r[far], rows, theta[far], step[far], K[far], room[1:, : len(far)])
    r = t * r
    ended = (before < np.sqrt(EPS)) & (r > before / 2)
    close = np.flatnonzero(r < 0.1)
    if len(close):
        there = z if len(close) == len(r) else z.take(close, axis=0)
        top = np.maximum(there.max(axis=1), -there.min(axis=1))
        ended[close] |= r[close] <= 2 * EPS * (1 + top)
        # Strong convexity, as at the end, holds f - f* below tol of what f is at least.
        apart = np.sum(g[close, :-1] ** 2 / (2 * K[close, :-1]), axis=1) + np.abs(g[close, -1]) * (1 + top)
        likely = apart <= tol * total[close] * (1 + top)  # NaN without penalty
        if likely.any():
            apart, close = apart[likely], close[likely]
            ended[close] |= apart <= tol * _least(*(v.take(close, axis=0) for v in (wrong, right, z, h)))
    lost = ~np.isfinite(r)
    free = np.flatnonzero((K[:, :-1] == 0).all(axis=1))
    if len(free):
        lost[free] |= ((right[free] - wrong[free]) * z[free] >= 0).all(axis=1) & (r[free] > 0)
    t[lost] = 0
    step *= t[:, None]
    dz *= t[:, None]
    if lost.any():
        step[lost] = dz[lost] = 0
    theta = theta + step
    z += dz
    drift = np.where(stale, 0.0, drift) + r
    stale = (r > 0.3) | ((r > 0.25 * before) & (drift > 1e-3) & (r > 1e-9))
    return Lanes(at, s, wrong, right, total, K, theta, z, step, dz, M, drift, r, stale), ended | lost


def _odds(z: N, E: N, p: N) -> None:
    """E = exp(z) and p = sigma(-z), so that sigma(z) = E p; neither cancels."""
    np.exp(np.minimum(z, 700.0, out=E), out=E)
    np.divide(1.0, np.add(E, 1.0, out=p), out=p)


def _slopes(wrong: N, right: N, E: N, p: N, out: N) -> N:
    """What each row has in the gradient of its logit."""
    np.multiply(wrong, E, out=out)
    out -= right
    out *= p
    return out


def _gradient(given: Shared, wrong: N, right: N, K: N, theta: N, z: N, room: N) -> tuple[N, N]:
    """The gradient (C, D), and sigma(z) sigma(-z) in the first of the room; the slopes are in the third."""
    E, p, slopes = room[:3]
    _odds(z, E, p)
    g = product(_slopes(wrong, right, E, p, slopes), given.Z) + K * theta
    E *= p
    E *= p
    return g, E


def _inverses(given: Shared, h: N, K: N) -> N:
    """L^-1 for the Hessians L L^T; NaN where float32 does not hold them."""
    D = K.shape[1]
    H = product(h.astype(np.float32), given.pairs).take(given.place, axis=1).reshape(-1, D, D)
    diagonal = np.einsum("cii->ci", H)
    own = K.astype(np.float32)
    own += 4 * D * EPS32 * (diagonal + own)
    diagonal += np.where(diagonal + own > 0, own, np.float32(1))  # a column of zeros, as without intercept
    try:
        return inverse_of_lower(np.linalg.cholesky(H))
    except np.linalg.LinAlgError:
        if len(H) == 1:
            return np.full_like(H, np.nan)
        return np.concatenate([_inverses(given, h[i : i + 1], K[i : i + 1]) for i in range(len(H))])


def _solved(M: N, g: N) -> N:
    """H^-1 g for every lane; g is scaled so that float32 holds it."""
    size = np.abs(g).max(axis=1, keepdims=True)
    size[size == 0] = 1
    v = M @ (g / size).astype(np.float32)[:, :, None]
    return (v.transpose(0, 2, 1) @ M)[:, 0].astype(np.float64) * size


def _dot(a: N, b: N) -> N:
    return np.einsum("cn,cn->c", a, b)


def _plane(v: N, v_z: N, u: N, u_z: N, g: N, h: N, K: N, curved: N, *, first: bool) -> tuple[N, N]:
    """The c1 and c2 for which c1 v + c2 u minimises the quadratic model of each lane; (C, 1) each."""
    a = -_dot(g, v)
    np.multiply(h, v_z, out=curved)
    vv = _dot(curved, v_z) + _dot(K * v, v)
    alone = np.where(vv != 0, a / vv, 0.0)
    if first:
        return alone[:, None], np.zeros_like(alone)[:, None]
    b = -_dot(g, u)
    vu = _dot(curved, u_z) + _dot(K * v, u)
    np.multiply(h, u_z, out=curved)
    uu = _dot(curved, u_z) + _dot(K * u, u)
    determinant = vv * uu - vu * vu
    both = determinant > 1e-4 * vv * uu
    c1 = np.where(both, (a * uu - b * vu) / determinant, alone)
    return c1[:, None], np.where(both, (b * vv - a * vu) / determinant, 0.0)[:, None]


def _along(t: N, r: N, rows: list[N], theta: N, step: N, K: N, room: N) -> N:
    """A few steps on the length t of the step, each safe by the bound of `_lanes`."""
    wrong, right, s, z, dz = rows
    linear, curve = _dot(K * theta, step), _dot(K * step, step)
    E, p, a = room
    for _ in range(3):
        np.multiply(t[:, None], dz, out=a)
        a += z
        _odds(a, E, p)
        slope = _dot(_slopes(wrong, right, E, p, a), dz) + linear + t * curve
        E *= p
        E *= p
        E *= s
        E *= dz
        bend = _dot(E, dz) + curve
        x = np.where(bend != 0, slope / bend, 0.0)
        t = t - np.sign(x) * np.log1p(r * np.abs(x)) / r
    return t


def _least(wrong: N, right: N, z: N, h: N) -> N:
    """Of f, at each lane; h is s sigma(z) sigma(-z)."""
    return _dot(wrong, np.maximum(z, 0)) + _dot(right, np.maximum(-z, 0)) + 0.69 * h.sum(axis=1)


def _finished(given: Shared, s: N, wrong: N, right: N, K: N, theta: N, M: N, r: N, steps: N, room: N) -> Found:
    """One more step from logits that are formed anew, and the proof there; see `_lanes._bound`."""
    Z = given.Z
    g, _ = _gradient(given, wrong, right, K, theta, product(theta, given.ZT, room[3]), room)
    theta = theta - np.where((r < 1e-3)[:, None], _solved(M, g), 0.0)
    z = product(theta, given.ZT)
    g, _ = _gradient(given, wrong, right, K, theta, z, room)
    L, _, alpha, other = room
    np.exp(np.negative(np.abs(z, out=L), out=L), out=L)
    np.log1p(L, out=L)
    f = _dot(s, L) + _dot(K * theta, theta) / 2
    f += _dot(wrong, np.maximum(z, 0, out=other)) + _dot(right, np.subtract(other, z, out=other))
    size = np.sqrt(_dot(alpha, alpha)) + np.sqrt(_dot(np.multiply(s, z, out=other), other))
    noise = 8 * EPS * (np.sqrt(np.einsum("ij,ij->j", Z, Z)) * size[:, None] + K * np.abs(theta))
    left = np.abs(g[:, -1]) + EPS * np.abs(alpha).sum(axis=1)
    u = (np.abs(g) + noise + left[:, None] * np.abs(Z).max(axis=0))[:, :-1]
    k = K[:, :-1]
    bound = np.sum(u * u / (2 * k), axis=1) + left * (np.abs(z).max(axis=1) + 1)
    bound = np.where((k > 0).all(axis=1) & np.isfinite(f), bound, np.inf)
    return Found(theta, z, L, f, g, bound, steps)
