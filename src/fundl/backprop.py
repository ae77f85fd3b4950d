"""Backpropagation: the chain rule over a chain of operations, with nothing but hand-written backwards.

A chain is v_0 = X, v_i = f_i(v_{i-1}, parameters of step i), J = loss(v_m, y). The forward pass records every v_i.
The backward pass starts from dJ = 1 and walks back, each step turning dv_i into dv_{i-1} and the gradients of its
own parameters; a parameter that several steps share collects the sum. No autodiff takes part: `ledger` holds the
result against `jax.grad`, row by row.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check, _from_output, activations, layers, losses
from fundl._types import Array, ArrayLike
from fundl.verify._judge import AGREEMENT, agreement

__all__ = ["Chain", "Ledger", "Row", "Step", "chain", "forward", "ledger", "linear", "step", "value_and_grad"]

Params = Any  # a mapping or a sequence of arrays; a step names its own by key or by index


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation of a chain: v_new = forward(v, *parameters), and its backward by the law of the pair.

    Attributes:
        forward: takes the value before it, then its parameters.
        backward: takes the cotangent, then what `forward` takes; returns one gradient for each of those.
        keys: where its parameters are in the container of parameters: keys of a mapping, indices of a sequence.
        name: how tables call it.
        from_output: where given, used in place of `backward` by a step without parameters: it takes the cotangent and
            the step's output, so that its input need not be kept.
    """

    forward: Callable[..., Array]
    backward: Callable[..., Any]
    keys: tuple[Any, ...] = ()
    name: str = ""
    from_output: Callable[[Array, Array], Array] | None = None


@dataclasses.dataclass(frozen=True)
class Chain:
    """A network and its loss: J = loss(f_m(... f_1(X) ...), y). Hashable, so it can be a static argument of jit."""

    steps: tuple[Step, ...]
    loss: Step


def linear(W: Any, b: Any) -> Step:
    """The step z = v W + b with the parameters stored under the keys `W` and `b`.

    >>> linear("W1", "b1").name
    'linear(W1, b1)'
    """
    return Step(layers.linear, layers.linear_backward, (W, b), f"linear({W}, {b})")


def step(operation: str | Callable[..., Array] | Step, *, residual: str = "output") -> Step:
    """A step from an activation's name, or from a function `f` whose module has an `f_backward`.

    residual: what an activation of fundl takes its derivative from. "output" (default) keeps only a = g(z), where g'
    is a function of a, and needs the least memory; sigmoid, tanh and elu then lose relative digits of derivatives
    that are nearly 0, as autodiff does. "input" keeps z too, and every digit.
    Errors: ValueError where no backward can be found; write `Step(f, f_backward, keys, name)` then.

    >>> step("tanh").backward is activations.tanh_backward
    True
    """
    _check.choice("residual", residual, ("output", "input"))
    found = _paired(operation, activations, "an activation")
    if residual == "output" and getattr(activations, found.name, None) is found.forward:
        return dataclasses.replace(found, from_output=_from_output.BACKWARD.get(found.name))
    return found


def chain(
    *operations: str | Callable[..., Array] | Step,
    loss: str | Callable[..., Array] | Step,
    residual: str = "output",
) -> Chain:
    """A chain of operations and the loss at its end; names are looked up in `activations` and `losses`.

    residual: "output" or "input", as in `step`.

    >>> net = chain(linear("W1", "b1"), "tanh", linear("W2", "b2"), loss="cross_entropy_with_logits")
    >>> [s.name for s in net.steps]
    ['linear(W1, b1)', 'tanh', 'linear(W2, b2)']
    """
    last = _paired(loss, losses, "a loss")
    if last.name.startswith("linear_") and last.forward is getattr(losses, last.name, None):
        raise ValueError(
            f"loss={last.name!r} makes the logits X W + b itself and takes no output of a chain; "
            f"give {last.name.removeprefix('linear_') + '_with_logits'!r}, which is the same loss of the logits."
        )
    return Chain(tuple(step(f, residual=residual) for f in operations), last)


