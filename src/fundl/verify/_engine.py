"""Evaluating f, its autodiff gradient and a hand-written one at many points with one compiled call each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl.verify._arguments import Arguments, to_numpy
from fundl.verify._programs import Shake, coarsest, cuts, holds, in_float64

__all__ = ["UNTRACEABLE", "Engine", "StructureError"]

# What jax raises when a function needs concrete values (NumPy code, Python branches): it then runs point by point.
UNTRACEABLE = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)

# Most of the time of a check goes into compiling, and the programs run too little to earn back an optimised one.
# The rule as its user compiles it is run in `_structure`.
_QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}

# What holds one of these is run point after point, since together their time grows with the square of the points: XLA
# makes many convolutions, each with a kernel of its own, one in groups, and Pallas, where it interprets a kernel, goes
# through the blocks of all points one by one and copies all of them each time.
_ONE_BY_ONE = ("conv_general_dilated", "pallas_call")


@functools.cache
def quick_compile() -> dict[str, Any]:
    """The options of `_QUICK` that the installed compiler knows."""

    def known(option: str, value: Any) -> bool:
        try:
            jax.jit(lambda x: x + 1, compiler_options={option: value}).lower(np.float32(0)).compile()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {option: value for option, value in _QUICK.items() if known(option, value)}


Arrays = list[np.ndarray]
Compute = Callable[[list[Any], list[Any]], Any]


class StructureError(Exception):
    """A rule returned something other than one gradient per argument, of its shape, at shapes tried later."""


class Engine:
    """One function f and the leaves of its arguments; everything here maps stacks of points to stacks of results.

    `dtype` is that of the floating leaves: float64 makes the shadow in which float32 rules are judged, inside a
    local 64-bit context, whatever the global setting. A function that casts to a narrower float inside, or that
    takes its own dtypes only, is followed there operation by operation: `inside` is the coarsest dtype it computes in.
    """

    def __init__(self, f: Callable[..., Any], args: Sequence[Any], arguments: Arguments, has_aux: bool) -> None:
        self.f, self.arguments, self.has_aux = f, arguments, has_aux
        self._compiled: dict[Any, Any] = {}
        try:
            out = jax.eval_shape(lambda live: f(*arguments.build(live)), arguments.take(args))
        except Exception:  # f needs concrete values, or returns what is no array, or is wrong: then it says so itself
            out = f(*args)
        if has_aux:
            if not (isinstance(out, tuple) and len(out) == 2):
                raise TypeError("has_aux=True needs f to return a pair (output, aux).")
            out = out[0]
        leaves, self.tree = jax.tree.flatten(out)
        dtypes = [jnp.result_type(v) for v in leaves]
        self.outputs = [i for i, d in enumerate(dtypes) if jnp.issubdtype(d, jnp.floating)]
        if not self.outputs:
            raise TypeError(f"f must return at least one floating array to differentiate; got {dtypes}.")
        self.output_dtypes = [dtypes[i] for i in self.outputs]
        self.shapes = [np.shape(leaves[i]) for i in self.outputs]
        self.inside: Any = None  # the coarsest dtype that f casts to when called in float64
        self.own_dtypes_only = False  # f takes no float64 where its arguments are narrower
        self.traced = self.calls_back = self.one_by_one = False  # jax can trace f; what f holds
        self.cuts: list[tuple[float, float]] = []  # constants of f that may have been cut to few digits
        self._shake: Shake | None = None

    def look_inside(self) -> None:
        """Find out in what dtypes f computes when it is called in float64."""
        with jax.enable_x64(True):
            wide = [jax.ShapeDtypeStruct(leaf.value.shape, np.float64 if leaf.floating else leaf.dtype)
                    for leaf in self.arguments.leaves]  # fmt: skip
            own = [jax.ShapeDtypeStruct(leaf.value.shape, leaf.dtype) for leaf in self.arguments.leaves]
            for structs in (wide, own):
                try:
                    jaxpr = jax.make_jaxpr(self._plain_values)(structs).jaxpr
                except UNTRACEABLE:
                    return
                except Exception:  # f refuses float64, or is wrong and says so when it is called
                    continue
                self.traced, self.own_dtypes_only = True, structs is own
                self.inside, self.calls_back = coarsest(jaxpr), holds(jaxpr, "pure_callback")
                self.cuts, self.one_by_one = cuts(jaxpr, self.eps), holds(jaxpr, *_ONE_BY_ONE)
                return

    @property
    def eps(self) -> float:
        """The unit of rounding of the coarsest dtype that f or its arguments have; 0 where all is float64."""
        mine = [leaf.dtype for leaf in self.arguments.leaves if leaf.floating] + self.output_dtypes
        return max([float(jnp.finfo(d).eps) for d in mine if np.dtype(d).itemsize < 8] + [self.inside_eps])

    @property
    def inside_eps(self) -> float:
        """The unit of rounding of the coarsest dtype that f casts to; 0 where it casts to none."""
        return 0.0 if self.inside is None else float(jnp.finfo(self.inside).eps)

    def follow(self, function: Compute, leaves: list[Any], dys: list[Any]) -> Any:
        """function(leaves, dys), in float64 even where it casts to what f or its arguments have."""
        if not (_is_wide(leaves) and any(isinstance(x, jax.core.Tracer) for x in leaves)):
            return function(leaves, dys)
        own = (self._own_dtypes(leaves), self.output_dtypes)
        call = functools.partial(in_float64, function, (leaves, dys), self.eps, shake=self._shake)
        if self.own_dtypes_only:
            return call(dtypes=own)
        try:
            return call(always=self.inside is not None)
        except (StructureError, *UNTRACEABLE):
            raise
        except Exception as error:  # a kernel may take no dtypes but those of the arguments given
            try:
                return call(dtypes=own)
            except Exception:
                raise error from None

    def _own_dtypes(self, leaves: list[Any]) -> list[Any]:
        return [leaf.dtype if leaf.floating else x.dtype for x, leaf in zip(leaves, self.arguments.leaves, strict=True)]

    def values(self, leaves: list[Any]) -> list[Any]:
        """The floating outputs of f."""
        if not _is_wide(leaves) or not (self.inside or self.own_dtypes_only or self.calls_back or self.cuts):
            return self._plain_values(leaves)
        dtypes = (self._own_dtypes(leaves),) if self.own_dtypes_only else None
        return in_float64(self._plain_values, (leaves,), self.eps, dtypes=dtypes, shake=self._shake)

    def shaken(self, compute: Compute, seed: int, leaves: list[Any], dys: list[Any]) -> Compute | None:
        """compute with its constants that are in doubt moved within it; None where it has none for such arguments."""
        shake = Shake(seed)

        def moved(leaves: list[Any], dys: list[Any]) -> Any:
            self._shake = shake
            try:
                return compute(leaves, dys)
            finally:
                self._shake = None

        try:
            with jax.enable_x64(True):
                jax.eval_shape(moved, leaves, dys)
        except UNTRACEABLE:
            return None
        return moved if shake.moved else None

    def _plain_values(self, leaves: list[Any]) -> list[Any]:
        out = self.f(*self.arguments.build(leaves))
        flat = jax.tree.leaves(out[0] if self.has_aux else out)
        return [jnp.asarray(flat[i]) for i in self.outputs]

    def dy_tree(self, dys: Sequence[Any]) -> Any:
        """The cotangent in the tree of f's output; float0 zeros for integer outputs."""
        slots: list[Any] = [np.zeros((), jax.dtypes.float0)] * self.tree.num_leaves
        for i, dy in zip(self.outputs, dys, strict=True):
            slots[i] = dy
        return jax.tree.unflatten(self.tree, slots)

    def autodiff(self, leaves: list[Any], dys: list[Any]) -> tuple[list[Any], list[Any]]:
        """f and its vector-Jacobian product by jax.vjp."""
        out, pull = self.pullback(leaves)
        return out, pull(dys)

    def pullback(self, leaves: list[Any]) -> tuple[list[Any], Callable[[list[Any]], list[Any]]]:
        """f, and the function that takes cotangents back through this one call of it."""
        if self.calls_back:
            raise NotImplementedError("a pure_callback has no derivative")
        mine = self.arguments.differentiable

        def g(diff: list[Any]) -> list[Any]:
            full = list(leaves)
            for k, v in zip(mine, diff, strict=True):
                full[k] = v
            return self.values(full)

        out, pull = jax.vjp(g, [leaves[k] for k in mine])
        return out, lambda dys: pull([jnp.asarray(dy).astype(v.dtype) for dy, v in zip(dys, out, strict=True)])[0]

    def rule(self, backward: Callable[..., Any]) -> Compute:
        """The hand-written gradients, one per differentiable leaf, missing ones as zeros."""

        def plain(leaves: list[Any], dys: list[Any]) -> list[Any]:
            found, problems = self.arguments.align(backward(self.dy_tree(dys), *self.arguments.build(leaves)))
            out = []
            for k, g in zip(self.arguments.differentiable, found, strict=True):
                want = jnp.shape(leaves[k])
                if g is None or getattr(g, "dtype", None) == jax.dtypes.float0:
                    g = jnp.zeros(want, leaves[k].dtype)
                g = jnp.asarray(g)
                if g.shape != want:
                    name = self.arguments.leaves[k].name
                    problems.append(f"the gradient of {name} has shape {g.shape}; expected {want}")
                out.append(g)
            if problems:
                raise StructureError("; ".join(problems))
            return out

        return lambda leaves, dys: self.follow(plain, leaves, dys)

    def differences(self, leaves: list[Any], dys: list[Any], where: Any, steps: Any) -> Any:
        """Central slopes of <dy, f> along one entry for each step, and the rounding error of each.

        `where` numbers the entries of all differentiable leaves laid end to end; (E,) by (E, L) gives two (E, L).
        """
        mine = self.arguments.differentiable
        concrete = not any(isinstance(v, jax.core.Tracer) for v in leaves)
        xp: Any = np if concrete else jnp  # where f needs concrete values NumPy is quicker, call by call
        sizes = [int(np.prod(jnp.shape(leaves[k]))) for k in mine]
        flat = xp.concatenate([xp.reshape(leaves[k], (-1,)) for k in mine])
        dys = [xp.asarray(dy) for dy in dys]
        numbers, eps = xp.arange(flat.size), jnp.finfo(flat.dtype).eps

        def at(x: Any) -> list[Any]:
            full, start = list(leaves), 0
            for k, n in zip(mine, sizes, strict=True):
                full[k] = jnp.reshape(x[start : start + n], jnp.shape(leaves[k]))
                start += n
            return [xp.asarray(v).astype(flat.dtype) for v in self.values(full)]

        def each(function: Callable[[Any], Any], over: Any) -> Any:
            return jax.lax.map(function, over) if self.one_by_one else jax.vmap(function)(over)

        def slope(pair: tuple[Any, Any]) -> Any:
            i, h = pair
            here = numbers == i
            sides = xp.stack([xp.where(here, flat + h, flat), xp.where(here, flat - h, flat)])
            outputs = [xp.stack(v) for v in zip(*map(at, sides), strict=True)] if concrete else each(at, sides)
            total = noise = 0.0
            for dy, v in zip(dys, outputs, strict=True):
                # A cotangent of zero hides an output, even an infinite one.
                live = dy != 0
                total = total + xp.sum(xp.where(live, dy * (v[0] - v[1]), 0))
                noise = noise + xp.sum(xp.where(live, xp.abs(dy) * (xp.abs(v[0]) + xp.abs(v[1])), 0))
            return total / (sides[0, i] - sides[1, i]), 1.5 * eps * noise / h

        entries = xp.repeat(where, steps.shape[1])
        if concrete:
            rows = [slope(pair) for pair in zip(entries, np.ravel(steps), strict=True)]
            return [np.reshape(np.stack(v), steps.shape) for v in zip(*rows, strict=True)]
        together = max(1, min(entries.size, 200_000 // max(1, flat.size)))
        pairs = (entries, jnp.ravel(steps))
        if self.one_by_one or together == entries.size:
            out = each(slope, pairs)
        else:
            out = jax.lax.map(slope, pairs, batch_size=together)
        return [jnp.reshape(v, steps.shape) for v in out]

    def run(self, key: Any, compute: Callable[..., Any], stacks: Sequence[Arrays], dtype: Any, chunk: int) -> Any:
        """compute mapped over the first axis of every stack, in chunks of one size so that it compiles once.

        The floats are cast to dtype, or left as they are where that is None.
        """
        count = len(stacks[0][0])
        wide = dtype is not None and np.dtype(dtype) == np.float64
        pieces = []
        # Without 64-bit mode a float32 run must stay in it: a rule that needs the mode is a rule with a defect.
        with jax.enable_x64(wide or bool(jax.config.read("jax_enable_x64"))):
            for start in range(0, count, chunk):
                index = np.minimum(np.arange(start, start + chunk), count - 1)
                part = [[self._cast(s[index], dtype) for s in group] for group in stacks]
                result = jax.tree.map(
                    to_numpy, self._mapped(key, compute, part, dtype, chunk, min(count - start, chunk))
                )
                pieces.append(jax.tree.map(lambda v, n=count - start: v[:n], result))
        return jax.tree.map(lambda *v: np.concatenate(v), *pieces)

    def forget(self, key: Any) -> None:
        """Drop what was compiled for a rule, so that checking many rules does not fill the memory."""
        for cache in [c for c in self._compiled if c[0] is key]:
            del self._compiled[cache]

    def _mapped(self, key: Any, compute: Callable[..., Any], part: list[Any], dtype: Any, chunk: int, rows: int) -> Any:
        cache = (key, str(dtype), chunk, tuple(s.shape[1:] for s in part[0]))
        if cache not in self._compiled:
            try:
                self._compiled[cache] = self._compile(compute, part, chunk)
            except UNTRACEABLE:
                self._compiled[cache] = None
        if (mapped := self._compiled[cache]) is not None:
            return self._call(mapped, part, chunk)
        found = [compute(*[[jnp.asarray(s[i]) for s in group] for group in part]) for i in range(rows)]
        return jax.tree.map(lambda *v: np.stack([to_numpy(x) for x in v]), *found)

    @staticmethod
    def _compile(compute: Callable[..., Any], part: list[Any], chunk: int) -> Callable[..., Any]:
        first = part if chunk > 1 else [[s[0] for s in group] for group in part]
        traced = jax.jit(jax.vmap(compute) if chunk > 1 else compute).trace(*first)
        # Without optimisation a convolution runs eight times as long.
        slow = holds(traced.jaxpr.jaxpr, *_ONE_BY_ONE)
        if slow and chunk > 1:
            traced = jax.jit(lambda *groups: jax.lax.map(lambda one: compute(*one), groups)).trace(*first)
        return traced.lower().compile(compiler_options={} if slow else quick_compile())

    @staticmethod
    def _call(mapped: Callable[..., Any], part: list[Any], chunk: int) -> Any:
        if chunk > 1:
            return mapped(*part)
        return jax.tree.map(lambda v: v[None], mapped(*[[s[0] for s in group] for group in part]))

    @staticmethod
    def _cast(x: np.ndarray, dtype: Any) -> np.ndarray:
        return x.astype(dtype) if x.dtype.kind == "f" and dtype is not None else x


def _is_wide(leaves: list[Any]) -> bool:
    return any(getattr(x, "dtype", None) == np.float64 for x in leaves)
