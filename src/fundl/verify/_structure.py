"""What can be said of a rule without numbers: trees, shapes, dtypes, repeatability, the forward's value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl.verify._arguments import to_numpy
from fundl.verify._engine import UNTRACEABLE, Engine
from fundl.verify._judges import Bench
from fundl.verify._points import cotangents
from fundl.verify._programs import calls_back
from fundl.verify._report import Failure, raised

__all__ = ["check_state", "check_structure"]

_CROSSED = "a second forward, run before the backward of the first"
_STATE = "the backward reads what a forward left outside of its residuals: a global, a list, an attribute"


def check_structure(
    engine: Engine,
    args: Sequence[Any],
    backward: Callable[..., Any],
    own_value: Callable[[list[Any]], list[Any]] | None,
) -> list[Failure]:
    """Call the rule as its user does, at the arguments given, twice, under jit and under vmap."""
    live, dys = _as_given(engine)
    before = [np.array(leaf.value, copy=True) for leaf in engine.arguments.leaves]
    dy = engine.dy_tree(dys)
    try:
        first = backward(dy, *engine.arguments.build(live))
    except Exception as error:  # a rule may fail in any way; the report says how
        return [raised(error, "the arguments given")]
    found, problems = engine.arguments.align(first)
    failures = [Failure("the rule", "structure", problem, seen_at="the arguments given") for problem in problems]
    if failures:
        return failures
    failures += _shapes_and_dtypes(engine, found, live)
    if failures:
        return failures
    again, _ = engine.arguments.align(backward(dy, *engine.arguments.build(live)))
    failures += _same(engine, found, again, 0.0, "repeat", "two calls with the same arguments differ",
                      "the rule keeps state between calls, or draws random numbers")  # fmt: skip
    for leaf, old, value in zip(engine.arguments.leaves, before, args_values(engine, args), strict=True):
        if not np.array_equal(old, value, equal_nan=old.dtype.kind == "f"):
            failures.append(Failure(leaf.name, "mutates", "the rule changed its input in place", seen_at="as given"))
    if own_value is not None:
        failures += _value(engine, live, own_value)
    return failures or _transformed(engine, backward, found, live, dys)


def _as_given(engine: Engine) -> tuple[list[Any], list[Any]]:
    """The arguments given and cotangents, as arrays in their own dtype (a Python float has the default dtype)."""
    dys = cotangents(engine.shapes, ["given"])
    return (
        [jnp.asarray(leaf.value, leaf.dtype) for leaf in engine.arguments.leaves],
        [jnp.asarray(dy[0], dtype) for dy, dtype in zip(dys, engine.output_dtypes, strict=True)],
    )


def check_state(
    engine: Engine, backward: Callable[..., Any], crossed: Callable[..., list[Any]], bench: Bench, notes: list[str]
) -> list[Failure]:
    """Whether another forward between a forward and its backward changes the gradient: `crossed` runs the three.

    Where the other arguments are refused alone too, a note says that this was not examined, and why.
    """
    points = [i for i, kind in enumerate(bench.points.kinds) if kind == "ordinary values" and bench.ok[i]]
    if not points:
        return []
    live, dys = _as_given(engine)
    others = [jnp.asarray(x[points[-1]], v.dtype) for x, v in zip(bench.points.stacks, live, strict=True)]
    alone, _ = engine.arguments.align(backward(engine.dy_tree(dys), *engine.arguments.build(live)))
    try:
        backward(engine.dy_tree(dys), *engine.arguments.build(others))
    except Exception as error:  # a function of the user may refuse what it is not given, in whatever way it likes
        notes.append(f"not examined after {_CROSSED}: at other values f {raised(error, '').message}")
        return []
    try:
        between = crossed(live, dys, others)
    except Exception as error:  # alone neither of the two raised
        return [Failure("the rule", "state", f"raises {type(error).__name__} after {_CROSSED}", _STATE)]
    return _same(engine, alone, between, 0.0, "state", f"another gradient after {_CROSSED}", _STATE)


def args_values(engine: Engine, args: Sequence[Any]) -> list[np.ndarray]:
    """The values now held by the arrays passed in, in the order of the leaves."""
    values = jax.tree.leaves(tuple(args))
    arrays = [to_numpy(v) for v in values if isinstance(v, (np.ndarray, np.generic, jax.Array))
              and not jax.dtypes.issubdtype(v.dtype, jax.dtypes.extended)]  # fmt: skip
    mine = [leaf.value for leaf in engine.arguments.leaves]
    return arrays if len(arrays) == len(mine) else mine


def _shapes_and_dtypes(engine: Engine, found: list[Any], live: list[Any]) -> list[Failure]:
    failures = []
    mine = engine.arguments.differentiable
    shapes = {engine.arguments.leaves[k].name: np.shape(live[k]) for k in mine}
    reordered = sorted(map(np.shape, found)) == sorted(shapes.values())
    for k, g in zip(mine, found, strict=True):
        name, want = engine.arguments.leaves[k].name, live[k]
        if g is None or getattr(g, "dtype", None) == jax.dtypes.float0:
            continue  # stands for zeros, and is judged as zeros
        if np.shape(g) != want.shape:
            other = next((n for n, shape in shapes.items() if reordered and shape == np.shape(g)), None)
            why = f"outputs in another order? {other} has that shape"
            why = why if other else _shape_cause(np.shape(g), want.shape)
            failures.append(Failure(name, "shape", f"gradient of shape {np.shape(g)}, expected {want.shape}",
                                    why, seen_at="the arguments given"))  # fmt: skip
        elif jnp.result_type(g) != want.dtype and not _promotes(engine, want.dtype):
            text = f"gradient of dtype {jnp.result_type(g).name}, expected {want.dtype.name}, that of the argument"
            why = "a NumPy scalar or a constant of another dtype promotes it" if jnp.result_type(
                g).itemsize > want.dtype.itemsize else "the rule computes or casts in another dtype"  # fmt: skip
            failures.append(Failure(name, "dtype", text, why, seen_at="the arguments given"))
    return failures


def _promotes(engine: Engine, dtype: Any) -> bool:
    """Whether a weak or Python scalar argument makes the dtype of the gradient a matter of taste."""
    return any(d.itemsize < np.dtype(dtype).itemsize for d in engine.output_dtypes)


def _shape_cause(got: tuple[int, ...], want: tuple[int, ...]) -> str:
    if got == want[::-1]:
        return "the gradient is transposed"
    if len(got) > len(want) and got[len(got) - len(want) :] == want:
        axes = tuple(range(len(got) - len(want)))
        return f"the sum over the broadcast axis {axes[0] if len(axes) == 1 else axes} is missing"
    if len(got) == len(want) and all(w in (1, g) for g, w in zip(got, want, strict=True)):
        axes = [i for i, (g, w) in enumerate(zip(got, want, strict=True)) if g != w]
        return f"the sum over the broadcast axis {axes[0] if len(axes) == 1 else axes} is missing (keepdims)"
    if int(np.prod(got)) == int(np.prod(want)):
        return "the entries are all there, in another shape: a reshape is missing"
    if len(got) < len(want):
        return "an axis was summed that the argument has"
    return ""


def _value(engine: Engine, live: list[Any], own_value: Callable[[list[Any]], list[Any]]) -> list[Failure]:
    """The forward that comes with the rule against the plain function."""
    plain = engine.values(live)
    own = own_value(live)
    if [v.shape for v in plain] != [np.shape(v) for v in own]:
        return [Failure("the output", "forward", f"the rule's forward has shape {[np.shape(v) for v in own]}, "
                        f"the plain function {[v.shape for v in plain]}", seen_at="the arguments given")]  # fmt: skip
    for a, b in zip(plain, own, strict=True):
        x, y = to_numpy(a).astype(np.float64), to_numpy(b).astype(np.float64)
        eps = max(_eps(a), engine.inside_eps)
        off = ~np.isclose(x, y, rtol=64 * eps, atol=16 * eps * np.abs(x).max(initial=0.0), equal_nan=True)
        if off.any():
            i = tuple(int(j) for j in np.argwhere(off)[0])
            return [Failure("the output", "forward", "the rule's forward differs from the plain function",
                            "the fwd rule computes something else", i, float(y[i]), float(x[i]),
                            seen_at="the arguments given")]  # fmt: skip
    return []


def _transformed(
    engine: Engine, backward: Callable[..., Any], found: list[Any], live: list[Any], dys: list[Any]
) -> list[Failure]:
    compute = engine.rule(backward)
    rng = np.random.default_rng(0)
    # The arguments as they are, and a few times with another rounding: what that changes is no fault of the rule.
    groups = [[_roundings(x, rng) for x in group] for group in (live, dys)]
    try:
        mapped = jax.jit(jax.vmap(compute))(*groups)
    except UNTRACEABLE:
        return []  # needs concrete values: judged point by point
    except Exception as error:  # works plainly, fails when traced: the report says how
        if calls_back(compute, live, dys):
            return []  # a callback that refuses vmap
        return [raised(error, "", "under jit or vmap ")]
    noise = 1e3 * max(max(_eps(d), engine.inside_eps) * float(np.abs(to_numpy(d)).max(initial=0.0)) for d in dys)
    scatter = [np.nan_to_num(np.ptp(to_numpy(g).astype(np.float64), axis=0)).max(initial=0.0) for g in mapped]
    why = "a sum or a shape includes the mapped axis, or a value was fixed when it was traced"
    failures = _same(engine, found, [g[0] for g in mapped], 1e3, "transforms", "another answer under jit and vmap",
                     why, [64 * float(s) + noise for s in scatter])  # fmt: skip
    if failures and failures[0].given is not None and not np.isfinite(failures[0].given):
        # At extreme arguments compiling may round f itself so differently that nothing is left: no fault of the rule.
        try:
            results = jax.tree.leaves(jax.jit(jax.vmap(engine.autodiff))(*groups))
        except Exception:  # jax has no derivative of f
            return failures
        if not all(np.isfinite(to_numpy(v)).all() for v in results):
            return []
    return failures


def _roundings(x: Any, rng: np.random.Generator) -> Any:
    """x, and x with its entries rounded up or down at random, four times: (5, *shape)."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.stack([x] * 5)
    factor = 1 + _eps(x) * np.concatenate([np.zeros((1, *x.shape)), rng.choice([-1.0, 0.0, 1.0], (4, *x.shape))])
    return (to_numpy(x).astype(np.float64)[None] * factor).astype(x.dtype)