def forward(chain: Chain, params: Params, X: ArrayLike) -> tuple[Array, ...]:
    """Every value of the chain, X first and the output last: v_0 = X, v_i = f_i(v_{i-1}).

    >>> net = chain(linear("W", "b"), "relu", loss="mse")
    >>> params = {"W": jnp.array([[1.0], [1.0]]), "b": jnp.array([-4.0])}
    >>> print(*forward(net, params, jnp.array([[1.0, 2.0]])))
    [[1. 2.]] [[-1.]] [[0.]]
    """
    values = [_check.array("X", X)]
    for s in chain.steps:
        values.append(s.forward(values[-1], *_own(params, s)))
    return tuple(values)


def value_and_grad(chain: Chain) -> Callable[..., tuple[Array, Params]]:
    """The function (params, X, y, **options of the loss) -> (J, dJ/dparams), by hand; as `jax.value_and_grad` answers.

    With dv_m = loss_backward(1, v_m, y), step i gives dv_{i-1} and its parameters' gradients from dv_i.
    Shapes: the gradient is a container like `params` (of its type where jax knows that as a pytree, else a dict or a
    list), each entry shaped like its parameter; a parameter that no step uses gets zeros, one that several use the sum.
    Errors: ValueError names a parameter that is missing; those of the operations themselves.

    >>> net = chain(linear("W", "b"), loss="mse")
    >>> params = {"W": jnp.array([[1.0], [1.0]]), "b": jnp.array([0.0])}
    >>> J, grads = value_and_grad(net)(params, jnp.array([[1.0, 2.0]]), jnp.array([[1.0]]))
    >>> print(J, grads["W"].ravel(), grads["b"])
    4.0 [4. 8.] [4.]

    Source: Goodfellow, Bengio and Courville, Deep Learning, algorithms 6.3 and 6.4.
    """

    def by_hand(params: Params, X: ArrayLike, y: ArrayLike, **options: Any) -> tuple[Array, Params]:
        values, J = _values_and_loss(chain, params, X, y, options)
        total: dict[Any, Array] = {}
        for s, _, d_own in _backward(chain, params, values, y, J, options):
            for key, g in zip(s.keys, d_own, strict=True):
                total[key] = total[key] + g if key in total else g  # a weight sums over every place it acts in
        return J, _like(params, total)

    return by_hand


def _values_and_loss(
    chain: Chain, params: Params, X: ArrayLike, y: ArrayLike, options: Mapping[str, Any]
) -> tuple[tuple[Array, ...], Array]:
    if options.get("reduction") == "none":
        raise ValueError('reduction="none" gives many values, and a gradient needs one; use "mean" or "sum".')
    values = forward(chain, params, _check.without_left_out(X, options.get("weights")))
    return values, chain.loss.forward(values[-1], y, **options)


def _backward(
    chain: Chain, params: Params, values: Sequence[Array], y: ArrayLike, J: Array, options: Mapping[str, Any]
) -> list[tuple[Step, Array, tuple[Array, ...]]]:
    """From the loss back to X: each operation with the gradients of its input and of its parameters."""
    dv = _first(chain.loss.backward(jnp.ones_like(J), values[-1], y, **options))  # J = loss(v_m, y)
    found: list[tuple[Step, Array, tuple[Array, ...]]] = [(chain.loss, dv, ())]
    for s, v, v_new in zip(reversed(chain.steps), reversed(values[:-1]), reversed(values[1:]), strict=True):
        by_output = s.from_output
        # v_new = f(v, parameters)
        gradients = by_output(dv, v_new) if by_output else s.backward(dv, v, *_own(params, s))
        dv, *d_own = gradients if isinstance(gradients, tuple) else (gradients,)
        given = [jnp.shape(d) for d in (dv, *d_own)]
        wanted = [jnp.shape(p) for p in (v, *_own(params, s))]
        if given != wanted:
            raise ValueError(f"The backward of {s.name} returned gradients of shapes {given}; its inputs have {wanted}")
        found.append((s, dv, tuple(d_own)))
    return found


