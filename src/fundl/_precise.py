"""The one numerics policy: products at full precision, accumulated in at least float32, on any mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl._types import Array

__all__ = [
    "accumulated_in", "exp_minus_abs", "exp_shifted", "inner", "inverse_of_lower", "log_1_minus", "matmul", "rows_dot",
    "safe_divide", "sigmoid", "sigmoid_factors", "softplus", "sum_of_others",
]  # fmt: skip

# Without it a float32 product runs in TF32 or bfloat16 passes on accelerators; float32 shall mean float32.
HIGHEST = jax.lax.Precision.HIGHEST


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


def exp_minus_abs(v: Array) -> Array:
    """exp(-abs(v)), differentiated at 0 as the branch v <= 0."""
    return jnp.exp(jnp.where(v > 0, -v, v))


def sigmoid(v: Array) -> Array:
    """1 / (1 + exp(-v)) from e = exp(-abs(v)), as 1 / (1 + e) or e / (1 + e): nothing overflows, no digit cancels."""
    e = exp_minus_abs(v)
    return jnp.where(v > 0, jnp.ones_like(e), e) / (1 + e)


def sigmoid_factors(v: Array) -> tuple[Array, Array, Array]:
    """a, b and t with sigma(v) = a a / t and sigma(-v) = b b / t.

    (x a) (a / t) is x sigma(v) also where sigma(v) is too small to be held but x sigma(v) is not.
    """
    h = exp_minus_abs(v / 2)
    one = jnp.ones_like(h)
    return jnp.where(v > 0, one, h), jnp.where(v > 0, h, one), 1 + h * h


def softplus(v: Array) -> Array:
    """log(1 + exp(v)) = max(v, 0) + log1p(exp(-abs(v)))."""
    return jnp.where(v > 0, v, jnp.zeros_like(v)) + jnp.log1p(exp_minus_abs(v))


def log_1_minus(q: Array) -> Array:
    """log(1 - q) for q in [0, 1]: XLA's float64 log1p loses seven bits between -0.42 and -0.3."""
    far = q > 0.25
    zero = jnp.zeros_like(q)
    return jnp.log(1 - jnp.where(far, q, zero)) + jnp.log1p(-jnp.where(far, zero, q))


def exp_shifted(v: Array, axis: int = -1) -> tuple[Array, Array, Array, Array]:
    """With m the largest logit along `axis`: e = exp(v - m), s = (sum of e) - 1, d = v - m, and m.

    s leaves out the 1 of the largest logit before anything is added to it, so that log1p(s) keeps what 1 + s would
    round away. Logits of +inf count as equal. m is a constant to autodiff: nothing that is made of d and s depends
    on the shift, and the derivative of a maximum is not unique at ties.
    """
    m = jax.lax.stop_gradient(jnp.max(v, axis=axis, keepdims=True))
    largest = v == m
    d = jnp.where(jnp.isposinf(m) & largest, jnp.zeros_like(v), v - m)
    e = jnp.exp(d)
    ones = largest.astype(v.dtype)
    # exp(0) is exactly 1, so e - ones is exactly 0 at the largest logits, with the derivative of e.
    s = jnp.sum(e - ones, axis=axis, keepdims=True) + (jnp.sum(ones, axis=axis, keepdims=True) - 1)
    return e, s, d, m


def sum_of_others(t: Array, d: Array, axis: int = -1) -> Array:
    """For each entry of t the sum of the others along `axis`.

    At the largest logit (d = 0, see `exp_shifted`) it is not formed as a total minus the entry, which may be nearly
    all of the total: this is where small others decide.
    """
    top = jnp.where(d == 0, t, jnp.zeros_like(t))
    rest = jnp.where(d == 0, jnp.zeros_like(t), t)
    return (jnp.sum(top, axis, keepdims=True) - top) + (jnp.sum(rest, axis, keepdims=True) - rest)


def inverse_of_lower(L: np.ndarray) -> np.ndarray:
    """L^-1 of a lower triangle by halves, so that nearly all of the work is products of matrices.

    SciPy's trtri is no faster, and its threads compete with those of NumPy's products.
    """

    def into(R: np.ndarray, L: np.ndarray) -> None:
        h = len(L) // 2
        if h <= 16:
            R[:] = np.linalg.inv(L)
            return
        into(R[:h, :h], L[:h, :h])
        into(R[h:, h:], L[h:, h:])
        np.matmul(R[h:, h:], L[h:, :h] @ R[:h, :h], out=R[h:, :h])
        np.negative(R[h:, :h], out=R[h:, :h])

    result = np.zeros_like(L)
    into(result, L)
    return result
