"""Newton's method under l1 on concrete rows, in NumPy: each step is that of a quadratic model in a few columns only.

At theta, with the slope g of all but the l1 term, theta_j = 0 is right where abs(g_j) <= c_j, the l1 of column j. So
the model has the columns with theta_j != 0 and those that break this rule most, or come nearest to it: at least as many
again. A pass gives g for all columns, so what a step leaves out can come into the next. Where no column breaks its rule
and the step is 0, theta is the minimum; how far it is from it at most the duality gap tells, which asks nothing of the
model: its columns and its curvature only decide how fast the end is reached.
Sources: Massias, Gramfort and Salmon, Celer: a fast solver for the lasso with dual extrapolation, ICML 2018 (working
sets that double); Lee, Sun and Saunders, Proximal Newton-type methods for minimizing composite functions, SIAM Journal
on Optimization 24 (2014).
"""

import numpy as np

from fundl.newton import _passes
from fundl.newton._certainty import norm_of, proved, reach, rounding
from fundl.newton._passes import N, Pass, Rows
from fundl.newton._sampled import Found, quadratic, regular, sample, spread

EPS = float(np.finfo(np.float64).eps)
FEW = 64  # columns that are all taken
SMALL = 100  # columns up to which a sharper bound costs little
TURNS = 40  # of the active set in a model, at most; far out, with few rows, a better model comes cheaper


