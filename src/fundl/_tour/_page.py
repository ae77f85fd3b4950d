"""The page the tour writes on: headings, aligned tables, verifications that are counted, pictures for the end."""

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import verify
from fundl.datasets import Dataset, train_test_split

__all__ = ["Agreement", "Page", "Rows", "accuracy", "compare", "some_params", "split"]

_WORDS = ("exact", "within rounding", "wrong")
_INDENT = "   "
_QUICK_COLUMNS = 30  # the quick tour leaves the models of the digits, with their many parameters, unexamined


@dataclass(frozen=True)
class Rows:
    """A data set ready for use: inputs standardised by the training rows, in jax's default float."""

    X: jax.Array
    y: jax.Array
    X_test: jax.Array
    y_test: jax.Array
    train: np.ndarray
    test: np.ndarray

    @property
    def n(self) -> int:
        """The number of training rows."""
        return self.X.shape[0]


def split(data: Dataset, *, ones: bool = False, scale: float | None = None) -> Rows:
    """Training and held-out rows; columns divided by `scale`, or standardised; `ones` appends a column of ones."""
    dtype = jnp.zeros(()).dtype
    train, test = train_test_split(len(data.y))
    X = data.X.astype(np.float64)
    X = X / scale if scale else (X - X[train].mean(axis=0)) / X[train].std(axis=0)
    if ones:
        X = np.column_stack([X, np.ones(len(X))])
    X = X.astype(dtype)
    y = data.y.astype(dtype) if data.y.dtype.kind == "f" else data.y
    return Rows(jnp.asarray(X[train]), jnp.asarray(y[train]), jnp.asarray(X[test]), jnp.asarray(y[test]), train, test)


