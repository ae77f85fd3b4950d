"""Cross-entropy over k classes, from probabilities p and from logits z."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundl import _check
from fundl._precise import exp_shifted, product_with_log, shifted, sum_of_others, times_log
from fundl._types import Array, ArrayLike
from fundl.losses._reduction import gradients, inside, label, leave_out, possible, reduce, reduce_backward, rows, within


def cross_entropy(p: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean") -> Array:
    """Cross-entropy of probabilities: L_i = -sum_k y_ik log p_ik.

    Shapes: p (n, k); y (n,) integer classes, or (n, k) one-hot or soft labels; weights (n,). The lecture's J is the
    sum over examples: `reduction="sum"`. The rows of p are taken as they are: they are not normalised here.
    Edges: log 0 = -inf, so a class of probability 0 and positive label gives inf; with label 0 it adds nothing.
    Derivative: -y / p, and 0 where y = 0.
    Errors: as `cross_entropy_with_logits`; ValueError for p outside [0, 1].
    Prefer `cross_entropy_with_logits`, which keeps the digits of confident predictions.

    >>> print(cross_entropy([[0.5, 0.5], [0.0, 1.0]], [0, 1], reduction="none"))
    [ 0.6931472 -0.       ]

    Source: Bishop, Pattern Recognition and Machine Learning, (4.108).
    """
    _, (q, t, valid, w) = _inputs("p", p, y, weights)
    if isinstance(t, _Classes):
        # A class out of range has the slope of all classes, or no gradient would carry the NaN.
        picked = _Classes(t.y, t.onehot | jnp.isnan(rows(valid, q))).pick(q)
        return reduce(-jnp.log(picked) * valid, w, reduction)
    t_log_p = times_log(t, jnp.where((t == 0) & (q == 0), jnp.ones_like(q), q))  # 0 log 0 = 0
    return reduce(-jnp.sum(t_log_p, axis=-1) * valid, w, reduction)


def cross_entropy_backward(
    dJ: ArrayLike, p: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Any:
    """Gradients of `cross_entropy`: dp = -dL y / p, dy = -dL log p.

    Returns dp, and dy as well where y holds floating labels.

    >>> print(cross_entropy_backward(1.0, [[0.5, 0.5]], [0]))
    [[-2. -0.]]
    """
    given, (q, t, valid, w) = _inputs("p", p, y, weights)
    dL = reduce_backward(dJ, w, reduction, q.shape[:-1], q.dtype) * valid
    if isinstance(t, _Classes):
        # L = -log p_y; dL is NaN where y is out of range
        return gradients((given[0], lambda: jnp.where(t.onehot, rows(-dL / t.pick(q), q), rows(-dL * 0, q))))
    # L = -sum_k y_k log p_k
    slope = jnp.where(t == 0, jnp.zeros_like(q), t / jnp.where(t == 0, jnp.ones_like(q), q))
    return gradients((given[0], lambda: rows(-dL, q) * slope), (given[1], lambda: rows(-dL, q) * jnp.log(q)))


def cross_entropy_with_logits(
    z: ArrayLike,
    y: ArrayLike,
    *,
    label_smoothing: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> Array:
    """Cross-entropy of logits: L_i = -sum_k y_ik log softmax(z_i)_k.

    With m the largest logit, -log p_k = log1p(sum over the others of exp(z_l - m)) - (z_k - m): never negative, and
    right to the last digit also for a class that is nearly certain.

    Shapes: z (n, k) (or (..., k), one example for each row); y (n,) integer classes 0..k-1, or (n, k) one-hot or
    soft labels; weights (n,). The lecture's J is the sum over examples: `reduction="sum"`.
    label_smoothing a in [0, 1] replaces y by (1 - a) y + a / k.
    Edges: a logit of -inf masks its class (label 0 there adds nothing); only -inf logits give NaN.
    Derivative: p sum_k y_k - y, p = softmax(z), that is p - y for labels that sum to one.
    Errors: TypeError for labels (n,) that are not integers; ValueError for shapes that do not fit, empty arrays, bad
    weights, and concrete labels out of range. Traced labels out of range give NaN for their own example alone.

    >>> print(cross_entropy_with_logits([[0.0, 0.0], [0.0, 40.0]], [0, 1], reduction="none"))
    [6.931472e-01 4.248354e-18]

    Source: Bishop, Pattern Recognition and Machine Learning, (4.108) with (4.104); label smoothing: Szegedy et al.,
    arXiv 1512.00567, section 7.
    """
    _, (v, t, valid, w) = _inputs("z", z, y, weights)
    a = _smoothing(label_smoothing, v)
    if isinstance(t, _Classes):
        d, _, others, d_y = _apart_from_label(v, t)
        log_total = jnp.log1p(others + (jnp.exp(d_y) - 1))
        L = log_total - d_y  # -log p_y
        if a is not None:
            L = _share(1 - a, L) + _share(a, log_total - jnp.sum(d * (1 / d.shape[-1]), axis=-1))
    else:
        _, s, d, _ = exp_shifted(v)
        log_total = jnp.squeeze(jnp.log1p(s), -1)
        t = _smooth(t, a)
        # Two terms that are not negative, in which a masked class without label counts for nothing.
        L = log_total * jnp.sum(t, axis=-1) - jnp.sum(product_with_log(t, d), axis=-1)
    return reduce(L * valid, w, reduction)


def cross_entropy_with_logits_backward(
    dJ: ArrayLike,
    z: ArrayLike,
    y: ArrayLike,
    *,
    label_smoothing: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> Any:
    """Gradients of `cross_entropy_with_logits`: dz = dL (p sum_k y_k - y), dy = -dL log p.

    Returns dz, and dy as well where y holds floating labels. 1 - p of the largest logit is s / (1 + s), with s the sum
    over the others, so p - 1 does not cancel.

    >>> print(cross_entropy_with_logits_backward(1.0, [[0.0, 0.0]], [0]))
    [[-0.5 0.5]]
    """
    given, (v, t, valid, w) = _inputs("z", z, y, weights)
    dL = rows(reduce_backward(dJ, w, reduction, v.shape[:-1], v.dtype) * valid, v)
    a = _smoothing(label_smoothing, v)
    if isinstance(t, _Classes):
        _, e, others, d_y = _apart_from_label(v, t)
        # L = -log p_y, where 1 - p_y is the others' share
        q = dL / rows(others + jnp.exp(d_y), v)
        slope = jnp.where(t.onehot, rows(-others, v) * q, e * q)
        if a is not None:
            # + a (mean_k of -log p_k + log p_y)
            slope = slope + jnp.where(t.onehot, dL * (a * (1 - 1 / v.shape[-1])), -dL * (a / v.shape[-1]))
        return gradients((given[0], lambda: slope))
    e, s, d, _ = exp_shifted(v)
    t = _smooth(t, a)
    # L = -sum_k y_k log p_k; p = e / (1 + s), 1 - p = (s + (1 - e)) / (1 + s): 1 - e is exactly 0 at the largest logit
    slope = (e * sum_of_others(t, e) - t * (s + (1 - e))) * (dL / (1 + s))
    scale = 1 if a is None else 1 - a
    return gradients((given[0], lambda: slope), (given[1], lambda: dL * (scale * (jnp.log1p(s) - d))))


class _Classes(NamedTuple):
    """Integer labels, and the mask of them in the shape of the logits."""

    y: Array
    onehot: Array

    def pick(self, x: Array) -> Array:
        """The entry of each row at its label."""
        return _gathered(x, *self) if jax.typeof(x).sharding.mesh.empty else _summed(x, self.onehot)


def _apart_from_label(v: Array, t: _Classes) -> tuple[Array, Array, Array, Array]:
    """d = v - max(v), exp(d) with 0 at the label, the sum of that, and d at the label.

    -log p_y = log1p(sum of the others + exp(d_y) - 1) - d_y: where the label is the largest, and d_y is 0, only the
    others are left, and no digit of them is lost; where it is not, they are 1 at least.
    """
    d, _ = shifted(v)
    e = jnp.where(t.onehot, jnp.zeros_like(d), jnp.exp(d))
    return d, e, jnp.sum(e, axis=-1), t.pick(d)


@jax.custom_jvp
def _gathered(x: Array, y: Array, onehot: Array) -> Array:
    """`_summed` in less time. A label out of range takes some entry, and its example is NaN all the same."""
    return jnp.squeeze(jnp.take_along_axis(x, jnp.expand_dims(y, -1), -1, mode="promise_in_bounds"), -1)


@_gathered.defjvp
def _(primals: tuple[Array, Array, Array], tangents: tuple[Array, Any, Any]) -> tuple[Array, Array]:
    return _gathered(*primals), _summed(tangents[0], primals[2])


def _summed(x: Array, onehot: Array) -> Array:
    """Compare and sum: the derivative of indexing is a scatter, which Explicit meshes refuse and XLA cannot fuse."""
    return jnp.sum(jnp.where(onehot, x, jnp.zeros_like(x)), axis=-1)


def _inputs(
    name: str, x: ArrayLike, y: ArrayLike, weights: ArrayLike | None
) -> tuple[tuple[Array, Array], tuple[Array, _Classes | Array, Array, Array | None]]:
    """The arrays as given, and: p or z, the labels, a factor for each example, the weights.

    The factor is 1, or NaN where a traced label is out of range: it poisons the loss and the gradient of that
    example alone.
    """
    _check.within_integers("y", y)
    given = _check.array(name, x), _check.array("y", y)
    (v,) = _check.floats(**{name: given[0]})
    t = given[1]
    if v.ndim == 0:
        raise ValueError(f"{name} must have shape (n, k), or (k,) for one example; got a scalar.")
    _check.nonempty(name, v)
    k = v.shape[-1]
    w = _check.per_example_weights(weights, v.shape[:-1], v.dtype)
    if name == "z":
        v = leave_out(w, within, v)
    else:
        v = leave_out(w, lambda p, _: possible(p, jnp.ones_like(p)), v, inside)
        _check.unit_interval("p", v, "probabilities")
    if t.shape == v.shape[:-1]:
        t = _check.labels("y", t, k, w)
        onehot = jax.lax.broadcasted_iota(t.dtype, v.shape, v.ndim - 1) == jnp.expand_dims(t, -1)
        sharding = jax.typeof(v).sharding
        if not sharding.mesh.empty and sharding.spec[-1] is not None:  # a mesh splits the classes
            onehot = jax.sharding.reshard(onehot, v.sharding if _check.concrete(v) else sharding)
        return given, (v, _Classes(t, onehot), _nan_unless((t >= 0) & (t < k), v.dtype), w)
    if t.shape != v.shape:
        raise ValueError(
            f"y must hold integer classes of shape {v.shape[:-1]} or labels of shape {v.shape} for {name} of shape "
            f"{v.shape}; got {t.shape}. Use y.reshape({v.shape[:-1]}) for a column of classes."
        )
    dtype = _check.compute_dtype(*(g for g in given if jnp.issubdtype(g.dtype, jnp.floating)))
    v, t = v.astype(dtype), t.astype(dtype)
    w = None if w is None else w.astype(dtype)
    t = leave_out(w, 0, t, label)
    _check.unit_interval("y", t, "labels 0, 1 or between")
    valid = (jnp.min(t, axis=-1) >= 0) & (jnp.max(t, axis=-1) <= 1)
    return given, (v, t, _nan_unless(valid, dtype), w)


def _nan_unless(inside: Array, dtype: Any) -> Array:
    ones = jnp.ones_like(inside, dtype)  # like it, so that it is sharded as it is
    return jnp.where(inside, ones, jnp.full_like(ones, jnp.nan))


def _share(a: Array, L: Array) -> Array:
    """a L with 0 inf = 0: a masked class adds nothing where there is no smoothing."""
    return a * jnp.where((a == 0) & jnp.isinf(L), jnp.zeros_like(L), L)


def _smoothing(label_smoothing: ArrayLike, v: Array) -> Array | None:
    """The option as an array, None when it is the number 0, so that nothing is computed for it."""
    if isinstance(label_smoothing, int | float) and label_smoothing == 0:
        return None
    why = "must be a share in [0, 1]"
    return _check.number("label_smoothing", label_smoothing, lambda a: ~((a >= 0) & (a <= 1)), why, v.dtype)


def _smooth(t: Array, a: Array | None) -> Array:
    return t if a is None else (1 - a) * t + a / t.shape[-1]
