"""A loss or activation and its hand-written gradient in one program: the bytes it moves and keeps, as XLA counts them.

Counts do not depend on the machine's load. They are of the CPU's compiler, in arrays as long as the predictions; the
rival is autodiff through optax's loss.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fundl import _precise, activations, losses

LONG = jnp.zeros(100_000, jnp.float32)
WIDE = jnp.zeros((256, 1000), jnp.float32)
CLASSES = jnp.zeros(256, jnp.int32)


def arrays_of(f: Callable[..., Any], z: jax.Array, y: jax.Array) -> tuple[float, float]:
    """Arrays moved and arrays kept for a while."""
    compiled = jax.jit(f).lower(z, y).compile()
    moved, kept = compiled.cost_analysis()["bytes accessed"], compiled.memory_analysis().temp_size_in_bytes
    return moved / z.nbytes, kept / z.nbytes


def own(name: str, **options: Any) -> Callable[..., Any]:
    def both(z: jax.Array, y: jax.Array) -> Any:
        g = getattr(losses, f"{name}_backward")(1.0, z, y, **options)
        return getattr(losses, name)(z, y, **options), g[0] if isinstance(g, tuple) else g

    return both


def by_autodiff(loss: Callable[..., Any]) -> Callable[..., Any]:
    return jax.value_and_grad(lambda z, y: jnp.mean(loss(z, y)))


# The examples, the rival, the most arrays kept and moved, and moved as a share of the rival's.
CASES = {
    "binary_cross_entropy_with_logits": (LONG, LONG, optax.sigmoid_binary_cross_entropy, 0.1, 5.1, 0.34),
    "binary_cross_entropy": (LONG, LONG, lambda p, y: -y * jnp.log(p) - (1 - y) * jnp.log1p(-p), 1.1, 7.1, 0.7),
    "focal_with_logits": (LONG, LONG, optax.sigmoid_focal_loss, 1.1, 7.1, 0.15),
    "huber": (LONG, LONG, optax.huber_loss, 0.1, 5.1, 0.6),
    "mse": (LONG, LONG, optax.squared_error, 0.1, 6.1, 1.0),
    "l1": (LONG, LONG, lambda z, y: jnp.abs(z - y), 0.1, 5.1, 1.0),
    "cross_entropy": (
        WIDE, CLASSES, lambda p, y: -jnp.log(jnp.take_along_axis(p, y[:, None], axis=1)), 0.1, 2.1, 0.6,
    ),
    "cross_entropy_with_logits": (
        WIDE, CLASSES, optax.softmax_cross_entropy_with_integer_labels, 0.1, 8.2, 1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_move_fewer_arrays_than_autodiff(name: str) -> None:
    """None is kept, but for the losses that are made in a loop of their own before they are added up: one."""
    z, y, rival, kept_at_most, at_most, share = CASES[name]
    moved, kept = arrays_of(own(name), z, y)
    moved_by_rival, _ = arrays_of(by_autodiff(rival), z, y)
    assert kept < kept_at_most
    assert moved <= at_most
    assert moved <= share * moved_by_rival


def test_what_is_shared_would_be_kept() -> None:
    """The count sees the fault that it guards against: exp(-abs(z)) shared by the loss and its gradient."""

    def shared(z: jax.Array, y: jax.Array) -> Any:
        e = jnp.exp(jnp.where(z > 0, -z, z))
        a = jnp.where(z > 0, 1 - y, -y)
        return jnp.mean(a * z + jnp.log1p(e)), a + jnp.where(z > 0, -e, e) / (1 + e)

    moved, kept = arrays_of(shared, LONG, LONG)
    assert moved > 10
    assert kept > 0.9


def test_gamma_2_is_a_square_and_no_power() -> None:
    for gamma, powers in ((2.0, False), (1.5, True)):
        program = jax.jit(own("focal_with_logits", gamma=gamma)).lower(LONG, LONG).compile().as_text()
        assert ("power(" in program) == powers


@pytest.mark.parametrize(
    "name", ["relu", "leaky_relu", "elu", "sigmoid", "log_sigmoid", "tanh", "softplus", "silu", "gelu"]
)
def test_an_activation_and_its_gradient_share_no_array(name: str) -> None:
    """The input is read twice: to make exp(-abs(x)) again costs less than to write it and read it twice."""
    f, backward = getattr(activations, name), getattr(activations, f"{name}_backward")
    moved, kept = arrays_of(lambda x, dy: (f(x), backward(dy, x)), LONG, LONG)
    assert moved <= 5.1
    assert kept < 0.1


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "silu", "gelu"])
def test_short_arrays_stay_in_the_cache_and_share(name: str) -> None:
    f, backward = getattr(activations, name), getattr(activations, f"{name}_backward")

    def transcendentals(x: jax.Array) -> float:
        compiled = jax.jit(lambda x: (f(x), backward(jnp.ones_like(x), x))).lower(x).compile()
        return compiled.cost_analysis()["transcendentals"] / x.size

    assert transcendentals(LONG[:1000]) <= transcendentals(LONG) - 1


@pytest.mark.parametrize("name", [*CASES, "softmax", "sigmoid", "log_sigmoid", "softplus", "silu"])
def test_long_arrays_have_the_digits_of_short_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exhaustive tests of digits are of short arrays."""
    rng = np.random.default_rng(0)
    z = np.append(rng.normal(size=40) * 10.0 ** rng.integers(-6, 3, 40), (0.0, 1e30, -1e30, 88.0)).astype(np.float32)
    z = np.exp(-np.abs(z)).reshape(4, 11) if name in ("cross_entropy", "binary_cross_entropy") else z.reshape(4, 11)
    y = np.array([3, 0, 7, 10]) if name.startswith("cross") else rng.integers(0, 2, z.shape) * 1.0

    def found() -> Any:
        if hasattr(activations, name):
            backward = getattr(activations, f"{name}_backward")
            return jax.jit(lambda z: (getattr(activations, name)(z), backward(jnp.ones_like(z) * z[:, ::-1], z)))(z)
        return jax.jit(own(name, reduction="sum"))(z, y)

    short = found()
    monkeypatch.setattr(_precise, "SHARED", -1)
    for a, b in zip(short, found(), strict=True):
        np.testing.assert_allclose(a, b, rtol=4 * np.finfo(np.float32).eps, atol=np.finfo(np.float32).tiny)
