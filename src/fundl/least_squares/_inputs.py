"""What least squares accepts, and the refusals."""

from fundl import _check
from fundl._types import Array, ArrayLike


def inputs(X: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array | None]:
    """X (n, d), y (n,) or (n, k) and weights (n,) in one dtype; refuses what is not that, and concrete NaN."""
    given = _check.array("X", X), _check.array("y", y)
    _check.rank("X", given[0], 2, shape="(n, d), one row for each example; X.reshape(-1, 1) for one column")
    _check.rank("y", given[1], 1, 2, shape="(n,), or (n, k) for k targets")
    _check.examples(X=given[0], y=given[1])
    X, y = _check.floats(X=given[0], y=given[1])
    w = _check.per_example_weights(weights, X.shape[:1], X.dtype)
    _check.finite("X", X, w)
    _check.finite("y", y, w)
    return X, y, w
