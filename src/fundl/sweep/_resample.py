"""Which rows a replicate trains on: folds that are held out in turn, and bootstrap weights."""

import jax
import jax.numpy as jnp

from fundl._types import Array


def folds(n: int, k: int, key: Array) -> Array:
    """Held-out rows of k random folds whose sizes differ by one at most: held[j, i] is True where row i is in fold j.

    Shapes: held (k, n), booleans; every row is in one fold. It is what `folds=` of the sweeps takes, and 1 - held are
    the weights of the training rows.
    Errors: TypeError for a key that is not `jax.random.key(seed)`; ValueError for k below 2 or above n.

    >>> held = folds(5, 2, jax.random.key(0))
    >>> print(held.sum(axis=0), held.sum(axis=1))
    [1 1 1 1 1] [3 2]

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 7.10.
    """
    if not 2 <= k <= n:
        raise ValueError(f"k must be at least 2 and at most the number of rows, {n}; got {k}.")
    of = jax.random.permutation(_key(key), n) % k
    return of[None, :] == jnp.arange(k)[:, None]


def bootstrap(n: int, replicates: int, key: Array) -> Array:
    """Weights of bootstrap replicates: how often each of n rows is drawn in n draws with replacement.

    Shapes: weights (replicates, n), in jax's default float; every row sums to n. It is what `weights=` of the sweeps
    takes; a row that a replicate leaves out scores it.
    Errors: TypeError for a key that is not `jax.random.key(seed)`; ValueError for fewer than one row or replicate.

    >>> print(bootstrap(6, 2, jax.random.key(0)).sum(axis=1))
    [6. 6.]

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 6.2; the score: 17.7 there.
    """
    if n < 1 or replicates < 1:
        raise ValueError(f"n and replicates must be at least 1; got {n} and {replicates}.")
    drawn = jax.random.randint(_key(key), (replicates, n), 0, n)
    return jax.vmap(lambda rows: jnp.zeros((n,)).at[rows].add(1.0))(drawn)


def _key(key: Array) -> Array:
    if not (isinstance(key, jax.Array) and (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.dtype == jnp.uint32)):
        raise TypeError(f"key must be a random key such as jax.random.key(0); got {key!r}.")
    return key
