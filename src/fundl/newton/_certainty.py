"""What a Hessian that is formed tells: how far f is from its minimum at most, covariance, rank of the columns."""

import numpy as np

from fundl.newton._passes import N, Rows

EPS = float(np.finfo(np.float64).eps)


def rounding(most: float, K: N, norms: N, alpha: float, theta: N, eps: float = EPS, moved: float = np.inf) -> N:
    """What rounding can do to each entry of the gradient: 8 eps times its terms, by the Cauchy-Schwarz inequality.

    most: the largest weight; norms: of the columns; alpha: norm2 of dL/dz; eps: of the pass; moved: norm2 of what
    logits that are off by their terms change in dL/dz, where more is known of it than that no row bends more than most.
    """
    curvature = most / (4 if theta.shape[1] == 1 else 2)  # of a row, in any class, at most
    z = min(curvature * float(np.sum(norms[:, None] * np.abs(theta))), moved)
    return 8 * eps * (norms[:, None] * (alpha + z) + K[:, None] * np.abs(theta))


def moved(f: float, far: float, units: N, theta: N) -> float:
    """`moved` of `rounding` for rows whose losses sum to f and whose `reach` in these units is far.

    No row bends more than 2 L, as p (1 - p) <= min(p, 1 - p) <= L, and the terms of a logit, sum_j abs(z_ij theta_j),
    are at most (far sum_j units_j theta_j^2)^1/2.
    """
    return 2 * f * float(np.sqrt(far * np.max(units @ theta**2)))


def curvatures(H: N, k: int) -> N:
    """The smallest of the classes' diagonal entries of H, for each column (D,)."""
    return H.diagonal().reshape(-1, k).min(axis=1)


def reach(rows: Rows, units: N) -> float:
    """max_i sum_j z_ij^2 / units_j."""
    blocks = (block.X for block in rows.standardised())
    return float(np.max([np.max((X * X) @ (1 / units).astype(X.dtype)) for X in blocks]))  # NaN stays


def at_worst(inverse: N, error: N) -> float:
    """The largest e^T H^-1 e there may be for e of at most this error in each entry."""
    e = error.reshape(len(inverse), -1)
    return float(np.vdot(e, np.abs(inverse) @ e))


def norm_of(inverse: N, H: N) -> float:
    """At least norm2 of the inverse of H in the units in which the diagonal of H is 1."""
    root = np.sqrt(H.diagonal())
    return float(np.linalg.norm(inverse * root[:, None] * root))


def lost(inverse: N, H: N, eps: float) -> float:
    """The share of the Hessian that is lost in its rounding, along the direction where that is most; about."""
    return 4 * len(H) * eps * norm_of(inverse, H)


def proved(far: float, H: N, inverse: N, drift: float, g: N, error: N, k: int, eps: float = EPS) -> float:
    """The bound of `_dense.finish`, from this Hessian, of products in eps, and far, max_i x_i^T H^-1 x_i of its rows.

    H (m, m) may be for each column of g and error, (m, 1) or (m, k), the same.
    """
    share = lost(inverse, H, eps)
    if not (share < 0.5 and drift < 1):
        return np.inf
    widened = np.exp(drift) / (1 - share)
    decrement = np.sqrt(abs(float(np.vdot(g, inverse @ g)))) + np.sqrt(at_worst(inverse, error))
    decrement *= np.sqrt(2 * widened)
    u = decrement * np.sqrt(far * (1 if k == 1 else 2) * widened)
    return decrement**2 / 2 / (1 - u) if u < 0.9 else np.inf


def covariance(inverse: N, k: int) -> N:
    """The inverse Hessian, without the part along which nothing changes."""
    if k == 1:
        return inverse
    D = len(inverse) // k
    C = inverse.reshape(D, k, D, k)
    C = C - C.mean(axis=1, keepdims=True)
    return (C - C.mean(axis=3, keepdims=True)).reshape(D * k, D * k)


def rank(C: N, intercept: bool) -> int:
    """Of the centred rows with the Gram matrix C, up to a factor, as `_design.null_space` counts it."""
    C = C[:-1, :-1] - (np.outer(C[-1, :-1], C[-1, :-1]) / C[-1, -1] if intercept else 0)
    eigenvalues = np.linalg.eigvalsh(C)
    return int(np.sum(eigenvalues > 4 * EPS * max(len(C), 8) * eigenvalues[-1]))
