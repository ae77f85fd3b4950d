"""The three sweeps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check, least_squares, logistic_regression, softmax_regression
from fundl._precise import namespace
from fundl._result import Certificate, Fit, Status
from fundl._types import Array, ArrayLike, Linear
from fundl.least_squares._inputs import to_device
from fundl.sweep import _concrete_program, _linear, _program, _singly
from fundl.sweep._ends import Ends, in_float64
from fundl.sweep._inputs import Given, given
from fundl.sweep._result import Scores, Sweep

WIDEST = 256  # columns up to which the Hessians of many lanes are formed together
MOST = 2**26  # products of pairs of columns that are held at once
FEW = 2**17  # such products up to which a compiled fit under l1 takes less time than the calls of one in NumPy


def logistic(
    X: ArrayLike,
    y: ArrayLike,
    *,
    l2: ArrayLike = 0.0,
    l1: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    folds: Any = None,
    intercept: bool = True,
    tol: ArrayLike = 0.0,
    max_steps: int = 200,
) -> Sweep:
    """Logistic regression for every penalty, replicate and target: `logistic_regression.fit` in each lane.

    Lane (i, j, c) minimises sum_a s_a L_a + (l2_i / 2) norm2(w)^2 + l1_i norm1(w) with the weights s of replicate j and
    column c of y. The replicates are the rows of `weights`, or with `folds` for each row of weights the folds: fold j
    is left out, and scores the fit by its mean loss and accuracy. Without folds, the rows of weight 0 in a replicate
    (and not in all) score it: the out-of-bag rows of a bootstrap.

    Shapes: X (n, d); y (n,) or (n, t) in {0, 1} or soft in [0, 1], for one-vs-rest a column for each class; l2 and l1
    (m,) or one number, paired; weights (n,) or (r, n); folds a number k (row i is in fold i mod k), integers (n,), or
    booleans (k, n) as `sweep.folds` makes them. Arrays of the result (m, r, t), with r = weights x folds, also where
    one of them is 1.
    How: all lanes step together (see the module `_lanes`); those that this does not bring to a proven optimum
    (separable without penalty, dependent columns, l1, many columns) are fitted one after another, as
    `logistic_regression.fit` does, with its statuses and its separating directions. Concrete data go through NumPy, on
    all processors, and are not compiled (but l1 on small data, fits that have no minimum and, without
    jax_enable_x64, the objectives of the rounded parameters); traced data are one program.
    `certificate.suboptimality` bounds f - minimum by strong convexity, or as the separate fit does.
    intercept, tol, max_steps: as in `logistic_regression.fit`. X is taken in the dtype that JAX holds: without
    jax_enable_x64 float64 arrays of NumPy are rounded to float32 first, where the separate fits read them as they are.
    Errors: TypeError and ValueError as there, for l2 and l1 that are negative or of different lengths, for folds that
    are empty or leave nothing to train on.

    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]], [0, 1, 0, 1, 0, 1]
    >>> found = logistic(X, y, l2=[0.1, 1.0, 10.0], folds=3)
    >>> found.params.w.shape, int(found.best[0])
    ((3, 3, 1, 1), 2)

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 4.4 and 7.10.
    """
    X, Y = _check.array("X", X), _check.array("y", y)
    _check.rank("y", Y, 1, 2, shape="(n,), or (n, t) with a column for each target")
    Y = Y[:, None] if Y.ndim == 1 else Y
    _check.nonempty("y", Y)
    present = _present(weights, X)
    X, flat, _ = logistic_regression.inputs(X, Y[:, 0], present)
    Y = jnp.stack([flat] + [logistic_regression.inputs(X, Y[:, c], present)[1] for c in range(1, Y.shape[1])], axis=1)
    return _convex("sigmoid", X, Y, weights, folds, l2, l1, intercept, tol, max_steps)


def softmax(
    X: ArrayLike,
    y: ArrayLike,
    *,
    num_classes: int | None = None,
    l2: ArrayLike = 0.0,
    l1: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    folds: Any = None,
    intercept: bool = True,
    tol: ArrayLike = 0.0,
    max_steps: int = 200,
) -> Sweep:
    """Softmax regression for every penalty and replicate: `softmax_regression.fit` in each lane, one after another.

    Each starts from a lane that ends near by: concrete data from the next larger penalty, replicates from all rows.

    As `logistic`, with one target of k classes: y (n,) integers with num_classes, or (n, k) one-hot or soft; params
    w (m, r, 1, d, k) and b (m, r, 1, k). l2, l1, weights, folds, intercept, tol and max_steps as there.
    Errors: as `softmax_regression.fit` and `logistic`.

    >>> found = softmax([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]], [0, 0, 1, 1, 2, 2], l2=[0.1, 1.0], folds=2)
    >>> found.params.w.shape, found.certificate.converged.all().item()
    ((2, 2, 1, 1, 3), True)

    Source: Bishop, Pattern Recognition and Machine Learning, 4.3.4.
    """
    X, Y, _ = softmax_regression.inputs(X, y, _present(weights, _check.array("X", X)), num_classes)
    return _convex("softmax", X, Y, weights, folds, l2, l1, intercept, tol, max_steps)


def linear(
    X: ArrayLike,
    y: ArrayLike,
    *,
    l2: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    folds: Any = None,
    leave_one_out: bool = False,
    intercept: bool = True,
) -> Sweep:
    """Ridge regression for every penalty, replicate and target: `linear_regression.fit` in each lane.

    Lane (i, j, c) minimises sum_a s_a (x_a w + b - y_ac)^2 + l2_i norm2(w)^2. One eigendecomposition of the Gram matrix
    of a replicate serves all its penalties; the residuals on the rows correct what it has rounded, and lanes where that
    does not settle (dependent columns without penalty, extreme condition) go to the exact solver.

    leave_one_out: in place of folds, score each fit by its exact leave-one-out residuals e_a = r_a / (1 - h_a), with
    h_a the diagonal of the hat matrix, in closed form: `scores.loss` is their weighted mean square, and params are the
    fits to all rows. In a trace it is NaN where columns nearly depend on each other.
    Shapes: X (n, d); y (n,) or (n, t); l2 (m,) or one number; weights and folds as in `logistic`; arrays of the result
    (m, r, t); scores.accuracy is None. `certificate.suboptimality` is g^T H^-1 g / 2, the exact distance to the minimum
    but for rounding. intercept: as in `linear_regression.fit`.
    Errors: as `linear_regression.fit` and `logistic`; ValueError for leave_one_out with folds.

    >>> found = linear([[0.0], [1.0], [2.0], [3.0]], [1.0, 3.0, 5.0, 8.0], l2=[0.01, 1.0, 100.0], leave_one_out=True)
    >>> print(found.best[0], [round(float(v), 3) for v in found.scores.loss[:, 0, 0]])
    0 [0.449, 1.675, 11.395]

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 3.4.1 and (7.64).
    """
    X, y, _ = least_squares.inputs(X, y, _present(weights, _check.array("X", X)))
    Y = y if y.ndim == 2 else y[:, None]
    if leave_one_out and folds is not None:
        raise ValueError("leave_one_out=True leaves every row out in turn: give folds or leave_one_out, not both.")
    data, _ = given(X, Y, weights, folds, l2, 0.0)
    shape = (data.l2.shape[0], -1, Y.shape[1])
    ends, whole = _linear.solve(data, intercept=_check.flag("intercept", intercept), leave_one_out=bool(leave_one_out))
    return _packed(data, ends, whole, "linear", shape, scored=leave_one_out or None)


def _present(weights: ArrayLike | None, X: Array) -> Array | None:
    """1 for the rows that any replicate uses: NaN in the others is no matter."""
    if weights is None:
        return None
    s = _check.array("weights", weights)
    if s.ndim not in (1, 2) or X.ndim != 2 or s.shape[-1] != X.shape[0]:
        return None  # refused later, with the fix
    return jnp.any(jnp.atleast_2d(s) != 0, axis=0).astype(_check.compute_dtype(X))


def _convex(
    link: str, X: Array, Y: Array, weights: Any, folds: Any, l2: Any, l1: Any, intercept: bool, tol: Any,
    max_steps: int,
) -> Sweep:  # fmt: skip
    """The sweep of either classification model, its options checked."""
    data, sparse = given(X, Y, weights, folds, l2, l1)
    _check.nonnegative("tol", tol)
    limit = _check.scalar("tol", tol).astype(X.dtype)
    _check.whole("max_steps", max_steps, 1)
    D = X.shape[1] + 1
    pairs = X.shape[0] * D * (D + 1) // 2
    small = D <= WIDEST and pairs <= MOST
    one_device = jax.typeof(X).sharding.mesh.empty
    together = link == "sigmoid" and not sparse and small and one_device
    static = {"link": link, "intercept": _check.flag("intercept", intercept), "sparse": sparse, "together": together}
    shape = (data.l2.shape[0], -1, Y.shape[1] if link == "sigmoid" else 1)

    def solve(data: Given) -> tuple[Ends, Ends]:
        if in_numpy and together:
            return _concrete_program.solve(data, limit, int(max_steps), intercept=_check.flag("intercept", intercept))
        if in_numpy and (not sparse or (link == "sigmoid" and pairs > FEW)):
            found = _singly.solve(data, limit, max_steps, link=link, intercept=_check.flag("intercept", intercept))
            if found is not None:
                return found
        return _program.solve(data, limit.astype(data.X.dtype), max_steps, **static)

    concrete = all(_check.concrete(v) for v in (*jax.tree.leaves(data), limit, max_steps))
    in_numpy = concrete and one_device and _check.on_host(*jax.tree.leaves(data))
    narrow = X.dtype.itemsize < 8 and concrete
    ends, whole = in_float64(solve, data, link, limit) if narrow else solve(data)
    return _packed(data, ends, whole, "logistic" if link == "sigmoid" else "softmax", shape)


def _packed(data: Given, ends: Ends, whole: Ends, kind: str, shape: tuple[int, int, int], scored: Any = None) -> Sweep:
    def fits(e: Ends) -> Fit:
        def shaped(v: Array) -> Array:
            return v.reshape(shape[0], v.shape[0] // (shape[0] * shape[2]), shape[2], *v.shape[1:])

        e = jax.tree.map(shaped, e)
        proof = Certificate(
            converged=(e.code == int(Status.converged)) | (e.code == int(Status.rank_deficient)),
            steps=e.steps,
            gradient_norm=e.gradient_norm,
            objective=e.f,
            suboptimality=e.bound,
            direction=Linear(e.w_direction, e.b_direction),
        )
        return Fit(Linear(e.w, e.b), proof, e.code)

    found = fits(ends)
    if scored is None:
        scored = data.held is not None or data.weights.shape[0] > 1
    scores = None
    if scored:
        loss, accuracy = (v.reshape(found.code.shape) for v in (ends.loss, ends.accuracy))
        accuracy = namespace(accuracy).where(found.code == int(Status.non_finite), np.nan, accuracy)
        scores = Scores(loss, None if kind == "linear" else accuracy)
    result = Sweep(
        l2=data.l2,
        l1=data.l1,
        params=found.params,
        certificate=found.certificate,
        code=found.code,
        scores=scores,
        whole=fits(whole) if data.held is not None else None,
        kind=kind,
    )
    if any(isinstance(v, np.ndarray) for v in jax.tree.leaves(ends)):
        return to_device(result, data.X.dtype)
    return jax.tree.map(jnp.asarray, result)
