"""What the focal loss has of its own: gamma, its tails, and derivatives of autodiff there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import laws
import oracles as o
from fundl import losses

Z = np.array([-80.0, -3.0, -1e-9, 0.0, 0.5, 20.0, 80.0])
Y = np.array([0.0, 1.0, 0.25, 1.0, 0.0, 1 / 3, 1.0])
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)


@dtypes
def test_gamma_0_is_binary_cross_entropy(dtype: type) -> None:
    z, y = np.append(Z, (np.inf, -np.inf, np.inf)).astype(dtype), np.append(Y, (1, 0, 0)).astype(dtype)
    ours = losses.focal_with_logits(z, y, gamma=0, reduction="none")
    assert np.array_equal(ours, losses.binary_cross_entropy_with_logits(z, y, reduction="none"))
    found = losses.focal_with_logits_backward(1.0, z, y, gamma=0, reduction="sum")
    for g, e in zip(found, losses.binary_cross_entropy_with_logits_backward(1.0, z, y, reduction="sum"), strict=True):
        laws.assert_same(g, e, 2 * float(np.finfo(dtype).eps), "gradient")


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_autodiff_in_hard_labels(gamma: float) -> None:
    """On the side of the logit d is 0, where a select instead of a product would lose the derivative."""
    z, y = np.array([-1.5, 1.5, 3.0, -3.0, -np.inf]), np.array([0.0, 1.0, 1.0, 1.0, 0.0])
    _, by_hand = losses.focal_with_logits_backward(1.0, z, y, gamma=gamma, reduction="sum")
    found = jax.grad(lambda y: losses.focal_with_logits(z, y, gamma=gamma, reduction="sum"))(y)
    laws.assert_near(found[:4], by_hand[:4], 64)
    assert np.isnan(found).sum() == 0


def test_the_derivative_in_gamma() -> None:
    """sum_i q_i^gamma log(q_i) L_i, by autodiff, and concrete or traced the same value."""
    z, y, gamma = o.exact(Z), o.exact(Y), 1.5
    expected = o.rounded(np.sum(o.focal_with_logits(z, y, gamma) * o.log(o._wrong(z, y))))

    def J(gamma: Any) -> Any:
        return losses.focal_with_logits(Z, Y, gamma=gamma, reduction="sum")

    value, slope = jax.jit(jax.value_and_grad(J))(gamma)
    laws.assert_near(slope, expected)
    laws.assert_near(value, J(gamma))
    laws.assert_near(jax.vmap(J)(jnp.array([gamma, 0.0])), np.stack([J(gamma), J(0.0)]))


@dtypes
def test_the_tail_in_y_outlives_exp_of_the_logit(dtype: type) -> None:
    """dL/dy = -(abs(z) + gamma) exp(-gamma abs(z)) of a right label: exp(-abs(z)) alone would be 0."""
    z = np.array([2.0, -2.0], dtype) * -np.log(float(np.finfo(dtype).tiny)).astype(dtype)
    y = np.array([1.0, 0.0], dtype)
    dz, dy = losses.focal_with_logits_backward(1.0, z, y, gamma=0.25, reduction="sum")
    a = o.exact(abs(z))
    laws.assert_same(dz, 0.0, 0.0, "dz")
    # The condition number of exp(-gamma abs(z)) is gamma abs(z).
    tail = o.rounded((a + o.mp.mpf(0.25)) * o.exp(-a / 4)) * np.array([-1, 1])
    laws.assert_same(dy, tail, float(np.finfo(dtype).eps * np.max(abs(z))), "dy")


@dtypes
@pytest.mark.parametrize("gamma", [0.25, 1.0, 1.5, 2.0])
def test_autodiff_of_certain_logits_is_finite(gamma: float, dtype: type) -> None:
    """First and second derivatives: a power of q below 1 has an infinite slope where q is rounded to 0."""
    backward = losses.focal_with_logits_backward
    z, y = np.array([1e4, -1e4, -1e4, 1e4], dtype), np.array([1, 0, 1, 0], dtype)

    def J(z: Any, y: Any) -> Any:
        return losses.focal_with_logits(z, y, gamma=gamma, reduction="sum")

    for g, e in zip(jax.grad(J, (0, 1))(z, y), ([0, 0, -1, 1], np.array([0, 0, 1e4, -1e4]) * (1 + gamma)), strict=True):
        laws.assert_same(g, e, 0.0, "gradient")
    curvature = jax.jvp(jax.grad(J), (z, y), (np.ones_like(z), np.zeros_like(y)))[1]
    by_hand = jax.jvp(lambda z: backward(1.0, z, y, gamma=gamma, reduction="sum")[0], (z,), (np.ones_like(z),))[1]
    assert not np.any(curvature)
    assert not np.any(by_hand)


def test_alpha_is_a_weight() -> None:
    """The recipe of the docstring: alpha for positive examples, 1 - alpha for the others."""
    alpha = 0.25
    got = losses.focal_with_logits(
        Z, np.round(Y), weights=jnp.where(np.round(Y) == 1, alpha, 1 - alpha), reduction="sum"
    )
    a = np.round(Y) * alpha + (1 - np.round(Y)) * (1 - alpha)
    laws.assert_near(got, np.sum(a * losses.focal_with_logits(Z, np.round(Y), reduction="none")))
