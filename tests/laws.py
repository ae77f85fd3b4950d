"""The laws that every row of the catalogue obeys, each a function that raises AssertionError for a row that does not.

Tolerances are multiples of the rounding error of the result's own scale; none of them grows with the size of an array.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import oracles as o
from catalogue import Edge, Row

POSITIONAL_OPTIONS = {"axis", "approximate", "delta"}  # as NumPy, jax.nn and optax take them
EXACT_DIGITS = 60  # of the oracle at ordinary points


def draw(row: Row, n: int = 5, dtype: Any = np.float64, seed: int = 0) -> tuple[np.ndarray, ...]:
    return row.sample(np.random.default_rng(seed), n, np.dtype(dtype))


def random(shape: tuple[int, ...], dtype: Any) -> Any:
    return jnp.asarray(np.random.default_rng(99).normal(size=shape)).astype(dtype)


def run(
    row: Row, inputs: tuple[Any, ...], cotangent: Callable[..., Any] = random, **options: Any
) -> tuple[Any, Any, tuple[Any, ...]]:
    """The value, a cotangent of its shape and dtype, and the hand-written gradients as a tuple, under jit."""
    options = {**row.options, **options}
    arrays = {k: v for k, v in options.items() if isinstance(v, (np.ndarray, jax.Array))}
    static = tuple(sorted((k, v) for k, v in options.items() if k not in arrays))
    inputs = tuple(jnp.asarray(v) for v in inputs)
    y = jax.eval_shape(lambda a, k: row.forward(*a, **dict(static), **k), inputs, arrays)
    dy = cotangent(y.shape, y.dtype)
    value, gradients = _compiled(row.forward, row.backward, static)(dy, inputs, arrays)
    return value, dy, gradients


@functools.cache
def _compiled(forward: Any, backward: Any, static: tuple[tuple[str, Any], ...]) -> Any:
    """One compiled program for value and gradients, shared by all laws."""

    def both(dy: Any, inputs: tuple[Any, ...], arrays: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
        options = {**dict(static), **arrays}
        return forward(*inputs, **options), as_tuple(backward(dy, *inputs, **options))

    return jax.jit(both)


def as_tuple(found: Any) -> tuple[Any, ...]:
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def of_floats(x: Any) -> Any:
    """The oracle's form of an input: exact numbers, or integer labels as they are."""
    return np.asarray(x) if np.issubdtype(np.asarray(x).dtype, np.integer) else o.exact(np.asarray(x, np.float64))


def oracle_options(row: Row, options: dict[str, Any]) -> dict[str, Any]:
    merged = {**row.options, **options}
    if merged.get("weights") is not None:
        merged["weights"] = o.exact(merged["weights"])
    return merged


def truth(row: Row, inputs: tuple[Any, ...], **options: Any) -> np.ndarray:
    with o.mp.workdps(EXACT_DIGITS):
        return o.rounded(row.oracle(*map(of_floats, inputs), **oracle_options(row, options)))


def true_gradients(row: Row, dy: Any, inputs: tuple[Any, ...], **options: Any) -> list[np.ndarray]:
    with o.mp.workdps(EXACT_DIGITS):
        found = row.oracle_gradient(of_floats(dy), *map(of_floats, inputs), **oracle_options(row, options))
        return [o.rounded(found[i]) for i in range(len(row.differentiable))]


