"""The judge that needs no autodiff: Richardson extrapolation of differences, which knows its own error."""

from __future__ import annotations

import numpy as np

__all__ = ["LEVELS", "extrapolate", "steps"]

LEVELS = 22
_COLUMNS = 5
_SCATTER = 6


def steps(x: np.ndarray, levels: int = LEVELS, least: float = 1.0) -> np.ndarray:
    """Step sizes for entries of value x, halving from the larger of abs(x) and least: (E,) -> (E, levels).

    Powers of two, so that x + h and x - h are as exact as they can be.
    """
    scale = 2.0 ** np.floor(np.log2(np.maximum(np.abs(x), least)))
    return scale[..., None] * 2.0 ** -np.arange(1, levels + 1)


def extrapolate(slopes: np.ndarray, noise: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The limit of central differences for steps h that halve, and its error: (..., L) each -> two (...).

    Romberg's table: T[j, m] = T[j, m-1] + (T[j, m-1] - T[j-1, m-1]) / (4^m - 1). The entry with the smallest
    estimate of error is taken: how far it is from both its neighbours, and the rounding error of f in it. A function
    may round much more than its value tells, where large terms cancel inside it; so the scatter of the slopes for
    the smallest steps is measured, and what it shows of rounding is used instead where it is larger.
    """
    value, _ = _romberg(slopes, noise)
    scatter = np.abs(slopes - value[..., None])[..., -_SCATTER:] * h[..., -_SCATTER:]
    scatter = np.where(np.isfinite(scatter), scatter, 0.0).max(axis=-1)
    value, error = _romberg(slopes, np.maximum(noise, 2 * scatter[..., None] / h))
    # Far too large steps can agree on something that is not the derivative; the smallest then agree on another.
    last = slopes[..., -_SCATTER:]
    apart = np.abs(np.median(last, axis=-1) - value) - 3 * np.ptp(last, axis=-1)
    return value, np.where(apart > 0, np.maximum(error, apart), error)


def _romberg(slopes: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    table = slopes
    best, best_error = np.full(slopes.shape[:-1], np.nan), np.full(slopes.shape[:-1], np.inf)
    for m in range(1, _COLUMNS):
        nxt = table[..., 1:] + (table[..., 1:] - table[..., :-1]) / (4.0**m - 1)
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
