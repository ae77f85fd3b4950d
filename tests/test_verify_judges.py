"""Who judges a rule, and how far: autodiff by definition, constants that f holds in few digits, half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import verify
from fundl.verify._programs import cuts
from mutants import OPERATIONS

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


def test_a_value_of_autodiff_at_one_point_alone_is_a_choice():
    bce = OPERATIONS["bce"]  # autodiff gives another gradient at 0 than beside it
    args = [jnp.asarray(x, jnp.float32) for x in bce.sample(np.random.default_rng(0))]
    report = verify.check_rule(bce.f, bce.backward, *args, reference="autodiff", **bce.options)
    assert report.ok, str(report)


def rms_norm(x):
    return x * jax.lax.rsqrt(jnp.mean(x * x) + 1e-6)


def rms_norm_backward(dy, x):
    r = jax.lax.rsqrt(jnp.mean(x * x) + 1e-6)
    return r * (dy - x * r * jnp.mean(dy * x * r))


def gelu_backward(dy, x):
    below = 0.5 * jax.lax.erfc(-x * 0.7071067811865476)
    return dy * (below + x * jnp.exp(-x * x / 2) * 0.3989422804014327)


def in_float32(function):
    return lambda *args: function(*[x.astype(jnp.float32) for x in args]).astype(args[0].dtype)


TENTH = np.float32(0.1)
CUT = {
    "next to a cast of f": (
        in_float32(rms_norm),
        rms_norm_backward,
        lambda dy, x: (1 + 1e-6) * rms_norm_backward(dy, x),
    ),
    "next to a cast of the rule": (rms_norm, in_float32(rms_norm_backward), lambda dy, x: dy * (1 + 1e-6)),
    "given as float32": (
        lambda x: jnp.sin(TENTH * x),
        lambda dy, x: dy * 0.1 * jnp.cos(0.1 * x),
        lambda dy, x: dy * 0.100001 * jnp.cos(0.1 * x),
    ),
    "no short decimal": (
        in_float32(lambda x: 0.5 * x * jax.lax.erfc(-x * 0.7071067811865476)),
        gelu_backward,
        lambda dy, x: gelu_backward(dy, x) * (1 + 1e-5),
    ),
    "no short decimal in the rule": (
        lambda x: 0.5 * x * jax.lax.erfc(-x * 0.7071067811865476),
        in_float32(gelu_backward),
        in_float32(lambda dy, x: gelu_backward(dy, x) * np.float32(1 + 1e-5)),
    ),
}


@pytest.mark.parametrize("name", CUT)
def test_constants_cut_to_the_digits_of_the_arguments_are_no_mistakes_and_hide_none(name):
    f, right, wrong = CUT[name]
    with jax.numpy_dtype_promotion("standard"):
        report = verify.check_rule(f, right, X)
        assert report.ok, str(report)
        assert not verify.check_rule(f, wrong, X).ok


def test_a_constant_in_float32_is_itself_where_all_else_is_float64():
    def f(x):
        return jnp.sin(TENTH * x)

    with jax.numpy_dtype_promotion("standard"):
        assert not verify.check_rule(f, lambda dy, x: dy * 0.1 * jnp.cos(0.1 * x), X.astype(jnp.float64)).ok


def test_what_a_constant_was_before_it_was_cut():
    def found(*constants):
        x = jnp.float32(1.0)
        return cuts(jax.make_jaxpr(lambda x: sum(c * x for c in constants))(x).jaxpr, 1.2e-7)

    assert found(1e-6, 0.044715, 2.0, -0.375, 1234567.0, 1e30) == [(1e-6, 0.0), (0.044715, 0.0), (1e30, 0.0)]
    ((value, doubt),) = found(np.pi)
    assert value == np.float32(np.pi)
    assert abs(value - np.pi) < doubt < 1e-7 * np.pi
    assert cuts(jax.make_jaxpr(lambda x: 0.1 * x)(jnp.float64(1.0)).jaxpr, 1.2e-7) == []


@pytest.mark.parametrize(("n", "signs"), [(512, [1]), (1024, [-1, 1])], ids=["it stops growing", "of both signs"])
def test_a_sum_in_bfloat16_is_caught(n, signs):
    x = jnp.asarray(RNG.standard_normal((n, 2)), jnp.bfloat16)
    signs = RNG.choice(signs, (n, 1))

    def f(x, b):
        return x + jnp.asarray(signs, x.dtype) * b[None]

    def right(dy, x, b):
        return dy, (dy * jnp.asarray(signs, x.dtype)).sum(axis=0)

    def held(dy, x, b):
        terms = dy * jnp.asarray(signs, x.dtype)
        return dy, jax.lax.fori_loop(0, n, lambda i, total: total + terms[i], jnp.zeros_like(b))

    report = verify.check_rule(f, held, x, x[0])
    assert [(w.argument, w.cause, w.dtype) for w in report.failures] == [("b", "precision", "bfloat16")], str(report)
    assert verify.check_rule(f, right, x, x[0]).ok
