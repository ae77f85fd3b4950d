"""Lanes and their ends: which rows each replicate trains on and is scored by, and what is known where it stopped."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundl import losses
from fundl._precise import matmul, namespace
from fundl._result import Fit
from fundl._types import Array, ArrayLike
from fundl.newton._wide import after_rounding, upwards
from fundl.sweep._inputs import Given


class Ends(NamedTuple):
    """What is known of each lane, in the units of X; w (L, d) or (L, d, k). Arrays of numpy or of jax."""

    w: Any
    b: Any
    f: Any
    gradient_norm: Any
    bound: Any
    steps: Any
    code: Any
    w_direction: Any
    b_direction: Any
    loss: Any
    accuracy: Any


def end_of(fit: Fit, scored: tuple[Any, Any]) -> Ends:
    """The end of one lane that was fitted by itself."""
    proof, direction = fit.certificate, fit.certificate.direction
    return Ends(
        fit.params.w, fit.params.b, proof.objective, proof.gradient_norm, proof.suboptimality, proof.steps, fit.code,
        direction.w, direction.b, *scored,
    )  # fmt: skip


class Rows(NamedTuple):
    """The weights of the replicates, those of the fits they start from among them."""

    train: Any  # (R, n)
    score: Any  # (R, n)
    first: int  # that many come before the replicates: with folds the fits to all rows, else one to the mean weights


def rows_of(given: Given) -> Rows:
    """Which rows train and which score each replicate; numpy's arrays give numpy's."""
    S, xp = given.weights, namespace(given.weights)
    if given.held is not None:
        held, S = given.held[None], S[:, None]
        out = xp.where(held, S, xp.zeros_like(S)).reshape(-1, S.shape[2])
        folds = xp.where(held, xp.zeros_like(S), S).reshape(-1, S.shape[2])
        S = S[:, 0]
        return Rows(xp.concatenate([S, folds]), xp.concatenate([xp.zeros_like(S), out]), S.shape[0])
    if S.shape[0] == 1:
        return Rows(S, xp.zeros_like(S), 0)
    left_out = ((S == 0) & xp.any(S > 0, axis=0, keepdims=True)).astype(S.dtype)
    centre = xp.mean(S, axis=0, keepdims=True)
    return Rows(xp.concatenate([centre, S]), xp.concatenate([xp.zeros_like(centre), left_out]), 1)


def clean(given: Given) -> tuple[Any, Any]:
    """X and Y with zeros in the rows that no replicate uses."""
    xp = namespace(given.X)
    keep = xp.any(given.weights > 0, axis=0)[:, None]
    if xp is np and keep.all():
        return given.X, given.Y
    return xp.where(keep, given.X, xp.zeros_like(given.X)), xp.where(keep, given.Y, xp.zeros_like(given.Y))


def lanes(m: int, replicates: range, t: int) -> np.ndarray:
    """The indices (penalty, replicate, target) of all lanes in this order, (3, L)."""
    grid = np.meshgrid(np.arange(m), np.asarray(replicates, int), np.arange(t), indexing="ij")
    return np.stack([v.reshape(-1) for v in grid]).astype(np.int32)


def parents(rows: Rows, m: int, t: int) -> tuple[np.ndarray, np.ndarray, int]:
    """All lanes (3, L), the number of the one that each starts from, and how many are parents; those come first.

    A replicate starts from the fit to all its rows, or to mean weights; a parent is its own, and starts from zeros.
    """
    first, after = lanes(m, range(rows.first), t), lanes(m, range(rows.first, rows.train.shape[0]), t)
    count = first.shape[1]
    parent = np.arange(count + after.shape[1])
    if count:
        of = (after[1] - rows.first) // ((rows.train.shape[0] - rows.first) // rows.first)
        parent[count:] = (after[0] * rows.first + of) * t + after[2]
    return np.concatenate([first, after], axis=1), parent, count


def losses_of(link: str, z: Array, y: Array) -> tuple[Array, Array]:
    """The loss of each row and whether it is right; z (n,) or (n, k), y (n,) or (n, k)."""
    if link == "linear":
        return (z - y) ** 2, jnp.full_like(z, jnp.nan)
    if link == "sigmoid":
        loss = losses.binary_cross_entropy_with_logits(z, y, reduction="none")
        return loss, ((z > 0) == (y > 0.5)).astype(z.dtype)
    loss = losses.cross_entropy_with_logits(z, y, reduction="none")
    return loss, (jnp.argmax(z, axis=1) == jnp.argmax(y, axis=1)).astype(z.dtype)


@functools.partial(jax.jit, static_argnums=0)
def scores(link: str, X: Array, y: Array, w: Array, b: Array, q: Array) -> tuple[Array, Array]:
    """Mean loss and share of right answers over rows weighted by q; NaN where all q are 0."""
    z = matmul(X, w) + b[None, :] if w.ndim == 2 else matmul(X, w[:, None])[:, 0] + b
    loss, right = losses_of(link, z, y)
    total = jnp.sum(q)
    zero = jnp.zeros_like(q)
    return jnp.sum(jnp.where(q > 0, q * loss, zero)) / total, jnp.sum(jnp.where(q > 0, q * right, zero)) / total


def in_float64(
    solve: Callable[[Given], tuple[Ends, Ends]], given: Given, link: str, tol: ArrayLike = 0.0
) -> tuple[Ends, Ends]:
    """Concrete float32 data solved in float64 and rounded; objective, bound and code are those of the rounded."""
    dtype = given.X.dtype
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda v: v.astype(jnp.float64) if v.dtype == dtype else v, given)
        rows = rows_of(wide)
        first = rows.first if given.held is not None else 0
        ranges = range(rows.first, rows.train.shape[0]), range(first)
        t = given.Y.shape[1] if link != "softmax" else 1
        out = []
        for ends, replicates in zip(solve(wide), ranges, strict=True):
            which = lanes(given.l2.shape[0], replicates, t)
            if which.shape[1]:
                narrow = [v.astype(dtype).astype(jnp.float64) for v in (ends.w, ends.b)]
                index = tuple(jnp.asarray(v) for v in which)
                f, error = _objectives(wide, rows.train, narrow[0], narrow[1], index, link=link)
                worse = jnp.maximum(f - ends.f, 0) + error
                code = after_rounding(jnp.asarray(ends.code), worse, f, jnp.asarray(tol, jnp.float64), dtype)
                ends = ends._replace(f=f, bound=upwards(ends.bound + worse, dtype), code=code)
            out.append(jax.tree.map(lambda v: v.astype(dtype) if v.dtype == jnp.float64 else v, ends))
        return out[0], out[1]


@functools.partial(jax.jit, static_argnames=("link",))
def _objectives(
    given: Given, train: Array, w: Array, b: Array, which: tuple[Array, ...], *, link: str
) -> tuple[Array, Array]:
    """The objective of each lane at w and b, and what rounding may do to it."""
    X, Y = clean(given)
    eps = jnp.finfo(X.dtype).eps

    def one(lane: Any) -> tuple[Array, Array]:
        w, b, p, r, j = lane
        y = Y if link == "softmax" else jax.lax.dynamic_index_in_dim(Y, j, 1, keepdims=False)
        z = matmul(X, w) + b[None, :] if w.ndim == 2 else matmul(X, w[:, None])[:, 0] + b
        s = train[r]
        loss = jnp.sum(jnp.where(s > 0, s * losses_of(link, z, y)[0], jnp.zeros_like(s)))
        size = given.l2[p] / (1 if link == "linear" else 2) * jnp.sum(w * w) + given.l1[p] * jnp.sum(jnp.abs(w))
        # A logit off by e moves its loss L by 2 L e at most, a prediction its square L by 2 sqrt(L) e + e^2.
        W = jnp.abs(w).reshape(w.shape[0], -1)
        e = 2 * eps * jnp.max(matmul(jnp.abs(X), W) + jnp.abs(b).reshape(1, -1))
        far = jnp.sqrt(jnp.sum(s)) * e
        moved = far * (2 * jnp.sqrt(loss) + far) if link == "linear" else 2 * loss * e
        return loss + size, 64 * eps * (loss + size) + moved

    return jax.lax.map(one, (w, b, *which), batch_size=min(32, w.shape[0]))
