"""The one numerics policy: products at full precision, accumulated in at least float32, on any mesh."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl._types import Array, ArrayLike

__all__ = [
    "accumulated_in", "apart", "exp_minus_abs", "exp_shifted", "in_one_loop", "inner", "inverse_cholesky",
    "inverse_of_lower", "is_positive", "log1p", "matmul", "namespace", "product_with_log", "product_with_minus_abs",
    "quotient", "rows_dot", "safe_divide", "shifted", "sigmoid", "softplus", "sum_of_others", "times_log",
    "within_unit_interval", "zero_and_one",
]  # fmt: skip

# Without it a float32 product runs in TF32 or bfloat16 passes on accelerators; float32 shall mean float32.
HIGHEST = jax.lax.Precision.HIGHEST


def namespace(x: Any) -> Any:
    """numpy for numpy's arrays, jax.numpy for all else."""
    return np if isinstance(x, (np.ndarray, np.generic)) else jnp


def accumulated_in(x: Array) -> Any:
    """The dtype in which sums over x are accumulated: its own, or float32 for half precision."""
    return x.dtype if x.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def matmul(A: Array, B: Array) -> Array:
    """A @ B at full precision; half-precision inputs are accumulated in float32, the result keeps their dtype."""
    return jnp.matmul(A, B, precision=HIGHEST, preferred_element_type=accumulated_in(A)).astype(A.dtype)


def rows_dot(X: Array, D: Array) -> Array:
    """Contract over the rows: X (n, d) with D (n, k) gives X.T @ D (d, k); with D (n,) gives (d,).

    On rows sharded over an Explicit mesh a plain X.T @ D is refused, since the sharding of the sum is
    ambiguous. It is named here: summed over the rows, the other axes as they are. Without a mesh, and on Auto
    meshes, this changes nothing.
    """
    # A vector goes first: X.T @ r would copy X transposed.
    subscripts, operands = ("ni,nj->ij", (X, D)) if D.ndim == 2 else ("n,nj->j", (D, X))
    return jnp.einsum(
        subscripts,
        *operands,
        precision=HIGHEST,
        preferred_element_type=accumulated_in(X),
        out_sharding=_rows_summed(X, D),
    ).astype(X.dtype)


def _rows_summed(X: Array, D: Array) -> jax.sharding.NamedSharding | None:
    """The sharding of X.T @ D: that of the columns of X and of D; None without a mesh."""
    specs = [jax.typeof(v).sharding for v in (X, D)]
    mesh = next((s.mesh for s in specs if not s.mesh.empty), None)
    if mesh is None:
        return None
    columns = [s.spec[1] if len(s.spec) > 1 else None for s in specs]
    if columns[0] is not None and columns[0] == columns[1]:
        columns[1] = None  # one mesh axis cannot split two axes of the result
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*columns[: D.ndim]))


def inner(a: Array, b: Array, axis: int = -1) -> Array:
    """sum of a b along `axis`, which is kept with length 1.

    A contraction, not a sum of products: with one factor shared by a vmap, jaxlib 0.10 on the CPU compiles
    b - a sum(a b) in float32 to something else. On a mesh, where the axis may be sharded, it stays the sum.
    """
    if not jax.typeof(b).sharding.mesh.empty:
        return jnp.sum(a * b, axis=axis, keepdims=True)
    return jnp.expand_dims(jnp.vecdot(a, b, axis=axis, precision=HIGHEST), axis)


