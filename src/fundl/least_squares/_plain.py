"""The quick way for concrete arrays: a shifted Gram matrix in plain floats, refined, with a bound of its error.

Where the bound is not good enough the answer is None, and the exact way is taken. Residuals are formed in float64, or
in the machine's extended precision (numpy's longdouble) where there is one and the problem is small or asks for it.

Source: Higham, Accuracy and Stability of Numerical Algorithms (2002), 12.1 and 20.5 (fixed and mixed precision).
"""

from typing import Any, NamedTuple

import numpy as np

from fundl._precise import inverse_cholesky, inverse_of_lower
from fundl.least_squares import _blocks
from fundl.least_squares._blocks import Rows
from fundl.least_squares._covariance import variance
from fundl.least_squares._exact import Solution
from fundl.least_squares._words import ceil_power_of_two

SMALL = 20_000  # entries of X up to which everything is refined in longdouble
MEDIUM = 1 << 21  # and up to which it is where float64 does not give 14 digits
LONG = np.longdouble if np.finfo(np.longdouble).nmant >= 63 else np.float64
HALF_ULP = 2.0**-53
WIDE = 128  # columns from which a condition is estimated, and products pass through the cache in blocks


class Factors(NamedTuple):
    """P = H + penalty = L L^T for the centred Gram matrix H in units of the scaled columns; M = L^-1."""

    M: np.ndarray
    penalty: np.ndarray
    scale: np.ndarray
    lengths: np.ndarray  # of the centred columns
    reach: np.ndarray  # |dw_j| <= reach_j |dr| for a change dr of the targets
    condition: float
    loss: float  # what a refinement leaves of an error

    def solve(self, v: np.ndarray) -> np.ndarray:
        return self.backward(self.forward(v))

    def forward(self, v: np.ndarray) -> np.ndarray:
        return _times(self.M, v)

    def backward(self, v: np.ndarray) -> np.ndarray:
        return _times(self.M.T, v)


