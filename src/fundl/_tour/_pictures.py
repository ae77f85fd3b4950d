"""The pictures of the tour; each title states what is to be seen. Colours are those of Okabe and Ito.

`docs/pictures` holds those that the README shows, as the tour writes them.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["boundary", "bowl", "curves", "outliers", "wrong_digits"]

_BLUE, _ORANGE, _RED, _GREY = "#0072B2", "#E69F00", "#D55E00", "#555555"
_PURPLE, _BROWN = "#542788", "#B35806"  # the ends of the map PuOr
_STYLE = {"font.size": 10.5, "axes.titlesize": 11.5, "axes.spines.top": False, "axes.spines.right": False}


def _figure(width: float = 6.4, height: float = 4.4) -> Any:
    # A Figure by itself draws without a display and leaves the settings of pyplot alone.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def bowl(
    path: pathlib.Path, *, X: np.ndarray, y: np.ndarray, descent: np.ndarray, solution: np.ndarray, names: Sequence[str]
) -> None:
    """Contours of J over two weights, the path of gradient descent, and the one step of the normal equations."""
    with _style():
        figure = _figure()
        axes = figure.add_subplot()
        low = np.minimum(descent.min(axis=0), solution) - 12
        high = np.maximum(descent.max(axis=0), solution) + 12
        side = [np.linspace(a, b, 121) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*side), axis=-1)
        J = np.mean((grid @ X.T - y) ** 2, axis=-1)
        least = np.mean((X @ solution - y) ** 2)
        levels = np.geomspace(4, J.max() - least, 11)
        axes.contour(*side, J - least, levels=levels, colors=_GREY, linewidths=0.7, alpha=0.7)
        near = np.linalg.norm(descent - solution, axis=1) <= 0.01 * np.linalg.norm(descent[0] - solution)
        steps = int(np.argmax(near)) if near.any() else len(descent) - 1
        axes.plot(*descent.T, "o-", color=_BLUE, ms=3.5, lw=1.2, label="gradient descent, one dot each step")
        axes.annotate("", solution, descent[0], arrowprops={"arrowstyle": "-|>", "color": _RED, "lw": 2, "shrinkB": 6})
        axes.plot([], [], color=_RED, lw=2, label="normal equations, one step")
        axes.plot(*solution, "*", color=_RED, ms=15)
        axes.plot(*descent[0], "o", color=_BLUE, ms=7)
        axes.annotate("start", descent[0], xytext=(0, 8), textcoords="offset points", ha="center")
        reached = f"needs {steps} steps" if near.any() else f"is not there after {steps} steps"
        axes.set_title(
            f"Down a narrow bowl gradient descent {reached}\n(to 1 % of the distance), the normal equations one"
        )
        axes.set_xlabel(f"weight of {names[0]}")
        axes.set_ylabel(f"weight of {names[1]}")
        axes.legend(loc="lower left", framealpha=0.95)
        figure.savefig(path, dpi=110)


def outliers(
    path: pathlib.Path,
    *,
    x: np.ndarray,
    standardised: np.ndarray,
    y: np.ndarray,
    slipped: np.ndarray,
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Both lines, through clean data (dashed) and with the outliers (solid); `slipped` rows are ten times too large."""
    with _style():
        figure = _figure(7.2, 4.6)
        axes = figure.add_subplot()
        top = 420.0
        clean = np.setdiff1d(np.arange(len(y)), slipped)
        axes.plot(x[clean], y[clean], "o", color=_GREY, ms=3, alpha=0.4)
        above = 10 * y[slipped] > top
        axes.plot(x[slipped][~above], 10 * y[slipped][~above], "x", color="black", ms=6)
        axes.plot(x[slipped][above], np.full(above.sum(), top), "^", color="black", ms=6)
        axes.text(
            x.min(),
            top + 12,
            f"{above.sum()} of the {len(slipped)} outliers lie above, up to {10 * y[slipped].max():.0f}",
        )
        ends = np.array([np.argmin(x), np.argmax(x)])
        shifts = {}
        for (name, (before, after)), colour in zip(lines.items(), (_RED, _BLUE), strict=True):
            for theta, style, note in ((before, "--", "without"), (after, "-", "with")):
                axes.plot(
                    x[ends],
                    theta[0] * standardised[ends] + theta[1],
                    style,
                    color=colour,
                    lw=2.2,
                    label=f"{name} {note} outliers",
                )
            shifts[name] = np.mean(np.abs((after - before)[0] * standardised + (after - before)[1]))
        axes.set_ylim(0, top + 40)
        axes.set_yticks(range(0, 401, 100))
        axes.set_title(
            f"{len(slipped)} outliers among {len(y)} patients move the MSE line by {shifts['MSE']:.0f} on average,\n"
            f"the L1 line by {shifts['L1']:.0f}"
        )
        axes.set_xlabel("body mass index")
        axes.set_ylabel("disease progression after a year")
        figure.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)
        figure.savefig(path, dpi=110)


