"""The examiner: right rules pass, wrong ones fail, and the report says which, where, by how much and why."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import verify
from mutants import OPERATIONS

pytestmark = pytest.mark.large

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((8, 3)))
W = jnp.asarray(RNG.standard_normal((3, 2)))
B = jnp.asarray(RNG.standard_normal(2))
Z = jnp.asarray(RNG.standard_normal((5, 4)))
Y = jnp.asarray([0, 3, 1, 1, 2])
linear, linear_backward = OPERATIONS["linear"].f, OPERATIONS["linear"].backward
cross_entropy, cross_entropy_backward = OPERATIONS["cross_entropy"].f, OPERATIONS["cross_entropy"].backward


def only(report):
    """The one failure of a report."""
    assert len(report.failures) == 1, str(report)
    return report.failures[0]


def linear_with(i, change):
    """The backward of `linear` with its i-th gradient changed."""

    def backward(dz, X, W, b):
        grads = list(linear_backward(dz, X, W, b))
        grads[i] = change(grads[i])
        return tuple(grads)

    return backward


def test_right_rule_passes_and_states_its_power():
    report = verify.check_rule(linear, linear_backward, X, W, B)
    assert report.ok
    assert report
    assert not report.failures
    assert [row.verdict for row in report.arguments] == ["ok"] * 3
    assert max(report.power.values()) < 1e-10
    assert "confirmed by differences" in str(report)
    assert json.loads(report.to_json())["ok"] is True


def test_failure_names_argument_index_values_and_cause():
    failure = only(verify.check_rule(linear, linear_with(1, lambda g: g.at[1, 1].multiply(1.5)), X, W, B))
    assert failure.argument == "W"
    assert failure.index == (1, 1)
    assert failure.given == pytest.approx(1.5 * failure.expected)
    assert failure.ulp > 1e10
    assert failure.cause == "entries"
    assert "multiplied by 1.5" in failure.likely_cause
    assert "as given" in failure.seen_at


@pytest.mark.parametrize(
    ("i", "change", "cause", "words"),
    [
        (1, lambda g: 2 * g, "factor", "factor of 2"),
        (1, lambda g: -g, "sign", "sign is flipped"),
        (2, lambda g: g / 8, "factor", "mean for a sum"),
        (0, jnp.zeros_like, "zero", "missing"),
        (0, lambda g: jnp.roll(g, 1, 0), "rolled", "rolled by 1 along axis 0"),
        (0, lambda g: g.at[0].set(0), "entries", "index 0 along axis 0 is given as 0"),
        (1, lambda g: g + 0.1 * W, "added", "0.1 times W is added"),
        (2, lambda g: g + 0.001, "offset", "0.001 is added"),
        (1, lambda g: g.astype(jnp.float16).astype(g.dtype), "precision", "float16"),
        (1, lambda g: g * (1 + 1e-6), "factor", "1.000001"),
    ],
)
def test_likely_cause(i, change, cause, words):
    if cause == "added":

        def backward(dz, X, W, b):
            grads = linear_backward(dz, X, W, b)
            return grads[0], grads[1] + 0.1 * W, grads[2]
    else:
        backward = linear_with(i, change)
    failure = only(verify.check_rule(linear, backward, X, W, B))
    assert failure.argument == ("X", "W", "b")[i]
    assert failure.cause == cause, str(failure)
    assert words in failure.likely_cause


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (jnp.ones_like, "ignored"),
        (jnp.abs, "absolute value"),
        (lambda dy: jnp.full_like(dy, dy[0, 0]), "first entry"),
        (lambda dy: jnp.full_like(dy, jnp.mean(dy)), "mean"),
        (lambda dy: dy.at[-1].set(0), "last row"),
    ],
)
def test_cotangent_faults_are_named(change, words):
    report = verify.check_rule(linear, lambda dz, *a: linear_backward(change(dz), *a), X, W, B)
    assert any(words in f.likely_cause for f in report.failures), str(report)


def test_wrong_label_index_is_named():
    failure = only(
        verify.check_rule(cross_entropy, lambda dy, z, y: cross_entropy_backward(dy, z, jnp.maximum(y - 1, 0)), Z, Y)
    )
    assert failure.argument == "z"
    wrapped = only(verify.check_rule(cross_entropy, lambda dy, z, y: cross_entropy_backward(dy, z, (y + 1) % 4), Z, Y))
    assert wrapped.cause == "label"
    assert "one too high" in wrapped.likely_cause


def test_a_rule_that_is_not_linear_or_blind_is_named():
    nonlinear = only(verify.check_rule(lambda x: x * x, lambda dy, x: 2 * x * jnp.clip(dy, -1, 1), B))
    assert (nonlinear.cause, "not linear in the cotangent" in nonlinear.likely_cause) == ("nonlinear", True)
    blind = only(verify.check_rule(lambda x, w: x @ w, lambda dy, x, w: (dy @ W.T, x.T @ dy), X, 2 * W**2))
    assert (blind.argument, blind.cause) == ("x", "independent")
    assert "does not depend on w" in blind.likely_cause


def test_swapped_outputs_are_named():
    def backward(dy, a, b):
        return dy * a, dy * b

    report = verify.check_rule(lambda a, b: a * b, backward, B, B + 1)
    assert {f.cause for f in report.failures} == {"swapped"}


class TestStructure:
    def test_wrong_number(self):
        failure = only(verify.check_rule(linear, lambda *a: linear_backward(*a)[:2], X, W, B))
        assert "2 values; expected 3 gradients (X, W, b)" in failure.message

    def test_missing_sum_over_a_broadcast_axis(self):
        failure = only(verify.check_rule(linear, lambda dz, X, W, b: (dz @ W.T, X.T @ dz, dz), X, W, B))
        assert (failure.argument, failure.cause) == ("b", "shape")
        assert "sum over the broadcast axis 0 is missing" in failure.likely_cause

    def test_transposed_shape(self):
        failure = only(verify.check_rule(linear, linear_with(1, jnp.transpose), X, W, B))
        assert "transposed" in failure.likely_cause

    def test_transposed_square(self):
        square = jnp.asarray(RNG.standard_normal((3, 3)))
        failure = only(verify.check_rule(lambda A: A @ A @ A[:, :1], _square_backward_transposed, square))
        assert failure.cause == "transposed"

    def test_wrong_dtype(self):
        def backward(dy, x):
            return (2 * x * dy).astype(jnp.float32)

        failure = only(verify.check_rule(lambda x: x * x, backward, X))
        assert failure.cause == "dtype"
        assert "float32, expected float64" in failure.message

    def test_wrong_tree(self):
        report = verify.check_rule(lambda p: p["a"] * p["b"], lambda dy, p: (p["b"] * dy,), {"a": B, "b": B})
        assert not report.ok

    def test_an_exception_is_a_failure_and_not_an_error(self):
        failure = only(verify.check_rule(linear, lambda dz, X, W, b: 1 / 0, X, W, B))
        assert "ZeroDivisionError" in failure.message

    def test_state_between_calls(self):
        calls = []

        def backward(dy, x):
            calls.append(1)
            return 2 * x * dy * (1 + len(calls) % 2)

        assert only(verify.check_rule(lambda x: x * x, backward, X)).cause == "repeat"

    def test_input_changed_in_place(self):
        a = np.ones(3)

        def backward(dy, x):
            if isinstance(x, np.ndarray):
                x *= 1
            a[0] += 1
            return 2 * x * dy

        assert "mutates" in {f.cause for f in verify.check_rule(lambda x: x * x, backward, a).failures}

    def test_batch_size_baked_in(self):
        failure = only(verify.check_rule(lambda x: jnp.mean(x, axis=0), lambda dy, x: jnp.broadcast_to(dy, x.shape) / 8,
                                         X))  # fmt: skip
        assert failure.cause == "batch"
        assert "frozen" in failure.likely_cause

    def test_closed_over_array(self):
        report = verify.check_rule(lambda x, w: x @ w, lambda dy, x, w: (dy @ W.T, x.T @ dy), X, W)
        assert [f.argument for f in report.failures] == ["x"]

    def test_pytrees_integers_static_none_and_several_outputs(self):
        def f(params, x, y, power):
            z = x @ params["w"] + params["b"][None]
            return {"z": z, "pick": jnp.sum(z**power, axis=1), "label": y}

        def backward(dy, params, x, y, power):
            z = x @ params["w"] + params["b"][None]
            dz = dy["z"] + power * z ** (power - 1) * dy["pick"][:, None]
            return {"w": x.T @ dz, "b": jnp.sum(dz, axis=0)}, dz @ params["w"].T, None, None

        labels = jnp.arange(8)
        report = verify.check_rule(f, backward, {"w": W, "b": B}, X, labels, 2)
        assert report.ok, str(report)
        assert [r.name for r in report.arguments] == ["params['b']", "params['w']", "x", "y"]

    def test_none_for_a_gradient_that_is_not_zero(self):
        failure = only(verify.check_rule(linear, lambda *a: (None, *linear_backward(*a)[1:]), X, W, B))
        assert (failure.argument, failure.cause) == ("X", "zero")

    def test_aux_output(self):
        report = verify.check_rule(lambda x: (x * x, "aux"), lambda dy, x: 2 * x * dy, X, has_aux=True)
        assert report.ok

    def test_numpy_rule_is_checked_point_by_point(self):
        def backward(dy, x):
            return np.cos(np.asarray(x)) * np.asarray(dy)

        assert verify.check_rule(jnp.sin, backward, B).ok
        assert not verify.check_rule(jnp.sin, lambda dy, x: -backward(dy, x), B).ok


def _square_backward_transposed(dy, A):
    _, pull = jax.vjp(lambda A: A @ A @ A[:, :1], A)
    return pull(dy)[0].T


class TestKinks:
    @pytest.mark.parametrize(("value", "word"), [(0.0, "left"), (1.0, "right"), (0.5, None)])
    def test_any_subgradient_is_accepted_and_named(self, value, word):
        def backward(dy, x):
            return jnp.where(x > 0, dy, jnp.where(x < 0, 0, value * dy))

        report = verify.check_rule(lambda x: jnp.maximum(x, 0), backward, X)
        assert report.ok, str(report)
        assert word is None or any(f"takes {word}" in c for c in report.conventions), str(report)

    @pytest.mark.parametrize("value", [2.0, -1.0, 1.1])
    def test_outside_the_subdifferential_fails(self, value):
        def backward(dy, x):
            return jnp.where(x > 0, dy, jnp.where(x < 0, 0, value * dy))

        failure = only(verify.check_rule(lambda x: jnp.maximum(x, 0), backward, X))
        assert failure.cause == "kink"
        assert "subdifferential" in failure.likely_cause

    def test_declared_convention(self):
        def backward(dy, x):
            return jnp.where(x > 0, dy, 0)

        assert verify.check_rule(lambda x: jnp.maximum(x, 0), backward, X, kink="left").ok
        assert not verify.check_rule(lambda x: jnp.maximum(x, 0), backward, X, kink="right").ok

    def test_tied_maxima_must_share(self):
        def backward(dy, x):
            return dy[:, None] * (x == jnp.max(x, axis=1, keepdims=True)).astype(x.dtype)

        failure = only(verify.check_rule(lambda x: jnp.max(x, axis=1), backward, Z))
        assert failure.cause == "kink"

    @pytest.mark.parametrize("name", ["bce", "elu"])
    def test_reference_is_called_wrong_and_the_rule_vindicated(self, name):
        op = OPERATIONS[name]
        report = verify.check_rule(op.f, op.backward, *(jnp.asarray(a) for a in op.sample(RNG)), **op.options)
        assert report.ok, str(report)
        assert any("jax.grad of f is wrong" in r for r in report.reference)

    def test_nan_of_autodiff_in_an_unused_branch(self):
        def f(x):
            return jnp.where(x > 0, jnp.sqrt(x), 0)

        report = verify.check_rule(f, lambda dy, x: jnp.where(x > 0, dy / (2 * jnp.sqrt(x)), 0), B)
        assert report.ok, str(report)
        assert any("it gives nan, differences 0" in r for r in report.reference), str(report)
        wrong = verify.check_rule(f, lambda dy, x: jnp.where(x > 0, dy / (2 * jnp.sqrt(x)), dy), B)
        assert not wrong.ok, str(wrong)

    def test_norm_at_zero(self):
        op = OPERATIONS["norm"]

        def unguarded(dy, x):
            return dy[:, None] * x / jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True))

        assert verify.check_rule(op.f, op.backward, X).ok
        failure = only(verify.check_rule(op.f, unguarded, X))
        assert failure.cause == "zero"


class TestRegions:
    def test_wrong_only_in_a_tail(self):
        op = OPERATIONS["softplus"]
        failure = only(verify.check_rule(op.f, lambda dy, x: op.backward(dy, x) * jnp.where(x < -3, 1.1, 1), X))
        assert "x < -3" in failure.likely_cause or "x < -2.9" in failure.likely_cause, str(failure)

    def test_missing_shift_overflows(self):
        def backward(dy, z):
            p = jnp.exp(z) / jnp.sum(jnp.exp(z), axis=-1, keepdims=True)
            return p * (dy - jnp.sum(p * dy, axis=-1, keepdims=True))

        failure = only(verify.check_rule(OPERATIONS["softmax"].f, backward, Z))
        assert failure.cause in ("overflow", "saturated")

    def test_right_in_float64_but_cancelling_in_float32(self):
        def backward(dy, x):  # the variance as a difference of two moments
            n = x.shape[0]
            m = jnp.mean(x)
            variance = jnp.mean(x * x) - m * m
            return dy * (x - m) / n / jnp.sqrt(variance + 1e-12)

        def f(x):
            return jnp.sqrt(jnp.mean(jnp.square(x - jnp.mean(x))) + 1e-12)

        report = verify.check_rule(f, backward, jnp.asarray(100 + RNG.standard_normal(50)))
        assert not report.ok

    def test_half_precision_in_float32(self):
        def backward(dy, x):
            half = x.dtype == jnp.float32
            cos = jnp.cos(x.astype(jnp.float16)).astype(x.dtype) if half else jnp.cos(x)
            return dy * cos

        failure = only(verify.check_rule(jnp.sin, backward, X))
        assert failure.dtype == "float32"

    @pytest.mark.slow
    def test_one_entry_of_a_million_wrong_by_one_percent(self):
        x = jnp.asarray(RNG.standard_normal(1_000_000), jnp.float32)
        failure = only(verify.check_rule(lambda x: x * x, lambda dy, x: (2 * x * dy).at[123_456].multiply(
            jnp.asarray(1.01, x.dtype)), x))  # fmt: skip
        assert failure.index == (123_456,)


class TestRounding:
    """Textbook rules lose digits where the gradient is next to nothing: no fault, but a note."""

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    @pytest.mark.parametrize(
        ("f", "backward"),
        [
            (jax.nn.log_sigmoid, lambda dy, x: dy * (1 - jax.nn.sigmoid(x))),
            (lambda x: jnp.sum(jax.nn.softplus(-x)), lambda dy, x: dy * (jax.nn.sigmoid(x) - 1)),
        ],
    )
    def test_one_minus_sigmoid_passes(self, f, backward, dtype):
        report = verify.check_rule(f, backward, jnp.asarray([0.3, -2.0], dtype))
        assert report.ok, str(report)
        assert any("keeps few digits" in note for note in report.notes)

    def test_small_functions_are_not_taken_for_rounding(self):
        assert not verify.check_rule(lambda x: 1e-20 * x, lambda dy, x: 2e-20 * dy, B).ok


class TestDomain:
    def test_positive_domain_is_guessed_and_said(self):
        report = verify.check_rule(jnp.log, lambda dy, x: dy / x, jnp.asarray([0.5, 2.0]), domain="positive")
        assert report.ok
        guessed = verify.check_rule(lambda x: jnp.where(x > 0, jnp.log(x), jnp.nan), lambda dy, x: dy / x, B**2)
        assert guessed.ok
        assert guessed.skipped == 0
        assert any("positive" in n for n in guessed.notes)

    def test_a_forward_that_refuses_the_arguments_says_so_itself(self):
        def f(p):
            if not isinstance(p, jax.core.Tracer) and not bool(jnp.all(p > 0)):
                raise ValueError("p must be positive")
            return jnp.log(p)

        with pytest.raises(ValueError, match="p must be positive"):
            verify.check_rule(f, lambda dy, p: dy / p, jnp.asarray([-1.0, 2.0]))

    def test_refusing_forward_is_respected(self):
        def f(p):
            if not isinstance(p, jax.core.Tracer) and not bool(jnp.all((p >= 0) & (p <= 1))):
                raise ValueError("p outside [0, 1]")
            return jnp.where((p >= 0) & (p <= 1), p * (1 - p), jnp.nan)

        assert verify.check_rule(f, lambda dy, p: dy * (1 - 2 * p), jnp.asarray([0.2, 0.7])).ok

    def test_unknown_names_are_refused(self):
        with pytest.raises(ValueError, match="domain names 'q'"):
            verify.check_rule(jnp.sin, lambda dy, x: dy, B, domain={"q": "positive"})
        with pytest.raises(ValueError, match="kink must be one of"):
            verify.check_rule(jnp.sin, lambda dy, x: dy, B, kink="up")
        with pytest.raises(TypeError, match="no argument has a floating dtype"):
            verify.check_rule(lambda i: i, lambda dy, i: i, Y)


class TestGradient:
    def test_structure_decides_which_arguments(self):
        def loss(params, X, y):
            return jnp.mean(jnp.square(X @ params["w"] - y))

        def gradient(params, X, y):
            return {"w": 2 * X.T @ (X @ params["w"] - y) / y.size}

        params, y = {"w": jnp.ones(3)}, X[:, 0]
        report = verify.check_gradient(loss, gradient, params, X, y)
        assert report.ok, str(report)
        assert "params" in report.notes[0]
        every = verify.check_gradient(loss, jax.grad(loss, argnums=(0, 1, 2)), params, X, y)
        assert every.ok
        assert "params, X, y" in every.notes[0]
        assert verify.check_gradient(loss, jax.grad(loss, argnums=2), params, X, y, argnums=2).ok
        wrong = verify.check_gradient(loss, lambda *a: jax.tree.map(lambda g: 0.5 * g, gradient(*a)), params, X, y)
        assert "1/2" in only(wrong).likely_cause

    def test_a_gradient_that_raises_is_a_failure_and_not_an_error(self):
        failure = only(verify.check_gradient(lambda w: jnp.sum(w * w), lambda w: 1 / 0, B))
        assert "ZeroDivisionError" in failure.message

    def test_vector_function_is_refused(self):
        with pytest.raises(ValueError, match="one scalar"):
            verify.check_gradient(jnp.sin, jnp.cos, B)


class TestCustomRules:
    def test_custom_vjp(self):
        @jax.custom_vjp
        def good(x, y):
            return jnp.sin(x) * y

        good.defvjp(lambda x, y: (jnp.sin(x) * y, (x, y)), lambda r, g: (g * jnp.cos(r[0]) * r[1], g * jnp.sin(r[0])))
        assert verify.check_custom_vjp(good, B, B).ok
        assert verify.check_custom_vjp(jax.jit(good), B, B).ok
        assert verify.check_custom_vjp(functools.partial(good, B), B).ok

    def test_wrong_backward_and_wrong_forward(self):
        @jax.custom_vjp
        def bad(x):
            return jnp.sin(x)

        bad.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (2 * g * jnp.cos(x),))
        assert only(verify.check_custom_vjp(bad, B)).cause == "factor"

        @jax.custom_vjp
        def disagrees(x):
            return jnp.sin(x)

        disagrees.defvjp(lambda x: (jnp.sin(x) * 1.001, x), lambda x, g: (g * jnp.cos(x),))
        assert only(verify.check_custom_vjp(disagrees, B)).cause == "forward"

    def test_what_a_forward_leaves_outside_of_its_residuals_is_caught(self):
        kept = []

        def rule(forward, backward):
            f = jax.custom_vjp(lambda x: jnp.sin(x))
            f.defvjp(forward, backward)
            return f

        def last(x):
            kept.append(x)
            return jnp.sin(x), None

        failure = only(verify.check_custom_vjp(rule(last, lambda r, g: (g * jnp.cos(kept[-1]),)), B))
        assert failure.cause == "state"
        assert "a forward left outside of its residuals" in failure.likely_cause
        popped = only(verify.check_custom_vjp(rule(last, lambda r, g: (g * jnp.cos(kept.pop()),)), B))
        assert popped.cause == "state"
        first = rule(lambda x: (jnp.sin(x), kept.append(x)), lambda r, g: (g * jnp.cos(kept.pop(0)),))
        kept.clear()
        assert verify.check_custom_vjp(rule(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),)), B).ok
        leaked = only(verify.check_custom_vjp(jax.jit(first), B))
        assert leaked.cause == "raises"
        assert "belongs to another trace" in leaked.likely_cause

    def test_a_forward_that_raises_after_another_is_no_refusal_of_the_values(self):
        kept = []

        def one_place(x):
            if kept:
                raise RuntimeError("the place is taken")
            kept.append(x)
            return jnp.sin(x), None

        busy = jax.custom_vjp(jnp.sin)
        busy.defvjp(one_place, lambda r, g: (g * jnp.cos(kept.pop()),))
        failure = only(verify.check_custom_vjp(busy, B))
        assert failure.cause == "state"
        assert "RuntimeError" in failure.message

        def only_these(x):
            if not isinstance(x, jax.core.Tracer) and not np.array_equal(x, B):
                raise RuntimeError("other values")
            return jnp.sin(x), x

        picky = jax.custom_vjp(jnp.sin)
        picky.defvjp(only_these, lambda x, g: (g * jnp.cos(x),))
        report = verify.check_custom_vjp(picky, B)
        assert report.ok, str(report)
        assert any("second forward" in note and "RuntimeError: other values" in note for note in report.notes)

    def test_static_arguments_and_custom_jvp(self):
        @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
        def power(x, n):
            return x**n

        power.defvjp(lambda x, n: (x**n, x), lambda n, x, g: (g * n * x ** (n - 1),))
        assert verify.check_custom_vjp(power, B, 3).ok
        assert verify.check_custom_vjp(jax.nn.relu, X).ok

    def test_plain_function_is_refused(self):
        with pytest.raises(TypeError, match="no custom rule"):
            verify.check_custom_vjp(jnp.sin, B)

    def test_shared_mistake_is_found_by_differences(self):
        def f(x):
            return x * jax.lax.stop_gradient(x)

        assert only(verify.check_rule(f, lambda dy, x: x * dy, B)).cause == "shared"
        assert verify.check_rule(f, lambda dy, x: x * dy, B, reference="autodiff").ok


def test_black_box_judge_alone():
    assert verify.check_rule(linear, linear_backward, X, W, B, reference="differences").ok
    wrong = linear_with(1, lambda g: g.at[2, 1].multiply(1 + 1e-6))
    failure = only(verify.check_rule(linear, wrong, X, W, B, reference="differences"))
    assert failure.index == (2, 1)


def test_numpy_function_is_judged_by_differences():
    def f(x):
        return jnp.asarray(np.sin(np.asarray(x)))

    report = verify.check_rule(f, lambda dy, x: dy * jnp.cos(x), jnp.asarray([0.3, 0.4]))
    assert report.ok, str(report)
    assert any("cannot be traced" in n for n in report.notes)


def test_assertions_raise_with_the_report():
    verify.assert_rule(linear, linear_backward, X, W, B)
    with pytest.raises(AssertionError, match="sign is flipped"):
        verify.assert_rule(linear, linear_with(0, jnp.negative), X, W, B)
    with pytest.raises(AssertionError, match="factor of 2"):
        verify.assert_gradient(lambda x: jnp.sum(jnp.sin(x)), lambda x: 2 * jnp.cos(x), B)
    with pytest.raises(TypeError, match="no custom rule"):
        verify.assert_custom_vjp(jnp.sin, B)


def test_a_mask_of_one_value_is_said_to_prove_nothing():
    x = jnp.array([1.0, 2.0, 3.0])

    def f(x, mask):
        return jnp.sum(jnp.where(mask, x, 0.0))

    def ignores(dy, x, mask):
        return dy * jnp.ones_like(x)

    report = verify.check_rule(f, ignores, x, jnp.ones(3, bool))
    assert report.ok
    assert any("every entry of mask is True" in n for n in report.notes)
    assert not verify.check_rule(f, ignores, x, jnp.array([True, False, True])).ok


def test_a_wrong_value_at_the_edge_of_the_domain_is_caught():
    def f(x):
        return jnp.where(x < 0, jnp.nan, 2 * x)

    def wrong(dy, x):
        return dy * jnp.where(x == 0, 5.0, 2.0)

    x = jnp.array([0.0, 0.3, 0.8])
    report = verify.check_rule(f, wrong, x, domain=(0.0, 1.0))
    assert not report.ok
    assert report.failures[0].expected / report.failures[0].given == pytest.approx(2 / 5)
    assert verify.check_rule(f, lambda dy, x: 2 * dy, x, domain=(0.0, 1.0)).ok


@pytest.mark.parametrize("scale", [1e-4, 1e-5, 1e-7, 1e-12])
@pytest.mark.parametrize(
    ("f", "wrong"),
    [
        (jnp.log, lambda dy, p: 2 * dy / p),
        (jnp.sqrt, lambda dy, p: dy / jnp.sqrt(p)),
        (jnp.reciprocal, lambda dy, p: -2 * dy / p**2),
        (jnp.log, lambda dy, p: dy / jnp.maximum(p, 3e-4)),
    ],
)
def test_small_arguments_next_to_where_f_has_no_value(f, wrong, scale):
    assert not verify.check_rule(f, wrong, scale * jnp.array([1.0, 2.0]), domain="fixed").ok


def test_a_clamp_far_below_the_arguments_is_caught():
    p = jnp.array([0.2, 0.5, 0.9])
    for clamp in (1e-5, 1e-6):
        assert not verify.check_rule(jnp.log, lambda dy, p, c=clamp: dy / jnp.maximum(p, c), p, domain=(0.0, 1.0)).ok
    assert verify.check_rule(jnp.log, lambda dy, p: dy / p, p, domain=(0.0, 1.0)).ok


def test_what_neither_judge_decides_is_said():
    def f(x):
        return x * jnp.sqrt(x)  # autodiff has no value at 0, and differences step out of the domain

    def backward(dy, x):
        return dy * jnp.where(x == 0, 0.3, 1.5 * jnp.sqrt(x))

    report = verify.check_rule(f, backward, jnp.array([0.0, 1.7]))
    assert any("undecided in x at 0" in note and "jax.grad nan" in note for note in report.notes), str(report)
    certain = verify.check_rule(lambda x: x**3, lambda dy, x: 3 * x**2 * dy, jnp.array([0.0, 1.7]))
    assert not any("undecided" in note for note in certain.notes)


def test_a_steep_edge_and_a_domain_that_is_none():
    p = jnp.array([0.0, 0.5])

    def f(p):
        return p**1.5

    assert verify.check_rule(f, lambda dy, p: 1.5 * dy * jnp.sqrt(p), p, domain=(0.0, 1.0)).ok
    bad = verify.check_rule(f, lambda dy, p: jnp.where(p == 0, -5 * dy, 1.5 * dy * jnp.sqrt(p)), p, domain=(0.0, 1.0))
    assert not bad.ok
    with pytest.raises(ValueError, match="low < high"):
        verify.check_rule(f, lambda dy, p: 1.5 * dy * jnp.sqrt(p), p, domain=(1.0, 0.0))


def test_an_option_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(TypeError, match="'tolerance' is no option of a check; there are domain, kink"):
        verify.check_rule(jnp.tanh, lambda dy, x: dy, 1.0, tolerance=1e-3)


def test_judge():
    assert verify.judge([1.0], [1.0]) == "exact"
    assert verify.judge([1.0 + 1e-15], [1.0]) == "within rounding"
    assert verify.judge([1.0 + 1e-9], [1.0]) == "wrong"
    assert verify.judge([jnp.nan], [1.0]) == "wrong"
    assert verify.judge([1.0], [[1.0]]) == "wrong"
    assert verify.judge([1000], [1001]) == "wrong"  # integers have no rounding
    assert verify.judge([1.0, 0.0], [1.0, 1e-15]) == "within rounding"  # what cancels is as large as the largest
    assert verify.judge([1e-300], [0.0]) == "wrong"
    assert verify.judge(jnp.ones(2, jnp.bfloat16), jnp.full(2, 1.1)) == "within rounding"
    assert verify.judge([], []) == "exact"


def test_no_global_setting_is_touched():
    before = (jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion)
    with jax.enable_x64(False):
        x = jnp.asarray([0.5, -1.0], jnp.float32)
        assert verify.check_rule(jnp.sin, lambda dy, x: dy * jnp.cos(x), x).ok
        assert not verify.check_rule(jnp.sin, lambda dy, x: dy * jnp.cos(x) * 1.0001, x).ok
    assert before == (jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion)


class TestCommandLine:
    @pytest.fixture
    def module(self, tmp_path, monkeypatch):
        (tmp_path / "their_ops.py").write_text(
            "import jax.numpy as jnp\n"
            "def right(x, w):\n    return x @ w\n"
            "def right_backward(dy, x, w):\n    return dy @ w.T, x.T @ dy\n"
            "def wrong(x):\n    return x * x\n"
            "def wrong_backward(dy, x):\n    return x * dy\n"
            "wrong_examples = (jnp.ones(3),)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        return "their_ops"

    def test_exit_codes_table_and_json(self, module, capsys):
        assert verify.run([f"{module}:right"]) == 0
        assert "1 of 1 rules right" in capsys.readouterr().out
        assert verify.run([module], json=True) == 1
        result = json.loads(capsys.readouterr().out)
        assert [r["ok"] for r in result["reports"]] == [True, False]
        assert verify.run([f"{module}:right"], shapes="(4,3),(3,2)", quiet=True) == 0

    def test_notes_on_a_rule_that_passes_are_printed(self, capsys):
        def f(x, mask):
            return jnp.where(mask, x, 0.0)

        case = ("masked", f, lambda dy, x, mask: dy, (X[0], jnp.ones(3, bool)), {})
        assert verify.check_cases([case]) == 0
        out = capsys.readouterr().out
        assert "note  masked: every entry of mask is True, so a rule that ignores it passes: vary it" in out
        assert verify.check_cases([case], quiet=True) == 0
        assert "note" not in capsys.readouterr().out

    def test_a_module_is_checked_but_for_what_has_no_inputs(self, module, tmp_path, capsys):
        (tmp_path / "mixed_ops.py").write_text(
            "def fine(x):\n    return 3 * x\n"
            "def fine_backward(dy, x):\n    return 3 * dy\n"
            "def odd(x, mode):\n    return x * {'twice': 2}[mode]\n"
            "def odd_backward(dy, x, mode):\n    return 2 * dy\n"
        )
        assert verify.run(["mixed_ops", f"{module}:wrong"]) == 2
        out, err = capsys.readouterr()
        assert "1 of 2 rules right" in out
        assert "no usual shapes fit mixed_ops:odd" in err

    def test_shapes_are_found_at_which_every_gradient_has_that_of_its_argument(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "scaled_ops.py").write_text(
            "import jax.numpy as jnp\n"
            "def scale(x, g):\n    return x * jnp.broadcast_to(g, x.shape)\n"
            "def scale_backward(dy, x, g):\n"
            "    return dy * jnp.broadcast_to(g, x.shape), (dy * x).sum(0)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        assert verify.run(["scaled_ops:scale"], json=True) == 0
        (report,) = json.loads(capsys.readouterr().out)["reports"]
        assert [row["type"].partition("[")[2] for row in report["arguments"]] == ["5,3]", "3]"]

    def test_several_threads_give_the_same_table_in_order(self, capsys):
        cases = [(f"{k} x", lambda x, k=k: k * x, lambda dy, x, k=k: k * dy, (B,), {}) for k in (2, 3, 4, 5)]
        cases[2] = ("4 x", lambda x: 4 * x, lambda dy, x: 5 * dy, (B,), {})
        assert verify.check_cases(cases, json=True, jobs=3) == 1
        found = json.loads(capsys.readouterr().out)["reports"]
        assert [(r["name"], r["ok"]) for r in found] == [("2 x", True), ("3 x", True), ("4 x", False), ("5 x", True)]

    def test_what_cannot_be_found_says_so(self, module, capsys):
        assert verify.run(["no_such_module:f"]) == 2
        assert verify.run([f"{module}:absent"]) == 2
        assert verify.run([f"{module}:right"], shapes="(4,x)") == 2
        assert "cannot read the shapes" in capsys.readouterr().err


def test_an_argument_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"argnums must name arguments among 0\.\.0; got 3"):
        verify.check_gradient(lambda w: jnp.sum(w * w), lambda w: 2 * w, jnp.ones(3), argnums=3)
