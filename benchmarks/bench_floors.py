"""What forbids a smaller ratio: the least work of any method of a kind, timed beside the rival that is to be beaten.

    python -m benchmarks.bench_floors [--size 569x30,...] [--json benchmarks/results/floors.json]

A floor leaves out all that a method could do otherwise, so it is lower than what can be reached:

- fit: the result handed to JAX, and the cheaper of two ways, bare products by NumPy or XLA. A method that sees X
  through products with vectors needs at least as many as conjugate gradients on the Hessian of the optimum do from 0 to
  the same f - f*; a method that forms a Hessian forms and factors one, and asks for as many gradients as Newton with
  a Hessian of its own at each step, and the best length of each, takes steps.
- least squares: of few rows the result handed to JAX; else the rival itself, once more through the rows for the
  residual and its gradient, and the inverse that standard errors are made of.
- ridge path: for every row and penalty a residual and a leverage: two products.

Where a floor is above the aim (what fundl is to take at most, over the rival), the aim cannot be met on this machine.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse.linalg import LinearOperator, cg

from benchmarks import options, stopwatch
from benchmarks.bench_least_squares import problem as rows_of
from benchmarks.bench_least_squares import rivals as solvers
from benchmarks.bench_logistic_regression import GOALS
from benchmarks.problems import Data, classes
from benchmarks.rivals import L2, RIVALS
from fundl import linear_regression, logistic_regression, softmax_regression
from fundl._precise import inverse_of_lower

Call = Callable[[], Any]
# size, dtype, what fundl is to take of it at most, the rival with the tolerance that reaches the goal
FITS = (
    ("569x30", "float64", 0.15, "jaxopt L-BFGS", 1e-7),
    ("569x30", "float32", 0.15, "jaxopt L-BFGS", 1e-5),
    ("1797x64x10", "float64", 0.15, "sklearn newton-cg", 1e-7),
    ("1e5x100", "float32", 0.4, "jaxopt L-BFGS", 1e-5),
    ("2000x2000", "float64", 0.4, "optimistix L-BFGS", 1e-7),
    ("2000x2000", "float32", 0.4, "jaxopt L-BFGS", 1e-5),
    ("1e5x50x10", "float32", 0.4, "jaxopt L-BFGS", 1e-5),
)
SMALL = ("100x5", "float64", 0.25, "sklearn LinearRegression")
GRAM = [(size, dtype, 1.2) for size in ("1e5x100", "2000x1000", "1e4x1000") for dtype in ("float64", "float32")]
PATHS = (("1797x64", 0.05), ("10000x50", 0.05), ("10000x100", 0.05))


def handed_over(fit: Any) -> Call:
    """The arrays of a result from NumPy to JAX, in one call."""
    arrays = jax.tree.map(np.asarray, fit)
    identity = jax.jit(lambda arrays: arrays)
    return lambda: identity(arrays)


class Bare:
    """f, its gradient and its Hessian times a vector, for theta (d + 1, k), in float64 and without care."""

    def __init__(self, data: Data) -> None:
        self.Z = np.hstack([data.X.astype(float), np.ones((len(data.X), 1))])
        self.k, self.y = data.k, data.y
        self.penalty = np.append(np.full(data.X.shape[1], L2), 0.0)[:, None]

    def at(self, z: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The losses' sum, its derivative in the logits z, and the probabilities."""
        if self.k == 1:
            p = 1 / (1 + np.exp(-z))
            return float(np.sum(np.logaddexp(0, z[:, 0]) - self.y * z[:, 0])), p - self.y[:, None], p
        e = np.exp(z - z.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        own = np.arange(len(z)), self.y
        a = p.copy()
        a[own] -= 1
        return float(-np.sum(np.log(p[own]))), a, p

    def times(self, p: np.ndarray, v: np.ndarray) -> np.ndarray:
        u = self.Z @ v
        u = p * (1 - p) * u if self.k == 1 else p * (u - np.sum(p * u, axis=1, keepdims=True))
        return self.Z.T @ u + self.penalty * v


def least_products(bare: Bare, theta: np.ndarray, f: float, goal: float) -> int:
    """Steps of conjugate gradients on the quadratic at the optimum theta until it is within goal f of it, from 0."""
    p = bare.at(bare.Z @ theta)[2]
    left, r = theta, bare.times(p, theta)  # what is missing, and the gradient there
    d, steps = r, 0
    while np.vdot(left, bare.times(p, left)) / 2 > goal * f and steps < 1000:
        Hd = bare.times(p, d)
        a = np.vdot(r, r) / np.vdot(d, Hd)
        left, after = left - a * d, r - a * Hd
        d, r, steps = after + np.vdot(after, after) / np.vdot(r, r) * d, after, steps + 1
    return steps


def least_newton_steps(bare: Bare, shape: tuple[int, ...], f: float, goal: float) -> int:
    """Newton steps from 0, each of the best length, until f - f* is within goal f."""
    theta = np.zeros(shape)
    size = theta.size

    def value(theta: np.ndarray) -> float:
        return bare.at(bare.Z @ theta)[0] + float(np.sum(bare.penalty * theta * theta)) / 2

    for steps in range(100):
        if value(theta) - f <= goal * f:
            return steps
        _, a, p = bare.at(bare.Z @ theta)
        g = bare.Z.T @ a + bare.penalty * theta
        H = LinearOperator((size, size), lambda v, p=p: bare.times(p, v.reshape(shape)).reshape(-1))
        v = -cg(H, g.reshape(-1), rtol=1e-8)[0].reshape(shape)
        theta = theta + minimize_scalar(lambda t, theta=theta, v=v: value(theta + t * v), bounds=(0, 8)).x * v
    return steps


def fit(size: str, dtype: str, aim: float, rival: str, tol: float, repeats: int) -> dict[str, Any]:
    data = classes(size)
    data = data._replace(X=np.ascontiguousarray(data.X.astype(dtype)))
    k = data.k
    model = logistic_regression if k == 1 else softmax_regression
    found = model.fit(data.X.astype(float), data.y, l2=L2)
    theta = np.vstack([np.asarray(v).reshape(-1, k) for v in found.params])
    bare, f = Bare(data), float(found.certificate.objective)
    steps = least_products(bare, theta, f, GOALS[dtype])
    newton = least_newton_steps(bare, theta.shape, f, GOALS[dtype])
    X, rng = data.X, np.random.default_rng(0)
    v, u = (rng.normal(size=(m, k)).astype(dtype) for m in X.shape[::-1])
    v, u = (v[:, 0], u[:, 0]) if k == 1 else (v, u)
    A = np.repeat(X, k, axis=1)  # the weighted copies of a softmax Hessian

    def both(X: Any, v: Any, u: Any) -> Any:
        return X @ v, u @ X if k == 1 else X.T @ u

    identity = np.eye(A.shape[1], dtype=dtype) * np.asarray(np.square(A).sum(), dtype)
    theirs = RIVALS[rival](data)
    times = stopwatch.interleave(
        {
            rival: lambda: theirs(tol),
            "handed": handed_over(found),
            "products": lambda: both(X, v, u),
            "products, XLA": functools.partial(jax.jit(both), *map(jax.numpy.asarray, (X, v, u))),
            "formed": lambda: np.linalg.cholesky(A.T @ A + identity),
        },
        repeats=repeats,
        progress=f"fit {size} {dtype}",
    )
    handed, formed = times["handed"].best, times["formed"].best
    products = min(times["products"].best, times["products, XLA"].best)
    ways = {f"{steps} products": steps * products, f"a Hessian, {newton} products": formed + newton * products}
    by = min(ways, key=lambda name: ways[name])
    return row("fit", size, dtype, aim, handed + ways[by], by, rival, times[rival].best)


def row(problem: str, size: str, dtype: str, aim: float, floor: float, by: str, rival: str, theirs: float) -> Any:
    return {
        "problem": problem, "size": size, "dtype": dtype, "name": "limit", "of": by, "rival": rival, "aim": aim,
        "seconds": floor, "rival seconds": theirs, "floor over rival": floor / theirs,
    }  # fmt: skip


def few_rows(size: str, dtype: str, aim: float, rival: str, repeats: int) -> dict[str, Any]:
    X, y = rows_of(size, dtype)
    calls = {rival: solvers(X, y)[rival], "handed": handed_over(linear_regression.fit(X, y))}
    times = stopwatch.interleave(calls, repeats=repeats, progress=f"least squares {size}")
    return row("least squares", size, dtype, aim, times["handed"].best, "the result", rival, times[rival].best)


def gram(size: str, dtype: str, aim: float, repeats: int) -> dict[str, Any]:
    X, y = rows_of(size, dtype)
    rival = "numpy Gram + Cholesky"
    w = np.asarray(linear_regression.fit(X, y).params.w)
    L = np.linalg.cholesky(X.T @ X)

    def more() -> Any:
        return (y - X @ w) @ X, inverse_of_lower(L)

    times = stopwatch.interleave({rival: solvers(X, y)[rival], "more": more}, repeats=repeats, progress=f"gram {size}")
    floor = times[rival].best + times["more"].best
    return row("least squares", size, dtype, aim, floor, "itself, residual, inverse", rival, times[rival].best)


def path(size: str, aim: float, repeats: int, penalties: int = 100) -> dict[str, Any]:
    from sklearn.linear_model import RidgeCV

    X, y = rows_of(size, "float64")
    A = np.random.default_rng(0).normal(size=(X.shape[1], penalties))
    calls: dict[str, Call] = {
        "RidgeCV": lambda: RidgeCV(np.logspace(-3, 3, penalties)).fit(X, y),
        "products": lambda: (X @ A, X @ A),
    }
    times = stopwatch.interleave(calls, repeats=repeats, progress=f"path {size}")
    floor = times["products"].best
    return row("ridge path", size, "float64", aim, floor, "two products", "sklearn RidgeCV", times["RidgeCV"].best)


def main() -> None:
    args = options.parser(__doc__, repeats=7).parse_args()
    options.no_rivals(args)
    repeats = 2 if args.quick else args.repeats
    jax.config.update("jax_enable_x64", True)
    todo: list[tuple[str, Callable[[int], dict[str, Any]]]] = [
        *((case[0], functools.partial(fit, *case)) for case in FITS),
        (SMALL[0], functools.partial(few_rows, *SMALL)),
        *((case[0], functools.partial(gram, *case)) for case in GRAM),
        *((case[0], functools.partial(path, *case)) for case in PATHS),
    ]
    chosen = options.sizes(args, list(dict.fromkeys(size for size, _ in todo)), ("569x30", "100x5"))
    rows = []
    for size, measure in todo:
        if size in chosen:
            rows.append(measure(repeats))
            print(stopwatch.table([tuple(rows[-1].values())], tuple(rows[-1])), flush=True)
    if args.json:
        found = {"question": "what forbids more", "machine": stopwatch.machine(), "results": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
