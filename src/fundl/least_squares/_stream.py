"""Least squares over data that come in batches: exact sums that add, in any order."""

import dataclasses
import importlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl import _check
from fundl._result import Fit
from fundl._types import ArrayLike
from fundl.least_squares import _exact
from fundl.least_squares._exact import Moments
from fundl.least_squares._fit import narrowed, package
from fundl.least_squares._inputs import held, in_dtype, penalty_of, refuse_not_finite, shaped, to_device, to_host
from fundl.least_squares._words import namespace, product, sum_words, two_sum


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that least squares needs to know of the rows seen so far; its size does not depend on their number."""

    moments: Moments
    intercept: bool = dataclasses.field(metadata={"static": True})
    single: bool = dataclasses.field(metadata={"static": True})
    dtype: str = dataclasses.field(metadata={"static": True})


def update(
    state: State | None,
    X: ArrayLike,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    intercept: bool | None = None,
) -> State:
    """Take in a batch of rows; `None` starts. The sums are exact, so batches may come in any size and order.

    Shapes: X (n, d), y (n,) or (n, k), weights (n,), d and k alike in all batches. `intercept` is chosen at the start,
    True by default. Concrete arrays are kept as numpy's float64 sums (not for use inside a trace); traced ones in their
    own dtype.
    Errors: as `fit`; ValueError for a batch whose shape differs from those before, and for another intercept.

    >>> state = update(None, [[0.0], [1.0]], [1.0, 3.0])
    >>> state = update(state, [[2.0]], [5.0])
    >>> print(solve(state).params.w)
    [2.]

    Source: Chan, Golub and LeVeque, Algorithms for computing the sample variance, The American Statistician 37 (1983).
    """
    if state is not None:
        _of_a_state("state", state)
    X, y, weights = shaped(X, y, weights)
    refuse_not_finite(X, y, weights)
    Y: Any = y if y.ndim == 2 else y[:, None]
    host = _check.on_host(X, Y, weights) and (state is None or isinstance(state.moments.m, np.ndarray))
    arrays: Any = to_host(X, Y, weights) if host else in_dtype(X.dtype, X, Y, weights)
    dtype = str(X.dtype if host else arrays[0].dtype)
    chosen = None if intercept is None else _check.flag("intercept", intercept)
    if state is None:
        chosen = chosen is not False
        with np.errstate(all="ignore"):
            return State(_exact.moments(arrays[0], arrays[1], arrays[2], chosen), chosen, y.ndim == 1, dtype)
    if chosen not in (None, state.intercept):
        raise ValueError(f"intercept={chosen}, but the state began with intercept={state.intercept}. Start anew.")
    M = state.moments
    if (X.shape[1], Y.shape[1], y.ndim == 1) != (M.m.shape[0], M.my.shape[0], state.single):
        given = f"got X {X.shape}, y {y.shape}"
        raise ValueError(f"X must have {M.m.shape[0]} columns and y {_targets(state)}, as before; {given}.")
    with np.errstate(all="ignore"):
        M, arrays = _of_one_dtype(M, arrays)
        batch = _exact.moments(arrays[0], arrays[1], arrays[2], state.intercept, (M.m, M.my))
        return dataclasses.replace(state, moments=_exact.sum_moments(M, batch), dtype=_wider(state.dtype, dtype))


def merge(a: State, b: State) -> State:
    """The state of all rows of both.

    >>> a, b = update(None, [[0.0], [1.0]], [1.0, 3.0]), update(None, [[2.0]], [5.0])
    >>> print(solve(merge(a, b)).params.w)
    [2.]
    """
    A, B = _of_a_state("a", a), _of_a_state("b", b)
    if (a.intercept, a.single, A.m.shape, A.my.shape) != (b.intercept, b.single, B.m.shape, B.my.shape):
        raise ValueError(
            f"The states must come from the same columns, targets and intercept; got {A.m.shape[0]} and "
            f"{B.m.shape[0]} columns, y {_targets(a)} and {_targets(b)}, intercept {a.intercept} and {b.intercept}."
        )
    with np.errstate(all="ignore"):
        A, B = _of_one_dtype(A, B)
        M = _exact.sum_moments(A, _about(B, A) if a.intercept else B)
        return dataclasses.replace(a, moments=M, dtype=_wider(a.dtype, b.dtype))


def solve(state: State, *, l2: ArrayLike = 0.0) -> Fit:
    """The fit of all rows seen so far, as `fit` gives it for all of them in memory.

    Errors: TypeError for what is no state, ValueError for a negative penalty.

    >>> print(solve(update(None, [[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])).params.b)
    1.0
    """
    M = _of_a_state("state", state)
    dtype = np.dtype(state.dtype)
    penalty: Any = penalty_of(l2, dtype)
    options: dict[str, Any] = {
        "d": M.m.shape[0],
        "intercept": state.intercept,
        "eps": float(jnp.finfo(dtype).eps),
    }
    if isinstance(M.m, np.ndarray) and _check.on_host(penalty):
        wide_l2 = to_host(penalty)[0]
        with np.errstate(all="ignore"):
            found = _exact.solve(M, wide_l2, **options)
            if held(dtype) != dtype:
                found = narrowed(found, M.weight, wide_l2, held(dtype))
            return to_device(package(found, state.single, held(dtype)), dtype)
    (penalty,) = in_dtype(M.m.dtype, penalty)
    return package(_exact.solve(M, penalty, **options), state.single, held(dtype))


def fit_batches(batches: Iterable[tuple[Any, ...]], *, l2: ArrayLike = 0.0, intercept: bool = True) -> Fit:
    """`fit` of all rows of an iterable of batches (X, y) or (X, y, weights), one of them in memory at a time.

    Exact sums, as `update` takes them; l2 and intercept as in `fit`. A memory-mapped array needs none of this: `fit`
    reads it in blocks.
    Errors: as `update`; ValueError for no batch at all, TypeError for one that is no tuple.

    >>> print(fit_batches(([[x]], [2 * x + 1]) for x in (0.0, 1.0, 2.0)).params.w)
    [2.]
    """
    state = None
    for batch in batches:
        if not (isinstance(batch, tuple | list) and len(batch) in (2, 3)):
            given = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
            raise TypeError(f"Each batch must be a tuple (X, y) or (X, y, weights); got {given}.")
        X, y, *weights = batch
        state = update(state, X, y, weights=weights[0] if weights else None, intercept=intercept)
    if state is None:
        raise ValueError("There is no batch; give at least one (X, y).")
    return solve(state, l2=l2)


def from_arrow(
    source: Any, *, target: str, columns: Sequence[str] | None = None, weights: str | None = None
) -> Iterator[tuple[Any, ...]]:
    """The batches (X, y) or (X, y, weights) of Arrow data for `fit_batches`: one record batch in memory at a time.

    source: record batches in an iterable (a reader, a dataset's `to_batches()`), or anything with `to_batches` or
    `__arrow_c_stream__` (tables, data frames; the latter imports pyarrow). target and weights name columns; columns
    those of X, all others by default but for the index of a pandas frame. Nulls become NaN, which `fit_batches`
    refuses.
    Errors: KeyError for a column that is not there, TypeError for one that does not hold numbers and for a source that
    holds no record batches, ValueError for a name that two columns share and where no column is left for X.

    >>> class Batch:  # as pyarrow.RecordBatch
    ...     schema = type("Schema", (), {"names": ["x", "y"]})
    ...     def column(self, i):
    ...         return np.array([[0.0, 1.0, 2.0], [1.0, 3.0, 5.0]][i])
    >>> print(fit_batches(from_arrow([Batch()], target="y")).params.w)
    [2.]
    """
    if hasattr(source, "to_batches"):
        source = source.to_batches()
    elif hasattr(source, "__arrow_c_stream__") and not hasattr(source, "__next__"):
        pyarrow: Any = importlib.import_module("pyarrow")
        source = pyarrow.RecordBatchReader.from_stream(source)
    if not isinstance(source, Iterable):
        source = (source,)  # which is no record batch
    for batch in source:
        if not (hasattr(batch, "schema") and hasattr(batch, "column")):
            fix = "pyarrow.dataset.dataset(path) reads files, pyarrow.table(columns) takes a dictionary"
            raise TypeError(f"source must hold record batches, as tables and readers do; got {batch!r:.80}. {fix}.")
        names = list(batch.schema.names)
        if columns is None:
            chosen = [v for v in names if v not in (target, weights, *_index(batch.schema))]
        else:
            chosen = list(columns)
        if not chosen:
            raise ValueError(f"No column is left for X; columns={columns}, the columns are {names}.")
        needed = dict.fromkeys([*chosen, target, *([] if weights is None else [weights])])
        for name in needed:
            if name not in names:
                raise KeyError(f"There is no column {name!r}; the columns are {names}.")
            if names.count(name) > 1:
                raise ValueError(f"Two columns have the name {name!r}; rename one. The columns are {names}.")
        values = {name: _values(name, batch.column(names.index(name))) for name in needed}
        X = np.stack([values[name] for name in chosen], axis=1)
        if len(X):
            yield (X, values[target]) if weights is None else (X, values[target], values[weights])


def _index(schema: Any) -> list[Any]:
    """The columns in which pandas keeps the index of a frame, which is no feature."""
    given = (getattr(schema, "metadata", None) or {}).get(b"pandas")
    return [] if given is None else json.loads(given)["index_columns"]


def _values(name: str, column: Any) -> np.ndarray:
    """A column as numpy's floats, nulls as NaN."""
    to_numpy = getattr(column, "to_numpy", None)
    found = np.asarray(column if to_numpy is None else to_numpy(zero_copy_only=False))
    if found.dtype.kind == "f":
        return found
    try:
        if found.dtype.kind in "mM":  # whose nulls would be the smallest integer
            return np.where(np.isnat(found), np.nan, found.astype(np.float64))
        if found.dtype.kind not in "iub" and any(isinstance(v, str | bytes) for v in found.flat):
            raise TypeError  # numpy would read the numbers in a text
        return found.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"Column {name!r} does not hold numbers; name the columns that do: columns=[...].") from None


def _of_a_state(name: str, state: State) -> Moments:
    if not isinstance(state, State):
        raise TypeError(f"{name} must come from update(None, X, y); got {type(state).__name__}.")
    return state.moments


def _targets(state: State) -> str:
    return "(n,)" if state.single else f"(n, {state.moments.my.shape[0]})"


def _wider(*dtypes: str) -> str:
    """The rows are known to the digits of their own dtype, and all together to those of the widest."""
    return max(dtypes, key=lambda v: np.dtype(v).itemsize)


def _of_one_dtype(*trees: Any) -> Any:
    """All floats in the widest dtype among them: traced batches may differ in it."""
    dtype = _wider(*(str(v.dtype) for v in jax.tree.leaves(trees)))
    return jax.tree.map(lambda v: v.astype(dtype) if v.dtype.kind == "f" else v, trees)


def _about(M: Moments, to: Moments) -> Moments:
    """M about the centre of `to`: for Z + 1 delta^T the Gram matrix gains u delta^T + delta u^T + c delta delta^T."""
    xp = namespace(M.m)
    d = M.m.shape[0]
    zero = xp.zeros((1,), M.m.dtype)
    parts = zip(two_sum(M.m, -to.m), two_sum(M.my, -to.my), strict=True)
    delta = [xp.concatenate([x / M.scale, zero, y / M.y_scale]) for x, y in parts]
    delta = (*delta, xp.zeros_like(delta[0]))
    row = tuple(v[None, :] for v in delta)
    column = tuple(v[:, None] for v in delta)
    u = tuple(g[:, d][:, None] for g in M.gram)
    c = tuple(g[d, d][None, None] for g in M.gram)
    first = product(u, row)
    gained = sum_words(first, tuple(v.T for v in first))
    gained = sum_words(gained, product(product(c, column), row))
    return M._replace(gram=sum_words(M.gram, gained), m=to.m, my=to.my)
