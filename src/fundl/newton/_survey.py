"""The first reading of rows that come in batches: the moments of the columns, the labels, and a sample."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from fundl.newton import _passes
from fundl.newton._passes import N
from fundl.newton._prepared import plain

SAMPLE = 1 << 23  # entries of X that are held
Batch = tuple[N, N, N | None]


class Reader:
    """Batches (X, y) or (X, y, weights), read from the start as often as asked for."""

    def __init__(self, batches: Any, k: int | None, inputs: Callable[[Any, Any, Any], Any]) -> None:
        if isinstance(batches, Iterator):
            raise TypeError(
                "batches must be readable more than once, and an iterator is spent after the first time. Give a list, "
                "or a function that starts anew: lambda: read_batches(...)."
            )
        if not (callable(batches) or isinstance(batches, Iterable)):
            raise TypeError(f"batches must be a list of (X, y), or a function; got {type(batches).__name__}.")
        self.batches, self.k, self.inputs = batches, k, inputs
        self.columns: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        """The rows that count, of each batch."""
        for i, batch in enumerate(self.batches() if callable(self.batches) else self.batches):
            try:
                X, y, s = self._read(batch)
            except (TypeError, ValueError) as error:
                error.add_note(f"In batch {i}, counted from 0.")
                raise
            if len(y):
                yield X, y, s

    def _read(self, batch: Any) -> Batch:
        """One batch, or a refusal."""
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            what = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
            raise TypeError(f"Each batch must be (X, y) or (X, y, weights), and batches a list of them; got {what}.")
        X, y, s = (*batch, None)[:3]
        if any(isinstance(v, jax.core.Tracer) for v in (X, y, s)):
            raise TypeError("A batch is traced, and fit_batches reads rows: call it outside of jit, grad and vmap.")
        if np.size(X) == 0 == np.size(y):
            return np.empty((0, 0)), np.empty(0), None
        given = plain(X, y, s, self.k)
        outside = given is not None and (self.k or 0) > 1 and np.any(given[1] >= self.k)
        if given is None or outside or not np.isfinite(given[0]).all():
            X, y, s = self.inputs(X, y, s)  # refuses what is wrong; what is left is of another kind
            given = plain(_numbers(X), _numbers(y), _numbers(s), self.k)
        if given is None:
            raise TypeError(f"A batch must hold numbers; got X {X.dtype} and y {y.dtype}. Use float64 or float32.")
        self.columns = self.columns or given[0].shape[1]
        if given[0].shape[1] != self.columns:
            raise ValueError(f"X must have {self.columns} columns, as before; got {given[0].shape}.")
        return given


def _numbers(v: Any) -> N | None:
    """What is good but of another kind (half precision, on another device) as numpy's numbers."""
    return v if v is None else np.asarray(v, v.dtype if v.dtype.kind in "iub" else np.result_type(v.dtype, np.float32))


def labels_of(y: N, s: N, k: int | None, classes: int) -> N:
    """The weight of each class; for k = 1 of 0 and 1."""
    if k == 1:
        ones = float(s @ y)
        return np.array([s.sum() - ones, ones])
    return np.bincount(y, s, minlength=classes)


class Survey:
    """What is known of the rows that it has taken."""

    def __init__(self, k: int | None) -> None:
        self.k, self.n, self.total, self.most, self.soft = k, 0, 0.0, 0.0, False
        self.labels: N = np.zeros(0)  # the weight of each class
        self.dtype: Any = np.dtype(np.float32)
        self.share = 1.0  # of the rows, in the sample
        self.draws, self.sample = np.random.default_rng(0), []

    def take(self, X: N, y: N, s: N | None) -> None:
        """One batch."""
        weights = np.ones(len(y)) if s is None else s
        self.dtype = np.result_type(self.dtype, X.dtype)
        if self.k == 1:
            self.soft = self.soft or not np.all((y == 0) | (y == 1))
        here = labels_of(y, weights, self.k, max(self.k or 2, len(self.labels)))
        self.labels = here + np.pad(self.labels, (0, len(here) - len(self.labels)))
        step = _passes.rows_of_block(X.shape[1], 1)
        for start in range(0, len(y), step):
            part = slice(start, start + step)
            self._moments(X[part].astype(np.float64, copy=False), weights[part])
        self._draw(X, y, weights)

    def _moments(self, X: N, s: N) -> None:
        """Those of two parts. Source: Chan, Golub and LeVeque, The American Statistician 37 (1983)."""
        total = float(s.sum())
        m = s @ X / total
        C = _passes.weighted_gram(X - m, s)
        low, high = X.min(axis=0), X.max(axis=0)
        if self.n == 0:
            self.m, self.C, self.low, self.high = m, C, low, high
            self.near, self.squares = m, np.zeros_like(m)  # the sums of the squares of X - near
        else:
            change, share = m - self.m, total / (self.total + total)
            self.m = self.m + share * change
            self.C = self.C + C + self.total * share * np.outer(change, change)
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.squares = self.squares + np.ones(len(X)) @ (X - self.near) ** 2
        self.n, self.total, self.most = self.n + len(X), self.total + total, max(self.most, float(s.max()))

    def _draw(self, X: N, y: N, s: N) -> None:
        """Rows whose random number is below the share; that is halved where they become too many."""
        number = self.draws.random(len(y))
        chosen = slice(None) if self.share == 1 else number < self.share
        self.sample.append((number[chosen], X[chosen], y[chosen], s[chosen]))
        while sum(part[1].size for part in self.sample) > SAMPLE:
            self.share /= 2
            whole = [np.concatenate(parts) for parts in zip(*self.sample, strict=True)]
            self.sample = [tuple(v[whole[0] < self.share] for v in whole)]