def _eps(x: Any) -> float:
    return float(jnp.finfo(x.dtype).eps)


def _same(
    engine: Engine,
    a: list[Any],
    b: list[Any],
    ulps: float,
    cause: str,
    message: str,
    why: str,
    rounding: Sequence[float] = (),
) -> list[Failure]:
    """Two results of the same call, up to `ulps` of the largest entry and what is known of rounding, per leaf."""
    for i, (k, x, y) in enumerate(zip(engine.arguments.differentiable, a, b, strict=True)):
        if x is None or y is None or getattr(x, "dtype", None) == jax.dtypes.float0:
            continue
        dtype = jnp.result_type(x)
        u, v = to_numpy(x).astype(np.float64), to_numpy(y).astype(np.float64)
        eps = float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.floating) else 0.0
        allowed = ulps * eps * np.abs(u[np.isfinite(u)]).max(initial=0.0) + (rounding[i] if rounding else 0.0)
        close = np.isclose(v, u, rtol=ulps * eps, atol=allowed, equal_nan=True)
        if not close.all():
            at = tuple(int(j) for j in np.argwhere(~close)[0])
            return [Failure(engine.arguments.leaves[k].name, cause, message, why, at, float(v[at]), float(u[at]),
                            seen_at="the arguments given")]  # fmt: skip
    return []
