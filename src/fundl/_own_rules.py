"""fundl's own hand-written gradients, each with inputs to examine it at: what `fundl verify` checks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fundl import (
    _from_output,
    activations,
    backprop,
    layers,
    linear_regression,
    logistic_regression,
    losses,
    mlp,
    norms,
    softmax_regression,
)
from fundl._types import Linear

Case = tuple[str, Callable[..., Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def cases() -> list[Case]:
    """(label, function, backward, arguments, options of verify) for every rule of fundl."""
    return [*_elementwise(), *_over_an_axis(), *_losses(), *_layers(), *_from_outputs(), *_models()]


def _normal(seed: int, *shape: int) -> Any:
    return jax.random.normal(jax.random.key(seed), shape)


def _pair(module: Any, name: str, *args: Any, label: str = "", domain: Any = None, **options: Any) -> Case:
    f, backward = getattr(module, name), getattr(module, f"{name}_backward")
    if options:
        f, backward = partial(f, **options), partial(backward, **options)
    shown = f"{module.__name__.removeprefix('fundl.')}.{name}" + (f" ({label})" if label else "")
    return shown, f, backward, args, {} if domain is None else {"domain": domain}


def _elementwise() -> list[Case]:
    names = ["identity", "relu", "leaky_relu", "elu", "sigmoid", "log_sigmoid", "tanh", "softplus", "silu", "gelu"]
    rules = [_pair(activations, name, _normal(0, 4, 3)) for name in names]
    return [*rules, _pair(activations, "gelu", _normal(0, 4, 3), label="exact", approximate=False)]


def _over_an_axis() -> list[Case]:
    # So many classes that a factor 1.01 changes how many are the largest, when all are equal.
    rules = [_pair(activations, name, _normal(0, 2, 64)) for name in ("softmax", "log_softmax", "logsumexp")]
    rules += [_pair(activations, "softmax", _normal(0, 64, 2), label="axis=0", axis=0)]
    for name in ("l1", "l2", "squared_l2"):
        rules += [_pair(norms, name, _normal(1, 5)), _pair(norms, name, _normal(1, 4, 3), label="axis=1", axis=1)]
    return rules


def _losses() -> list[Case]:
    y_hat, y = _normal(0, 5, 3), _normal(1, 5, 3)
    labels, p, soft = jnp.array([2, 0, 1, 1, 2]), jax.nn.softmax(y_hat), jax.nn.softmax(y)
    weights = jnp.array([1.0, 0.0, 2.0, 0.5, 1.0])
    z, classes, over_z = _normal(0, 3, 64), jnp.array([2, 63, 17]), jax.nn.softmax(_normal(1, 3, 64))
    X, W, b = _normal(2, 5, 4), _normal(3, 4, 3), _normal(4, 3)
    certain = p.at[:3:2].set(jnp.eye(3)[labels[:3:2]])  # the loss has a value where the right class has probability 1
    unit, inner = (0.0, 1.0), (0.01, 0.99)  # dL/dy = log(1 - p) - log p is infinite at p = 0 and 1, as L may be
    each: list[tuple[str, tuple[Any, ...], Any]] = [
        ("l1", (y_hat, y), None),
        ("mse", (y_hat, y), None),
        ("huber", (y_hat, y), None),
        ("binary_cross_entropy", (certain[:, 1], labels % 2), {"p": unit}),
        ("binary_cross_entropy_with_logits", (y_hat[:, 0], soft[:, 0]), {"y": unit}),
        ("focal_with_logits", (y_hat[:, 0], soft[:, 0]), {"y": unit}),
        ("cross_entropy", (certain, labels), {"p": unit}),
        ("cross_entropy_with_logits", (z, classes), None),
        ("linear_cross_entropy", (X, W, b, labels), None),
        ("linear_binary_cross_entropy", (X, W, b, jnp.eye(3, dtype=int)[labels]), None),
    ]
    rules = [_pair(losses, name, *args, domain=domain) for name, args, domain in each]
    rules += [
        _pair(losses, name, *args, label="none", domain=domain, reduction="none")
        for name, args, domain in each
        if name.endswith(("mse", "logits", "linear_cross_entropy"))
    ]
    rules += [
        _pair(losses, "cross_entropy_with_logits", z, classes, label="sum", reduction="sum"),
        _pair(losses, "binary_cross_entropy", p[:, 0], soft[:, 0], label="soft", domain={"p": inner, "y": unit}),
        _pair(losses, "mse", y_hat, y, label="weights", weights=weights),
        _pair(losses, "huber", y_hat, y, label="delta", delta=0.5),
        _pair(losses, "focal_with_logits", y_hat[:, 0], soft[:, 0], label="gamma", domain={"y": unit}, gamma=0.5),
        _pair(losses, "cross_entropy", p, soft, label="soft", domain={"p": inner, "y": unit}),
        _pair(losses, "cross_entropy_with_logits", z, over_z, label="soft", domain={"y": unit}),
        _pair(losses, "cross_entropy_with_logits", z, classes, label="weights", weights=weights[:3]),
        _pair(losses, "cross_entropy_with_logits", z, classes, label="smoothed", label_smoothing=0.1),
        _pair(losses, "linear_cross_entropy", X, W, b, labels, label="weights", weights=weights),
    ]
    return rules


def _layers() -> list[Case]:
    return [
        _pair(layers, "linear", _normal(0, 5, 4), _normal(1, 4, 3), _normal(2, 3)),
        _pair(layers, "linear", _normal(0, 5, 4), _normal(1, 4), _normal(2), label="one output"),
    ]


def _from_outputs() -> list[Case]:
    def case(name: str) -> Case:
        f = getattr(activations, name)
        backward = _from_output.BACKWARD[name]
        # Moderate inputs: in the tails it is autodiff's accuracy, not that of `activations`, that is promised.
        return f"{name} from its output", f, lambda dy, x: backward(dy, f(x)), (_normal(0, 4, 3),), {"domain": (-5, 5)}

    return [case(name) for name in _from_output.BACKWARD]


def _models() -> list[Case]:
    X, y = _normal(0, 6, 4), _normal(1, 6)
    classes, binary = jnp.array([2, 0, 1, 1, 2, 0]), jnp.array([0, 1, 1, 0, 1, 0])
    theta = Linear(_normal(2, 4), _normal(3))
    rules = [
        _gradient("linear_regression.gradient", linear_regression, theta, X, y),
        _gradient("logistic_regression.gradient", logistic_regression, theta, X, binary),
        _gradient(
            "softmax_regression.gradient", softmax_regression, Linear(_normal(2, 4, 3), _normal(3, 3)), X, classes
        ),
    ]
    for activation in ("relu", "tanh", "gelu", "sigmoid"):
        params = mlp.init(jax.random.key(4), (4, 5, 5, 3), activation=activation)
        domain = (-2.0, 2.0)
        rules.append(_gradient(f"mlp.gradient ({activation})", mlp, params, X, classes, domain=domain))
    tied = backprop.chain(backprop.linear("W", "b"), "tanh", backprop.linear("W", "b"), loss="mse")
    shared = {"W": _normal(5, 4, 4), "b": _normal(6, 4)}
    targets = _normal(7, 6, 4)

    def f(params: Any) -> Any:
        values = backprop.forward(tied, params, X)
        return losses.mse(values[-1], targets)

    def backward(dy: Any, params: Any) -> Any:
        return jax.tree.map(lambda g: dy * g, backprop.value_and_grad(tied)(params, X, targets)[1])

    return [*rules, ("backprop of shared weights", f, backward, (shared,), {"domain": (-2.0, 2.0)})]


def _gradient(label: str, model: Any, params: Any, X: Any, y: Any, domain: Any = None) -> Case:
    """The gradient of a model's loss as a rule for its parameters alone."""

    def f(params: Any) -> Any:
        return model.loss(params, X, y)

    def backward(dy: Any, params: Any) -> Any:
        return jax.tree.map(lambda g: dy * g, model.gradient(params, X, y))

    return label, f, backward, (params,), {} if domain is None else {"domain": domain}
