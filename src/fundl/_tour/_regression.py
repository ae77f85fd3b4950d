"""Linear regression in the tour: the analytic solution and gradient descent side by side."""

import jax
import jax.numpy as jnp
import numpy as np

from fundl import datasets, descent, linear_regression, norms
from fundl._tour import _pictures
from fundl._tour._page import Page, compare, some_params, split

__all__ = ["linear_regression_on_diabetes"]


def linear_regression_on_diabetes(page: Page) -> None:
    """Prediction, the loss in both forms, its gradient, the analytic solution and gradient descent side by side."""
    page.title("1  Linear regression: the analytic solution and gradient descent (diabetes)")
    data = datasets.diabetes()
    rows = split(data, ones=True)
    X, y = rows.X, rows.y
    page.say(
        f"{rows.n} patients to fit and {len(rows.test)} held out; standardised columns and a column of ones\n"
        "y_hat = X theta    J = (1/n) sum_i (y_hat_i - y_i)^2    dJ/dtheta = (2/n) X^T (X theta - y)\n"
    )
    some = some_params(X, (X.shape[1],))
    agreement = page.verify(
        "linear regression", linear_regression.loss, linear_regression.gradient, some, X, y, rows=rows.n
    )
    page.say("")
    page.progress("linear regression: fitting")
    theta = linear_regression.normal_equations(X, y)
    fit = linear_regression.fit(X[:, :-1], y)
    exact = jnp.append(fit.params.w, fit.params.b)
    # The largest curvature of J bounds the learning rates that descend: eta < 2 / curvature.
    curvature = np.linalg.eigvalsh(2 / rows.n * np.asarray(X, np.float64).T @ np.asarray(X, np.float64))
    eta = float(1 / curvature[-1])
    steps = 1000 if page.quick else 5000
    zero = jnp.zeros_like(theta)
    down = descent.minimize(
        linear_regression.loss, zero, data=(X, y), gradient=linear_regression.gradient, optimizer=eta, steps=steps
    )

    @jax.jit
    def scores(params: jax.Array) -> dict[str, jax.Array]:
        return {
            "J": linear_regression.loss(params, X, y),
            "sum": linear_regression.loss(params, X, y, reduction="sum"),
            "RMSE": jnp.sqrt(linear_regression.loss(params, rows.X_test, rows.y_test)),
            "away": norms.l2(params - exact) / norms.l2(exact),
        }

    def line(name: str, taken: str, params: jax.Array) -> tuple[str, ...]:
        s = scores(params)
        return name, taken, f"{s['J']:.3f}", f"{s['RMSE']:.2f}", f"{s['away']:.1e}"

    page.table(
        ("method", "steps", "J", "held-out RMSE", "distance from the exact theta, relative"),
        [
            line("theta = 0", "0", zero),
            line(f"gradient descent, eta = {eta:.3f}", f"{steps}", down.params),
            line("normal equations (X^T X)^-1 X^T y", "1", theta),
            line("linear_regression.fit", "-", exact),
        ],
    )
    page.say(
        f"\nfit says: {fit.status}, rank {fit.certificate.rank} of {X.shape[1] - 1}, condition of the columns "
        f"{fit.certificate.condition:.1f}"
    )
    best: dict[str, float] = {name: float(v) for name, v in scores(exact).items()}
    total, mean = best["sum"], best["J"]
    page.say(f"matrix form (X theta - y)^T (X theta - y) = {total:.6g} = n J = {rows.n} x {mean:.6g}")
    # The sum form, from the lecture's formula and no code of the library.
    A, t = np.asarray(X, np.float64), np.asarray(theta, np.float64) / 2
    literal = 2 * A.T @ A @ t - 2 * A.T @ np.asarray(y, np.float64)
    by_hand = linear_regression.gradient(theta / 2, X, y, reduction="sum")
    agrees = compare(by_hand, literal.astype(X.dtype), terms=rows.n)
    page.check("linear: sum form", agrees.ok)
    page.say(f"gradient of the sum form against 2 X^T X theta - 2 X^T y in float64: {agrees}")
    page.check("linear: fit converged", fit.status.name == "converged")
    page.check("linear: normal equations meet the exact fit", float(scores(theta)["away"]) < 1e-3)
    page.check("linear: gradient descent reaches the minimum", float(down.history[-1]) <= mean * (1 + 1e-3))
    page.check("linear: the sum form is n times the mean form", abs(total - rows.n * mean) <= 1e-5 * total)
    page.summary.append(
        (
            "linear regression",
            f"{rows.n} x {X.shape[1] - 1}",
            "exact, descent",
            f"RMSE {best['RMSE']:.1f} (of the mean: {float(jnp.sqrt(jnp.mean((rows.y_test - y.mean()) ** 2))):.1f})",
            str(agreement),
        )
    )
    if not page.quick:
        _bowl(page, data)


def _bowl(page: Page, data: datasets.Dataset) -> None:
    """Two correlated columns make a narrow bowl: the path of gradient descent, and the step that solves it at once."""
    columns = [data.feature_names.index(name) for name in ("s1", "s2")]
    rows = split(datasets.Dataset(data.X[:, columns], data.y, ("s1", "s2"), data.target_names, data.about))
    X, y = rows.X, rows.y - jnp.mean(rows.y)  # centred, so no intercept is needed
    solution = linear_regression.normal_equations(X, y)
    curvature = np.linalg.eigvalsh(2 / rows.n * np.asarray(X, np.float64).T @ np.asarray(X, np.float64))
    eta = jnp.asarray(1.7 / curvature[-1], X.dtype)
    gradient = jax.jit(linear_regression.gradient)
    path = [jnp.asarray([-35.0, 12.0], X.dtype)]
    for _ in range(60):
        path.append(path[-1] - eta * gradient(path[-1], X, y))  # theta <- theta - eta dJ/dtheta
    page.picture(
        "bowl.png",
        _pictures.bowl,
        X=np.asarray(X),
        y=np.asarray(y),
        descent=np.asarray(path),
        solution=np.asarray(solution),
        names=("total cholesterol (s1)", "low-density lipoproteins (s2)"),
    )
