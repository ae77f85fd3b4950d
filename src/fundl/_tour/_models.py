"""The three regressions of the tour: fitted exactly and by gradient descent, verified, judged on held-out rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import datasets, descent, linear_regression, logistic_regression, losses, norms, softmax_regression
from fundl._tour import _pictures
from fundl._tour._page import Page, compare, split
from fundl._types import Linear

__all__ = [
    "linear_regression_on_diabetes", "logistic_regression_on_breast_cancer", "softmax_regression_on_digits",
]  # fmt: skip


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
    agreement = page.verify(
        "linear regression", linear_regression.loss, linear_regression.gradient, zero, X, y, rows=rows.n
    )
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


def logistic_regression_on_breast_cancer(page: Page) -> None:
    """The model, its likelihood and loss (binary cross-entropy), and the iterative fits."""
    page.title("3  Logistic regression: binary cross-entropy (breast cancer)")
    data = datasets.breast_cancer()
    rows = split(data)
    X, y, l2 = rows.X, rows.y, 1.0
    page.say(
        f"{rows.n} tumours to fit and {len(rows.test)} held out, {X.shape[1]} standardised columns, "
        "benign (1) or malignant (0)\n"
        "y_hat = sigma(x w + b) = p(y = 1 given x)    L = -[y log y_hat + (1 - y) log(1 - y_hat)]\n"
        f"no analytic solution, hence iterative; minimised: sum_i L_i + (l2 / 2) norm2(w)^2, l2 = {l2:g}\n"
    )
    page.progress("logistic regression: fitting")
    fit = logistic_regression.fit(X, y, l2=l2)
    n, decay = rows.n, l2 / rows.n

    # The mean of the same objective: the loss, and the penalty whose gradient is (l2 / n) w.
    def objective(params: Any, X: jax.Array, y: jax.Array) -> jax.Array:
        return logistic_regression.loss(params, X, y) + decay / 2 * norms.squared_l2(params.w)

    def gradient(params: Any, X: jax.Array, y: jax.Array) -> Any:
        d = logistic_regression.gradient(params, X, y)
        return Linear(d.w + decay * params.w, d.b)

    zero = Linear(jnp.zeros_like(fit.params.w), jnp.zeros_like(fit.params.b))
    steps = 500 if page.quick else 3000
    # sigma' <= 1/4 bounds the curvature.
    curvature = np.linalg.norm(np.column_stack([np.asarray(X, np.float64), np.ones(n)]), 2) ** 2 / (4 * n) + decay
    eta = float(1 / curvature)
    down = descent.minimize(objective, zero, data=(X, y), gradient=gradient, optimizer=eta, steps=steps)

    @jax.jit
    def scores(params: Any) -> dict[str, jax.Array]:
        probability = logistic_regression.predict_proba(params, X)
        correct = logistic_regression.predict(params, rows.X_test) == rows.y_test
        return {
            "objective": n * objective(params, X, y),
            "steepness": _norm(gradient(params, X, y)),
            "BCE": logistic_regression.loss(params, X, y, reduction="sum"),
            "BCE from p": losses.binary_cross_entropy(probability, y, reduction="sum"),
            "held-out BCE": logistic_regression.loss(params, rows.X_test, rows.y_test),
            "accuracy": jnp.mean(correct, dtype=X.dtype),
        }

    def line(name: str, taken: str, params: Any) -> tuple[str, ...]:
        s = scores(params)
        return name, taken, f"{s['objective']:.4f}", f"{s['held-out BCE']:.4f}", f"{s['accuracy']:.1%}"

    page.table(
        ("method", "steps", "objective", "held-out BCE", "held-out accuracy"),
        [
            line("w = 0, b = 0", "0", zero),
            line(f"gradient descent, eta = {eta:.3f}", str(steps), down.params),
            line("logistic_regression.fit", str(int(fit.certificate.steps)), fit.params),
        ],
    )
    page.say(
        f"\nfit says: {fit.status}; its objective exceeds the minimum by at most "
        f"{float(fit.certificate.suboptimality):.1e}"
    )
    at_fit: dict[str, float] = {name: float(v) for name, v in scores(fit.params).items()}
    L, from_p = at_fit["BCE"], at_fit["BCE from p"]
    some_p = jnp.asarray([0.9, 0.5, 0.1, 0.0], X.dtype)
    sure = losses.binary_cross_entropy(some_p, jnp.ones_like(some_p), reduction="none").tolist()
    page.say(
        f"likelihood of the {n} labels: product of p(y_i) = exp(-{L:.4f}) = {np.exp(-L):.3g}; "
        f"BCE from probabilities: {from_p:.4f}\n"
        f"L at y = 1 for y_hat = 0.9, 0.5, 0.1, 0:  {sure[0]:.4f}  {sure[1]:.4f}  {sure[2]:.4f}  {sure[3]} (not NaN)"
    )
    steepness = at_fit["steepness"] / float(scores(zero)["steepness"])
    page.say(f"norm of the objective's gradient at the fit, relative to the start: {steepness:.1e}")
    # Half way to the fit: at it every entry is what remains after cancellation, and has no digits to compare.
    half = jax.tree.map(lambda v: v / 2, fit.params)
    agreement = page.verify("logistic regression", objective, gradient, half, X, y, rows=32)
    page.check("logistic: the gradient vanishes at the fit", steepness < 1e-3)
    best = float(fit.certificate.objective)
    page.check("logistic: gradient descent nears the fit", abs(n * float(down.history[-1]) - best) <= 0.1 * best)
    page.check("logistic: BCE from probabilities is that from logits", abs(L - from_p) <= 1e-4 * L)
    page.check("logistic: BCE at a certain mistake is inf", np.isposinf(sure[3]))
    page.summary.append(
        (
            "logistic regression",
            f"{n} x {X.shape[1]}",
            "Newton, descent",
            f"accuracy {at_fit['accuracy']:.1%}",
            str(agreement),
        )
    )
    if not page.quick:
        _boundary(page, data)


def _boundary(page: Page, data: datasets.Dataset) -> None:
    """Two columns of the same data, so that the boundary can be drawn."""
    names = ("worst radius", "worst texture")
    columns = [data.feature_names.index(name) for name in names]
    pair = datasets.Dataset(data.X[:, columns], data.y, names, data.target_names, data.about)
    rows = split(pair)
    start = Linear(jnp.zeros((2,), rows.X.dtype), jnp.zeros((), rows.X.dtype))
    found = descent.minimize(
        logistic_regression.loss,
        start,
        data=(rows.X, rows.y),
        gradient=logistic_regression.gradient,
        optimizer=1.0,
        steps=1000,
    ).check()
    page.picture(
        "boundary.png",
        _pictures.boundary,
        X=pair.X[rows.test],
        y=pair.y[rows.test],
        mean=pair.X[rows.train].mean(axis=0),
        deviation=pair.X[rows.train].std(axis=0),
        w=np.asarray(found.params.w),
        b=float(found.params.b),
        names=names,
        classes=data.target_names,
    )


def softmax_regression_on_digits(page: Page) -> None:
    """Ten classes: cross-entropy, one-hot labels and integers, the sum of the lecture and the mean."""
    page.title("4  Softmax regression: cross-entropy (handwritten digits)")
    rows = split(datasets.digits(), scale=16.0)
    X, y, l2 = rows.X, rows.y, 1.0
    n, k = rows.n, 10
    page.say(
        f"{n} images of 8 x 8 pixels to fit and {len(rows.test)} held out\n"
        "y_hat = softmax(x W + b)    J = -sum_i sum_k y_ik log y_hat_ik\n"
        f"minimised: J + (l2 / 2) norm2(W)^2, l2 = {l2:g}\n"
    )
    page.progress("softmax regression: fitting")
    fit = softmax_regression.fit(X, y, l2=l2, num_classes=k)
    zero = Linear(jnp.zeros_like(fit.params.w), jnp.zeros_like(fit.params.b))

    @jax.jit
    def scores(params: Any) -> dict[str, jax.Array]:
        p = softmax_regression.predict_proba(params, X)
        onehot = jax.nn.one_hot(y, k, dtype=p.dtype)
        d = softmax_regression.gradient(params, X, y, reduction="sum")
        correct = softmax_regression.predict(params, rows.X_test) == rows.y_test
        return {
            "J": softmax_regression.loss(params, X, y, reduction="sum"),
            "literal": -jnp.sum(onehot * jnp.log(p)),
            "steepness": _norm(Linear(d.w + l2 * params.w, d.b)),
            "held-out CE": softmax_regression.loss(params, rows.X_test, rows.y_test),
            "accuracy": jnp.mean(correct, dtype=X.dtype),
        }

    def line(name: str, taken: str, params: Any) -> tuple[str, ...]:
        s = scores(params)
        return name, taken, f"{s['J']:.3f}", f"{s['held-out CE']:.4f}", f"{s['accuracy']:.1%}"

    page.table(
        ("method", "steps", "J (sum)", "held-out CE (mean)", "held-out accuracy"),
        [
            line("W = 0, b = 0", "0", zero),
            line("softmax_regression.fit", str(int(fit.certificate.steps)), fit.params),
        ],
    )
    page.say(
        f"\nfit says: {fit.status}; its objective exceeds the minimum by at most "
        f"{float(fit.certificate.suboptimality):.1e}"
    )
    at_fit: dict[str, float] = {name: float(v) for name, v in scores(fit.params).items()}
    J, literal = at_fit["J"], at_fit["literal"]
    page.say(f"J from integer labels {J:.4f}; -sum_i sum_k y_ik log y_hat_ik with one-hot labels {literal:.4f}")
    steepness = at_fit["steepness"] / float(scores(zero)["steepness"])
    page.say(f"norm of the objective's gradient at the fit, relative to the start: {steepness:.1e}")
    page.check("softmax: the gradient vanishes at the fit", steepness < 1e-3)
    half = jax.tree.map(lambda v: v / 2, fit.params)
    agreement = page.verify(
        "softmax regression", softmax_regression.loss, softmax_regression.gradient, half, X, y, rows=8
    )
    page.check("softmax: cross-entropy is the lecture's sum", abs(J - literal) <= 1e-4 * J)
    page.summary.append(
        (
            "softmax regression",
            f"{n} x {X.shape[1]}",
            "Newton",
            f"accuracy {at_fit['accuracy']:.1%}",
            str(agreement),
        )
    )


def _norm(gradients: Any) -> jax.Array:
    return norms.l2(jnp.concatenate([g.ravel() for g in jax.tree.leaves(gradients)]))
