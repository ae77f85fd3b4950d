"""Tests of single hypotheses: is the wrong gradient the right one with this one mistake in it?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Case", "elementwise_causes", "factor_name", "some_entries", "structural_causes", "threshold_causes"]


@dataclass
class Case:
    """One point: the gradient given and the true one, the inputs, outputs, cotangents, and the other gradients."""

    given: np.ndarray
    truth: np.ndarray
    inputs: dict[str, np.ndarray]
    outputs: list[np.ndarray]
    dys: list[np.ndarray]
    others: dict[str, np.ndarray]
    name: str
    tolerance: float

    def equal(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether x and y agree up to the tolerance of the largest entry."""
        if x.shape != y.shape:
            return False
        top = max(np.abs(x).max(initial=0.0), np.abs(y).max(initial=0.0))
        return bool(np.all(np.abs(x - y) <= self.tolerance * top))

    @property
    def wrong(self) -> np.ndarray:
        """The entries that differ."""
        top = np.abs(self.truth).max(initial=0.0)
        # Relative to the entry: small errors of small entries count too.
        return np.abs(self.given - self.truth) > 1e-10 * np.abs(self.truth) + 1e-11 * top


def factor_name(c: float, sizes: Sequence[int]) -> str:
    """A factor in words: `2`, `1/8 (an axis of size 8: a mean for a sum)`, `1.01`."""
    for n in range(2, 5):
        if abs(c - 1 / n) < 1e-6 and n not in sizes:
            return f"1/{n}"
    for n in sizes:
        if abs(c * n - 1) < 1e-6:
            return f"1/{n} (an axis has size {n} too)" if n == 2 else f"1/{n} (an axis has size {n}: a mean for a sum)"
        if abs(c / n - 1) < 1e-6:
            return f"{n} (an axis has size {n}: a sum for a mean)" if n > 4 else f"{n} (an axis has size {n} too)"
    product = int(np.prod(sizes)) if sizes else 0
    if product and abs(c * product - 1) < 1e-6:
        return f"1/{product} (the number of entries: a mean for a sum)"
    if product and abs(c / product - 1) < 1e-6:
        return f"{product} (the number of entries: a sum for a mean)"
    for n, m in itertools.permutations(sizes, 2):
        if abs(c * m / n - 1) < 1e-6:
            return f"{n}/{m} (axes have these sizes: one for the other?)"
    return f"{c:.9g}"


