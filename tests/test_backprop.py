"""The chain rule by hand: against jax.value_and_grad, against a chain written out in NumPy, and its ledger."""

import collections
import dataclasses
import itertools
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import Linear, _from_output, activations, backprop, layers, losses, mlp, verify

pytestmark = pytest.mark.large

ACTIVATIONS = sorted(mlp._GAIN)


def _params(seed: int, *sizes: int, dtype: str = "float64") -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    params = {}
    for i, (d, k) in enumerate(itertools.pairwise(sizes), 1):
        params[f"W{i}"] = jnp.asarray(rng.normal(size=(d, k)) / np.sqrt(d), dtype)
        params[f"b{i}"] = jnp.asarray(0.1 * rng.normal(size=k), dtype)
    return params


def _chain(depth: int, activation: str, loss: str, residual: str = "output") -> backprop.Chain:
    steps: list[object] = []
    for i in range(1, depth + 1):
        steps += [backprop.linear(f"W{i}", f"b{i}"), activation]
    return backprop.chain(*steps[:-1], loss=loss, residual=residual)


def _data(n: int, d: int, k: int, loss: str, dtype: str = "float64") -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(7)
    X = jnp.asarray(rng.normal(size=(n, d)), dtype)
    if loss == "cross_entropy_with_logits":
        return X, jnp.asarray(rng.integers(0, k, n))
    y = rng.random((n, k)) if "binary" in loss or "focal" in loss else rng.normal(size=(n, k))
    return X, jnp.asarray(y, dtype)


def _by_autodiff(net: backprop.Chain):
    def J(params, X, y):
        return net.loss.forward(backprop.forward(net, params, X)[-1], y)

    return jax.value_and_grad(J)


def _assert_close(got, want, units: float) -> None:
    """Each gradient within `units` of rounding at its own scale."""
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree_util.tree_leaves_with_path(want), strict=True
    ):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        error = float(jnp.max(jnp.abs(a - b)) / (jnp.finfo(b.dtype).eps * jnp.max(jnp.abs(b))))
        assert error <= units, f"{jax.tree_util.keystr(path)}: {error:.1f} units of rounding"


@pytest.mark.parametrize("residual", ["output", pytest.param("input", marks=pytest.mark.slow)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_by_hand_is_that_of_autodiff(activation: str, residual: str):
    net = _chain(3, activation, "cross_entropy_with_logits", residual)
    params, (X, y) = _params(0, 5, 7, 6, 3), _data(11, 5, 3, "cross_entropy_with_logits")
    got, want = backprop.value_and_grad(net)(params, X, y), _by_autodiff(net)(params, X, y)
    assert got[0] == want[0]
    _assert_close(got[1], want[1], 8)


@pytest.mark.parametrize(
    "loss",
    ["mse", "l1", "huber", "binary_cross_entropy_with_logits", "focal_with_logits", "cross_entropy_with_logits"],
)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow), 6])
def test_any_depth_any_loss_under_jit(depth: int, dtype: str, loss: str):
    net = _chain(depth, "tanh", loss)
    params = _params(1, 4, *[5] * (depth - 1), 3, dtype=dtype)
    X, y = _data(9, 4, 3, loss, dtype)
    got, want = jax.jit(backprop.value_and_grad(net))(params, X, y), jax.jit(_by_autodiff(net))(params, X, y)
    # Both sum in orders of their own, so the difference grows with the number of layers, not with the arrays.
    _assert_close(got[1], want[1], 8 * depth)


def test_gradient_against_the_chain_rule_written_out_in_numpy():
    params, (X, y) = _params(2, 4, 5, 3), _data(6, 4, 3, "mse")
    P = {name: np.asarray(v) for name, v in params.items()}
    z1 = X @ P["W1"] + P["b1"][None]
    a1 = np.tanh(z1)
    dz2 = 2 * (a1 @ P["W2"] + P["b2"][None] - y) / len(X)
    dz1 = (dz2 @ P["W2"].T) * (1 - a1**2)
    want = {"W1": X.T @ dz1, "b1": dz1.sum(0), "W2": a1.T @ dz2, "b2": dz2.sum(0)}
    _, got = backprop.value_and_grad(_chain(2, "tanh", "mse"))(params, X, y)
    for name, g in want.items():
        np.testing.assert_allclose(got[name], g, rtol=1e-13, atol=1e-15)


