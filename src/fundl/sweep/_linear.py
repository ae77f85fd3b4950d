"""Ridge regression for all penalties of a replicate from one eigendecomposition, with exact leave-one-out residuals."""

import functools

import jax
import jax.numpy as jnp

from fundl import _check, least_squares
from fundl._precise import matmul, rows_dot, safe_divide
from fundl._result import Status
from fundl._types import Array
from fundl.sweep._ends import Ends, clean, in_float64, lanes, rows_of, scores
from fundl.sweep._inputs import Given


def solve(given: Given, *, intercept: bool, leave_one_out: bool) -> tuple[Ends, Ends]:
    """The ends of the replicates and, with folds, of the fits to all rows; lanes in the order (m, r, t)."""
    concrete = all(_check.concrete(v) for v in jax.tree.leaves(given))
    if given.X.dtype.itemsize < 8 and concrete:
        return in_float64(lambda wide: solve(wide, intercept=intercept, leave_one_out=leave_one_out), given, "linear")
    static = {"intercept": intercept, "leave_one_out": leave_one_out}
    if not concrete:
        return _program(given, exact=True, **static)
    replicates, whole = _program(given, exact=False, **static)
    bad = [int(jnp.sum(e.code != int(Status.converged))) for e in (replicates, whole)]
    return _program(given, exact=True, **static) if any(bad) else (replicates, whole)


@functools.partial(jax.jit, static_argnames=("intercept", "leave_one_out", "exact"))
def _program(given: Given, *, intercept: bool, leave_one_out: bool, exact: bool) -> tuple[Ends, Ends]:
    rows = rows_of(given)
    X, Y = clean(given)
    m, t = given.l2.shape[0], Y.shape[1]
    first = rows.first if given.held is not None else 0
    out = []
    for replicates in (range(rows.first, rows.train.shape[0]), range(first)):
        part = slice(replicates.start, replicates.stop)
        train, score = rows.train[part], rows.score[part]
        if not len(replicates):
            train, score = rows.train[:1], rows.score[:1]
        ends = _by_eigenvalues(X, Y, given.l2, train, score, intercept, leave_one_out)
        if exact:
            which = lanes(m, range(train.shape[0]), t)
            ends = _exactly(X, Y, given.l2, train, score, intercept, ends, tuple(jnp.asarray(v) for v in which))
        out.append(ends if len(replicates) else jax.tree.map(lambda v: v[:0], ends))
    return out[0], out[1]


