"""Programs as jaxprs: what they hold, and running them operation by operation, in float64 throughout if asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

__all__ = ["Shake", "bind", "calls_back", "coarsest", "cuts", "holds", "in_float64", "walk"]


# Calls that are entered, with the name of the parameter that holds what they call.
_ENTERED = {
    "jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "remat": "jaxpr",
    "remat2": "jaxpr", "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}  # fmt: skip
# Operations that mean another thing, or nothing, at another dtype.
_FIXED = {"bitcast_convert_type", "debug_callback", "io_callback", "ffi_call"}


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every operation of a program, those of inner programs too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in _inner(eqn):
            yield from equations(inner)


def _inner(eqn: Any) -> Iterator[Any]:
    for value in eqn.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part


def holds(jaxpr: Any, *names: str) -> bool:
    """Whether some operation of a program has one of these names."""
    return any(eqn.primitive.name in names for eqn in equations(jaxpr))


def calls_back(function: Callable[..., Any], *args: Any) -> bool:
    """Whether a function that jax can trace holds a pure_callback."""
    try:
        return holds(jax.make_jaxpr(function)(*args).jaxpr, "pure_callback")
    except Exception:  # of what cannot be traced nothing is known
        return False


def coarsest(jaxpr: Any) -> Any:
    """Of the dtypes that some operation makes out of wider floats the one with the fewest digits, or None."""
    found = []
    for eqn in equations(jaxpr):
        widest = max((d.itemsize for d in map(_float, eqn.invars) if d is not None), default=0)
        found += [d for d in map(_float, eqn.outvars) if d is not None and d.itemsize < widest]
        if eqn.primitive.name == "reduce_precision" and (d := _like(eqn)).itemsize < widest:
            found.append(d)
    return max(found, key=lambda d: float(jnp.finfo(d).eps), default=None)


def _float(v: Any) -> Any:
    """The dtype of a variable of a jaxpr, or of a value, if it is a float."""
    dtype = getattr(getattr(v, "aval", v), "dtype", None)
    return dtype if dtype is not None and jnp.issubdtype(dtype, jnp.floating) else None


def _like(eqn: Any) -> np.dtype:
    """The dtype that holds as many digits as a reduce_precision leaves."""
    bits = eqn.params["mantissa_bits"]
    names = {2: "float8_e5m2", 3: "float8_e4m3fn", 7: "bfloat16", 10: "float16", 23: "float32"}
    return np.dtype(next((getattr(jnp, name) for most, name in names.items() if bits <= most), jnp.float64))


class Shake:
    """Moves of constants that are not known to the last digit: up or down at random, one sequence for each seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.moved = False

    def __call__(self, value: float, doubt: float) -> float:
        self.moved |= doubt > 0
        return value + doubt * self.rng.choice([-1.0, 1.0])


def cuts(jaxpr: Any, eps: float) -> list[tuple[float, float]]:
    """The constants of a program that may have been cut to floats of unit `eps` or finer; see `_meant`."""
    found = (_meant(v, eps) for eqn in equations(jaxpr) for v in eqn.invars if isinstance(v, core.Literal))
    return [pair for pair in found if pair is not None]


