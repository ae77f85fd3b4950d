"""What the sweeps give, for numpy's matrices that are not nearly singular: plain floats first, then refined in words.

A Cholesky factor in plain floats solves with an error of eps times the squared condition of the columns, and each
refinement, whose residual is exact to many bits more, leaves as small a part of what is left.

Source: Higham, Accuracy and Stability of Numerical Algorithms (2002), 12.1; the products: Ozaki et al., Numer.
Algorithms 59 (2012), section 3.
"""

from collections.abc import Callable

import numpy as np

from fundl._precise import inverse_of_lower
from fundl.least_squares._gram import combine, slices
from fundl.least_squares._words import Words, ceil_power_of_two, negative, sum_words, times, words

SLICES = 7
UNIT = 2.0**-140  # the error of a solution, relative to what the inverse makes of the largest terms
NOTHING = 2.0**-80  # of the largest coefficient; as where a penalty is all that a column has
REMAINS = 2.0**-80  # of the targets


def swept(A: Words, D: int, k: int, sharp: bool = False) -> Words | None:
    """A after sweeping its first D columns, or None where that may need more bits; k targets follow. See `_sweep`.

    The inverse is that of float64, or with `sharp` has as many bits as the solution.
    """
    own = np.diagonal(A[0])[:D]
    if not (own > 0).all():
        return None
    # Powers of two that bring the diagonal to between 1/4 and 1.
    scale = np.ldexp(1.0, -((np.frexp(own)[1] + 1) // 2))
    H = times(times(_part(A, slice(D), slice(D)), scale[:, None]), scale)
    try:
        M = inverse_of_lower(np.linalg.cholesky(H[0]))
    except np.linalg.LinAlgError:
        return None
    loss = float(np.finfo(np.float64).eps * 4 * np.sqrt(D) * np.linalg.norm(H[0]) * np.square(M).sum())
    if not loss < 1e-3:
        return None
    with_H = _products(H)
    C = times(_part(A, slice(D), slice(D, None)), scale[:, None])
    top = ceil_power_of_two(np.abs(C[0]).max(axis=0))
    C = times(C, 1 / top)
    X = _solution(with_H, M, C, UNIT / loss)
    inverse = _solution(with_H, M, words(np.eye(D)), (UNIT if sharp else 2.0**-56) / loss)
    if X is None or inverse is None:
        return None
    # Coefficients that are nothing beside others, and targets that are met, ask for more bits.
    if (np.abs(X[0]) < NOTHING * np.abs(X[0]).max(axis=0))[:, :k].any():
        return None
    left = times(times(_products(C)(X), top[:, None]), top)
    corner = sum_words(_part(A, slice(D, None), slice(D, None)), negative(left))
    before, after = (np.diagonal(x)[:k] for x in (A[0][D:, D:], corner[0]))
    if not (after > REMAINS * before).all():
        return None
    X = times(times(X, scale[:, None]), top)
    inverse = times(times(negative(inverse), scale[:, None]), scale)

    def word(i: int) -> np.ndarray:
        return np.block([[inverse[i], X[i]], [X[i].T, corner[i]]])

    return word(0), word(1), word(2)


def _part(A: Words, rows: slice, columns: slice) -> Words:
    return A[0][rows, columns], A[1][rows, columns], A[2][rows, columns]


def _products(A: Words) -> Callable[[Words], Words]:
    """A^T X as a function of X; abs(A) <= 1."""
    width = (53 - len(A[0]).bit_length()) // 2
    cut = slices(A, width, SLICES).T

    def product(X: Words) -> Words:
        top = 2 * ceil_power_of_two(np.abs(X[0]).max(axis=0))
        sums = cut @ slices(times(X, 1 / top), width, SLICES)
        return times(combine((sums, np.zeros_like(sums)), width, SLICES), top)

    return product


def _solution(with_H: Callable[[Words], Words], M: np.ndarray, B: Words, enough: float) -> Words | None:
    """H^-1 B, from H^-1 = M^T M nearly, to a last step of at most `enough`."""
    X, rest = words(np.zeros_like(B[0])), B
    for _ in range(16):
        step = M.T @ (M @ rest[0])
        X = sum_words(X, words(step))
        if (np.abs(step).max(axis=0) <= enough * np.abs(X[0]).max(axis=0)).all():
            return X
        rest = sum_words(B, negative(with_H(X)))
    return None
