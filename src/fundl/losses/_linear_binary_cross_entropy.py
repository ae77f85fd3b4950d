"""Binary cross-entropy of a linear layer with many targets, without its (n, k) logits."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fundl import _check
from fundl._types import Array, ArrayLike
from fundl.losses._linear_inputs import Given, cap, linear_inputs, moving, returned, wanted_of
from fundl.losses._linear_pair import linear_pair
from fundl.losses._logit_shards import align, binary_losses, cotangent, plan_for, tangent
from fundl.losses._logit_slices import Data, Plan, Tangents
from fundl.losses._reduction import label, leave_out, reduce, reduce_backward


def linear_binary_cross_entropy(
    X: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    reduction: str = "mean",
    softcap: float | None = None,
    tile: tuple[int, int] | None = None,
) -> Array:
    """Binary cross-entropy of the logits z = X W + b, L_i = sum_k [log(1 + exp(z_ik)) - y_ik z_ik], never held.

    Equal to `binary_cross_entropy_with_logits(X @ W + b, y)`, computed tile by tile. The memory besides inputs and
    gradients is that of a few tiles; each derivative computes the tiles anew. y may be booleans: a quarter of the
    memory of float32 labels.

    Shapes: X (n, d); W (d, k); b (k,) or None; y (n, k) in [0, 1], booleans and integers too; weights (n,). Per example
    a sum over targets. softcap c, a number, replaces z by c tanh(z / c). tile is (examples, targets) per tile, chosen
    when None. bfloat16 products are summed in float32, and the losses are float32.
    Edges: an infinite entry of b is right (0) or wrong (inf) with certainty (not under a softcap).
    Derivative: with dz = dL (sigma(z) - y), dX = dz W^T, dW = X^T dz, db = sum_i dz_i. Registered as in
    `linear_cross_entropy`: jvp, grad, Hessian-vector products (jvp of grad) and vmap all work.
    Errors: as `linear` and `binary_cross_entropy_with_logits`. Traced labels out of range give NaN for their example.
    Sharding: on an Explicit mesh the rows of X and the columns of W may be split; each device keeps to its tiles.

    >>> X, W = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 40.0], [0.0, 0.0]]
    >>> print(linear_binary_cross_entropy(X, W, [0.0, -40.0], [[1, 1], [0, 0]], reduction="none"))
    [1.3862944 0.6931472]

    Source: Bishop, Pattern Recognition and Machine Learning, (4.90) with (4.87), summed over targets.
    """
    _, data, w, plan = _inputs(X, W, b, y, weights, softcap, tile)
    return reduce(leave_out(w, 0, _losses(plan, *data), jnp.isfinite), w, reduction)


def linear_binary_cross_entropy_backward(
    dJ: ArrayLike,
    X: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    reduction: str = "mean",
    softcap: float | None = None,
    tile: tuple[int, int] | None = None,
) -> Any:
    """Gradients of `linear_binary_cross_entropy`: dz = dL (sigma(z) - y), dX = dz W^T, dW = X^T dz, db = sum_i dz_i.

    Returns dX, dW, db (no db when b is None), and dy = -dL z as well where y is floating.

    >>> dX, dW, db = linear_binary_cross_entropy_backward(1.0, [[2.0]], [[0.0]], [0.0], [[1]])
    >>> print(dX, dW, db)
    [[0.]] [[-1.]] [-0.5]
    """
    given, data, w, plan = _inputs(X, W, b, y, weights, softcap, tile)
    dL = reduce_backward(dJ, w, reduction, data.X.shape[:1], plan.dtype)
    return returned(given, _cotangent(plan, data, dL, wanted_of(given)))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _losses(plan: Plan, X: Array, W: Array, b: Array | None, y: Array, keep: Array | None) -> Array:
    return binary_losses(plan, Data(X, W, b, y, keep))


@partial(_losses.defjvp, symbolic_zeros=True)
def _losses_jvp(plan: Plan, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Registered: the tiles must be computed anew by each derivative, where autodiff would keep them."""
    data = Data(*primals)
    L = _losses(plan, *data)
    changes, wanted = moving(tangents, data)
    if not any(wanted):
        return L, jnp.zeros_like(L)
    return L, linear_pair(
        lambda data, d: tangent(plan, data, *_unused(L), d)[0],
        lambda data, c: _cotangent(plan, data, c, wanted),
        data,
        changes,
    )


def _cotangent(plan: Plan, data: Data, dL: Array, wanted: tuple[bool, ...]) -> Tangents:
    return cotangent(plan, data, *_unused(dL), (dL, jnp.zeros_like(dL), None), wanted=wanted)


def _unused(like: Array) -> tuple[Array, Array]:
    """The softmax totals m and s, which binary targets have none of."""
    return jnp.zeros_like(like), jnp.zeros_like(like)


def _inputs(
    X: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None,
    y: ArrayLike,
    weights: ArrayLike | None,
    softcap: float | None,
    tile: tuple[int, int] | None,
) -> tuple[Given, Data, Array | None, Plan]:
    """The arrays as given; what the tiles need; the weights and the plan."""
    given, data, dtype = linear_inputs(X, W, b, y)
    t, shape = given[3], (data.X.shape[0], data.W.shape[1])
    if t.shape != shape:
        raise ValueError(
            f"y must hold a label for each example and target, shape {shape}, for X of shape {data.X.shape} and W of "
            f"shape {data.W.shape}; got {t.shape}. Classes are for linear_cross_entropy."
        )
    w = _check.per_example_weights(weights, shape[:1], dtype)
    keep = _check.seen(w, _check.ordinary(data.X), *(() if t.dtype == jnp.bool_ else (label(t),)))
    if t.dtype != jnp.bool_ and _check.concrete(t) and (keep is None or _check.concrete(keep)):
        left = t if keep is None else jnp.where(jnp.expand_dims(keep, 1), t, jnp.zeros_like(t))
        _check.unit_interval("y", left, "labels 0, 1 or between")
    data, mesh, row_axes, column_axes = align(data._replace(y=t, keep=keep))
    plan = plan_for(data, dtype, mesh, row_axes, column_axes, cap(softcap), False, tile)
    return given, data, w, plan._replace(binary=True)
