"""How good are your own tests? Named wrong versions of a backward, and the ones that a test lets through."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl.verify._mutations import run_with, sites_of
from fundl.verify._points import cotangents

__all__ = ["Mutant", "MutationScore", "equals", "mutants", "mutation_score"]

Array = Any


@dataclass(eq=False)
class Mutant:
    """A wrong version of a backward: call it in the backward's place.

    kind is its class: structural, one percent, tiny, sparse, cotangent, interface, precision, tail, saturation,
    zero input, kink, or convention (another choice at a kink, which is not wrong). cause is what a diagnosis
    should name, "" where that depends on the function.
    """

    name: str
    kind: str
    backward: Callable[..., Any] = field(repr=False)
    cause: str = ""

    def __call__(self, *args: Any) -> Any:
        return self.backward(*args)

    @property
    def __name__(self) -> str:
        return self.name


@dataclass
class MutationScore:
    """What `mutation_score` found: killed and survived mutants, and the survivors that are no fault of the test.

    equivalent   survivors that equal the backward in every bit at points chosen to tell them apart
    conventions  survivors that differ only in the choice at a kink
    """

    killed: list[str]
    survived: list[str]
    equivalent: list[str]
    conventions: list[str]

    @property
    def score(self) -> float:
        """The fraction of the wrong versions that the test killed."""
        total = len(self.killed) + len(self.survived)
        return len(self.killed) / total if total else 1.0

    def __str__(self) -> str:
        lines = [f"{len(self.killed)} of {len(self.killed) + len(self.survived)} wrong versions killed "
                 f"({100 * self.score:.1f} %)"]  # fmt: skip
        lines += [f"  survived    {name}" for name in self.survived]
        lines += [f"  equivalent  {name}" for name in self.equivalent]
        lines += [f"  convention  {name}" for name in self.conventions]
        return "\n".join(lines)


def mutants(backward: Callable[..., Any], *args: Any) -> Iterator[Mutant]:
    """Named wrong versions of a backward, made from its jaxpr, its cotangent and its outputs.

    args are what the backward is called with: dy and then the inputs of the forward. Where only the inputs are
    given, a cotangent that fits is looked for. Each mutant works for other shapes and dtypes too.

    >>> import jax.numpy as jnp
    >>> names = [m.name for m in mutants(lambda dy, x: 2 * x * dy, jnp.ones(3), jnp.arange(3.0))]
    >>> names[0], len(names) > 20
    ('mul 0: only the first operand kept', True)
    """
    args = _with_cotangent(backward, args)
    for site in sites_of(backward, args):
        yield Mutant(str(site), site.kind, lambda *a, site=site: run_with(site, backward, a))
    yield from _cotangent_mutants(backward, args)
    yield from _output_mutants(backward, args)
    yield from _region_mutants(backward, args)


def mutation_score(
    test: Callable[[Callable[..., Any]], Any], backward: Callable[..., Any], *args: Any, quiet: bool = False
) -> MutationScore:
    """Run a test against every wrong version of a backward, and print the ones it lets through.

    `test(candidate)` checks a backward: it raises, or returns False, on a wrong one. args as in `mutants`.
    Errors: ValueError where the test rejects the backward itself.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([1.0, 2.0])
    >>> def test(candidate):
    ...     assert jnp.allclose(candidate(jnp.ones(2), x), 2 * x)   # a cotangent of ones: a weak test
    >>> score = mutation_score(test, lambda dy, x: 2 * x * dy, jnp.ones(2), x, quiet=True)
    >>> "the cotangent is ignored" in score.survived
    True
    """
    args = _with_cotangent(backward, args)
    if not _passes(test, backward):
        raise ValueError("the test rejects the backward itself, so its verdicts on wrong versions mean nothing.")
    out = MutationScore([], [], [], [])
    for mutant in mutants(backward, *args):
        if not _passes(test, mutant):
            out.killed.append(mutant.name)
        elif mutant.kind == "convention":
            out.conventions.append(mutant.name)
        elif equals(mutant, backward, args):
            out.equivalent.append(mutant.name)
        else:
            out.survived.append(mutant.name)
    if not quiet:
        print(out)
    return out


def _passes(test: Callable[[Callable[..., Any]], Any], candidate: Callable[..., Any]) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return test(candidate) is not False
        except Exception:  # a test may reject in any way: an assertion, or an error raised by the wrong version
            return False


def equals(mutant: Mutant, backward: Callable[..., Any], args: Sequence[Any], within: float = 0.0) -> bool:
    """Whether a mutant equals the backward at random, large, zero and tied values of the arguments.

    Each entry in every bit, or up to `within` of itself.
    """

    def same(x: np.ndarray, y: np.ndarray) -> bool:
        near = within > 0 and x.shape == y.shape and np.allclose(x, y, rtol=within, atol=0.0, equal_nan=True)
        return near or np.array_equal(x, y, equal_nan=True)

    rng = np.random.default_rng(0)
    both = jax.jit(lambda *a: (mutant(*a), backward(*a)))
    for scale in (1.0, 0.0, 30.0, 1e3, -4.0, 1e-3):
        for _ in range(4):
            moved = jax.tree.map(lambda x, scale=scale: _moved(x, scale, rng), tuple(args))
            try:
                a, b = both(*moved)
            except TypeError:  # static arguments cannot be traced
                a, b = mutant(*moved), backward(*moved)
            pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
            if not all(same(np.asarray(x), np.asarray(y)) for x, y in pairs):
                return False
    return True


def _moved(x: Any, scale: float, rng: np.random.Generator) -> Any:
    if not _is_float(x):
        return x
    shape = np.shape(x)
    values = np.round(rng.standard_normal(shape), 1) + scale * rng.choice([-1.0, 0.5, 1.0], shape)
    return jnp.asarray(values * (scale != 0), jnp.result_type(x))


def _is_float(x: Any) -> bool:
    return isinstance(x, float) or (
        isinstance(x, (np.ndarray, np.generic, jax.Array)) and bool(jnp.issubdtype(x.dtype, jnp.floating))
    )


def _with_cotangent(backward: Callable[..., Any], args: Sequence[Any]) -> tuple[Any, ...]:
    """args, with a cotangent put in front where they are the inputs only."""
    try:
        parameters = inspect.signature(backward).parameters.values()
    except (TypeError, ValueError):
        return tuple(args)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return tuple(args)
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) != len(args) + 1:
        return tuple(args)
    shapes = [np.shape(x) for x in jax.tree.leaves(args) if hasattr(x, "shape")]
    ends = [(a[0], b[-1]) for a in shapes for b in shapes if a and b]
    dtype = next(jnp.result_type(x) for x in jax.tree.leaves(args) if _is_float(x))
    for shape in [*shapes, *ends, *[s[:1] for s in shapes], *[s[:-1] for s in shapes], ()]:
        dy = jnp.asarray(cotangents([shape], ["given"])[0][0], dtype)
        try:
            out = jax.eval_shape(lambda *a, dy=dy: backward(dy, *a), *args)
        except Exception:  # this cotangent does not fit
            continue
        if [g.shape for g in jax.tree.leaves(out)] == [np.shape(x) for x in jax.tree.leaves(args) if _is_float(x)]:
            return (dy, *args)
    raise ValueError("no cotangent was found that fits; pass it before the inputs: mutants(backward, dy, *inputs).")


def _cotangent_mutants(backward: Callable[..., Any], args: Sequence[Any]) -> Iterator[Mutant]:
    def flat(dy: Any) -> Any:
        return jnp.reshape(dy, (-1,))

    size = max((np.size(dy) for dy in jax.tree.leaves(args[0])), default=1)
    changes: list[tuple[str, Callable[[Any], Any]]] = [
        ("the cotangent is ignored", jnp.ones_like),
        ("absolute value of the cotangent", jnp.abs),
        ("the cotangent squared", jnp.square),
    ]
    if size > 1:
        changes += [
            ("first entry of the cotangent for all", lambda dy: jnp.full_like(dy, flat(dy)[0])),
            ("mean of the cotangent for all", lambda dy: jnp.full_like(dy, jnp.mean(dy))),
            ("the cotangent reversed", lambda dy: flat(dy)[::-1].reshape(dy.shape)),
            ("last entry of the cotangent dropped", lambda dy: flat(dy).at[-1].set(0).reshape(dy.shape)),
        ]
    for text, change in changes:
        yield Mutant(text, "cotangent", lambda dy, *a, c=change: backward(
            jax.tree.map(lambda v: c(v) if _floats(v) else v, dy), *a), "cotangent")  # fmt: skip


def _floats(v: Any) -> bool:
    return getattr(v, "dtype", None) != jax.dtypes.float0 and bool(jnp.issubdtype(jnp.result_type(v), jnp.floating))


def _output_mutants(backward: Callable[..., Any], args: Sequence[Any]) -> Iterator[Mutant]:
    out = backward(*args) if _has_static(args) else jax.eval_shape(lambda *a: backward(*a), *args)
    leaves = jax.tree.leaves(out)
    floats = [i for i, g in enumerate(leaves) if g.dtype != jax.dtypes.float0]

    def edit(i: int, change: Callable[[Any], Any]) -> Callable[..., Any]:
        def wrong(*a: Any) -> Any:
            out, own = jax.tree.flatten(backward(*a))
            out[i] = change(jnp.asarray(out[i]))
            return jax.tree.unflatten(own, out)

        return wrong

    for i in floats:
        g = leaves[i]
        where = f"gradient {i}" if len(floats) > 1 else "the gradient"
        yield Mutant(f"{where} zero", "interface", edit(i, jnp.zeros_like), "zero")
        yield Mutant(f"{where} with the sign flipped", "interface", edit(i, jnp.negative), "sign")
        for factor in (1 + 1e-4, 1 + 1e-6):
            yield Mutant(f"{where} times {factor:.7g}", "tiny", edit(i, lambda v, f=factor: v * _of(v, f)), "factor")
        yield Mutant(f"{where} plus 0.001", "tiny", edit(i, lambda v: v + _of(v, 1e-3)), "offset")
        yield Mutant(f"{where} rounded to float16", "precision", edit(
            i, lambda v: jnp.clip(v, -6e4, 6e4).astype(jnp.float16).astype(v.dtype)), "precision")  # fmt: skip
        size = int(np.prod(g.shape))
        if size > 1:
            for text, change in (
                (f"last entry of {where} zero", lambda v: v.at[-1].set(0)),
                (f"one entry of {where} times 1.5", lambda v: v.at[v.size // 2].multiply(_of(v, 1.5))),
                (f"one entry of {where} times 1.01", lambda v: v.at[v.size // 3].multiply(_of(v, 1.01))),
            ):
                yield Mutant(text, "sparse", edit(i, lambda v, c=change: c(v.reshape(-1)).reshape(v.shape)), "entries")
        if g.ndim >= 1 and g.shape[0] > 1:
            yield Mutant(f"{where} rolled by one", "interface", edit(i, lambda v: jnp.roll(v, 1, 0)), "rolled")
            yield Mutant(f"first row of {where} zero", "interface", edit(i, lambda v: v.at[0].set(0)), "entries")
        if g.ndim == 2 and g.shape[0] == g.shape[1] > 1:
            yield Mutant(f"{where} transposed", "interface", edit(i, lambda v: v.T), "transposed")
        for j in floats:
            if j > i and leaves[j].shape == g.shape:

                def swap(*a: Any, i: int = i, j: int = j) -> Any:
                    out, own = jax.tree.flatten(backward(*a))
                    out[i], out[j] = out[j], out[i]
                    return jax.tree.unflatten(own, out)

                yield Mutant(f"gradients {i} and {j} swapped", "interface", swap, "swapped")


def _of(v: Any, number: float) -> Any:
    return jnp.asarray(number, v.dtype)


def _has_static(args: Sequence[Any]) -> bool:
    return any(not isinstance(x, (np.ndarray, np.generic, jax.Array, float)) for x in jax.tree.leaves(tuple(args)))


def _region_mutants(backward: Callable[..., Any], args: Sequence[Any]) -> Iterator[Mutant]:
    """Right at ordinary inputs, wrong in a tail, where saturated, or at zero."""
    inputs = [x for x in jax.tree.leaves(tuple(args[1:])) if _is_float(x)]
    regions: list[tuple[str, str, Callable[[Any, Any], Any]]] = [
        ("1.1 times where x < -3", "tail", lambda g, x: jnp.where(x < -3, g * _of(g, 1.1), g)),
        ("NaN where abs(x) > 20", "saturation", lambda g, x: jnp.where(jnp.abs(x) > 20, _of(g, np.nan), g)),
        ("NaN where x = 0", "zero input", lambda g, x: jnp.where(x == 0, _of(g, np.nan), g)),
        ("outside the subdifferential where x = 0", "kink",
         lambda g, x: jnp.where(x == 0, g + 3 * jnp.max(jnp.abs(g)) + _of(g, 1), g)),
    ]  # fmt: skip
    for i in range(len(inputs)):
        for text, kind, change in regions:

            def wrong(*a: Any, i: int = i, change: Callable[[Any, Any], Any] = change) -> Any:
                out, own = jax.tree.flatten(backward(*a))
                mine = [x for x in jax.tree.leaves(tuple(a[1:])) if _is_float(x)]
                if i < len(out) and np.shape(out[i]) == np.shape(mine[i]):
                    out[i] = change(jnp.asarray(out[i]), jnp.asarray(mine[i]))
                return jax.tree.unflatten(own, out)

            yield Mutant(f"input {i}: {text}", kind, wrong, "region")