def _times(A: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A v in the dtype of A, which v is brought into the range of, and in float64 again."""
    if A.dtype == np.float64:
        return A @ v.astype(np.float64)
    size = np.abs(v).max() or 1.0
    return (A @ (v / size).astype(A.dtype)) * np.float64(size)


def attempt(
    X: np.ndarray, Y: np.ndarray, s: np.ndarray | None, l2: Any, intercept: bool, eps: float
) -> Solution | None:
    """The solution with at least the digits asked for, or None. X and Y of one dtype, s in float64."""
    n, d = X.shape
    if n <= d:
        return None
    small = X.size <= SMALL
    weight = float(n if s is None else s.sum())
    thin = X.dtype == np.float32 and not small  # float32 products are enough to start from where that converges
    dtypes: tuple[Any, ...] = (np.float32, np.float64) if thin else (np.float64,)
    for dtype in dtypes:
        rows, G = _centred(X, Y, s, intercept, weight, dtype)
        if not (np.isfinite(np.diagonal(G)).all() and np.isfinite(G[d:]).all()):
            if s is None or s.all():
                return None
            return attempt(X[s > 0], Y[s > 0], s[s > 0], l2, intercept, eps)  # a row of weight 0 may hold anything
        scaling = _scaling(G, l2, d, intercept)
        if scaling is None:
            return None
        factors = _from_gram(G, *scaling, n, intercept, dtype)
        if factors is not None and factors.loss < (1e-3 if dtype == np.float32 else 1e-6):
            found = _best(rows, G, factors, weight, intercept, eps)
            if found is not None or small:
                return found
        if dtype == np.float64 and X.dtype == np.float64 and not small:
            factors = _from_triangle(rows, *scaling, intercept)
            return None if factors is None else _best(rows, G, factors, weight, intercept, eps)
    return None


def _best(rows: Rows, G: np.ndarray, f: Factors, weight: float, intercept: bool, eps: float) -> Solution | None:
    """Residuals in float64 where that is enough, in extended precision where it is not and costs little."""
    size = rows.X.size
    found = _refined(rows, G, f, weight, intercept, LONG if size <= SMALL else np.float64, eps)
    if size <= SMALL or rows.X.dtype == np.float32 or size > (MEDIUM if found is None else MEDIUM // 8):
        return found
    return found if found is not None and found.digits >= 14 else _refined(rows, G, f, weight, intercept, LONG, eps)


def _centred(
    X: np.ndarray, Y: np.ndarray, s: np.ndarray | None, intercept: bool, weight: float, dtype: Any
) -> tuple[Rows, np.ndarray]:
    """The Gram matrix about a centre near the means, which a few rows give as well as all."""
    n, d = X.shape
    k = Y.shape[1]
    if not intercept:
        rows = Rows(X, Y, s, np.zeros(d), np.zeros(k))
        return rows, _blocks.gram(rows, intercept, dtype)
    some = _blocks.sample(n)
    A, share = X[some], None if s is None else s[some]
    m, my = _mean(A, share), _mean(Y[some], share)
    # Means within the spread cost less than a digit, which refinement gives back; a centre of 0 saves a copy of X.
    near = s is None and X.size > SMALL and np.all(m * m <= np.var(A, axis=0, dtype=np.float64))
    rows = Rows(X, Y, s, np.zeros(d) if near else _rounded(m, X.dtype), _rounded(my, X.dtype))
    G = _blocks.gram(rows, intercept, dtype)
    u = G[-1, :-1] / weight
    if np.any(u[:d] ** 2 * weight > (0.6 if near else 0.1) * np.diagonal(G)[:d]):  # the sample misled: about the means
        rows = rows._replace(c=_rounded(rows.c + u[:d], X.dtype), cy=_rounded(rows.cy + u[d:], X.dtype))
        G = _blocks.gram(rows, intercept, dtype)
    return rows, G


def _mean(A: np.ndarray, s: np.ndarray | None) -> np.ndarray:
    total = 0.0 if s is None else s.sum()
    return A.mean(axis=0, dtype=np.float64) if s is None or not total > 0 else s @ A / total


def _rounded(v: np.ndarray, dtype: Any) -> np.ndarray:
    return v.astype(dtype).astype(np.float64)


def _scaling(G: np.ndarray, l2: Any, d: int, intercept: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Lengths of the centred columns, powers of two above them, and the penalty in their units."""
    own = np.diagonal(G)[:d]
    if intercept:
        own = own - G[-1, :d] * (G[-1, :d] / G[-1, -1])
    if not (own > 1e-3 * np.diagonal(G)[:d]).all():
        return None
    lengths = np.sqrt(own)
    scale = ceil_power_of_two(lengths)
    penalty = l2 / scale / scale
    return (lengths, scale, penalty) if (penalty < 1e30).all() else None


def _from_gram(
    G: np.ndarray, lengths: np.ndarray, scale: np.ndarray, penalty: np.ndarray, n: int, intercept: bool, dtype: Any
) -> Factors | None:
    """By Cholesky, which loses with the square of the condition."""
    d = len(scale)
    P, over = np.empty((d, d), dtype), 1 / scale  # powers of two, so that products are quotients
    for i in range(0, d, WIDE):
        rows = slice(i, min(i + WIDE, d))
        part = G[rows, :d]
        if intercept:
            part = part - (G[-1, rows] / G[-1, -1])[:, None] * G[-1, :d]
        np.multiply(part * over, over[rows, None], out=P[rows], casting="same_kind")
    P.flat[:: d + 1] += penalty.astype(dtype)
    try:
        M = inverse_cholesky(P)
    except np.linalg.LinAlgError:
        return None
    squared = _condition(P, M)
    cancelled = float(np.max(np.diagonal(G)[:d] / np.square(lengths)))  # by taking the means out of the products
    loss = float(np.finfo(dtype).eps) * (4 * np.sqrt(d) + np.sqrt(n) / 4) * squared * cancelled
    if d > 32:
        loss += 4 * _largest(lambda v: M @ (P @ (v @ M)) - v, d, dtype, 4)  # M comes from inverses: measured
    reach = np.sqrt(np.einsum("ij,ij->j", M, M))
    return Factors(M, penalty, scale, lengths, reach, float(np.sqrt(squared)), loss)


def _from_triangle(
    rows: Rows, lengths: np.ndarray, scale: np.ndarray, penalty: np.ndarray, intercept: bool
) -> Factors | None:
    """By QR of the columns, which loses with the condition itself (Bjorck, Linear Algebra Appl. 88 (1987), 31-48)."""
    n, d = rows.X.shape
    L = _blocks.triangle(rows, scale, penalty, intercept).T
    if not (np.abs(np.diagonal(L)) > 1e-14).all():
        return None
    M = inverse_of_lower(L)
    condition = float(np.sqrt(_estimated_condition(L @ L.T, M)))
    loss = float(np.finfo(np.float64).eps) * (4 * np.sqrt(d) + np.sqrt(n) / 4) * condition
    reach = np.sqrt(np.einsum("ij,ij->j", M, M))
    return Factors(M, penalty, scale, lengths, reach, condition, loss) if loss < 1e-3 else None


def _condition(P: np.ndarray, M: np.ndarray) -> float:
    """The 2-norm condition of P = (M^T M)^-1 scaled to a diagonal of ones; an estimate where it is large."""
    root = np.sqrt(np.diagonal(P))
    if len(P) > WIDE:
        return _estimated_condition(P, M)
    values = np.linalg.eigvalsh(P / root[:, None] / root)
    return float(values[-1] / max(values[0], 1e-300))


def _estimated_condition(P: np.ndarray, M: np.ndarray) -> float:
    root, d = np.sqrt(np.diagonal(P)), len(P)
    own = _largest(lambda v: P @ (v / root) / root, d, P.dtype)
    return own * _largest(lambda v: root * ((M @ (root * v)) @ M), d, P.dtype)


def _largest(apply: Any, d: int, dtype: Any = np.float64, steps: int = 8) -> float:
    """The 2-norm of a symmetric matrix, from below, by Lanczos: Golub and Van Loan, Matrix Computations, 10.1."""
    q = np.cos(np.arange(1.0, d + 1))  # no pattern that data have
    basis = np.zeros((steps, d))
    T = np.zeros((steps, steps))
    for i in range(steps):
        # Once more: of a q that has nothing new the directions before are most of what rounding left.
        left = np.linalg.norm(q)
        q = q - basis[:i].T @ (basis[:i] @ q)
        size = np.linalg.norm(q)
        if not size > left / 2:
            break
        basis[i] = q / size
        q = apply(basis[i].astype(dtype))
        T[: i + 1, i] = T[i, : i + 1] = basis[: i + 1] @ q
        q = q - basis[: i + 1].T @ T[: i + 1, i]
    return float(np.abs(np.linalg.eigvalsh(T)).max())


def _refined(
    rows: Rows, G: np.ndarray, f: Factors, weight: float, intercept: bool, wide: Any, eps: float
) -> Solution | None:
    """Refine until what is left is below the rounding of the residuals; None where the bound is too wide."""
    n, d = rows.X.shape
    k = rows.Y.shape[1]
    u = G[-1, :d] if intercept else np.zeros(d)
    start = G[:d, d : d + k] / f.scale[:, None]
    if intercept:
        start = start - (u / f.scale / weight)[:, None] * G[-1, d : d + k]
    w = f.solve(start).astype(wide)
    beta = (G[-1, d : d + k] - u @ (w.astype(np.float64) / f.scale[:, None])) / weight if intercept else np.zeros(k)
    beta = beta.astype(wide)
    unit = float(np.finfo(wide).eps)
    small = rows.X.size <= SMALL
    goal = 1e-3 * eps if eps > 1e-10 else unit
    left = np.zeros(k)
    for _ in range(4):
        found = _blocks.residuals(rows, w / f.scale[:, None], beta, wide)
        g = (found.g - u[:, None] * (found.g0 / weight)) / f.scale[:, None] - f.penalty[:, None] * w
        moved = f.forward(g)  # the step as it changes the predictions
        step = f.backward(moved)
        w = w + step
        if intercept:
            beta = beta + (found.g0 - u @ (step / f.scale[:, None])) / weight
        left = f.loss * np.sqrt(np.square(moved).sum(axis=0))
        if np.all(left <= goal * np.sqrt(found.noise)):
            break

    # |dw_j| <= reach_j |dr| for the rounding dr of the residual, and the rounding of the sums g.
    size = np.sqrt(found.noise)
    length = np.sqrt(found.rss).astype(np.float64)
    about_c = np.sqrt(np.diagonal(G)[:d])  # lengths of the columns of X - c
    sums = np.linalg.norm(f.reach / f.scale * about_c)
    off = f.reach[:, None] * (unit * ((4 + np.sqrt(d)) * size + (2 + np.sqrt(n) / 8) * sums * length))
    off = off + 4 * f.reach[:, None] * left
    w_out = (w / f.scale[:, None]).astype(np.float64)
    rounding = eps / 2 * 1.000001  # of the result, which has the dtype of the data
    w_bound = off / f.scale[:, None] + np.abs(w_out) * HALF_ULP
    c, cy = rows.c, rows.cy
    if intercept:
        b = (cy.astype(wide) + beta - c @ (w / f.scale[:, None])).astype(np.float64)
        ground = np.abs(cy) + np.abs(c) @ np.abs(w_out)
        b_off = np.abs(c / f.scale) @ off + unit * (4 + np.sqrt(d)) * (ground + 2 * size / np.sqrt(weight))
        b_off = b_off + np.abs(u / weight / f.scale) @ off
        b_bound = b_off + np.abs(b) * HALF_ULP
    else:
        b, b_bound = np.zeros(k), np.zeros(k)
    top = np.abs(rows.Y[_blocks.sample(n)] - cy).max(axis=0)
    ratio = _worst(w_bound, w_out, HALF_ULP * top / f.scale[:, None])
    ratio = max(ratio, _worst(b_bound, b, HALF_ULP * (top + np.abs(cy))))
    digits = -np.log10(max(ratio, HALF_ULP))
    # Standard errors come from the plain inverse, so they ask for a good condition where many digits are promised.
    if small:
        enough = digits >= 13.2 and f.condition <= 8  # the rounding of longdouble is random: 14.6 are there
    else:
        scaled = np.abs(w_out) * f.lengths[:, None]
        asked = 1e-8 if d**3 * 1.4e-7 > 2 else 1e-12  # where exact sums would take more than seconds
        enough = digits >= 14 or np.max(w_bound * f.lengths[:, None]) <= max(asked, eps / 8) * scaled.max()
    # A residual that is rounding itself, or a sum of squares below the smallest number, must come from exact sums.
    lowest = (unit * 1e15) ** 2 if small else unit * 1e4
    if not enough or np.any(found.rss <= found.noise * lowest) or np.any(found.rss < 1e-280):
        return None

    rss = found.rss.astype(np.float64)
    t = (c + u / weight) / f.scale  # the means
    b_spread = f.solve(t)
    spread = np.append(np.square(f.reach), t @ b_spread)
    shrunk = float(f.penalty @ spread[:d])
    if f.penalty.any():
        spread = _penalised(spread, np.concatenate([f.M.T @ f.M, b_spread[None, :]]), G, u / weight, f)
    freedom = weight - d - (1 if intercept else 0) + shrunk
    deviation = np.sqrt(rss / freedom) if freedom > 0 else np.full(k, np.nan)
    w_error = np.sqrt(spread[:d])[:, None] * deviation / f.scale[:, None]
    b_error = np.sqrt(1 / weight + spread[d]) * deviation if intercept else np.zeros(k)
    objective = rss + f.penalty @ np.square(w.astype(np.float64))
    w_bound = w_bound + np.abs(w_out) * (rounding - HALF_ULP)
    b_bound = b_bound + np.abs(b) * (rounding - HALF_ULP)
    # The objective rises by ||A d||^2 + l2 ||dw||^2 for an error d = (dw, db) and A = [X, 1].
    lengths = about_c + np.sqrt(weight) * np.abs(c)
    rise = lengths @ w_bound + np.sqrt(weight) * b_bound
    suboptimality = np.square(rise).sum() + (f.penalty @ np.square(f.scale[:, None] * w_bound)).sum()
    trace = lengths @ lengths + weight + np.max(f.penalty * f.scale**2)
    none = np.zeros(())
    return Solution(
        w=w_out,
        b=b,
        finite=np.asarray(True),
        rank=np.asarray(d),
        condition=np.asarray(f.condition),
        digits=np.asarray(max(min(digits, -np.log10(ratio + rounding)), 0.0)),
        objective=objective.sum(),
        suboptimality=suboptimality,
        gradient_norm=2 * np.sqrt(suboptimality * trace),
        deviation=deviation,
        w_error=w_error,
        b_error=b_error,
        w_bound=w_bound,
        b_bound=b_bound,
        lengths=lengths,
        inverse=none,
        projection=none,
        m=none,
        scale=none,
        s_scale=none,
        trusted=np.asarray(True),  # to 1e-8 of the largest coefficient at least, though a small one have no digit
    )


def _penalised(spread: np.ndarray, rows: np.ndarray, G: np.ndarray, mean: np.ndarray, f: Factors) -> np.ndarray:
    """diag(K G K) for the rows of K, and for the means in their place, from diag(K); see `_covariance`."""
    found, d = spread - np.square(rows) @ f.penalty, len(mean)
    poor = np.flatnonzero(~(found > 1e-2 * spread))
    if poor.size:
        own = (G[:d, :d] - np.multiply.outer(G[-1, :d], mean)) / f.scale / f.scale[:, None]
        unit = f.loss + d * float(np.finfo(np.float64).eps)
        found[poor] = variance(found[poor], unit * spread[poor], rows[poor], own, np.zeros(poor.size), unit)
    return found


def _worst(bound: np.ndarray, value: np.ndarray, floor: np.ndarray) -> float:
    """The largest relative bound; a value below the floor counts as the floor."""
    return float(np.max(bound / np.maximum(np.maximum(np.abs(value), floor), 1e-300)))
