"""Networks of the tour: the chain rule shown link by link, and a perceptron trained by three kinds of descent."""

from typing import Any

import jax
import numpy as np
import optax

from fundl import backprop, datasets, mlp
from fundl._tour import _pictures
from fundl._tour._page import Page, accuracy, split

__all__ = ["chain_rule", "perceptron_on_digits"]


def chain_rule(page: Page) -> None:
    """dy/dx = dy/du du/dx on a network of the digits: every intermediate, its gradient by hand and by autodiff."""
    page.title("5  Backpropagation: the chain rule, link by link (handwritten digits)")
    rows = split(datasets.digits(), scale=16.0)
    net = backprop.chain(
        backprop.linear("W1", "b1"), "tanh", backprop.linear("W2", "b2"), loss="cross_entropy_with_logits"
    )
    hidden, last = mlp.init(jax.random.key(1), [64, 16, 10], activation="tanh").layers
    params = {"W1": hidden.W, "b1": hidden.b, "W2": last.W, "b2": last.b}
    page.say(
        "v1 = x W1 + b1,  v2 = tanh(v1),  v3 = v2 W2 + b2,  J = mean cross-entropy(v3, y); from the loss backwards,\n"
        "each row multiplies the gradient above it with one derivative, written by hand\n"
    )
    page.progress("backpropagation: the ledger")
    ledger = jax.jit(backprop.ledger, static_argnums=0)(net, params, rows.X, rows.y)
    page.say(str(ledger))
    page.check("backpropagation: every link of the chain", ledger.ok)


def perceptron_on_digits(page: Page) -> None:
    """A multilayer perceptron by gradient descent, momentum and Adam, each driven by backpropagation by hand."""
    page.title("6  Multilayer perceptron: gradient descent, momentum, Adam (handwritten digits)")
    data = datasets.digits()
    rows = split(data, scale=16.0)
    X, y = rows.X, rows.y
    sizes = [64, 32, 10]
    steps = 100 if page.quick else 300
    start = mlp.init(jax.random.key(0), sizes, activation="relu")
    page.say(
        f"layers {' - '.join(map(str, sizes))}, relu, {sum(v.size for v in jax.tree.leaves(start))} parameters, "
        f"{rows.n} images to fit and {len(rows.test)} held out\n"
        f"theta <- theta - eta dJ/dtheta, all rows at each of {steps} steps; dJ/dtheta by backpropagation\n"
    )
    agreement = page.verify("perceptron", mlp.loss, mlp.gradient, start, X, y, rows=8)
    page.say("")
    ways: dict[str, Any] = {
        "gradient descent, eta = 0.5": 0.5,
        "momentum 0.9, eta = 0.1": optax.sgd(0.1, momentum=0.9),
        "Adam, eta = 0.01": optax.adam(0.01),
    }
    curves, table, found = {}, [], start

    @jax.jit
    def scores(params: mlp.Params) -> tuple[jax.Array, jax.Array]:
        J = mlp.loss(params, rows.X_test, rows.y_test)
        return J, accuracy(mlp.predict(params, rows.X_test), rows.y_test)

    correct = 0.0
    for name, optimizer in ways.items():
        page.progress(f"perceptron: {name}")
        result = mlp.fit(start, X, y, optimizer=optimizer, steps=steps, batch_size=None, progress=not page.quick)
        found = result.check().params
        history = np.asarray(result.history)
        curves[name] = history
        held_out, correct = (float(v) for v in scores(found))
        table.append((name, f"{history[0]:.3f}", f"{history[-1]:.4f}", f"{held_out:.4f}", f"{correct:.1%}"))
        page.check(f"perceptron: {name} descends", history[-1] < 0.5 * history[0])
    page.table(("descent", "J at the start", "J at the end", "held-out CE", "held-out accuracy"), table)
    page.summary.append(
        (
            "multilayer perceptron",
            f"{rows.n} x {X.shape[1]}",
            "descent, momentum, Adam",
            f"accuracy {correct:.1%}",
            str(agreement),
        )
    )
    page.picture("curves.png", _pictures.curves, losses=curves, model=" - ".join(map(str, sizes)))
    if not page.quick:
        p = np.asarray(mlp.predict_proba(found, rows.X_test))
        page.picture("wrong_digits.png", _pictures.wrong_digits, images=data.X[rows.test], y=data.y[rows.test], p=p)
