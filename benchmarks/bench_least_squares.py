"""Least squares with an intercept: fundl against scikit-learn, numpy and jax.numpy, with the error that each reaches.

    python -m benchmarks.bench_least_squares [--size SIZE,...] [--json benchmarks/results/least_squares.json]

The error is that of the worst coefficient relative to the largest, against a solution from exact sums. Parts: sizes
(float64 and float32; any NxD), offset (the same with a column mean of 1e8), stream (a memory-mapped file), path (ridge
with leave-one-out), first (time to the first result in a fresh process). --json updates the parts that were run.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import limits, options, stopwatch
from fundl import linear_regression

SIZES = ("1e5x100", "1e6x20", "2000x1000", "1e4x1000", "100x5")
PARTS = ("offset", "stream", "path", "first")
QUICK = ("100x5", "1e4x50", "path", "first")
Solver = Callable[[], Any]


def problem(size: str, dtype: Any, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    n, d = options.shape(size)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    y = X @ rng.normal(size=d) + 1.0 + rng.normal(size=n)
    X[:, 0] += offset
    return X.astype(dtype), y.astype(dtype)


def solution(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """w in float64, by refinement with residuals in extended precision from the QR factors of the centred columns."""
    wide = X.astype(np.float64)
    m = wide.mean(axis=0)
    Z = wide - m
    t = y.astype(np.longdouble)
    t = t - t.mean()
    R = np.linalg.qr(Z, mode="r")
    # Columns are centred to rounding only: what is left of their means goes out in extended precision.
    left = Z.mean(axis=0, dtype=np.longdouble)
    w = np.zeros(Z.shape[1], np.longdouble)
    for _ in range(4):
        g = np.zeros_like(w)
        for i in range(0, len(Z), 4096):
            A = Z[i : i + 4096] - left
            g += (t[i : i + 4096] - A @ w) @ A
        w = w + np.linalg.solve(R, np.linalg.solve(R.T, g.astype(np.float64)))
    return w.astype(np.float64)


def unsafe(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The fastest way on the machine: the Gram matrix by syrk, means taken out of it, Cholesky.

    All large products by NumPy's BLAS: the threads of SciPy's own would wait for the same cores.
    """
    from scipy.linalg import solve_triangular

    n = X.dtype.type(len(X))
    m, my = X.mean(axis=0), y.mean()
    G = X.T @ X - n * np.outer(m, m)
    try:
        L = np.linalg.cholesky(G)
        v = solve_triangular(L, X.T @ y - n * m * my, lower=True, check_finite=False)
        return solve_triangular(L, v, lower=True, trans=1, check_finite=False)
    except np.linalg.LinAlgError:  # offsets leave no digit of G
        return np.zeros_like(m)


def rivals(X: np.ndarray, y: np.ndarray) -> dict[str, Solver]:
    """Each returns w; those that are not installed are left out."""
    ones = np.ones((len(X), 1), X.dtype)

    def design() -> np.ndarray:
        return np.hstack([X, ones])

    found: dict[str, Solver] = {
        "numpy Gram + Cholesky": lambda: unsafe(X, y),
        "numpy lstsq": lambda: np.linalg.lstsq(design(), y)[0][:-1],
    }
    if X.size < 1_000_000:  # minutes otherwise
        found["jnp.linalg.lstsq"] = lambda: jnp.linalg.lstsq(jnp.asarray(design()), jnp.asarray(y))[0][:-1]
    for adapter in (of_sklearn, of_statsmodels, of_lineax):
        with contextlib.suppress(ModuleNotFoundError):  # named by benchmarks.run
            found |= adapter(X, y)
    return found


def of_sklearn(X: np.ndarray, y: np.ndarray) -> dict[str, Solver]:
    from sklearn.linear_model import LinearRegression, Ridge

    return {
        "sklearn LinearRegression": lambda: LinearRegression().fit(X, y).coef_,
        "sklearn Ridge(cholesky)": lambda: Ridge(alpha=1e-12, solver="cholesky").fit(X, y).coef_,
    }


