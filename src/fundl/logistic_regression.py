"""Logistic regression: the model, its loss with the hand-written gradient, and the fit with its proof."""

from typing import Any, TypeVar

import jax.numpy as jnp

from fundl import _check, activations, layers, losses, newton
from fundl._result import Fit, on_device
from fundl._types import Array, ArrayLike
from fundl.newton._wide import digits_of

__all__ = ["fit", "fit_batches", "gradient", "loss", "predict", "predict_proba"]

Params = TypeVar("Params")


def predict_proba(params: Any, X: ArrayLike) -> Array:
    """Probabilities of class 1: y_hat_i = sigma(x_i w + b) = p(y_i = 1 given x_i, w, b).

    Shapes: X (n, d); params with w (d,) and b (), as `Linear`; y_hat (n,).
    Derivative: that of `activations.sigmoid` and `layers.linear`.
    Errors: ValueError naming the shapes that do not fit.

    >>> from fundl._types import Linear
    >>> print(predict_proba(Linear(w=jnp.array([1.0]), b=jnp.array(0.0)), [[0.0], [40.0]]))
    [0.5 1. ]

    Source: Bishop, Pattern Recognition and Machine Learning, (4.87).
    """
    return activations.sigmoid(_logits(params, X))


def predict(params: Any, X: ArrayLike) -> Array:
    """The more probable class of each row: 1 where x_i w + b > 0, else 0; int32 (n,).

    Shapes and errors: as `predict_proba`. The derivative is 0.

    >>> from fundl._types import Linear
    >>> print(predict(Linear(w=jnp.array([1.0]), b=jnp.array(0.5)), [[0.0], [-1.0]]))
    [1 0]

    Source: Bishop, Pattern Recognition and Machine Learning, 4.1.1.
    """
    return (_logits(params, X) > 0).astype(jnp.int32)


