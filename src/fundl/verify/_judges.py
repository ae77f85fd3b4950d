"""Two judges of one gradient entry: autodiff and differences, and what to believe where they differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from fundl.verify._differences import LEVELS, extrapolate, steps
from fundl.verify._engine import Engine
from fundl.verify._points import Points, cotangents, draw
from fundl.verify._verdict import Verdict, decided, verdict

__all__ = ["Bench", "flat"]

Arrays = list[np.ndarray]
_NEARBY = 48
_LARGE = 20_000
_SMALL = 500  # below it a program that is compiled already is cheaper than a smaller one
_SHAKEN = 6


def flat(parts: Arrays) -> np.ndarray:
    """Leaves (P, *shape) laid end to end: (P, entries)."""
    return np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)


@dataclass
class Bench:
    """The points of one set of shapes with the reference gradients there, shared by every rule that is checked.

    ok marks the points where f is finite; gradients (P, entries) by autodiff, or by differences with their errors.
    With `trusted` autodiff is right by definition, and differences are not asked.
    """

    engine: Engine
    values: Arrays
    domains: dict[int, Any]
    blackbox: bool
    budget: int
    seed: int = 0
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    trusted: bool = False

    def __post_init__(self) -> None:
        self.size = max(1, sum(v.size for v in self.values))
        self.chunk = int(np.clip(self.budget // (8 * self.size), 1, 64))
        self.samples = _NEARBY if self.size <= _LARGE else 16
        self.shapes = self.shapes or self.engine.shapes
        self.points = draw(self.engine.arguments.leaves, self.values, self.domains, self.budget, self.seed)
        self.dys = cotangents(self.shapes, self.points.kinds, self.seed + 1)
        self._evaluate()

    def _evaluate(self) -> None:
        mine = self.engine.arguments.differentiable
        self.sizes = [self.values[k].size for k in mine]
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        stacks = [self.points.stacks, self.dys]
        self.errors = np.zeros(())
        if self.blackbox:
            out = self.engine.run("values", lambda x, dy: self.engine.values(x), stacks, np.float64, self.chunk)
            self.outputs = out
            self.gradients, self.errors = self._by_differences(self.points, self.dys)
        else:
            self.outputs, grads = self.engine.run("ad", self.engine.autodiff, stacks, np.float64, self.chunk)
            self.gradients = flat(grads)
            if any(doubt for _, doubt in self.engine.cuts):
                moved = np.abs(self._in_doubt(self.engine.autodiff, *stacks) - self.gradients)
                self.errors = np.where(np.isfinite(moved), moved, 0.0).max(axis=0)
        self.ok = np.all([np.isfinite(v.reshape(len(v), -1)).all(axis=1) for v in self.outputs], axis=0)

    def _in_doubt(self, compute: Callable[..., Any], stacks: Arrays, dys: Arrays) -> np.ndarray:
        """Gradients with the constants that are in doubt moved, twice: (2, P, entries), or none of them: (0, ...)."""
        found = []
        for seed in range(2):
            moved = self.engine.shaken(compute, seed, [x[0] for x in stacks], [dy[0] for dy in dys])
            if moved is not None:
                out = self.engine.run(moved, moved, [stacks, dys], np.float64, self.chunk)
                found.append(flat(out[1] if compute == self.engine.autodiff else out))
                self.engine.forget(moved)
        return np.reshape(found, (len(found), len(stacks[0]), self.offsets[-1]))

    def entries(self, points: Points | None = None) -> np.ndarray:
        """The differentiable entries of the points, (P, entries)."""
        stacks = (points or self.points).stacks
        return flat([stacks[k] for k in self.engine.arguments.differentiable])

    def magnitude(self) -> np.ndarray:
        """The largest floating input of each point, (P,)."""
        return np.abs(flat([s for s in self.points.stacks if s.dtype.kind == "f"])).max(axis=1, initial=0.0)

    def value(self) -> np.ndarray:
        """The largest term of <dy, f> at each point, (P, 1): what can cancel in a gradient is about as large."""
        terms = [np.abs(dy * v).reshape(len(dy), -1) for dy, v in zip(self.dys, self.outputs, strict=True)]
        finite = np.concatenate([np.where(np.isfinite(t), t, 0) for t in terms], axis=1)
        return finite.max(axis=1, keepdims=True, initial=0.0)

    def where(self, entry: int) -> tuple[int, tuple[int, ...]]:
        """The number of the differentiable leaf that holds an entry, and the index within it."""
        leaf = int(np.searchsorted(self.offsets, entry, side="right") - 1)
        shape = self.values[self.engine.arguments.differentiable[leaf]].shape
        return leaf, tuple(int(i) for i in np.unravel_index(entry - self.offsets[leaf], shape))

    def given(self, compute: Callable[..., Any]) -> np.ndarray:
        """A rule's gradients at every point, (P, entries)."""
        return flat(self.engine.run(compute, compute, [self.points.stacks, self.dys], np.float64, self.chunk))

    def leaf_max(self, gradients: np.ndarray) -> np.ndarray:
        """The largest magnitude in each leaf, repeated for each of its entries: (P, entries)."""
        magnitude = np.where(np.isfinite(gradients), np.abs(gradients), 0)
        tops = [
            magnitude[:, a:b].max(axis=1, initial=0) for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True)
        ]
        return np.repeat(np.stack(tops, axis=1), self.sizes, axis=1)

    def usual(self) -> np.ndarray:
        """How large each leaf's gradient would be at each point if it were as at ordinary points: (P, entries)."""
        heights = np.max([np.abs(dy).reshape(len(dy), -1).max(axis=1, initial=0) for dy in self.dys], axis=0)
        ordinary = self.ok & (heights > 0) & [k in ("as given", "ordinary values") for k in self.points.kinds]
        if not ordinary.any():
            return np.zeros(self.gradients.shape)
        tops = self.leaf_max(self.gradients)[ordinary] / heights[ordinary, None]
        return np.median(tops, axis=0)[None] * heights[:, None]

    def tolerance(self, gradients: np.ndarray, eps: float = np.finfo(np.float64).eps) -> np.ndarray:
        """What rounding can explain, per entry; no term grows with the number of entries.

        The second term allows cancellation inside the gradient of terms as large as its largest entry, for inputs
        whose rounding is relative to the largest of them; the last, cancellation of terms as large as dy f itself.
        """
        scale = np.maximum(1.0, self.magnitude())[:, None]
        value = self.value()
        top = self.leaf_max(gradients)
        overall = top.max(axis=1, keepdims=True, initial=0.0)
        own = np.where(np.isfinite(gradients), np.abs(gradients), 0)
        return eps * (5e4 * own + 5e3 * top * scale + 4 * (overall + value) * scale) + 8 * self.errors

    def _by_differences(self, points: Points, dys: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """The gradient entry by entry from values of f alone; entries there is no room for are left undecided."""
        x = self.entries(points)
        count, total = x.shape
        limit = max(4, int(3e8 // max(1, count * self.size * 2 * LEVELS)))
        rng = np.random.default_rng(self.seed + 2)
        which = np.arange(total) if total <= limit else np.sort(rng.choice(total, limit, replace=False))
        value, error = np.full(x.shape, np.nan), np.full(x.shape, np.inf)
        where = np.broadcast_to(which, (count, len(which)))
        value[:, which], error[:, which] = self.central(points.stacks, dys, where)
        return value, error

    def central(
        self, stacks: Arrays, dys: Arrays, where: np.ndarray, least: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Differences of <dy, f> along the entries `where` (P, E) of each point, and their errors."""
        x = np.take_along_axis(flat([stacks[k] for k in self.engine.arguments.differentiable]), where, axis=1)
        h = steps(x, least=least)
        slopes, noise = self._slopes(stacks, dys, where, h)
        return extrapolate(slopes, noise, h)

    def _slopes(self, stacks: Arrays, dys: Arrays, where: np.ndarray, h: np.ndarray) -> list[np.ndarray]:
        chunk = int(np.clip(2_000_000 // (where.shape[1] * h.shape[-1] * self.size), 1, 64))
        groups = [stacks, dys, [where], [h]]
        key = f"differences {where.shape[1]} {h.shape[-1]}"
        return self.engine.run(
            key, lambda a, b, c, d: self.engine.differences(a, b, c[0], d[0]), groups, np.float64, chunk
        )

    def pick(self, stacks: Arrays, p: np.ndarray) -> Arrays:
        """The points numbered p."""
        return [s[p] for s in stacks]

    def verdicts(self, where: list[tuple[int, int]], values_only: bool = False) -> list[Verdict]:
        """Judge entries (point, entry): is f smooth there, and what is the derivative or the subdifferential?

        f is smooth where the gradients at random points very near agree; then differences give the value. Where
        they disagree there is a kink, and every value that they surround is a subgradient. With values_only
        autodiff is not asked.
        """
        if not where:
            return []
        p = np.array([w[0] for w in where])
        e = np.array([w[1] for w in where])
        if self.trusted:
            value = self.gradients[p, e]
            error = np.subtract(*self.rounding(None, where)[::-1])
        else:
            value, error = self._by_values(p, e)
        near, moves = self.nearby(p, e, not self.trusted and (values_only or self.blackbox))
        top = self.leaf_max(self.gradients[p])[np.arange(len(p)), e]
        edge = self._at_an_edge(p, e)
        verdicts = [
            verdict(near[i], moves[i], float(value[i]), float(error[i]), float(top[i]), edge[i])
            for i in range(len(where))
        ]
        return [decided(v) for v in verdicts] if self.trusted else verdicts

    def _by_values(self, p: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The slope of f along entry e of point p by differences, and its error: two (W,)."""
        stacks, dys = self.pick(self.points.stacks, p), self.pick(self.dys, p)
        value, error = self.central(stacks, dys, e[:, None])
        value, error = value[:, 0], error[:, 0]
        # Small entries next to a pole, or to where f has no value: steps of their own size stay on their side.
        x = np.abs(self.entries()[p, e])
        small = np.flatnonzero((x > 0) & (x < np.where(error <= 1e-3 * np.abs(value), 2.0**-16, 1.0)))
        if small.size:
            again = self.central(self.pick(stacks, small), self.pick(dys, small), e[small][:, None], least=1e-280)
            near, off = again[0][:, 0], again[1][:, 0]
            better = np.isfinite(near) & ~(
                off * np.abs(value[small]) >= error[small] * np.abs(near)
            )  # relative to what each finds
            value[small[better]], error[small[better]] = near[better], off[better]
        return value, error

    def _at_an_edge(self, p: np.ndarray, e: np.ndarray) -> np.ndarray:
        """Whether the entries are where their declared domain ends."""
        ends = [self.domains.get(self.engine.arguments.differentiable[self.where(int(i))[0]]) for i in e]
        x = self.entries()[p, e]
        return np.array([isinstance(d, tuple) and v in d for d, v in zip(ends, x, strict=True)])

    def rounding(
        self, compute: Callable[..., Any] | None, where: list[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest value of the rule at each (point, entry) when its inputs are rounded differently.

        Every input but zeros moves, so that a value wrong at one point only is not taken for the rule's rounding; and
        its constants, where they are in doubt. Without a rule it is autodiff that is asked.
        """
        if not where:
            return np.zeros(0), np.zeros(0)
        rng = np.random.default_rng(self.seed + 4)
        p = np.repeat([w[0] for w in where], _SHAKEN)
        stacks, dys = (
            [x * (1 + 2.0**-51 * rng.choice([-2, -1, 1, 2], x.shape)) if x.dtype.kind == "f" else x for x in group]
            for group in (self.pick(self.points.stacks, p), self.pick(self.dys, p))
        )
        if compute is None:
            found = flat(self.engine.run("ad", self.engine.autodiff, [stacks, dys], np.float64, self.chunk)[1])[None]
        else:
            found = flat(self.engine.run(compute, compute, [stacks, dys], np.float64, self.chunk))[None]
            found = np.concatenate([found, self._in_doubt(compute, stacks, dys)])
        mine = found[:, np.arange(len(p)), np.repeat([w[1] for w in where], _SHAKEN)]
        mine = mine.reshape(len(found), len(where), _SHAKEN)
        low, high = np.fmin.reduce(mine, axis=(0, 2)), np.fmax.reduce(mine, axis=(0, 2))
        finite = np.isfinite(low) & np.isfinite(high)
        return np.where(finite, low, 0.0), np.where(finite, high, 0.0)

    def nearby(self, p: np.ndarray, e: np.ndarray, values_only: bool) -> tuple[np.ndarray, np.ndarray]:
        """The gradient of entry e at random points very near to p, and how far the entry was moved: two (W, S)."""
        if values_only:
            stacks, dys, moves = self._moved(p, 2.0**-14)
            where = np.repeat(e, self.samples)[:, None]
            # Well inside the moves, which are relative to the entry (for zeros: to the largest of its leaf).
            h = np.maximum(np.abs(np.stack([moves[i][:, e[i]] for i in range(len(p))])).reshape(-1, 1), 1e-300) / 64
            # For small arrays a step as often as there are levels, to run the program that is compiled already.
            many = np.repeat(h[..., None], LEVELS if self.size <= _SMALL else 1, axis=-1)
            near, noise = (v[:, 0, 0].reshape(len(p), -1) for v in self._slopes(stacks, dys, where, many))
            # Slopes lost in the rounding of f say nothing.
            top = 0.01 * self.leaf_max(self.gradients[p])[np.arange(len(p)), e][:, None]
            near = np.where(noise > 0.02 * np.maximum(np.abs(near), top), np.nan, near)
        elif self.size > _LARGE:
            # Only the entry asked for comes back: whole gradients of large arrays would take the time.
            stacks, dys, moves = self._moved(p, 2.0**-26)
            groups = [stacks, dys, [np.repeat(e, self.samples)]]

            def entry(x: list[Any], dy: list[Any], i: list[Any]) -> Any:
                return jnp.concatenate([jnp.ravel(g) for g in self.engine.autodiff(x, dy)[1]])[i[0]]

            near = self.engine.run("ad entry", entry, groups, np.float64, self.chunk).reshape(len(p), self.samples)
        else:
            near, moves = self.nearby_all(p)
            near = np.stack([near[i][:, e[i]] for i in range(len(p))])
        return near, np.stack([moves[i][:, e[i]] for i in range(len(p))])

    def nearby_all(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every entry's gradient by autodiff at random points very near to p, and the moves: (W, S, entries) twice."""
        stacks, dys, moves = self._moved(p, 2.0**-26)
        values, grads = self.engine.run("ad", self.engine.autodiff, [stacks, dys], np.float64, self.chunk)
        near = flat(grads).reshape(len(p), self.samples, -1)
        outside = ~np.isfinite(flat(values)).all(axis=1).reshape(len(p), self.samples)
        # Beyond the edge of the domain a gradient may be any number, where some of the points are within.
        outside &= outside.mean(axis=1, keepdims=True) < 7 / 8
        near[outside] = np.nan
        return near, moves

    def _moved(self, p: np.ndarray, width: float) -> tuple[Arrays, Arrays, np.ndarray]:
        rng = np.random.default_rng(self.seed + 3)
        repeat = np.repeat(p, self.samples)
        stacks, dys = self.pick(self.points.stacks, repeat), self.pick(self.dys, repeat)
        moves = []
        for k in self.engine.arguments.differentiable:
            x = stacks[k]
            # Relative to each entry, so that small entries stay small; zeros move on the scale of their neighbours.
            top = np.abs(x).reshape(len(x), -1).max(axis=1, initial=0).reshape((-1,) + (1,) * (x.ndim - 1))
            scale = np.where(x == 0, np.where(top == 0, 1.0, top), np.abs(x))
            delta = scale * width * rng.uniform(0.3, 1.0, x.shape) * rng.choice([-1.0, 1.0], x.shape)
            domain = self.domains.get(k)
            if isinstance(domain, tuple):  # where a move would leave the domain it goes the other way
                delta = np.where((x + delta < domain[0]) | (x + delta > domain[1]), -delta, delta)
            # The second half much nearer: there the gradients of a smooth function agree better, at a kink they do not.
            delta[np.arange(len(delta)) % self.samples >= self.samples // 2] /= 32
            stacks[k] = x + delta
            moves.append(delta)
        return stacks, dys, flat(moves).reshape(len(p), self.samples, -1)
