"""The picture of a sweep: held-out loss and coefficients against the penalty."""

import pathlib
from typing import Any

import numpy as np

_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#555555"


def draw(found: Any, path: pathlib.Path, *, error: Any, unit: str) -> None:
    """Write the picture; penalties that are all equal, or 0 among them, are drawn by their number.

    error: the standard errors of the losses (m, t); unit: what the loss is called.
    """
    from matplotlib.figure import Figure  # a Figure by itself needs no display and leaves pyplot alone

    penalty = np.asarray(found.l1 if float(np.ptp(np.asarray(found.l1))) else found.l2)
    name = "l1" if float(np.ptp(np.asarray(found.l1))) else "l2"
    logarithmic = bool(np.all(penalty > 0)) and float(np.ptp(penalty)) > 0
    x = penalty if logarithmic else np.arange(len(penalty))
    order = np.argsort(x)
    panels = 1 if found.scores is None else 2
    figure = Figure(figsize=(5.2 * panels, 4.0), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, panels))
    if found.scores is not None:
        _losses(axes[0], found, x, order, error)
        axes[0].set_ylabel(f"held-out {unit}")
    _coefficients(axes[-1], found, x, order)
    for a in axes:
        if logarithmic:
            a.set_xscale("log")
        a.set_xlabel(f"penalty {name}" if logarithmic else f"number of the penalty {name}")
        a.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _losses(axes: Any, found: Any, x: np.ndarray, order: np.ndarray, error: Any) -> None:
    loss, best = np.asarray(found.loss), np.asarray(found.best)
    loss = np.where(np.isfinite(loss), loss, np.nan)
    for j in range(loss.shape[1]):
        axes.errorbar(x[order], loss[order, j], error[order, j], color=_BLUE, ecolor=_GREY, lw=1.2, elinewidth=0.7)
        axes.plot(x[best[j]], loss[best[j], j], "*", color=_RED, ms=13)
    axes.set_title("The star marks the best penalty")


def _coefficients(axes: Any, found: Any, x: np.ndarray, order: np.ndarray) -> None:
    params = found.params if found.whole is None else found.whole.params
    w = np.asarray(params.w)[:, 0, 0].reshape(len(x), -1)
    axes.plot(x[order], w[order], lw=0.8)
    axes.axhline(0, color=_GREY, lw=0.6)
    axes.set_ylabel("coefficients w")
    axes.set_title("Path of the coefficients" + (" of target 0" if found.code.shape[2] > 1 else ""))
