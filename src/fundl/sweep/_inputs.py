"""What a sweep is given: penalties, weights and folds, or a refusal."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check
from fundl._precise import namespace
from fundl._types import Array, ArrayLike


class Given(NamedTuple):
    """The fits of a sweep; the replicates are weights x folds."""

    X: Array  # (n, d)
    Y: Array  # (n, t) targets, or (n, k) classes
    weights: Array  # (r, n)
    held: Array | None  # (k, n), rows of each fold
    l2: Array  # (m,)
    l1: Array  # (m,)


def given(
    X: Array, Y: Array, weights: ArrayLike | None, folds: Any, l2: ArrayLike, l1: ArrayLike
) -> tuple[Given, bool]:
    """All checked and of one dtype; and whether there is any l1."""
    n = X.shape[0]
    penalties = []
    for name, value in (("l2", l2), ("l1", l1)):
        _check.penalty(name, value)
        penalty = _check.array(name, value)
        v: Any = np.asarray(penalty, X.dtype) if _check.on_host(penalty) else penalty.astype(X.dtype)
        _check.rank(name, v, 0, 1, shape="(m,), the penalties, or () for one")
        _check.nonempty(name, v)
        penalties.append(v.reshape(-1))
    m = max(p.shape[0] for p in penalties)
    if any(p.shape[0] not in (1, m) for p in penalties):
        raise ValueError(
            f"l2 and l1 must be as long as each other, or one of them a single number; got shapes "
            f"{penalties[0].shape} and {penalties[1].shape}. For all pairs: jnp.meshgrid, then reshape(-1)."
        )
    sparse = not (_check.concrete(l1) and not np.any(np.asarray(l1)))
    wide = [namespace(p).broadcast_to(p, (m,)) for p in penalties]
    s = _weights(weights, n, X.dtype)
    held = None if folds is None else _held(folds, n)
    if held is not None:
        mass = (s[:, None, :] > 0) & ~held[None]
        _check.refuse_where(lambda v: ~v.any(axis=2), "folds", mass, "must leave rows of weight > 0 to train on")
    found = Given(X, Y, s, held, *wide)
    if all(_check.concrete(v) for v in jax.tree.leaves(found)):
        return found, sparse
    return jax.tree.map(_without_derivative, found), sparse


@jax.custom_jvp
def _without_derivative(x: Array) -> Array:
    """x, whose derivative is refused: lanes that stop at different steps would give a wrong one."""
    return x


@_without_derivative.defjvp
def _refused(primals: Any, tangents: Any) -> Any:
    raise TypeError(
        "A sweep is not differentiated. Differentiate the separate fits, which are: logistic_regression.fit, "
        "softmax_regression.fit or linear_regression.fit, under jax.vmap for many."
    )


def _weights(weights: ArrayLike | None, n: int, dtype: Any) -> Any:
    """(r, n); ones (1, n) where none are given."""
    if weights is None:
        return np.ones((1, n), dtype)
    s = _check.array("weights", weights)
    if s.ndim not in (1, 2) or s.shape[-1] != n or s.size == 0:
        raise ValueError(
            f"weights must have one entry for each example, shape ({n},), or a row for each replicate, (r, {n}); "
            f"got {s.shape}."
        )
    s = s.reshape(-1, n)
    _check.refuse_where(lambda v: ~((v >= 0) & (v < np.inf)), "weights", s, "must be finite and not negative")
    _check.refuse_where(lambda v: ~(v > 0).any(axis=1), "weights", s, "must not all be 0 in any replicate")
    return np.asarray(s, dtype) if _check.on_host(s) else s.astype(dtype)


def _held(folds: Any, n: int) -> Any:
    """(k, n) booleans: the rows that each fold holds out."""
    if isinstance(folds, (int, np.integer)) and not isinstance(folds, bool):
        if not 2 <= folds <= n:
            raise ValueError(f"folds must be at least 2 and at most the number of rows, {n}; got {folds}.")
        return np.arange(n)[None, :] % folds == np.arange(folds)[:, None]
    held = _check.array("folds", folds)
    if held.ndim == 2 and held.dtype == jnp.bool_ and held.shape[1] == n and held.shape[0] > 0:
        _check.refuse_where(lambda v: ~v.any(axis=1), "folds", held, "must hold a row in each fold")
        return held
    if held.shape != (n,) or not jnp.issubdtype(held.dtype, jnp.integer):
        raise ValueError(
            f"folds must be a number, the integer fold of each row (n,), or booleans (k, n) that are True where a row "
            f"is held out, with n = {n}; got {held.dtype} of shape {held.shape}. sweep.folds(n, k, key) makes them."
        )
    if not _check.concrete(held):
        raise ValueError(
            "folds is traced, so the number of folds cannot be seen: pass booleans (k, n), as sweep.folds makes them."
        )
    of = np.asarray(held)
    k = int(of.max()) + 1
    missing = sorted({*range(k)} - {*of.tolist()})
    if of.min() < 0 or missing or k < 2:
        what = (
            f"negative fold {of.min()}" if of.min() < 0 else f"no row in fold {missing[0]}" if missing else "one fold"
        )
        raise ValueError(f"folds must number the folds 0, 1, ... k-1 with k at least 2; got {what}.")
    return of[None, :] == np.arange(k)[:, None]
