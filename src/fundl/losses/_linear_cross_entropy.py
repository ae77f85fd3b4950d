"""Cross-entropy of a linear layer with many classes, without its (n, k) logits."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fundl import _check
from fundl._types import Array, ArrayLike
from fundl.losses._categorical import _share, _smoothing
from fundl.losses._linear_inputs import cap, floating, linear_inputs, moving, returned, wanted_of
from fundl.losses._linear_pair import linear_pair
from fundl.losses._logit_shards import align, cotangent, plan_for, tangent, totals
from fundl.losses._logit_slices import Data, Plan, Totals
from fundl.losses._reduction import label, leave_out, reduce, reduce_backward


def linear_cross_entropy(
    X: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    reduction: str = "mean",
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    softcap: float | None = None,
    tile: tuple[int, int] | None = None,
) -> Array:
    """Cross-entropy of the logits z = X W + b, L_i = -sum_k y_ik log softmax(z_i)_k, without ever holding them.

    Equal to `cross_entropy_with_logits(X @ W + b, y)`, computed tile by tile with the logsumexp carried along. The
    memory besides inputs and gradients is that of a few tiles; each derivative computes the tiles anew (XLA does not
    where there is only one).

    Shapes: X (n, d); W (d, k); b (k,) or None; y (n,) integer classes 0..k-1, or (n, k) one-hot or soft labels;
    weights (n,). To ignore a class such as -100, pass weights=(y != -100): weight 0 leaves the row out, whatever it
    holds. label_smoothing a in [0, 1] replaces y by (1 - a) y + a / k. z_loss adds z_loss logsumexp(z_i)^2 to each
    L_i. softcap c, a number, replaces z by c tanh(z / c). tile is (examples, classes) per tile, chosen when None.
    bfloat16 products are summed in float32, and the losses are float32.
    Edges: an entry -inf of b masks its class (not under a softcap c, which makes it -c).
    Derivative: with dz = dL (p sum_k y_k - y), dX = dz W^T, dW = X^T dz, db = sum_i dz_i. A rule of its own is
    registered, since autodiff of the loop would keep every tile; it is linear in the tangents with a hand-written
    transpose, so jvp, grad, Hessian-vector products and vmap all work. For these products take jvp of grad, which is as
    lean; grad of grad is right too but keeps the tiles.
    Errors: as `linear` and `cross_entropy_with_logits`. Traced labels out of range give NaN for their own example.
    Sharding: on an Explicit mesh the rows of X and the columns of W may be split; each device keeps to its tiles.

    >>> X, W = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 40.0, 0.0], [0.0, 0.0, 0.0]]
    >>> print(linear_cross_entropy(X, W, [0.0, 0.0, 0.0], [1, 2], reduction="none"))
    [8.496709e-18 1.098612e+00]

    Source: Bishop, Pattern Recognition and Machine Learning, (4.108) with (4.104); the logsumexp carried over tiles:
    Milakov and Gimelshein, arXiv 1805.02867; z_loss: Chowdhery et al., arXiv 2204.02311, section 5.
    """
    _, data, poison, w, plan, a = _inputs(X, W, b, y, weights, label_smoothing, softcap, tile)
    m, s, ce, u = _totals(plan, *data)
    L = ce if a is None or u is None else _share(1 - a, ce) + _share(a, u)
    penalty = _penalty(z_loss, L)
    if penalty is not None:
        lse = m + jnp.log1p(s)
        L = L + penalty * lse * lse  # in this order: its square may be inf where the penalty is 0
    return reduce(leave_out(w, 0, L if poison is None else L * poison, jnp.isfinite), w, reduction)


def linear_cross_entropy_backward(
    dJ: ArrayLike,
    X: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    reduction: str = "mean",
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    softcap: float | None = None,
    tile: tuple[int, int] | None = None,
) -> Any:
    """Gradients of `linear_cross_entropy`: dz = dL (p sum_k y_k - y), dX = dz W^T, dW = X^T dz, db = sum_i dz_i.

    Returns dX, dW, db (no db when b is None), and dy as well where y holds floating labels.

    >>> dX, dW, db = linear_cross_entropy_backward(1.0, [[2.0]], [[0.0, 0.0]], [0.0, 0.0], [0])
    >>> print(dX, dW, db)
    [[0.]] [[-1.  1.]] [-0.5  0.5]
    """
    given, data, poison, w, plan, a = _inputs(X, W, b, y, weights, label_smoothing, softcap, tile)
    m, s, _, u = _totals(plan, *data)
    dL = reduce_backward(dJ, w, reduction, s.shape, s.dtype)
    dL = dL if poison is None else dL * poison
    # L = (1 - a) ce + a u
    ce, u = (dL, None) if a is None or u is None else ((1 - a) * dL, a * dL)
    lse = jnp.zeros_like(dL)
    penalty = _penalty(z_loss, dL)
    if penalty is not None:
        # + z_loss logsumexp^2
        lse = 2 * penalty * (m + jnp.log1p(s)) * dL
    return returned(given, cotangent(plan, data, m, s, (ce, lse, u), wanted=wanted_of(given)))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _totals(plan: Plan, X: Array, W: Array, b: Array | None, y: Array, keep: Array | None) -> Totals:
    return totals(plan, Data(X, W, b, y, keep))


@partial(_totals.defjvp, symbolic_zeros=True)
def _totals_jvp(plan: Plan, primals: Any, tangents: Any) -> tuple[Totals, Totals]:
    """Registered: the tiles must be computed anew by each derivative, where autodiff would keep them."""
    data = Data(*primals)
    out = _totals(plan, *data)
    m, s = out[:2]
    changes, wanted = moving(tangents, data)
    if not any(wanted):
        return out, jax.tree.map(jnp.zeros_like, out)
    dce, dlse, du = linear_pair(
        lambda fixed, d: tangent(plan, *fixed, d),
        lambda fixed, c: cotangent(plan, *fixed, c, wanted=wanted),
        (data, m, s),
        changes,
    )
    # m is held: logsumexp = m + log1p(s) changes through s alone.
    return out, (jnp.zeros_like(m), (1 + s) * dlse, dce, du)


def _inputs(
    X: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None,
    y: ArrayLike,
    weights: ArrayLike | None,
    label_smoothing: ArrayLike,
    softcap: float | None,
    tile: tuple[int, int] | None,
) -> tuple[tuple[Array, Array, Array | None, Array], Data, Array | None, Array | None, Plan, Array | None]:
    """The arrays as given; what the tiles need; 1 or NaN per example; the weights, the plan and the smoothing."""
    given, data, dtype = linear_inputs(X, W, b, y)
    (n, d), k, t = data.X.shape, data.W.shape[1], given[3]
    w = _check.per_example_weights(weights, (n,), dtype)
    good = None  # which examples have labels that may be; traced ones cannot be refused
    if t.shape == (n,):
        keep = _check.seen(w, _check.ordinary(data.X))
        t = _check.labels("y", t, k, w)
        if not _check.concrete(t):
            good = (t >= 0) & (t < k)
    elif t.shape == (n, k):
        t = floating(t, dtype)
        keep = _check.seen(w, _check.ordinary(data.X), label(t))
        if _check.concrete(t) and w is None:
            _check.unit_interval("y", t, "labels 0, 1 or between")
        elif _check.concrete(t) and _check.concrete(keep):
            left = t if keep is None else jnp.where(jnp.expand_dims(keep, 1), t, jnp.zeros_like(t))
            _check.unit_interval("y", left, "labels 0, 1 or between")
        else:
            good = jnp.all(label(t), axis=1)
            good = good if keep is None else good | ~keep
    else:
        raise ValueError(
            f"y must hold integer classes of shape {(n,)} or labels of shape {(n, k)} for X of shape {(n, d)} and W of "
            f"shape {(d, k)}; got {t.shape}. Use y.reshape({(n,)}) for a column of classes."
        )
    a = _smoothing(label_smoothing, jnp.zeros((), dtype))
    data, mesh, row_axes, column_axes = align(data._replace(y=t, keep=keep))
    plan = plan_for(data, dtype, mesh, row_axes, column_axes, cap(softcap), a is not None, tile)
    poison = None if good is None else jnp.where(good, jnp.ones((), dtype), jnp.full((), jnp.nan, dtype))
    return given, data, poison, w, plan, a


def _penalty(z_loss: ArrayLike, L: Array) -> Array | None:
    """z_loss as an array, None when it is the number 0, so that nothing is computed for it."""
    if isinstance(z_loss, int | float) and z_loss == 0:
        return None
    return _check.number("z_loss", z_loss, lambda a: ~(a >= 0), "must not be negative or NaN", L.dtype)