def of_statsmodels(X: np.ndarray, y: np.ndarray) -> dict[str, Solver]:
    """Its default, the pseudo-inverse, takes longer than QR."""
    from statsmodels.api import OLS, add_constant

    return {"statsmodels OLS(qr)": lambda: OLS(y, add_constant(X)).fit(method="qr").params[1:]}


def of_lineax(X: np.ndarray, y: np.ndarray) -> dict[str, Solver]:
    import lineax

    A, t = jnp.asarray(X), jnp.asarray(y)

    @jax.jit
    def solve(A: Any, t: Any) -> Any:
        design = lineax.MatrixLinearOperator(jnp.concatenate([A, jnp.ones_like(A[:, :1])], axis=1))
        return lineax.linear_solve(design, t, lineax.QR()).value[:-1]

    return {"lineax QR": lambda: solve(A, t)} if X.size < 5_000_000 else {}  # minutes otherwise


def digits(w: Any, exact: np.ndarray) -> float:
    error = np.max(np.abs(np.asarray(w, np.float64) - exact)) / np.max(np.abs(exact))
    return float(-np.log10(max(error, 1e-17)))


def at_size(
    size: str, dtype: Any, repeats: int, offset: float = 0.0, wanted: Callable[[str], bool] = lambda name: True
) -> list[dict[str, Any]]:
    X, y = problem(size, dtype, offset)
    exact = solution(X, y)
    calls: dict[str, Solver] = {"fundl": lambda: linear_regression.fit(X, y).params.w}
    calls |= {name: call for name, call in rivals(X, y).items() if wanted(name)}
    reached = {name: digits(call(), exact) for name, call in calls.items()}
    times = stopwatch.interleave(calls, repeats=repeats, progress=f"{size} {np.dtype(dtype).name}")
    return [
        {
            "size": size + (" offset 1e8" if offset else ""),
            "dtype": np.dtype(dtype).name,
            "name": name,
            "ms": 1e3 * t.median,
            "spread": t.spread,
            "ratio": stopwatch.ratio(times["fundl"], t),
            "digits": reached[name],
        }
        for name, t in times.items()
    ]


