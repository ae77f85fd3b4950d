"""Refusals: each names the argument, what was given, and the fix.

Shapes, ranks and dtypes are checked at trace time, so they cost nothing in a compiled program. Values (labels
out of range, negative weights, NaN) are checked only where they are concrete; a traced program cannot raise,
so it marks the affected examples with NaN instead.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl._types import Array, ArrayLike

REDUCTIONS = ("mean", "sum", "none")


def array(name: str, x: ArrayLike) -> Array:
    """`jnp.asarray(x)` that refuses what is not a real number: text, objects, complex values.

    Integers too large for jax's integers become floats; jnp.asarray would keep their last 32 bits.
    """
    if x is None or isinstance(x, (str, bytes)):
        raise TypeError(f"{name} must hold real numbers; got {_describe(x)}. Give an array.")
    x = readable(name, x)
    try:
        with np.errstate(over="ignore"):  # where infinities are not wanted they are refused
            x = jnp.asarray(x)
    except OverflowError as error:
        raise TypeError(f"{name} holds an integer that jax's integers do not; give floats.") from error
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must hold real numbers; got {_describe(x)}. Encode text or objects as numbers."
        ) from error
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must hold real numbers; got {x.dtype}. Pass the real and imaginary parts as columns.")
    if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == jnp.bool_):
        raise TypeError(f"{name} must hold real numbers; got dtype {x.dtype}.")
    return x


def readable(name: str, x: ArrayLike) -> ArrayLike:
    """What jax would read otherwise in numpy's arrays, as what it is: integers too large for jax's, another byte order.

    TypeError for masked entries, which it would read as numbers.
    """
    if not isinstance(x, np.ndarray | np.generic):
        return x
    if np.ma.is_masked(x):
        raise TypeError(f"{name} is a masked array with masked entries. Fill them, and give such rows weight 0.")
    if isinstance(x, np.ma.MaskedArray):  # with no mask, but jax takes none
        x = np.asarray(x)
    if not x.dtype.isnative and x.dtype.kind in "fiu":
        x = x.astype(x.dtype.newbyteorder("="))
    if x.dtype.kind in "iu" and x.size:
        held = np.iinfo(jax.dtypes.canonicalize_dtype(x.dtype))
        if x.max() > held.max or x.min() < held.min:
            return x.astype(np.float64)
    return x


def within_integers(name: str, y: Any) -> None:
    """Refuse class labels that jax's integers do not hold: `array` would make floats of them all."""
    given: Any = y
    if isinstance(y, np.ndarray) and y.dtype.kind in "iu" and np.asarray(readable(name, y)).dtype.kind == "f":
        most = np.iinfo(jax.dtypes.canonicalize_dtype(y.dtype)).max
        refuse_where(lambda v: (v < 0) | (v > most), name, given, "must hold classes 0, 1, ...")


def regression(params: Any) -> tuple[Array, Array]:
    """params.w and params.b of a regression; refuses what has no such parts, a whole Fit among them."""
    if not (hasattr(params, "w") and hasattr(params, "b")):
        fix = "give its .params" if hasattr(params, "params") else "give fundl.Linear(w, b)"
        raise TypeError(f"params must have .w and .b; got {type(params).__name__}: {fix}.")
    return array("params.w", params.w), array("params.b", params.b)


def floats(**named: ArrayLike) -> tuple[Array, ...]:
    """The arguments as real floating arrays of one common dtype, at least float32.

    Integers, booleans and Python numbers take the dtype of the floating arrays beside them (jax's default
    float when there is none); float16 and bfloat16 are raised to float32, in which everything is accumulated.
    """
    arrays = [array(name, x) for name, x in named.items()]
    dtype = compute_dtype(*arrays)
    return tuple(x.astype(dtype) for x in arrays)


