"""The one numerics policy: products at full precision, accumulated in at least float32, on any mesh."""

import jax
import jax.numpy as jnp

from fundl._types import Array

__all__ = ["matmul", "rows_dot", "safe_divide"]

# Without it a float32 product runs in TF32 or bfloat16 passes on accelerators; float32 shall mean float32.
HIGHEST = jax.lax.Precision.HIGHEST


def matmul(A: Array, B: Array) -> Array:
    """A @ B at full precision; half-precision inputs are accumulated in float32, the result keeps their dtype."""
    wide = jnp.promote_types(A.dtype, jnp.float32) if A.dtype.itemsize < 4 else A.dtype
    return jnp.matmul(A, B, precision=HIGHEST, preferred_element_type=wide).astype(A.dtype)


def rows_dot(X: Array, D: Array) -> Array:
    """Contract over the rows: X (n, d) with D (n, k) gives X.T @ D (d, k); with D (n,) gives (d,).

    On rows sharded over an Explicit mesh a plain X.T @ D is refused, since the sharding of the sum is
    ambiguous. It is named here: summed over the rows, the other axes as they are. Without a mesh, and on Auto
    meshes, this changes nothing.
    """
    wide = jnp.promote_types(X.dtype, jnp.float32) if X.dtype.itemsize < 4 else X.dtype
    # A vector goes first: X.T @ r would copy X transposed.
    subscripts, operands = ("ni,nj->ij", (X, D)) if D.ndim == 2 else ("n,nj->j", (D, X))
    return jnp.einsum(
        subscripts, *operands, precision=HIGHEST, preferred_element_type=wide, out_sharding=_rows_summed(X, D)
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


def safe_divide(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0, with finite derivatives there too."""
    zero = b == 0
    return jnp.where(zero, jnp.zeros_like(a), a / jnp.where(zero, jnp.ones_like(b), b))