def elementwise_causes(cases: list[Case], sizes: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Missing, a constant factor, some entries only, an added term, rounding."""
    if all(not c.given.any() for c in cases):
        yield "zero", "the gradient is zero everywhere: missing, None, or multiplied by 0"
        return
    factors = [_factor(c) for c in cases]
    known = [f for f in factors if f is not None]
    if len(known) == len(factors) and np.ptp(known) <= 1e-5 * abs(known[0]) and (len(known) > 1 or cases[0].given.size):
        c = known[0]
        if abs(c + 1) < 1e-6:
            yield "sign", "the sign is flipped"
        elif c < 0:
            yield "sign", f"the sign is flipped, and there is a factor of {factor_name(-c, sizes)}"
        else:
            yield "factor", f"a constant factor of {factor_name(c, sizes)}"
        return
    yield from _swapped(cases)
    yield from some_entries(cases, few=True)
    yield from _added(cases)
    for text, dtype in (("float16", np.float16), ("float32", np.float32)):
        if all(_rounded_to(c, dtype) for c in cases):
            yield "precision", f"rounded to {text} on the way"
            return
    if all(_rounded_to_bfloat16(c) for c in cases):
        yield "precision", "rounded to bfloat16 on the way"
        return
    if all(c.equal(np.abs(c.given), np.abs(c.truth)) for c in cases):
        absolute = all((c.given >= 0).all() for c in cases)
        yield "sign", "the absolute value of the gradient" if absolute else "the sign of some entries is flipped"


def _factor(c: Case) -> float | None:
    """c with given = c truth, entry by entry."""
    power = float((c.truth * c.truth).sum())
    if power == 0:
        return None
    f = float((c.given * c.truth).sum() / power)
    exact = np.abs(c.given - f * c.truth) <= 1e-3 * abs(f - 1) * np.abs(c.truth) + 1e-13 * np.abs(c.truth).max()
    return f if exact.all() and f != 0 else None


def _swapped(cases: list[Case]) -> Iterator[tuple[str, str]]:
    for other in cases[0].others:
        if all(c.equal(c.given, c.others[other]) for c in cases):
            yield "swapped", f"this is the gradient of {other}, in the place of that of {cases[0].name}"
            return
    ndim = cases[0].given.ndim
    moves: list[tuple[str, str, Callable[[np.ndarray], np.ndarray]]] = []
    if ndim >= 2:
        moves.append(("transposed", "the last two axes are transposed", lambda t: np.swapaxes(t, -1, -2)))
        moves.append(("transposed", "the entries are in transposed order",
                      lambda t: np.swapaxes(t, -1, -2).reshape(t.shape)))  # fmt: skip
    for axis in range(ndim):
        for k in (1, -1):
            moves.append(("rolled", f"rolled by {k} along axis {axis}", lambda t, k=k, axis=axis: np.roll(t, k, axis)))
        moves.append(("reversed", f"reversed along axis {axis}", lambda t, axis=axis: np.flip(t, axis)))
    moves.append(("reversed", "reversed", lambda t: t.ravel()[::-1].reshape(t.shape)))
    for cause, text, move in moves:
        if all(not c.equal(move(c.truth), c.truth) and c.equal(c.given, move(c.truth)) for c in cases):
            yield cause, text
            return


def some_entries(cases: list[Case], few: bool) -> Iterator[tuple[str, str]]:
    """Only some entries are wrong; with `few`, at most a quarter of them or one slice."""
    masks = [c.wrong for c in cases]
    union = np.any(masks, axis=0)
    if not union.any() or union.all() or union.size < 2:
        return
    where = np.argwhere(union)
    slices = any(np.ptp(where[:, a]) == 0 for a in range(where.shape[1])) and union.ndim > 1
    if few and len(where) > max(1, union.size // 4) and not slices:
        return
    zero = all(not c.given[m].any() for c, m in zip(cases, masks, strict=True))
    ratios = np.concatenate([(c.given[m] / c.truth[m]).ravel() for c, m in zip(cases, masks, strict=True)])
    how = "given as 0"
    if not zero:
        same = ratios.size and np.isfinite(ratios).all() and np.ptp(ratios) <= 1e-5 * np.abs(ratios).max()
        how = f"multiplied by {factor_name(float(ratios[0]), [])}" if same else "wrong"
        gaps = np.concatenate([(c.given - c.truth)[m] for c, m in zip(cases, masks, strict=True)])
        if not same and np.ptp(gaps) <= 1e-6 * np.abs(gaps).max():
            how = f"off by {gaps[0]:.6g}"
    fixed = [(a, int(where[0][a])) for a in range(where.shape[1]) if np.ptp(where[:, a]) == 0]
    if len(where) == 1:
        text = f"only entry [{','.join(map(str, where[0]))}] is {how}"
    elif fixed and union.ndim > 1 and union.size > len(where):
        axis, at = fixed[0]
        text = f"only index {at} along axis {axis} is {how}"
    elif len(right := np.argwhere(~union)) and (kept := _slice(right, union.shape)):
        text = f"only index {kept[1]} along axis {kept[0]} is right"
    elif not few and any((m != union).any() for m in masks):
        text = "some entries are wrong, and others at other points"
    else:
        shown = " ".join(f"[{','.join(map(str, w))}]" for w in where[:4])
        text = f"only {len(where)} of {union.size} entries are {how}: {shown}{' ...' if len(where) > 4 else ''}"
    yield "entries", text


def threshold_causes(cases: list[Case]) -> Iterator[tuple[str, str]]:
    """Wrong only where the argument, or its magnitude, is on one side of a value, by one factor perhaps."""
    name = cases[0].name
    x, given, truth, wrong = (
        np.concatenate([np.ravel(v) for v in group])
        for group in zip(*[(c.inputs[name], c.given, c.truth, c.wrong) for c in cases], strict=True)
    )
    if min(wrong.sum(), (~wrong).sum()) < 5:
        return  # so few may lie apart by chance
    ratios = given[wrong] / truth[wrong]
    how = "wrong only"
    if not given[wrong].any():
        how = "given as 0"
    elif np.isfinite(ratios).all() and np.ptp(ratios) <= 1e-5 * np.abs(ratios).max():
        how = f"wrong by a factor of {factor_name(float(ratios[0]), [])}"
    for text, y in ((name, x), (f"abs({name})", np.abs(x))):
        (least, most), (lower, upper) = ((v.min(), v.max()) for v in (y[wrong], y[~wrong]))
        if most < lower:
            where = f"{text} is negative" if most < 0 <= lower else f"{text} < {lower:.4g}"
        elif upper < least:
            where = f"{text} is positive" if upper <= 0 < least else f"{text} > {upper:.4g}"
        else:
            continue
        yield "region", f"{how} where {where}"
        return


def _slice(where: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The axis and the index if these entries are all that have it."""
    for axis in range(len(shape) if len(shape) > 1 else 0):
        if np.ptp(where[:, axis]) == 0 and len(where) * shape[axis] == int(np.prod(shape)):
            return axis, int(where[0][axis])
    return None


def _rounded_to(c: Case, dtype: type) -> bool:
    """Whether the relative error of the entries is of the size of one or two roundings to dtype, and no larger."""
    info = np.finfo(dtype)
    eps, tiny = float(info.eps), float(info.tiny)
    if not c.truth.any():
        return False
    if c.equal(c.given, c.truth.astype(dtype).astype(np.float64)):
        return True
    gap = np.abs(c.given - c.truth)
    keep = np.abs(c.truth) > 1e3 * tiny
    keep = keep if keep.any() else c.truth != 0  # where a residual was rounded a small gradient keeps its digits
    relative = gap[keep] / np.abs(c.truth[keep])
    top = gap.max() / np.abs(c.truth).max()
    most = 0.7 if dtype is np.float16 else 4  # beyond it is what bfloat16 does, which has an eighth of the digits
    return bool(np.median(relative) > eps / 64 and top < 4 * eps and np.median(relative) < most * eps)


def _rounded_to_bfloat16(c: Case) -> bool:
    top = np.abs(c.truth).max(initial=0.0)
    error = np.abs(c.given - c.truth).max(initial=0.0)
    return bool(2.0**-14 * top < error < 2.0**-7 * top)


def _added(cases: list[Case]) -> Iterator[tuple[str, str]]:
    """given = truth + c, or + c times an argument, an output or a cotangent of the same shape."""
    if all(not c.truth.any() for c in cases):
        yield (
            "added",
            (
                "f is constant around every point, so far as autodiff tells; if the gradient of another is meant "
                "(straight through), examine that one: x + stop_gradient(f(x) - x), say, with reference='autodiff'"
            ),
        )
        return
    gaps = [c.given - c.truth for c in cases]
    sizes = [np.abs(g).max(initial=0.0) for g in gaps]
    if min(sizes) == 0:
        return
    first = float(gaps[0].flat[0])
    if first and all(np.abs(g - first).max() <= 1e-5 * abs(first) for g in gaps):
        yield "offset", f"a constant {first:.6g} is added"
        return
    for name in cases[0].inputs:
        terms = [c.inputs[name] for c in cases]
        factor = _same_multiple(gaps, terms)
        if factor is not None:
            own = name == cases[0].name
            why = ": the gradient of a regulariser that f does not have" if own else ""
            yield "added", f"{factor:.6g} times {name} is added{why}"
            return
    for i in range(len(cases[0].outputs)):
        for what, terms in (
            ("the output", [c.outputs[i] for c in cases]),
            ("the cotangent", [c.dys[i] for c in cases]),
        ):
            factor = _same_multiple(gaps, terms)
            if factor is not None:
                yield "added", f"{factor:.6g} times {what} is added"
                return


def _same_multiple(gaps: list[np.ndarray], terms: list[np.ndarray]) -> float | None:
    factors = []
    for g, x in zip(gaps, terms, strict=True):
        power = float((x * x).sum())
        if x.shape != g.shape or power == 0:
            return None
        f = float((g * x).sum() / power)
        if np.abs(g - f * x).max() > 1e-5 * np.abs(g).max():
            return None
        factors.append(f)
    return factors[0] if factors and np.ptp(factors) <= 1e-5 * abs(factors[0]) else None


def _fitted(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """x in this shape: as it is, or with one entry for each of the first axes or of the last; else None."""
    if not x.ndim or len(shape) < x.ndim:
        return None
    if x.shape == shape[: x.ndim]:
        return np.broadcast_to(x.reshape(x.shape + (1,) * (len(shape) - x.ndim)), shape)
    return np.broadcast_to(x, shape) if x.shape == shape[-x.ndim :] else None


def structural_causes(cases: list[Case]) -> Iterator[tuple[str, str]]:
    """A sum or mean along one axis too many or too few, a factor that is missing or there twice."""
    ndim = cases[0].given.ndim
    for axis in range(ndim):
        n = cases[0].given.shape[axis]
        if n == 1:
            continue
        for text, change in (
            (f"averaged over axis {axis}", lambda t, a=axis: np.broadcast_to(t.mean(a, keepdims=True), t.shape)),
            (f"summed over axis {axis}", lambda t, a=axis: np.broadcast_to(t.sum(a, keepdims=True), t.shape)),
            (f"the first slice along axis {axis} is used for all",
             lambda t, a=axis: np.broadcast_to(t.take([0], a), t.shape)),
            (f"the mean over axis {axis} is subtracted", lambda t, a=axis: t - t.mean(a, keepdims=True)),
        ):  # fmt: skip
            if all(c.equal(c.given, change(c.truth)) for c in cases):
                yield "axis", text
                return
    for name in cases[0].inputs:
        for text, change in (
            (f"a factor {name} is missing", lambda c, x: c.given * x),
            (f"a factor {name} too many", lambda c, x: c.given / x),
        ):
            if all((x := _fitted(c.inputs[name], c.given.shape)) is not None
                   and c.equal(np.nan_to_num(change(c, x)), c.truth) for c in cases):  # fmt: skip
                yield "factor", text
                return
    for axis in range(ndim):
        gaps = [c.given - c.truth for c in cases]
        if cases[0].given.shape[axis] > 1 and all(
            np.abs(g - g.mean(axis, keepdims=True)).max() <= 1e-7 * np.abs(g).max() for g in gaps
        ):
            yield "term", f"a term that is constant along axis {axis} is wrong or missing (a sum or mean over it)"
            return
    for i in range(len(cases[0].outputs)):
        if all(c.outputs[i].shape == c.given.shape for c in cases):
            for axis in range(ndim):
                ratios = []
                for c in cases:
                    ratios.append((c.given - c.truth) / c.outputs[i])
                if cases[0].given.shape[axis] > 1 and all(
                    np.isfinite(r).all() and np.ptp(r, axis=axis).max() <= 1e-6 * np.abs(r).max() for r in ratios
                ):
                    yield "term", f"a multiple of the output along axis {axis} is wrong or missing (the sum over it)"
                    return
