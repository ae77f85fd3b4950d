"""The last digits: value and hand-written gradient over the whole range of the dtype, under jit, against the oracle.

Two bounds hold at once, for each entry of the result:

* 4 eps max(1, abs(exact)), everywhere;
* 8 max(ulp(exact), wobble), where the wobble is how much the exact result moves when each input moves by one eps: the
  unavoidable error, that is the condition number times an ulp.

What XLA does on the CPU limits both: subnormal numbers count as 0, as inputs and as results, also inside of a formula.
So inputs are 0 or normal, and an error below `Row.smallest` times the smallest normal number is none.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import laws
import oracles as o
from catalogue import ROWS, Row

DIGITS = 350  # 1 - p of a class that is certain to exp(-745), the smallest number, still has 26 of them


def exactly(function: Callable[..., Any], row: Row, inputs: list[Any]) -> list[o.Exact]:
    options = {**row.options, "reduction": "none"} if row.kind == "loss" else row.options
    return list(laws.as_tuple(function(*inputs, **options)))


def wobbles(function: Callable[..., Any], row: Row, inputs: list[Any], eps: float) -> list[Any]:
    """How much each result moves when each input, and each option that is a number, moves by one eps."""
    exact = exactly(function, row, inputs)
    total = [np.zeros(v.shape, object) for v in exact]
    more = 1 + o.mp.mpf(eps)

    def add(moved: list[o.Exact]) -> None:
        for t, a, b in zip(total, moved, exact, strict=True):
            t += abs(a - b)

    for i, x in enumerate(inputs):
        if x.dtype != object:
            continue  # integer labels
        for place in places(row, x):
            moved = x.copy()
            moved[place] = moved[place] * more
            add(exactly(function, row, [*inputs[:i], moved, *inputs[i + 1 :]]))
    if "label_smoothing" in row.options:
        a = o.mp.mpf(row.options["label_smoothing"]) * more
        add(list(laws.as_tuple(function(*inputs, reduction="none", label_smoothing=a))))
    return total


def places(row: Row, x: o.Exact) -> list[Any]:
    """What moves together: one column of all rows, since rows do not mix; in a layer each entry alone."""
    if row.kind == "layer":
        return list(np.ndindex(*x.shape))
    if row.kind == "elementwise" or x.ndim < 2:
        return [...]
    return [(..., j) for j in range(x.shape[-1])]


def errors(got: Any, exact: o.Exact, wobble: o.Exact, dtype: Any, smallest: float) -> tuple[float, float]:
    """The largest error in units of the first bound / 4 and of the second bound / 8."""
    info = np.finfo(dtype)
    eps, tiny = float(info.eps), float(info.tiny)
    got = np.asarray(got)
    with np.errstate(over="ignore"):
        nearest = o.rounded(exact, dtype)
    assert got.dtype == dtype
    assert got.shape == nearest.shape
    overflow = np.isinf(nearest)
    assert (got[overflow] == nearest[overflow]).all(), "a result beyond the largest number must be infinite"
    got, exact, wobble = got[~overflow], exact[~overflow], wobble[~overflow]
    assert np.isfinite(got).all(), f"not finite: {got[~np.isfinite(got)]}, expected {exact[~np.isfinite(got)]}"
    error = o.rounded(abs(o.exact(got) - exact))
    error[error <= smallest * tiny] = 0.0
    size = abs(nearest[~overflow].astype(np.float64))
    ulp = np.maximum(np.spacing(size.astype(dtype)).astype(np.float64), tiny * eps)
    relative = error / np.maximum(ulp, o.rounded(wobble))
    return float(np.max(error / (eps * np.maximum(1, size)), initial=0)), float(np.max(relative, initial=0))


def measure(row: Row, dtype: Any, n: int) -> dict[str, tuple[float, float]]:
    """For the value and each gradient: the largest absolute error in eps, and relative error in ulp."""
    inputs = row.wide(np.random.default_rng(1), n, dtype)
    options = {"reduction": "none"} if row.kind == "loss" else {}
    eps = float(np.finfo(dtype).eps)
    with o.mp.workdps(60 if row.kind == "elementwise" else DIGITS):
        y, dy, found = laws.run(row, inputs, cotangent=jnp.ones, **options)
        given = [laws.of_floats(v) for v in inputs]
        cases = (("value", row.oracle, given, [y]), ("gradient", row.oracle_gradient, [o.exact(dy), *given], found))
        result = {}
        for what, function, arguments, got in cases:
            exact = exactly(function, row, arguments)
            wobble = wobbles(function, row, arguments, eps)
            for i, g in enumerate(got):
                result[f"{what} {i}"] = errors(g, exact[i], wobble[i], dtype, row.smallest)
    return result


def check(row: Row, dtype: Any, n: int) -> None:
    for what, (absolute, relative) in measure(row, dtype, n).items():
        assert absolute <= 4, f"{what}: {absolute:.3g} eps of max(1, value)"
        assert relative <= 8, f"{what}: {relative:.3g} ulp times the condition number"


# Over axis 0, and over all entries at once, the arithmetic is the same; the oracle would have to move entry by entry.
MEASURED = [row for row in ROWS if row.options.get("axis", -1) != 0 and (row.kind != "norm" or row.variant)]
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)


@dtypes
@pytest.mark.parametrize("row", MEASURED, ids=str)
def test_accuracy(row: Row, dtype: type) -> None:
    check(row, dtype, 100 if row.kind == "elementwise" else 5)


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize("row", MEASURED, ids=str)
def test_accuracy_on_a_dense_grid(row: Row, dtype: type) -> None:
    check(row, dtype, 6000 if row.kind == "elementwise" else 150 if row.kind != "layer" else 20)


def test_the_bounds_are_seen_to_fail() -> None:
    exact, one = o.exact(np.array([1.0, 1e-20])), o.exact(np.ones(2))
    zero = 0 * one
    assert errors(np.array([1.0, 1e-20]), exact, zero, np.float64, 1) == (0.0, 0.0)
    absolute, relative = errors(np.array([1 + 2**-49, 1e-20]), exact, zero, np.float64, 1)
    assert absolute == 8
    assert relative == 8
    absolute, relative = errors(np.array([1.0, 0.0]), exact, zero, np.float64, 1)
    assert absolute < 1
    assert relative > 1e15
    with pytest.raises(AssertionError, match="not finite"):
        errors(np.array([np.nan, 0.0]), exact, zero, np.float64, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
def test_rivals_forms_fall_short(dtype: type) -> None:
    """The forms that others use break the bounds on the same grid: 1 - a^2, x sigma(x), log(sum exp)."""
    naive = {
        "activations.tanh": {"backward": lambda dy, x: dy * (1 - jnp.tanh(x) ** 2)},
        "activations.silu": {"forward": jax.nn.silu},
        "activations.logsumexp": {"forward": lambda z, axis=-1: jnp.log(jnp.sum(jnp.exp(z), axis=axis))},
        "norms.l2[axis=1]": {"forward": lambda x, axis: jnp.sqrt(jnp.sum(x * x, axis=axis))},
    }
    for row in ROWS:
        if str(row) in naive:
            with pytest.raises(AssertionError):
                check(dataclasses.replace(row, **naive[str(row)]), dtype, 100 if row.kind == "elementwise" else 6)


def test_subnormal_numbers_count_as_zero() -> None:
    """The limit stated above, so that it is noticed when XLA changes it."""
    row = next(row for row in ROWS if str(row) == "activations.identity")
    y, _, _ = laws.run(row, (np.array([1e-40], np.float32),))
    doubled = jnp.asarray(np.array([1e-40], np.float32)) * 2
    assert float(doubled[0]) == 0.0 or float(y[0]) == pytest.approx(1e-40, rel=1e-4)