def loss(
    params: Any, X: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Array:
    """Binary cross-entropy of the model: J = -(1/n) sum_i [y_i log y_hat_i + (1 - y_i) log(1 - y_hat_i)].

    Computed from the logits, so that no confident prediction loses digits; no penalty is included.

    Shapes: X (n, d), y (n,) in {0, 1} or [0, 1] (booleans, integers or floats); weights (n,). A row of weight 0 counts
    nowhere, even if it holds NaN. `reduction="sum"` is minus the log-likelihood.
    Derivative: `gradient`.
    Errors: ValueError for shapes that do not fit, (n,) against (n, 1) among them, labels outside [0, 1], bad weights.

    >>> from fundl._types import Linear
    >>> print(loss(Linear(w=jnp.array([0.0]), b=jnp.array(0.0)), [[1.0], [2.0]], [0, 1]))
    0.6931472

    Source: Bishop, Pattern Recognition and Machine Learning, (4.90), there as a sum.
    """
    X = _check.without_left_out(X, weights)
    return losses.binary_cross_entropy_with_logits(_logits(params, X), y, weights=weights, reduction=reduction)


def gradient(
    params: Params, X: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Params:
    """Gradient of `loss` by hand: dw = (1/n) X^T (y_hat - y), db = (1/n) sum_i (y_hat_i - y_i).

    Returns the container it was given, with `w` and `b` replaced. y_hat - y is formed without cancellation.

    Shapes: as `loss`; each gradient has the shape and dtype of its parameter.
    Errors: as `loss`; ValueError for `reduction="none"`, whose losses per example have no single gradient.

    >>> from fundl._types import Linear
    >>> print(*gradient(Linear(w=jnp.array([0.0]), b=jnp.array(0.0)), [[1.0], [3.0]], [0, 1]))
    [-0.5] 0.0

    Source: Bishop, Pattern Recognition and Machine Learning, (4.91).
    """
    _check.choice("reduction", reduction, ("mean", "sum"))
    X = _check.without_left_out(X, weights)
    z = _logits(params, X)
    # J = losses.binary_cross_entropy_with_logits(z, y)
    dz = losses.binary_cross_entropy_with_logits_backward(
        jnp.ones((), z.dtype), z, y, weights=weights, reduction=reduction
    )
    # z = X w + b
    _, dw, db = layers.linear_backward(dz[0] if isinstance(dz, tuple) else dz, X, params.w, params.b)  # type: ignore[attr-defined]
    return type(params)(w=dw, b=db)


def fit(
    X: ArrayLike,
    y: ArrayLike,
    *,
    l2: ArrayLike = 0.0,
    l1: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    intercept: bool = True,
    method: str = "auto",
    tol: ArrayLike = 0.0,
    max_steps: int = 200,
) -> Fit:
    """The w and b that minimise f = sum_i weights_i L_i + (l2 / 2) norm2(w)^2 + l1 norm1(w).

    L_i is the binary cross-entropy of row i; the sum is not divided by n, and b is not penalised. The columns are
    centred and scaled inside, which changes nothing but the rounding; the penalties refer to w as returned.

    Where the classes can be separated (or one of them is absent) and no penalty prevents it, there is no minimum: the
    status is `separable`, and `certificate.direction` (shaped like params) is a direction along which no row's loss
    grows and some row's falls. Dependent columns without a penalty: the w of smallest norm2, status `rank_deficient`,
    or `stalled` with a bound of inf if they depend on each other to half the digits and no further: what f may still
    fall along them is not known.

    `certificate.suboptimality` bounds f - minimum by lambda^2 / (2 (1 - R lambda)), with lambda^2 = g^T H^-1 g the
    squared Newton decrement and R the largest abs(x_i v) over v^T H v = 1 (self-concordance; it holds without any
    penalty), rounding errors of g included; it is inf where R lambda >= 0.9, where H is singular to rounding, and where
    the data are separable. With l1 it is the smaller of that and the duality gap, with l2 of that and sum_j g_j^2 /
    (2 l2) (strong convexity). Where it proves too little the status is `stalled`. `certificate.standard_errors` are the
    roots of the diagonal of H^-1, without penalty only.

    Shapes: X (n, d); y (n,) in {0, 1} or soft in [0, 1], booleans and floats too; weights (n,); l2, l1, tol scalars.
    params is `Linear` with w (d,), b (); b is 0 with `intercept=False`.
    method: "auto" fits concrete X and y (NumPy, memory-mapped or JAX arrays of one CPU device) in NumPy. There
    nothing is compiled, and X is read once a step and not copied when it is large, so that it may be larger than memory
    (`np.load(path, mmap_mode="r")`); the Hessian is that of a sample, a lower bound of the whole: the certificate
    holds. With l1 it is that of the columns that are not 0 or may leave it; the certificate counts all. Inside a trace,
    on a mesh, and where that does not settle it (separable or dependent columns without a penalty), one compiled
    program runs: "newton" forms the whole Hessian; "subspace" (no l1) needs only its blocks for one class, for
    many columns or classes: it knows no standard errors, may know no bound of f - minimum without l2, where
    `converged` then says that the gradient is down to its rounding, finds a separating direction only where all rows
    end on their side (`stalled` where others tie), and may take 10 max_steps short steps.
    `certificate.rank` is None where a penalty makes it unimportant and finding it would cost more than the fit.
    tol: stop when f - minimum <= tol f; with 0 the steps go on until rounding makes them useless.
    Errors: TypeError and ValueError for wrong shapes, empty arrays, text, complex values, labels outside [0, 1],
    negative or all-zero weights, and for NaN or infinite values in rows whose weight is not 0; inside a trace these
    give NaN and status `non_finite`.

    >>> found = fit([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1])
    >>> print(round(float(found.params.w[0]), 3), round(float(found.params.b), 3), found.status)
    0.908 -1.362 converged

    Source: Bishop, Pattern Recognition and Machine Learning, 4.3.3; the bound: Bach, Self-concordant analysis for
    logistic regression, Electronic Journal of Statistics 4 (2010), proposition 1.
    """
    intercept = _check.flag("intercept", intercept)
    found = newton.fit_concrete(
        X, y, k=1, l2=l2, l1=l1, weights=weights, intercept=intercept, method=method, tol=tol, max_steps=max_steps
    )
    if found is not None:
        return on_device(found)
    with digits_of(X, y, weights, l2, l1, tol) as narrow:
        X, y, weights = inputs(X, y, weights)
        return newton.fit(
            X, y[:, None], link="sigmoid", l2=l2, l1=l1, weights=weights, intercept=intercept, method=method, tol=tol,
            max_steps=max_steps, narrow=narrow,
        )  # fmt: skip


def fit_batches(
    batches: Any, *, l2: ArrayLike = 0.0, intercept: bool = True, tol: ArrayLike = 0.0, max_steps: int = 200
) -> Fit:
    """`fit` of all rows of batches (X, y) or (X, y, weights), one batch in memory at a time: data larger than memory.

    batches: what can be read more than once: a list, a dataset, or a function that returns them anew, such as
    `lambda: least_squares.from_arrow(open_table(), target="y")`; thousands of rows in each keep Python's share small.
    The first reading takes the moments of the columns and a sample of up to 64 MB; rows that are no more than that are
    fitted as they are. Else the fit of the sample is the start, and each step is one reading more, which gives the
    Hessian of all rows: commonly four to six readings in all. Beyond 400 columns the Hessian is that of the sample
    if that has 20 rows for each coefficient, or if there are more than 2000; then the labels and logits of all rows
    are held, l2 > 0 is needed beyond 2000, and a small l2 may take many readings.

    Shapes: X (n, d), y (n,) in {0, 1} or [0, 1], weights (n,) of each batch, d alike in all. The objective, params,
    certificate, status, l2, intercept, tol and max_steps are those of `fit`; `certificate.standard_errors` exist where
    there is no penalty and no dependent column. Computed in NumPy in float64, so not for use inside a trace.
    Errors: as `fit`; TypeError for an iterator, which can be read only once; ValueError for no row at all, for batches
    of other widths, for batches whose sums differ from one reading to the next, and for columns beyond 1e150.

    >>> batches = [([[0.0], [1.0]], [0, 1]), ([[2.0], [3.0]], [0, 1])]
    >>> found = fit_batches(batches)
    >>> print(round(float(found.params.w[0]), 3), round(float(found.params.b), 3), found.status)
    0.908 -1.362 converged

    Source: as `fit`.
    """
    options: dict[str, Any] = {"l2": l2, "intercept": intercept, "tol": tol, "max_steps": max_steps}
    return newton.fit_batches(
        batches, k=1, inputs=inputs, fit=lambda X, y, weights: fit(X, y, weights=weights, **options), **options
    )


def inputs(X: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array | None]:
    """X (n, d), y (n,) and weights (n,) in one floating dtype, or a refusal."""
    given = _check.array("X", X), _check.array("y", y)
    _check.rank("X", given[0], 2, shape="(n, d), one row for each example; X.reshape(-1, 1) for one column")
    _check.rank("y", given[1], 1, shape="(n,), one label for each example; y.reshape(-1) for a column of labels")
    _check.examples(X=given[0], y=given[1])
    X, y = _check.floats(X=given[0], y=given[1])
    w = _check.per_example_weights(weights, X.shape[:1], X.dtype)
    _check.finite("X", X, w)
    _check.finite("y", y, w)
    kept = y if w is None else jnp.where(w == 0, jnp.zeros_like(y), y)
    _check.unit_interval("y", kept, "labels 0, 1 or between")
    return X, y, w


def _logits(params: Any, X: ArrayLike) -> Array:
    w, b = _check.regression(params)
    _check.rank("params.w", w, 1, shape="(d,)")
    X = _check.array("X", X)
    _check.rank("X", X, 2, shape="(n, d), one row for each example; x[None, :] for one")
    return layers.linear(X, w, b)
