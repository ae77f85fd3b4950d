"""Gradient descent, and any optimiser of optax, as one compiled loop with history, stop reason and resumable state.

The lecture's rule is theta <- theta - eta dJ/dtheta: `minimize(..., optimizer=eta)`. Momentum, Adam, schedules and
the rest come from optax: `minimize(..., optimizer=optax.adam(1e-3))`.
"""

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fundl import _check
from fundl._result import Status, check_status, status_of
from fundl._types import Array, ArrayLike
from fundl.descent._batches import batch_at, order_of_rows
from fundl.norms import l2_of_leaves

__all__ = ["Result", "State", "minimize"]

Loss = Callable[..., Array]

# optax mixes dtypes, which a program with jax_numpy_dtype_promotion="strict" would refuse.
_optax_promotion = partial(jax.numpy_dtype_promotion, "standard")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything a descent needs to go on: give it back as `state=`, or keep it with `checkpoint.save`.

    Attributes:
        params: the current parameters.
        opt_state: the optimiser's memory (momenta, the count of its schedule).
        step: updates made so far.
        key: shuffles the batches; None for full batches.
    """

    params: Any
    opt_state: Any
    step: Array
    key: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Result:
    """What `minimize` returns; a pytree.

    Attributes:
        params: the parameters reached; the last finite ones when the descent met a NaN or an infinity.
        history: the loss before each update, and that at which the descent stopped (of the batch, with batches).
            Inside a trace its length is the steps asked for, with NaN after the stop.
        gradient_norms: the Euclidean norm of the gradient at the same points; inf where the gradient is NaN.
        state: to resume from.
        code: the status as an int32 array; read it through `status`.
        tol: the tolerance that was asked for, or None.
    """

    params: Any
    history: Array
    gradient_norms: Array
    state: State
    code: Array
    tol: ArrayLike | None = None

    @property
    def status(self) -> Any:
        """converged (gradient norm at most tol), max_steps, or non_finite; an array of codes when traced or batched."""
        return status_of(self.code)

    def check(self) -> "Result":
        """Return self, or raise `FitError` with the status's advice.

        Taking every step is what was asked for when no `tol` was given, and passes.
        """
        passed = (self.code == Status.max_steps) & (self.tol is None)
        check_status(jnp.where(passed, jnp.zeros_like(self.code), self.code), "Result")
        return self

    def __str__(self) -> str:
        if isinstance(self.code, jax.core.Tracer) or self.code.ndim:
            return f"Result(traced or batched, params={jax.tree.structure(self.params)})"
        taken = self.history.shape[0] - (self.status != Status.max_steps)
        ends = f"{float(self.history[0]):.6g} -> {float(self.history[-1]):.6g}"
        return f"Result: {self.status.name} after {taken} steps: loss {ends}"


def minimize(
    loss: Loss | None,
    params: Any,
    *,
    data: tuple[ArrayLike, ...] = (),
    optimizer: optax.GradientTransformation | ArrayLike,
    steps: int,
    gradient: Callable[..., Any] | None = None,
    value_and_gradient: Callable[..., tuple[Array, Any]] | None = None,
    batch_size: int | None = None,
    key: Array | None = None,
    tol: ArrayLike | None = None,
    state: State | None = None,
    progress: bool = False,
) -> Result:
    """Minimise J(theta) = loss(theta, *data) by theta <- theta - eta dJ/dtheta, or by an optimiser of optax.

    Args:
        loss: scalar function (params, *data); may be None when `value_and_gradient` is given.
        params: where to start; any pytree of floating arrays.
        data: arrays with one row for each example, handed to `loss` after `params`.
        optimizer: a number eta for the lecture's rule, or an optax transformation (line searches and L-BFGS too).
        steps: updates to make (in this call, when resuming).
        gradient: hand-written dJ/dparams with the arguments of `loss`; `jax.grad` of it when None.
        value_and_gradient: both at once, in place of `gradient`.
        batch_size: rows of a mini-batch; all rows when None. Every epoch is a new permutation of the rows, and the
            n mod batch_size rows at its end wait for the next epoch.
        key: random key for the permutations; needed with `batch_size`.
        tol: stop when the gradient norm is at most tol (of the batch, with batches); None makes all `steps`.
        state: a `Result.state` to resume from; it replaces `params`, `key` and the optimiser's start.
        progress: show a bar on stderr as it runs (its last line alone where that is no terminal); not inside a trace.

    A NaN or an infinity in the loss, the gradient or the update stops the descent before it enters the parameters:
    status non_finite. Without `tol` the loop is a scan and can be differentiated in both modes, with `tol` a
    while loop and can be differentiated forwards. The compiled program is kept for the same functions, the same
    optimizer object and the same shapes; a number as optimizer never recompiles.

    Errors: ValueError or TypeError naming the argument: steps < 1, tol < 0, rows that do not match, a missing key,
    the state of another optimizer.

    >>> result = minimize(lambda theta: (theta - 3.0) ** 2, jnp.array(0.0), optimizer=0.25, steps=50, tol=1e-6)
    >>> print(round(float(result.params), 3), result.status, result.history.shape[0] < 50)
    3.0 converged True

    Source: Goodfellow, Bengio and Courville, Deep Learning, 4.3 and algorithm 8.1; optax for its transformations.
    """
    steps = _positive_int("steps", steps)
    if not isinstance(data, tuple | list):
        raise TypeError(f"data must be a tuple of arrays such as (X, y); got {type(data).__name__}.")
    arrays = {f"data[{i}]": _check.array(f"data[{i}]", x) for i, x in enumerate(data)}
    if data:
        rows = _check.examples(**arrays)
        batch_size = None if batch_size is None else _positive_int("batch_size", batch_size)
        if batch_size is not None and batch_size > rows:
            raise ValueError(f"batch_size is {batch_size} but data has only {rows} rows; use at most {rows}, or None.")
    if batch_size is not None:
        if not data:
            raise ValueError("batch_size needs data=(X, y, ...): arrays with one row for each example.")
        if key is None and (state is None or state.key is None):
            raise ValueError("batch_size needs key=jax.random.key(seed), which shuffles the rows.")
    if value_and_gradient is not None and gradient is not None:
        raise TypeError("Give gradient= or value_and_gradient=, not both.")
    if value_and_gradient is None and not callable(loss):
        raise TypeError(f"loss must be a function (params, *data) -> scalar; got {loss!r}.")
    functions = loss, gradient, value_and_gradient  # a hashable key of the compiled program
    transformation = optimizer if isinstance(optimizer, optax.GradientTransformation) else None
    if transformation is None and hasattr(optimizer, "gradient_transformation"):
        name = type(optimizer).__name__
        raise TypeError(
            f"optimizer is an optax.{name}; give its transformation, optax.{name}(...).gradient_transformation()."
        )
    if transformation is None and callable(optimizer):
        raise TypeError(
            f"optimizer must be a learning rate or an optax transformation; got the function {optimizer!r}. "
            "Call it first, optax.adam(1e-3), and give a schedule to a transformation, optax.sgd(schedule)."
        )
    name = "optimizer (a learning rate or an optax transformation)"
    eta = None if isinstance(optimizer, optax.GradientTransformation) else _check.scalar(name, optimizer)
    if tol is not None:
        _check.scalar("tol", tol)
        _check.nonnegative("tol", tol)
    if key is not None:
        _check.random_key("key", key)
    if state is None:
        params = jax.tree.map(_floating_leaf, params)
        if not jax.tree.leaves(params):
            raise ValueError(f"params must hold at least one array to minimise over; got {params!r}.")
        opt_state = _start(transformation, params)
        state = State(params, opt_state, jnp.zeros((), jnp.int32), None if batch_size is None else key)
    else:
        _refuse_state_of_another(transformation, state)
        if batch_size is not None and state.key is None:
            state = dataclasses.replace(state, key=key)

    run = partial(_run, functions, transformation, batch_size, tol is not None)
    if progress:
        state, history, norms, code = _run_with_progress(run, steps, eta, tol, tuple(arrays.values()), state)
    else:
        state, history, norms, code = run(steps, eta, tol, tuple(arrays.values()), state)
    if not any(isinstance(x, jax.core.Tracer) for x in (code, history)):
        # The loop returns as many entries as steps asked for; outside a trace the tail without steps is cut off.
        seen = int(jnp.sum(~jnp.isnan(norms))) if tol is not None or int(code) == Status.non_finite else steps
        history, norms = history[:seen], norms[:seen]
    return Result(state.params, history, norms, state, code, tol)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _run(
    functions: tuple[Loss | None, Loss | None, Loss | None],
    transformation: optax.GradientTransformation | None,
    batch_size: int | None,
    stops: bool,
    steps: int,
    eta: Array | None,
    tol: ArrayLike | None,
    data: tuple[Array, ...],
    state: State,
) -> tuple[State, Array, Array, Array]:
    """`steps` updates in one program: the state reached, the loss and gradient norm of each step, the status code."""

    def update(state: State, g: Any, J: Array, batch: tuple[Array, ...]) -> tuple[State, Array]:
        """The state after one update, and its code; an update that is not finite leaves the state as it is."""
        if transformation is None:
            rate = jnp.asarray(eta)
            updates, opt_state = jax.tree.map(lambda d: -rate.astype(d.dtype) * d, g), state.opt_state
        else:
            with _optax_promotion():
                extra = {"value": J, "grad": g, "value_fn": lambda p: _evaluate(functions, p, batch)[0]}
                advanced = optax.with_extra_args_support(transformation)
                updates, opt_state = advanced.update(g, state.opt_state, state.params, **extra)
        moved = optax.apply_updates(state.params, updates)
        # 0 times what is not finite is NaN; no sum of finite entries overflows here.
        finite = jnp.stack([jnp.isfinite(jnp.sum(0 * v)) for v in jax.tree.leaves(moved)]).all()
        params, opt_state = jax.lax.cond(finite, lambda: (moved, opt_state), lambda: (state.params, state.opt_state))
        code = jnp.where(finite, jnp.int32(Status.max_steps), jnp.int32(Status.non_finite))
        return State(params, opt_state, state.step + finite.astype(jnp.int32), state.key), code

    def measured(params: Any, batch: tuple[Array, ...]) -> tuple[Array, Any, Array]:
        """The loss, its gradient and the norm of that; inf where it is NaN, which stands for no step at all."""
        J, g = _evaluate(functions, params, batch)
        norm = l2_of_leaves(g)
        return J, g, jnp.where(jnp.isnan(norm), jnp.full_like(norm, jnp.inf), norm)

    def advance(carry: Any) -> tuple[Any, tuple[Array, Array]]:
        state, order, code = carry
        if batch_size is not None:
            order = order_of_rows(data, order, state.step, state.key, batch_size)
        batch = data if batch_size is None else batch_at(data, order, state.step, batch_size)
        J, g, norm = measured(state.params, batch)
        finite = jnp.isfinite(J) & jnp.isfinite(norm)
        found = jnp.where(finite, jnp.int32(Status.max_steps), jnp.int32(Status.non_finite))
        if stops:
            converged = finite & (norm <= jnp.asarray(tol).astype(norm.dtype))
            found = jnp.where(converged, jnp.int32(Status.converged), found)
        # A branch, since choosing between the new and the old state entry by entry would read and write all of it
        # once more. Under vmap it becomes that choice, and a finished lane keeps its state.
        running = code == Status.max_steps
        found = jnp.where(running, found, code)
        state, code = jax.lax.cond(
            found == Status.max_steps, lambda s: update(s, g, J, batch), lambda s: (s, found), state
        )
        seen = jax.tree.map(lambda v: jnp.where(running, v, jnp.full_like(v, jnp.nan)), (J, norm))
        return (state, order, code), seen

    order = None if batch_size is None else order_of_rows(data, None, state.step, state.key, batch_size)
    carry = state, order, jnp.int32(Status.max_steps)
    if not stops:
        (state, _, code), (history, norms) = jax.lax.scan(lambda c, _: advance(c), carry, length=steps)
        return state, history, norms, code

    def body(loop: Any) -> Any:
        i, carry, history, norms = loop
        carry, (J, norm) = advance(carry)
        return i + 1, carry, history.at[i].set(J), norms.at[i].set(norm)

    shapes = jax.eval_shape(measured, state.params, data)
    empty = tuple(jnp.full((steps,), jnp.nan, shapes[i].dtype) for i in (0, 2))
    _, (state, _, code), history, norms = jax.lax.while_loop(
        lambda loop: (loop[0] < steps) & (loop[1][2] == Status.max_steps), body, (jnp.int32(0), carry, *empty)
    )
    return state, history, norms, code


def _run_with_progress(
    run: Any, steps: int, eta: Array | None, tol: ArrayLike | None, data: tuple[Array, ...], state: State
) -> tuple[State, Array, Array, Array]:
    """The same in chunks from Python, a line on stderr after each: a callback inside the loop would cost more."""
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((state, data, eta, tol))):
        raise ValueError("progress=True prints from Python and cannot run inside a trace; leave it out there.")
    chunk = max(1, -(-steps // 20))
    parts: list[tuple[Array, Array]] = []
    done, code, line = 0, jnp.int32(Status.max_steps), ""
    while done < steps and int(code) == Status.max_steps:
        m = min(chunk, steps - done)
        state, history, norms, code = run(m, eta, tol, data, state)
        parts.append((history, norms))
        done += m
        loss = float(history[~jnp.isnan(norms)][-1])
        line = f"  [{'#' * (20 * done // steps):<20}] step {done}/{steps}  loss {loss:.6g}"
        if sys.stderr.isatty():
            print(f"\r{line}   ", end="", file=sys.stderr, flush=True)
    print(f"\r{line}   " if sys.stderr.isatty() else line, file=sys.stderr)
    histories, norms = (jnp.concatenate(p) for p in zip(*parts, strict=True))
    return state, histories, norms, code


def _evaluate(functions: Any, params: Any, batch: tuple[Array, ...]) -> tuple[Array, Any]:
    loss, gradient, both = functions
    if both is not None:
        J, g = both(params, *batch)
    elif gradient is not None:
        J, g = loss(params, *batch), gradient(params, *batch)  # jit merges what both compute
    else:
        J, g = jax.value_and_grad(lambda p: _scalar(loss(p, *batch)))(params)
    if jax.tree.structure(g) != jax.tree.structure(params):
        raise ValueError(
            f"gradient must return a pytree like params, {jax.tree.structure(params)}; got {jax.tree.structure(g)}."
        )
    shapes = [(jnp.shape(d), jnp.shape(p)) for d, p in zip(jax.tree.leaves(g), jax.tree.leaves(params), strict=True)]
    if any(d != p for d, p in shapes):
        raise ValueError(f"gradient must have the shapes of params; got (gradient, params) shapes {shapes}.")
    return _scalar(J), g


def _start(transformation: optax.GradientTransformation | None, params: Any) -> Any:
    with _optax_promotion():
        return () if transformation is None else transformation.init(params)


def _refuse_state_of_another(transformation: optax.GradientTransformation | None, state: State) -> None:
    """Refuse to go on from what another optimiser remembers."""
    needed = jax.eval_shape(partial(_start, transformation), state.params)
    held, needed = (jax.tree.map(jnp.shape, v) for v in (state.opt_state, needed))
    if held != needed:
        raise ValueError(
            f"state was made by another optimizer: it remembers {held or 'nothing'}, and optimizer needs "
            f"{needed or 'nothing'} (shapes). Give the one that made it, or params=state.params in place of state."
        )


def _scalar(J: Any) -> Array:
    if isinstance(J, tuple | list | dict) or J is None:
        raise TypeError(f"loss must return a scalar; it returned a {type(J).__name__}. Return the loss alone.")
    J = jnp.asarray(J)
    if J.ndim:
        raise ValueError(f"loss must return a scalar; it returned shape {J.shape}. Take the mean over examples.")
    return J


def _floating_leaf(p: ArrayLike) -> Array:
    p = _check.array("params", p)
    return p.astype(_check.common_dtype(p))  # a strong dtype: a weak one would compile the loop twice


def _positive_int(name: str, value: Any) -> int:
    if not _check.count(value):
        raise ValueError(f"{name} must be a positive integer; got {value!r}.")
    return _check.count(value)
