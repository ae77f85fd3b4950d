"""What a report says of a wrong rule is true: causes of common mistakes, outputs in another order, equal sizes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import verify
from mutants import OPERATIONS

pytestmark = pytest.mark.large

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((8, 3)))
B = jnp.asarray(RNG.standard_normal(2))
Z = jnp.asarray(RNG.standard_normal((5, 4)))
Y = jnp.asarray([0, 3, 1, 1, 2])
ROWS = jnp.asarray([0, 2, 3, 4])
cross_entropy, cross_entropy_backward = OPERATIONS["cross_entropy"].f, OPERATIONS["cross_entropy"].backward


def only(report):
    """The one failure of a report."""
    assert len(report.failures) == 1, str(report)
    return report.failures[0]


def test_a_gradient_in_the_place_of_another_is_named_and_not_called_a_swap_where_it_is_none():
    def backward(dy, a, b):
        return dy * b, dy * b

    failure = only(verify.check_rule(lambda a, b: a * b, backward, B, B + 1))
    assert (failure.argument, failure.cause) == ("b", "swapped")
    assert failure.likely_cause == "this is the gradient of a, in the place of that of b"


def test_outputs_in_another_order_are_no_transposes():
    report = verify.check_rule(lambda x, w: x @ w, lambda dy, x, w: (x.T @ dy, dy @ w.T), X[:5], X[:5].T)
    assert [f.likely_cause for f in report.failures] == [
        "outputs in another order? w has that shape", "outputs in another order? x has that shape",
    ]  # fmt: skip


def attention(q, k, v):
    return jax.nn.softmax(q @ k.T / np.sqrt(q.shape[1]), axis=-1) @ v


def attention_backward(dy, q, k, v, width=None):
    scale = 1 / np.sqrt(q.shape[1] if width is None else width(q, k, v))
    p = jax.nn.softmax(q @ k.T * scale, axis=-1)
    dp = dy @ v.T
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * scale
    return ds @ k, ds.T @ q, p.T @ dy


class TestEqualSizes:
    """Sizes that only happen to be equal in the arguments given."""

    Q, K, V = (jnp.asarray(RNG.standard_normal((n, 4))) for n in (5, 6, 6))

    def test_right_rules_pass(self):
        assert verify.check_rule(attention, attention_backward, self.Q, self.K, self.V).ok
        assert verify.check_rule(attention, attention_backward, Z[:4], Z[:4], Z[:4]).ok

    @pytest.mark.parametrize(
        "width", [lambda q, k, v: v.shape[1], lambda q, k, v: q.shape[0]], ids=["width of v", "rows of q"]
    )
    def test_one_size_taken_for_another_is_caught(self, width):
        backward = functools.partial(attention_backward, width=width)
        for failure in verify.check_rule(attention, backward, Z[:4], self.K[:, :4], self.V).failures:
            assert failure.cause == "batch"
            assert "one size is taken for another" in failure.likely_cause
        assert not verify.check_rule(attention, backward, Z[:4], self.K, self.V).ok

    def test_a_rule_that_refuses_unequal_sizes_is_not_wrong(self):
        def backward(dy, q, k, v):
            assert v.shape[1] == q.shape[1]
            return attention_backward(dy, q, k, v)

        report = verify.check_rule(attention, backward, self.Q, self.K, self.V)
        assert report.ok, str(report)
        assert any("not examined with sizes" in note for note in report.notes)

    def test_a_function_of_one_shape_alone_is_said_to_hide_such_faults(self):
        def f(x):
            assert x.shape in ((4, 4), (4, 3))
            return x.mean(1)

        report = verify.check_rule(f, lambda dy, x: jnp.broadcast_to(dy[:, None], x.shape) / len(x), Z[:4])
        assert report.ok
        assert any("4 occurs in these more than once" in note for note in report.notes)
        assert not verify.check_rule(
            f, lambda dy, x: jnp.broadcast_to(dy[:, None], x.shape) / len(x), Z[:4, :3]).ok  # fmt: skip


def embed(E, i):
    return E[i]


@pytest.mark.parametrize(
    ("f", "backward", "args", "cause", "words"),
    [
        (lambda x, W: x @ W, lambda dy, x, W: (dy @ W, x.T @ dy), (X, jnp.asarray(RNG.standard_normal((3, 3)))),
         "transposed", "W is used transposed"),
        (jax.nn.sigmoid, lambda dy, x: (lambda s: dy * s * (1 - s))(jax.nn.sigmoid(jax.nn.sigmoid(x))), (B,),
         "added", "the output is used where x belongs"),
        (lambda x: jnp.maximum(x, 0), lambda dy, x: jnp.where(dy > 0, dy, 0), (B,), "nonlinear",
         "not linear in the cotangent"),
        (lambda x, w: jnp.sum(w * jnp.sum(x**3, 1)), lambda dy, x, w: (3 * dy * x**2, dy * jnp.sum(x**3, 1)),
         (Z, Z[:, 0] ** 2), "factor", "a factor w is missing"),
        (embed, lambda dy, E, i: jnp.zeros_like(E).at[i].set(dy), (Z, ROWS), "entries", "names more than once"),
        (embed, lambda dy, E, i: jnp.zeros_like(E).at[i].set(dy), (Z, ROWS.at[0].set(2)), "entries", "more than once"),
        (lambda x, m: jnp.where(m, x**2, 0), lambda dy, x, m: 2 * dy * x, (B, jnp.asarray([True, False])),
         "entries", "wrong only where m is False"),
        (lambda x, m: jnp.sum(m.astype(x.dtype) * x**2), lambda dy, x, m: 2 * dy * x, (B, jnp.asarray([1, 0])),
         "entries", "wrong only where m is 0"),
        (lambda x, m: jnp.sum(jnp.where(m, x**2, 0)),
         lambda dy, x, m: 2 * dy * jnp.where(m, x, 0) * (1 - jnp.all(m).astype(x.dtype)),
         (B, jnp.asarray([True, False])), "region", "wrong only where m is another than that given"),
        (cross_entropy, lambda dy, z, y: dy * jax.nn.softmax(z) / len(z), (Z, Y), "entries",
         "wrong only at the class that y names"),
        (cross_entropy, lambda dy, z, y: cross_entropy_backward(dy, z, y) * 1.25, (Z, Y), "factor",
         "5/4 (axes have these sizes: one for the other?)"),
        (lambda x: jnp.mean(x**2), lambda dy, x: 2 * dy * x, (Z,), "factor", "20 (the number of entries: a sum for"),
        (lambda p, t: jnp.mean(jnp.abs(p - t)), lambda dy, p, t: tuple(
            s * jnp.abs(dy) * jnp.sign(p - t) / p.size for s in (1, -1)), (Z, Z * Z), "cotangent", "absolute value"),
        (embed, lambda dy, E, i: jnp.zeros_like(E).at[i].add(dy).at[1, 2].multiply(1.5), (Z, ROWS), "entries",
         "only entry [1,2] is multiplied by 1.5"),
        (jnp.round, lambda dy, x: dy, (B,), "added", "f is constant around every point"),
        (lambda x: jnp.cumsum(x**3, 0), lambda dy, x: 3 * dy * x**2, (Z,), "entries",
         "only index 4 along axis 0 is right"),
        (jnp.sin, lambda dy, x: dy * jnp.cos(x.astype(jnp.bfloat16).astype(x.dtype)), (B,), "precision",
         "rounded to a half precision on the way"),
        (lambda x: jnp.exp(x + 1), lambda dy, x: dy * jnp.exp(x + 1).astype(jnp.bfloat16).astype(x.dtype), (Z,),
         "precision", "rounded to bfloat16 on the way"),
        (lambda x: x**3, lambda dy, x: 3 * x * dy * x.astype(jnp.float16).astype(x.dtype), (Z,), "precision",
         "rounded to float16 on the way"),
        (jax.nn.leaky_relu, lambda dy, x: jnp.where(x < 0, 0.1 * dy, dy), (Z,), "region",
         "wrong by a factor of 10 where x is negative"),
        (lambda x: jax.nn.relu(x - 1) ** 2, lambda dy, x: 2 * dy * jnp.where(x > 1, x, 0), (Z,), "region",
         "wrong only where x > "),
        (jnp.sin, lambda dy, x: dy * jnp.cos(x) * jnp.where((abs(x).max() < 1e-9) & x.any(), 2, 1), (Z,), "region",
         "wrong only where very small (scaled by 1e-12)"),
        (cross_entropy, lambda dy, z, y: dy / len(z) * (
            jnp.exp(z) / jnp.exp(z).sum(-1, keepdims=True) - jax.nn.one_hot(y, z.shape[1])), (Z, Y),
         "overflow", "overflows at large inputs"),
        (jnp.sin, lambda dy, x: jnp.full_like(x, jnp.nan), (B,), "region", "NaN or infinite at ordinary inputs"),
    ],
)  # fmt: skip
def test_causes_of_mistakes_that_people_make(f, backward, args, cause, words):
    failure = verify.check_rule(f, backward, *args).failures[0]
    assert (failure.cause, words in failure.likely_cause) == (cause, True), str(failure)


def test_a_small_smooth_error_is_not_called_rounding():
    """An epsilon that is left out, or a factor in one term: near the truth, and followed by no step."""

    def rms(x):
        return x / jnp.sqrt((x * x).mean() + 1e-2)

    def backward(dy, x, eps=1e-2):
        r = 1 / jnp.sqrt((x * x).mean() + eps)
        return r * dy - r**3 * x * (dy * x).mean()

    assert verify.check_rule(rms, backward, 3 + B).ok
    failure = only(verify.check_rule(rms, functools.partial(backward, eps=2e-2), 3 + B, domain=(2, 6)))
    assert failure.cause == "unknown", str(failure)


def test_a_gradient_that_is_nan_for_both_is_said():
    def norm(x):
        return jnp.sqrt(jnp.sum(x * x))

    report = verify.check_rule(norm, lambda dy, x: dy * x / jnp.sqrt(jnp.sum(x * x)), B)
    assert report.ok
    assert any("f has a value at 0" in note and "the rule gives nan in x" in note for note in report.notes)
    safe = verify.check_rule(norm, lambda dy, x: dy * x / jnp.maximum(jnp.sqrt(jnp.sum(x * x)), 1e-200), B)
    assert not any("nan" in note for note in safe.notes)


def test_large_integers_are_no_sizes():
    """Ids, hashes and times: nothing as long as the largest of them is made."""
    x, ids = jnp.array([0.1, -0.1, 0.6]), np.array([1, 2, 2_000_000_000], np.int32)
    report = verify.check_rule(
        lambda x, i: jnp.sin(x), lambda dy, x, i: dy * (jnp.cos(x) + 0.1 * x * x * jnp.sin(3 * x)), x, ids
    )
    assert not report.ok


@pytest.mark.parametrize("extra", [(), (np.array([1, 2, 2_000_000_000], np.int32),)])
def test_a_region_is_not_said_to_be_the_only_one_where_smaller_errors_lie_outside(extra):
    x = np.random.default_rng(0).normal(size=(3, 3))[0].astype(np.float32)
    report = verify.check_rule(
        lambda x, *i: x * jnp.sin(x),
        lambda dy, x, *i: dy * (jnp.sin(x) + x * jnp.cos(x)) * (1 + 0.01 * jnp.where(x > 1, jnp.abs(x), 0 * x)),
        x, *extra,
    )  # fmt: skip
    said = re.search(r"wrong (only|most) where x > (\S+)", str(report))
    assert said is not None
    assert said[1] == "most" or float(said[2]) < 1.1
