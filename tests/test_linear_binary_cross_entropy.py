"""The tiled binary cross-entropy of a linear layer against a definition in NumPy, and autodiff of the plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fundl.losses import (
    binary_cross_entropy_with_logits,
    linear_binary_cross_entropy,
    linear_cross_entropy,
    sum_and_weight,
)
from fundl.losses import linear_binary_cross_entropy_backward as backward


def draw(n=22, d=5, k=17, seed=0):
    rng = np.random.default_rng(seed)
    y = np.where(rng.random((n, k)) < 0.5, rng.integers(0, 2, (n, k)), rng.random((n, k)))
    return tuple(map(jnp.asarray, (rng.normal(size=(n, d)), 2 * rng.normal(size=(d, k)), rng.normal(size=k), y)))


def definition(X, W, b, y, weights=None, softcap=None):
    """L per example with its weight, and the gradients of their sum, by the formulas as they are written."""
    X, W, y = map(np.asarray, (X, W, y))
    w = np.ones(len(X)) if weights is None else np.asarray(weights)
    v = X @ W + (0 if b is None else np.asarray(b))
    z = v if softcap is None else softcap * np.tanh(v / softcap)
    L = (np.maximum(z, 0) - y * z + np.log1p(np.exp(-abs(z)))).sum(axis=1)
    dz = w[:, None] * (1 / (1 + np.exp(-z)) - y)
    dv = dz if softcap is None else dz * (1 - np.tanh(v / softcap) ** 2)
    bias = () if b is None else (dv.sum(axis=0),)
    return w * L, (dv @ W.T, X.T @ dv, *bias, -w[:, None] * z)


def plain(X, W, b, y, **options):
    return binary_cross_entropy_with_logits(jnp.matmul(X, W) + jnp.expand_dims(b, 0), y, **options)


def close(found, expected, rtol=1e-12):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b), initial=1e-300))


@pytest.mark.large
@pytest.mark.parametrize("tile", [(1, 1), (22, 17), (22, 5), (11, 17), (2, 16), (100, 100), None], ids=str)
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_every_tiling_is_the_definition(softcap, tile):
    args, options = draw(), {"softcap": softcap, "tile": tile}
    L, gradients = definition(*args, softcap=softcap)
    close(linear_binary_cross_entropy(*args, reduction="none", **options), L)
    close(linear_binary_cross_entropy(*args, **options), L.mean())
    close(backward(1.0, *args, reduction="sum", **options), gradients)
    by_autodiff = jax.grad(lambda *a: linear_binary_cross_entropy(*a, reduction="sum", **options), (0, 1, 2, 3))
    close(by_autodiff(*args), gradients)


def test_without_bias_and_with_cotangents_per_example():
    X, W, _, y = draw()
    dJ = jnp.linspace(-1, 2, len(X))
    close(backward(dJ, X, W, None, y, reduction="none"), definition(X, W, None, y, weights=dJ)[1])


@pytest.mark.parametrize("dtype", [bool, np.int32, np.int8])
def test_hard_labels_take_no_floats_and_get_no_gradient(dtype):
    X, W, b, y = draw()
    hard = y > 0.5
    L, gradients = definition(X, W, b, np.asarray(hard, float))
    close(linear_binary_cross_entropy(X, W, b, hard.astype(dtype), reduction="none"), L)
    close(backward(1.0, X, W, b, hard.astype(dtype), reduction="sum"), gradients[:3])
    close(jax.grad(linear_binary_cross_entropy, (0, 1))(X, W, b, hard.astype(dtype), reduction="sum"), gradients[:2])


@pytest.mark.large
def test_weight_0_leaves_a_row_out_whatever_it_holds():
    X, W, b, y = draw()
    w = jnp.where(jnp.arange(len(X)) % 3 == 0, 0.0, 1.5)
    L, gradients = definition(X, W, b, y, weights=w)
    broken = X.at[::3].set(jnp.nan), W, b, y.at[::3].set(7.0)
    close(linear_binary_cross_entropy(*broken, weights=w), L.sum() / w.sum())
    found = backward(1.0, *broken, weights=w, reduction="sum")
    close(found[:3], gradients[:3])
    parts = [sum_and_weight(linear_binary_cross_entropy, X[i::2], W, b, y[i::2], weights=w[i::2]) for i in (0, 1)]
    close((parts[0][0] + parts[1][0]) / (parts[0][1] + parts[1][1]), L.sum() / w.sum())
    assert float(linear_binary_cross_entropy(X, W, b, y, weights=jnp.zeros(len(X)))) == 0


@pytest.mark.large
def test_forward_mode_hessians_and_vmap():
    X, W, b, y = draw(6, 3, 4)
    along = jnp.cos(W)

    def product(loss):
        return jax.jvp(jax.grad(lambda W: loss(X, W, b, y)), (W,), (along,))[1]

    close(product(lambda *a: linear_binary_cross_entropy(*a, tile=(4, 3))), product(plain), rtol=1e-11)
    close(jax.jacfwd(linear_binary_cross_entropy, 2)(X, W, b, y), jax.grad(plain, 2)(X, W, b, y))
    many = jnp.stack([W, 2 * W, -W])
    mapped = jax.vmap(jax.grad(linear_binary_cross_entropy, 1), in_axes=(None, 0, None, None))(X, many, b, y)
    close(mapped, jnp.stack([jax.grad(plain, 1)(X, V, b, y) for V in many]))


def test_certain_logits_keep_their_digits_and_their_limits():
    zero = jnp.zeros((2, 1))
    b = jnp.array([80.0, -80.0, jnp.inf, -jnp.inf])
    right, wrong = jnp.array([[1, 0, 1, 0]] * 2), jnp.array([[1, 0, 0, 0]] * 2)
    args = zero, jnp.zeros((1, 4)), b
    close(linear_binary_cross_entropy(*args, right, reduction="none"), np.full(2, 2 * np.log1p(np.exp(-80.0))))
    assert jnp.isposinf(linear_binary_cross_entropy(*args, wrong))
    close(backward(1.0, *args, right)[2], np.array([-np.exp(-80.0), np.exp(-80.0), 0.0, 0.0]))


def test_half_precision_is_summed_in_float32():
    X, W, b, y = (v.astype(jnp.bfloat16) for v in draw(64, 96, 33))
    L = linear_binary_cross_entropy(X, W, b, y, reduction="none")
    assert L.dtype == jnp.float32
    exact, gradients = definition(*(np.asarray(v, float) for v in (X, W, b, y)))
    close(L, exact, rtol=1e-5)
    found = backward(1.0, X, W, b, y, reduction="sum")
    assert all(g.dtype == jnp.bfloat16 for g in found)
    close([np.asarray(g, float) for g in found], gradients, rtol=2.0**-7)


def test_temporary_memory_is_100_times_below_the_plain_form():
    n, d, k = 4096, 512, 32768
    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in ((n, d), (d, k), (k,))]

    def temporary(loss):
        program = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*shapes, jax.ShapeDtypeStruct((n, k), bool))
        return program.compile().memory_analysis().temp_size_in_bytes

    def by_optax(X, W, b, y):
        z = jnp.matmul(X, W) + jnp.expand_dims(b, 0)
        return jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(z, y.astype(z.dtype)), axis=1))

    assert temporary(linear_binary_cross_entropy) * 100 < temporary(by_optax)


def test_refusals_name_the_argument():
    X, W, b, y = draw()
    with pytest.raises(ValueError, match=r"y must hold a label for each example and target, shape \(22, 17\)"):
        linear_binary_cross_entropy(X, W, b, y[:, 0])
    with pytest.raises(ValueError, match=r"y must hold labels 0, 1 or between in \[0, 1\]"):
        linear_binary_cross_entropy(X, W, b, 2 * y)
    with pytest.raises(ValueError, match="W has 4 rows"):
        linear_binary_cross_entropy(X, W[:4], b, y)
    for tile in ((0, 4), 5, (1, 2, 3), (2.0, 2)):
        with pytest.raises(ValueError, match="tile must be two positive whole numbers"):
            linear_binary_cross_entropy(X, W, b, y, tile=tile)
    with pytest.raises(ValueError, match="dJ must have the shape of J"):
        backward(1.0, X, W, b, y, reduction="none")
    traced = jax.jit(lambda y: linear_binary_cross_entropy(X, W, b, y, reduction="none"))(y.at[3, 2].set(1.5))
    assert jnp.isnan(traced).nonzero()[0].tolist() == [3]


@pytest.mark.large
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_rows_and_targets_split_over_eight_devices(kind):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    args = draw(64, 6, 48)
    specs = P("data", None), P(None, "model"), P("model"), P("data", "model")
    placed = [jax.device_put(v, NamedSharding(mesh, s)) for v, s in zip(args, specs, strict=True)]
    L, gradients = definition(*args)
    found = jax.jit(
        jax.value_and_grad(lambda *a: linear_binary_cross_entropy(*a, reduction="sum", tile=(6, 5)), (0, 1, 2, 3))
    )(*placed)
    close(found, (L.sum(), gradients))
    close(jax.jit(lambda *a: backward(1.0, *a, reduction="sum", tile=(6, 5)))(*placed), gradients)


def test_inside_the_users_own_shard_map():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    X, W, b, y = draw(64, 6, 48)

    def step(X, W, b, y):
        def J(W, b):
            return jax.lax.pmean(linear_binary_cross_entropy(X, W, b, y, tile=(3, 7)), "data")

        return jax.value_and_grad(J, (0, 1))(W, b)

    whole = P("data")
    found = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(whole, P(), P(), whole), out_specs=P()))(X, W, b, y)
    L, (_, dW, db, _) = definition(X, W, b, y)
    close(found, (L.mean(), (dW / 64, db / 64)))


def test_the_derivative_in_a_weight_of_0_is_the_loss_of_its_example():
    X, W, b, y = draw()
    classes = jnp.argmax(y, axis=1)
    w = jnp.asarray(np.arange(len(X)) % 3.0)  # a third of them 0
    for loss, labels in (
        (linear_binary_cross_entropy, y),
        (linear_binary_cross_entropy, y > 0.5),
        (linear_cross_entropy, y),
        (linear_cross_entropy, classes),
    ):
        found = jax.grad(lambda w, loss=loss, labels=labels: loss(X, W, b, labels, weights=w, reduction="sum"))(w)
        close(found, loss(X, W, b, labels, reduction="none"))
