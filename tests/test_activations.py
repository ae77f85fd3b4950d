"""What is special to activations: tails, kinks, invariances, and what a softmax does at its limits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import laws
import oracles
from catalogue import ELEMENTWISE, OVER_AXIS, Row
from fundl import activations

elementwise = pytest.mark.parametrize("row", ELEMENTWISE, ids=str)
over_axis = pytest.mark.parametrize("row", OVER_AXIS, ids=str)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
@pytest.mark.parametrize("x", [20.0, 40.0])
def test_the_derivative_lives_on_where_the_output_is_1(name: str, x: float) -> None:
    """From the output it is 1 - 1 = 0; from the input it is exp(-x), or 4 exp(-2 x), to the last digits."""
    f, f_backward = getattr(activations, name), getattr(activations, f"{name}_backward")
    e = np.exp(-x) if name == "sigmoid" else np.exp(-2 * x)
    expected = (1 if name == "sigmoid" else 4) * e / (1 + e) ** 2
    assert float(f(np.float32(x))) == 1
    for dtype in (np.float32, np.float64):
        laws.assert_near(f_backward(dtype(1), dtype(x)), expected, 2 * x)
        laws.assert_near(f_backward(dtype(1), dtype(-x)), expected, 2 * x)


@elementwise
def test_autodiff_has_the_convention_at_0(row: Row) -> None:
    for edge in row.edges[:2]:
        slope = jax.jit(jax.grad(lambda x: row.forward(x, **row.options)))(*edge.inputs)
        laws.assert_same(slope, edge.gradients[0], 1e-15, "autodiff at 0")


@elementwise
def test_autodiff_is_finite_far_out(row: Row) -> None:
    """The branch that is not taken must not overflow: its NaN would come through the derivative of a where."""
    x = jnp.array([-1e30, -1e4, -800.0, 800.0, 1e4, 1e30])
    _, _, (hand,) = laws.run(row, (x,), cotangent=jnp.ones)
    slope = jax.jit(lambda x: jax.vjp(lambda x: row.forward(x, **row.options), x)[1](jnp.ones(6))[0])(x)
    assert np.isfinite(slope).all()
    laws.assert_near(slope, hand)


@elementwise
def test_shapes(row: Row) -> None:
    for shape in [(), (0,), (2, 3, 4)]:
        x = np.zeros(shape)
        assert jax.eval_shape(lambda x: row.forward(x, **row.options), x).shape == shape
        assert jax.eval_shape(lambda x: row.backward(x, x, **row.options), x).shape == shape


@elementwise
def test_integers_become_floats(row: Row) -> None:
    x = np.array([-1, 2])
    assert jax.eval_shape(lambda x: row.forward(x, **row.options), x).dtype == jnp.zeros(()).dtype
    assert jax.eval_shape(lambda x: row.backward(np.ones(2), x, **row.options), x).dtype == jnp.zeros(()).dtype


@pytest.mark.parametrize("row", ELEMENTWISE + OVER_AXIS, ids=str)
@pytest.mark.parametrize("x", ["ab", None, np.ones((2, 2)) * 1j], ids=["text", "None", "complex"])
def test_refusals(row: Row, x: Any) -> None:
    name = "z" if row.kind == "axis" else "x"
    assert laws.refusal(lambda: row.forward(x, **row.options)).startswith(f"{name} must hold real numbers; got ")
    assert laws.refusal(lambda: row.backward(1.0, x, **row.options)).startswith(f"{name} must hold real numbers; got ")


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_axis(name: str) -> None:
    f, f_backward = getattr(activations, name), getattr(activations, f"{name}_backward")
    z = np.random.default_rng(0).normal(size=(2, 3, 4))

    def both(z: Any, axis: int = -1) -> Any:
        y = f(z, axis=axis)
        return y, f_backward(y, z, axis=axis)

    for axis in (0, -2):
        y, back = jax.jit(both, static_argnames="axis")(z, axis=axis)
        moved, of_moved = jax.jit(both)(np.moveaxis(z, axis, -1))
        laws.assert_near(y if name == "logsumexp" else np.moveaxis(y, axis, -1), moved)
        laws.assert_near(np.moveaxis(back, axis, -1), of_moved)
    assert laws.refusal(lambda: f(z, axis=3)) == "axis=3 does not exist: z has shape (2, 3, 4)."
    assert "axis must be one whole number; got True" in laws.refusal(lambda: f(z, axis=True))
    assert (f(z, np.int64(1)) == f(z, axis=1)).all()
    assert "z must have at least one axis" in laws.refusal(lambda: f(1.0))
    assert "z is empty: shape (2, 0)" in laws.refusal(lambda: f(np.zeros((2, 0))))


def test_shift_invariance() -> None:
    """A constant added to the logits: softmax unchanged, logsumexp moved by it; also where exp would overflow."""
    z = np.random.default_rng(0).normal(size=(5, 4))
    shifted = z + 2.0**20
    z = shifted - 2.0**20  # what is left of z after rounding
    assert (activations.softmax(shifted) == activations.softmax(z)).all()
    laws.assert_near(activations.logsumexp(shifted), activations.logsumexp(z) + 2.0**20)
    laws.assert_near(activations.log_softmax(shifted), activations.log_softmax(z))


def test_probabilities_add_up_to_1() -> None:
    z = 30 * np.random.default_rng(0).normal(size=(50, 1000))
    laws.assert_near(jnp.sum(activations.softmax(z), axis=1), np.ones(50))
    laws.assert_near(jnp.sum(jnp.exp(activations.log_softmax(z)), axis=1), np.ones(50), 64)


def test_a_certain_class_keeps_its_digits() -> None:
    """log p = -log1p(exp(-40)), where 1 + exp(-40) is 1; and the gradient of softmax where 1 - p rounds to 0."""
    z = jnp.array([40.0, 0.0])
    laws.assert_near(activations.log_softmax(z)[0], -np.log1p(np.exp(-40.0)))
    gradient = activations.softmax_backward(jnp.array([1.0, 0.0]), z)
    laws.assert_near(gradient, np.array([1.0, -1.0]) * np.exp(-40.0) / (1 + np.exp(-40.0)) ** 2, 64)
    gradient = activations.log_softmax_backward(jnp.array([1.0, 0.0]), z)
    laws.assert_near(gradient, np.array([1.0, -1.0]) * np.exp(-40.0), 64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinite_is_more_than_the_largest_number(dtype: type) -> None:
    largest = np.finfo(dtype).max
    for z, p in (((np.inf, largest, -np.inf), (1, 0, 0)), ((largest, -largest, largest), (0.5, 0, 0.5))):
        z = np.array(z, dtype)
        assert activations.softmax(z).tolist() == list(p)
        assert activations.logsumexp_backward(dtype(1), z).tolist() == list(p)
        assert jnp.exp(activations.log_softmax(z))[1:2].tolist() == [0]


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_gradients_of_nearly_certain_rows_keep_their_digits(name: str) -> None:
    """1 - p down to 1e-30, and cotangents that are not 0 at the largest logit: p (dy - sum p dy) would be 0 there."""
    rng = np.random.default_rng(0)
    z, dy = 30 * rng.normal(size=(40, 6)), rng.uniform(0.5, 1.5, (40, 6))
    z, dy = z.astype(np.float32), dy.astype(np.float32)
    with oracles.mp.workdps(200):
        exact = getattr(oracles, f"{name}_gradient")(oracles.exact(dy), oracles.exact(z))[0]
        got = oracles.exact(np.asarray(jax.jit(getattr(activations, f"{name}_backward"))(dy, z)))
        off = oracles.rounded(abs(got - exact) / abs(exact))
    assert np.max(np.where(abs(oracles.rounded(exact)) > 1e-36, off, 0)) < 1e-5


def test_softmax_backward_of_many_cotangents_in_float32():
    """A shape at which jaxlib 0.10 on the CPU miscompiles a sum of products with a factor that a vmap shares."""
    rng = np.random.default_rng(0)
    z, dy = rng.normal(size=(1348, 10)).astype(np.float32), rng.normal(size=(5, 1348, 10)).astype(np.float32)
    p = np.exp(z.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    want = p * (dy - (p * dy).sum(2, keepdims=True))
    got = jax.jit(jax.vmap(activations.softmax_backward, (0, None)))(dy, z)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "x"), [("silu", [-80, -40, -33, -31, -3, 0.5, 40]), ("gelu", [-8, -6.9, -6.5, -1, 7])]
)
def test_third_derivatives_far_out(name: str, x: list[float]) -> None:
    """In float32, where the third power of 1 + exp(-x) leaves the range; of the value and of the backward."""
    f, f_backward = getattr(activations, name), getattr(activations, f"{name}_backward")

    @jax.jit
    @jax.vmap
    def thrice(x: Any) -> Any:
        grad = jax.grad
        return grad(grad(grad(f)))(x), grad(grad(lambda x: f_backward(jnp.ones_like(x), x)))(x)

    with oracles.mp.workdps(60):
        exact = getattr(oracles, name)
        given = np.array(x, np.float32).astype(float)
        want = [float(oracles.mp.diff(exact, oracles.mp.mpf(v), 3, h=oracles.mp.mpf(10) ** -12)) for v in given]
    for found in thrice(given.astype(np.float32)):
        np.testing.assert_allclose(found, want, rtol=1e-5)


def test_a_leaky_relu_without_slope_is_relu_at_minus_infinity():
    x = jnp.array([-jnp.inf, -1.0, 0.0, 2.0, jnp.inf])
    for leaky in (activations.leaky_relu, jax.jit(activations.leaky_relu)):
        np.testing.assert_array_equal(leaky(x, negative_slope=0.0), activations.relu(x))
        np.testing.assert_array_equal(leaky(x, negative_slope=0.5), [-np.inf, -0.5, 0.0, 2.0, np.inf])
    finite = jnp.array([-3.0, 0.0, 2.0, jnp.inf])
    for slope in (0.0, 0.5):
        in_slope = jax.jacrev(lambda s: activations.leaky_relu(finite, negative_slope=s))(slope)
        np.testing.assert_array_equal(in_slope, [-3.0, 0.0, 0.0, 0.0])
