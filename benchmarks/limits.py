"""The physical limit of this machine and the cost of measuring: other figures are read as a share of what is possible.

    python -m benchmarks.limits --json benchmarks/results/limits.json

Rates are of the best round: GEMM counts 2 n^3 operations, SYRK (X.T @ X, by symmetry half the work) n d^2, a copy the
bytes read and written. `nothing` is a call that does nothing under the stopwatch; `dispatch` a jitted identity.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import options, stopwatch

SIZES, QUICK = ("2000",), ("500",)
Row = dict[str, Any]


def products(n: int, dtype: Any, repeats: int) -> list[Row]:
    """GEMM (n, n) @ (n, n) and SYRK of (4 n, n), by NumPy's BLAS and by XLA."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(n, n)).astype(dtype)
    X = rng.normal(size=(4 * n, n)).astype(dtype)
    multiply = jax.jit(lambda A, B: jnp.matmul(A, B, precision="highest"))
    gram = jax.jit(lambda X: jnp.matmul(X.T, X, precision="highest"))
    a, x = jnp.asarray(A), jnp.asarray(X)
    work = {"GEMM": 2.0 * n**3, "SYRK": 4.0 * n * n**2}
    calls: dict[str, Callable[[], Any]] = {
        "GEMM numpy": lambda: A @ A,
        "GEMM XLA": lambda: multiply(a, a),
        "SYRK numpy": lambda: X.T @ X,
        "SYRK XLA": lambda: gram(x),
    }
    times = stopwatch.interleave(calls, repeats=repeats, progress=f"products {np.dtype(dtype).name}")
    return [
        {"problem": name.split()[0], "size": str(n), "dtype": np.dtype(dtype).name, "name": name.split()[1],
         "seconds": t.best, "spread": t.spread, "rate": work[name.split()[0]] / t.best / 1e9, "unit": "Gflop/s"}
        for name, t in times.items()
    ]  # fmt: skip


def bandwidth(megabytes: int, repeats: int) -> list[Row]:
    """Bytes read and written by a copy of an array that no cache holds."""
    a = np.ones(megabytes * 2**20 // 8)
    b = np.empty_like(a)
    x = jnp.asarray(a)
    copy = jax.jit(lambda x: x + jnp.ones((), x.dtype))  # XLA leaves out a bare copy
    calls: dict[str, Callable[[], Any]] = {"numpy": lambda: np.copyto(b, a), "XLA": lambda: copy(x)}
    times = stopwatch.interleave(calls, repeats=repeats, progress="copy")
    return [
        {"problem": "copy", "size": f"{megabytes} MB", "dtype": "float64", "name": name,
         "seconds": t.best, "spread": t.spread, "rate": 2 * a.nbytes / t.best / 1e9, "unit": "GB/s"}
        for name, t in times.items()
    ]  # fmt: skip


def overheads(repeats: int) -> list[Row]:
    """What a measurement of nothing says, and a jitted call that does nothing."""
    identity = jax.jit(lambda x: x)
    x = jnp.zeros((128, 10), jnp.float32)
    calls: dict[str, Callable[[], Any]] = {"nothing": lambda: None, "dispatch": lambda: identity(x)}
    times = stopwatch.interleave(calls, repeats=repeats)
    return [
        {"problem": "a call", "name": name, "seconds": t.median, "spread": t.spread, "rate": 1e6 * t.median,
         "unit": "us"}
        for name, t in times.items()
    ]  # fmt: skip


def peak(problem: str, dtype: str, rows: list[Row]) -> float:
    """The best rate of a product or a copy, whoever reached it."""
    return max(r["rate"] for r in rows if r["problem"] == problem and r.get("dtype") == dtype)


def main() -> None:
    args = options.parser(__doc__, repeats=7).parse_args()
    options.no_rivals(args)
    repeats = 3 if args.quick else args.repeats
    jax.config.update("jax_enable_x64", True)
    rows: list[Row] = []
    for size in options.sizes(args, SIZES, QUICK, dimensions=(1,)):
        for dtype in (np.float64, np.float32):
            rows += products(*options.shape(size), dtype, repeats)
    rows += bandwidth(64 if args.quick else 512, repeats)
    rows += overheads(100 * repeats)
    found = {"question": "what this machine can do", "machine": stopwatch.machine(), "results": rows}
    lines = [(r["problem"], r.get("dtype", ""), r.get("size", ""), r["name"], r["rate"], r["unit"]) for r in rows]
    print(stopwatch.table(lines, ("", "", "size", "by", "rate", "")))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