def common_dtype(*arrays: Array) -> Any:
    """The widest dtype among the strongly typed floating arrays; jax's default float if there is none."""
    strong = {x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating) and not x.weak_type}
    if not strong:
        return jnp.zeros(()).dtype
    if len(strong) > 1 and max(t.itemsize for t in strong) < 4:
        return jnp.dtype(jnp.float32)  # neither of float16 and bfloat16 holds the other
    return max(strong, key=lambda t: t.itemsize)


def compute_dtype(*arrays: Array) -> Any:
    """`common_dtype`, but at least float32: the dtype in which sums are accumulated."""
    dtype = common_dtype(*arrays)
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def same_shape(**named: Array) -> None:
    """Refuse arrays of different shapes: (n,) against (n, 1) is an error, never an (n, n) broadcast."""
    (a_name, a), (b_name, b) = named.items()
    if a.shape != b.shape:
        fix = f"{a_name} and {b_name} need one entry for each other."
        if a.size == b.size:
            fix = f"Reshape one of them, for example {b_name}.reshape({a_name}.shape)."
        raise ValueError(f"{a_name} has shape {a.shape} but {b_name} has shape {b.shape}. {fix}")


def rank(name: str, x: Array, *ranks: int, shape: str) -> None:
    """Refuse an array whose number of axes is not among `ranks`; `shape` is the expected shape as text."""
    if x.ndim not in ranks:
        raise ValueError(f"{name} must have shape {shape}; got {x.shape}.")


def examples(**named: Array) -> int:
    """The common length n of the first axes; refuses a mismatch and an empty batch."""
    lengths = {name: x.shape[0] for name, x in named.items()}
    n = next(iter(lengths.values()))
    if any(m != n for m in lengths.values()):
        shapes = ", ".join(f"{name} {x.shape}" for name, x in named.items())
        raise ValueError(f"The first axes must be equal, one row for each example; got {shapes}.")
    for name, x in named.items():
        nonempty(name, x)
    return n


def nonempty(name: str, x: Array) -> None:
    """Refuse an array without entries: a mean over nothing is not a number."""
    if x.size == 0:
        raise ValueError(f"{name} is empty: shape {x.shape}. Give at least one example and one column.")


def concrete(x: Any) -> bool:
    """True when the values of x can be looked at now, outside of any trace."""
    return not isinstance(x, jax.core.Tracer)


def on_host(*arrays: Any) -> bool:
    """True for concrete values that numpy sees without a copy: its own, and those on one CPU device."""
    return all(x is None or isinstance(x, np.ndarray) or (concrete(x) and _on_cpu(x)) for x in arrays)


def refuse_where(bad: Callable[[Any], Any], name: str, x: Any, why: str) -> None:
    """Raise ValueError for the first entry of a concrete `x` where `bad(x)`; traced values pass.

    `bad` is made of operators and methods: it sees NumPy's view of x where there is one, since that compiles nothing.
    """
    if not concrete(x):
        return
    x = np.asarray(x) if on_host(x) else x
    # Inside a trace operations on concrete arrays are staged; here what is known now is looked at now.
    with jax.ensure_compile_time_eval():
        where = bad(x)
        found = where.any()
    if concrete(found) and bool(found):
        given = ""
        # Only now is a copy on the host worth its cost; it may be impossible for arrays on other processes.
        if getattr(x, "is_fully_addressable", True):
            index = tuple(int(i) for i in np.argwhere(np.asarray(where))[0])
            given = f" at index {index if len(index) != 1 else index[0]}: {np.asarray(x)[index]}" if index else f": {x}"
        raise ValueError(f"{name} {why}; got a bad value{given}.")


def option(name: str, x: ArrayLike) -> Array:
    """`array(name, x)` that leaves a number concrete inside a trace too, so that a bad one is refused there."""
    if not isinstance(x, (int, float, np.number)):
        return array(name, x)
    with jax.ensure_compile_time_eval():
        return array(name, x)


