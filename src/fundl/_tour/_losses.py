"""Norms, and what they do as losses: L1 and MSE lines through the same patients, with and without outliers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fundl import backprop, datasets, descent, linear_regression, losses, norms
from fundl._tour import _pictures
from fundl._tour._page import Page, compare, split

__all__ = ["norms_and_outliers"]

_OUTLIERS = 20  # of 442 patients


def norms_and_outliers(page: Page) -> None:
    """The three norms with their gradients, then the L1 loss and the MSE on data with slips of the pen."""
    page.title("2  Norms and losses: L1, L2, squared L2; L1 loss and MSE with outliers (diabetes)")
    data = datasets.diabetes()
    bmi = data.X[:, [data.feature_names.index("bmi")]]
    rows = split(datasets.Dataset(bmi, data.y, ("bmi",), data.target_names, data.about), ones=True)
    X, y = rows.X, rows.y
    _norms(page, y - jnp.mean(y))
    _outliers(page, X, y, bmi[rows.train, 0])


def _norms(page: Page, r: jax.Array) -> None:
    page.say(f"the residuals r of {r.size} patients from their mean; then the largest of them ten times as large\n")
    pairs = (
        ("l1", "sum_i abs(r_i)", norms.l1, norms.l1_backward),
        ("l2", "sqrt(sum_i r_i^2)", norms.l2, norms.l2_backward),
        ("squared_l2", "sum_i r_i^2", norms.squared_l2, norms.squared_l2_backward),
    )
    spoiled = r.at[jnp.argmax(jnp.abs(r))].multiply(10.0)
    one = jnp.ones((), r.dtype)

    @jax.jit
    def both(r: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        return [(backward(one, r), jax.grad(norm)(r)) for _, _, norm, backward in pairs]

    lines = []
    for (name, formula, norm, _), (by_hand, by_autodiff) in zip(pairs, both(r), strict=True):
        agreement = compare(by_hand, by_autodiff)
        page.check(f"norms: {name}", agreement.ok)
        value = float(norm(r))
        lines.append((name, formula, f"{value:.6g}", f"x {float(norm(spoiled)) / value:.3f}", str(agreement)))
    page.table(("norm", "formula", "value", "one r_i x 10", "gradient by hand against autodiff"), lines)


def _outliers(page: Page, X: jax.Array, y: jax.Array, bmi: np.ndarray) -> None:
    """y_hat = w bmi + b by both losses; then ten times the target of a few patients, as when a comma slips."""
    page.say(
        f"\na line through progression over body mass index; then {_OUTLIERS} targets recorded ten times too large\n"
    )
    slipped = np.argsort(np.random.PCG64(1).random_raw(X.shape[0]), kind="stable")[:_OUTLIERS]
    y_slipped = y.at[slipped].multiply(10.0)
    # The network of the L1 line is one linear map; its gradient is chained from the backwards of map and loss.
    line = backprop.chain(backprop.linear("w", "b"), loss="l1")
    value_and_gradient = backprop.value_and_grad(line)
    steps = 300 if page.quick else 1000
    optimizer = optax.adam(optax.cosine_decay_schedule(5.0, steps))

    def l1_line(y: jax.Array) -> np.ndarray:
        start = {"w": jnp.zeros((1,), X.dtype), "b": jnp.zeros((), X.dtype)}
        found = descent.minimize(
            None,
            start,
            data=(X[:, :1], y),
            value_and_gradient=value_and_gradient,
            optimizer=optimizer,
            steps=steps,
        ).check()
        return np.array([float(found.params["w"][0]), float(found.params["b"])])

    page.progress("L1 and MSE lines: fitting")
    found = {
        "MSE": (np.asarray(linear_regression.normal_equations(X, y)),
                np.asarray(linear_regression.normal_equations(X, y_slipped))),
        "L1": (l1_line(y), l1_line(y_slipped)),
    }  # fmt: skip
    table = []
    for name, (clean, with_outliers) in found.items():
        # How far the predictions for the patients themselves move, on average.
        moved = np.mean(np.abs(np.asarray(X) @ (with_outliers - clean)))
        table.append((
            f"{name} line", f"{clean[0]:.1f}", f"{clean[1]:.1f}", f"{with_outliers[0]:.1f}",
            f"{with_outliers[1]:.1f}", f"{moved:.1f}",
        ))  # fmt: skip
    page.table(("loss", "slope", "intercept", "slope, outliers", "intercept, outliers", "predictions move by"), table)

    theta = {"w": jnp.asarray(found["MSE"][0][:1], X.dtype), "b": jnp.asarray(found["MSE"][0][1], X.dtype)}

    def direct(theta: dict[str, jax.Array]) -> jax.Array:
        return losses.l1(X[:, :1] @ theta["w"] + theta["b"], y)

    agreement = compare(value_and_gradient(theta, X[:, :1], y)[1], jax.grad(direct)(theta), terms=X.shape[0])
    page.say(f"\ngradient of the L1 loss by hand against autodiff: {agreement}")
    page.check("L1 loss: gradient on the data", agreement.ok)
    page.picture(
        "outliers.png",
        _pictures.outliers,
        x=bmi,
        standardised=np.asarray(X[:, 0]),
        y=np.asarray(y),
        slipped=slipped,
        lines=found,
    )
