"""Many columns, dependent or more than there are rows: by singular values in float64, where exact sums cost minutes.

The rank is decided on scaled columns; of all solutions the one of smallest norm in the units of the data is w = Q t
for an orthonormal basis Q of the rows of X, which needs no basis of the null space.

Source: Golub and Van Loan, Matrix Computations (2013), 5.5 and 5.3.4.
"""

from typing import Any

import numpy as np

from fundl.least_squares._exact import Solution
from fundl.least_squares._inputs import rank_tolerance
from fundl.least_squares._words import ceil_power_of_two

EPS = float(np.finfo(np.float64).eps)


def costly(d: int) -> bool:
    """True where exact elimination would take more than seconds."""
    return d**3 * 1.4e-7 > 2


def solve(X: np.ndarray, Y: np.ndarray, s: np.ndarray | None, l2: Any, intercept: bool, eps: float) -> Solution:
    """The solution for finite data, whatever their rank; X and Y in float64."""
    if s is not None and not s.all():
        X, Y, s = X[s > 0], Y[s > 0], s[s > 0]
    n, d = X.shape
    k = Y.shape[1]
    weight = float(n if s is None else s.sum())
    c, cy = np.zeros(d), np.zeros(k)
    share = np.full(n, 1 / max(n, 1)) if s is None else s / weight
    if intercept and n:
        for _ in range(2):  # the first mean is rounded
            c, cy = c + share @ (X - c), cy + share @ (Y - cy)
    Z = X - c
    # A constant column is one up to the rounding of its mean.
    Z[:, np.abs(Z).max(axis=0, initial=0.0) <= 4 * EPS * np.abs(c)] = 0.0
    if intercept and n:
        Z -= share @ Z  # the rounding of c would be a direction of the data
    root = np.ones((n, 1)) if s is None else np.sqrt(s)[:, None]
    lengths = np.sqrt(np.square(Z * root).sum(axis=0))
    scale = ceil_power_of_two(np.hypot(lengths, np.sqrt(l2)))
    penalty = np.broadcast_to(l2 / scale / scale, (d,))
    A = Z / scale * root
    if n > 2 * d:
        A = np.asarray(np.linalg.qr(A, mode="r"))
    own = A
    if l2 > 0:
        A = np.concatenate([A, np.diag(np.sqrt(penalty))])
    _, sigma, Vt = np.linalg.svd(A, full_matrices=False)
    live = sigma > rank_tolerance(eps, d) * sigma.max(initial=0.0)
    sigma, Vt = sigma[live], Vt[live]
    rank = len(sigma)
    full = rank == d
    M = Vt / sigma[:, None]  # M^T M is the (pseudo-)inverse in units of the scaled columns

    # Two refinements, each with the residual formed from the data.
    w, step = np.zeros((d, k)), np.zeros((d, k))
    for _ in range(3):
        r = (Y - cy) - Z @ (w / scale[:, None])
        step = M.T @ (M @ ((root**2 * r).T @ Z / scale - (penalty[:, None] * w).T).T)
        w = w + step
    r = (Y - cy) - Z @ (w / scale[:, None])
    w_out, uneven = w / scale[:, None], 1.0
    if not full:
        Q, R = np.linalg.qr(Vt.T * scale[:, None])
        pivots = np.abs(np.diagonal(R))
        uneven = float(pivots.max() / pivots.min()) if rank else 1.0
        w_out = Q @ np.linalg.solve(R.T, Vt @ w) if rank else np.zeros((d, k))
    b = cy - c @ w_out if intercept else np.zeros(k)

    rss = np.square(root * r).sum(axis=0)
    size = np.sqrt(np.square(root * (np.abs(Y - cy) + np.abs(Z @ (w / scale[:, None])))).sum(axis=0))
    rss = np.where(rss <= (16 * EPS * np.sqrt(d) * size) ** 2, 0.0, rss)
    reach = np.sqrt(np.square(M).sum(axis=0))
    condition = float(sigma[0] / sigma[-1]) if rank else 1.0
    lost = 16 * EPS * np.sqrt(d)
    off = lost * reach[:, None] * (size + condition * np.sqrt(rss)) + np.abs(step)
    rounding = eps / 2 * 1.000001
    w_bound = off / scale[:, None] + np.abs(w_out) * rounding
    if not full:
        w_bound = w_bound + lost * condition * uneven * np.abs(w_out).max(axis=0, initial=0.0)
    b_bound = np.abs(c) @ w_bound + np.abs(b) * rounding + lost * np.abs(cy) if intercept else np.zeros(k)
    ratio = max(_worst(w_bound, w_out), _worst(b_bound, b) if intercept else 0.0)

    shrunk = float(penalty @ np.square(reach)) if l2 > 0 else 0.0
    freedom = weight - rank - (1 if intercept else 0) + shrunk
    deviation = np.sqrt(rss / freedom) if freedom > 1e-9 * weight else np.full(k, np.nan)
    unknown = np.full((d, k), np.nan)
    w_error, b_error = unknown, np.full(k, np.nan) if intercept else np.zeros(k)
    if full:
        # The covariance K G K of K = M^T M as that of the predictions A K: no difference, which a penalty would cancel.
        hat = own @ M.T
        spread = np.sqrt(np.square(hat @ M).sum(axis=0)) if l2 > 0 else reach
        w_error = spread[:, None] * deviation / scale[:, None]
        if intercept:
            b_error = np.sqrt(1 / weight + np.square(hat @ (M @ (c / scale))).sum()) * deviation
    rise = lengths @ w_bound + np.sqrt(weight) * (np.abs(c) @ w_bound + b_bound if intercept else 0.0)
    suboptimality = np.square(rise).sum() + l2 * np.square(w_bound).sum()
    none = np.zeros(())
    return Solution(
        w=w_out,
        b=b,
        finite=np.asarray(True),
        rank=np.asarray(rank),
        condition=np.asarray(condition if full else np.inf),
        digits=np.asarray(max(-np.log10(max(ratio, rounding)), 0.0) if weight > 0 else 0.0),
        objective=(rss + penalty @ np.square(w)).sum() if l2 > 0 else rss.sum(),
        suboptimality=suboptimality,
        gradient_norm=2 * np.sqrt(suboptimality * (np.square(lengths).sum() + weight * (c @ c + 1) + l2)),
        deviation=deviation,
        w_error=w_error,
        b_error=b_error,
        w_bound=w_bound,
        b_bound=b_bound,
        lengths=lengths + np.sqrt(weight) * np.abs(c),
        inverse=none,
        projection=none,
        m=none,
        scale=none,
        s_scale=none,
    )


def _worst(bound: np.ndarray, value: np.ndarray) -> float:
    """The largest bound relative to the largest value: what singular values can promise."""
    return float(np.max(bound, initial=0.0) / max(np.max(np.abs(value), initial=0.0), 1e-300))
