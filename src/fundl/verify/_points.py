"""Where to look: points chosen to expose wrong gradients, not one random draw."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fundl.verify._arguments import Leaf

__all__ = ["UNEQUAL", "Domain", "Points", "cotangents", "draw", "guess_domain", "project", "resized"]

Domain = str | tuple[float, float] | Callable[[np.ndarray], Any]
UNEQUAL = "sizes that are equal here made unequal"
_WORDS = ("positive", "probability", "simplex", "fixed")


@dataclass
class Points:
    """P points: per leaf one array (P, *shape), per point a word for the kind of point it is."""

    kinds: list[str]
    stacks: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.kinds)


def project(domain: Domain | None, x: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The points x moved into the domain of the function."""
    if domain is None:
        return x
    if callable(domain):
        return np.asarray(domain(x), dtype=x.dtype).reshape(x.shape)
    if domain == "fixed":
        return np.broadcast_to(base.astype(x.dtype), x.shape).copy()
    if domain == "positive":
        return np.where(x == 0, 1e-3, np.abs(x))
    if domain == "simplex":
        p = np.abs(x) + 1e-3
        return p / p.sum(axis=-1, keepdims=True)
    if domain == "probability":
        domain = (2.0**-10, 1 - 2.0**-10)
    if isinstance(domain, tuple) and len(domain) == 2:
        lo, hi = domain
        if not lo < hi:
            raise ValueError(f"domain must be a pair (low, high) with low < high; got {domain}.")
        if np.isinf(hi) and np.isfinite(lo):
            return np.where(x > lo, x, lo + np.abs(x - lo))
        if np.isinf(lo) and np.isfinite(hi):
            return np.where(x < hi, x, hi - np.abs(x - hi))
        return np.where((x >= lo) & (x <= hi), x, lo + np.mod(x * 0.37 - lo, hi - lo))
    raise ValueError(f"domain must be one of {_WORDS}, a pair (low, high) or a function of an array; got {domain!r}.")


def guess_domain(leaf: Leaf) -> Domain | None:
    """The narrowest usual domain that contains the values given: tried where f has no value elsewhere."""
    x = leaf.value
    if x.size == 0:
        return None
    if x.ndim and np.all(x >= 0) and np.allclose(x.sum(axis=-1), 1):
        return "simplex"
    if np.all((x >= 0) & (x <= 1)):
        return "probability"
    return "positive" if np.all(x > 0) else None


