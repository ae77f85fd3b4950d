"""Multilayer perceptrons: gradient, cost of the hand-written step, training, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fundl import activations, descent, losses, mlp

DATA = np.random.default_rng(0)
SHAPES = [((20, 16, 3), 8), ((64, 128, 128, 64, 10), 256), ((784, 256, 128, 10), 128), ((32,) * 7, 1024)]


def _problem(sizes, n: int, dtype="float64"):
    X = jnp.asarray(DATA.normal(size=(n, sizes[0])), dtype)
    return X, jnp.asarray(DATA.integers(0, sizes[-1], n))


@pytest.mark.large
def test_gradient_is_that_of_autodiff_for_every_loss():
    params = mlp.init(jax.random.key(0), [5, 7, 3], activation="tanh", dtype=jnp.float64)
    X, y = _problem([5, 3], 12)
    targets = jnp.asarray(DATA.random((12, 3)))
    for loss, labels in [
        ("cross_entropy_with_logits", y),
        ("cross_entropy_with_logits", targets),
        ("mse", targets),
        (losses.huber, targets),
        ("binary_cross_entropy_with_logits", targets),
        ("focal_with_logits", targets),
    ]:
        J, got = mlp.value_and_gradient(params, X, labels, loss=loss)
        want_J, want = jax.value_and_grad(mlp.loss)(params, X, labels, loss=loss)
        assert want_J == J
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=8 * 2.3e-16 * float(jnp.max(jnp.abs(b))))


def test_value_against_the_network_written_out_in_numpy():
    params = mlp.init(jax.random.key(1), [4, 6, 3], dtype=jnp.float64)
    X, y = _problem([4, 3], 10)
    (W1, b1), (W2, b2) = [(np.asarray(m.W), np.asarray(m.b)) for m in params.layers]
    z = np.maximum(np.asarray(X) @ W1 + b1[None], 0) @ W2 + b2[None]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(mlp.forward(params, X), z, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(mlp.predict_proba(params, X), p, rtol=1e-13)
    np.testing.assert_array_equal(mlp.predict(params, X), p.argmax(1))
    np.testing.assert_allclose(mlp.loss(params, X, y), -np.log(p[np.arange(10), np.asarray(y)]).mean(), rtol=1e-13)


def _cost(f, *args):
    compiled = jax.jit(f).lower(*args).compile()
    return compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("activation", sorted(mlp._GAIN))
@pytest.mark.parametrize(("sizes", "n"), SHAPES[:1])
def test_step_by_hand_costs_no_more_than_autodiff(sizes, n: int, activation: str):
    _compare_cost(sizes, n, activation)


@pytest.mark.slow
@pytest.mark.parametrize("activation", sorted(mlp._GAIN))
@pytest.mark.parametrize(("sizes", "n"), SHAPES[1:])
def test_step_by_hand_costs_no_more_than_autodiff_at_more_shapes(sizes, n: int, activation: str):
    _compare_cost(sizes, n, activation)


def _compare_cost(sizes, n: int, activation: str) -> None:
    """Operations and temporary memory of the compiled programs: free of noise."""
    params = mlp.init(jax.random.key(0), sizes, activation=activation, dtype=jnp.float32)
    X, y = jnp.zeros((n, sizes[0]), jnp.float32), jnp.zeros(n, jnp.int32)
    flops, memory = _cost(lambda p, X, y: mlp.value_and_gradient(p, X, y), params, X, y)
    flops_auto, memory_auto = _cost(lambda p, X, y: jax.value_and_grad(mlp.loss)(p, X, y), params, X, y)
    assert flops <= flops_auto
    assert memory <= memory_auto


def test_the_cost_comparison_sees_a_step_that_costs_more():
    """The red example: a step that computes its gradient a second time at other weights."""
    params = mlp.init(jax.random.key(0), [20, 16, 3], dtype=jnp.float32)
    X, y = jnp.zeros((8, 20), jnp.float32), jnp.zeros(8, jnp.int32)

    def wasteful(p, X, y):
        _, g = mlp.value_and_gradient(p, X, y)
        return mlp.value_and_gradient(jax.tree.map(jnp.add, p, g), X, y)

    auto = _cost(lambda p, X, y: jax.value_and_grad(mlp.loss)(p, X, y), params, X, y)
    assert _cost(wasteful, params, X, y)[0] > auto[0]


@pytest.mark.large
def test_weights_zero_removes_and_integers_copy():
    params = mlp.init(jax.random.key(2), [3, 4, 2], dtype=jnp.float64)
    X, y = _problem([3, 2], 5)
    weights = jnp.array([2.0, 0.0, 1.0, 1.0, 0.0])
    dirty = X.at[jnp.array([1, 4])].set(jnp.nan)
    rows = jnp.array([0, 0, 2, 3])
    want_J, want = mlp.value_and_gradient(params, X[rows], y[rows])
    for J, g in (
        mlp.value_and_gradient(params, dirty, y, weights=weights),
        jax.value_and_grad(lambda p: mlp.loss(p, dirty, y, weights=weights))(params),
    ):
        np.testing.assert_allclose(J, want_J, rtol=1e-14)
        for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.large
def test_transforms():
    params = mlp.init(jax.random.key(3), [3, 4, 2], activation="silu", dtype=jnp.float64)
    X, y = _problem([3, 2], 6)
    each = jax.vmap(lambda x, t: mlp.value_and_gradient(params, x[None], t[None]))(X, y)
    whole = mlp.value_and_gradient(params, X, y)
    for a, b in zip(jax.tree.leaves(each), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a.mean(0), b, rtol=1e-12, atol=1e-15)
    v = jax.tree.map(jnp.ones_like, params)
    by_hand = jax.jvp(lambda p: mlp.gradient(p, X, y), (params,), (v,))[1]
    by_autodiff = jax.jvp(lambda p: jax.grad(mlp.loss)(p, X, y), (params,), (v,))[1]
    for a, b in zip(jax.tree.leaves(by_hand), jax.tree.leaves(by_autodiff), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)


@pytest.mark.large
def test_bfloat16_stays_bfloat16_and_is_close():
    params = mlp.init(jax.random.key(4), [8, 16, 3], dtype=jnp.bfloat16)
    X, y = _problem([8, 3], 32, "bfloat16")
    J, g = mlp.value_and_gradient(params, X, y)
    wide = jax.tree.map(lambda v: v.astype(jnp.float32), params)
    want_J, want = mlp.value_and_gradient(wide, X.astype(jnp.float32), y)
    assert J.dtype == jnp.float32
    assert abs(float(J - want_J)) < 0.02
    for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(want), strict=True):
        assert a.dtype == jnp.bfloat16
        # Values and cotangents are rounded to 8 bits between the layers.
        assert float(jnp.max(jnp.abs(a.astype(jnp.float32) - b))) < 0.05 * float(jnp.max(jnp.abs(b))) + 1e-3


def test_initial_weights_have_the_variance_that_is_promised():
    for activation, gain in (("relu", 2.0), ("tanh", 1.0)):
        params = mlp.init(jax.random.key(5), [400, 300, 200], activation=activation, dtype=jnp.float64)
        np.testing.assert_allclose(np.var(params.layers[0].W) * 400, gain, rtol=0.02)
        np.testing.assert_allclose(np.var(params.layers[1].W) * 300, 1.0, rtol=0.03)
        assert not params.layers[0].b.any()


@pytest.mark.large
def test_training_is_repeatable_and_learns():
    X = jnp.asarray(DATA.normal(size=(256, 2)), jnp.float32)
    y = (X[:, 0] * X[:, 1] > 0).astype(jnp.int32)
    params = mlp.init(jax.random.key(6), [2, 32, 2], activation="tanh", dtype=jnp.float32)
    options = {"optimizer": optax.adam(1e-2), "steps": 400, "batch_size": 64, "key": jax.random.key(1)}
    result, again = mlp.fit(params, X, y, **options), mlp.fit(params, X, y, **options)
    assert float((mlp.predict(result.params, X).astype(y.dtype) == y).mean()) > 0.95
    np.testing.assert_array_equal(result.history, again.history)
    weighted = mlp.fit(params, X.at[0].set(jnp.nan), y, weights=jnp.ones(256).at[0].set(0), **options)
    assert jnp.isfinite(weighted.history).all()
    assert float((mlp.predict(weighted.params, X).astype(y.dtype) == y).mean()) > 0.95


@pytest.mark.large
@pytest.mark.parametrize(
    ("dtype", "weights"), [("float16", [1e5, 2e5]), ("float16", [1e-8, 2e-8]), ("bfloat16", [257.0, 1.0])]
)
def test_fit_weighs_as_the_loss_does(dtype: str, weights):
    params = mlp.init(jax.random.key(7), [2, 3, 2], dtype=dtype)
    X, y, w = jnp.asarray([[1, 2], [3, -1]], dtype), jnp.array([0, 1]), jnp.array(weights)
    result = mlp.fit(params, X, y, weights=w, optimizer=0.0, steps=1, batch_size=None)
    np.testing.assert_allclose(result.history, [mlp.loss(params, X, y, weights=w)], rtol=1e-6)


@pytest.mark.large
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_default_optimiser_learns_in_every_dtype_and_is_compiled_once(dtype: str):
    params = mlp.init(jax.random.key(8), [2, 3, 2], dtype=dtype)
    X, y = jnp.asarray(DATA.normal(size=(32, 2)), dtype), jnp.asarray(DATA.integers(0, 2, 32))
    result = mlp.fit(params, X, y, steps=20).check()
    assert result.history[-1] < result.history[0]
    programs = descent._run._cache_size()
    mlp.fit(params, X, y, steps=20)
    assert descent._run._cache_size() == programs


def test_refusals():
    key = jax.random.key(0)
    with pytest.raises(TypeError, match=r"key must be a random key such as jax.random.key\(0\); got 0"):
        mlp.init(0, [2, 2])
    with pytest.raises(ValueError, match="sizes must be at least two positive integers"):
        mlp.init(key, [3])
    with pytest.raises(ValueError, match="sizes must be"):
        mlp.init(key, [3, 0, 2])
    with pytest.raises(ValueError, match=r"activation must be one of .*got 'sine'"):
        mlp.init(key, [3, 2], activation="sine")
    for sizes in ([4, 2.0], [4, float("nan")], [True, 2], [4, "2"]):
        with pytest.raises(ValueError, match="sizes must be at least two positive integers"):
            mlp.init(key, sizes)
    with pytest.raises(TypeError, match=r"dtype must be floating, such as jnp.float32; got int"):
        mlp.init(key, [3, 2], dtype=int)
    with pytest.raises(ValueError, match=r"key must be one random key; got shape \(2,\)"):
        mlp.init(jax.random.split(key), [3, 2])
    params = mlp.init(key, [3, 2], dtype=jnp.float64)
    X, y = _problem([3, 2], 4)
    with pytest.raises(ValueError, match="X has 5 columns"):
        mlp.forward(params, jnp.ones((2, 5)))
    with pytest.raises(ValueError, match="first axes must be equal"):
        mlp.fit(params, X, y[:3])
    with pytest.raises(ValueError, match="X must be finite"):
        mlp.fit(params, X.at[0, 0].set(jnp.inf), y)
    with pytest.raises(TypeError, match="must be integers"):
        mlp.loss(params, X, jnp.ones(4))
    with pytest.raises(TypeError, match="key must be a random key"):
        mlp.fit(params, X, y, steps=2, key=0)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        mlp.gradient(params, X, y.at[1].set(2))


def test_an_activation_is_a_name_or_that_function_itself():
    def relu(x):
        return x * x

    key = jax.random.key(0)
    for other in (relu, jax.nn.relu, None, [1], activations.softmax):
        with pytest.raises(ValueError, match=r"or that function of fundl.activations; got "):
            mlp.init(key, [3, 2], activation=other)
    assert mlp.init(key, [np.int64(3), 2], activation=activations.tanh).activation == "tanh"


def test_classes_of_one_output_and_labels_out_of_range_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="This network has one output"):
        mlp.predict(mlp.init(key, [3, 1], dtype=jnp.float64), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"classes in 0\.\.1"):
        mlp.fit(mlp.init(key, [3, 2], dtype=jnp.float64), jnp.ones((4, 3)), jnp.full(4, 2), steps=2)
