"""Which rows a replicate trains on: folds that are held out in turn, and bootstrap weights."""

import jax
import jax.numpy as jnp

from fundl import _check
from fundl._types import Array


def folds(n: int, k: int, key: Array) -> Array:
    """Held-out rows of k random folds whose sizes differ by one at most: held[j, i] is True where row i is in fold j.

    Shapes: held (k, n), booleans; every row is in one fold. It is what `folds=` of the sweeps takes, and 1 - held are
    the weights of the training rows.
    Errors: TypeError for a key that is not `jax.random.key(seed)`; ValueError for several keys, or for k that is not
    whole, below 2 or above n.

    >>> held = folds(5, 2, jax.random.key(0))
    >>> print(held.sum(axis=0), held.sum(axis=1))
    [1 1 1 1 1] [3 2]

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 7.10.
    """
    _check.random_key("key", key)
    if not 2 <= _check.count(k) <= _check.count(n):
        raise ValueError(
            f"k must be a whole number, at least 2 and at most the number of rows n, one too; got k={k!r}, n={n!r}."
        )
    of = jax.random.permutation(key, n) % k
    return of[None, :] == jnp.arange(k)[:, None]


def bootstrap(n: int, replicates: int, key: Array) -> Array:
    """Weights of bootstrap replicates: how often each of n rows is drawn in n draws with replacement.

    Shapes: weights (replicates, n), in jax's default float; every row sums to n. It is what `weights=` of the sweeps
    takes; a row that a replicate leaves out scores it.
    Errors: TypeError for a key that is not `jax.random.key(seed)`; ValueError for several keys, or for n or
    replicates that are not whole numbers of at least 1.

    >>> print(bootstrap(6, 2, jax.random.key(0)).sum(axis=1))
    [6. 6.]

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 6.2; the score: 17.7 there.
    """
    _check.random_key("key", key)
    if not (_check.count(n) and _check.count(replicates)):
        raise ValueError(f"n and replicates must be whole numbers, at least 1; got {n!r} and {replicates!r}.")
    drawn = jax.random.randint(key, (replicates, n), 0, n)
    return jax.vmap(lambda rows: jnp.zeros((n,)).at[rows].add(1.0))(drawn)
