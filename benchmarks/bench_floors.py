"""Where the aims stand: the bare products of the plain methods, beside fundl and the rival that is to be beaten.

    python -m benchmarks.bench_floors [--size 569x30,...] [--json benchmarks/results/floors.json]

- fit: the result handed to JAX, and the cheaper of two ways in the dtype of the data, by NumPy or XLA. One sees X
  through products with vectors, as many as conjugate gradients on the Hessian of the optimum need from 0 to the same
  f - f*. The other forms and factors one Hessian of all rows, and makes as many products as Newton's method with a
  Hessian of its own at each step, and the best length of each, takes steps.
- least squares: of few rows the result handed to JAX; else the rival itself, once more through the rows for the
  residual and its gradient, and the inverse that standard errors are made of, which the rival does not give.
- ridge path: for every row and penalty a residual and a leverage: two products.
- linear cross-entropy: the logits twice, since they are not held until all classes are seen, and dX and dW from them.

Such a floor is a yardstick and no proof: a Hessian of some rows or in float32 goes below it. But an aim (what fundl is
to take at most, over the rival) below its floor asks for another method and not for tidier code.
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
from benchmarks.bench_least_squares import of_sklearn, unsafe
from benchmarks.bench_least_squares import problem as rows_of
from benchmarks.bench_linear_cross_entropy import problem as fused_problem
from benchmarks.bench_linear_cross_entropy import torch_once
from benchmarks.bench_logistic_regression import GOALS
from benchmarks.problems import Data, classes
from benchmarks.rivals import L2, RIVALS
from fundl import linear_regression, logistic_regression, losses, softmax_regression
from fundl._precise import inverse_of_lower

Call = Callable[[], Any]
# size, dtype, what fundl is to take of the rival at most, the rival, and its loosest tolerance that reaches the goal
FITS = (
    ("569x30", "float64", 0.15, "jaxopt L-BFGS", 1e-7),
    ("569x30", "float32", 0.15, "jaxopt L-BFGS", 1e-5),
    ("1797x64x10", "float64", 0.15, "sklearn newton-cg", 1e-7),
    ("1e5x100", "float32", 0.4, "jaxopt L-BFGS", 1e-4),
    ("2000x2000", "float64", 0.4, "optimistix L-BFGS", 1e-6),
    ("2000x2000", "float32", 0.4, "jaxopt L-BFGS", 1e-5),
    ("1e5x50x10", "float32", 0.4, "jaxopt L-BFGS", 1e-4),
)
SMALL = ("100x5", "float64", 0.25, "sklearn LinearRegression")
GRAM = [(size, dtype, 1.2) for size in ("1e5x100", "2000x1000", "1e4x1000") for dtype in ("float64", "float32")]
PATHS = (("1797x64", 0.05), ("10000x50", 0.05), ("10000x100", 0.05))
FUSED = ("4096x512x32768", 1 / 3)


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
    assert steps < 1000, "conjugate gradients do not converge"
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
    raise AssertionError("Newton's method does not converge")


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
            "fundl": lambda: model.fit(data.X, data.y, l2=L2, tol=GOALS[dtype]).params,
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
    return row("fit", size, dtype, aim, handed + ways[by], by, times, rival)


def row(
    problem: str,
    size: str,
    dtype: str,
    aim: float,
    floor: float,
    of: str,
    times: dict[str, stopwatch.Timing],
    rival: str,
) -> dict[str, Any]:
    best = times[rival].best
    return {
        "problem": problem, "size": size, "dtype": dtype, "name": "limit", "of": of, "rival": rival, "aim": aim,
        "seconds": floor, "rival seconds": best, "floor over rival": floor / best,
        "fundl over rival": stopwatch.ratio(times["fundl"], times[rival]),
    }  # fmt: skip


def few_rows(size: str, dtype: str, aim: float, rival: str, repeats: int) -> dict[str, Any]:
    X, y = rows_of(size, dtype)
    calls = {
        rival: of_sklearn(X, y)[rival],
        "fundl": lambda: linear_regression.fit(X, y).params,
        "handed": handed_over(linear_regression.fit(X, y)),
    }
    times = stopwatch.interleave(calls, repeats=repeats, progress=f"least squares {size}")
    return row("least squares", size, dtype, aim, times["handed"].best, "the result", times, rival)


def gram(size: str, dtype: str, aim: float, repeats: int) -> dict[str, Any]:
    X, y = rows_of(size, dtype)
    rival = "numpy Gram + Cholesky"
    w = np.asarray(linear_regression.fit(X, y).params.w)
    L = np.linalg.cholesky(X.T @ X)

    def more() -> Any:
        return (y - X @ w) @ X, inverse_of_lower(L)

    calls = {rival: lambda: unsafe(X, y), "fundl": lambda: linear_regression.fit(X, y).params, "more": more}
    times = stopwatch.interleave(calls, repeats=repeats, progress=f"gram {size}")
    floor = times[rival].best + times["more"].best
    return row("least squares", size, dtype, aim, floor, "itself, residual, inverse", times, rival)


def path(size: str, aim: float, repeats: int, penalties: int = 100) -> dict[str, Any]:
    from sklearn.linear_model import RidgeCV

    X, y = rows_of(size, "float64")
    A, l2 = np.random.default_rng(0).normal(size=(X.shape[1], penalties)), np.logspace(-3, 3, penalties)
    calls: dict[str, Call] = {
        "sklearn RidgeCV": lambda: RidgeCV(l2).fit(X, y),
        "fundl": lambda: linear_regression.ridge_path(X, y, l2),
        "products": lambda: (X @ A, X @ A),
    }
    times = stopwatch.interleave(calls, repeats=repeats, progress=f"path {size}")
    return row("ridge path", size, "float64", aim, times["products"].best, "two products", times, "sklearn RidgeCV")


def fused(size: str, aim: float, repeats: int, columns: int = 2048) -> dict[str, Any]:
    X, W, b, y = fused_problem(*options.shape(size))
    room, dX, dW = np.empty((len(X), columns), X.dtype), np.empty_like(X), np.empty_like(W)
    rival, of = "torch linear_cross_entropy", "four products"

    def products() -> None:
        for j in range(0, W.shape[1], columns):
            w, dw = W[:, j : j + columns], dW[:, j : j + columns]
            np.matmul(X, w, out=room)
            np.matmul(X, w, out=room)
            np.matmul(room, w.T, out=dX)
            np.matmul(X.T, room, out=dw)

    value_and_gradients = jax.jit(jax.value_and_grad(losses.linear_cross_entropy, (0, 1, 2)))
    arrays = [jax.numpy.asarray(v) for v in (X, W, b, y)]
    calls: dict[str, Call] = {
        rival: torch_once(options.shape(size), chunked=True)[0],
        "fundl": lambda: value_and_gradients(*arrays),
        of: products,
    }
    times = stopwatch.interleave(calls, repeats=min(repeats, 3), progress=f"linear cross-entropy {size}")
    return row("linear cross-entropy", size, "float32", aim, times[of].best, of, times, rival)


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
        (FUSED[0], functools.partial(fused, *FUSED)),
    ]
    chosen = options.sizes(args, list(dict.fromkeys(size for size, _ in todo)), ("100x5",))
    rows = []
    for size, measure in todo:
        if size in chosen:
            try:
                rows.append(measure(repeats))
            except ModuleNotFoundError as error:
                print(f"left out: {size}, for {error.name} is not there")
                continue
            print(stopwatch.table([tuple(rows[-1].values())], tuple(rows[-1])), flush=True)
    if args.json:
        found = {"question": "where the aims stand", "machine": stopwatch.machine(), "results": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