def scalar(name: str, x: ArrayLike) -> Array:
    """An option that is one number: an array would broadcast the result to another shape."""
    x = array(name, x)
    if x.ndim:
        raise ValueError(f"{name} must be one number, shape (); got shape {x.shape}. Use vmap for many.")
    return x


def number(name: str, x: ArrayLike, bad: Callable[[Any], Any], why: str, dtype: Any) -> Array:
    """`scalar(name, x)` in this dtype. A bad one is refused; traced, where it cannot be, it becomes NaN."""
    refuse_where(bad, name, option(name, x), why)
    v = scalar(name, x).astype(dtype)
    return v if concrete(x) else jnp.where(bad(v), jnp.full_like(v, jnp.nan), v)


def nonnegative(name: str, x: ArrayLike) -> None:
    """Refuse a concrete option such as a penalty that is negative or NaN."""
    refuse_where(lambda v: ~(v >= 0), name, option(name, x), "must not be negative or NaN")


def penalty(name: str, x: ArrayLike) -> None:
    """Refuse a concrete penalty that is negative, NaN or infinite: inf times a coefficient of 0 is no number."""
    nonnegative(name, x)
    refuse_where(lambda v: v == np.inf, name, option(name, x), "must be finite (a large one gives w = 0)")


def positive(name: str, x: ArrayLike) -> None:
    """Refuse a concrete option such as a threshold that is not above zero."""
    refuse_where(lambda v: ~(v > 0), name, option(name, x), "must be positive")


def flag(name: str, x: Any) -> bool:
    """An option that is True or False; a word such as "no" would be taken for True."""
    if isinstance(x, bool | np.bool_) or (isinstance(x, int | np.integer) and x in (0, 1)):
        return bool(x)
    raise TypeError(f"{name} must be True or False; got {x!r}.")


def whole(name: str, x: Any, least: int) -> None:
    """Refuse a concrete option that is not a whole number, or is less than it may be."""
    v = real(x)
    if concrete(x) and (v is None or not (least <= v < np.inf and v == int(v))):
        raise ValueError(f"{name} must be a whole number, at least {least}; got {x!r}.")


def index(x: Any) -> int | None:
    """A whole number; None for all else, True and 2.0 among it."""
    try:
        return None if isinstance(x, bool) or getattr(x, "dtype", None) == np.bool_ else operator.index(x)
    except TypeError:
        return None


def count(x: Any) -> int:
    """A positive whole number that may be a length; 0 for all else."""
    return max(0, index(x) or 0)


def random_key(name: str, x: Any) -> None:
    """Refuse what is no key of jax: a seed, or several keys."""
    typed = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    if not typed and not (isinstance(x, jax.Array) and x.dtype == jnp.uint32):
        raise TypeError(f"{name} must be a random key such as jax.random.key(0); got {x!r}.")
    if x.ndim != (0 if typed else 1):
        raise ValueError(f"{name} must be one random key; got shape {x.shape}. Use vmap for many.")


def real(x: Any) -> float | None:
    """A concrete real number, also one in an array of shape (); None for all else."""
    if not concrete(x) or not isinstance(x, (int, float, np.generic, np.ndarray, jax.Array)):
        return None
    v = np.asarray(x)
    return float(v) if v.ndim == 0 and v.dtype.kind in "fiub" else None


