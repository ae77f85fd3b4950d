"""Least squares from the Gram matrix in words: solution, rank, error bound and standard errors."""

from typing import Any, NamedTuple

import numpy as np

from fundl.least_squares import _gram, _refined
from fundl.least_squares._covariance import variance
from fundl.least_squares._shortest import minimum_norm, mm
from fundl.least_squares._sweep import about_means, add_diagonal, sweep, sweep_columns
from fundl.least_squares._words import (
    Words,
    ceil_power_of_two,
    each,
    namespace,
    negative,
    precision,
    product,
    scaled_words,
    settled,
    sum_words,
    times,
    total,
    where,
    words,
)


class Moments(NamedTuple):
    """All that least squares needs to know of the data: Z^T S Z for Z = [(X - m) / scale, 1, (Y - my) / y_scale]."""

    gram: Words
    m: Any
    my: Any
    scale: Any
    y_scale: Any
    s_scale: Any
    weight: Any
    finite: Any


class Solution(NamedTuple):
    """What the sweeps give; numpy or jax arrays. `inverse`, `m` and `scale` serve the derivatives."""

    w: Any
    b: Any
    finite: Any
    rank: Any
    condition: Any
    digits: Any
    objective: Any
    suboptimality: Any
    gradient_norm: Any
    deviation: Any
    w_error: Any
    b_error: Any
    w_bound: Any
    b_bound: Any
    lengths: Any  # roots of sum_i weights_i x_ij^2, or more
    inverse: Any
    projection: Any
    m: Any
    scale: Any
    s_scale: Any
    trusted: Any = None  # what the digits of the worst coefficient say, where nothing else is known