def test_shared_weights_sum_and_unused_ones_get_zeros():
    steps = [backprop.linear("W", "b"), "tanh", backprop.linear("W", "b"), "tanh", backprop.linear("V", "c")]
    net = backprop.chain(*steps, loss="mse")
    rng = np.random.default_rng(3)
    shapes = {"W": (4, 4), "b": (4,), "V": (4, 2), "c": (2,), "unused": (3,)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    X, y = jnp.asarray(rng.normal(size=(5, 4))), jnp.asarray(rng.normal(size=(5, 2)))
    got, want = backprop.value_and_grad(net)(params, X, y)[1], _by_autodiff(net)(params, X, y)[1]
    _assert_close({k: v for k, v in got.items() if k != "unused"}, {k: v for k, v in want.items() if k != "unused"}, 16)
    assert not got["unused"].any()


def test_parameters_in_a_list_or_a_tuple_come_back_as_such():
    net = backprop.chain(backprop.linear(0, 1), loss="mse")
    X, y = jnp.ones((2, 3)), jnp.ones((2, 1))
    for container in (list, tuple):
        _, g = backprop.value_and_grad(net)(container([jnp.ones((3, 1)), jnp.zeros(1)]), X, y)
        assert type(g) is container


def test_the_gradient_has_the_type_of_its_container():
    class Unknown(collections.UserDict):
        pass

    net = backprop.chain(backprop.linear("W", "b"), loss="mse")
    X, y, held = jnp.ones((2, 3)), jnp.ones((2, 1)), {"b": jnp.zeros(1), "a": jnp.ones(2), "W": jnp.ones((3, 1))}
    want = backprop.value_and_grad(net)(held, X, y)[1]
    for container in (collections.OrderedDict(held), types.MappingProxyType(held), Unknown(held)):
        got = backprop.value_and_grad(net)(container, X, y)[1]
        assert type(got) is (collections.OrderedDict if type(container) is collections.OrderedDict else dict)
        assert list(got) == list(held)
        jax.tree.map(np.testing.assert_array_equal, dict(got), want)
    layer = backprop.value_and_grad(backprop.chain(backprop.linear(0, 1), loss="mse"))(
        Linear(held["W"], held["b"]), X, y
    )[1]
    assert type(layer) is Linear
    np.testing.assert_array_equal(layer.w, want["W"])
    np.testing.assert_array_equal(layer.b, want["b"])


def test_options_reach_the_loss_and_a_vector_of_losses_is_refused():
    net = _chain(1, "identity", "mse")
    params, (X, y) = _params(4, 3, 2), _data(4, 3, 2, "mse")
    weights = jnp.array([1.0, 0.0, 2.0, 1.0])
    copies = jnp.array([0, 2, 2, 3])
    a = backprop.value_and_grad(net)(params, X.at[1].set(jnp.nan), y, weights=weights)
    b = backprop.value_and_grad(net)(params, X[copies], y[copies])
    _assert_close(a, b, 8)
    for call in (backprop.value_and_grad(net), partial(backprop.ledger, net)):
        with pytest.raises(ValueError, match='reduction="none"'):
            call(params, X, y, reduction="none")


def test_a_loss_that_makes_its_own_logits_ends_no_chain():
    for loss in ("cross_entropy", "binary_cross_entropy"):
        for given in (f"linear_{loss}", getattr(losses, f"linear_{loss}")):
            with pytest.raises(ValueError, match=f"takes no output of a chain; give '{loss}_with_logits'"):
                backprop.chain(backprop.linear(0, 1), loss=given)
    with pytest.raises(ValueError, match="makes the logits X W"):
        mlp.loss(mlp.init(jax.random.key(0), [3, 2]), jnp.ones((1, 3)), jnp.zeros(1, int), loss="linear_cross_entropy")


def test_what_has_no_backward_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"'sine' is not an activation.*Step\(f, f_backward"):
        backprop.chain("sine", loss="mse")
    with pytest.raises(ValueError, match="is not an activation"):
        backprop.chain(lambda v: v, loss="mse")
    with pytest.raises(ValueError, match="residual must be one of"):
        backprop.step("tanh", residual="both")
    with pytest.raises(ValueError, match=r"params must hold .W9. for linear"):
        backprop.value_and_grad(backprop.chain(backprop.linear("W9", "b"), loss="mse"))(
            {}, jnp.ones((1, 1)), jnp.ones(1)
        )


@pytest.mark.parametrize("dtype", [int, bool])
def test_ledger_of_an_X_of_integers(dtype):
    net = backprop.chain(backprop.linear("W", "b"), loss="mse")
    params, X, y = {"W": jnp.ones((2, 1)), "b": jnp.zeros(1)}, jnp.array([[1, 0], [1, 1]]), jnp.array([[1], [3]])
    book = backprop.ledger(net, params, X.astype(dtype), y)
    assert book.ok
    assert [row.name for row in book.rows] == ["v1", "W", "b"]
    assert book.rows[1].by_autodiff.tolist() == [[-1.0], [-1.0]]