def choice(name: str, given: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the allowed ones."""
    if given not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {given!r}.")


def per_example_weights(weights: ArrayLike | None, n_shape: tuple[int, ...], dtype: Any) -> Array | None:
    """The weights as an array of shape (n,), refused when negative or NaN and concrete, NaN when traced; None stays."""
    if weights is None:
        return None
    w = array("weights", weights)
    if w.shape != n_shape:
        raise ValueError(f"weights must have one entry for each example, shape {n_shape}; got {w.shape}.")
    # As they are given: w may be rounded already, to infinity or 0.
    given: Any = weights if isinstance(weights, np.ndarray | jax.Array) else np.asarray(weights) if concrete(w) else w
    refuse_where(lambda v: ~((v >= 0) & (v < np.inf)), "weights", given, "must be finite and not negative")
    w = w.astype(dtype)
    if not concrete(given):
        return jnp.where((w >= 0) & (w < jnp.inf), w, jnp.full_like(w, jnp.nan))
    if given.dtype.itemsize > jnp.dtype(dtype).itemsize and given.dtype.kind == "f" and given.size:
        least, most = float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max)
        why = f"must be within the range of {jnp.dtype(dtype)}, which the data have: scale them all by one factor"
        # One that vanishes beside others is no loss; all may not.
        refuse_where(lambda v: (v > most) | ((v > 0) & (v.max() < least)), "weights", given, why)
    return w


def ordinary(x: Array) -> Array:
    """True for the numbers whose products and squares are finite, so that 0 times what is made of them is 0."""
    return jnp.abs(x) < min(2.0 ** (jnp.finfo(compute_dtype(x)).maxexp // 4), float(jnp.finfo(x.dtype).max))


def seen(w: Array | None, *usable: Array) -> Array | None:
    """The examples (n,) that have a weight, or nothing in their rows that is not usable; None where all have one."""
    if w is None:
        return None
    whole = (jnp.all(u, axis=tuple(range(1, u.ndim))) for u in usable)
    return (w != 0) | functools.reduce(jnp.logical_and, whole)


def without_left_out(X: ArrayLike, weights: ArrayLike | None) -> Array:
    """X with zeros for what is not ordinary in the rows of weight 0: NaN would reach dW = X^T dz though dz is 0."""
    X = array("X", X)
    if weights is None or X.ndim < 2 or not jnp.issubdtype(X.dtype, jnp.floating):
        return X
    w = jnp.asarray(per_example_weights(weights, X.shape[:1], compute_dtype(X)))
    return jnp.where((w == 0)[:, None] & ~ordinary(X), jnp.zeros_like(X), X)


def labels(name: str, y: Array, num_classes: int, weights: Array | None = None) -> Array:
    """Integer class labels (n,) in 0..num_classes-1, not -1, the last in NumPy; those of weight 0 may hold anything."""
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(
            f"{name} of shape {y.shape} holds class labels and must be integers; got {y.dtype}. "
            f"Use {name}.astype(int) for classes, or one-hot / soft labels of shape (n, {num_classes})."
        )

    def outside(v: Array) -> Array:
        return (v < 0) | (v >= num_classes)

    if y.dtype.itemsize < 4:
        y = y.astype(jnp.int32)  # the numbers 0..num_classes-1 may not fit int8
    if weights is not None:
        held = (weights != 0) | ~outside(y)
        y = y * held.astype(y.dtype)  # no zeros_like, which loses the sharding of a constant in a trace
    refuse_where(outside, name, y, f"must hold classes in 0..{num_classes - 1}")
    return y


def unit_interval(name: str, x: Array, what: str) -> None:
    """Refuse concrete values outside [0, 1]; NaN passes, since a weight of 0 may remove it."""
    refuse_where(lambda v: (v < 0) | (v > 1), name, x, f"must hold {what} in [0, 1]")


def finite(name: str, x: Array, weights: Array | None = None) -> None:
    """Refuse concrete NaN or infinities in rows whose weight is not 0."""

    def bad(v: Any) -> Any:
        not_finite = ~(np if isinstance(v, np.ndarray) else jnp).isfinite(v)
        if weights is None:
            return not_finite
        return not_finite & (weights != 0).reshape(weights.shape + (1,) * (v.ndim - weights.ndim))

    refuse_where(bad, name, x, "must be finite (give such rows weight 0 to leave them out)")


def _on_cpu(x: Array) -> bool:
    devices = x.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def _describe(x: Any) -> str:
    return f"an array of dtype {x.dtype}" if isinstance(x, np.ndarray) else f"{type(x).__name__} {x!r}"[:80]
