"""Numbers of three words: sums of three floats that together hold about 159 bits (72 in float32).

A "words" value is a tuple of arrays of one shape, largest first, whose exact sum is the number. XLA contracts a
multiply and an add into one operation with one rounding, which breaks the textbook way to find the rounding error of
a product. Here every product that is added is exact, because its factors are slices of few bits, and rounding errors
are found for sums only, so that contraction changes nothing.

The functions take numpy and jax arrays alike and return the same kind.

Source: Shewchuk, Adaptive precision floating-point arithmetic, Discrete Comput. Geom. 18 (1997), section 2; Ozaki et
al., Error-free transformations of matrix multiplication, Numer. Algorithms 59 (2012), section 2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl._precise import namespace

Words = tuple[Any, Any, Any]


def precision(dtype: Any) -> int:
    """Bits of a float: 53 or 24."""
    return 53 if np.dtype(dtype).itemsize == 8 else 24


def loop(xp: Any, steps: int, body: Callable[[Any, Any], Any], state: Any) -> Any:
    """state = body(i, state) for i = 0..steps-1."""
    if xp is jnp:
        return jax.lax.fori_loop(0, steps, body, state)
    for i in range(steps):
        state = body(i, state)
    return state


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """s = fl(a + b) and the rounding error e: s + e = a + b exactly (Shewchuk, theorem 7)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def words(x: Any) -> Words:
    """x as words."""
    zero = namespace(x).zeros_like(x)
    return x, zero, zero


def add(a: Words, *terms: Any) -> Words:
    """a + terms, exact but for the rounding of the last word."""
    if namespace(a[0]) is np or len(terms) < 3:
        for t in terms:
            a = _add(a, t)
        return a
    # A loop over the terms, not a chain of hundreds of operations: XLA compiles it a hundred times faster.
    shape = jnp.broadcast_shapes(a[0].shape, *(t.shape for t in terms))
    a = each(lambda x: jnp.broadcast_to(x, shape), a)
    stacked = jnp.stack([jnp.broadcast_to(t, shape) for t in terms])
    return jax.lax.scan(lambda a, t: (_add(a, t), None), a, stacked)[0]


def _add(a: Words, t: Any) -> Words:
    a0, t = two_sum(a[0], t)
    a1, t = two_sum(a[1], t)
    return a0, a1, a[2] + t


def tidy(a: Words) -> Words:
    """The same number with words that hardly overlap, the first of which is its rounding."""
    a0, a1, a2 = a
    for _ in range(2):
        a1, a2 = two_sum(a1, a2)
        a0, a1 = two_sum(a0, a1)
    a1, a2 = two_sum(a1, a2)
    return a0, a1, a2


def sum_words(a: Words, b: Words) -> Words:
    """a + b."""
    return tidy(add(a, *b))


def negative(a: Words) -> Words:
    """-a, exactly."""
    return -a[0], -a[1], -a[2]


def each(f: Callable[..., Any], *a: Words) -> Words:
    """Word by word, for an f that only moves, selects or scales by powers of two."""
    high, middle, low = (f(*x) for x in zip(*a, strict=True))
    return high, middle, low


def where(condition: Any, a: Words, b: Words) -> Words:
    """a where the condition holds, else b."""
    xp = namespace(a[0])
    return each(lambda x, y: xp.where(condition, x, y), a, b)


def split(a: Any) -> tuple[Any, Any]:
    """a = h + l with at most half of the bits in each, so that products of halves are exact."""
    bits = precision(a.dtype) // 2
    if namespace(a) is jnp:
        exponent = 11 if a.dtype.itemsize == 8 else 8
        h = jax.lax.reduce_precision(a, exponent_bits=exponent, mantissa_bits=bits - 1)
    else:
        c = a * a.dtype.type(2 ** (precision(a.dtype) - bits) + 1)  # numpy contracts nothing: Veltkamp's splitting
        h = c - (c - a)
    return h, a - h


def settled(x: Any) -> Any:
    """x with its last three bits rounded away, so that every use of it sees one value.

    Otherwise XLA may contract the product or quotient that x comes from into the one sum that it enters, and use
    the rounded x in the next.
    """
    if namespace(x) is np:
        return x
    wide = x.dtype.itemsize == 8
    return jax.lax.reduce_precision(x, exponent_bits=11 if wide else 8, mantissa_bits=49 if wide else 20)


def two_product(a: Any, b: Any) -> tuple[Any, Any, Any, Any]:
    """Four exact products whose sum is a b exactly, largest first."""
    (ah, al), (bh, bl) = split(a), split(b)
    return ah * bh, ah * bl, al * bh, al * bl


def product(a: Words, b: Words) -> Words:
    """a b, to the last word; shapes broadcast as they do for `*` between arrays of one rank."""
    result = words(a[0] * b[2])
    result = add(result, a[1] * b[1], a[2] * b[0], *two_product(a[0], b[1]), *two_product(a[1], b[0]))
    return tidy(add(result, *two_product(a[0], b[0])))


def scaled_words(a: Words, b: Any) -> Words:
    """a b for a plain b, to the last word."""
    return tidy(add(words(a[2] * b), *two_product(a[1], b), *two_product(a[0], b)))


def quotient(a: Words, b: Words) -> Words:
    """a / b by long division, to the last word."""
    xp = namespace(a[0])
    shape = np.broadcast_shapes(a[0].shape, b[0].shape)
    a = each(lambda x: xp.broadcast_to(x, shape), a)

    def digit(_: Any, state: tuple[Words, Words]) -> tuple[Words, Words]:
        rest, found = state
        q = settled(rest[0] / b[0])
        return sum_words(rest, negative(product(words(q), b))), _add(found, q)

    return tidy(loop(xp, 4, digit, (a, words(xp.zeros_like(a[0]))))[1])


def total(a: Words) -> Words:
    """The sum over the first axis."""
    xp = namespace(a[0])
    zero = words(xp.zeros_like(a[0][0]))
    if xp is np:
        for high, middle, low in zip(*a, strict=True):
            zero = sum_words(zero, (high, middle, low))
        return zero
    return jax.lax.scan(lambda sums, row: (sum_words(sums, row), None), zero, a)[0]


def times(a: Words, power_of_two: Any) -> Words:
    """a times a power of two, exactly."""
    return each(lambda x: x * power_of_two, a)


def ceil_power_of_two(x: Any) -> Any:
    """The smallest power of two above abs(x); 1 for 0. Kept where both it and its inverse are normal numbers."""
    xp = namespace(x)
    _, exponent = xp.frexp(xp.abs(x))
    limit = 1022 if precision(x.dtype) == 53 else 126
    exponent = xp.clip(xp.where(x == 0, xp.zeros_like(exponent), exponent), -limit, limit)
    return xp.ldexp(xp.ones_like(x), exponent)
