"""The Gram matrix Z^T S Z of Z = [X - m, 1, Y - m_y] in words, from exact products of slices.

Each column is cut into slices of so few bits that a block of rows of slice times slice sums without rounding. The
sums over the blocks are exact too (two words), so the order of rows, blocks, batches and devices does not matter.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl._precise import HIGHEST
from fundl.least_squares._words import (
    Words,
    add,
    ceil_power_of_two,
    namespace,
    precision,
    tidy,
    two_product,
    two_sum,
    words,
)


def plan(n: int, dtype: Any) -> tuple[int, int, int]:
    """Rows of a block, bits of a slice, and slices, for sums that fit the significand."""
    bits = precision(dtype)
    rows = min(2048 if bits == 53 else 64, 1 << max(n - 1, 1).bit_length())
    width = (bits - (rows - 1).bit_length()) // 2
    return rows, width, -(-3 * bits // width)


def columns(X: Any, Y: Any, root: Any, m: Any, my: Any, scale: Any, y_scale: Any, intercept: bool) -> tuple[Any, Any]:
    """Z and its rounding errors: shifted, scaled by powers of two (exactly), and the rows by root (n, 1), some by 0."""
    xp = namespace(X)
    high, low = [], []
    for A, shift, factor in ((X, m, scale), (Y, my, y_scale)):
        # Where factor overflows or underflows the product of A and factor does not: the largest entry becomes 1.
        s, e = two_sum(A / factor[None, :], -(shift / factor)[None, :])
        high.append(s * root)
        low.append(e * root)
    if intercept:
        high.insert(1, root)
        low.insert(1, xp.zeros_like(root))
    return xp.concatenate(high, axis=1), xp.concatenate(low, axis=1)


def slices(a: tuple[Any, ...], width: int, count: int) -> Any:
    """Integers t_1, t_2, ... of `width` bits with a = sum_i t_i 2^(-i width), side by side; abs(a) <= 1."""
    xp = namespace(a[0])
    rest = list(a)
    found = []
    for i in range(1, count + 1):
        t = xp.round(rest[0] * 2.0 ** (i * width))
        rest[0] = rest[0] - t * 2.0 ** (-i * width)
        for j in range(len(rest) - 1):
            rest[j], rest[j + 1] = two_sum(rest[j], rest[j + 1])
        found.append(t)
    return xp.concatenate(found, axis=1)


def gram(high: Any, low: Any, s: Any | None, width: int, count: int, rows: int) -> tuple[Any, Any]:
    """Exact sums over the rows of slice times slice, as two words (count p, count p) of integers.

    s: weights in [0, 1], or None. high + low has entries in [-1, 1].
    """
    xp = namespace(high)
    n, p = high.shape
    blocks = -(-n // rows)

    def products(high: Any, low: Any, s: Any | None) -> Any:
        A = slices((high, low), width, count)
        if s is None:
            B = A
        else:
            weighted = add(words(xp.zeros_like(high)), *two_product(s[:, None], high), *two_product(s[:, None], low))
            B = slices(tidy(weighted), width, count)
        return A.T @ B if xp is np else jnp.einsum("ni,nj->ij", A, B, precision=HIGHEST)

    zero = xp.zeros((count * p, count * p), high.dtype)
    if blocks == 1:
        return products(high, low, s), zero
    if xp is np:
        sums = zero, zero.copy()
        for i in range(blocks):
            at = slice(i * rows, (i + 1) * rows)
            a, e = two_sum(sums[0], products(high[at], low[at], None if s is None else s[at]))
            sums = a, sums[1] + e
        return sums

    def pad(v: Any) -> Any:
        v = jnp.concatenate([v, jnp.zeros((blocks * rows - n, *v.shape[1:]), v.dtype)])
        return v.reshape((blocks, rows, *v.shape[1:]))

    def step(sums: tuple[Any, Any], block: Any) -> tuple[tuple[Any, Any], None]:
        a, e = two_sum(sums[0], products(*block))
        return (a, sums[1] + e), None

    block = (pad(high), pad(low), None if s is None else pad(s))
    return jax.lax.scan(step, (zero, zero), block)[0]


def combine(sums: tuple[Any, Any], width: int, count: int) -> Words:
    """The matrix A^T B (p, q) in words from the sums (count p, count q) of slice products, the large ones first."""
    xp = namespace(sums[0])
    p, q = (v // count for v in sums[0].shape)
    parts = [x.reshape(count, p, count, q) for x in sums]
    pairs = sorted(
        ((i, j) for i in range(count) for j in range(count) if i + j <= count), key=lambda pair: (sum(pair), pair)
    )
    if xp is np:
        # Those of one power are whole numbers, and sums of their halves are exact.
        high = np.floor(parts[0] * 2.0**-26)
        low = parts[0] - high * 2.0**26 + parts[1]
        terms = []
        for total in range(count + 1):
            power = 2.0 ** (-(total + 2) * width)
            own = [(i, j) for i, j in pairs if i + j == total]
            terms += [sum(x[i, :, j] for i, j in own) * unit for x, unit in ((high, 2.0**26 * power), (low, power))]
        return tidy(add(words(terms[0]), *terms[1:]))
    # A loop, so that the compiled program stays small.
    first, second = np.array([i for i, _ in pairs]), np.array([j for _, j in pairs])
    power = jnp.asarray(2.0 ** (-(first + second + 2.0) * width), sums[0].dtype)[:, None, None]
    terms = tuple(x[first, :, second] * power for x in parts)

    def step(result: Words, term: Any) -> tuple[Words, None]:
        return tidy(add(result, *term)), None

    return jax.lax.scan(step, words(jnp.zeros((p, q), sums[0].dtype)), terms)[0]


def scale_of(A: Any, root: Any, shift: Any) -> Any:
    """The power of two above the largest entry of each column of A - shift, its rows times root (n, 1)."""
    largest = namespace(A).max(abs(A - shift[None, :]) * root, axis=0)
    return ceil_power_of_two(largest) * 2


def words_of(high: Any, low: Any, s: Any | None) -> Words:
    """Z^T S Z in words for Z = high + low, on one device or with the rows sharded over a mesh."""
    xp = namespace(high)
    rows, width, count = plan(high.shape[0], high.dtype)
    if xp is np:
        return combine(gram(high, low, s, width, count, rows), width, count)
    sharding = jax.typeof(high).sharding
    axes = sharding.spec[0] if not sharding.mesh.empty and len(sharding.spec) else None
    if axes is None:
        return combine(gram(high, low, s, width, count, rows), width, count)

    # Explicit mesh: each device sums its own rows, and the exact sums are added in the order of the devices.
    def local(high: Any, low: Any, s: Any | None) -> tuple[Any, Any]:
        own = gram(high, low, s, width, count, rows)
        everywhere = [jax.lax.all_gather(x, axes) for x in own]
        a, e = jnp.zeros_like(own[0]), jnp.zeros_like(own[0])
        for i in range(everywhere[0].shape[0]):
            a, rest = two_sum(a, everywhere[0][i])
            e = e + rest + everywhere[1][i]
        return a, e

    P = jax.sharding.PartitionSpec
    given: Any = (high, low, s)  # a None has no leaves, and any spec fits it
    run = jax.shard_map(local, mesh=sharding.mesh, in_specs=P(axes), out_specs=P(), check_vma=False)
    return combine(run(*given), width, count)
