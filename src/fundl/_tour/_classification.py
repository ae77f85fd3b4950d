"""Logistic and softmax regression in the tour: fitted, verified, judged on held-out rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import datasets, descent, logistic_regression, losses, norms, softmax_regression
from fundl._result import Fit
from fundl._tour import _pictures
from fundl._tour._page import Page, accuracy, some_params, split
from fundl._types import Linear

__all__ = ["logistic_regression_on_breast_cancer", "softmax_regression_on_digits"]


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
    n, decay = rows.n, l2 / rows.n

    # The mean of the same objective: the loss, and the penalty whose gradient is (l2 / n) w.
    def objective(params: Any, X: jax.Array, y: jax.Array) -> jax.Array:
        return logistic_regression.loss(params, X, y) + decay / 2 * norms.squared_l2(params.w)

    def gradient(params: Any, X: jax.Array, y: jax.Array) -> Any:
        d = logistic_regression.gradient(params, X, y)
        return Linear(d.w + decay * params.w, d.b)

    some = Linear(some_params(X, (X.shape[1],)), some_params(X, ()))
    agreement = page.verify("logistic regression", objective, gradient, some, X, y, rows=32)
    page.say("")
    page.progress("logistic regression: fitting")
    fit = logistic_regression.fit(X, y, l2=l2)
    zero = Linear(jnp.zeros_like(fit.params.w), jnp.zeros_like(fit.params.b))
    steps = 500 if page.quick else 3000
    # sigma' <= 1/4 bounds the curvature.
    curvature = np.linalg.norm(np.column_stack([np.asarray(X, np.float64), np.ones(n)]), 2) ** 2 / (4 * n) + decay
    eta = float(1 / curvature)
    down = descent.minimize(objective, zero, data=(X, y), gradient=gradient, optimizer=eta, steps=steps)

    @jax.jit
    def scores(params: Any) -> dict[str, jax.Array]:
        probability = logistic_regression.predict_proba(params, X)
        return {
            "objective": n * objective(params, X, y),
            "steepness": _norm(gradient(params, X, y)),
            "BCE": logistic_regression.loss(params, X, y, reduction="sum"),
            "BCE from p": losses.binary_cross_entropy(probability, y, reduction="sum"),
            "held-out BCE": logistic_regression.loss(params, rows.X_test, rows.y_test),
            "accuracy": accuracy(logistic_regression.predict(params, rows.X_test), rows.y_test),
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
    page.say(f"\nfit says: {_verdict(fit)}")
    unbounded = logistic_regression.fit(X, y, l2=0.0)
    page.say(f"with l2 = 0 fit says {_verdict(unbounded)}")
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
    page.check("logistic: the gradient vanishes at the fit", steepness < 1e-3)
    page.check("logistic: separable classes are recognised", unbounded.status.name == "separable")
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
    some = Linear(some_params(X, (X.shape[1], k)), some_params(X, (k,)))
    agreement = page.verify(
        "softmax regression", softmax_regression.loss, softmax_regression.gradient, some, X, y, rows=8
    )
    page.say("")
    page.progress("softmax regression: fitting")
    fit = softmax_regression.fit(X, y, l2=l2, num_classes=k)
    zero = Linear(jnp.zeros_like(fit.params.w), jnp.zeros_like(fit.params.b))

    @jax.jit
    def scores(params: Any) -> dict[str, jax.Array]:
        p = softmax_regression.predict_proba(params, X)
        onehot = jax.nn.one_hot(y, k, dtype=p.dtype)
        d = softmax_regression.gradient(params, X, y, reduction="sum")
        return {
            "J": softmax_regression.loss(params, X, y, reduction="sum"),
            "literal": -jnp.sum(onehot * jnp.log(p)),
            "steepness": _norm(Linear(d.w + l2 * params.w, d.b)),
            "held-out CE": softmax_regression.loss(params, rows.X_test, rows.y_test),
            "accuracy": accuracy(softmax_regression.predict(params, rows.X_test), rows.y_test),
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
    page.say(f"\nfit says: {_verdict(fit)}")
    at_fit: dict[str, float] = {name: float(v) for name, v in scores(fit.params).items()}
    J, literal = at_fit["J"], at_fit["literal"]
    page.say(f"J from integer labels {J:.4f}; -sum_i sum_k y_ik log y_hat_ik with one-hot labels {literal:.4f}")
    steepness = at_fit["steepness"] / float(scores(zero)["steepness"])
    page.say(f"norm of the objective's gradient at the fit, relative to the start: {steepness:.1e}")
    page.check("softmax: the gradient vanishes at the fit", steepness < 1e-3)
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


def _verdict(fit: Fit) -> str:
    """The status, and what is known of the distance from the minimum."""
    bound = float(fit.certificate.suboptimality)
    if np.isfinite(bound):
        return f"{fit.status}; the objective exceeds the minimum by at most {bound:.1e}"
    return f"{fit.status}: {fit.status.advice}"