def stream(repeats: int, rows: int = 8_000_000, d: int = 25) -> list[dict[str, Any]]:
    """A file of 1.6 GB, read through the page cache."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("X.npy", "y.npy")]
        rng = np.random.default_rng(0)
        X = np.lib.format.open_memmap(paths[0], mode="w+", dtype=np.float64, shape=(rows, d))
        y = np.lib.format.open_memmap(paths[1], mode="w+", dtype=np.float64, shape=(rows,))
        w = rng.normal(size=d)
        block = 1 << 16
        for i in range(0, rows, block):
            X[i : i + block] = rng.normal(size=X[i : i + block].shape)
            y[i : i + block] = X[i : i + block] @ w + rng.normal(size=len(y[i : i + block]))
        del X, y
        X, y = (np.load(path, mmap_mode="r") for path in paths)

        def loop() -> np.ndarray:
            G, c, m, my = np.zeros((d, d)), np.zeros(d), np.zeros(d), 0.0
            for i in range(0, rows, block):
                A, t = np.asarray(X[i : i + block]), np.asarray(y[i : i + block])
                G += A.T @ A
                c += t @ A
                m += A.sum(axis=0)
                my += t.sum()
            return np.linalg.solve(G - np.outer(m, m) / rows, c - m * my / rows)

        calls: dict[str, Solver] = {"fundl": lambda: linear_regression.fit(X, y).params.w, "numpy Gram loop": loop}
        agree = float(np.max(np.abs(np.asarray(calls["fundl"]()) - loop())))
        times = stopwatch.interleave(calls, repeats=repeats, progress="stream")
        return [
            {
                "name": n,
                "s": t.median,
                "spread": t.spread,
                "ratio": stopwatch.ratio(times["fundl"], t),
                "difference": agree,
            }
            for n, t in times.items()
        ]


def path(repeats: int, quick: bool = False) -> list[dict[str, Any]]:
    """Ridge with leave-one-out for 100 penalties."""
    try:
        from sklearn.linear_model import RidgeCV
    except ModuleNotFoundError:
        return []
    rows = []
    penalties = np.logspace(-3, 3, 100)
    for n, d in ((1000, 20),) if quick else ((10_000, 50), (100_000, 100)):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(n, d))
        y = X @ rng.normal(size=d) + 30 * rng.normal(size=n)
        other = RidgeCV(penalties).fit(X, y)
        found = linear_regression.ridge_path(X, y, penalties)
        calls: dict[str, Solver] = {
            "fundl": lambda X=X, y=y: linear_regression.ridge_path(X, y, penalties),
            "sklearn RidgeCV": lambda X=X, y=y: RidgeCV(penalties).fit(X, y).coef_,
        }
        times = stopwatch.interleave(calls, repeats=repeats, progress=f"path {n}x{d}")
        rows += [
            {
                "size": f"{n}x{d}",
                "name": name,
                "ms": 1e3 * t.median,
                "spread": t.spread,
                "ratio": stopwatch.ratio(times["fundl"], t),
                "same penalty": bool(np.isclose(penalties[int(found.best)], other.alpha_)),
            }
            for name, t in times.items()
        ]
    return rows


FIRST = """
import time
start = time.perf_counter()
import numpy as np
from fundl import linear_regression
X = np.random.default_rng(0).normal(size=(100, 5))
linear_regression.fit(X, X[:, 0]).params.w.block_until_ready()
print(time.perf_counter() - start)
"""


def first(repeats: int) -> list[dict[str, Any]]:
    """Seconds in a fresh process from before the imports to the first fit."""
    run = [sys.executable, "-c", FIRST]
    seconds = [float(subprocess.run(run, capture_output=True, text=True, check=True).stdout) for _ in range(repeats)]
    return [{"name": "fundl", "s": float(np.median(seconds))}]


def share_of_peak(rows: list[dict[str, Any]]) -> float:
    """The rate of n d^2 (what syrk needs) at 1e4x1000 in float64 over the rate of a square matrix product."""
    peak = limits.peak("GEMM", "float64", limits.products(2000, np.float64, repeats=5))
    ms = next(r["ms"] for r in rows if (r["size"], r["dtype"], r["name"]) == ("1e4x1000", "float64", "fundl"))
    return 1e4 * 1e6 / (1e-3 * ms) / (1e9 * peak)


def main() -> None:
    args = options.parser(__doc__, repeats=7).parse_args()
    chosen = options.sizes(args, (*SIZES, *PARTS), QUICK, dimensions=(2,))
    repeats = 2 if args.quick else args.repeats
    jax.config.update("jax_enable_x64", True)
    old = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    found: dict[str, Any] = {"results": [], "stream": [], "path": [], "first": []} | old
    found |= {"question": "least squares with an intercept", "machine": stopwatch.machine()}

    def wanted(name: str) -> bool:
        return options.wanted(args, name)

    def keep(name: str, rows: list[dict[str, Any]]) -> None:
        """Show what was measured and write it at once: a long run may be cut short."""
        if name == "results":
            found[name] = [r for r in found[name] if (r["size"], r["dtype"]) != (rows[0]["size"], rows[0]["dtype"])]
            order = {size: i for i, size in enumerate([*SIZES, "1e5x100 offset 1e8"])}
            found[name] = sorted(
                found[name] + rows, key=lambda r: (order.get(r["size"], len(order)), r["dtype"] != "float64")
            )
        else:
            found[name] = rows
        if rows:
            print(f"\n{name}\n{stopwatch.table([tuple(r.values()) for r in rows], tuple(rows[0]))}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n")

    for size in [size for size in chosen if size not in PARTS]:
        for dtype in (np.float64,) if args.quick else (np.float64, np.float32):
            keep(
                "results",
                at_size(size, dtype, repeats * (20 if size == "100x5" and not args.quick else 1), wanted=wanted),
            )
        if size == "1e4x1000":
            found["share of peak"] = share_of_peak(found["results"])
            print(f"\nn d^2 a second at 1e4x1000 over the rate of a matrix product: {found['share of peak']:.2f}")
    if "offset" in chosen:
        keep("results", at_size("1e5x100", np.float64, repeats, 1e8, wanted))
    if "path" in chosen:
        keep("path", path(repeats, args.quick))
    if "first" in chosen:
        keep("first", first(repeats))
    if "stream" in chosen:
        keep("stream", stream(repeats))


if __name__ == "__main__":
    main()
