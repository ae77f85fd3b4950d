"""The sweep operator in words: the solution, the inverse and the residual from a Gram matrix in one elimination.

Sweeping the pivots P of [[H, C], [C^T, Q]] gives [[-H^-1, H^-1 C], [C^T H^-1, Q - C^T H^-1 C]]. In words the squared
condition of H costs nothing that anybody sees: 159 bits less twice 50.

Source: Goodnight, A tutorial on the SWEEP operator, The American Statistician 33 (1979), sections 3 and 5.
"""

from typing import Any

import numpy as np

from fundl.least_squares._words import (
    Words,
    each,
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
    return each(lambda x: xp.take(x, k, axis=1), a)


def sweep(A: Words, k: Any) -> Words:
    """A after sweeping the pivot k; A is symmetric and stays so."""
    xp = namespace(A[0])
    here = xp.arange(A[0].shape[0]) == k
    v = pick(A, k)
    D = each(lambda x: xp.take(x, k, axis=0)[None], v)
    # v / D, and 1 / D in the place of the pivot.
    u = quotient(where(here, words(xp.ones_like(v[0])), v), D)
    as_column, as_row = (lambda x: x[:, None]), (lambda x: x[None, :])
    rest = sum_words(A, negative(product(each(as_column, u), each(as_row, v))))
    rest = where(as_column(here), each(as_row, u), rest)
    rest = where(as_row(here), each(as_column, u), rest)
    return where(here[:, None] & here[None, :], negative(rest), rest)


def about_means(A: Words, before: Any) -> Any:
    """Of A with the intercept swept the Gram matrix of the columns, whose diagonal was `before`; zeros for constants.

    What rounding of the words leaves of a constant column is no variance.
    """
    xp = namespace(A[0])
    d = len(before)
    found = A[0][:d, :d]
    constant = xp.diagonal(found) <= before * 2.0 ** (30 - 3 * precision(A[0].dtype))
    return xp.where(constant[:, None] | constant[None, :], xp.zeros_like(found), found)


def add_diagonal(A: Words, v: Any) -> Words:
    """A with v added to its diagonal."""
    xp = namespace(v)
    own = sum_words(each(xp.diagonal, A), words(v))
    return where(xp.eye(len(v), dtype=bool), each(lambda x: x[:, None], own), A)


def sweep_columns(A: Words, d: int, intercept: bool, tolerance: float, penalty: Any) -> tuple[Words, Any, Any, Any]:
    """Sweep the intercept (column d), then the first d columns, each time the one most independent of those before.

    Returns the swept matrix, the Gram matrix of the (then centred) columns, to which `penalty` is added on the diagonal
    before they are swept, the squared lengths with it, and which columns were swept. One is left out when what the
    others do not explain of it is at most `tolerance` of its length.
    """
    xp = namespace(A[0])
    columns = xp.arange(A[0].shape[0])
    start = xp.diagonal(A[0])[:d]
    nothing = xp.zeros_like(penalty)

    def step(i: Any, state: tuple[Words, Any, Any, Any]) -> tuple[Words, Any, Any, Any]:
        A, G, reference, swept = state
        if intercept and (xp is not np or i == 1):
            G = xp.where(i == 1, about_means(A, start), G)
            reference = xp.where(i == 1, xp.diagonal(G) + penalty[:d], reference)
            A = add_diagonal(A, xp.where(i == 1, penalty, nothing))
        own = xp.diagonal(A[0])[:d]
        share = own / xp.where(reference > 0, reference, xp.ones_like(reference))
        share = xp.where(swept[:d] | (reference <= 0), xp.full_like(own, -np.inf), share)
        # Written so that NaN is swept, and seen in the result.
        good, k = ~(xp.max(share) <= tolerance**2), xp.argmax(share)
        if intercept:
            good, k = xp.where(i == 0, A[0][d, d] > 0, good), xp.where(i == 0, xp.full_like(k, d), k)
        if xp is np:
            return (sweep(A, k), G, reference, swept | (columns == k)) if good else (A, G, reference, swept)
        return where(good, sweep(A, k), A), G, reference, swept | ((columns == k) & good)

    state = (
        (A if intercept else add_diagonal(A, penalty)),
        A[0][:d, :d],
        start + penalty[:d],
        xp.zeros_like(columns) > 0,
    )
    A, G, reference, swept = loop(xp, d + intercept, step, state)
    return A, G, reference, swept[:d]