def boundary(
    path: pathlib.Path,
    *,
    X: np.ndarray,
    y: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    w: np.ndarray,
    b: float,
    names: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Probabilities as contours, the boundary at one half, held-out examples, and the mistakes among them."""
    with _style():
        figure = _figure()
        axes = figure.add_subplot()
        side = [np.linspace(X[:, j].min() - 1, X[:, j].max() + 1, 200) for j in range(2)]
        grid = np.stack(np.meshgrid(*side), axis=-1)
        p = _sigma((grid - mean) / deviation @ w + b)
        filled = axes.contourf(*side, p, levels=np.linspace(0, 1, 11), cmap="PuOr_r", alpha=0.4)
        axes.contour(*side, p, levels=[0.5], colors="black", linewidths=2)
        wrong = (_sigma((X - mean) / deviation @ w + b) > 0.5) != (y == 1)
        for k, (colour, marker) in enumerate(((_PURPLE, "s"), (_BROWN, "o"))):
            axes.plot(*X[y == k].T, marker, color=colour, ms=4.5, mec="white", mew=0.4, label=classes[k])
        axes.plot(*X[wrong].T, "o", mfc="none", mec="black", ms=11, mew=1.4, label="on the wrong side")
        bar = figure.colorbar(filled, ax=axes, label=f"p({classes[1]})")
        bar.set_ticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_title(
            "The boundary p = 1/2 of logistic regression is a line:\n"
            f"{wrong.sum()} of {len(y)} held-out tumours are on the wrong side"
        )
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        axes.legend(loc="upper right", framealpha=0.95)
        figure.savefig(path, dpi=110)


def curves(path: pathlib.Path, *, losses: Mapping[str, np.ndarray], model: str) -> None:
    """The training loss of each descent over its steps."""
    with _style():
        figure = _figure()
        axes = figure.add_subplot()
        for (name, history), colour, style in zip(
            losses.items(), (_GREY, _ORANGE, _BLUE), (":", "--", "-"), strict=True
        ):
            axes.semilogy(history, style, color=colour, lw=2.2, label=f"{name}: ends at {history[-1]:.2g}")
        best = min(losses, key=lambda name: losses[name][-1]).split(",")[0]
        axes.set_title(f"{best} gets lowest in {len(next(iter(losses.values())))} steps\n(digits, perceptron {model})")
        axes.legend(loc="upper right", frameon=False)
        axes.set_xlabel("step")
        axes.set_ylabel("training cross-entropy J")
        axes.grid(alpha=0.25)
        figure.savefig(path, dpi=110)


def wrong_digits(path: pathlib.Path, *, images: np.ndarray, y: np.ndarray, p: np.ndarray) -> None:
    """The held-out digits that the network got wrong, the surest mistakes first."""
    with _style():
        said = p.argmax(axis=1)
        wrong = np.flatnonzero(said != y)
        wrong = wrong[np.argsort(-p[wrong, said[wrong]], kind="stable")]
        shown = wrong[:12]
        columns = 6
        lines = max(1, -(-len(shown) // columns))
        figure = _figure(7.2, 0.6 + 1.6 * lines)
        figure.suptitle(f"The network got {len(wrong)} of {len(y)} held-out digits wrong; the surest mistakes first")
        for k, i in enumerate(shown):
            axes = figure.add_subplot(lines, columns, k + 1)
            axes.imshow(images[i].reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
            axes.set_title(f"is {y[i]}, said {said[i]}\n({p[i, said[i]]:.1%} sure)", fontsize=9.5)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[["top", "right"]].set_visible(True)
        figure.savefig(path, dpi=110)


def _sigma(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(z / 2))
