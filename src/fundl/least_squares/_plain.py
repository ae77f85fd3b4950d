"""The quick way for concrete arrays: a centred Gram matrix in plain float64, refined, with a bound of its error.

Where the bound is not good enough the answer is None, and the exact way is taken. Small problems are refined in the
machine's extended precision (numpy's longdouble) where there is one.
"""

from typing import Any

import numpy as np

from fundl.least_squares._exact import Solution
from fundl.least_squares._words import ceil_power_of_two

BLOCK = 4096  # rows; a block of a hundred columns stays in the cache
SMALL = 20_000  # entries of X up to which everything is refined in longdouble
LONG = np.longdouble if np.finfo(np.longdouble).nmant >= 63 else np.float64


def attempt(
    X: np.ndarray, Y: np.ndarray, s: np.ndarray | None, l2: Any, intercept: bool, eps: float
) -> Solution | None:
    """The solution with at least the digits asked for, or None."""
    n, d = X.shape
    k = Y.shape[1]
    if s is not None and not s.all():
        kept = s > 0
        X, Y, s = X[kept], Y[kept], s[kept]
        n = X.shape[0]
    root_s = None if s is None else np.sqrt(s)[:, None]
    weight = float(n if s is None else s.sum())
    if n <= d:
        return None
    small = X.size <= SMALL
    wide = LONG if small else np.float64
    unit = float(np.finfo(wide).eps)
    if intercept:
        m = X.mean(axis=0) if s is None else s @ X / weight
        my = Y.mean(axis=0) if s is None else s @ Y / weight
    else:
        m, my = np.zeros(d), np.zeros(k)
    blocks = [slice(i, i + BLOCK) for i in range(0, n, BLOCK)]

    # G, C, u, v: sums over rows of X X^T, X Y^T, X and Y about the (rounded) means.
    G, C, u = np.zeros((d, d)), np.zeros((d, k)), np.zeros(d)
    for at in blocks:
        A, B = X[at] - m, Y[at] - my
        u += A.sum(axis=0) if s is None else s[at] @ A
        if root_s is not None:
            A, B = A * root_s[at], B * root_s[at]
        G += A.T @ A  # numpy hands this to syrk: half the work
        C += A.T @ B
    own = np.diagonal(G)
    if not (np.all(own > 0) and np.all(np.isfinite(own)) and np.all(np.isfinite(C))):
        return None
    lengths = np.sqrt(own)
    if intercept and np.max(np.abs(u) / lengths) > 1e-9 * np.sqrt(weight):
        return None  # the mean is so large that its rounding leaves the columns off centre
    scale = ceil_power_of_two(lengths)
    # In units of the scaled columns.
    H = G / scale[:, None] / scale
    penalty = l2 / scale / scale
    if not np.all(penalty < 1e30):
        return None
    P = H.copy()
    P[np.diag_indices(d)] += penalty
    try:
        L = np.linalg.cholesky(P)
        inverse = np.linalg.inv(L)
    except np.linalg.LinAlgError:
        return None
    inverse = inverse.T @ inverse
    reach = np.sqrt(np.diagonal(inverse))
    condition = float(np.sqrt(np.linalg.norm(P) * np.linalg.norm(inverse)))
    if not condition**2 * 2.3e-16 < 1e-6:
        return None
    if d <= 100:
        D = np.sqrt(np.diagonal(P))
        condition = float(
            np.sqrt(np.linalg.eigvalsh(P / D[:, None] / D)[-1] * np.linalg.eigvalsh(inverse * D[:, None] * D)[-1])
        )

    # Two refinements with the residual formed from the data; the first may correct by condition^2 eps.
    w = (inverse @ (C / scale[:, None])).astype(wide)
    beta = np.zeros(k, wide)
    step = w
    rss, noise = np.zeros(k), np.zeros(k)
    for _ in range(2):
        g, g0 = np.zeros((d, k), wide), np.zeros(k, wide)
        rss, noise = np.zeros(k, wide), np.zeros(k)
        slope = w / scale[:, None]
        for at in blocks:
            A = X[at].astype(wide) - m
            part = A @ slope
            centred = Y[at].astype(wide) - my
            r = centred - part - beta
            q = r if s is None else r * s[at][:, None]
            g += A.T @ q
            g0 += q.sum(axis=0)
            rss += (q * r).sum(axis=0)
            size = np.abs(part) + np.abs(centred)
            noise += ((size * size) if s is None else size * size * s[at][:, None]).sum(axis=0, dtype=np.float64)
        g = g / scale[:, None] - penalty[:, None] * w
        step = inverse @ g.astype(np.float64)
        w = w + step
        if intercept:
            beta = beta + g0 / weight
    rate = condition**2 * 2.3e-16 * d

    # |dw_j| <= reach_j ||dr||, dr the rounding of the residual, and the rounding of the sums g.
    size = np.sqrt(noise)
    off = reach[:, None] * (unit * (4 + np.sqrt(d)) * size) + unit * (8 + np.sqrt(n) / 8) * np.abs(inverse).sum(axis=1)[
        :, None
    ] * np.sqrt(rss).astype(np.float64)
    off = off + 4 * rate * np.abs(step) + 4 * rate * reach[:, None] * np.linalg.norm(step, axis=0)
    w_out = (w / scale[:, None]).astype(np.float64)
    rounding = eps / 2 * 1.000001  # of the result, which has the dtype of the data
    w_bound = off / scale[:, None] + np.abs(w_out) * 2.0**-53
    if intercept:
        shift = m @ (w / scale[:, None])
        b = (my.astype(wide) + beta - shift).astype(np.float64)
        ground = np.abs(my) + np.abs(m) @ np.abs(w_out)
        b_off = np.abs(m / scale) @ off + unit * (4 + np.sqrt(d)) * (ground + 2 * size / np.sqrt(weight))
        b_bound = b_off + np.abs(b) * 2.0**-53
    else:
        b, b_bound, ground = np.zeros(k), np.zeros(k), np.ones(k)
    top = np.abs(Y - my).max(axis=0)
    floor = 2.0**-53 * top / scale[:, None]
    ratio = max(
        float(np.max(w_bound / np.maximum(np.maximum(np.abs(w_out), floor), 1e-300))),
        float(np.max(b_bound / np.maximum(np.maximum(np.abs(b), 2.0**-53 * (top + np.abs(my))), 1e-300))),
    )
    digits = -np.log10(max(ratio, 2.0**-53))
    # Standard errors come from the plain inverse, so they ask for a good condition where many digits are promised.
    scaled = np.abs(w_out) * lengths[:, None]
    enough = digits >= 14.6 and condition <= 8 if small else np.max(w_bound * lengths[:, None]) <= 1e-12 * scaled.max()
    if not enough:
        return None

    if np.any(rss <= (noise * unit * 1e4)):  # the residual is rounding: its size must come from exact sums
        return None
    shrunk = float(penalty @ np.diagonal(inverse))
    freedom = weight - (d - shrunk) - (1 if intercept else 0)
    rss = rss.astype(np.float64)
    deviation = np.sqrt(rss / freedom) if freedom > 0 else np.full(k, np.nan)
    variance = np.maximum(np.diagonal(inverse) - (inverse * inverse) @ penalty, 0)
    w_error = np.sqrt(variance)[:, None] * deviation / scale[:, None]
    t = m / scale
    b_spread = inverse @ t
    b_variance = 1 / weight + t @ b_spread - penalty @ (b_spread * b_spread)
    b_error = np.sqrt(max(b_variance, 0)) * deviation if intercept else np.zeros(k)
    objective = rss + penalty @ np.square(w.astype(np.float64))
    w_bound = w_bound + np.abs(w_out) * (rounding - 2.0**-53)
    b_bound = b_bound + np.abs(b) * (rounding - 2.0**-53)
    digits = min(digits, -np.log10(ratio + rounding))
    # The objective rises by ||A d||^2 for an error d = (dw, db): centred columns times dw, and a shift of all rows.
    rise = lengths @ w_bound + (np.sqrt(weight) * (np.abs(m) @ w_bound + b_bound) if intercept else 0)
    suboptimality = np.square(rise).sum()
    trace = own.sum() + weight * (m @ m + 1)
    none = np.zeros(())
    return Solution(
        w=w_out,
        b=b,
        finite=np.asarray(True),
        rank=np.asarray(d),
        condition=np.asarray(condition),
        digits=np.asarray(digits),
        objective=objective.sum(),
        suboptimality=suboptimality,
        gradient_norm=2 * np.sqrt(suboptimality * trace),
        deviation=deviation,
        w_error=w_error,
        b_error=b_error,
        w_bound=w_bound,
        b_bound=b_bound,
        inverse=none,
        projection=none,
        m=none,
        scale=none,
        s_scale=none,
    )
