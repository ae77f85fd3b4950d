"""Softmax regression: the model, its loss with the hand-written gradient, and the fit with its proof."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check, activations, layers, losses, newton
from fundl._result import Fit, on_device
from fundl._types import Array, ArrayLike
from fundl.newton._wide import digits_of

__all__ = ["fit", "fit_batches", "gradient", "loss", "predict", "predict_proba"]

Params = TypeVar("Params")
MOST_CLASSES = 1 << 30  # that labels alone may ask for


def predict_proba(params: Any, X: ArrayLike) -> Array:
    """Probabilities of the k classes: y_hat_i = softmax(x_i w + b).

    Shapes: X (n, d); params with w (d, k) and b (k,), as `Linear`; y_hat (n, k), each row summing to 1.
    Derivative: that of `activations.softmax` and `layers.linear`.
    Errors: ValueError naming the shapes that do not fit.

    >>> from fundl._types import Linear
    >>> print(predict_proba(Linear(w=jnp.array([[1.0, 1.0]]), b=jnp.array([0.0, 0.0])), [[2.0]]))
    [[0.5 0.5]]

    Source: Bishop, Pattern Recognition and Machine Learning, (4.104).
    """
    return activations.softmax(_logits(params, X))


def predict(params: Any, X: ArrayLike) -> Array:
    """The most probable class of each row, the first of them where several tie; int32 (n,).

    Shapes and errors: as `predict_proba`. The derivative is 0.

    >>> from fundl._types import Linear
    >>> print(predict(Linear(w=jnp.array([[1.0, -1.0]]), b=jnp.array([0.0, 0.0])), [[2.0], [-2.0]]))
    [0 1]

    Source: Bishop, Pattern Recognition and Machine Learning, 4.1.2.
    """
    return jnp.argmax(_logits(params, X), axis=1).astype(jnp.int32)


def loss(
    params: Any, X: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Array:
    """Cross-entropy of the model: J = -(1/n) sum_i sum_k y_ik log y_hat_ik.

    Computed from the logits, so that no confident prediction loses digits; no penalty is included.

    Shapes: X (n, d); y (n,) integer classes 0..k-1, or (n, k) one-hot or soft; weights (n,). A row of weight 0 counts
    nowhere, even if it holds NaN. The lecture's J is the sum: `reduction="sum"`.
    Derivative: `gradient`.
    Errors: ValueError for shapes that do not fit, for labels out of range (NaN where traced), for bad weights;
    TypeError for labels (n,) that are not integers.

    >>> from fundl._types import Linear
    >>> print(loss(Linear(w=jnp.zeros((1, 2)), b=jnp.zeros(2)), [[1.0], [2.0]], [0, 1]))
    0.6931472

    Source: Bishop, Pattern Recognition and Machine Learning, (4.108), there as a sum.
    """
    X = _check.without_left_out(X, weights)
    return losses.cross_entropy_with_logits(_logits(params, X), y, weights=weights, reduction=reduction)


def gradient(
    params: Params, X: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Params:
    """Gradient of `loss` by hand: dw = (1/n) X^T (y_hat - y), db = (1/n) sum_i (y_hat_i - y_i), y one-hot.

    Returns the container it was given, with `w` and `b` replaced. y_hat - y is formed without cancellation.

    Shapes: as `loss`; each gradient has the shape and dtype of its parameter.
    Errors: as `loss`; ValueError for `reduction="none"`, whose losses per example have no single gradient.

    >>> from fundl._types import Linear
    >>> print(*gradient(Linear(w=jnp.zeros((1, 2)), b=jnp.zeros(2)), [[1.0], [3.0]], [0, 1]))
    [[ 0.5 -0.5]] [0. 0.]

    Source: Bishop, Pattern Recognition and Machine Learning, (4.109).
    """
    _check.choice("reduction", reduction, ("mean", "sum"))
    X = _check.without_left_out(X, weights)
    z = _logits(params, X)
    # J = losses.cross_entropy_with_logits(z, y)
    dz = losses.cross_entropy_with_logits_backward(jnp.ones((), z.dtype), z, y, weights=weights, reduction=reduction)
    # z = X w + b
    _, dw, db = layers.linear_backward(dz[0] if isinstance(dz, tuple) else dz, X, params.w, params.b)  # type: ignore[attr-defined]
    return type(params)(w=dw, b=db)


def fit(
    X: ArrayLike,
    y: ArrayLike,
    *,
    num_classes: int | None = None,
    l2: ArrayLike = 0.0,
    l1: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    intercept: bool = True,
    method: str = "auto",
    tol: ArrayLike = 0.0,
    max_steps: int = 200,
) -> Fit:
    """The w and b that minimise f = sum_i weights_i L_i + (l2 / 2) norm2(w)^2 + l1 norm1(w).

    L_i is the cross-entropy of row i; the sum is not divided by n, and b is not penalised. The columns are centred and
    scaled inside, which changes nothing but the rounding; the penalties refer to w as returned.

    The same number added to all entries of b changes no probability, and without a penalty so does the same vector
    added to all columns of w: the b (and w) whose sum over the classes is zero is returned, the one of least norm.

    Where the classes can be separated (or one of them never occurs) and no penalty prevents it, there is no minimum:
    the status is `separable`, and `certificate.direction` (shaped like params) is a direction along which no row's loss
    grows and some row's falls. Dependent columns without a penalty: the w of least norm, status `rank_deficient`,
    or `stalled` with a bound of inf if they depend on each other to half the digits and no further.

    `certificate.suboptimality` bounds f - minimum by lambda^2 / (2 (1 - R lambda)), with lambda^2 = g^T H^-1 g the
    squared Newton decrement and R the largest range of x_i V over unit V in the norm of H (self-concordance; it holds
    without any penalty), rounding errors of g included; it is inf where R lambda >= 0.9, where H is singular to
    rounding, and where the data are separable. With l1 it is the smaller of that and the duality gap, with l2 of that
    and sum_j g_j^2 / (2 l2) (strong convexity). Where it proves too little the status is `stalled`.
    `certificate.standard_errors` are those of the w and b that sum to zero, without penalty only.

    Shapes: X (n, d); y (n,) integer classes 0..k-1, k = num_classes or else the largest label + 1, or (n, k) one-hot or
    soft; weights (n,); l2, l1, tol scalars. params is `Linear` with w (d, k), b (k,); b is 0 with `intercept=False`.
    method: "auto" fits concrete X and integer y (NumPy, memory-mapped or JAX arrays of one CPU device) in NumPy. There
    nothing is compiled, and X is read once a step and not copied when it is large, so that it may be larger than memory
    (`np.load(path, mmap_mode="r")`); the Hessian is that of a sample, a lower bound of the whole: the certificate
    holds. With l1, inside a trace, on a mesh, and where that does not settle it (separable or dependent columns), one
    compiled program runs: "newton" forms the whole Hessian; "subspace" (no l1) needs only its blocks for one class, for
    many columns or classes: it knows no standard errors, may know no bound of f - minimum without l2, where
    `converged` then says that the gradient is down to its rounding, finds a separating direction only where all rows
    end on their side (`stalled` where others tie), and may take 10 max_steps short steps.
    `certificate.rank` is None where a penalty makes it unimportant and finding it would cost more than the fit.
    tol: stop when f - minimum <= tol f; with 0 the steps go on until rounding makes them useless.
    Errors: TypeError and ValueError for wrong shapes, empty arrays, text, complex values, labels out of range, negative
    or all-zero weights, and for NaN or infinite values in rows whose weight is not 0; inside a trace these give NaN and
    status `non_finite`. ValueError for traced labels (n,) without num_classes.

    >>> found = fit([[0.0], [1.0], [2.0], [3.0], [4.0]], [0, 1, 0, 2, 1], l2=1.0)
    >>> print([round(float(v), 3) for v in found.params.w[0]], found.status)
    [-0.496, 0.17, 0.326] converged

    Source: Bishop, Pattern Recognition and Machine Learning, 4.3.4; the bound: Bach, Self-concordant analysis for
    logistic regression, Electronic Journal of Statistics 4 (2010), proposition 1.
    """
    intercept = _check.flag("intercept", intercept)
    if num_classes is None or (isinstance(num_classes, int) and num_classes >= 2):
        found = newton.fit_concrete(
            X, y, k=num_classes, l2=l2, l1=l1, weights=weights, intercept=intercept, method=method, tol=tol,
            max_steps=max_steps,
        )  # fmt: skip
        if found is not None:
            return on_device(found)
    with digits_of(X, y, weights, l2, l1, tol) as narrow:
        X, Y, weights = inputs(X, y, weights, num_classes)
        return newton.fit(
            X, Y, link="softmax", l2=l2, l1=l1, weights=weights, intercept=intercept, method=method, tol=tol,
            max_steps=max_steps, narrow=narrow,
        )  # fmt: skip


def fit_batches(
    batches: Any,
    *,
    num_classes: int | None = None,
    l2: ArrayLike = 0.0,
    intercept: bool = True,
    tol: ArrayLike = 0.0,
    max_steps: int = 200,
) -> Fit:
    """`fit` of all rows of batches (X, y) or (X, y, weights), one batch in memory at a time: data larger than memory.

    batches: what can be read more than once: a list, a dataset, or a function that returns them anew, such as
    `lambda: least_squares.from_arrow(open_table(), target="y")`; thousands of rows in each keep Python's share small.
    The first reading takes the moments of the columns and a sample of up to 64 MB; rows that are no more than that are
    fitted as they are. Else the fit of the sample is the start, and each step is one reading more, which gives the
    Hessian of all rows: commonly four to six readings in all. Beyond 150 coefficients the Hessian is that of the
    sample if that has 20 rows for each coefficient, or if there are more than 2000; then the labels and logits of
    all rows are held, l2 > 0 is needed beyond 2000, and a small l2 may take many readings.

    Shapes: X (n, d), y (n,) integer classes 0..k-1, k = num_classes or else the largest label of all + 1, weights (n,)
    of each batch, d alike in all. The objective, params, certificate, status, l2, intercept, tol and max_steps are
    those of `fit`; `certificate.standard_errors` exist where there is no penalty and no dependent column. Computed in
    NumPy in float64, so not for use inside a trace.
    Errors: as `fit`; TypeError for an iterator, which can be read only once; ValueError for no row at all, for batches
    of other widths, for batches whose sums differ from one reading to the next, and for columns beyond 1e150.

    >>> batches = [([[0.0], [1.0]], [0, 1]), ([[2.0], [3.0], [4.0]], [0, 2, 1])]
    >>> found = fit_batches(batches, l2=1.0)
    >>> print([round(float(v), 3) for v in found.params.w[0]], found.status)
    [-0.496, 0.17, 0.326] converged

    Source: as `fit`.
    """
    options: dict[str, Any] = {"l2": l2, "intercept": intercept, "tol": tol, "max_steps": max_steps}
    if num_classes is not None and not (isinstance(num_classes, int | np.integer) and num_classes >= 2):
        raise ValueError(f"num_classes must be a whole number, at least 2, or None; got {num_classes!r}.")

    def integers(X: Any, y: Any, weights: Any) -> tuple[Any, Any, Any]:
        X, Y, weights = inputs(X, y, weights, num_classes)
        if np.ndim(y) != 1:
            raise ValueError(f"y must be integer classes, shape (n,), in batches; got shape {np.shape(y)}.")
        return X, np.argmax(Y, axis=1), weights

    return newton.fit_batches(
        batches, k=num_classes, inputs=integers,
        fit=lambda X, y, weights: fit(X, y, num_classes=num_classes, weights=weights, **options), **options,
    )  # fmt: skip


def inputs(
    X: ArrayLike, y: ArrayLike, weights: ArrayLike | None, num_classes: int | None
) -> tuple[Array, Array, Array | None]:
    """X (n, d), one-hot or soft Y (n, k) and weights (n,) in one floating dtype, or a refusal."""
    _check.within_integers("y", y)
    with jax.ensure_compile_time_eval():  # labels that are constants of a program can be counted
        labels = _check.array("y", y)
    given = _check.array("X", X), labels
    _check.rank("X", given[0], 2, shape="(n, d), one row for each example; X.reshape(-1, 1) for one column")
    _check.rank("y", given[1], 1, 2, shape="(n,) integer classes, or (n, k) one-hot or soft labels")
    _check.examples(X=given[0], y=given[1])
    if given[1].ndim == 1:
        (X,) = _check.floats(X=given[0])
        w = _check.per_example_weights(weights, X.shape[:1], X.dtype)
        Y = _one_hot(given[1], w, num_classes, X)
    else:
        X, Y = _check.floats(X=given[0], y=given[1])
        w = _check.per_example_weights(weights, X.shape[:1], X.dtype)
        _check.finite("y", Y, w)
        kept = Y if w is None else jnp.where((w == 0)[:, None], jnp.zeros_like(Y), Y)
        _check.unit_interval("y", kept, "labels 0, 1 or between")
        if num_classes is not None and num_classes != Y.shape[1]:
            raise ValueError(f"y has {Y.shape[1]} columns, shape {Y.shape}, but num_classes is {num_classes}.")
    if Y.shape[1] < 2:
        raise ValueError(f"Softmax regression needs two classes or more; got {Y.shape[1]}. Set num_classes=.")
    _check.finite("X", X, w)
    return X, Y, w


def _one_hot(y: Array, w: Array | None, num_classes: int | None, X: Array) -> Array:
    """(n, k) from integer classes; NaN for a traced label out of range."""
    if num_classes is None:
        if not _check.concrete(y):
            raise ValueError("y is traced, so the number of classes cannot be seen: pass num_classes=.")
        if not jnp.issubdtype(y.dtype, jnp.integer):
            _check.labels("y", y, 2)  # refuses with the fix
        kept = y if w is None or not _check.concrete(w) else jnp.where(w == 0, jnp.zeros_like(y), y)
        with jax.ensure_compile_time_eval():
            num_classes = max(int(np.asarray(jnp.max(kept))) + 1, 2)
        if num_classes > MOST_CLASSES:  # no data set has so many, and memory would not hold them
            raise ValueError(f"y must hold classes 0, 1, ...; got {num_classes - 1}, which would make so many classes.")
    _check.whole("num_classes", num_classes, 1)
    num_classes = int(num_classes)
    y = _check.labels("y", y, num_classes, w)
    classes = jax.lax.broadcasted_iota(y.dtype, (y.shape[0], num_classes), 1)
    in_range = ((y >= 0) & (y < num_classes))[:, None]
    return jnp.where(in_range, (classes == y[:, None]).astype(X.dtype), jnp.full((1, 1), jnp.nan, X.dtype))


def _logits(params: Any, X: ArrayLike) -> Array:
    w, b = _check.regression(params)
    _check.rank("params.w", w, 2, shape="(d, k)")
    X = _check.array("X", X)
    _check.rank("X", X, 2, shape="(n, d), one row for each example; x[None, :] for one")
    return layers.linear(X, w, b)
