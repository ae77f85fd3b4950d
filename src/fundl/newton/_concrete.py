"""Concrete rows on the CPU: the same minimum and the same proof through NumPy, with nothing to compile.

What is not plainly solved here (separable or dependent columns without a penalty, a step that does not converge, input
that is to be refused) is left to the compiled program: `fit` then returns None.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from fundl import _check
from fundl._result import Certificate, Fit, Status
from fundl._types import Linear
from fundl.newton import _conjugate, _passes, _sampled, _working_set
from fundl.newton._passes import EPS32, LARGE, N, Rows, Source

EPS = float(np.finfo(np.float64).eps)
DENSE = {True: 400, False: 150}  # of k == 1: rows of a Hessian that is formed


class Numbers(NamedTuple):
    """The options as Python floats."""

    l2: float
    l1: float
    tol: float
    max_steps: int


class Inverse(NamedTuple):
    """The inverse Hessian at the minimum of a fit, in the coordinates of its design [(X - m) / scale, 1]."""

    matrix: N  # (D k, D k), float32
    m: N
    scale: N

    def brought(self, m: N, scale: N, intercept: bool) -> _conjugate.Curvature:
        """To another design: w = theta_w / scale and b = theta_b - m w in either, so theta_b moves with m."""
        change = np.diag(np.append(scale / self.scale, 1.0))
        if intercept:
            change[-1, :-1] = (m - self.m) / self.scale
        return _conjugate.Curvature(self.matrix, change.astype(np.float32))


class Start(NamedTuple):
    """What is known of a fit near by: its parameters and, where that is worth its price, its inverse Hessian."""

    params: Linear
    inverse: Inverse | None = None


def fit_concrete(
    X: Any, y: Any, *, k: int | None, l2: Any, l1: Any, weights: Any, intercept: bool, method: str, tol: Any,
    max_steps: Any, start: Start | None = None,
) -> Fit | None:  # fmt: skip
    """The `Fit` of concrete rows on the CPU, or None where the compiled program is to look at them.

    X (n, d); y (n,), in [0, 1] for k = 1, else integer classes, counted where k is None. The options l2=, l1= (with
    k = 1 only), weights=, intercept=, method= ("auto" only), tol= and max_steps= are those of the two models; start=,
    what is known of a fit near by, saves time where there are many columns or classes.

    >>> found = fit_concrete(
    ...     np.arange(4.0)[:, None], np.array([0, 1, 0, 1]), k=1, l2=0.0, l1=0.0, weights=None, intercept=True,
    ...     method="auto", tol=0.0, max_steps=200,
    ... )
    >>> print(round(float(found.params.w[0]), 3), found.status)
    0.908 converged
    """
    numbers = options(l2, l1, tol, max_steps)
    if numbers is None or method != "auto" or (numbers.l1 > 0 and k != 1):
        return None
    given = _read(X, y, k, weights)
    if given is None:
        return None
    data, labels, s, k, soft = given
    dtype = jax.dtypes.canonicalize_dtype(data.dtype)  # of the result: float64 data count as they are
    if dtype == np.float32:  # parameters that are right to 3e-9 round to the same numbers
        numbers = numbers._replace(tol=max(numbers.tol, 1e-17))
    with np.errstate(all="ignore"):
        rows, m, scale = _standardised(data, labels, s, k, soft, intercept)
        K = np.append(numbers.l2 / scale**2, 0.0)
        dense = len(K) * k <= DENSE[k == 1]
        if not dense and numbers.l2 == 0 and numbers.l1 == 0:
            return None
        theta = np.zeros((len(K), k)) if start is None else _theta(start.params, m, scale, k, intercept)
        near = None if start is None or start.inverse is None else start.inverse.brought(m, scale, intercept)
        try:
            if numbers.l1 > 0:
                c = np.append(numbers.l1 / scale, 0.0)
                found = _working_set.minimise(rows, K, c, numbers.tol, numbers.max_steps, theta)
            elif dense:
                found = _sampled.newton(rows, K, numbers.tol, numbers.max_steps)
            else:
                found = _conjugate.minimise(rows, K, numbers.tol, numbers.max_steps, theta, near)
        except np.linalg.LinAlgError:
            return None
        if found is None or not ended_well(found, numbers):
            return None
        return package(found, rows, m, scale, numbers, dtype)


def start_from(
    params: Linear, X: Any, y: Any, *, k: int, l2: float, weights: Any, intercept: bool, fits: int
) -> Start:  # fmt: skip
    """What the fit that has ended at `params` is to so many `fits` of other penalties or of nearly the same rows.

    X (n, d); y (n,), integer classes. The options k=, l2=, weights= and intercept= are those of that fit. The inverse
    Hessian goes along where several classes share it, in fits that do not form their own.

    >>> X, y = np.eye(60), np.arange(60) % 3
    >>> nothing = Linear(np.zeros((60, 3)), np.zeros(3))
    >>> start_from(nothing, X, y, k=3, l2=1.0, weights=None, intercept=True, fits=5).inverse.matrix.shape
    (183, 183)
    """
    n, d = X.shape
    size = (d + 1) * k
    # The inverse costs less than about 70 products of 4 n (d + 1) k, which it saves each of the fits.
    pays = 280 * n * size * fits > n * size**2 + 2 * size**3
    # For k = 1 a fit's own Gram matrix is nearer; without a penalty the compiled program fits.
    wanted = pays and k > 1 and size > DENSE[False] and l2 > 0 and n * d <= LARGE
    given = _read(X, y, k, weights) if wanted else None
    if given is None:
        return Start(params)
    data, labels, s, k, soft = given
    with np.errstate(all="ignore"):
        rows, m, scale = _standardised(data, labels, s, k, soft, intercept)
        p = _passes.at(rows, _theta(params, m, scale, k, intercept)).p
        narrow = rows.single().some(slice(None))
        H = _sampled.regular(_passes.hessian(narrow, p.astype(np.float32)), np.append(l2 / scale**2, 0.0), rows)
        H.flat[:: len(H) + 1] *= 1 + 1e-6  # what float32 leaves of it is positive
        try:
            matrix = _conjugate.inverse_of(H)
        except np.linalg.LinAlgError:
            return Start(params)
    return Start(params, Inverse(matrix, m, scale) if np.isfinite(matrix).all() else None)


def _theta(params: Linear, m: N, scale: N, k: int, intercept: bool) -> N:
    """The parameters in the coordinates of the design."""
    w, b = (np.asarray(v, np.float64).reshape(-1, k) for v in params)
    return np.concatenate([w * scale[:, None], (b + m @ w) * float(intercept)])


def _on_host(x: Any) -> N | None:
    if isinstance(x, (list, tuple)):
        try:
            x = np.asarray(x)
        except (TypeError, ValueError, jax.errors.JAXTypeError):
            return None
    if isinstance(x, np.ndarray):  # a masked array or a matrix is no array like others
        return x if x.dtype.kind in "fiub" and type(x) in (np.ndarray, np.memmap) else None
    if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer) or x.dtype.name not in _PLAIN:
        return None
    return np.asarray(x) if _check.on_host(x) else None


_PLAIN = ("float64", "float32", "int64", "int32", "int8", "uint8", "bool")


def plain(X: Any, y: Any, weights: Any, k: int | None) -> tuple[N, N, N | None] | None:
    """X, y and weights (None: all are 1) of the rows that count; None for what is not plainly good."""
    X, y = _on_host(X), _on_host(y)
    if X is None or y is None or X.ndim != 2 or y.ndim != 1 or len(X) != len(y) or X.size == 0:
        return None
    floating = [v.dtype for v in (X, y) if v.dtype.kind == "f"]
    if any(v.itemsize not in (4, 8) for v in floating):
        return None
    dtype = np.result_type(*floating) if floating else np.dtype(np.float64)
    X = X.astype(dtype, copy=False)
    s = None
    if weights is not None:
        s = _on_host(weights)
        if s is None or s.shape != y.shape or not np.all(np.isfinite(s) & (s >= 0)):
            return None
        s = s.astype(dtype, copy=False).astype(np.float64, copy=False)
        keep = s > 0
        if not keep.all():
            X, y, s = X[keep], y[keep], s[keep]
        if np.all(s == 1):
            s = None
    if k == 1:
        y = y.astype(dtype, copy=False) if y.dtype.kind == "f" else y
        good = len(y) == 0 or (y.min() >= 0 and y.max() <= 1)  # which is False with NaN
        y = y.astype(np.float64, copy=False)
    else:
        good = y.dtype.kind in "iu" and np.all(y >= 0)
        y = y.astype(np.int64, copy=False) if good else y  # products with it are to be right
    return (X, y, s) if good else None


def _read(X: Any, y: Any, k: int | None, weights: Any) -> Any:
    """The same with k and whether labels are soft, where every class occurs."""
    given = plain(X, y, weights, k)
    if given is None or len(given[1]) == 0:
        return None
    X, y, s = given
    soft = False
    if k == 1:
        ones = np.count_nonzero(y == 1)
        soft = ones + np.count_nonzero(y == 0) < len(y)
        total = (y.sum() if soft else ones) if s is None else s @ y
        if total <= 0 or total >= (len(y) if s is None else s.sum()):
            return None
        if not soft:
            y = -2 * y
            y += 1
    else:
        counts = np.bincount(y) if y.max() < 10_000 else None
        k = max(int(y.max()) + 1, 2) if k is None else k
        if counts is None or len(counts) > k or len(counts) < k or not counts.all():
            return None
    return X, y, s, k, soft


def options(l2: Any, l1: Any, tol: Any, max_steps: Any) -> Numbers | None:
    values = []
    for v in (l2, l1, tol):
        if isinstance(v, jax.core.Tracer) or np.ndim(v) != 0 or isinstance(v, (str, bytes, complex)) or v is None:
            return None
        v = float(v)
        if not 0 <= v < np.inf:
            return None
        values.append(v)
    if isinstance(max_steps, jax.core.Tracer) or max_steps < 1 or max_steps != int(max_steps):
        return None
    return Numbers(values[0], values[1], values[2], int(max_steps))


def _standardised(X: N, y: N, s: N | None, k: int, soft: bool, intercept: bool) -> tuple[Rows, N, N]:
    """The rows with m and scale, from a sample where X is large and its offsets do not matter."""
    rows = Rows(X, y, s, k, soft, intercept, None)
    zero = np.zeros(X.shape[1])
    if X.size > (LARGE if X.shape[1] <= 400 else LARGE // 4):  # of few columns Z is used for the rank
        sample = X[:: max(1, len(X) // 4096, min(X.size >> 20, len(X) // 256))].astype(np.float64, copy=False)
        squares = np.einsum("ij,ij->j", sample, sample) / len(sample)
        scale, m = power_of_two(np.sqrt(squares)), np.ones(len(sample)) @ sample / len(sample)
        if not intercept or np.all(65 * m * m <= 64 * squares) or np.all(np.abs(m) <= scale):
            return rows._replace(scale=scale), zero, scale
    n, d = X.shape
    share = np.full(n, 1 / n) if s is None else s / s.sum()
    Z = np.empty((n, d + 1))
    U = Z[:, :-1]
    m = zero
    if intercept:
        m = share @ X
        np.subtract(X, m, out=U)
        again = share @ U
        sample = U[:: max(1, n // 1024)]
        spread = np.sqrt(np.einsum("ij,ij->j", sample, sample) / len(sample))
        doubtful = np.abs(again) > 1e-3 * spread
        if doubtful.any():  # what a large offset left; a column that does not vary is to be 0
            own = X[:, doubtful].astype(np.float64)
            m[doubtful] = np.clip(m[doubtful] + again[doubtful], own.min(axis=0), own.max(axis=0))
            U[:, doubtful] = own - m[doubtful]
    else:
        U[:] = X
    sample = U[:: max(1, n // 1024)]
    within = np.sqrt(np.einsum("ij,ij->j", sample, sample) / len(sample))
    unseen = ~(within > 1e-100)
    if unseen.any():
        within[unseen] = np.abs(U[:, unseen]).max(axis=0)
    scale = power_of_two(within)
    U /= scale
    Z[:, -1] = float(intercept)
    return rows._replace(X=Z), m, scale


def power_of_two(x: N) -> N:
    usable = np.isfinite(x) & (x > 0)
    _, e = np.frexp(np.where(usable, x, 1.0))
    return np.where(usable, np.ldexp(1.0, e - 1), 1.0)


def ended_well(found: _sampled.Found, numbers: Numbers) -> bool:
    """As `_fit._solution` decides that a fit has converged."""
    if not (np.isfinite(found.f) and np.isfinite(found.bound) and np.all(np.isfinite(found.theta))):
        return False
    return bool(found.bound <= max(numbers.tol, np.sqrt(EPS) * (1 if found.solved else 0.01)) * found.f)


@jax.jit
def _on_device(found: Fit) -> Fit:
    """All arrays at once: a tenth of the time of one device_put each."""
    return found


def _bend(rows: Source, norms: N | None, change: N, K: N) -> float:
    """At most half of what the Hessian, wherever it is, makes of a change of theta: curvatures are at most s_i / 2."""
    dz = (rows.column_norms() if norms is None else norms) @ np.abs(change)
    return rows.most / 4 * float(dz @ dz) + float(K @ np.sum(change[:-1] ** 2, axis=1)) / 2


def package(found: _sampled.Found, rows: Source, m: N, scale: N, numbers: Numbers, dtype: Any) -> Fit:
    k, d, free = rows.k, len(m), numbers.l2 == 0 and numbers.l1 == 0
    w = found.theta[:-1] / scale[:, None]
    b = found.theta[-1] - m @ w if rows.intercept else np.zeros(k)
    if k > 1:
        b = b - b.mean()
    g = scale[:, None] * found.g[:-1] + m[:, None] * found.g[-1]
    size = np.max(np.abs(b) + np.sum(np.abs(m[:, None] * w), axis=0)) * (2 * EPS if rows.intercept else 0)
    bound, f = found.bound + np.abs(found.g[-1]).sum() * size + rows.total * size * size / 2, found.f
    if dtype != np.float64:
        w, b = w.astype(dtype), b.astype(dtype)
        theta = np.concatenate([w * scale[:, None].astype(np.float64), (b + m @ w.astype(np.float64))[None, :]])
        change = theta - found.theta
        change[-1] -= change[-1].mean() if k > 1 else 0.0
        # f* <= f(theta - t change) <= f - t g^T change + t^2 c for any t: so that adds at most 2 sqrt(bound c) + c.
        c = _bend(rows, found.norms, change, numbers.l2 / scale**2) if numbers.l1 == 0 else np.inf
        if 2 * np.sqrt(bound * c) + c <= max(1e-9, min(numbers.tol, EPS32) / 4) * f:  # less than the dtype can tell
            bound = (np.sqrt(bound) + np.sqrt(c)) ** 2
        else:
            rounded = _passes.value(rows, theta) + numbers.l2 / 2 * float(np.sum(w.astype(np.float64) ** 2))
            rounded += numbers.l1 * float(np.sum(np.abs(w.astype(np.float64))))
            bound, f = bound + max(rounded - f, 0.0) + 4 * EPS * abs(rounded), rounded
    code = found.code if np.isfinite(f) else Status.non_finite  # float32 may not hold the parameters
    w_error, b_error = np.full((d, k), np.nan), np.full(k, np.nan)
    if free and found.covariance is not None:
        C = found.covariance.reshape(d + 1, k, d + 1, k)
        to_b = np.append(-m / scale, 1.0)
        w_error = np.sqrt(np.einsum("iaia->ia", C)[:-1]) / scale[:, None]
        b_error = np.sqrt(np.einsum("i,iaja,j->a", to_b, C, to_b)) if rows.intercept else np.zeros(k)

    def shown(w: Any, b: Any) -> Linear:
        w, b = w.astype(dtype, copy=False), b.astype(dtype, copy=False)
        return Linear(w[:, 0], b[0]) if k == 1 else Linear(w, b)

    def number(v: float) -> Any:
        return np.asarray(v, dtype)

    def whole(v: Any) -> Any:
        return np.asarray(v, np.int32)

    direction = np.full((d + 1, k), np.nan) if found.direction is None else found.direction
    w_direction = direction[:-1] / scale[:, None]
    certificate = Certificate(
        converged=whole(code in (Status.converged, Status.rank_deficient)).astype(bool),
        steps=whole(found.steps),
        gradient_norm=number(np.sqrt(np.sum(g * g) + np.sum(found.g[-1] ** 2))),
        objective=number(f),
        suboptimality=number(bound),
        rank=None if found.rank is None else whole(found.rank),
        standard_errors=shown(w_error, b_error),
        direction=shown(w_direction, direction[-1] - m @ w_direction),
    )
    return _on_device(Fit(shown(w, b), certificate, whole(code)))
