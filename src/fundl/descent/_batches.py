"""Which rows a step sees: each epoch is a new permutation of them, cut into batches."""

import jax
import jax.numpy as jnp

from fundl._types import Array, ArrayLike


def order_of_rows(
    data: tuple[Array, ...], order: Array | None, step: Array, key: Array | None, batch_size: int
) -> Array:
    """The order of the rows in this epoch, made anew as one begins; it depends on the key and the epoch alone.

    Without an `order` the loop has not begun: in the middle of an epoch it is made, at its beginning the loop will.
    """
    assert key is not None
    n = data[0].shape[0]
    epoch, begun = step // (n // batch_size), step % (n // batch_size) > 0
    rows = jnp.arange(n, dtype=jnp.int32)
    kept, made = (rows, begun) if order is None else (order, ~begun)
    return jax.lax.cond(made, lambda key: permutation(key, epoch, n), lambda _: kept, key)


def permutation(key: Array, epoch: ArrayLike, n: int) -> Array:
    """0..n-1 in random order; jax.random.permutation sorts once more for the rare ties of keys: three steps' time."""
    bits = jax.random.bits(jax.random.fold_in(key, epoch), (n,), jnp.uint32)
    return jax.lax.sort_key_val(bits, jnp.arange(n, dtype=jnp.int32), is_stable=False)[1]


def batch_at(data: tuple[Array, ...], order: Array | None, step: Array, batch_size: int) -> tuple[Array, ...]:
    assert order is not None
    start = (step % (data[0].shape[0] // batch_size)) * batch_size
    rows = jax.lax.dynamic_slice(order, (start,), (batch_size,))

    def take(x: Array) -> Array:
        sharding = jax.typeof(x).sharding
        if sharding.mesh.empty:
            return x[rows]
        return x.at[rows].get(out_sharding=sharding)  # an Explicit mesh wants to be told how the batch lies

    return tuple(take(x) for x in data)