def safe_divide(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0, with finite derivatives there too."""
    zero = b == 0
    return jnp.where(zero, jnp.zeros_like(a), a / jnp.where(zero, jnp.ones_like(b), b))


def is_positive(v: Array, zero: float | Array = 0, one: float | Array = 1) -> Array:
    """1 where v > 0, else 0, as a constant to autodiff: -abs(v) is (1 - 2 h) v with h = is_positive(v).

    By arithmetic, since XLA's CPU fuses a sum with the arithmetic before it but not with comparisons and selects.
    """
    return jnp.minimum(jnp.maximum(jax.lax.stop_gradient(v), zero) * (one * jnp.finfo(v.dtype).max), one)


def within_unit_interval(t: Array, zero: ArrayLike = 0, one: ArrayLike = 1) -> Array:
    """t, or NaN where it is outside [0, 1]: what is refused when concrete poisons its own example when traced."""
    t_ = jax.lax.stop_gradient(t)
    return t + zero * jnp.sqrt(t_ * (one - t_))  # the root of a negative number is NaN


def exp_minus_abs(v: Array) -> Array:
    """exp(-abs(v)), differentiated at 0 as the branch v <= 0."""
    return jnp.exp(jnp.where(v > 0, -v, v))


def sigmoid(v: Array) -> Array:
    """1 / (1 + exp(-v)) from e = exp(-abs(v)), as 1 / (1 + e) or e / (1 + e): nothing overflows, no digit cancels."""
    e = exp_minus_abs(v)
    return jnp.where(v > 0, jnp.ones_like(e), e) / (1 + e)


def softplus(v: Array) -> Array:
    """log(1 + exp(v)) = max(v, 0) + log1p(exp(-abs(v)))."""
    return jnp.where(v > 0, v, jnp.zeros_like(v)) + log1p(exp_minus_abs(v))


@jax.custom_jvp
def log1p(x: Array) -> Array:
    """log(1 + x) for x in [-1/2, 1]: XLA's takes three times as long, and in float64 loses digits below -0.3.

    With s = x / (2 + x) it is 2 artanh(s) = 2 s + 2 s^3/3 + 2 s^5/5 + ..., and 2 s = x - s x, where x has no error.
    """
    s = x * (1 / (2 + x))  # no quotient, which XLA's CPU would hold in an array as long as x, since s is used twice
    w = s * s
    R = jnp.zeros_like(w)
    for k in range(math.ceil(math.log(jnp.finfo(x.dtype).eps, 1 / 9)), 0, -1):  # abs(s) <= 1/3
        R = w * (2 / (2 * k + 1) + R)
    return x - s * (x - R)


@log1p.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return log1p(*primals), tangents[0] / (1 + primals[0])


def in_one_loop(L: Array) -> Array:
    """The same losses, which are not negative, and XLA's CPU computes them in one loop before it adds them up.

    Else it would go through the rows once for each operation, as long as there is no select; that is faster for few.
    """
    return jnp.where(L < 0, jnp.zeros_like(L), L)


@jax.custom_jvp
def _below(v: Array, m: Array) -> Array:
    """v - m, where inf - inf is 0; with the derivative of v, for entries of +inf too.

    No select and no constant as long as v: XLA's CPU fuses a sum with the arithmetic before it, but not with those.
    """
    largest = jnp.finfo(v.dtype).max
    c = jnp.minimum(m, largest)
    # Beside a logit of +inf all others, the largest number too, come to lie far below; beside others the last is 0.
    return jnp.minimum((v - c) - jnp.minimum(m - c, largest), 0)


@_below.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return _below(*primals), tangents[0]


def shifted(v: Array, axis: int = -1) -> tuple[Array, Array]:
    """v - m and m, the largest logit along `axis`. Logits of +inf count as equal.

    m is a constant to autodiff: what is made of v - m shall not depend on the shift, and the derivative of a maximum is
    not unique at ties.
    """
    m = jax.lax.stop_gradient(jnp.max(v, axis=axis, keepdims=True))
    return _below(v, m), m


def exp_shifted(v: Array, axis: int = -1) -> tuple[Array, Array, Array, Array]:
    """With m the largest logit along `axis`: e = exp(v - m), s = (sum of e) - 1, d = v - m, and m.

    s leaves out the 1 of the largest logit before anything is added to it, so that log1p(s) keeps what 1 + s would
    round away.
    """
    d, m = shifted(v, axis)
    e = jnp.exp(d)
    # e - floor(e) is exactly 0 where e is 1, with the derivative of e, and e elsewhere: the sum of the small ones.
    # What is left of the whole sum is how many are 1: a whole number, of which all but one count.
    small = jnp.sum(e - jnp.floor(e), axis=axis, keepdims=True)
    ones = jnp.round(jax.lax.stop_gradient(jnp.sum(e, axis=axis, keepdims=True) - small))
    return e, small + (ones - 1), d, m


@jax.custom_jvp
def product_with_log(t: Array, d: Array) -> Array:
    """t d, for d a logarithm or -abs(z), where 0 (-inf) = 0: arithmetic and no select, for the reason of `_below`."""
    info = jnp.finfo(d.dtype)
    finite = jnp.maximum(d, info.min)
    # 256 where d is -inf, else 0: XLA may round a d that it makes twice in two ways, so d - finite need not be 0.
    beyond = jnp.floor(jnp.minimum(jnp.abs(d - finite), info.max) * 2.0 ** (8 - info.maxexp))
    # The second term is -inf there or, where t is 0, 0. Without the minimum XLA would multiply the two factors and a
    # constant t, and get inf, which times 0 is NaN.
    return t * finite - jnp.minimum(t * (beyond * 2.0 ** (info.maxexp - 10)), info.max) * info.max


@product_with_log.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (t, d), (dt, dd) = primals, tangents
    return product_with_log(t, d), dt * jnp.maximum(d, jnp.finfo(d.dtype).min) + t * dd


@jax.custom_jvp
def product_with_minus_abs(t: Array, m: Array) -> Array:
    """The same for m = -abs(z): exact, so that m less what is finite of it is 0, which takes XLA's CPU fewer arrays."""
    least = jnp.finfo(m.dtype).min
    finite = jnp.maximum(m, least)
    return t * finite - (t * jnp.maximum(m - finite, least)) * least


@product_with_minus_abs.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (t, m), (dt, dm) = primals, tangents
    return product_with_minus_abs(t, m), dt * jnp.maximum(m, jnp.finfo(m.dtype).min) + t * dm


@jax.custom_jvp
def times_log(t: Array, x: Array) -> Array:
    """t log x for x that is not 0, with the derivatives of `quotient` in x."""
    return t * jnp.log(x)


@partial(times_log.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    t, x = primals
    return times_log(t, x), _moved(t, tangents, lambda dt: times_log(dt, x), lambda dx: quotient(t, x) * dx)


@jax.custom_jvp
def quotient(t: Array, x: Array) -> Array:
    """t / x and, where t is 0, 0 with all derivatives in x; where 1 / x^2 leaves the range autodiff has 0 inf."""
    return t / jnp.where(t == 0, jnp.ones_like(x), x)


@partial(quotient.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    t, x = primals
    q = quotient(t, x)
    return q, _moved(t, tangents, lambda dt: dt / x, lambda dx: -quotient(q, x) * dx)


def _moved(like: Array, tangents: tuple[Any, ...], *maps: Callable[[Array], Array]) -> Array:
    """The sum of what each map makes of its tangent; of those that are no tangents nothing is made: 0 inf is NaN."""
    given = zip(maps, tangents, strict=True)
    parts = [f(d) for f, d in given if not isinstance(d, jax.custom_derivatives.SymbolicZero)]
    return sum(parts[1:], parts[0]) if parts else jnp.zeros_like(like)


def sum_of_others(t: Array, e: Array, axis: int = -1) -> Array:
    """For each entry of t the sum of the others along `axis`, e being as in `exp_shifted`.

    At the largest logit (e = 1) it is not formed as a total minus the entry, which may be nearly all of the total:
    this is where small others decide.
    """
    at_top = jnp.floor(*apart(e)) * t  # floor(e) is 1 at the largest, else 0
    A, B = jnp.sum(at_top, axis, keepdims=True), jnp.sum(t - at_top, axis, keepdims=True)
    return (A - t) + B  # a single largest entry is all of A


SHARED = 1 << 16  # entries up to which arrays stay in the cache


def apart(*values: Array, like: Array | None = None) -> tuple[Array, ...]:
    """The same values; where the data (`like`, or else the values) are long, nothing made of them is shared.

    XLA would keep what a loss and its gradient both need, exp(-abs(z)) and on the CPU even a broadcast constant, in
    arrays as long as the data. To make it again costs less than to write and read it where that goes to memory.
    """
    size = max(v.size for v in values) if like is None else like.size
    return values if size <= SHARED else tuple(jax.lax.optimization_barrier(values))


def zero_and_one(like: Array) -> tuple[Array, ...]:
    """The two numbers, `apart`, in the dtype of `like`."""
    return apart(jnp.zeros((), like.dtype), jnp.ones((), like.dtype), like=like)


def inverse_of_lower(L: np.ndarray) -> np.ndarray:
    """L^-1 of a lower triangle, or of many (..., n, n), by halves: nearly all of the work is products of matrices.

    SciPy's trtri is no faster, and its threads compete with those of NumPy's products.
    """
    least = 16 if L.ndim == 2 else 4  # many share what a call costs

    def into(R: np.ndarray, L: np.ndarray) -> None:
        h = L.shape[-1] // 2
        if h <= least:
            R[...] = np.linalg.inv(L)
            return
        into(R[..., :h, :h], L[..., :h, :h])
        into(R[..., h:, h:], L[..., h:, h:])
        below = np.matmul(R[..., h:, h:], L[..., h:, :h] @ R[..., :h, :h], out=R[..., h:, :h])
        np.negative(below, out=below)

    result = np.zeros_like(L)
    into(result, L)
    return result


def inverse_cholesky(P: np.ndarray) -> np.ndarray:
    """L^-1 for P = L L^T, both by halves at once: three quarters of the time of a factor and its inverse in float32.

    As L is formed by the inverse of its upper half, the error grows with the condition of that: measure it where that
    matters. LinAlgError where P is not positive definite.
    """

    def into(R: np.ndarray, P: np.ndarray) -> None:
        h = len(P) // 2
        if h <= 16:
            R[:] = np.linalg.inv(np.linalg.cholesky(P))
            return
        into(R[:h, :h], P[:h, :h])
        below = P[h:, :h] @ R[:h, :h].T
        into(R[h:, h:], P[h:, h:] - below @ below.T)
        np.matmul(R[h:, h:], below @ R[:h, :h], out=R[h:, :h])
        np.negative(R[h:, :h], out=R[h:, :h])

    result = np.zeros_like(P)
    into(result, P)
    return result
