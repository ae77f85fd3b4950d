"""What f does inside: casts, fixed dtypes, loops and callbacks; half precision; one exact point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fundl import verify
from fundl.verify._arguments import Arguments
from fundl.verify._engine import Engine, quick_compile
from fundl.verify._programs import coarsest, equations, in_float64

pytestmark = pytest.mark.large

RNG = np.random.default_rng(0)
F32, BF16 = jnp.float32, jnp.bfloat16
X = jnp.asarray(RNG.standard_normal(5), F32)


class TestOnePoint:
    @pytest.mark.parametrize(("at", "factor"), [(1, 1.01), (1, 3.0), (2, 1.5), (-1, 3.0)])
    def test_a_factor_at_one_exact_value_is_caught(self, at, factor):
        report = verify.check_rule(jnp.sin, lambda dy, x: dy * jnp.cos(x) * jnp.where(x == at, factor, 1.0), X)
        assert not report.ok
        assert "special points" in report.failures[0].likely_cause

    def test_outside_the_subdifferential_of_a_kink_that_is_not_at_0(self):
        def f(x):
            return jnp.maximum(x - 1, 0)

        assert not verify.check_rule(f, lambda dy, x: dy * jnp.where(x == 1, 2.0, (x > 1).astype(x.dtype)), X).ok
        assert verify.check_rule(f, lambda dy, x: dy * jnp.where(x == 1, 0.3, (x > 1).astype(x.dtype)), X).ok


def layer_norm(x, w):
    z = x.astype(F32)
    h = (z - z.mean(-1, keepdims=True)) * jax.lax.rsqrt(z.var(-1, keepdims=True) + 1e-5)
    return (h * w.astype(F32)[None]).astype(x.dtype)


def layer_norm_backward(dy, x, w):
    z, g = x.astype(F32), dy.astype(F32)
    r = jax.lax.rsqrt(z.var(-1, keepdims=True) + 1e-5)
    h = (z - z.mean(-1, keepdims=True)) * r
    dh = g * w.astype(F32)[None]
    dx = r * (dh - dh.mean(-1, keepdims=True) - h * (dh * h).mean(-1, keepdims=True))
    return dx.astype(x.dtype), (g * h).sum(0).astype(w.dtype)


def carried(x):
    """A cast inside of a loop and of a branch."""
    z = jax.lax.scan(lambda c, t: (jnp.tanh(c + t.astype(F32)), None), jnp.zeros((), F32), x)[0]
    return jax.lax.cond(z > 0, lambda z: 2 * z, lambda z: 3 * z, z).astype(x.dtype)


def sharded(x, w):
    """A cast inside of the shards of a mesh, and a sum over them."""

    def part(x, w):
        return jax.lax.psum(jnp.sin(x.astype(F32)) @ w.astype(F32), "i").astype(x.dtype)

    mesh = jax.make_mesh((1,), ("i",), axis_types=(AxisType.Auto,))
    return jax.shard_map(part, mesh=mesh, in_specs=(P(None, "i"), P("i", None)), out_specs=P(None, None))(x, w)


def sharded_backward(dy, x, w):
    g, z, v = dy.astype(F32), x.astype(F32), w.astype(F32)
    return (g @ v.T * jnp.cos(z)).astype(x.dtype), (jnp.sin(z).T @ g).astype(w.dtype)


def times(factor, backward):
    def wrong(*args):
        return jax.tree.map(lambda g: (g.astype(np.float64) * factor).astype(g.dtype), backward(*args))

    return wrong


CASTS = {
    "sine in float32": (
        lambda x: jnp.sin(x.astype(F32)).astype(x.dtype),
        lambda dy, x: (dy.astype(F32) * jnp.cos(x.astype(F32))).astype(x.dtype),
        (X,),
    ),
    "sine in bfloat16": (
        lambda x: jnp.sin(x.astype(BF16)).astype(x.dtype),
        lambda dy, x: (dy.astype(BF16) * jnp.cos(x.astype(BF16))).astype(x.dtype),
        (X,),
    ),
    "layer norm": (layer_norm, layer_norm_backward, (X.reshape(1, 5).repeat(3, 0) ** 2, X)),
    "layer norm of bfloat16": (layer_norm, layer_norm_backward, (jnp.eye(3, 5, dtype=BF16), X.astype(BF16))),
    "mean square of bfloat16": (
        lambda x: (x.astype(F32) ** 2).mean(),
        lambda dy, x: (2 * dy * x.astype(F32) / x.size).astype(x.dtype),
        (X.astype(BF16),),
    ),
    "product of bfloat16": (
        lambda x, w: jnp.matmul(x, w, preferred_element_type=F32),
        lambda dy, x, w: ((dy @ w.T.astype(F32)).astype(x.dtype), (x.T.astype(F32) @ dy).astype(w.dtype)),
        (jnp.eye(3, 5, dtype=BF16), jnp.ones((5, 2), BF16)),
    ),
    "sine of reduced precision": (
        lambda x: jnp.sin(jax.lax.reduce_precision(x, 8, 7)),
        lambda dy, x: dy * jnp.cos(jax.lax.reduce_precision(x, 8, 7)),
        (X,),
    ),
    "sine of shards": (sharded, sharded_backward, (jnp.outer(X, X[:4]), jnp.outer(X[1:], X[:3]))),
    "loop and branch": (carried, lambda dy, x: jax.vjp(carried, x)[1](dy)[0], (X,)),
}


@pytest.mark.parametrize("name", list(CASTS))
def test_a_cast_inside_is_no_fault_of_the_rule_and_hides_none(name):
    f, backward, args = CASTS[name]
    report = verify.check_rule(f, backward, *args)
    assert report.ok, str(report)
    assert any("f casts to" in note for note in report.notes)
    with jax.enable_x64(True):
        assert not verify.check_rule(f, times(1.001, backward), *(a.astype(F32) for a in args)).ok


def test_differences_know_of_casts_too():
    f, backward, args = CASTS["sine in bfloat16"]
    assert verify.check_rule(f, backward, *args, reference="differences").ok


def test_a_coarser_cast_than_that_of_f_or_its_arguments_is_a_fault():
    def f(x):
        return jnp.sin(x.astype(F32)).astype(x.dtype)

    for half in (jnp.float16, BF16):
        assert not verify.check_rule(f, lambda dy, x, half=half: dy * jnp.cos(x.astype(half)).astype(x.dtype), X).ok
    reduced = verify.check_rule(jnp.sin, lambda dy, x: dy * jnp.cos(jax.lax.reduce_precision(x, 8, 7)), X)
    assert not reduced.ok
    # A cast to the dtype of the arguments changes nothing for who calls the rule with them.
    assert verify.check_rule(jnp.sin, lambda dy, x: (dy * jnp.cos(x)).astype(F32), X).ok
    with jax.enable_x64(True):
        wide = X.astype(np.float64)
        assert not verify.check_rule(jnp.sin, lambda dy, x: dy * jnp.cos(x.astype(F32)).astype(x.dtype), wide).ok


def test_casts_of_a_custom_vjp():
    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x.astype(F32)).astype(x.dtype)

    sine.defvjp(lambda x: (sine(x), x), lambda x, dy: ((dy.astype(F32) * jnp.cos(x.astype(F32))).astype(x.dtype),))
    assert verify.check_custom_vjp(sine, X).ok
    assert verify.check_custom_vjp(sine, X.astype(np.float64)).ok


def test_functions_and_rules_that_take_float32_only():
    def f(x):
        assert x.dtype == F32
        return jnp.sin(x)

    def backward(dy, x):
        assert x.dtype == F32
        return dy * jnp.cos(x)

    report = verify.check_rule(f, backward, X)
    assert report.ok, str(report)
    assert any("takes no float64" in note for note in report.notes)
    assert verify.check_rule(jnp.sin, backward, X).ok
    assert not verify.check_rule(f, lambda dy, x: backward(dy, x) * (1 + 1e-5), X).ok

    def in_numpy(x):
        assert x.dtype == F32
        return jnp.asarray(np.sin(np.asarray(x)))

    with pytest.raises(AssertionError) as caught:
        verify.check_rule(in_numpy, backward, X)
    assert any("called f in float64" in note for note in caught.value.__notes__)


def custom(primal, factor):
    f = jax.custom_vjp(primal)
    f.defvjp(lambda x: (primal(x), x), lambda x, dy: (factor * dy * jnp.cos(x),))
    return f


def looped(x):
    return jax.lax.while_loop(lambda s: s[0] < 1, lambda s: (s[0] + 1, jnp.sin(s[1])), (0, x))[1]


def called(x):
    return jax.pure_callback(lambda a: np.sin(np.asarray(a)), jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@pytest.mark.parametrize("primal", [looped, called])
def test_what_jax_has_no_derivative_of_is_judged_by_differences(primal):
    with jax.enable_x64(False):
        x = jnp.asarray([0.3, -1.2], F32)
        report = verify.check_custom_vjp(custom(primal, 1.0), x)
        assert report.ok, str(report)
        assert any("jax has no derivative of f" in note for note in report.notes)
        assert not verify.check_custom_vjp(custom(primal, 1.001), x).ok
        with pytest.raises((NotImplementedError, ValueError), match=r"Reverse-mode|no derivative"):
            verify.check_custom_vjp(custom(primal, 1.0), x, reference="autodiff")


def test_programs_in_float64_lose_no_digit():
    def f(x):
        return jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) + i.astype(F32), x.astype(F32))

    x = np.asarray([0.1, 0.7])
    with jax.enable_x64(True):
        assert coarsest(jax.make_jaxpr(f)(x).jaxpr) == F32
        want = np.sin(np.sin(np.sin(x)) + 1) + 2
        np.testing.assert_allclose(in_float64(f, (jnp.asarray(x),), np.inf), want, rtol=1e-15)
        assert np.abs(in_float64(f, (jnp.asarray(x),), 0.0) - want).max() > 1e-10


def test_convolutions_are_compiled_with_optimisation(monkeypatch):
    quick, seen = quick_compile(), []  # the first call compiles something itself
    compile_ = jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self, compiler_options=None: (
        seen.append(compiler_options), compile_(self, compiler_options))[1])  # fmt: skip
    part = [[np.ones((2, 1, 4, 4, 1)), np.ones((2, 2, 2, 1, 1))]]

    def convolve(leaves):
        return jax.lax.conv_general_dilated(*leaves, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    Engine._compile(jax.jit(convolve), part, 2)
    Engine._compile(lambda leaves: leaves[0] + 1, part, 2)
    assert seen == [{}, quick]


def doubled(x):
    def kernel(x, out):
        out[...] = 2 * x[...]

    return pallas.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


@pytest.mark.parametrize(
    ("f", "args", "name", "slope"),
    [
        (lambda x, w: jnp.convolve(x, w, mode="valid"), (np.arange(8.0), np.arange(3.0)), "conv_general_dilated", 2.0),
        (doubled, (np.arange(3.0),), "pallas_call", 2.0),
    ],
    ids=["convolution", "kernel"],
)
def test_convolutions_and_kernels_are_run_point_after_point(monkeypatch, f, args, name, slope):
    seen = []
    lower = jax.stages.Traced.lower
    monkeypatch.setattr(jax.stages.Traced, "lower", lambda self: (seen.append(self.jaxpr.jaxpr), lower(self))[1])
    engine = Engine(f, args, Arguments(f, args), False)
    engine.look_inside()
    stacks, dys = [np.stack([x] * 5) for x in args], [np.ones((5, *engine.shapes[0]))]
    where, steps = np.zeros((5, 1), int), np.full((5, 1, 4), 0.125)
    compute = (lambda x, dy: engine.values(x)) if f is doubled else engine.autodiff
    engine.run("compute", compute, [stacks, dys], np.float64, 5)
    (slopes, _) = engine.run("differences", lambda a, b, c, d: engine.differences(a, b, c[0], d[0]),
                             [stacks, dys, [where], [steps]], np.float64, 5)  # fmt: skip
    np.testing.assert_allclose(slopes, slope, rtol=1e-12)
    assert len(seen) == 2
    found = [eqn for program in seen for eqn in equations(program) if eqn.primitive.name == name]
    assert found
    for eqn in found:
        if f is doubled:
            assert eqn.params["grid_mapping"].grid == ()
        else:
            assert eqn.params["feature_group_count"] * eqn.params["batch_group_count"] == 1


@pytest.mark.slow
def test_a_kernel_that_is_interpreted_is_judged():
    def rule(factor):
        f = jax.custom_vjp(doubled)
        f.defvjp(lambda x: (doubled(x), None), lambda _, dy: (factor * doubled(dy),))
        return f

    assert verify.check_custom_vjp(rule(1.0), jnp.arange(4.0)).ok
    (failure,) = verify.check_custom_vjp(rule(1.5), jnp.arange(4.0)).failures
    assert failure.cause == "factor"


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_values_in_half_precision_are_judged(half):
    def backward(dy, x, factor=1.0):
        return dy * jnp.cos(x) * (jnp.asarray(factor, half) if x.dtype == half else 1)

    x = jnp.ones(4, half)
    assert verify.check_rule(jnp.sin, backward, x).ok
    for factor in (2.0, 0.0, -1.0):
        (failure,) = verify.check_rule(jnp.sin, lambda dy, x, c=factor: backward(dy, x, c), x).failures
        assert (failure.dtype, failure.cause) == (np.dtype(half).name, "precision")
