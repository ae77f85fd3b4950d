"""What is special to norms: their axes, 0, and scales that overflow when squared."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import laws
from fundl import norms

NAMES = ["l1", "l2", "squared_l2"]
X = np.random.default_rng(0).normal(size=(2, 3, 4))


def pair(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return getattr(norms, name), getattr(norms, f"{name}_backward")


@pytest.mark.parametrize("axis", [None, 0, (-1, 0), ()])
@pytest.mark.parametrize("name", NAMES)
def test_axes(name: str, axis: Any) -> None:
    f, f_backward = pair(name)
    definition = {"l1": lambda x: abs(x), "l2": lambda x: x * x, "squared_l2": lambda x: x * x}[name]
    expected = np.sum(definition(X), axis=axis)

    @jax.jit
    def everything(x: Any) -> Any:
        y, pull = jax.vjp(lambda x: f(x, axis=axis), x)
        return y, f_backward(y, x, axis=axis), pull(y)[0]

    y, hand, auto = everything(X)
    laws.assert_near(y, np.sqrt(expected) if name == "l2" else expected)
    laws.assert_near(hand, auto)


@pytest.mark.parametrize("axis", [3, -4, (0, 5)])
@pytest.mark.parametrize("name", NAMES)
def test_an_axis_that_is_not_there(name: str, axis: Any) -> None:
    f, f_backward = pair(name)
    words = f"axis={axis} does not exist: x has shape (2, 3, 4)."
    assert laws.refusal(lambda: f(X, axis=axis)) == words
    assert laws.refusal(lambda: f_backward(np.ones((2, 3)), X, axis=axis)) == words


@pytest.mark.parametrize("name", NAMES)
def test_axes_of_numpy_and_bad_ones(name: str) -> None:
    f, f_backward = pair(name)
    assert (f(X, np.int64(1)) == f(X, axis=1)).all()
    assert (f_backward(np.ones(4), X, (np.int32(0), 1)) == f_backward(np.ones(4), X, axis=(0, 1))).all()
    for axis, words in (((0, 0), "twice"), ((0, -3), "twice"), (True, "got True"), ((np.bool_(1),), "whole number")):
        assert words in laws.refusal(functools.partial(f, X, axis=axis))
        assert words in laws.refusal(functools.partial(f_backward, 1.0, X, axis=axis))


@pytest.mark.parametrize("name", NAMES)
def test_scalars_and_empty_vectors(name: str) -> None:
    f, f_backward = pair(name)
    assert float(f(-3.0)) == (9 if name == "squared_l2" else 3)
    assert float(f_backward(1.0, -3.0)) == (-6 if name == "squared_l2" else -1)
    assert float(f(np.zeros(0))) == 0
    assert f(np.zeros((2, 0)), axis=1).tolist() == [0, 0]
    assert f_backward(1.0, np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_autodiff_at_0(name: str) -> None:
    """0 by every way of differentiating, alone and through a square, where jnp.linalg.norm has NaN."""
    f, f_backward = pair(name)
    x = jnp.zeros(3)

    @jax.jit
    def every_way(x: Any) -> Any:
        return jax.grad(f)(x), jax.jacfwd(f)(x), f_backward(1.0, x), jax.grad(lambda x: f(x) ** 2)(x)

    for gradient in every_way(x):
        assert gradient.tolist() == [0, 0, 0]
    some = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    assert jnp.isfinite(jax.jit(jax.grad(lambda x: jnp.sum(f(x, axis=1))))(some)).all()
    assert jnp.isnan(jax.grad(jnp.linalg.norm)(x)).all()  # the trap


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_l2_at_the_ends_of_the_range(dtype: type) -> None:
    """Largest and smallest normal numbers: the norm of (3, 4) times any power of two is 5 times it, to the last bit."""
    info = np.finfo(dtype)
    everything = jax.jit(lambda x: (norms.l2(x), norms.l2_backward(1.0, x), jax.grad(norms.l2)(x)))
    for exponent in (info.minexp, info.minexp // 2, -1, 0, 40, info.maxexp - 4):
        scale = np.ldexp(dtype(1), exponent)
        y, hand, auto = everything(np.array([3, -4], dtype) * scale)
        assert float(y) == 5 * float(scale)
        laws.assert_near(hand, [0.6, -0.8])
        laws.assert_near(auto, [0.6, -0.8])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_norm_of_leaves_that_are_constants_of_the_program(dtype: type) -> None:
    """Which XLA multiplies beforehand, in an order of its own."""
    info = np.finfo(dtype)
    sizes = np.array([0, info.tiny, 4 * info.tiny, info.tiny**0.5 / 64, 3, info.max / 4], dtype)
    leaves = [{"a": np.full(2, v), "b": np.zeros(1, dtype)} for v in sizes]
    found = jax.jit(lambda: jnp.stack([norms.l2_of_leaves(tree) for tree in leaves]))()
    np.testing.assert_allclose(found, np.sqrt(2) * sizes.astype(np.longdouble), rtol=4 * info.eps)


@pytest.mark.parametrize(
    ("x", "direction"),
    [([4e-38, 0], [1, 0]), ([np.inf, 1], [1, 0]), ([-np.inf, np.inf], [-(0.5**0.5), 0.5**0.5]), ([3e38, 0], [1, 0])],
)
def test_autodiff_of_l2_is_the_direction_at_either_end(x: list[float], direction: list[float]) -> None:
    v = jnp.array(x, jnp.float32)
    laws.assert_near(norms.l2_backward(1.0, v), direction)
    for differentiate in (jax.grad, jax.jacfwd):
        laws.assert_near(differentiate(norms.l2)(v), direction)


def test_second_derivatives_of_l2() -> None:
    """(I - d d^T) / norm2(x) with d = x / norm2(x), and 0 at x = 0."""
    x = np.array([[2.0, -3.0, 6.0], [0.0, 0.0, 0.0]])
    d = x[0] / 7
    for differentiate in (jax.jacrev, jax.jacfwd):
        H = jax.jit(jax.vmap(differentiate(jax.jacrev(norms.l2))))(x)
        laws.assert_near(H[0], (np.eye(3) - np.outer(d, d)) / 7)
        assert not H[1].any()


def test_half_precision_norms_are_float32() -> None:
    x = jnp.full(3000, 3.0, jnp.bfloat16)
    assert norms.l1(x).dtype == jnp.float32
    assert float(norms.l1(x)) == 9000
    assert norms.l1_backward(1.0, x).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x", ["ab", None, np.ones(2) * 1j], ids=["text", "None", "complex"])
def test_refusals(name: str, x: Any) -> None:
    assert laws.refusal(lambda: pair(name)[0](x)).startswith("x must hold real numbers; got ")
    assert laws.refusal(lambda: pair(name)[1](1.0, x)).startswith("x must hold real numbers; got ")