def _by_eigenvalues(
    X: Array, Y: Array, l2: Array, train: Array, score: Array, intercept: bool, leave_one_out: bool
) -> Ends:
    """w = V (V^T X^T S y / (Lambda + l2)) about the means, once corrected by the residuals on the rows."""
    (n, d), t, m = X.shape, Y.shape[1], l2.shape[0]
    eps = jnp.finfo(X.dtype).eps

    def means(s: Array) -> tuple[Array, Array]:
        def mean(A: Array) -> Array:
            about = rows_dot(A, s) / jnp.sum(s) if intercept else jnp.zeros_like(A[0])
            return about + (rows_dot(A - about[None, :], s) / jnp.sum(s) if intercept else 0)

        return mean(X), mean(Y)

    def one(replicate: tuple[Array, Array]) -> Ends:
        s, q = replicate
        x_mean, y_mean = means(s)
        Z, E = X - x_mean[None, :], Y - y_mean[None, :]
        Lambda, V = jnp.linalg.eigh(rows_dot(Z, s[:, None] * Z))
        divisor = jnp.maximum(Lambda, 0)[:, None] + l2[None, :]  # (d, m)

        def solved(g: Array) -> Array:  # (d, m, t)
            turned = matmul(V.T, g.reshape(d, -1)).reshape(d, -1, t)
            return matmul(V, safe_divide(turned, jnp.broadcast_to(divisor[:, :, None], (d, m, t))).reshape(d, m * t))

        def residual(W: Array) -> Array:  # (n, m, t)
            return E[:, None, :] - matmul(Z, W).reshape(n, m, t)

        def gradient(R: Array, W: Array) -> Array:  # of minus f / 2, (d, m, t)
            return rows_dot(Z, (s[:, None, None] * R).reshape(n, m * t)).reshape(d, m, t) - (
                l2[None, :, None] * W.reshape(d, m, t)
            )

        W = solved(jnp.broadcast_to(rows_dot(Z, s[:, None] * E)[:, None, :], (d, m, t)))
        W = W + solved(gradient(residual(W), W))
        R = residual(W)
        g = gradient(R, W)
        squares = jnp.sum(s[:, None, None] * R * R, axis=0)  # (m, t)
        size = jnp.abs(W).reshape(d, m, t)
        column = jnp.sqrt(jnp.sum(s[:, None] * Z * Z, axis=0))
        noise = 8 * eps * (column[:, None, None] * (jnp.sqrt(squares) + jnp.tensordot(column, size, 1))[None])
        noise = noise + 8 * eps * l2[None, :, None] * size
        turned = jnp.abs(matmul(V.T, g.reshape(d, -1))) + matmul(jnp.abs(V.T), noise.reshape(d, -1))
        turned = turned.reshape(d, m, t)
        regular = divisor > 100 * d * eps * jnp.max(divisor, axis=0, keepdims=True)
        wide = jnp.broadcast_to(divisor[:, :, None], turned.shape)
        off = matmul(jnp.abs(V), safe_divide(turned, wide).reshape(d, -1)).reshape(d, m, t)
        largest = jnp.max(size * column[:, None, None], axis=0)
        good = jnp.all(regular, axis=0)[:, None] & (jnp.max(off * column[:, None, None], axis=0) <= 1e-8 * largest)
        b = y_mean[None, :] - jnp.tensordot(x_mean, W.reshape(d, m, t), 1)
        db = 4 * eps * (jnp.abs(b) + jnp.tensordot(jnp.abs(x_mean), size, 1)) * (1 if intercept else 0)
        bound = jnp.sum(safe_divide(turned * turned, wide), axis=0) + jnp.sum(s) * db * db
        zero = jnp.sum(s[:, None, None] * R, axis=0)  # the gradient in b
        outside = g + x_mean[:, None, None] * zero[None]
        norm = 2 * jnp.sqrt(jnp.sum(outside * outside, axis=0) + (zero * zero if intercept else 0))
        if leave_one_out:
            U = matmul(Z, V)
            share = matmul(U * U, safe_divide(jnp.ones_like(divisor), divisor))
            h = s[:, None] * (share + (1 / jnp.sum(s) if intercept else 0))
            e = safe_divide(R, jnp.broadcast_to(1 - h[:, :, None], R.shape))
            loss = jnp.sum(s[:, None, None] * e * e, axis=0) / jnp.sum(s)
            loss = jnp.where(jnp.all((1 - h > 0) | (s == 0)[:, None], axis=0)[:, None], loss, jnp.nan)
        else:
            loss = jnp.sum(q[:, None, None] * R * R, axis=0) / jnp.sum(q)
        w = jnp.moveaxis(W.reshape(d, m, t), 0, 2)
        f = squares + l2[:, None] * jnp.sum(w * w, axis=2)
        good = good & jnp.isfinite(f) & (jnp.sum(s) > 0)
        code = jnp.where(good, int(Status.converged), int(Status.stalled)).astype(jnp.int32)
        nan, none = jnp.full_like(w, jnp.nan), jnp.full_like(loss, jnp.nan)
        return Ends(w, b, f, norm, bound, jnp.zeros_like(code), code, nan, nan[:, :, 0], loss, none)

    ends = jax.lax.map(one, (train, score))
    return jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1).reshape(-1, *v.shape[3:]), ends)


def _exactly(
    X: Array, Y: Array, l2: Array, train: Array, score: Array, intercept: bool, ends: Ends, which: tuple[Array, ...]
) -> Ends:
    """The lanes that have not settled, one after another by the exact solver."""
    bad = ends.code != int(Status.converged)
    order = jnp.argsort(~bad)
    p, r, j = which

    def one(i: Array, ends: Ends) -> Ends:
        lane = order[i]
        y = jax.lax.dynamic_index_in_dim(Y, j[lane], 1, keepdims=False)
        s, q = train[r[lane]], score[r[lane]]
        fit = least_squares.fit(X, y, l2=l2[p[lane]], weights=s, intercept=intercept)
        proof, (w, b) = fit.certificate, fit.params
        loss, accuracy = scores("linear", X, y, w, b, q)
        loss = jnp.where(jnp.any(q > 0), loss, ends.loss[lane])
        end = Ends(
            w, b, proof.objective, proof.gradient_norm, proof.suboptimality, proof.steps, fit.code,
            jnp.full_like(w, jnp.nan), jnp.full_like(b, jnp.nan), loss, accuracy,
        )  # fmt: skip
        return jax.tree.map(lambda all, v: all.at[lane].set(v), ends, end)

    return jax.lax.fori_loop(0, jnp.sum(bad), one, ends)