def moments(X: Any, Y: Any, weights: Any | None, intercept: bool, centre: tuple[Any, Any] | None = None) -> Moments:
    """Accumulate the rows: X (n, d), Y (n, k), weights (n,) or None; about the means, or the given centre."""
    xp = namespace(X)
    n = X.shape[0]
    s = None
    if weights is None:
        keep = xp.ones_like(X[:, 0], bool)
        s_scale = xp.ones((), X.dtype)
        weight = xp.full((), n, X.dtype)
    else:
        keep = ~(weights == 0)
        s_scale = ceil_power_of_two(xp.max(weights))
        s = weights / s_scale
        weight = xp.sum(weights)
    zero = xp.zeros((), X.dtype)
    X = xp.where(keep[:, None], X, zero)
    Y = xp.where(keep[:, None], Y, zero)
    finite = xp.all(xp.isfinite(X)) & xp.all(xp.isfinite(Y))
    if weights is not None:
        finite = finite & xp.all(xp.isfinite(weights) & (weights >= 0))
    # A NaN may not reach the integers of the slices; the flag brings it back at the end.
    X, Y = xp.where(finite, X, zero), xp.where(finite, Y, zero)
    if s is not None:
        s = xp.where(finite, s, xp.ones_like(s))
    m, my = centre or (_centre(A, s) if intercept else xp.zeros_like(A[0]) for A in (X, Y))
    root = xp.ones_like(X[:, 0])
    if s is not None:  # most of a weight goes to its row, so that no column is small beside its largest entry
        root = xp.ldexp(root, (xp.frexp(xp.where(s > 0, s, root))[1] + 1) // 2)
        s = s / root / root
    root = xp.where(keep, root, zero)[:, None]
    scale, y_scale = _gram.scale_of(X, root, m), _gram.scale_of(Y, root, my)
    high, low = _gram.columns(X, Y, root, m, my, scale, y_scale, intercept)
    return Moments(_gram.words_of(high, low, s), m, my, scale, y_scale, s_scale, weight, finite)


def _centre(A: Any, s: Any | None) -> Any:
    """About the mean of each column; any shift is right, and one near the mean keeps the most digits."""
    xp = namespace(A)
    if s is None:
        return settled(xp.mean(A, axis=0))
    sum_s = xp.sum(s)
    return settled(xp.sum(s[:, None] * A, axis=0) / xp.where(sum_s > 0, sum_s, xp.ones_like(sum_s)))


def _all_scales(M: Moments, intercept: bool) -> Any:
    xp = namespace(M.m)
    one = xp.ones((1 if intercept else 0,), M.m.dtype)
    return xp.concatenate([M.scale, one, M.y_scale])


def sum_moments(A: Moments, B: Moments) -> Moments:
    """Of two moments about one centre: each is brought to the larger scale, by powers of two, and added."""
    xp = namespace(A.m)
    intercept = A.gram[0].shape[0] > A.m.shape[0] + A.my.shape[0]
    scale, y_scale = xp.maximum(A.scale, B.scale), xp.maximum(A.y_scale, B.y_scale)
    s_scale = xp.maximum(A.s_scale, B.s_scale)
    both = A._replace(scale=scale, y_scale=y_scale, s_scale=s_scale)

    def brought(M: Moments) -> Words:
        ratio = _all_scales(M, intercept) / _all_scales(both, intercept)
        return times(times(times(M.gram, ratio[:, None]), ratio[None, :]), M.s_scale / s_scale)

    return both._replace(gram=sum_words(brought(A), brought(B)), weight=A.weight + B.weight, finite=A.finite & B.finite)


def _unit_diagonal(M: Moments, l2: Any) -> Moments:
    """With the scale of a column from what is on its diagonal: its penalty may be far larger than its entries."""
    xp = namespace(M.m)
    d = M.m.shape[0]
    length = xp.hypot(xp.sqrt(xp.maximum(xp.diagonal(M.gram[0])[:d], 0)), xp.sqrt(l2 / M.s_scale) / M.scale)
    limit = 2.0 ** (400 if precision(M.m.dtype) == 53 else 48)
    ratio = xp.clip(ceil_power_of_two(length), 1 / limit, limit)
    down = xp.concatenate([1 / ratio, xp.ones((M.gram[0].shape[0] - d,), M.m.dtype)])
    return M._replace(gram=times(times(M.gram, down[:, None]), down[None, :]), scale=M.scale * ratio)


def solve(M: Moments, l2: Any, *, d: int, intercept: bool, eps: float) -> Solution:
    """The minimiser, and what is known of it; eps is the rounding unit of the data, which decides the rank."""
    xp = namespace(M.m)
    dtype = M.m.dtype
    k = M.my.shape[0]
    y0 = d + intercept  # where the targets start
    bits = precision(dtype)
    unit = 2.0 ** (4 - 3 * bits)  # of the words, with some to spare
    zero = xp.zeros((), dtype)

    # The penalty, in the units of the scaled columns; beyond these limits its inverse or its square overflows.
    M = _unit_diagonal(M, l2)
    given = (l2 / M.s_scale) / M.scale / M.scale
    least, most = (2.0**-500, 2.0**900) if bits == 53 else (2.0**-60, 2.0**90)
    penalty = xp.where(l2 > 0, xp.clip(given, least, most), given)
    diagonal = xp.concatenate([penalty, xp.zeros((y0 - d + k,), dtype)])
    # X = 0 as one more column: the sweeps turn its corner into the prediction there, which is b, and its variance.
    G = M.gram
    origin = -M.m / M.scale
    if intercept:
        origin = xp.concatenate([origin, xp.ones((1,), dtype)])
    origin = xp.concatenate([origin, xp.zeros((k,), dtype)])
    A = each(lambda a, v: _border(a, v, zero), G, words(origin))
    with_origin = xp.concatenate([diagonal, zero[None]])
    known = _refined.swept(add_diagonal(A, with_origin), y0, k, l2 > 0) if xp is np else None
    if known is None:
        A, centred, reference, swept = sweep_columns(A, d, intercept, 8 * eps, with_origin)
    else:
        unit = _refined.UNIT
        centred = about_means(sweep(G, d), np.diagonal(G[0])[:d]) if intercept else G[0][:d, :d]
        A, reference, swept = known, np.diagonal(centred) + penalty, np.ones(d, bool)
    rank = xp.sum(swept)

    w_hat = each(lambda x: xp.where(swept[:, None], x[:d, y0:-1], zero), A)
    inverse = xp.where(swept[:, None] & swept[None, :], -A[0][:d, :d], zero)
    # What is swept and what is not: X_U = X_P F, so that (-F, I) spans the null space, in the units of w.
    F = xp.where(swept[:, None] & ~swept[None, :], A[0][:d, :d] * M.scale[None, :] / M.scale[:, None], zero)
    to_w = lambda a: times(times(a, M.y_scale[None, :]), 1 / M.scale[:, None])  # noqa: E731
    w_words = to_w(w_hat)
    basic = w_words[0]
    full = rank == d
    short, off, projection = minimum_norm(F, swept, basic)
    moved = words(short)
    w_words = where(full, w_words, moved)
    w_hat = where(full, w_hat, times(times(moved, M.scale[:, None]), 1 / M.y_scale[None, :]))

    mean, mean_y = M.m, M.my
    if intercept:
        at_zero = times(negative(each(lambda x: x[-1, y0:-1], A)), M.y_scale)
        b = sum_words(words(M.my), at_zero)[0]
        # The shortest solution predicts the same at the mean of X, not at 0: there the mean of y.
        mass = xp.where(G[0][d, d] > 0, G[0][d, d], xp.ones_like(G[0][d, d]))
        mean, mean_y = M.m + G[0][:d, d] / mass * M.scale, M.my + G[0][d, y0:] / mass * M.y_scale
        b = xp.where(full, b, mean_y - mm(mean[None, :], w_words[0])[0])
    else:
        b = xp.zeros((k,), dtype)
    w = w_words[0]

    # Error bound: an entry of the Gram matrix is wrong by at most unit sqrt(G_ii G_jj), elimination multiplies that by
    # a multiple of d, the inverse carries it to the solution, and the result is rounded.
    root = lambda v: xp.sqrt(xp.maximum(v, zero))  # noqa: E731
    lengths = root(xp.diagonal(G[0]) + diagonal)
    size = lengths[y0:] + mm(lengths[:d], xp.abs(w_hat[0]))
    lost = 64.0 * (d + 2) * unit
    reach = mm(xp.abs(inverse), lengths[:d, None])[:, 0]
    w_off = lost * reach[:, None] * size[None, :]

    # What remains of the targets is the objective at the minimum; less the penalty it is the squared residual. And the
    # inverse K less K penalty K is K G K, the covariance: both are the diagonal of what is swept less the same sums.
    corner = each(xp.diagonal, A)
    objective_hat, yy = xp.maximum(corner[0][y0:-1], zero), xp.diagonal(G[0])[y0:]
    nothing = yy * 2.0 ** (20 - 3 * bits)
    small = objective_hat <= nothing
    objective_hat = xp.where(small, xp.zeros_like(objective_hat), objective_hat)
    used = each(lambda x: xp.where(swept[:, None], x[:d], zero), A)
    squares = product(used, used)
    summed = each(lambda x, v: xp.concatenate([x, -v[:d, None]], axis=1), squares, corner)
    summed = total(scaled_words(summed, penalty[:, None]))
    sign = xp.concatenate([xp.full((y0,), -1, dtype), xp.ones((k,), dtype), xp.full((1,), -1, dtype)])
    alone = M.weight - rank.astype(dtype) - (1 if intercept else 0)  # what is free without a penalty
    whole = each(lambda x, v: xp.concatenate([x * sign, v[None]]), corner, words(-alone))
    less = sum_words(whole, negative(summed))[0]
    freedom, nan = -less[-1], xp.full((), np.nan, dtype)
    rss_hat = xp.where(small, zero, xp.maximum(less[y0 : y0 + k], zero))
    rss_off = lost * size**2 + 2 * xp.sum(penalty[:, None] * xp.abs(w_hat[0]) * w_off, axis=0)
    rss_off = xp.maximum(rss_off, nothing)
    # What may be all rounding is known where it is none of the targets' digits; over next to no freedom it may be.
    unknown = (l2 > 0) & (rss_hat <= rss_off) & (rss_off > freedom * yy * 4.0 ** (2 - bits))
    rss_hat = xp.where(unknown, nan, rss_hat)
    positive = freedom > lost * xp.sum(penalty * reach**2)
    deviation_hat = xp.where(positive, root(rss_hat / xp.where(positive, freedom, xp.ones_like(freedom))), nan)

    # Standard errors, that of b from its share in the inverse, which is the last column.
    rows = xp.concatenate([inverse, xp.where(swept, -A[0][-1, :d], zero)[None, :]], axis=0)
    to_b = mm(xp.abs(rows[-1:]), lengths[:d, None])[0, 0] + (xp.abs(A[0][-1, d]) * lengths[d] if intercept else 0)
    reach = xp.concatenate([reach, to_b[None]])
    v_off = lost * reach * (reach + 2 * mm(xp.abs(rows) * penalty[None, :], reach[:d, None])[:, 0])
    share = xp.concatenate([xp.zeros((d,), dtype), (1 / G[0][d, d] if intercept else zero)[None]])
    difference = xp.concatenate([less[:d], less[-2:-1]])
    rounded = (d + 2) * float(np.finfo(dtype).eps)
    spread = xp.where(l2 > 0, variance(difference, v_off, rows, centred, share, rounded), difference)
    errors = xp.where(full, root(spread)[:, None] * (deviation_hat * M.y_scale)[None, :], nan)
    w_error = errors[:d] / M.scale[:, None]
    if intercept:
        b_error = errors[d]
        inverse = _border(inverse, xp.where(swept, -A[0][:d, d], zero), -A[0][d, d])
    else:
        b_error = xp.zeros_like(b)

    rounding = eps / 2 * 1.000001  # of the result, which has the dtype of the data
    w_bound = xp.abs(w) * rounding + w_off * M.y_scale[None, :] / M.scale[:, None]
    loose = xp.where(full, zero, off)
    w_bound = w_bound + loose + xp.where(given > most, xp.abs(w).T, zero).T  # of more penalty w is smaller
    if intercept:
        b_off = mm(xp.abs(M.m / M.scale), w_off) + mm(lengths[:d] / lengths[d], w_off) + lost * size / lengths[d]
        b_off = b_off * M.y_scale + mm(xp.abs(mean)[None, :], loose)[0]
        terms = xp.abs(M.my) + xp.abs(mean_y) + mm((xp.abs(M.m) + xp.abs(mean))[None, :], xp.abs(w))[0]
        b_bound = xp.abs(b) * rounding + b_off + xp.where(full, zero, 4 * (d + 2) * eps * terms)
    else:
        b_bound = xp.zeros_like(b)

    # Digits relative to each coefficient; one so small that its part of y is below rounding counts from there.
    floor = rounding * M.y_scale[None, :] * xp.where(swept, 1 / M.scale, xp.ones_like(M.scale))[:, None]
    ratio = xp.max(xp.where(w_bound > 0, w_bound / xp.maximum(xp.abs(w), floor), zero))
    b_floor = rounding * (M.y_scale + xp.abs(M.my))
    ratio = xp.maximum(ratio, xp.max(xp.where(b_bound > 0, b_bound / xp.maximum(xp.abs(b), b_floor), zero)))
    digits = xp.maximum(-xp.log10(xp.maximum(ratio, xp.full_like(ratio, rounding))), zero)

    # The objective rises by ||A d||^2 for an error d = (dw, db): centred columns times dw, and a shift of all rows.
    own_loose = mm((root(reference) * M.scale)[None, :], loose)[0] / M.y_scale
    value = M.s_scale * M.y_scale**2
    moved = mm(root(reference)[None, :], w_off + xp.abs(w_hat[0]) * rounding)[0] + own_loose
    slide = (mm(xp.abs(mean)[None, :], w_bound)[0] + b_bound) if intercept else xp.zeros_like(b)
    rise = xp.sqrt(value) * moved + xp.sqrt(M.weight) * slide
    suboptimality = xp.sum(rise * rise)
    trace = M.s_scale * xp.sum(reference * M.scale**2) + M.weight * (xp.sum(mean**2) + 1)

    return Solution(
        w=w,
        b=b,
        finite=M.finite & (l2 >= 0),
        rank=rank,
        condition=xp.where(full, _condition(centred, penalty, inverse[:d, :d], reference), xp.full((), np.inf, dtype)),
        digits=xp.where(M.weight > 0, digits, zero),
        objective=xp.sum(objective_hat * value),
        suboptimality=suboptimality,
        gradient_norm=2 * xp.sqrt(suboptimality) * xp.sqrt(trace),
        deviation=deviation_hat * M.y_scale * xp.sqrt(M.s_scale),
        w_error=w_error,
        b_error=b_error,
        w_bound=w_bound,
        b_bound=b_bound,
        lengths=M.scale * root(M.s_scale * xp.diagonal(G[0])[:d]) + xp.abs(M.m) * root(M.weight),
        inverse=inverse,
        projection=projection,
        m=M.m,
        scale=M.scale,
        s_scale=M.s_scale,
    )


def _border(A: Any, v: Any, c: Any) -> Any:
    xp = namespace(A)
    top = xp.concatenate([A, v[:, None]], axis=1)
    return xp.concatenate([top, xp.concatenate([v, c[None]])[None, :]], axis=0)


def _condition(G: Any, penalty: Any, inverse: Any, reference: Any) -> Any:
    """The 2-norm condition number of X with its columns (centred and) scaled to one length."""
    xp = namespace(G)
    D = xp.sqrt(xp.where(reference > 0, reference, xp.ones_like(reference)))
    scaled = G / D[:, None] / D[None, :]
    own = xp.where(xp.eye(len(D), dtype=bool), (penalty / D / D)[:, None], xp.zeros_like(scaled))
    largest = xp.linalg.eigvalsh(scaled + own)[-1]
    return xp.sqrt(largest * xp.linalg.eigvalsh(inverse * D[:, None] * D[None, :])[-1])
