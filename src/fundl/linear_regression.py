"""Linear regression: the model, its loss with the hand-written gradient, the normal equations, and the exact fit.

The parameters are a `Linear(w, b)`, or a bare array theta for the model without intercept, which is the form the
normal equations are written in.
"""

import warnings
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from fundl import _check, layers, least_squares, losses
from fundl._precise import rows_dot
from fundl._result import Fit
from fundl._types import Array, ArrayLike, Linear

__all__ = [
    "IllConditionedWarning", "fit", "gradient", "influence", "interval", "loss", "normal_equations", "predict",
    "ridge_path",
]  # fmt: skip

Params = TypeVar("Params")


class IllConditionedWarning(UserWarning):
    """X^T X is singular, or so ill-conditioned that no digit of the normal equations' solution can be believed."""


def predict(params: Any, X: ArrayLike) -> Array:
    """Predictions y_hat = X w + b, that is y_hat_i = sum_j x_ij theta_j for a bare array theta.

    Shapes: X (n, d); params `Linear` with w (d,), b () or w (d, k), b (k,), or an array theta (d,) or (d, k);
    y_hat (n,) or (n, k).
    Errors: ValueError naming the shapes that do not fit.

    >>> print(predict(Linear(w=jnp.array([1.0, 2.0]), b=jnp.array(0.5)), [[1.0, 1.0], [0.0, 2.0]]))
    [3.5 4.5]

    Source: Bishop, Pattern Recognition and Machine Learning, (3.1).
    """
    _, w, b = _parts(params)
    return layers.linear(X, w, b)


