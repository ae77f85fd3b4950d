"""The judge that needs no autodiff: Richardson extrapolation of differences, which knows its own error."""

from __future__ import annotations

import numpy as np

__all__ = ["LEVELS", "extrapolate", "steps"]

LEVELS = 22
_COLUMNS = 5


def steps(x: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """Step sizes for entries of value x, halving from the scale of the entry: (E,) -> (E, levels).

    Powers of two, so that x + h and x - h are as exact as they can be.
    """
    scale = 2.0 ** np.floor(np.log2(np.maximum(np.abs(x), 1.0)))
    return scale[..., None] * 2.0 ** -np.arange(1, levels + 1)


def extrapolate(slopes: np.ndarray, noise: np.ndarray, order: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """The limit of slopes for steps that halve, and its error: (..., L) -> two (...).

    Romberg's table: T[j, m] = T[j, m-1] + (T[j, m-1] - T[j-1, m-1]) / (2^(order m) - 1) for central differences
    (order 2; one-sided differences have order 1). The entry with the smallest estimate of error is taken: how far it
    is from both its neighbours, and the rounding error of the values of f in it.
    """
    with np.errstate(all="ignore"):
        table, error = slopes, np.full(slopes.shape, np.inf)
        best, best_error = np.full(slopes.shape[:-1], np.nan), np.full(slopes.shape[:-1], np.inf)
        for m in range(1, _COLUMNS):
            factor = 2.0 ** (order * m) - 1
            nxt = table[..., 1:] + (table[..., 1:] - table[..., :-1]) / factor
            noise = noise[..., 1:]
            error = np.abs(nxt - table[..., 1:])
            # Two successive entries must agree too: one small difference may be chance.
            error[..., 1:] = np.maximum(error[..., 1:], np.abs(nxt[..., 1:] - nxt[..., :-1]))
            error[..., :1] = np.inf
            error = np.where(np.isfinite(nxt), error + 2 * noise, np.inf)
            error = np.where(np.isfinite(error), error, np.inf)
            at = np.argmin(error, axis=-1)[..., None]
            value = np.take_along_axis(nxt, at, -1)[..., 0]
            err = np.take_along_axis(error, at, -1)[..., 0]
            better = err < best_error
            best, best_error = np.where(better, value, best), np.where(better, err, best_error)
            table = nxt
    return best, best_error