def _meant(literal: Any, eps: float) -> tuple[float, float] | None:
    """What a constant was before it was cut to few digits, and how far that is in doubt; None if nothing was cut.

    A Python number next to a cast, or given as np.float32, keeps the digits of that dtype only, where the same number
    elsewhere keeps all. The shortest decimal that rounds to it is what was written, if it is shorter than most are.
    """
    dtype = _float(literal)
    if dtype is None or np.ndim(literal.val):
        return None
    value, narrow = float(literal.val), np.dtype(np.float32 if np.dtype(dtype).itemsize == 8 else dtype)
    info = jnp.finfo(narrow)
    if eps < info.eps or not np.isfinite(value) or float(narrow.type(value)) != value:
        return None
    whole = value.is_integer() and abs(value) < 2.0**info.nmant
    if whole or (np.frexp(value)[0] * 2.0 ** (info.nmant // 2)).is_integer():
        return None  # a count, or a fraction of a power of two: nothing was cut
    for digits in range(1, info.precision + 1):
        decimal = float(f"{value:.{digits}g}")
        if float(narrow.type(decimal)) == value:
            return decimal, 0.0
    return value, abs(value) * float(info.eps) / 2


def walk(
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[Any],
    visit: Callable[[Any, list[Any]], Any],
    constant: Callable[[Any], Any] = lambda literal: literal.val,
) -> list[Any]:
    """Run a program, each operation by `visit(eqn, values)`; plain calls are entered."""
    env: dict[Any, Any] = {}

    def read(v: Any) -> Any:
        return constant(v) if isinstance(v, core.Literal) else env[v]

    env.update(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        inner = eqn.params.get(_ENTERED.get(eqn.primitive.name, ""))
        if inner is None:
            out = visit(eqn, values)
            out = list(out) if eqn.primitive.multiple_results else [out]
        else:
            closed = isinstance(inner, core.ClosedJaxpr)
            out = walk(inner.jaxpr if closed else inner, inner.consts if closed else [], values, visit, constant)
        env.update(zip(eqn.outvars, out, strict=True))
    return [read(v) for v in jaxpr.outvars]


def bind(eqn: Any, values: Sequence[Any], **changed: Any) -> Any:
    """One operation on other values, with some of its parameters changed."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # jax 0.9 returns a pair
    return eqn.primitive.bind(*functions, *values, **{**params, **changed})


def in_float64(
    function: Callable[..., Any],
    args: Any,
    eps: float,
    *,
    dtypes: Any = None,
    always: bool = True,
    shake: Shake | None = None,
) -> Any:
    """function(*args) as if its casts to floats of unit `eps` or finer kept every digit, for float64 args.

    The function sees arguments of `dtypes`, a tree like args, where given. Unless `always`, a function that makes no
    narrower float, nor has constants cut to one, is left as it is. Such constants are as they were meant, those in
    doubt moved by `shake`. Callbacks are run in 64-bit mode too, and where they refuse to be mapped, in turn.
    """
    leaves, tree = jax.tree.flatten(args)
    seen = [x.dtype for x in leaves] if dtypes is None else jax.tree.leaves(dtypes)
    structs = [jax.ShapeDtypeStruct(x.shape, d) for x, d in zip(leaves, seen, strict=True)]
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*jax.tree.unflatten(tree, structs))
    calls = holds(closed.jaxpr, "pure_callback")
    if always or calls or dtypes is not None or coarsest(closed.jaxpr) is not None or cuts(closed.jaxpr, eps):
        out = _widened(closed, leaves, eps, shake)
    else:
        out = core.jaxpr_as_fun(closed)(*leaves)
    return jax.tree.unflatten(jax.tree.structure(shape), out)


def _widened(closed: Any, args: Sequence[Any], eps: float, shake: Shake | None) -> list[Any]:
    def constant(literal: Any) -> Any:
        if (meant := _meant(literal, eps)) is None:
            return literal.val
        return np.float64(meant[0] if shake is None else shake(*meant))

    def visit(eqn: Any, values: list[Any]) -> Any:
        values = [_wide(v) for v in values]
        name, params = eqn.primitive.name, eqn.params
        if name == "convert_element_type" and (new := _float(eqn.outvars[0])) is not None:
            x = jnp.asarray(values[0])
            return x.astype(np.float64) if jnp.finfo(new).eps <= eps else x.astype(new).astype(np.float64)
        if name == "reduce_precision" and jnp.finfo(_like(eqn)).eps <= eps:
            return values[0]
        if name == "shard_map":
            inner = core.ClosedJaxpr(params["jaxpr"], ())
            axes = next(v for k, v in params.items() if k.endswith("manual_axes"))  # its name changes with jax
            return jax.shard_map(
                lambda *shards: tuple(_widened(inner, shards, eps, shake)),
                mesh=params["mesh"], in_specs=params["in_specs"], out_specs=params["out_specs"], axis_names=axes,
                check_vma=params["check_vma"],
            )(*values)  # fmt: skip
        if name in ("scan", "while", "cond"):
            programs = {
                k: _again(v, eps, shake)
                for k, v in params.items()
                if k in ("jaxpr", "cond_jaxpr", "body_jaxpr", "branches")
            }
            return bind(eqn, values, **programs)
        inner = next(_inner(eqn), None) is not None and not name.startswith(("scatter", "reduce"))
        if inner or name in _FIXED or name == "pure_callback":  # their inner programs and results have their own dtypes
            values = [x.astype(v.aval.dtype) if _float(v) is not None else x
                      for x, v in zip(values, eqn.invars, strict=True)]  # fmt: skip
            out = _call_back(params, values) if name == "pure_callback" else bind(eqn, values)
        elif params.get("preferred_element_type") is not None and _float(eqn.outvars[0]) is not None:
            out = bind(eqn, values, preferred_element_type=np.dtype(np.float64))
        else:
            out = bind(eqn, values)
        return [_wide(v) for v in out] if eqn.primitive.multiple_results else _wide(out)

    out = walk(closed.jaxpr, [_wide(c) for c in closed.consts], [_wide(x) for x in args], visit, constant)
    return [_wide(v) for v in out]


def _call_back(params: Any, values: list[Any]) -> list[Any]:
    """A callback, float64 passed as its bits: jax cuts it to float32 in the threads that callbacks run in."""
    avals = params["result_avals"]

    def on_bits(*args: Any) -> list[Any]:
        with jax.enable_x64(True):
            out = params["callback"](*[
                np.ascontiguousarray(x).view(v.dtype)[..., 0] if v.dtype == np.float64 else x
                for x, v in zip(args, values, strict=True)
            ])  # fmt: skip
        return [np.asarray(x, a.dtype)[..., None].view(np.uint32) if a.dtype == np.float64 else x
                for x, a in zip(out, avals, strict=True)]  # fmt: skip

    def bits(x: Any) -> Any:
        return jax.lax.bitcast_convert_type(x, np.uint32) if x.dtype == np.float64 else x

    wide = [a.dtype == np.float64 for a in avals]
    structs = [jax.ShapeDtypeStruct((*a.shape, 2), np.uint32) if w else a for a, w in zip(avals, wide, strict=True)]
    method = params["vmap_method"] or "sequential"
    out = jax.pure_callback(on_bits, structs, *map(bits, values), vmap_method=method)
    return [jax.lax.bitcast_convert_type(x, np.float64) if w else _wide(x) for x, w in zip(out, wide, strict=True)]


def _wide(x: Any) -> Any:
    return jnp.asarray(x, np.float64) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x


def _again(inner: Any, eps: float, shake: Shake | None) -> Any:
    """The inner program of a loop, or the branches of a choice, as programs in float64."""
    if isinstance(inner, tuple):
        return tuple(_again(closed, eps, shake) for closed in inner)
    structs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype if _float(v) is None else np.float64)
               for v in inner.jaxpr.invars]  # fmt: skip
    return jax.make_jaxpr(lambda *args: _widened(inner, args, eps, shake))(*structs)