def test_ledger_of_a_right_chain_is_right_under_jit_in_both_precisions():
    for dtype in ("float32", "float64"):
        net = _chain(4, "gelu", "cross_entropy_with_logits")
        params, (X, y) = _params(5, 6, 8, 8, 8, 4, dtype=dtype), _data(20, 6, 4, "cross_entropy_with_logits", dtype)
        book = jax.jit(backprop.ledger, static_argnums=0)(net, params, X, y)
        assert book.ok, str(book)
        assert "every gradient by hand agrees" in str(book)
        assert len(book.rows) == 1 + 7 + 8  # the loss, seven steps, and W and b of four of them
    for row, (path, _) in zip(book.rows[2:4], (("W4", 0), ("b4", 0)), strict=True):
        assert row.name == path


MUTATIONS = {
    "twice": lambda g: 2 * g,
    "one percent": lambda g: 1.01 * g,
    "sign": lambda g: -g,
    "zero": jnp.zeros_like,
    "last entry zeroed": lambda g: g.ravel().at[-1].set(0).reshape(g.shape),
    "rows rolled": lambda g: jnp.roll(g, 1, axis=0),
    "nan": lambda g: g.ravel().at[0].set(jnp.nan).reshape(g.shape),
    "1e-4": lambda g: g * (1 + 1e-4),
}


# Each mutation, and each place; all of both in the slow suite.
@pytest.mark.parametrize(
    ("mutation", "where"),
    [
        pytest.param(m, i, marks=[] if m == "sign" or i == 2 else pytest.mark.slow)
        for m in sorted(MUTATIONS)
        for i in range(6)
    ],
)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_first_wrong_row_names_the_mutated_operation(where: int, mutation: str, dtype: str):
    mutate = MUTATIONS[mutation]
    net = _chain(3, "tanh", "mse")
    params, (X, y) = _params(6, 4, 5, 5, 3, dtype=dtype), _data(8, 4, 3, "mse", dtype)
    operations = [*net.steps, net.loss]
    right = operations[where].backward

    def broken(*args):
        gradients = right(*args)
        return (mutate(gradients[0]), *gradients[1:]) if isinstance(gradients, tuple) else mutate(gradients)

    wrong = dataclasses.replace(operations[where], backward=broken, name=f"mutant {where}", from_output=None)
    operations[where] = wrong
    book = backprop.ledger(backprop.Chain(tuple(operations[:-1]), operations[-1]), params, X, y)
    assert book.first_wrong is not None, str(book)
    assert book.first_wrong.operation == f"mutant {where}", str(book)
    assert f"the backward of mutant {where} is wrong" in str(book)


def test_two_parts_in_a_hundred_thousand_are_seen_in_float32():
    net = _chain(2, "tanh", "mse", "input")
    params, (X, y) = _params(6, 4, 5, 3, dtype="float32"), _data(8, 4, 3, "mse", "float32")
    right = net.steps[2].backward

    def broken(*args):
        dX, dW, db = right(*args)
        return dX * (1 + 2e-5), dW, db

    steps = (*net.steps[:2], dataclasses.replace(net.steps[2], backward=broken))
    assert backprop.ledger(net, params, X, y).ok
    book = backprop.ledger(backprop.Chain(steps, net.loss), params, X, y)
    assert book.first_wrong is not None, str(book)
    assert book.first_wrong.operation == net.steps[2].name


@pytest.mark.parametrize("which", [1, 2])
def test_a_wrong_gradient_of_a_parameter_is_found_where_it_is(which: int):
    net = _chain(2, "tanh", "mse")
    params, (X, y) = _params(6, 4, 5, 3), _data(8, 4, 3, "mse")

    def broken(*args):
        gradients = list(layers.linear_backward(*args))
        gradients[which] = gradients[which] * 1.001
        return tuple(gradients)

    steps = (dataclasses.replace(net.steps[0], backward=broken), *net.steps[1:])
    book = backprop.ledger(backprop.Chain(steps, net.loss), params, X, y)
    assert book.first_wrong is not None
    assert book.first_wrong.name == ("W1", "b1")[which - 1]