# ---- the ledger ----------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity v of the chain: dJ/dv by hand and by autodiff.

    Attributes:
        name: the quantity, as `v2` or `W1`.
        operation: whose backward produced the gradient by hand.
        value: v itself.
        by_hand: dJ/dv by the hand-written backwards.
        by_autodiff: dJ/dv by `jax.grad`.
        error: the largest difference in units of rounding, as `fundl.verify.judge` counts them.
        code: 0 exact, 1 within rounding, 2 wrong; read it through `agreement`.
    """

    name: str = dataclasses.field(metadata={"static": True})
    operation: str = dataclasses.field(metadata={"static": True})
    value: Array
    by_hand: Array
    by_autodiff: Array
    error: Array
    code: Array

    @property
    def agreement(self) -> str:
        """exact, within rounding, or wrong; needs concrete values."""
        return AGREEMENT[int(self.code)]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ledger:
    """Every intermediate of a chain from the loss back to X; `print(ledger)` shows the table.

    Attributes:
        rows: in the order of the backward pass, so that the first wrong row names the faulty operation.
        J: the value of the loss.
    """

    rows: tuple[Row, ...]
    J: Array

    @property
    def ok(self) -> bool:
        """True when no row is wrong."""
        return self.first_wrong is None

    @property
    def first_wrong(self) -> Row | None:
        """The first wrong row of the backward pass: its operation's backward is the faulty one."""
        return next((row for row in self.rows if row.agreement == "wrong"), None)

    def __str__(self) -> str:
        head = (
            "operation",
            "gradient of",
            "shape",
            "max |value|",
            "max |by hand|",
            "max |autodiff|",
            "error",
            "agreement",
        )
        table: list[tuple[str, ...]] = [head]
        for r in self.rows:
            sizes = (f"{float(np.max(np.abs(np.asarray(a)))):.4g}" for a in (r.value, r.by_hand, r.by_autodiff))
            table.append((r.operation, r.name, str(r.by_hand.shape), *sizes, f"{float(r.error):.1f}", r.agreement))
        widths = [max(len(line[i]) for line in table) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table]
        lines.insert(1, "  ".join("-" * w for w in widths))
        wrong = self.first_wrong
        verdict = (
            "every gradient by hand agrees with autodiff"
            if wrong is None
            else f"the backward of {wrong.operation} is wrong: gradient of {wrong.name}"
        )
        return "\n".join([*lines, f"J = {float(self.J):.6g}; {verdict}"])


