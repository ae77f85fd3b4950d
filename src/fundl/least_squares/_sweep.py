"""The sweep operator in words: the solution, the inverse and the residual from a Gram matrix in one elimination.

Sweeping the pivots P of [[H, C], [C^T, Q]] gives [[-H^-1, H^-1 C], [C^T H^-1, Q - C^T H^-1 C]]. In words the squared
condition of H costs nothing that anybody sees: 159 bits less twice 50.

Source: Goodnight, A tutorial on the SWEEP operator, The American Statistician 33 (1979), sections 3 and 5.
"""

from typing import Any

import numpy as np

from fundl.least_squares._words import (
    Words,
    loop,
    namespace,
    negative,
    precision,
    product,
    quotient,
    sum_words,
    where,
    words,
)


def pick(a: Words, k: Any) -> Words:
    """Column k, which may be traced, of the matrix a; exact."""
    xp = namespace(a[0])
    return tuple(xp.take(x, k, axis=1) for x in a)  # type: ignore[return-value]


def sweep(A: Words, k: Any) -> Words:
    """A after sweeping the pivot k; A is symmetric and stays so."""
    xp = namespace(A[0])
    here = xp.arange(A[0].shape[0]) == k
    v = pick(A, k)
    D: Words = tuple(xp.take(x, k, axis=0)[None] for x in v)  # type: ignore[assignment]
    # v / D, and 1 / D in the place of the pivot.
    u = quotient(where(here, words(xp.ones_like(v[0])), v), D)
    outer = product(tuple(x[:, None] for x in u), tuple(x[None, :] for x in v))  # type: ignore[arg-type]
    rest = sum_words(A, negative(outer))
    rest = where(here[:, None], tuple(x[None, :] for x in u), rest)  # type: ignore[arg-type]
    rest = where(here[None, :], tuple(x[:, None] for x in u), rest)  # type: ignore[arg-type]
    return where(here[:, None] & here[None, :], negative(rest), rest)


def sweep_columns(A: Words, d: int, intercept: bool, tolerance: float) -> tuple[Words, Any, Any]:
    """Sweep the intercept (column d), then the first d columns, each time the one most independent of those before.

    Returns the swept matrix, the squared lengths of the (then centred) columns, and which were swept. A column is left
    out when what the others do not explain of it is at most `tolerance` of its length.
    """
    xp = namespace(A[0])
    columns = xp.arange(A[0].shape[0])
    negligible = 2.0 ** (30 - 3 * precision(A[0].dtype))  # what rounding of the words leaves of a constant column

    def step(i: Any, state: tuple[Words, Any, Any]) -> tuple[Words, Any, Any]:
        A, reference, swept = state
        own = xp.diagonal(A[0])[:d]
        if intercept:
            centred = xp.where(own <= reference * negligible, xp.zeros_like(own), own)
            reference = xp.where(i == 1, centred, reference)
        share = own / xp.where(reference > 0, reference, xp.ones_like(reference))
        share = xp.where(swept[:d] | (reference <= 0), xp.full_like(own, -np.inf), share)
        # Written so that NaN is swept, and seen in the result.
        good, k = ~(xp.max(share) <= tolerance**2), xp.argmax(share)
        if intercept:
            good, k = xp.where(i == 0, A[0][d, d] > 0, good), xp.where(i == 0, xp.full_like(k, d), k)
        if xp is np:
            return (sweep(A, k), reference, swept | (columns == k)) if good else (A, reference, swept)
        return where(good, sweep(A, k), A), reference, swept | ((columns == k) & good)

    swept = xp.zeros(columns.shape, bool)
    A, reference, swept = loop(xp, d + intercept, step, (A, xp.diagonal(A[0])[:d], swept))
    return A, reference, swept[:d]
