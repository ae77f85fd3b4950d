"""What is special to the linear map: one example, one output, shapes that do not fit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import laws
from fundl import layers

RNG = np.random.default_rng(0)
X, W, B = RNG.normal(size=(5, 3)), RNG.normal(size=(3, 2)), RNG.normal(size=2)


@pytest.mark.parametrize("one_example", [False, True])
@pytest.mark.parametrize("one_output", [False, True])
def test_every_rank(one_example: bool, one_output: bool) -> None:
    x = X[0] if one_example else X
    w, b = (W[:, 0], B[0]) if one_output else (W, B)
    z = layers.linear(x, w, b)
    laws.assert_near(z, x @ w + b)
    found = layers.linear_backward(z, x, w, b)
    assert [g.shape for g in found] == [np.shape(v) for v in (x, w, b)]
    laws.assert_all_near(found, jax.vjp(layers.linear, x, w, b)[1](z))


def test_integer_inputs() -> None:
    dX, dW, db = layers.linear_backward(np.ones((5, 2)), np.ones((5, 3), int), W, B)
    laws.assert_near(dX, np.ones((5, 2)) @ W.T)
    laws.assert_near(dW, np.full((3, 2), 5.0))
    laws.assert_near(db, [5.0, 5.0])


def test_each_gradient_has_the_dtype_of_its_input() -> None:
    inputs = (X.astype(np.float32), W, jnp.asarray(B, jnp.bfloat16))
    z = layers.linear(*inputs)
    assert z.dtype == np.float64
    assert [g.dtype for g in layers.linear_backward(z, *inputs)] == [np.float32, np.float64, jnp.bfloat16]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((X, W.T, B), ("X has 3 columns, shape (5, 3), but W has 2 rows, shape (2, 3)",)),
        ((X, W, B[:, None]), ("b must have one entry for each output, shape (2,); got (2, 1).",)),
        ((X, W, B[0]), ("b must have one entry for each output, shape (2,); got ().",)),
        ((X, W[:, 0], B), ("b must have one entry for each output, shape (); got (2,).",)),
        ((X[None], W, B), ("X must have shape (n, d)", "got (1, 5, 3)")),
        ((X, W[None], B), ("W must have shape (d, k)", "got (1, 3, 2)")),
        ((X[:0], W, B), ("X is empty: shape (0, 3).",)),
        ((X[:, :0], W[:0], B), ("X is empty: shape (5, 0).",)),
        ((X, W[:, :0], B[:0]), ("W is empty: shape (3, 0).",)),
        (("ab", W, B), ("X must hold real numbers",)),
        ((X, W * 1j, B), ("W must hold real numbers", "complex")),
    ],
    ids=["transposed", "column b", "scalar b", "vector b", "rank X", "rank W", "no rows", "no columns", "no outputs",
         "text", "complex"],
)  # fmt: skip
def test_refusals(inputs: tuple[Any, ...], words: tuple[str, ...]) -> None:
    for message in (
        laws.refusal(lambda: layers.linear(*inputs)),
        laws.refusal(lambda: layers.linear_backward(np.ones((5, 2)), *inputs)),
    ):
        assert all(word in message for word in words), message


def test_a_cotangent_that_does_not_fit() -> None:
    assert laws.refusal(lambda: layers.linear_backward(np.ones((5, 1)), X, W, B)) == (
        "dz must have the shape of X W + b, (5, 2); got (5, 1)."
    )
