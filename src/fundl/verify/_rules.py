"""The checks: a rule, a gradient, a registered custom derivative; each with a twin that raises."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from fundl.verify._arguments import is_none
from fundl.verify._engine import Engine
from fundl.verify._examine import Examiner
from fundl.verify._points import Domain
from fundl.verify._report import Report

__all__ = [
    "Options", "assert_custom_vjp", "assert_gradient", "assert_rule", "check_custom_vjp", "check_gradient",
    "check_rule",
]  # fmt: skip

Function = Callable[..., Any]


class Options(TypedDict, total=False):
    """Options of every check; all have defaults that are right, and none is a tolerance.

    domain     where f has values: "positive", "probability", "simplex", "fixed", (low, high), or a function that
               maps any array into the domain; one for all arguments or a dict by name of argument
    kink       the value declared at kinks: "left", "right", "average" or "zero"; None accepts any subgradient
    reference  "auto" (autodiff, confirmed by differences), "autodiff" (alone: where f means its stop_gradient) or
               "differences" (values of f alone)
    has_aux    f returns (output, aux), and only output is differentiated
    seed       of the random points
    """

    domain: Domain | dict[str, Domain] | None
    kink: str | None
    reference: str
    has_aux: bool
    seed: int


def check_rule(f: Function, backward: Function, *args: Any, **options: Unpack[Options]) -> Report:
    """Examine a hand-written backward: the vector-Jacobian product of f.

    `backward(dy, *args)` takes the cotangent of the output first and then the arguments of f, and returns one
    gradient per argument of floating dtype, in that order (bare where there is one; None or float0 in the places of
    other arguments is accepted, and None means zeros). Arguments may be pytrees; integer arrays are held in the
    range given; anything that is not an array is passed on as it is. An examination does not see second derivatives,
    what a rule reads from outside of its arguments, sizes far from those given (a branch taken above 100 rows, say),
    another number of axes than those given, nor a fault at values that no point reaches, such as one single odd number
    or magnitudes beyond 1e7.

    f is called far from the arguments given, at 1e6 too. One that loops until a tolerance is met may never end there:
    let it stop after some number of steps, or say by `domain` where it is meant to work. Differences tell no more of
    such an f than its tolerance leaves.
    Options: see `Options`. Errors: TypeError where no argument or no output is a floating array.

    >>> import jax.numpy as jnp
    >>> report = check_rule(jnp.tanh, lambda dy, x: dy * (1 + jnp.tanh(x) ** 2), jnp.array([0.5, 2.0]))
    >>> report.ok
    False
    """
    return _examiner(f, args, options).check(backward, _name(f))


def check_gradient(
    f: Function, gradient: Function, *args: Any, argnums: int | Sequence[int] | None = None, **options: Unpack[Options]
) -> Report:
    """Examine a hand-written gradient of a scalar function.

    `gradient(*args)` returns one gradient per argument of floating dtype, or like `jax.grad` only that of the
    first argument; the structure tells which, and the report says so. argnums states it, as in `jax.grad`.
    Options: see `Options`. Errors: ValueError where f is not scalar, TypeError where nothing is differentiable.

    >>> import jax.numpy as jnp
    >>> check_gradient(lambda w: jnp.sum(w * w), lambda w: 2 * w, jnp.array([1.0, -2.0])).ok
    True
    """
    try:
        shown = gradient(*args)
    except Exception:  # the report says so, as of a rule
        shown = None
    wrt = _which(shown, args, argnums)
    examiner = _examiner(f, args, options, wrt=wrt)
    if examiner.engine.shapes != [()]:
        raise ValueError(
            f"f must return one scalar; its outputs have shapes {examiner.engine.shapes}. "
            "Use check_rule for functions of any output."
        )
    single = argnums if isinstance(argnums, int) else None

    def backward(dy: Any, *inputs: Any) -> Any:
        grads = gradient(*inputs)
        (scale,) = [v for v in jax.tree.leaves(dy) if getattr(v, "dtype", None) != jax.dtypes.float0]
        bare = single is not None or (wrt == [0] and not _is_tuple_of(grads, 1, inputs[0]))
        return jax.tree.map(
            lambda g: None if g is None else jnp.asarray(scale).astype(jnp.result_type(g)) * g,
            (grads,) if bare else grads,
            is_leaf=is_none,
        )

    report = examiner.check(backward, _name(f))
    names = ", ".join(examiner.arguments.names[i] for i in examiner.arguments.arguments)
    report.notes.insert(0, f"gradients taken to be those of: {names}")
    return report


def check_custom_vjp(f: Function, *args: Any, **options: Unpack[Options]) -> Report:
    """Examine a `jax.custom_vjp` or `jax.custom_jvp` function against autodiff of its own undecorated primal.

    The forward rule's value is compared too. A `jax.jit` or `functools.partial` around it is seen through. Where jax
    has no derivative of the primal (a while_loop, a pure_callback), differences judge. Once another forward is run
    between a forward and its backward, so one that reads what a forward left outside of the residuals is found; see
    `check_rule` for what is not seen.
    Options: see `Options`. Errors: TypeError where f carries no custom rule.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_jvp
    ... def square(x):
    ...     return x * x
    >>> square.defjvps(lambda t, y, x: 2 * x * t)
    >>> check_custom_vjp(square, jnp.array([1.0, -3.0])).ok
    True
    """
    found = _unwrap(f)
    if found is None:
        raise TypeError(f"{_name(f)} carries no custom rule; use check_rule(f, backward, ...) for a plain function.")
    examiner = _examiner(found.primal, args, options, fixed=found.fixed)
    decorated = Engine(f, args, examiner.arguments, bool(options.get("has_aux", False)))

    def backward(dy: Any, *inputs: Any) -> Any:
        flat = jax.tree.leaves(dy)
        dys = [flat[i] for i in decorated.outputs]
        return examiner.arguments.pack(decorated.autodiff(examiner.arguments.take(inputs), dys)[1])

    def own_value(leaves: list[Any]) -> list[Any]:
        zeros = [jnp.zeros(v.shape, v.dtype) for v in examiner.engine.values(leaves)]
        return examiner.engine.follow(lambda leaves, zeros: decorated.autodiff(leaves, zeros)[0], leaves, zeros)

    def crossed(leaves: list[Any], dys: list[Any], others: list[Any]) -> list[Any]:
        _, pull = decorated.pullback(leaves)
        decorated.pullback(others)
        return pull(dys)

    return examiner.check(backward, _name(f), own_value, crossed)


def assert_rule(f: Function, backward: Function, *args: Any, **options: Unpack[Options]) -> None:
    """`check_rule`, raising AssertionError with the report.

    >>> assert_rule(lambda x: 3 * x, lambda dy, x: 3 * dy, 1.0)
    """
    _assert(check_rule(f, backward, *args, **options))


def assert_gradient(
    f: Function, gradient: Function, *args: Any, argnums: int | Sequence[int] | None = None, **options: Unpack[Options]
) -> None:
    """`check_gradient`, raising AssertionError with the report.

    >>> assert_gradient(lambda x: x * x, lambda x: 2 * x, 1.5)
    """
    _assert(check_gradient(f, gradient, *args, argnums=argnums, **options))


def assert_custom_vjp(f: Function, *args: Any, **options: Unpack[Options]) -> None:
    """`check_custom_vjp`, raising AssertionError with the report.

    >>> import jax
    >>> assert_custom_vjp(jax.nn.relu, 1.5)
    """
    _assert(check_custom_vjp(f, *args, **options))


def _examiner(f: Function, args: Sequence[Any], options: Options, **own: Any) -> Examiner:
    unknown = [name for name in options if name not in Options.__annotations__]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is no option of a check; there are {', '.join(Options.__annotations__)}.")
    return Examiner(f, args, **options, **own)


class _Custom(NamedTuple):
    primal: Function
    fixed: tuple[int, ...]


def _unwrap(f: Any) -> _Custom | None:
    """The undecorated primal of a custom rule, under any jit and partial, and its static arguments."""
    if isinstance(f, (jax.custom_vjp, jax.custom_jvp)):
        return _Custom(f.fun, tuple(f.nondiff_argnums))
    if isinstance(f, functools.partial):
        inner = _unwrap(f.func)
        if inner is None:
            return None
        fixed = tuple(i - len(f.args) for i in inner.fixed if i >= len(f.args))
        return _Custom(functools.partial(inner.primal, *f.args, **f.keywords), fixed)
    return _unwrap(f.__wrapped__) if hasattr(f, "__wrapped__") else None


def _which(grads: Any, args: Sequence[Any], argnums: int | Sequence[int] | None) -> list[int] | None:
    """The arguments that a gradient belongs to; None for every differentiable one."""
    if argnums is not None:
        asked = [argnums] if isinstance(argnums, int) else list(argnums)
        if any(not -len(args) <= i < len(args) for i in asked):
            raise ValueError(f"argnums must name arguments among 0..{len(args) - 1}; got {argnums}.")
        return [i % len(args) for i in asked]
    if _like(grads, args[0]) or _is_tuple_of(grads, 1, args[0]):
        return [0]
    if not isinstance(grads, (tuple, list)):
        return [0]
    return None


def _is_tuple_of(grads: Any, count: int, first: Any) -> bool:
    return isinstance(grads, tuple) and len(grads) == count and not _like(grads, first) and _like(grads[0], first)


def _like(grads: Any, argument: Any) -> bool:
    """Whether grads has the tree and the shapes of an argument."""
    a, tree = jax.tree.flatten(grads, is_leaf=is_none)
    b, own = jax.tree.flatten(argument, is_leaf=is_none)
    return tree == own and all(x is None or np.shape(x) == np.shape(y) for x, y in zip(a, b, strict=True))


def _name(f: Any) -> str:
    while isinstance(f, functools.partial):
        f = f.func
    return getattr(f, "__name__", type(f).__name__)


def _assert(report: Report) -> None:
    if not report.ok:
        raise AssertionError("\n" + str(report))
