"""How far f is from its minimum where no Hessian of all classes is formed: two bounds, and the best intercepts."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fundl.newton import _certainty, _passes
from fundl.newton._certainty import rounding
from fundl.newton._passes import N, Rows, Source
from fundl.newton._sampled import Found, quadratic

EPS = float(np.finfo(np.float64).eps)


class Levelled(NamedTuple):
    """theta with the best intercepts for its w, and what bounds f - f* there."""

    theta: N
    f: float
    left: float  # of the gradient in b
    moved: N  # norm2 of the change of dL/dz, for each class (k,)


def loose(rows: Source, z: N) -> Iterator[tuple[slice, Rows]]:
    """The rows in parts, without their X: for what the logits z tell."""
    step = _passes.rows_of_block(0, rows.k)
    for start in range(0, len(z), step):
        part = slice(start, start + step)
        s = None if rows.s is None else rows.s[part]
        yield part, Rows(z[part], rows.y[part], s, rows.k, rows.soft, rows.intercept, None)


def level(rows: Source, K: N, theta: N, z: N, enough: float = 0.0) -> Levelled:
    """Newton's method in b alone, until the gradient in b is at most `enough` f; it needs no pass over X."""
    k = rows.k
    b, change, before, H = np.zeros(k), np.full(k, np.inf), np.empty_like(z), np.eye(k)
    for turn in range(5):
        bends = np.abs(change).max() > 1e-3  # the Hessian is another
        f, square, slope, size, curvature = 0.0, np.zeros(k), np.zeros(k), 0.0, np.zeros((k, k))
        for part, block in loose(rows, z):
            L, a, p = _passes.loss(block, z[part] + b, bends)
            if turn == 0:
                before[part] = a
            if bends:
                weighted = p if block.s is None else p * block.s[:, None]
                curvature += np.diag(weighted.sum(axis=0)) - weighted.T @ p
            away = a - before[part]
            f, square, slope = f + L, square + np.einsum("nk,nk->k", away, away), slope + a.sum(axis=0)
            size += float(np.abs(a).sum())
        left = float(np.abs(slope).sum() + EPS * size) * rows.intercept
        if left <= max(2 * EPS * size, enough * f) or turn == 4:
            break
        if bends:
            H = curvature + (curvature.diagonal().max() / k if k > 1 else 0.0)
        try:
            change = -np.linalg.solve(H, slope)
        except np.linalg.LinAlgError:  # no row bends
            break
        b = b + change
    theta = np.concatenate([theta[:-1], theta[-1:] + b])
    return Levelled(theta, f + quadratic(K, theta), left, np.sqrt(square))


def height(z: N, b: N) -> float:
    """At least how far the best intercepts are from those of z + b, for a part of the gradient in b."""
    return (float(np.abs(z).max()) + float(np.abs(b).max())) * (1 if z.shape[1] == 1 else 2) + 1


def proved(K: N, norms: N, z: N, g: N, error: N, at: Levelled, b: N) -> float:
    """The bound of `_dense.strong_convexity`: the gradient in w has moved by norm2 of z_j times that of dL/dz."""
    u = (np.abs(g) + error + (at.moved + at.left) * norms[:, None])[:-1]
    return float(np.sum(u * u / (2 * K[:-1, None]))) + at.left * height(z, b)


def concordance(part: Rows, K: N, theta: N, g: N, error: N) -> float:
    """The bound of `_certainty.proved`: each row bends by the smallest of its probabilities at least, in all classes.

    For theta whose classes sum to zero, as g's do: v^T (diag(p) - p p^T) v >= min(p) v^T v for v that sums to zero.
    """
    c = _passes.probabilities(part, theta).min(axis=1)
    H = _passes.weighted_gram(part.X, c if part.s is None else c * part.s).astype(np.float64)
    H.flat[:: len(H) + 1] += K
    H.flat[:: len(H) + 1] += ~part.X.any(axis=0)  # columns that move nothing
    if not (H.diagonal() > 0).all():
        return np.inf
    try:
        inverse = np.linalg.inv(H)
    except np.linalg.LinAlgError:
        return np.inf
    step = _passes.rows_of_block(len(H), part.k)
    blocks = (part.X[i : i + step] for i in range(0, len(part.y), step))
    far = float(np.max([np.einsum("ij,ij->i", X, X @ inverse).max() for X in blocks]))  # NaN stays
    return _certainty.proved(far, H, inverse, 0.0, g, error, part.k, float(np.finfo(np.float32).eps))


def hopeful(K: N, g: N) -> float:
    """About what `proved` will be."""
    u = np.abs(g[:-1]) + np.abs(g[-1])
    return float(np.sum(u * u / (2 * K[:-1, None])))


def ended(
    rows: Source, K: N, norms: N, theta: N, now: _passes.Pass, g: N, steps: int, at_rest: bool, tol: float = 0.0
) -> Found:  # fmt: skip
    """With the best intercepts, and the proof."""
    at = level(rows, K, theta, now.z, 0.01 * tol / height(now.z, theta[-1]))
    error = rounding(rows.most, K, norms, now.alpha, theta)
    bound = proved(K, norms, now.z, g, error, at, at.theta[-1] - theta[-1])
    return Found(at.theta, at.f, np.append(g[:-1], 0 * g[-1:], axis=0), bound, steps, at_rest, None, None, norms=norms)
