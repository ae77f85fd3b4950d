"""Binary cross-entropy, from probabilities p and from logits z, and the focal loss of logits."""

import math
from typing import Any

import jax.numpy as jnp

from fundl import _check
from fundl._precise import (
    SHARED,
    apart,
    in_one_loop,
    is_positive,
    log1p,
    product_with_log,
    product_with_minus_abs,
    quotient,
    times_log,
    within_unit_interval,
    zero_and_one,
)
from fundl._types import Array, ArrayLike
from fundl.losses._reduction import gradients, inside, label, leave_out, possible, reduce, reduce_backward, rows, within


def binary_cross_entropy(
    p: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Array:
    """Binary cross-entropy of probabilities: L = -[y log p + (1 - y) log(1 - p)].

    Shapes: p and y (n,), or (n, k) for k targets (summed per example); weights (n,). y in [0, 1], soft labels too.
    Edges: log 0 = -inf, so a certain and wrong p gives inf; a certain and right one gives 0, not NaN.
    Derivative: (p - y) / (p (1 - p)); where p = y = 0 or 1 its limit, 1 or -1; where p is certain and wrong, infinite.
    Errors: ValueError for shapes that differ, for p or y outside [0, 1] (NaN where traced), empty arrays, bad weights.
    Prefer `binary_cross_entropy_with_logits`: 1 - p has lost the digits that a confident logit still has.

    >>> print(binary_cross_entropy([0.5, 1.0], [0.25, 1.0], reduction="none"))
    [ 0.6931472 -0.       ]

    Source: Bishop, Pattern Recognition and Machine Learning, (4.90).
    """
    _, (q, t, w) = _inputs("p", p, y, weights, fill=0.5)
    rarer, r = _rarer(q)
    u = jnp.where(rarer, t, 1 - t)  # the label of r
    # 0 log 0 = 0: where the factor is 0 the logarithm's argument is replaced, or its derivative would be 0 / 0.
    u_log_r = times_log(u, jnp.where((r == 0) & (u == 0), jnp.ones_like(r), r))
    L = -(u_log_r + jnp.where(rarer, 1 - t, t) * log1p(-r))
    return reduce(_per_example(in_one_loop(L)), w, reduction)


def binary_cross_entropy_backward(
    dJ: ArrayLike, p: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Any:
    """Gradients of `binary_cross_entropy`: dp = dL (p - y) / (p (1 - p)), dy = dL (log(1 - p) - log p).

    Returns dp, and dy as well where y is floating.

    >>> print(*binary_cross_entropy_backward(1.0, [0.5], [0.25]))
    [1.] [0.]
    """
    given, (q, t, w) = _inputs("p", p, y, weights, fill=0.5, backward=True)
    dL = rows(reduce_backward(dJ, w, reduction, q.shape[:1], q.dtype), q)
    # L = -y log p - (1 - y) log(1 - p); for y = 0 and 1 only one term is there, also where p is 0 or 1
    up, down, one = t == 0, t == 1, jnp.ones_like(q)
    above = jnp.where(up, one, jnp.where(down, -one, q - t))
    slope = quotient(quotient(above, jnp.where(up, one, q)), jnp.where(down, one, 1 - q))
    return gradients((given[0], lambda: dL * slope), (given[1], lambda: dL * -_log_odds(q)))


def _log_odds(p: Array) -> Array:
    """log p - log(1 - p)."""
    rarer, r = _rarer(p)
    a = jnp.log(r) - log1p(-r)
    return jnp.where(rarer, a, -a)


def _rarer(p: Array) -> tuple[Array, Array]:
    """Whether p is the smaller of p and 1 - p, and the smaller: where that is 1 - p it is exact."""
    rarer = p <= 0.5
    return rarer, jnp.where(rarer, p, 1 - p)


def binary_cross_entropy_with_logits(
    z: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Array:
    """Binary cross-entropy of logits: L = softplus(z) - y z = -[y log sigma(z) + (1 - y) log(1 - sigma(z))].

    Computed as (1 - y) z + log1p(exp(-z)) for z > 0 and -y z + log1p(exp(z)) for z <= 0: two terms that are never
    negative, so no digit cancels.

    Shapes: z and y (n,), or (n, k) for k targets (summed per example); weights (n,). y in [0, 1], soft labels too.
    Edges: an infinite logit gives 0 with the matching label and inf otherwise.
    Derivative: sigma(z) - y.
    Errors: ValueError for shapes that differ, for y outside [0, 1] (NaN where traced), empty arrays, bad weights.

    >>> print(binary_cross_entropy_with_logits([0.0, jnp.inf], [0.25, 1.0], reduction="none"))
    [0.6931472 0.       ]

    Source: Bishop, Pattern Recognition and Machine Learning, (4.90) with (4.87).
    """
    _, (v, t, w) = _inputs("z", z, y, weights, fill=0)
    return reduce(_per_example(entropy(v, t)), w, reduction)


def binary_cross_entropy_with_logits_backward(
    dJ: ArrayLike, z: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, reduction: str = "mean"
) -> Any:
    """Gradients of `binary_cross_entropy_with_logits`: dz = dL (sigma(z) - y), dy = -dL z.

    Returns dz, and dy as well where y is floating. sigma(z) - y is formed as (1 - y) - sigma(-z) for z > 0, which
    keeps the digits of a confident and right logit.

    >>> print(*binary_cross_entropy_with_logits_backward(1.0, [0.0, 40.0], [0.25, 1.0], reduction="sum"))
    [ 2.500000e-01 -4.248354e-18] [ -0. -40.]
    """
    given, (v, t, w) = _inputs("z", z, y, weights, fill=0, backward=True)
    dL = rows(reduce_backward(dJ, w, reduction, v.shape[:1], v.dtype), v)
    return gradients((given[0], lambda: dL * slope_of(v, t)), (given[1], lambda: dL * -v))  # L = softplus(z) - y z


def focal_with_logits(
    z: ArrayLike,
    y: ArrayLike,
    *,
    gamma: ArrayLike = 2.0,
    weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> Array:
    """Focal loss of logits: L = q^gamma times the binary cross-entropy, q = p (1 - y) + (1 - p) y, p = sigma(z).

    q is the probability of the wrong label: examples that are right already count for less, the more so the larger
    gamma is. gamma = 0 is `binary_cross_entropy_with_logits`. Computed without forming 1 - p: no digit cancels, and
    for a confident and right logit neither factor is lost before their product is.

    Shapes: z and y (n,), or (n, k) for k targets (summed per example); weights (n,). y in [0, 1], soft labels too.
    The paper's alpha for one target is `weights=jnp.where(y == 1, alpha, 1 - alpha)` with `reduction="sum"`.
    Edges: an infinite logit gives 0 with the matching label and inf otherwise.
    Derivative: q^gamma [(p - y) + gamma (1 - 2 y) p (1 - p) / q L_0], with the binary cross-entropy L_0; no kink.
    Second derivatives in z are right for labels 0 and 1; those that involve y may be NaN where q is nearly 0.
    Errors: ValueError for shapes that differ, for y outside [0, 1] (NaN where traced), empty arrays, bad weights, and
    gamma that is negative or not finite.

    >>> print(focal_with_logits([0.0, jnp.inf], [0.25, 1.0], reduction="none"))
    [0.1732868 0.       ]

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV (2017), (4); soft labels as in torchvision.
    """
    _, (v, t, w) = _inputs("z", z, y, weights, fill=0)
    gamma = _gamma(gamma, v)
    _, m, d = _folded(v, t)
    e = jnp.exp(m)
    f, _, _ = _q_to(gamma, gamma, m, e, d)
    L_0 = log1p(e) - product_with_log(d, m)
    return reduce(_per_example(in_one_loop(product_with_log(-f, -L_0))), w, reduction)  # f L_0, 0 inf = 0


def focal_with_logits_backward(
    dJ: ArrayLike,
    z: ArrayLike,
    y: ArrayLike,
    *,
    gamma: ArrayLike = 2.0,
    weights: ArrayLike | None = None,
    reduction: str = "mean",
) -> Any:
    """Gradients of `focal_with_logits`, with q, p and the binary cross-entropy L_0 as there:

    dz = dL q^gamma [(p - y) + gamma (1 - 2 y) p (1 - p) / q L_0], dy = dL q^gamma [gamma (1 - 2 p) / q L_0 - z].

    Returns dz, and dy as well where y is floating. For labels 0 and 1 the terms of each sum have the same sign.

    >>> print(*focal_with_logits_backward(1.0, [0.0, 10.0], [0.25, 1.0], reduction="sum"))
    [ 1.49143e-01 -2.80686e-13] [-0.00000e+00 -2.47313e-08]
    """
    given, (v, t, w) = _inputs("z", z, y, weights, fill=0, backward=True)
    dL = rows(reduce_backward(dJ, w, reduction, v.shape[:1], v.dtype), v)
    gamma = _gamma(gamma, v)
    return gradients(
        (given[0], lambda: dL * _focal_slope(v, t, gamma)),
        (given[1], lambda: dL * _focal_slope_in_y(v, t, gamma)),
    )


def _focal_slope(z: Array, y: Array, gamma: Array) -> Array:
    """dL/dz of the focal loss."""
    (zero, one), (g,) = zero_and_one(z), apart(gamma, like=z)
    s, m, d = _folded(z, y, zero, one)
    e = jnp.exp(m)
    r, t, right = _q_to(gamma / 2, g / 2, m, e, d, zero, one)  # r r = q^gamma
    # p - y = -s (d - (1 - d) e) / (1 + e), 1 - 2 y = -s (2 d - 1), and p (1 - p) / q = e^(1 - k) / t / (1 + e)
    through_q = g * (d + d - one) * (jnp.where(right, one, e) / t * _finite_entropy(m, e, d, one))
    return -s * r * r * (((d - (one - d) * e) + through_q) / (one + e))


def _focal_slope_in_y(z: Array, y: Array, gamma: Array) -> Array:
    """dL/dy of the focal loss."""
    z, y, g = apart(z, y, gamma)
    zero, one = zero_and_one(z)
    s, m, d = _folded(z, y, zero, one)
    e = jnp.exp(m)
    r, _, _ = _q_to(gamma / 2, g / 2, m, e, d, zero, one)
    e = jnp.maximum(e, one * jnp.finfo(z.dtype).tiny)  # log1p(e) / e is 1 also where e is too small to be held
    L_0 = _finite_entropy(m, e, d, one)
    # dL/dd is this without s: L_0 grows by abs(z), and q, which is (d + (1 - d) e) / (1 + e), by (1 - e) / (1 + e)
    return s * r * (r * g * (-jnp.expm1(m)) * (L_0 / (d + (one - d) * e)) - product_with_log(r, m))


def _folded(z: Array, y: Array, zero: float | Array = 0, one: float | Array = 1) -> tuple[Array, Array, Array]:
    """s, m = s z = -abs(z), and d = abs(y - h) with h = 1 where z > 0, else 0: how far y is from z's side."""
    h = is_positive(z, zero, one)
    s = one - (h + h)
    return s, s * z, h + s * y


def _finite_entropy(m: Array, e: Array, d: Array, one: Array) -> Array:
    """`entropy` from what is folded, with -inf as the lowest finite m: its product with a power of q = 0 is to be 0."""
    return log1p(e) - d * jnp.maximum(m, one * jnp.finfo(m.dtype).min)


def _q_to(
    power: Array, gamma: Array, m: Array, e: Array, d: Array, zero: float | Array = 0, one: float | Array = 1
) -> tuple[Array, Array, Array]:
    """q^gamma, t and where k = 1, with q = e^k t / (1 + e), e = exp(m) and k = 0 elsewhere.

    q = (d + (1 - d) e) / (1 + e). Where d is 0 (and only there k is 1) e is taken out: exp(gamma m) may be a number
    where e is rounded to 0. `power` is gamma again, not `apart`: where XLA can see that it is 2 it squares.
    """
    info = jnp.finfo(m.dtype)
    right = d <= zero
    largest = one * (math.log(info.max) - 1)
    t = jnp.where(right, (one - d) + d * jnp.exp(jnp.minimum(-m, largest)), d + (one - d) * e)
    outside = jnp.where(right, jnp.maximum(m, one * info.min), zero) - log1p(e)  # log q - log t
    return t**power * jnp.exp(gamma * outside), t, right


def entropy(z: Array, y: Array) -> Array:
    """(1 - y) z + log1p(exp(-z)) where z > 0, else -y z + log1p(exp(z)), of each entry."""
    _, m, d = _folded(z, y)
    short = z.size <= SHARED  # long ones are made within the sum, so that nothing as long as z is held
    L = (log1p if short else jnp.log1p)(jnp.exp(m)) - product_with_minus_abs(d, m)  # d abs(z), where 0 inf = 0
    return in_one_loop(L) if short else L


def slope_of(z: Array, y: Array) -> Array:
    """The derivative of `entropy` in z: sigma(z) - y = (1 - y) - sigma(-z) where z > 0."""
    zero, one = zero_and_one(z)
    positive = z > zero
    e = jnp.exp(jnp.where(positive, -z, z))
    return jnp.where(positive, one - y, -y) + jnp.where(positive, -e, e) / (one + e)


def _inputs(
    name: str, x: ArrayLike, y: ArrayLike, weights: ArrayLike | None, *, fill: float, backward: bool = False
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array | None]]:
    """p or z and y as given, and in the dtype of computation without the rows of weight 0."""
    given = _check.array(name, x), _check.array("y", y)
    v, t = _check.floats(**{name: given[0], "y": given[1]})
    _check.same_shape(**{name: v, "y": t})
    _check.nonempty(name, v)
    w = _check.per_example_weights(weights, v.shape[:1], v.dtype)
    if backward:
        v, t = apart(v, t)
    t = leave_out(w, 0, t, label)
    usable, put = (inside, lambda p, _: possible(p, t)) if name == "p" else (_check.ordinary, within)
    # Of a derivative by hand 0 times its row is left.
    v = leave_out(w, fill if backward else put, v, usable)
    _check.unit_interval("y", t, "labels 0, 1 or between")
    t = within_unit_interval(t, *(zero_and_one(t) if backward else (0, 1)))
    if name == "p":
        _check.unit_interval("p", v, "probabilities")
        if backward:  # forward the logarithms of what is outside are NaN
            v = within_unit_interval(v, *zero_and_one(v))
    return given, (v, t, w)


def _per_example(x: Array) -> Array:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def _gamma(gamma: ArrayLike, v: Array) -> Array:
    why = "must be finite and not negative"
    return _check.number("gamma", gamma, lambda g: ~((g >= 0) & (g < jnp.inf)), why, v.dtype)