def draw(
    leaves: Sequence[Leaf], values: Sequence[np.ndarray], domains: dict[int, Domain], budget: int, seed: int = 0
) -> Points:
    """Points around and far from the values given, about `budget` array entries in all.

    Integer and boolean leaves keep the values given or draw from their range, which labels never leave.
    """
    rng = np.random.default_rng(seed)
    floats = [k for k, leaf in enumerate(leaves) if leaf.floating]
    size = max(1, sum(values[k].size for k in range(len(leaves))))
    room = int(max(6, min(320, budget // size)))
    kinds: list[str] = []
    recipes: list[tuple[Callable[[int], np.ndarray], bool]] = []

    def add(kind: str, make: Callable[[int], np.ndarray], keep_integers: bool = True) -> None:
        kinds.append(kind)
        recipes.append((make, keep_integers))

    def made(i: int) -> list[np.ndarray]:
        make, keep_integers = recipes[i]
        row = []
        for k, v in enumerate(values):
            if k in floats:
                x = np.asarray(make(k), dtype=np.float64).reshape(v.shape)
                # Exact in float32, so that the same points serve both precisions.
                x = x if kinds[i] == "as given" else x.astype(np.float32).astype(np.float64)
                row.append(project(domains.get(k), x, v) if kinds[i] != "as given" else x)
            else:
                row.append(v if keep_integers or v.size == 0 else _labels(v, rng))
        return row

    def normal(k: int) -> np.ndarray:
        return rng.standard_normal(values[k].shape)

    def integers(k: int) -> np.ndarray:
        return rng.integers(-2, 3, values[k].shape).astype(float)

    for _ in range(2):
        add("as given", lambda k: values[k])
    add("ordinary values", lambda k: values[k] + 0.3 * normal(k))
    add("ordinary values", normal, False)
    for j in floats:
        add(f"{leaves[j].name} all zero", lambda k, j=j: np.zeros(values[k].shape) if k == j else normal(k))
    add("all zeros", lambda k: np.zeros(values[k].shape))
    # Extremes first: with large arrays there is room only for the head of this list.
    for c in (30.0, 1e3, -30.0, 8.0, -1e3, 1e4, -4.0, 4.0, -14.0, 14.0):
        sign = "positive" if c > 0 else "negative"
        add(f"all about {c:g}", lambda k, c=c: c + normal(k), False)
        add(f"saturated, {sign}", lambda k, c=c: np.full(values[k].shape, c))
        add(f"spread over ±{abs(c):g}", lambda k, c=c: c * rng.uniform(-1, 1, values[k].shape))
    for j in floats:
        for c in (30.0, 1e3, -1e3, -30.0, 8.0):
            add(
                f"{leaves[j].name} at {c:g}",
                lambda k, j=j, c=c: c * np.sign(normal(k)) + normal(k) if k == j else normal(k),
            )
    for c in (1e-6, 1e-3, 1e3, 1e6, 1e-12):
        add(f"scaled by {c:g}", lambda k, c=c: c * normal(k))
    for _ in range(6):
        add("small integers, with ties and zeros", integers, False)
    for c in (0.0, 0.5, 1.0, -1.0, -0.5, 2.0, -3.0):
        add(f"arguments differ by {c:g}", _equal_leaves(values, floats, rng, c))
        add(f"all equal to {c:g}", lambda k, c=c: np.full(values[k].shape, c))
    for _ in range(4):
        add("one zero entry", lambda k: _one_zero(normal(k), rng))
        add("ordinary values", normal, False)
    rest = max(0, room - len(kinds))
    for i in range(rest):
        add("random magnitudes, zeros and ties", _fuzz(values, rng), i % 2 == 0)
    # With little room keep a spread over the kinds rather than only the first ones.
    keep = range(len(kinds)) if room >= len(kinds) else _spread(kinds, room)
    rows = [made(i) for i in keep]  # only those, since all of them would be many times as large as the input
    return Points([kinds[i] for i in keep], [np.stack(column) for column in zip(*rows, strict=True)])


def _labels(v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Integers between the smallest and the largest given; booleans and signed codes only as they occur."""
    if v.dtype.kind == "b" or v.min() < 0:
        return rng.choice(v.ravel(), v.shape)
    return rng.integers(int(v.min()), int(v.max()) + 1, v.shape).astype(v.dtype)


def _spread(kinds: list[str], room: int) -> list[int]:
    """The first of every kind, in order, until there is no room."""
    first = sorted({kind: i for i, kind in reversed(list(enumerate(kinds)))}.values())
    return first[:room]


def _one_zero(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if x.size:
        x.flat[rng.integers(x.size)] = 0.0
    return x


def _equal_leaves(
    values: Sequence[np.ndarray], floats: list[int], rng: np.random.Generator, gap: float
) -> Callable[[int], np.ndarray]:
    """Leaves of one shape made equal up to a gap, where absolute differences and hinges have their kinks."""
    shared: dict[tuple[int, ...], np.ndarray] = {}

    def make(k: int) -> np.ndarray:
        shape = values[k].shape
        if shape not in shared:
            shared[shape] = np.round(rng.standard_normal(shape) * 4) / 4
            return shared[shape]
        return shared[shape] + gap

    return make


def _fuzz(values: Sequence[np.ndarray], rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Entries of log-uniform magnitude, some zero, some tied; per leaf its own overall scale."""

    def make(k: int) -> np.ndarray:
        shape = values[k].shape
        top = rng.choice([0.5, 1.0, 2.0, 4.0])
        x = np.sign(rng.standard_normal(shape)) * 10 ** rng.uniform(-3, top, shape)
        style = rng.integers(5)
        if style == 1:
            x = np.where(rng.random(shape) < 0.3, 0.0, x)
        elif style == 2 and x.size:
            x = np.where(rng.random(shape) < 0.4, rng.choice(x.ravel()), x)
        elif style == 3:
            x = np.abs(x) * rng.choice([-1.0, 1.0])
        elif style == 4:
            x = x * 10 ** rng.uniform(-2, 2)
        return x

    return make


def cotangents(shapes: Sequence[tuple[int, ...]], kinds: Sequence[str], seed: int = 1) -> list[np.ndarray]:
    """One cotangent per point and output: random in sign and magnitude, sometimes zero or huge.

    Never ones and never only unit vectors: a rule that takes the absolute value or the mean would pass those.
    """
    rng = np.random.default_rng(seed)
    count = len(kinds)
    out = []
    for shape in shapes:
        dy = np.sign(rng.standard_normal((count, *shape))) * rng.uniform(0.5, 1.5, (count, *shape))
        dy *= 10.0 ** rng.integers(-1, 2, (count, *shape))
        overall = np.ones(count)
        overall[3::16], overall[11::16] = 1e6, 1e-6
        dy *= overall.reshape((count,) + (1,) * len(shape))
        if count > 4:
            dy[2] = 0.0
        out.append(dy.astype(np.float32).astype(np.float64))
    return out


def resized(leaves: Sequence[Leaf], accepts: Callable[[list[np.ndarray]], bool]) -> list[tuple[str, list[np.ndarray]]]:
    """Values of other shapes that f accepts: one example, another batch size, other widths, equal sizes made unequal.

    A size is changed everywhere it occurs; where f refuses that, only along the first leaf that has it. Integer
    leaves repeat the values given, so a size that they index is never made smaller.
    """
    floats = [leaf for leaf in leaves if leaf.floating]
    sizes = sorted({s for leaf in floats for s in leaf.value.shape if s > 0})
    top = max((int(leaf.value.max()) for leaf in leaves if not leaf.floating and leaf.value.size), default=-1)
    batch = next((leaf.value.shape[0] for leaf in floats if leaf.value.ndim), None)
    found: list[tuple[str, list[np.ndarray]]] = []

    def attempt(text: str, change: Callable[[int, int, int], int]) -> bool:
        sizes = {(k, a): change(k, a, s) for k, leaf in enumerate(leaves) for a, s in enumerate(leaf.value.shape)}
        values = _resized(leaves, sizes)
        same = all(v.shape == leaf.value.shape for v, leaf in zip(values, leaves, strict=True))
        if same or not accepts(values):
            return False
        found.append((text, values))
        return True

    # Every size at once, each by a different amount: no transpose fits any more.
    grown = attempt("other sizes", lambda k, a, s: s + 1 + 2 * sizes.index(s) if s in sizes else s)
    if batch is not None:
        counted = any(batch in leaf.value.shape for leaf in leaves if not leaf.floating)
        smaller = batch > 1 and (top < 1 or counted)
        first = next(k for k, leaf in enumerate(leaves) if leaf.floating and leaf.value.ndim)
        for only_first in (False, True):

            def change(k: int, a: int, s: int, new: int, only_first: bool = only_first) -> int:
                return new if s == batch and (not only_first or (k, a) == (first, 0)) else s

            # A size of 1 broadcasts against anything, so it proves nothing of a function that takes no other size.
            if not grown and not attempt(
                f"shapes with {batch + 3} in place of {batch}", partial(change, new=batch + 3)
            ):
                continue
            if smaller and attempt(f"shapes with 1 in place of {batch}", partial(change, new=1)):
                break
    apart = _apart(leaves, lambda sizes: accepts(_resized(leaves, sizes)))
    for some in (apart, apart[:1]):
        grown_apart = _unequal(leaves, some)
        if some and attempt(UNEQUAL, lambda k, a, s, new=grown_apart: new.get((k, a), s)):
            break
    return found


def _resized(leaves: Sequence[Leaf], sizes: dict[tuple[int, int], int]) -> list[np.ndarray]:
    """The values with these sizes at (leaf, axis)."""
    return [_resize(leaf, [sizes.get((k, a), s) for a, s in enumerate(leaf.value.shape)])
            for k, leaf in enumerate(leaves)]  # fmt: skip


def _apart(
    leaves: Sequence[Leaf], accepts: Callable[[dict[tuple[int, int], int]], bool], tries: int = 24
) -> list[tuple[tuple[int, int], ...]]:
    """The axes (leaf, axis), alone or two together, that f lets differ from others that have the same size here."""
    axes = [(k, a, s) for k, leaf in enumerate(leaves) for a, s in enumerate(leaf.value.shape) if s > 1]
    found: list[tuple[tuple[int, int], ...]] = []
    for size in sorted({s for _, _, s in axes}):
        rest = [(k, a) for k, a, s in axes if s == size]
        for count in (1, 2):
            for group in itertools.combinations(tuple(rest), count):
                if len(rest) <= count or tries == 0:
                    break
                if set(group) <= set(rest):
                    tries -= 1
                    if accepts(dict.fromkeys(group, size + 2)):
                        found.append(group)
                        rest = [axis for axis in rest if axis not in group]
    return found


def _unequal(leaves: Sequence[Leaf], groups: Sequence[tuple[tuple[int, int], ...]]) -> dict[tuple[int, int], int]:
    """A size for each group that is larger than its own and that nothing else has."""
    used = {s for leaf in leaves for s in leaf.value.shape}
    sizes: dict[tuple[int, int], int] = {}
    for group in groups:
        k, a = group[0]
        new = next(n for n in itertools.count(leaves[k].value.shape[a] + 1) if n not in used)
        used.add(new)
        sizes.update(dict.fromkeys(group, new))
    return sizes


def _resize(leaf: Leaf, shape: list[int]) -> np.ndarray:
    x = leaf.value
    if list(x.shape) == shape or x.size == 0:
        return x
    if not leaf.floating and int(np.prod(shape)) < x.size:
        return np.sort(x, axis=None)[: int(np.prod(shape))].reshape(shape)
    return np.resize(x, shape)