@pytest.mark.parametrize("name", sorted(_from_output.BACKWARD))
def test_derivative_from_the_output_is_that_from_the_input(name: str):
    """A few units of rounding everywhere; relative too where the derivative is a stable function of a."""
    x = jnp.asarray(np.concatenate([np.linspace(-30, 30, 601), [-700.0, 700.0, 0.0]]))
    dy = jnp.ones_like(x)
    want = getattr(activations, f"{name}_backward")(dy, x)
    got = _from_output.BACKWARD[name](dy, getattr(activations, name)(x))
    eps = np.finfo(np.float64).eps
    # XLA's tanh is off by up to 3 units in its last place, which 1 - a^2 doubles.
    np.testing.assert_allclose(got, want, rtol=0, atol=8 * eps)
    if name in ("relu", "leaky_relu", "softplus", "log_sigmoid"):
        np.testing.assert_allclose(got, want, rtol=8 * eps, atol=0)


def test_gradients_of_wrong_shape_or_number_name_the_operation():
    params, X, y = {"W1": jnp.ones((3, 2)), "b1": jnp.zeros(2)}, jnp.ones((4, 3)), jnp.ones((4, 2))
    for wrong in (lambda dz, X, W, b: dz, lambda dz, X, W, b: (dz @ W.T, X.T @ dz, dz)):
        net = backprop.chain(backprop.Step(layers.linear, wrong, ("W1", "b1"), "my linear"), loss="mse")
        with pytest.raises(
            ValueError, match=r"The backward of my linear returned gradients of shapes .*its inputs have"
        ):
            backprop.value_and_grad(net)(params, X, y)


def test_forward_records_every_value():
    net = _chain(2, "relu", "mse")
    params, (X, _) = _params(8, 3, 4, 2), _data(5, 3, 2, "mse")
    values = backprop.forward(net, params, X)
    assert [v.shape for v in values] == [(5, 3), (5, 4), (5, 4), (5, 2)]
    np.testing.assert_array_equal(values[2], np.maximum(values[1], 0))
    assert losses.mse(values[-1], values[-1]) == 0


# ---- every operation of a chain, mutated -----------------------------------------------------------------------------


def _planted(operation: str) -> tuple[backprop.Chain, dict[str, jax.Array], tuple[jax.Array, jax.Array], int]:
    """A chain with the operation in it, its parameters and data, and where the operation is (-1: the loss)."""
    if operation in ACTIVATIONS:
        net, data, at = _chain(2, operation, "mse", "input"), _data(6, 4, 3, "mse"), 1
    elif operation == "linear":
        net, data, at = _chain(2, "tanh", "mse", "input"), _data(6, 4, 3, "mse"), 2
    else:
        net, data, at = _chain(2, "tanh", operation, "input"), _data(6, 4, 3, operation), -1
    return net, _params(9, 4, 5, 3), data, at


def _misnamed(operation: str, every: int) -> list[str]:
    """Mutants of the operation's backward after which the ledger does not name it first, though they show here."""
    net, params, (X, y), at = _planted(operation)
    steps = [*net.steps, net.loss]
    right = steps[at]
    values = backprop.forward(net, params, X)
    J = net.loss.forward(values[-1], y)
    if at == -1:
        args = (jnp.ones_like(J), values[-1], y)
    else:
        before = {row.name: row.by_hand for row in backprop.ledger(net, params, X, y).rows}
        args = (before[f"v{at + 1}"], values[at], *(params[k] for k in right.keys))
    own = len(args) - 1 if at != -1 else 1  # the loss's gradient for y takes no part in a chain
    truth, missed = jax.tree.leaves(right.backward(*args))[:own], []
    for mutant in list(verify.mutants(right.backward, *args))[::every]:
        given = jax.tree.leaves(mutant(*args))[:own]
        gap = max(float(jnp.max(jnp.abs(g - t)) / jnp.max(jnp.abs(t))) for g, t in zip(given, truth, strict=True))
        if gap < 1e-13:
            continue  # right at these values
        steps[at] = dataclasses.replace(right, backward=mutant, name="the mutant", from_output=None)
        wrong = backprop.ledger(backprop.Chain(tuple(steps[:-1]), steps[-1]), params, X, y).first_wrong
        if wrong is None or wrong.operation != "the mutant":
            missed.append(f"{mutant.name} ({gap:.0e})")
    return missed


OPERATIONS = ["linear", *ACTIVATIONS, "mse", "l1", "huber", "binary_cross_entropy_with_logits", "focal_with_logits"]
OPERATIONS.append("cross_entropy_with_logits")


@pytest.mark.parametrize(
    ("operation", "every"),
    [("linear", 8), pytest.param("gelu", 40, marks=pytest.mark.slow), ("cross_entropy_with_logits", 25)],
)
def test_ledger_names_a_mutated_operation(operation: str, every: int):
    assert _misnamed(operation, every) == []


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_ledger_names_every_mutated_operation(operation: str):
    assert _misnamed(operation, 1) == []
