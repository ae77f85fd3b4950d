"""Who judges a rule, and how far: autodiff by definition, constants that f holds in few digits, half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import verify

pytestmark = pytest.mark.large

RNG = np.random.default_rng(0)
X = jnp.asarray([0.3, -1.2, 2.4], jnp.float32)
Y = jnp.asarray([0.5, 1.2, -0.4], jnp.float32)
stop = jax.lax.stop_gradient


def straight_through(x):
    return x + stop(jnp.round(x) - x)


def reversal(x):
    return -x + stop(2 * x)


def target(x, y):
    return (x - stop(y)) ** 2


@pytest.mark.parametrize(
    ("f", "right", "wrong", "args"),
    [
        (
            straight_through,
            lambda g, x: g,
            [lambda g, x: 0 * g, lambda g, x: 2 * g, lambda g, x: jnp.where(abs(x) < 1, g, 0 * g)],
            (X,),
        ),
        (reversal, lambda g, x: -g, [lambda g, x: g, lambda g, x: -g / 2], (X,)),
        (
            target,
            lambda g, x, y: (2 * g * (x - y), jnp.zeros_like(y)),
            [lambda g, x, y: (2 * g * (x - y), -2 * g * (x - y))],
            (X, Y),
        ),
    ],
)
def test_a_stop_gradient_that_is_meant_is_judged_by_autodiff_alone(f, right, wrong, args):
    report = verify.check_rule(f, right, *args, reference="autodiff")
    assert report.ok, str(report)
    assert "differences" not in str(report)
    for backward in wrong:
        report = verify.check_rule(f, backward, *args, reference="autodiff")
        assert not report.ok, str(report)
        assert "differences" not in str(report)


def test_kinks_and_missing_values_leave_a_choice_where_autodiff_judges_alone():
    def norm(x):
        return jnp.sqrt(jnp.sum(x * x))  # autodiff has no value at 0

    def backward(dy, x):
        return dy * x / jnp.maximum(norm(x), 1e-300)

    report = verify.check_rule(norm, backward, X.astype(float), reference="autodiff")
    assert report.ok, str(report)
    assert any("jax.grad nan" in text for text in report.conventions)
    assert verify.check_rule(jnp.abs, lambda dy, x: jnp.where(x < 0, -dy, dy), X, reference="autodiff").ok
    outside = verify.check_rule(jnp.abs, lambda dy, x: jnp.where(x == 0, -2 * dy, jnp.where(x < 0, -dy, dy)), X,
                                reference="autodiff")  # fmt: skip
    assert [f.cause for f in outside.failures] == ["kink"]
