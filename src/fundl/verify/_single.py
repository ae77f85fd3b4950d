"""Float32 and half precision: the rule against its own float64 shadow, which has been judged already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fundl.verify._engine import Engine
from fundl.verify._judges import Bench, flat
from fundl.verify._report import Failure

__all__ = ["FAINT", "check_float32", "check_half"]

FAINT = 8  # units of rounding of a gradient of usual size: a smaller error is no fault where the gradient is nearly 0
_EPS = float(np.finfo(np.float32).eps)


def check_float32(engine: Engine, bench: Bench, compute: Callable[..., Any], notes: list[str]) -> list[Failure]:
    """The rule in float32 at the points that float32 holds exactly.

    Allowed: 64 units of rounding of the entry, a few of a gradient of usual size, 64 times what rounding the inputs
    moves it, and 16 times the error that autodiff makes in float32 at the same point. Comparing with the rule's own
    shadow keeps kinks out of it. Where f casts to a coarser dtype inside, that is the unit.
    """
    eps = max(_EPS, engine.inside_eps)
    exact = [flat(group) for group in (bench.points.stacks, bench.dys)]
    keep = bench.ok & np.all([(x == x.astype(np.float32)).all(axis=1) for x in exact], axis=0)
    if bench.blackbox:
        # Without autodiff nothing tells how much float32 can know at extreme points.
        keep &= np.array([kind in ("as given", "ordinary values") for kind in bench.points.kinds])
    outputs = flat(bench.outputs)
    keep &= (np.abs(outputs) < 1e30).all(axis=1)
    p = np.flatnonzero(keep)
    if not p.size:
        return []
    stacks, dys = bench.pick(bench.points.stacks, p), bench.pick(bench.dys, p)

    def in_dtype(x: list[np.ndarray], dy: list[np.ndarray], dtype: Any) -> np.ndarray:
        return flat(engine.run(compute, compute, [x, dy], dtype, bench.chunk)).astype(np.float64)

    try:
        if bench.blackbox:
            values = engine.run("v32", lambda x, dy: engine.values(x), [stacks, dys], np.float32, bench.chunk)
            auto = None
        else:
            values, auto = engine.run("ad", engine.autodiff, [stacks, dys], np.float32, bench.chunk)
        single = in_dtype(stacks, dys, np.float32)
    except Exception as error:  # float64-only rules exist; say so rather than fail
        notes.append(f"not checked in float32: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        return []
    shadow = in_dtype(stacks, dys, np.float64)
    moved, shaken = np.zeros(shadow.shape), np.zeros(shadow.shape)
    for seed in range(2):
        x, dy = _rounded(stacks, seed, eps), _rounded(dys, 10 + seed, eps)
        moved = np.fmax(moved, np.abs(in_dtype(x, dy, np.float64) - shadow))
        shaken = np.fmax(shaken, np.abs(in_dtype(_rounded(stacks, 20 + seed, 8 * eps), dys, np.float64) - shadow))
    rival, rival_finite = np.zeros(shadow.shape), np.ones(shadow.shape, bool)
    if auto is not None:
        auto = flat(auto).astype(np.float64)
        rival_finite = np.isfinite(auto)
        rival = np.abs(auto - bench.gradients[p])
    top = bench.leaf_max(shadow)
    scale = np.maximum(1.0, bench.magnitude()[p])[:, None]
    # What rounding f itself hides: terms as large as f may cancel inside its gradient.
    value = bench.value()[p] * np.maximum(16, 4 * scale)
    allowed = eps * value + eps * (64 * np.abs(shadow) + 16 * top * scale) + 64 * moved + 16 * rival
    allowed += FAINT * eps * bench.usual()[p]
    # Gradients below the smallest float32 are flushed to zero, and so may be the terms they are made of.
    allowed += 1e-37 * np.maximum(1.0, scale)
    finite = np.all(np.isfinite(flat(values)), axis=1)[:, None] & np.isfinite(shadow) & rival_finite
    # Where a few roundings of the inputs change the leaf's gradient by more than a part in a thousand, float32 has
    # nothing to say (logits of 1e6, say); neither rule nor autodiff is to blame.
    reach = np.maximum(top, 1e-30)
    tame = (bench.leaf_max(np.maximum(shaken, rival)) <= 1e-3 * reach) | (top == 0) & (shaken == 0)
    off = tame & finite & ~(np.abs(single - shadow) <= allowed) & (np.abs(shadow) < 1e30)
    failures = []
    rows = np.flatnonzero(off.any(axis=1))
    if not rows.size:
        return []
    # A near tie may fall on the other side in float32: then the value is one of those near by.
    hull = [
        in_dtype(_rounded(bench.pick(stacks, rows), s, 4 * eps), bench.pick(dys, rows), np.float64) for s in range(6)
    ]
    low, high = np.fmin.reduce([*hull, shadow[rows]]), np.fmax.reduce([*hull, shadow[rows]])
    width = high - low
    off[rows] &= ~((single[rows] >= low - 8 * width) & (single[rows] <= high + 8 * width))
    for leaf, k in enumerate(engine.arguments.differentiable):
        a, b = bench.offsets[leaf], bench.offsets[leaf + 1]
        where = np.argwhere(off[:, a:b])
        if not len(where):
            continue
        excess = np.abs(single - shadow) / allowed
        excess = np.where(np.isnan(excess), np.inf, excess)
        i, e = max(where, key=lambda w: (w[0] < 4, excess[w[0], a + w[1]]))
        name, g, t = engine.arguments.leaves[k].name, float(single[i, a + e]), float(shadow[i, a + e])
        kinds = sorted({bench.points.kinds[p[w]] for w in where[:, 0]})
        everywhere = len(set(where[:, 0])) > 0.6 * len(p)
        if not np.isfinite(g):
            cause, why = "overflow", "overflows or divides by zero in float32 where the gradient is an ordinary number"
        elif everywhere:
            digits = -np.log10(max(_relative(single, shadow, where, a), 1e-17))
            cause, why = (
                "precision",
                f"right in float64, about {digits:.0f} digits in float32: computed in half precision",
            )
        else:
            cause, why = "cancellation", "right in float64 but cancels in float32: a difference of nearly equal numbers"
        failures.append(
            Failure(
                name,
                cause,
                f"wrong in float32 at {len(set(where[:, 0]))} of {len(p)} points, right in float64",
                why,
                bench.where(int(a + e))[1],
                g,
                t,
                abs(g - t) / (eps * max(abs(t), 1e-300)),
                len(where),
                b - a,
                "float32",
                ", ".join(kinds[:3]),
                "the rule itself in float64",
            )
        )
    return failures


def check_half(engine: Engine, bench: Bench, compute: Callable[..., Any]) -> list[Failure]:
    """The rule in the dtypes of its arguments, where one of them is a half precision, at ordinary points.

    A few digits say little of one point, so an entry is wrong if it is so at more than half of them. Allowed there: 8
    units of rounding of the entry, 4 of the largest, and 8 times what rounding the inputs moves it and autodiff errs.
    A sum that stops growing where its terms are less than a unit of it shows only where they have one sign and about
    one size, so there are points with such cotangents and nothing negative too. A long one of terms of both signs errs
    more than its terms do, in all entries together: a gradient as a whole may err by half a unit and twice what the
    inputs move it and autodiff errs, or by more at less than half of the points.
    """
    dtypes = [leaf.dtype if leaf.floating else None for leaf in engine.arguments.leaves]
    ordinary = np.array([kind in ("as given", "ordinary values") for kind in bench.points.kinds])
    p = np.flatnonzero(bench.ok & ordinary)
    half = min((d for d in dtypes if d is not None), key=lambda d: d.itemsize)
    if half.itemsize > 2 or bench.blackbox or not p.size:
        return []
    p = np.resize(p, np.clip(bench.chunk, 4, 8))  # where they are fewer each has several cotangents
    rng = np.random.default_rng(bench.seed + 6)
    picked = [bench.pick(bench.points.stacks, p), [rng.standard_normal((len(p), *dy.shape[1:])) for dy in bench.dys]]
    free = [leaf.floating and k not in bench.domains for k, leaf in enumerate(engine.arguments.leaves)]
    positive = [[np.abs(x) if f else x for x, f in zip(picked[0], free, strict=True)],
                [rng.uniform(0.5, 1.0, dy.shape) for dy in picked[1]]]  # fmt: skip
    own = [[np.concatenate(pair).astype(d or pair[0].dtype) for *pair, d in zip(*groups, strict=True)]
           for groups in zip(picked, positive, (dtypes, engine.output_dtypes), strict=True)]  # fmt: skip
    wide = [[x if d is None else x.astype(np.float64) for x, d in zip(group, kinds, strict=True)]
            for group, kinds in zip(own, (dtypes, engine.output_dtypes), strict=True)]  # fmt: skip

    def run(key: Any, function: Callable[..., Any], groups: list[Any], dtype: Any = np.float64) -> np.ndarray:
        found = engine.run(key, function, groups, dtype, bench.chunk)
        return flat(found[1] if key == "ad" else found).astype(np.float64)

    given, shadow = run(compute, compute, own, None), run(compute, compute, wide)
    rival = np.abs(run("ad", engine.autodiff, own, None) - run("ad", engine.autodiff, wide))
    eps = engine.eps
    moved = np.max(
        [np.abs(run(compute, compute, [_rounded(g, s, eps) for g in wide]) - shadow) for s in (1, 2)], axis=0
    )
    allowed = eps * (8 * np.abs(shadow) + 4 * bench.leaf_max(shadow)) + 8 * (moved + rival)
    known = np.isfinite(shadow) & np.isfinite(rival)
    error = np.where(known, np.abs(given - shadow), 0)
    off = ~(error <= allowed)

    def length(x: np.ndarray) -> np.ndarray:
        """Of the gradient of each leaf at each point where signs are mixed: (P, leaves)."""
        parts = np.split(np.where(known, x, 0)[: len(p)], bench.offsets[1:-1], axis=1)
        return np.stack([np.linalg.norm(part, axis=1) for part in parts], axis=1)

    drifts = length(error) > 2 * length(moved + rival) + eps / 2 * length(shadow)
    failures = []
    for leaf, k in enumerate(engine.arguments.differentiable):
        a, b = bench.offsets[leaf], bench.offsets[leaf + 1]
        most = 2 * off[:, a:b].reshape(2, len(p), -1).sum(axis=1) > len(p)
        wrong = np.flatnonzero(most.any(axis=0))
        if wrong.size:
            e = int(a + wrong[0])
            i = int(np.argmax(off[:, e] & np.repeat(most[:, wrong[0]], len(p))))
            cause = f"the rule does something else with {half.name}"
        elif drifts[:, leaf].sum() >= max(3, len(p) // 2):
            wrong, i = np.arange(b - a), int(np.argmax(drifts[:, leaf]))
            e = int(a + np.argmax(error[i, a:b]))
            cause = f"it errs far more than the rounding of its arguments explains: a long sum in {half.name}, perhaps"
        else:
            continue
        seen = "nothing negative" if i >= len(p) else bench.points.kinds[p[i]]
        failures.append(Failure(
            engine.arguments.leaves[k].name, "precision", f"wrong in {half.name}, right in float64",
            cause, bench.where(e)[1], float(given[i, e]), float(shadow[i, e]),
            abs(given[i, e] - shadow[i, e]) / (eps * max(abs(shadow[i, e]), 1e-300)),
            len(wrong), int(b - a), half.name, seen, "the rule itself in float64",
        ))  # fmt: skip
    return failures


def _relative(single: np.ndarray, shadow: np.ndarray, where: np.ndarray, a: int) -> float:
    at = (where[:, 0], where[:, 1] + a)
    return float(np.nanmedian(np.abs(single[at] - shadow[at]) / np.abs(shadow[at])))


def _rounded(stacks: list[np.ndarray], seed: int, eps: float) -> list[np.ndarray]:
    """Each floating entry moved by one rounding of unit eps, up or down at random."""
    rng = np.random.default_rng(seed)
    return [x * (1 + eps * rng.choice([-0.5, 0.5], x.shape)) if x.dtype.kind == "f" else x for x in stacks]
