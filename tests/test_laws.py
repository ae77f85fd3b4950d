"""Each law against a row that breaks it: a law that never fails proves nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import laws
from catalogue import ROWS, Row
from fundl import activations, losses


def named(name: str) -> Row:
    return next(row for row in ROWS if str(row) == name)


def silu(**changes: Any) -> Row:
    return dataclasses.replace(named("activations.silu"), **changes)


def mse(**changes: Any) -> Row:
    return dataclasses.replace(named("losses.mse"), **changes)


def scaled(f: Callable[..., Any], factor: float) -> Callable[..., Any]:
    return lambda *inputs, **options: jax.tree.map(lambda v: v * factor, f(*inputs, **options))


@jax.custom_batching.custom_vmap
def mixes_lanes(x: Any) -> Any:
    return activations.silu(x)


@mixes_lanes.def_vmap
def _(_size: int, _batched: Any, x: Any) -> Any:
    return activations.silu(x[::-1]), True


def in_half_precision(x: Any) -> Any:
    """sum abs(x) added up in the dtype of x."""
    return jax.lax.fori_loop(0, x.size, lambda i, total: total + abs(x.ravel()[i]), jnp.zeros((), x.dtype))


def silu_backward(dy: Any, x: Any) -> Any:
    return activations.silu_backward(dy, x)


RED = {
    "a wrong value": lambda: laws.is_true(silu(forward=scaled(activations.silu, 1.000002)), np.float32, 5),
    "a wrong gradient": lambda: laws.is_true(silu(backward=scaled(activations.silu_backward, 1.000002)), np.float32, 5),
    "gradients in the wrong order": lambda: laws.is_true(
        mse(backward=lambda *a, **k: losses.mse_backward(*a, **k)[::-1]), np.float64, 5
    ),
    "a wrong gradient of many": lambda: laws.is_true(
        mse(backward=scaled(losses.mse_backward, 1.000002)), np.float32, 100
    ),
    "not the derivative": lambda: laws.agrees_with_autodiff(
        silu(backward=scaled(activations.silu_backward, 1 + 4e-15))
    ),
    "a tuple of one": lambda: laws.pair_fits(silu(backward=lambda dy, x: (silu_backward(dy, x),)), np.float32),
    "a gradient missing": lambda: laws.pair_fits(
        mse(backward=lambda *a, **k: losses.mse_backward(*a, **k)[0]), np.float32
    ),
    "a wrong shape": lambda: laws.pair_fits(silu(backward=lambda dy, x: silu_backward(dy, x).ravel()), np.float32),
    "a wrong dtype": lambda: laws.pair_fits(
        silu(backward=lambda dy, x: silu_backward(dy, x).astype(jnp.float32)), jnp.bfloat16
    ),
    "the input before the cotangent": lambda: laws.signatures_match(silu(backward=lambda x, dy: silu_backward(dy, x))),
    "an option missing": lambda: laws.signatures_match(mse(backward=lambda dJ, y_hat, y, *, weights=None: None)),
    "an option that is positional": lambda: laws.signatures_match(
        silu(forward=lambda x, slope=1.0: x, backward=lambda dy, x, slope=1.0: dy)
    ),
    "any cotangent": lambda: laws.refuses_a_wrong_cotangent(silu(backward=lambda dy, x: jnp.sum(jnp.asarray(dy)))),
    "another value under jit": lambda: laws.jit_changes_nothing(
        silu(forward=lambda x: activations.silu(x) * (1.0 if isinstance(x, jax.core.Tracer) else 1.1))
    ),
    "lanes mixed": lambda: laws.vmap_is_a_loop(silu(forward=mixes_lanes)),
    "no second derivative": lambda: laws.forward_mode_agrees(
        silu(backward=lambda dy, x: jax.lax.stop_gradient(silu_backward(dy, x)))
    ),
    "a forward mode of its own": lambda: laws.forward_mode_agrees(silu(forward=activations.gelu)),
    "sums in half precision": lambda: laws.half_precision_is_accumulated(
        dataclasses.replace(named("norms.l1"), forward=in_half_precision), jnp.bfloat16, 100
    ),
    "NaN lost": lambda: laws.nan_shows(silu(forward=lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)))),
    "NaN spread": lambda: laws.nan_shows(silu(forward=lambda x: activations.silu(x) + jnp.sum(x))),
    "0 times infinity": lambda: laws.edge_is_exact(
        silu(forward=lambda x: x * activations.sigmoid(x)), named("activations.silu").edges[3], np.float32
    ),
    "a wrong convention": lambda: laws.edge_is_exact(
        silu(backward=lambda dy, x: jnp.where(x == 0, 0.25 * dy, silu_backward(dy, x))),
        named("activations.silu").edges[0],
        np.float32,
    ),
}


@pytest.mark.parametrize("breach", RED.values(), ids=RED.keys())
def test_law_is_seen_to_fail(breach: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        breach()