def loss(
    params: Any, X: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Array:
    """Mean squared error of the predictions: J = (1/n) sum_i norm2(x_i w + b - y_i)^2.

    Shapes: as `predict`, with y shaped like y_hat; weights (n,). Per example a sum over outputs. `reduction="sum"` is
    the matrix form J = (X theta - y)^T (X theta - y). A row of weight 0 counts nowhere, even if it holds NaN.
    Derivative: `gradient`.
    Errors: ValueError for shapes that do not fit, (n,) against (n, 1) among them, and for bad weights.

    >>> print(loss(jnp.array([1.0, 1.0]), [[1.0, 2.0], [3.0, 4.0]], [3.0, 5.0]))
    2.0

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, (3.2), there as a sum.
    """
    _, w, b = _parts(params)
    X = _check.without_left_out(X, weights)
    return losses.mse(layers.linear(X, w, b), y, weights=weights, reduction=reduction)


def gradient(
    params: Params, X: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Params:
    """Gradient of `loss` by hand: dw = (2/n) X^T (X w + b - y), db = (2/n) sum_i (x_i w + b - y_i).

    Returns the container it was given: a `Linear`, or for a bare theta an array. With `reduction="sum"` that is
    2 X^T X theta - 2 X^T y.

    Shapes: as `loss`; each gradient has the shape and dtype of its parameter.
    Errors: as `loss`; ValueError for `reduction="none"`, whose losses per example have no single gradient.

    >>> X, y = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([3.0, 5.0])
    >>> print(gradient(jnp.array([1.0, 1.0]), X, y, reduction="sum"))
    [12. 16.]

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, (3.4).
    """
    _check.choice("reduction", reduction, ("mean", "sum"))
    container, w, b = _parts(params)
    X = _check.without_left_out(X, weights)
    y_hat = layers.linear(X, w, b)
    # J = losses.mse(y_hat, y)
    dy_hat = _first(losses.mse_backward(jnp.ones((), y_hat.dtype), y_hat, y, weights=weights, reduction=reduction))
    # y_hat = X w + b
    _, dw, db = layers.linear_backward(dy_hat, X, w, b)
    return container(dw, db)


def normal_equations(X: ArrayLike, y: ArrayLike) -> Array:
    """The analytic solution theta = (X^T X)^-1 X^T y, by Cholesky factors of X^T X: solved, never inverted.

    Forming X^T X squares the condition number of X, so half of the digits are lost before the solution starts. Where
    the condition leaves no digit (or X^T X is not positive definite), theta is NaN, and outside of a trace an
    `IllConditionedWarning` says so. `fit` has none of these limits, and its certificate tells the rank and condition.

    Shapes: X (n, d), y (n,) or (n, k), theta (d,) or (d, k). No intercept: append a column of ones to X for one.
    Derivative: that of the formula.
    Errors: TypeError and ValueError for wrong shapes, empty arrays, NaN, infinite or complex values.

    >>> print(normal_equations([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], [1.0, 3.0, 5.0]).round(4).round(4))
    [1. 2.]

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, (3.6).
    """
    X, y, _ = least_squares.inputs(X, y, None)
    theta, reciprocal_condition = _normal_equations(X, y)
    limit = _meaningless(X)
    if _check.concrete(reciprocal_condition) and not bool(reciprocal_condition > limit):
        warnings.warn(
            f"X^T X has condition number {_reciprocal(float(reciprocal_condition)):.1e}, which leaves no digit in "
            f"{X.dtype}: theta is NaN. Use fit, which does not square the condition, or drop dependent columns.",
            IllConditionedWarning,
            stacklevel=2,
        )
    return theta


@jax.jit
def _normal_equations(X: Array, y: Array) -> tuple[Array, Array]:
    """theta and the reciprocal condition of X^T X with its diagonal scaled to ones."""
    G = rows_dot(X, X)
    L = jnp.linalg.cholesky(G)
    z = jax.scipy.linalg.solve_triangular(L, rows_dot(X, y), lower=True)
    theta = jax.scipy.linalg.solve_triangular(L, z, lower=True, trans=1)
    # Cholesky does not feel the scale of the columns, so the condition that counts is that of the scaled matrix.
    scale = jax.lax.rsqrt(jnp.diagonal(jax.lax.stop_gradient(G)))
    eigenvalues = jnp.linalg.eigvalsh(jax.lax.stop_gradient(G) * scale[:, None] * scale[None, :])
    reciprocal = jnp.nan_to_num(jnp.maximum(eigenvalues[0], 0) / eigenvalues[-1])
    return jnp.where(reciprocal > _meaningless(X), theta, jnp.full_like(theta, jnp.nan)), reciprocal


def _meaningless(X: Array) -> float:
    """The reciprocal condition of X^T X below which rounding errors are as large as the solution."""
    return 4 * X.shape[1] * float(jnp.finfo(X.dtype).eps)


def _reciprocal(x: float) -> float:
    return 1 / x if x > 0 else float("inf")


def fit(
    X: ArrayLike,
    y: ArrayLike,
    *,
    l2: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    intercept: bool = True,
    method: str = "auto",
) -> Fit:
    """Least squares: the w and b that minimise sum_i weights_i (x_i w + b - y_i)^2 + l2 norm2(w)^2.

    The intercept b is not penalised. Among many minimisers (dependent columns, n < d) the one with the smallest
    norm2(w) is returned, with status `rank_deficient`.

    Shapes: X (n, d); y (n,) or (n, k); weights (n,); l2 a scalar. The parameters are w (d,), b (), or w (d, k),
    b (k,); b is 0 with `intercept=False`.
    Concrete arrays on one CPU are solved by numpy in float64: "auto" tries a Gram matrix in plain floats with an error
    bound, and sums exactly where the bound does not suffice; "exact" sums exactly at once. All else (traced, sharded,
    on an accelerator) is summed exactly by jax in the dtype of the data.
    Certificate: rank, condition, digits, error_bound of each coefficient, residual_deviation and standard_errors (an
    integer weight counts as that many rows). Derivatives with respect to X, y, weights and l2 are those of the
    optimality conditions, of any order; with dependent columns of the first order, and NaN beyond. Those of the
    certificate are 0.
    Errors: TypeError and ValueError for wrong shapes, empty arrays, complex values, and for NaN or infinite values in
    rows whose weight is not 0; inside a trace these give NaN and status `non_finite`.

    >>> found = fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])
    >>> print(found.params.w, found.params.b, found.status)
    [2.] 1.0 converged

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 3.2 and (3.41).
    """
    return least_squares.fit(X, y, l2=l2, weights=weights, intercept=intercept, method=method)


def ridge_path(
    X: ArrayLike, y: ArrayLike, l2: ArrayLike, *, weights: ArrayLike | None = None, intercept: bool = True
) -> least_squares.Path:
    """Ridge for many penalties from one factorisation, each with its cross-validation error in closed form.

    With the hat matrix H of a penalty, y_hat = H y, the residual of example i in the fit without it is
    (y_i - y_hat_i) / (1 - H_ii), refitted intercept included; nothing is refitted to find it. The result holds `l2`,
    `params` (first axis: penalties), `degrees_of_freedom` = trace H, `leave_one_out` and `generalised` (mean squared
    errors), and `best`, the index of the smallest leave-one-out error. Where an example alone determines its own
    prediction the leave-one-out error is NaN; generalised is where n - trace H is no more than rounding.

    Shapes: X (n, d); y (n,) or (n, k); l2 (m,); weights (n,), where an integer weight is that many copies that are
    left out together; see `fit` for weights and intercept.
    Concrete arrays: one eigendecomposition of the Gram matrix, or the SVD of X where the smallest penalty leaves it
    ill-conditioned. Traced ones: a Cholesky factor for each penalty, with NaN where it leaves less than a third of the
    digits. Both in plain floats: `fit` has the last digits.
    Errors: as `fit`; ValueError for penalties of another rank than (m,).

    >>> path = ridge_path([[0.0], [1.0], [2.0], [3.0]], [1.0, 3.0, 5.0, 8.0], [0.01, 1.0, 100.0])
    >>> print([f"{v:.3f}" for v in path.leave_one_out], path.best)
    ['0.449', '1.675', '11.395'] 0

    Source: Golub, Heath and Wahba, Technometrics 21 (1979), (1.4) and (2.3); Hastie, Tibshirani and Friedman, The
    Elements of Statistical Learning, (7.52) and (7.64).
    """
    return least_squares.ridge_path(X, y, l2, weights=weights, intercept=intercept)


def influence(
    X: ArrayLike, y: ArrayLike, *, l2: ArrayLike = 0.0, weights: ArrayLike | None = None, intercept: bool = True
) -> least_squares.Influence:
    """What each example does to the fit: its leverage, the residual without it, Cook's distance, d params / d weight.

    leverage h_i = s_i (x_i - m)^T (Z^T S Z + l2 I)^-1 (x_i - m) + s_i / sum(s) for weights s and Z = X - m;
    leave_one_out r_i / (1 - h_i); cooks_distance s_i r_i^2 h_i / (p sigma^2 (1 - h_i)^2) with p = sum(h);
    d_params.w[i] = dw / ds_i = (Z^T S Z + l2 I)^-1 (x_i - m) r_i, and d_params.b[i] likewise.

    Shapes: as `fit`, with its l2, weights and intercept; see `least_squares.Influence` for the result. An example of
    weight 0 has all of these too, but where its row is not finite, or larger than the root of the largest number: 0.
    Concrete arrays: by the SVD of Z in float64, of dependent columns by the pseudo-inverse. Traced ones: by a
    Cholesky factor, whose result is NaN where less than a third of the digits would be left.
    Errors: as `fit`.

    >>> found = influence([[0.0], [1.0], [2.0], [9.0]], [1.0, 3.0, 5.0, 4.0])
    >>> print([f"{h:.2f}" for h in found.leverage], found.cooks_distance.argmax())
    ['0.43', '0.33', '0.27', '0.97'] 3

    Source: Cook, Technometrics 19 (1977), (7); Belsley, Kuh and Welsch, Regression Diagnostics (1980), 2.1.
    """
    return least_squares.influence(X, y, l2=l2, weights=weights, intercept=intercept)


def interval(
    X: ArrayLike,
    y: ArrayLike,
    X_new: ArrayLike,
    *,
    level: float = 0.95,
    of_mean: bool = False,
    l2: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    intercept: bool = True,
) -> least_squares.Interval:
    """Predictions for X_new with intervals that hold a new target (`of_mean=True`: its mean) with probability `level`.

    y_hat +- t sigma sqrt(1 + 1/sum(s) + (x - m)^T (Z^T S Z)^-1 (x - m)) for Gaussian errors of equal variance, with
    the quantile t of Student's distribution; without the 1 for the mean. With a penalty the spread is that of the
    estimate, (Z^T S Z + l2 I)^-1 Z^T S Z (Z^T S Z + l2 I)^-1, and its bias is not in it. A new target has weight 1.

    Shapes: X_new (q, d), the result's y_hat, low and high (q,) or (q, k); l2, weights and intercept as in `fit`. NaN
    bounds where no degree of freedom is left.
    Errors: as `fit`; ValueError for a level outside of (0, 1) and for another number of columns.

    >>> found = interval([[0.0], [1.0], [2.0], [3.0]], [1.0, 3.0, 5.0, 8.0], [[4.0]])
    >>> print([f"{v[0]:.3f}" for v in (found.low, found.y_hat, found.high)])
    ['7.365', '10.000', '12.635']

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 3.2; Bishop, Pattern Recognition and
    Machine Learning, 3.3.2 for the Bayesian counterpart.
    """
    return least_squares.interval(
        X, y, X_new, level=level, of_mean=of_mean, l2=l2, weights=weights, intercept=intercept
    )


def _parts(params: Any) -> tuple[Any, Array, Array]:
    """What rebuilds the container, then w and b; a bare theta has b = 0."""
    if hasattr(params, "w") or hasattr(params, "params"):
        return Linear, *_check.regression(params)
    theta = _check.array("params", params)
    return (lambda dw, db: dw), theta, jnp.zeros(theta.shape[1:], _check.compute_dtype(theta))


def _first(gradients: Any) -> Array:
    return gradients[0] if isinstance(gradients, tuple) else gradients