def some_params(X: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Parameters away from the minimum, where a gradient is what cancellation leaves: no digits to compare."""
    return jnp.asarray(0.1 * np.random.default_rng(0).normal(size=shape), X.dtype)


def accuracy(predicted: jax.Array, y: jax.Array) -> jax.Array:
    """The share of classes predicted right."""
    return jnp.mean(predicted.astype(y.dtype) == y, dtype=jnp.zeros(()).dtype)


@dataclass(frozen=True)
class Agreement:
    """How a gradient by hand agrees with the one by autodiff, over all its entries.

    Attributes:
        ulp: the largest difference, in units of rounding of the largest entry of the gradient it is in.
        word: exact, within rounding or wrong.
    """

    ulp: float
    word: str

    @property
    def ok(self) -> bool:
        """Whether the difference is rounding."""
        return self.word != "wrong"

    def __str__(self) -> str:
        return f"{self.word}, {self.ulp:.1f} ulp"


def compare(by_hand: Any, by_autodiff: Any, *, terms: int = 1) -> Agreement:
    """Two gradients leaf by leaf; terms: how many terms are summed into an entry."""
    ulp, word = 0.0, 0
    for h, a in zip(jax.tree.leaves(by_hand), jax.tree.leaves(by_autodiff), strict=True):
        word = max(word, _WORDS.index(verify.judge(h, a, terms)))
        h64, a64 = np.asarray(h, np.float64), np.asarray(a, np.float64)
        unit = float(jnp.finfo(a.dtype).eps) * np.abs(a64).max()
        difference = float(np.abs(h64 - a64).max())
        # A gradient of zeros has no scale of its own.
        ulp = max(ulp, difference / unit if unit > 0 else float("inf") if difference else 0.0)
    return Agreement(ulp, _WORDS[word])


@dataclass
class Page:
    """What the tour has shown and found so far.

    Attributes:
        quick: fewer steps, no pictures, and the examiner sees the small models only.
        checks: each verification's name and whether it passed.
        summary: a row of the closing table for each model.
        pictures: what is to be drawn at the end: file name, drawing function, its arguments.
        examined: model, rows and coming report of each examination.
        workers: the thread that examines.
    """

    quick: bool = False
    checks: list[tuple[str, bool]] = field(default_factory=list)
    summary: list[tuple[str, ...]] = field(default_factory=list)
    pictures: list[tuple[str, Callable[..., None], dict[str, Any]]] = field(default_factory=list)
    examined: list[tuple[str, int, Future[verify.Report]]] = field(default_factory=list)
    workers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since the tour began."""
        return time.perf_counter() - self.start

    @property
    def failed(self) -> list[str]:
        """The names of the verifications that did not pass."""
        return [name for name, passed in self.checks if not passed]

    def title(self, text: str) -> None:
        """A heading with a rule under it."""
        print(f"\n{text}\n{'-' * len(text)}", flush=True)

    def say(self, text: str) -> None:
        """Lines of text, indented."""
        for line in text.split("\n"):
            print(f"{_INDENT}{line}".rstrip(), flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Aligned columns: the first and the last to the left, the numbers between them to the right."""
        lines = [tuple(head), *(tuple(row) for row in rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        for k, line in enumerate(lines):
            cells = [
                cell.ljust(w) if i in (0, len(head) - 1) else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ]
            self.say("  ".join(cells))
            if k == 0:
                self.say("  ".join("-" * w for w in widths))

    def progress(self, text: str) -> None:
        """A line on stderr, with the time so far, before something that takes long."""
        print(f"  [{self.seconds:5.1f} s] {text} ...", file=sys.stderr, flush=True)

    def check(self, name: str, passed: bool) -> str:
        """Count a verification; returns the word for it."""
        self.checks.append((name, bool(passed)))
        return "ok" if passed else "WRONG"

    def picture(self, file: str, draw: Callable[..., None], **arguments: Any) -> None:
        """Keep a picture for the end."""
        if not self.quick:
            self.pictures.append((file, draw, arguments))

    def verify(
        self, name: str, loss: Callable[..., Any], gradient: Callable[..., Any], params: Any, X: Any, y: Any, rows: int
    ) -> Agreement:
        """A model's hand-written gradient against `jax.grad` on all rows, and under the examiner on the first `rows`.

        Both are counted. On all rows the two gradients are compared as they are used, in the dtype of the tour; the
        examiner repeats it in float64, at many other parameters too, and confirms autodiff by differences. It works
        beside the rest of the tour; `examiner` waits for it.
        """
        both = jax.jit(lambda p, X, y: (gradient(p, X, y), jax.grad(loss)(p, X, y)))
        agreement = compare(*both(params, X, y), terms=X.shape[0])
        self.check(f"{name}: gradient on the data", agreement.ok)
        self.say(f"gradient by hand against autodiff, all {X.shape[0]} rows: {agreement}")
        if self.quick and X.shape[1] > _QUICK_COLUMNS:
            return agreement
        few_X, few_y = X[:rows], y[:rows]
        # Compiled, since one program is ready sooner than the many small ones of a call operation by operation. In a
        # thread, since compiling takes nearly all of the time and leaves Python free to go on with the tour.
        report = self.workers.submit(
            verify.check_gradient,
            jax.jit(lambda params: loss(params, few_X, few_y)),
            jax.jit(lambda params: gradient(params, few_X, few_y)),
            params,
        )
        self.examined.append((name, rows, report))
        return agreement

    def examiner(self) -> None:
        """Wait for the examiner and show what it found."""
        lines = []
        for name, rows, future in self.examined:
            self.progress(f"{name}: examining the gradient")
            report = future.result()
            word = self.check(f"{name}: gradient under the examiner", report.ok)
            power = f"{max(report.power.values()):.0e}" if report.power else "-"
            lines.append((name, str(rows), str(report.points), power, word))
        self.table(("gradient of", "rows", "points", "would have seen", "verdict"), lines)
        for _, _, future in self.examined:
            if not future.result().ok:
                self.say(f"\n{future.result()}")