def assert_near(got: Any, want: Any, ulps: float = 8.0, dtype: Any = None, what: str = "", scale: Any = None) -> None:
    """Within `ulps` rounding errors (of `dtype`, by default got's) of the largest entry of `want`; same shape."""
    got = np.asarray(got)
    eps = float(jnp.finfo(dtype or got.dtype).eps)
    got, want = got.astype(np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    assert np.isfinite(want).all(), f"{what}: the reference itself is not finite"
    error, scale = np.max(abs(got - want), initial=0), np.max(abs(want if scale is None else scale), initial=0)
    assert error <= ulps * eps * scale, f"{what}: off by {error / (eps * scale):.3g} eps of its scale {scale:.3g}"


def assert_all_near(got: Any, want: Any, ulps: float = 8.0, dtype: Any = None, what: str = "") -> None:
    got, want = as_tuple(got), as_tuple(want)
    assert len(got) == len(want), f"{what}: {len(got)} gradients, expected {len(want)}"
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert_near(g, w, ulps, dtype, f"{what} {i}")


# ---- truth from outside ----------------------------------------------------------------------------------------------


def is_true(row: Row, dtype: Any, n: int) -> None:
    """Value and hand-written gradient against the oracle's."""
    inputs = draw(row, n, dtype)
    y, dy, found = run(row, inputs)
    assert y.dtype == dtype
    assert_near(y, truth(row, inputs), what="value", scale=magnitude(row, inputs))
    expected, scales = true_gradients(row, dy, inputs), [None] * len(found)
    if row.kind == "layer":  # its sums cancel: their rounding error is that of the sum of magnitudes
        scales = [abs(g) for g in true_gradients(row, abs(dy), tuple(map(abs, inputs)))]
    assert len(found) == len(expected), f"{len(found)} gradients, expected {len(expected)}"
    for i, (g, e, s) in enumerate(zip(found, expected, scales, strict=True)):
        assert_near(g, e, what=f"gradient {i}", scale=s)


def magnitude(row: Row, inputs: tuple[Any, ...]) -> Any:
    return truth(row, tuple(map(abs, inputs))) if row.kind == "layer" else None


def agrees_with_autodiff(row: Row) -> None:
    inputs = draw(row)
    _, dy, found = run(row, inputs)
    assert_all_near(found, by_autodiff(row, dy, inputs), what="gradient")


def by_autodiff(row: Row, dy: Any, inputs: tuple[Any, ...], **options: Any) -> tuple[Any, ...]:
    f, kept = of_differentiable(row, inputs, **options)
    return jax.jit(lambda g, *a: jax.vjp(f, *a)[1](g))(dy, *kept)


def of_differentiable(row: Row, inputs: tuple[Any, ...], **options: Any) -> tuple[Any, tuple[Any, ...]]:
    """The forward as a function of the inputs that have a gradient, and those inputs."""

    def f(*kept: Any) -> Any:
        given = list(inputs)
        for i, v in zip(row.differentiable, kept, strict=True):
            given[i] = v
        return row.forward(*given, **row.options, **options)

    return f, tuple(jnp.asarray(inputs[i]) for i in row.differentiable)


# ---- the pair --------------------------------------------------------------------------------------------------------


def pair_fits(row: Row, dtype: Any) -> None:
    """One gradient for each differentiable input, in order, with its shape and dtype; alone when it is the only one."""
    inputs = tuple(jnp.asarray(v).astype(dtype) if v.dtype.kind == "f" else v for v in draw(row, dtype=np.float32))
    dy = jax.eval_shape(lambda *a: row.forward(*a, **row.options), *inputs)
    found = jax.eval_shape(lambda g, *a: row.backward(g, *a, **row.options), dy, *inputs)
    if len(row.differentiable) == 1:
        assert isinstance(found, jax.ShapeDtypeStruct), f"one gradient comes alone, not as {type(found).__name__}"
    found = as_tuple(found)
    assert len(found) == len(row.differentiable), f"{len(found)} gradients for {len(row.differentiable)} inputs"
    for g, i in zip(found, row.differentiable, strict=True):
        assert g.shape == inputs[i].shape, f"gradient {i} has shape {g.shape}, its input {inputs[i].shape}"
        assert g.dtype == inputs[i].dtype, f"gradient {i} has dtype {g.dtype}, its input {inputs[i].dtype}"


def signatures_match(row: Row) -> None:
    """The cotangent, then the forward's inputs in order, then the same options with the same defaults."""
    forward = list(inspect.signature(row.forward).parameters.values())
    cotangent, *backward = inspect.signature(row.backward).parameters.values()
    assert cotangent.name.startswith("d"), f"the cotangent is called {cotangent.name}"
    assert [(p.name, p.kind, p.default) for p in backward] == [(p.name, p.kind, p.default) for p in forward]
    for p in forward:
        positional = p.default is inspect.Parameter.empty or p.name in POSITIONAL_OPTIONS
        kind = p.POSITIONAL_OR_KEYWORD if positional else p.KEYWORD_ONLY
        assert p.kind == kind, f"{p.name}: data are positional, options keyword-only"


def refuses_a_wrong_cotangent(row: Row) -> None:
    inputs = draw(row)
    dy = jax.eval_shape(lambda *a: row.forward(*a, **row.options), *inputs)
    wrong = (*dy.shape, 1)
    message = refusal(lambda: row.backward(np.ones(wrong), *inputs, **row.options))
    assert str(dy.shape) in message, f"the message does not name the shape: {message}"
    assert str(wrong) in message, f"the message does not name the shape given: {message}"


def refusal(call: Callable[[], Any]) -> str:
    """The message of the ValueError or TypeError that the call must raise."""
    try:
        call()
    except (ValueError, TypeError) as error:
        return str(error)
    raise AssertionError("accepted")


# ---- transforms ------------------------------------------------------------------------------------------------------


def jit_changes_nothing(row: Row) -> None:
    inputs = draw(row)
    y, dy, found = run(row, inputs)
    assert_near(row.forward(*inputs, **row.options), y, 4, what="value")
    assert_all_near(row.backward(dy, *inputs, **row.options), found, 4, what="gradient")


def vmap_is_a_loop(row: Row) -> None:
    draws = [draw(row, seed=seed) for seed in range(3)]
    looped = [run(row, inputs) for inputs in draws]
    dy = looped[0][1]
    stacked = tuple(np.stack(v) for v in zip(*draws, strict=True))

    def both(*inputs: Any) -> tuple[Any, tuple[Any, ...]]:
        return row.forward(*inputs, **row.options), as_tuple(row.backward(dy, *inputs, **row.options))

    values, found = jax.jit(jax.vmap(both))(*stacked)
    for lane, (y, _, g) in enumerate(looped):
        assert_near(values[lane], y, 4, what=f"lane {lane}")
        assert_all_near([v[lane] for v in found], g, 4, what=f"lane {lane}, gradient")


def forward_mode_agrees(row: Row) -> None:
    """jvp, jacfwd and hessian of the forward against the hand-written backward and its own derivative."""
    inputs = draw(row)
    _, dy, pulled = run(row, inputs)
    f, kept = of_differentiable(row, inputs)
    rng = np.random.default_rng(5)
    tangents = tuple(jnp.asarray(rng.normal(size=v.shape)) for v in kept)

    def scalar(first: Any, others: tuple[Any, ...]) -> Any:
        return jnp.sum(dy * f(first, *others))

    def hand(first: Any) -> Any:
        given = list(inputs)
        given[row.differentiable[0]] = first
        return as_tuple(row.backward(dy, *given, **row.options))[0]

    @jax.jit
    def all_at_once(kept: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *others = kept
        return (
            jax.jvp(f, kept, tangents)[1],
            jax.jacfwd(scalar)(first, others),
            jax.hessian(scalar)(first, others),
            jax.jacfwd(hand)(first),
        )

    pushed, forward, hessian, by_hand = all_at_once(kept, tangents)
    terms = [np.asarray(g * t).ravel() for g, t in zip(pulled, tangents, strict=True)]
    scale = float(sum(abs(t).sum() for t in terms) + abs(dy * pushed).sum())
    gap = abs(float(jnp.sum(dy * pushed)) - float(sum(t.sum() for t in terms)))
    eps = np.finfo(float).eps
    assert gap <= 8 * eps * scale, f"jvp is not the transpose of the backward: off by {gap / (eps * scale):.3g} eps"
    assert_near(forward, pulled[0], what="jacfwd")
    scale = max(float(abs(hessian).max()), float(abs(pulled[0]).max()))
    gap = float(abs(hessian - by_hand).max())
    assert gap <= 32 * eps * scale, f"hessian is not the backward's derivative: off by {gap / (eps * scale):.3g} eps"


# ---- half precision, NaN, edges --------------------------------------------------------------------------------------


def half_precision_is_accumulated(row: Row, dtype: Any, n: int) -> None:
    """As exact as computing in float32 and rounding once; many terms do not add their rounding errors."""
    inputs = tuple(jnp.asarray(v).astype(dtype) if v.dtype.kind == "f" else v for v in draw(row, n, np.float32))
    wide = tuple(v.astype(jnp.float32) if v.dtype == dtype else v for v in inputs)
    y, _, found = run(row, inputs)
    expected, _, gradients = run(row, wide)
    assert_near(y, expected, 2, dtype, "value")
    for i, (g, e) in enumerate(zip(found, gradients, strict=True)):
        assert g.dtype == dtype, f"gradient {i} has dtype {g.dtype}"
        assert_near(g, e, 2, dtype, f"gradient {i}")


def nan_shows(row: Row) -> None:
    """A NaN in the first example of any floating input reaches the value; elementwise it stays where it is."""
    for i in row.differentiable:
        inputs = [np.array(v) for v in draw(row)]
        inputs[i][(0,) if inputs[i].ndim else ()] = np.nan
        y, _, found = run(row, tuple(inputs))
        assert np.isnan(np.asarray(y)).any(), f"NaN in input {i} is lost"
        if row.kind == "elementwise":
            assert not np.isnan(np.asarray(y)[1:]).any(), f"NaN in input {i} spreads"
            assert not np.isnan(np.asarray(found[0])[1:]).any(), f"NaN in input {i} spreads in the gradient"


def edge_is_exact(row: Row, edge: Edge, dtype: Any) -> None:
    inputs = tuple(np.asarray(v, dtype) if np.asarray(v).dtype.kind == "f" else np.asarray(v) for v in edge.inputs)
    if row.kind == "norm":
        inputs = (inputs[0][None],)  # these rows reduce axis 1
    options = {**row.options, **edge.options}
    static = tuple(sorted(options.items()))
    shape = jax.eval_shape(lambda *a: row.forward(*a, **options), *inputs)
    y, found = _compiled(row.forward, row.backward, static)(jnp.ones(shape.shape, shape.dtype), inputs, {})
    tolerance = 4 * float(np.finfo(dtype).eps)
    assert_same(y, edge.value, tolerance, "value")
    if edge.gradients is None:
        return
    for i, (g, e) in enumerate(zip(found, edge.gradients, strict=True)):
        # Over an axis a 0 is what is left of a sum; elementwise it is exact.
        assert_same(g, e, tolerance, f"gradient {i}", 0.0 if row.kind == "elementwise" else 1.0)


def assert_same(got: Any, want: Any, tolerance: float, what: str, smallest_scale: float = 0.0) -> None:
    """Equal to rounding; infinities and NaN exactly."""
    got = np.asarray(got, np.float64)
    want = np.broadcast_to(np.asarray(want, np.float64), got.shape)
    with np.errstate(invalid="ignore"):
        near = abs(got - want) <= tolerance * np.maximum(abs(want), smallest_scale)
    same = (got == want) | (np.isnan(got) & np.isnan(want)) | near
    assert same.all(), f"{what}: {got}, expected {want}"