def ledger(chain: Chain, params: Params, X: ArrayLike, y: ArrayLike, **options: Any) -> Ledger:
    """Every intermediate of the chain: its value, its gradient by hand, by autodiff, and whether they agree.

    Works under jit: jax.jit(ledger, static_argnums=0). `options` are those of the loss. A row is exact when both
    gradients are equal to the last bit, and else judged as `fundl.verify.judge` does, entry by entry, where a step
    adds one term of rounding per operation passed and what it adds up may cancel; an X of integers has no row. What is
    wrong with an operation that is named, `fundl.verify.check_rule` tells of it alone.

    >>> net = chain(linear("W", "b"), "tanh", loss="mse")
    >>> params = {"W": jnp.array([[0.5]]), "b": jnp.array([0.1])}
    >>> book = ledger(net, params, jnp.array([[1.0], [2.0]]), jnp.array([[1.0], [0.0]]))
    >>> [(row.operation, row.name) for row in book.rows]
    [('mse', 'v2'), ('tanh', 'v1'), ('linear(W, b)', 'v0'), ('linear(W, b)', 'W'), ('linear(W, b)', 'b')]
    >>> book.ok
    True
    """
    values, J = _values_and_loss(chain, params, X, y, options)
    backward = _backward(chain, params, values, y, J, options)

    # A zero added to each value and to each use of a parameter: autodiff's gradient of that zero is the row's.
    def nudged(dv: list[Any], d_own: list[tuple[Array, ...]]) -> Array:
        v = values[0] if dv[0] is None else values[0] + dv[0]
        for s, nudge, own in zip(chain.steps, dv[1:], d_own, strict=True):
            v = s.forward(v, *(p + d for p, d in zip(_own(params, s), own, strict=True))) + nudge
        return chain.loss.forward(v, y, **options)

    zeros = (
        [jnp.zeros_like(v) if jnp.issubdtype(v.dtype, jnp.floating) else None for v in values],
        [tuple(jnp.zeros_like(p) for p in _own(params, s)) for s in chain.steps],
    )
    auto_v, auto_own = jax.grad(nudged, argnums=(0, 1))(*zeros)

    rows = []
    scale = jnp.ones((), values[-1].dtype) / values[-1].shape[0]
    for passed, (s, dv, d_own) in enumerate(backward):
        i = len(values) - 1 - passed
        if auto_v[i] is not None:
            rows.append(_row(f"v{i}", s, values[i], dv, auto_v[i], scale, passed))
        own = _own(params, s)
        inputs = _largest(values[i]).astype(scale.dtype)  # parameters' gradients add up products with them
        for key, p, g, auto in zip(s.keys, own, d_own, auto_own[i] if own else (), strict=True):
            rows.append(_row(str(key), s, p, g, auto, scale * jnp.maximum(1, inputs), passed))
        scale = _largest(dv)
    return Ledger(tuple(rows), J)


def _row(name: str, s: Step, value: Array, hand: Array, auto: Array, floor: Array, passed: int) -> Row:
    # The errors of the operations passed need not be independent: `passed` of them add up, not their squares.
    code, error = agreement(hand, auto, (passed + 1) ** 2, floor)
    return Row(name, s.name, value, hand, auto, error, code)


def _largest(x: Array) -> Array:
    return jnp.max(jnp.abs(x))


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _paired(operation: str | Callable[..., Array] | Step, module: Any, what: str) -> Step:
    if isinstance(operation, Step):
        return operation
    name = operation if isinstance(operation, str) else getattr(operation, "__name__", repr(operation))
    home = module if isinstance(operation, str) else sys.modules.get(getattr(operation, "__module__", ""), None)
    f = getattr(home, name, None) if isinstance(operation, str) else operation
    backward = getattr(home, f"{name}_backward", None)
    if f is None or backward is None:
        raise ValueError(
            f"{name!r} is not {what} with a hand-written backward in {getattr(home, '__name__', 'its module')}. "
            f"Give a name from {module.__name__}, or Step(f, f_backward, keys, name)."
        )
    return Step(f, backward, (), name)


def _own(params: Params, s: Step) -> tuple[Array, ...]:
    held = params.keys() if isinstance(params, Mapping) else range(len(params))
    missing = [key for key in s.keys if key not in held]
    if missing:
        raise ValueError(f"params must hold {missing[0]!r} for {s.name}; it holds {', '.join(map(repr, held))}.")
    return tuple(params[key] for key in s.keys)


def _first(gradients: Any) -> Array:
    return gradients[0] if isinstance(gradients, tuple) else gradients


def _like(params: Params, total: dict[Any, Array]) -> Params:
    """The gradients in a container like `params`: of its type where jax knows that, else a dict or a list."""
    keys = list(params) if isinstance(params, Mapping) else list(range(len(params)))
    found = {key: total[key] if key in total else jnp.zeros_like(params[key]) for key in keys}
    structure = jax.tree.structure(params, is_leaf=lambda v: v is not params)
    if jax.tree_util.treedef_is_leaf(structure):
        return found if isinstance(params, Mapping) else list(found.values())
    place = jax.tree.unflatten(structure, range(len(keys)))  # jax has its own order of the keys
    return jax.tree.unflatten(structure, [found[key] for key in sorted(keys, key=lambda key: place[key])])
