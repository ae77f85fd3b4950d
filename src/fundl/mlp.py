"""Multilayer perceptron: a_0 = X, z_l = a_{l-1} W_l + b_l, a_l = g(z_l), and a linear last layer."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fundl import _check, activations, backprop, descent
from fundl._types import Array, ArrayLike, Layer

__all__ = ["Params", "fit", "forward", "gradient", "init", "loss", "predict", "predict_proba", "value_and_gradient"]

Loss = str | Callable[..., Array]

# The variance of the weights is gain / d, which keeps the scale of a through the layers.
_GAIN = {
    "relu": 2.0, "leaky_relu": 2.0, "elu": 1.55, "gelu": 2.0, "silu": 2.0, "softplus": 2.0,
    "identity": 1.0, "tanh": 1.0, "sigmoid": 1.0, "log_sigmoid": 1.0,
}  # fmt: skip


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Params:
    """Parameters of a network: a pytree whose leaves are the arrays W and b of each layer.

    Attributes:
        layers: one `Layer(W, b)` for each linear map, the input's first.
        activation: the name of g in `fundl.activations`.
    """

    layers: tuple[Layer, ...]
    activation: str = dataclasses.field(default="relu", metadata={"static": True})


def init(
    key: Array, sizes: Sequence[int], activation: str | Callable[..., Array] = "relu", *, dtype: Any = None
) -> Params:
    """Random parameters: W_l normal with variance gain / d (gain 2 for relu and its kin, 1 for tanh), b_l = 0.

    Shapes: sizes (d, h_1, ..., k) gives W_1 (d, h_1), ..., W_m (h_{m-1}, k). dtype: jax's default float if None.
    Errors: TypeError for a key that is not `jax.random.key(seed)` and a dtype that is not floating; ValueError for
    fewer than two sizes, for a size that is no whole number above 0, and for an activation that is not an elementwise
    one of `fundl.activations`, by its name or the function itself.

    >>> params = init(jax.random.key(0), [4, 8, 3], activation="tanh")
    >>> [layer.W.shape for layer in params.layers]
    [(4, 8), (8, 3)]

    Source: He et al., arXiv 1502.01852, (10); LeCun et al., Efficient BackProp, section 4.6.
    """
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", "")
    if name not in _GAIN or activation not in (name, getattr(activations, name)):
        raise ValueError(
            f"activation must be one of {', '.join(_GAIN)}, or that function of fundl.activations; got {activation!r}. "
            "A network with an activation of your own is a backprop.chain."
        )
    _check.random_key("key", key)
    widths = [_check.count(m) for m in sizes]
    if len(widths) < 2 or 0 in widths:
        raise ValueError(f"sizes must be at least two positive integers (d, ..., k); got {tuple(sizes)}.")
    dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be floating, such as jnp.float32; got {dtype}, which would make every weight 0.")
    keys = jax.random.split(key, len(sizes) - 1)
    layers = []
    for i, (d, k) in enumerate(itertools.pairwise(widths)):
        # The last layer feeds no activation, so its gain is 1.
        gain = _GAIN[name] if i < len(sizes) - 2 else 1.0
        W = jax.random.normal(keys[i], (d, k), jnp.float32) * (gain / d) ** 0.5
        layers.append(Layer(W.astype(dtype), jnp.zeros((k,), dtype)))
    return Params(tuple(layers), name)


def forward(params: Params, X: ArrayLike) -> Array:
    """The output z_m of the last layer: logits for a classifier, predictions for a regression.

    Shapes: X (n, d), result (n, k); X may be one example (d,).

    >>> params = Params((Layer(jnp.array([[1.0], [1.0]]), jnp.array([0.5])),))
    >>> print(forward(params, jnp.array([[1.0, 2.0]])))
    [[3.5]]
    """
    network, flat = _network(params, "mse")
    return backprop.forward(network, flat, X)[-1]


def predict_proba(params: Params, X: ArrayLike) -> Array:
    """Probabilities of the classes, softmax of the logits: (n, k).

    Errors: ValueError for a network with one output; sigmoid(forward(params, X)) is its probability.

    >>> params = Params((Layer(jnp.zeros((2, 4)), jnp.zeros(4)),))
    >>> print(predict_proba(params, jnp.ones((1, 2))))
    [[0.25 0.25 0.25 0.25]]
    """
    _several_classes(params)
    return activations.softmax(forward(params, X))


def predict(params: Params, X: ArrayLike) -> Array:
    """The most probable class of each example: (n,) integers.

    Errors: ValueError for a network with one output; forward(params, X) > 0 is its class.

    >>> params = Params((Layer(jnp.eye(2), jnp.zeros(2)),))
    >>> print(predict(params, jnp.array([[1.0, 3.0], [2.0, 0.0]])))
    [1 0]
    """
    _several_classes(params)
    return jnp.argmax(forward(params, X), axis=-1)


def loss(
    params: Params,
    X: ArrayLike,
    y: ArrayLike,
    *,
    loss: Loss = "cross_entropy_with_logits",
    weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> Array:
    """The loss of the network's output: J = loss(forward(params, X), y).

    loss: a name in `fundl.losses` or a function with a backward beside it; "cross_entropy_with_logits" for classes
    (n,) or soft labels (n, k), "mse" for targets (n, k), "binary_cross_entropy_with_logits" for labels 0 and 1 (n, 1).

    >>> params = Params((Layer(jnp.zeros((2, 2)), jnp.zeros(2)),))
    >>> print(loss(params, jnp.ones((3, 2)), jnp.array([0, 1, 0])))
    0.6931472
    """
    network, flat = _network(params, loss)
    values = backprop.forward(network, flat, _check.without_left_out(X, weights))
    return network.loss.forward(values[-1], y, weights=weights, reduction=reduction)


def value_and_gradient(
    params: Params,
    X: ArrayLike,
    y: ArrayLike,
    *,
    loss: Loss = "cross_entropy_with_logits",
    weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> tuple[Array, Params]:
    """The loss and its gradient by backpropagation, hand-written throughout; options as in `loss`.

    The last layer gets dz_m = dloss/dz_m, then dW_l = a_{l-1}^T dz_l, db_l = sum_i dz_l,
    da_{l-1} = dz_l W_l^T and dz_{l-1} = da_{l-1} g'(z_{l-1}).

    >>> params = Params((Layer(jnp.zeros((1, 2)), jnp.zeros(2)),))
    >>> J, d = value_and_gradient(params, jnp.array([[2.0]]), jnp.array([0]))
    >>> print(J, d.layers[0].W, d.layers[0].b)
    0.6931472 [[-1. 1.]] [-0.5 0.5]

    Source: Goodfellow, Bengio and Courville, Deep Learning, algorithm 6.4.
    """
    network, flat = _network(params, loss)
    J, gradients = backprop.value_and_grad(network)(flat, X, y, weights=weights, reduction=reduction)
    return J, jax.tree.unflatten(jax.tree.structure(params), gradients)


def gradient(
    params: Params,
    X: ArrayLike,
    y: ArrayLike,
    *,
    loss: Loss = "cross_entropy_with_logits",
    weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> Params:
    """The gradient of `loss` by backpropagation, a `Params` like `params`; options as in `loss`.

    >>> params = Params((Layer(jnp.zeros((1, 2)), jnp.zeros(2)),))
    >>> print(gradient(params, jnp.array([[2.0]]), jnp.array([0])).layers[0].b)
    [-0.5 0.5]
    """
    return value_and_gradient(params, X, y, loss=loss, weights=weights, reduction=reduction)[1]


def fit(
    params: Params,
    X: ArrayLike,
    y: ArrayLike,
    *,
    loss: Loss = "cross_entropy_with_logits",
    weights: ArrayLike | None = None,
    optimizer: optax.GradientTransformation | ArrayLike | None = None,
    steps: int = 1000,
    batch_size: int | None = 128,
    key: Array | None = None,
    **options: Any,
) -> "descent.Result":
    """Train the network: `descent.minimize` driven by the hand-written gradient.

    optimizer: anything of optax or a learning rate; Adam at 1e-3 if None. batch_size None takes all rows at every
    step. key: shuffles the batches; jax.random.key(0) if None. Further options go to `descent.minimize`.
    Returns its `Result`: .params, .history, .status.

    >>> params = init(jax.random.key(0), [2, 8, 2], activation="tanh")
    >>> X = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> result = fit(params, X, jnp.array([0, 1, 1, 0]), optimizer=optax.adam(0.1), steps=200, batch_size=None)
    >>> print(predict(result.params, X))
    [0 1 1 0]
    """
    X, y = _check.array("X", X), _check.array("y", y)
    n = _check.examples(X=X, y=y)
    dtype = _check.compute_dtype(params.layers[0].W)
    w = _check.per_example_weights(weights, (n,), dtype)
    _check.finite("X", X, w)
    # Labels and shapes are refused here, where their values can be seen: the loop can only mark them with NaN.
    network, _ = _network(params, loss)
    network.loss.forward(jnp.zeros((n, params.layers[-1].b.shape[0]), dtype), y, weights=w)
    if batch_size is not None:
        batch_size = min(batch_size, n)
        key = jax.random.key(0) if key is None else key
    return descent.minimize(
        None,
        params,
        data=(X, y) if w is None else (X, y, w),
        value_and_gradient=_objective(loss),
        optimizer=_adam(max(map(_smallest, jax.tree.leaves(params)))) if optimizer is None else optimizer,
        steps=steps,
        batch_size=batch_size,
        key=key,
        **options,
    )


@lru_cache(maxsize=64)
def _objective(name: Loss) -> Callable[..., tuple[Array, Params]]:
    """One function object for each loss, so that a second fit finds the program of the first."""

    def objective(params: Params, X: Array, y: Array, weights: Array | None = None) -> tuple[Array, Params]:
        return value_and_gradient(params, X, y, loss=name, weights=weights)

    return objective


@lru_cache(maxsize=8)
def _adam(eps: float) -> optax.GradientTransformation:
    """One optimiser object, for the same reason; in float16 optax's eps of 1e-8 is 0, and 0 / 0 its first update."""
    return optax.adam(1e-3, eps=max(1e-8, eps))


def _smallest(p: ArrayLike) -> float:
    return float(jnp.finfo(_check.common_dtype(_check.array("params", p))).tiny)


def _several_classes(params: Params) -> None:
    if params.layers[-1].b.shape[0] < 2:
        raise ValueError("This network has one output, so it has no classes; use forward, with a sigmoid for p.")


def _network(params: Params, loss: Loss) -> tuple[backprop.Chain, list[Array]]:
    """The chain of the network, and its parameters as the list [W_1, b_1, W_2, b_2, ...]."""
    steps: list[Any] = []
    for i in range(len(params.layers)):
        steps += [backprop.linear(2 * i, 2 * i + 1), params.activation]
    return backprop.chain(*steps[:-1], loss=loss), jax.tree.leaves(params.layers)