def minimise(rows: Rows, K: N, c: N, tol: float, max_steps: int, theta: N) -> Found | None:
    """From theta to the minimum of sum_i s_i L_i + sum_j (K_j theta_j^2 / 2 + c_j abs(theta_j)); one logit.

    Where a whole step does not lower the value enough it gets the length of `_dense.minimise`, found without a search.
    """
    n, D = len(rows.y), len(K)
    if rows.scale is not None and n > 100 * D:  # large: the first steps on some of the rows
        part, times = sample(rows, max(n // 16, 20 * D))
        begun = minimise(part, K / times, c / times, 1e-3, min(max_steps, 20), theta)
        theta = theta if begun is None else begun.theta
    norms = rows.column_norms()
    single = (rows.scale is None or _passes.within_single(rows.scale)) and rows.within_single
    now, r, steps, last = _passes.full(rows, theta), np.inf, 0, False
    while True:
        a = theta[:, 0]
        slope = now.g[:, 0] + K * a
        f = value(now, K, c, theta)
        if last or r < 0.1 or steps >= max_steps:
            gap = duality_gap(rows, K, c, norms, now, f)
            if last or gap <= tol * f or steps >= max_steps:
                g = np.where(a != 0, slope + c * np.sign(a), np.sign(slope) * np.maximum(np.abs(slope) - c, 0))
                bound = gap if gap <= tol * f else min(gap, concordance(rows, K, c, norms, now, theta, g[:, None]))
                solved = last and bound <= np.sqrt(EPS) * f
                return Found(theta, f, g[:, None], bound, steps, solved, None, None)
        W = columns(rows, slope, a, c)
        # Where float32 is taken, what is added to the diagonal below is far more than its rounding.
        H = hessian(rows, now.z, W, np.float32 if single and r > 1 else np.float64)
        H.flat[:: len(W) + 1] += K[W]
        # Far out W may hold more columns than there are rows; what is added then fades with the steps.
        H.flat[:: len(W) + 1] *= 1 + 4 * len(W) * EPS + 1e-3 * min(r, 1.0)
        v = np.zeros_like(theta)
        turns = TURNS if r < 0.1 else min(3 + n // len(W), TURNS)
        v[W, 0] = model_minimum(H, slope[W], a[W], c[W], turns) - a[W]
        delta = -float(slope @ v[:, 0] + c @ (np.abs(a + v[:, 0]) - np.abs(a)))
        if not delta >= 0:
            return None
        trial, before, t = _passes.full(rows, theta + v), r, 1.0
        r = spread(trial.z - now.z)
        if r > 0.1 and not value(trial, K, c, theta + v) <= f - 0.1 * delta:
            t = min(1.0, float(np.log1p(r * delta / (v[W, 0] @ H @ v[W, 0])) / r))
            trial = _passes.full(rows, theta + t * v)
        elif delta > 0.01 * f:
            more = further(rows, K, c, theta + v, v, trial)
            if more is not None:
                beyond = _passes.full(rows, theta + more)
                if value(beyond, K, c, theta + more) < value(trial, K, c, theta + v):
                    v, trial = more, beyond
                    r = spread(trial.z - now.z)
        noise = before < 1e-3 and r > before / 2
        last = delta <= EPS * f and (noise or r * r <= EPS / 16)  # r is not enough: v may lower the l1 term alone
        theta, now, steps = theta + t * v, trial, steps + 1


def further(rows: Rows, K: N, c: N, theta: N, v: N, now: Pass) -> N | None:
    """The step v to theta, lengthened as by `_sampled.length`: columns that are 0 there stay, and signs are kept."""
    u = np.where(theta != 0, v, 0.0)
    slope = float(np.vdot(now.g + K[:, None] * theta + c[:, None] * np.sign(theta), u))
    dz = now.z * 0
    for part, block in rows.blocks():
        dz[part] = _passes.logits(block, u)
    curve = _passes.bend(rows, _passes.loss(rows, now.z)[2], dz) + 2 * quadratic(K, u)
    t = min(-slope / curve, 3.0) if curve > 0 else 0.0
    back = theta * u < 0
    t = min(t, float(np.min(-theta[back] / u[back], initial=np.inf)))
    return v + t * u if t > 0.05 else None


def value(now: Pass, K: N, c: N, theta: N) -> float:
    return now.f + quadratic(K, theta) + float(c @ np.abs(theta[:, 0]))


def columns(rows: Rows, slope: N, a: N, c: N) -> N:
    """Those of the model; the column of ones is always one."""
    d = len(a) - 1
    room = max(FEW, 2 * np.count_nonzero(a))
    W = np.arange(d)
    if d > room:
        W = np.sort(np.argpartition(np.where(a[:d] != 0, -np.inf, -np.abs(slope[:d]) / c[:d]), room)[:room])
    return np.append(W, d) if rows.intercept else W


def hessian(rows: Rows, z: N, W: N, dtype: type) -> N:
    """That of sum_i s_i L_i in the columns W, in the order of W, from products in dtype."""
    p = _passes.loss(rows, z)[2][:, 0]
    root = np.sqrt(p * (1 - p) if rows.s is None else rows.s * p * (1 - p))
    w = W if rows.scale is None else np.setdiff1d(W, [len(rows.scale)])
    every = len(w) == rows.X.shape[1]
    H, edge, step = np.zeros((len(w), len(w)), dtype), np.zeros(len(w), dtype), _passes.rows_of_block(len(w), 1)
    room = np.empty((min(step, len(z)), len(w)), dtype)
    for start in range(0, len(z), step):
        r = root[start : start + step]
        X = rows.X[start : start + step] if every else rows.X[start : start + step].take(w, axis=1)
        R = np.multiply(X, r[:, None], out=room[: len(X)], casting="same_kind")
        H += R.T @ R
        if rows.scale is not None:
            edge += r.astype(dtype) @ R
    H, edge = H.astype(np.float64), edge.astype(np.float64)
    if rows.scale is None:
        return H
    scale = rows.scale[w]
    H, edge = H / (scale[:, None] * scale), edge / scale
    return np.block([[H, edge[:, None]], [edge, root @ root]]) if rows.intercept else H


def model_minimum(H: N, g: N, a: N, c: N, turns: int) -> N:
    """The u that minimises (u - a)^T H (u - a) / 2 + g^T (u - a) + sum_j c_j abs(u_j), or one on the way to it.

    Newton steps in the orthant of u and of the columns at 0 that break their rule, as many as there are others: those
    that would go the wrong way wait, those that would leave the orthant stop at 0. Where nothing stopped, the step was
    whole and no column breaks its rule, u is the minimum.
    Source: Bertsekas, Projected Newton methods for optimization problems with simple constraints, SIAM Journal on
    Control and Optimization 20 (1982).
    """
    u, slope, settled = a, g, False
    for _ in range(turns):
        excess = np.abs(slope) - c * (1 + 8 * EPS)
        added = (u == 0) & (c > 0) & (excess > 0)
        most = max(8, np.count_nonzero(u))
        if np.count_nonzero(added) > most:
            added &= excess >= np.partition(excess[added], -most)[-most]
        while True:
            if settled and not added.any():
                return u
            sign = np.where(added, -np.sign(slope), np.sign(u))
            A = np.flatnonzero((sign != 0) | (c == 0))
            pull = slope[A] + c[A] * sign[A]
            v = -np.linalg.solve(H[np.ix_(A, A)], pull)
            wrong = added[A] & (v * sign[A] <= 0)
            if not wrong.any():
                break
            added[A[wrong]] = False
        back = (v * sign[A] < 0) & (c[A] > 0)
        until = np.where(back, -u[A] / np.where(back, v, 1.0), np.inf)
        for t in (1.0, 0.5, 0.25, 0.125, until.min(initial=1.0)):  # with the last only the first stops: that one falls
            new = u.copy()
            new[A] = np.where(until <= t, 0.0, u[A] + t * v)
            change = new - u
            turn = H @ change
            fall = -float(slope @ change + change @ turn / 2 + c @ (np.abs(new) - np.abs(u)))
            falls = fall > 0 and fall >= -0.01 * float(pull @ change[A])
            if falls:
                break
        settled = t == 1.0 and not (until <= 1.0).any()
        if not falls:
            return u
        u, slope = new, slope + turn
    return u


def duality_gap(rows: Rows, K: N, c: N, norms: N, now: Pass, f: float) -> float:
    """`_lasso.duality_gap` at a pass, whose g is its v = X^T S a; what rounding does to v, by Cauchy and Schwarz.

    With l2 there are two duals to choose from: tau = 1, or so small that no column breaks its rule.
    """
    left = abs(float(now.g[-1, 0]))
    v = (np.abs(now.g[:, 0]) + (left + EPS * now.alpha) * norms)[:-1]
    K, c = K[:-1], c[:-1]
    _, alpha, p = _passes.loss(rows, now.z)
    s = 1.0 if rows.s is None else rows.s

    def gap(tau: float) -> float:
        if rows.soft:
            q = tau * alpha[:, 0] / s
            dual = float(np.sum(s * (_xlogx(np.maximum(rows.y + q, 0)) + _xlogx(np.maximum(1 - rows.y - q, 0)))))
        else:  # of the probability of the error; log1p keeps what a small one leaves
            q = np.minimum(tau * p[:, 0], 1 - EPS)
            dual = float(np.sum(s * (_xlogx(q) + (1 - q) * np.log1p(-q))))
        excess = np.maximum(tau * v - c, 0)
        dual += float(np.sum(excess**2 / (2 * K))) if K.any() else 0.0
        return max(f + dual, 0.0) + left * (spread(now.z) + 1) + 16 * EPS * (f + abs(dual))

    bounded = gap(float(np.min(c[v > c] / v[v > c], initial=1.0)))
    return min(bounded, gap(1.0)) if K.any() else bounded


def _xlogx(u: N) -> N:
    return u * np.log(np.where(u > 0, u, 1.0))


def concordance(rows: Rows, K: N, c: N, norms: N, now: Pass, theta: N, g: N) -> float:
    """The bound of `_certainty.proved`, sharper where all columns together have a regular Hessian; else inf."""
    if rows.scale is not None or len(K) > SMALL:
        return np.inf
    H = regular(_passes.hessian(rows, _passes.loss(rows, now.z)[2]), K, rows)
    H.flat[:: len(H) + 1] += H.diagonal() == 0  # columns that do not vary
    try:
        inverse = np.linalg.inv(H)
    except np.linalg.LinAlgError:
        return np.inf
    error = rounding(rows.most, K, norms, now.alpha, theta)[:, 0] + 8 * EPS * c
    return proved(reach(rows, H.diagonal()) * norm_of(inverse, H), H, inverse, 0.0, g, error[:, None], 1)
