"""The models on rows sharded over a mesh of eight devices: predictions, losses, gradients, fits, the ledger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import backprop, linear_regression, logistic_regression, mlp, softmax_regression
from fundl._types import Linear

pytestmark = pytest.mark.large

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(48, 3)))
REAL = jnp.asarray(np.asarray(X) @ [1.0, -2.0, 3.0] + 0.5 + 0.1 * RNG.normal(size=48))
BINARY = jnp.asarray((RNG.random(48) < 1 / (1 + np.exp(-np.asarray(X)[:, 0]))).astype(np.int32))
CLASSES = jnp.asarray(RNG.integers(0, 4, 48))
WEIGHTS = jnp.asarray(RNG.integers(0, 3, 48) * 1.0)
ONE = Linear(jnp.asarray(RNG.normal(size=3)), jnp.asarray(0.3))
MANY = Linear(jnp.asarray(RNG.normal(size=(3, 4))), jnp.asarray(RNG.normal(size=4)))
NETWORK = mlp.init(jax.random.key(0), [3, 5, 4], activation="tanh", dtype=jnp.float64)
CHAIN = backprop.chain(backprop.linear("W", "b"), "gelu", backprop.linear("V", "c"), loss="cross_entropy_with_logits")
TIED = {
    "W": jnp.asarray(RNG.normal(size=(3, 5))), "b": jnp.zeros(5), "V": jnp.asarray(RNG.normal(size=(5, 4))),
    "c": jnp.zeros(4),
}  # fmt: skip


def _rows(kind: str):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")), jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec()
    )


CASES = {
    "linear.predict": (lambda p, X, y, w: linear_regression.predict(p, X), ONE, REAL),
    "linear.loss": (lambda p, X, y, w: linear_regression.loss(p, X, y, weights=w), ONE, REAL),
    "linear.gradient": (lambda p, X, y, w: linear_regression.gradient(p, X, y, weights=w), ONE, REAL),
    "linear.normal_equations": (lambda p, X, y, w: linear_regression.normal_equations(X, y), ONE, REAL),
    "linear.fit": (lambda p, X, y, w: linear_regression.fit(X, y, weights=w, l2=0.1).params, ONE, REAL),
    "logistic.predict_proba": (lambda p, X, y, w: logistic_regression.predict_proba(p, X), ONE, BINARY),
    "logistic.predict": (lambda p, X, y, w: logistic_regression.predict(p, X), ONE, BINARY),
    "logistic.loss": (lambda p, X, y, w: logistic_regression.loss(p, X, y, weights=w), ONE, BINARY),
    "logistic.gradient": (lambda p, X, y, w: logistic_regression.gradient(p, X, y, weights=w), ONE, BINARY),
    "logistic.fit": (lambda p, X, y, w: logistic_regression.fit(X, y, weights=w, l2=0.1).params, ONE, BINARY),
    "softmax.predict_proba": (lambda p, X, y, w: softmax_regression.predict_proba(p, X), MANY, CLASSES),
    "softmax.predict": (lambda p, X, y, w: softmax_regression.predict(p, X), MANY, CLASSES),
    "softmax.loss": (lambda p, X, y, w: softmax_regression.loss(p, X, y, weights=w), MANY, CLASSES),
    "softmax.gradient": (lambda p, X, y, w: softmax_regression.gradient(p, X, y, weights=w), MANY, CLASSES),
    "softmax.fit": (
        lambda p, X, y, w: softmax_regression.fit(X, y, weights=w, l2=0.1, num_classes=4).params,
        MANY,
        CLASSES,
    ),
    "mlp.forward": (lambda p, X, y, w: mlp.forward(p, X), NETWORK, CLASSES),
    "mlp.predict": (lambda p, X, y, w: mlp.predict(p, X), NETWORK, CLASSES),
    "mlp.value_and_gradient": (lambda p, X, y, w: mlp.value_and_gradient(p, X, y, weights=w), NETWORK, CLASSES),
    "mlp by autodiff": (lambda p, X, y, w: jax.grad(mlp.loss)(p, X, y, weights=w), NETWORK, CLASSES),
    "backprop.value_and_grad": (lambda p, X, y, w: backprop.value_and_grad(CHAIN)(p, X, y), TIED, CLASSES),
    "backprop.ledger": (lambda p, X, y, w: [r.by_hand for r in backprop.ledger(CHAIN, p, X, y).rows], TIED, CLASSES),
}


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_rows_on_a_mesh_give_the_answer_of_one_device(name: str, kind: str):
    f, params, y = CASES[name]
    rows, everywhere = _rows(kind)
    want = jax.jit(f)(params, X, y, WEIGHTS)
    sharded = (jax.device_put(v, rows) for v in (X, y, WEIGHTS))
    got = jax.jit(f)(jax.device_put(params, everywhere), *sharded)
    scale = max(float(jnp.max(jnp.abs(b))) for b in jax.tree.leaves(want))  # w and b are determined together
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        # Sums over rows are taken in another order; a fit passes that on through its condition.
        np.testing.assert_allclose(a, b, rtol=0, atol=64 * 2.3e-16 * scale, err_msg=jax.tree_util.keystr(path))
