"""Logistic and softmax regression to the optimum: fundl against every solver that reaches it.

    python -m benchmarks.bench_logistic_regression --size 569x30 --json benchmarks/results/logistic_regression.json

All minimise sum_i L_i + (l2 / 2) norm2(w)^2 with a free intercept and l2 = 1. Each rival gets the loosest of its
tolerances with which it ends at f - f* <= 1e-10 f* (1e-6 f* in float32). f* is that of the best parameters found, and
how far those are from the optimum at most is proved in extended precision: norm2(gradient)^2 / (2 l2), by strong
convexity. scikit-learn's liblinear penalises the intercept and solves another problem; sag and saga are left to small
data; "fundl, batches" reads the rows in blocks, as from a file. Sizes: any NxD (two classes) or NxDxK; 569x30,
1797x64x10 and 60000x784x10 are real data or like them.
"""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import options, stopwatch
from benchmarks.problems import Data, classes
from benchmarks.rivals import L2, RIVALS
from fundl import logistic_regression, softmax_regression

GOALS = {"float64": 1e-10, "float32": 1e-6}  # of (f - f*) / f*
SIZES = ("569x30", "1e5x100", "1e6x20", "2000x2000", "1797x64x10", "60000x784x10", "1e5x50x10")
QUICK = ("569x30", "1000x20x5")
LADDER = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
TALL = 50_000  # rows from which the fit from batches is measured too
BATCH = 1 << 24  # bytes
STREAMED = "fundl, batches"
PATIENCE = 60.0  # seconds that one rival may spend on finding its tolerance


def value_and_gap(data: Data, w: Any, b: Any) -> tuple[np.longdouble, float]:
    """f at (w, b) and a proved bound of f - f*, in extended precision."""
    f, left = np.longdouble(0), np.zeros(max(data.k, 1), np.longdouble)
    w = np.asarray(w, np.longdouble).reshape(data.X.shape[1], -1)
    b = np.asarray(b, np.longdouble).reshape(1, -1)
    g = L2 * w
    for start in range(0, len(data.X), 20_000):
        X, y = data.X[start : start + 20_000].astype(np.longdouble), data.y[start : start + 20_000]
        z = X @ w + b
        if data.k == 1:
            f += np.sum(np.logaddexp(0, z[:, 0]) - y * z[:, 0])
            r = 1 / (1 + np.exp(-z)) - y[:, None]
        else:
            top = z.max(axis=1, keepdims=True)
            e = np.exp(z - top)
            total = e.sum(axis=1, keepdims=True)
            f += np.sum((top + np.log(total))[:, 0] - z[np.arange(len(y)), y])
            r = e / total
            r[np.arange(len(y)), y] -= 1
        g = g + X.T @ r
        left = left + r.sum(axis=0)
    reach = 2 * float(np.abs(b).max() + 10)
    return f + L2 / 2 * np.sum(w * w), float(np.sum(g * g)) / (2 * L2) + float(np.abs(left).sum()) * reach


def polished(data: Data, w: Any, b: Any) -> np.ndarray:
    """The intercepts that are best for w, in extended precision: the gradient in b would blunt the bound."""
    k = max(data.k, 1)
    z = np.concatenate(
        [X.astype(np.longdouble) @ np.asarray(w, np.longdouble).reshape(-1, k) for X in np.array_split(data.X, 50)]
    )
    b = np.asarray(b, np.longdouble).reshape(k)
    target = np.array([np.sum(data.y == 1 if k == 1 else data.y == c) for c in range(k)])
    for _ in range(4):
        p = 1 / (1 + np.exp(-(z + b))) if k == 1 else np.exp(z + b - np.max(z + b, axis=1, keepdims=True))
        p = p if k == 1 else p / p.sum(axis=1, keepdims=True)
        H = (np.diag(p.sum(axis=0)) - p.T @ p).astype(float) + (0 if k == 1 else np.full((k, k), len(p) / k))
        b = b - np.linalg.solve(H, (p.sum(axis=0) - target).astype(float))
    return b


def of_fundl(data: Data, method: str = "auto") -> Callable[[float], Any]:
    model = logistic_regression if data.k == 1 else softmax_regression
    options = {} if data.k == 1 else {"num_classes": data.k}

    def call(tol: float) -> Any:
        fit = model.fit(data.X, data.y, l2=L2, method=method, tol=tol, **options)
        return fit.params

    return call


def streamed(data: Data) -> Callable[[float], Any]:
    """The same fit with a block of the rows in memory at a time, read again for each step."""
    model = logistic_regression if data.k == 1 else softmax_regression
    options = {} if data.k == 1 else {"num_classes": data.k}
    count = -(-data.X.nbytes // BATCH)
    batches = list(zip(np.array_split(data.X, count), np.array_split(data.y, count), strict=True))

    def call(tol: float) -> Any:
        return model.fit_batches(lambda: iter(batches), l2=L2, tol=tol, **options).params

    return call


def tolerance(call: Callable[[float], Any], values: Callable[[Any], Any], goal: float, best: Any) -> Any:
    """The loosest tolerance that reaches the goal, what it reached, and why not if none does."""
    start, reached = time.perf_counter(), np.inf
    for tol in LADDER:
        reached = float((values(call(tol)) - best) / best)
        if reached <= goal:
            return tol, reached, ""
        if time.perf_counter() - start > PATIENCE:
            return None, reached, f"stopped after {PATIENCE:g} s"
    return None, reached, "does not reach it"


def run(case: str, dtype: str, repeats: int, wanted: Callable[[str], bool]) -> dict[str, Any]:
    data, goal = classes(case), GOALS[dtype]
    data = data._replace(X=np.ascontiguousarray(data.X.astype(dtype)))
    w, b = of_fundl(data._replace(X=data.X.astype(float)))(0.0)
    best, gap = value_and_gap(data, w, polished(data, w, b))
    assert gap <= 1e-12 * best, f"f* is known to {gap / float(best)} only"

    def values(params: Any) -> Any:
        return value_and_gap(data, *params)[0]

    calls, rows, missing = {}, {}, []
    mine = {"fundl": (of_fundl(data), goal), "fundl, tol=0": (of_fundl(data), 0.0)}
    if len(data.X) >= TALL:
        mine[STREAMED] = streamed(data), goal
    for name, (call, tol) in mine.items():
        calls[name] = lambda call=call, tol=tol: call(tol)
        rows[name] = {"tol": tol, "reached": float((values(call(tol)) - best) / best)}
    if rows["fundl"]["reached"] > goal:
        missing.append(f"fundl is not left out, but ends at f - f* = {rows['fundl']['reached']:.1e} f*")
    for name, adapter in RIVALS.items():
        if not wanted(name):
            continue
        if name.endswith(("sag", "saga")) and data.X.size > 2e5:
            continue
        if name.endswith("newton-cholesky") and data.X.shape[1] * max(data.k, 1) > 3000:
            missing.append(f"{name}: minutes for a Hessian of {data.X.shape[1] * data.k} rows")
            continue
        try:
            call = adapter(data)
            print(f"  {case} {dtype}: {name}", file=sys.stderr, flush=True)
            tol, reached, why = tolerance(call, values, goal, best)
        except ModuleNotFoundError as error:
            missing.append(f"{name} ({error.name} is not there)")
            continue
        except (TypeError, ValueError) as error:  # optimistix cannot do float32 while jax holds float64
            missing.append(f"{name} fails: {str(error).splitlines()[0]}")
            continue
        if tol is None:
            missing.append(f"{name}: {why} (f - f* = {reached:.1e} f*)")
        else:
            calls[name], rows[name] = (lambda call=call, tol=tol: call(tol)), {"tol": tol, "reached": reached}
    times = stopwatch.interleave(calls, repeats=repeats, progress=case)
    for name, t in times.items():
        rows[name] |= {
            "ms": 1e3 * t.median,
            "spread": t.spread,
            "first_ms": 1e3 * t.first,
            "ratio": stopwatch.ratio(times["fundl"], t),
        }
    rivals = {name: row for name, row in rows.items() if not name.startswith("fundl")}
    fastest = min(rivals, key=lambda name: rivals[name]["ms"], default=None)
    return {
        "case": case, "dtype": dtype, "proved_gap": gap / float(best), "results": rows, "missing": missing,
        "best_rival": fastest, "fundl_over_best_rival": rivals[fastest]["ratio"] if fastest else None,
    }  # fmt: skip


FRESH = """
import time, jax
jax.config.update("jax_enable_x64", True)
import numpy as np
from fundl import {model}, datasets
data = datasets.{data}()
X, y = np.asarray(data.X, float), np.asarray(data.y, np.int32)
X = (X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1)
start = time.perf_counter()
{call}
print(time.perf_counter() - start)
"""


def first_result() -> dict[str, float]:
    """Seconds from `import jax, fundl` to the first fit in a fresh process: of concrete data, and inside of jit."""
    calls = {
        "569x30": "jax.block_until_ready(logistic_regression.fit(X, y, l2=1.0))",
        "569x30, jit": "jax.block_until_ready(jax.jit(lambda X, y: logistic_regression.fit(X, y, l2=1.0))(X, y))",
    }
    found = {}
    for name, call in calls.items():
        code = FRESH.format(model="logistic_regression", data="breast_cancer", call=call)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found[name] = float(done.stdout)
    return found


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--dtype", nargs="*", choices=[*GOALS], default=[*GOALS])
    args = parser.parse_args()
    chosen = options.sizes(args, (*SIZES, "first"), QUICK, dimensions=(2, 3))
    repeats = 2 if args.quick else args.repeats
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    found: dict[str, Any] = json.loads(args.json.read_text()) if args.json and args.json.exists() else {"cases": {}}
    found["machine"] = stopwatch.machine()

    def keep() -> None:
        """At once: a long run may be cut short."""
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n")

    for case in chosen:
        if case == "first":
            found["first_result_s"] = first_result()
            print(found["first_result_s"])
            keep()
            continue
        for dtype in args.dtype[: 1 if args.quick else None]:
            here = run(case, dtype, repeats, lambda name: options.wanted(args, name))
            rows = [
                (name, r["ms"], r["first_ms"], r["ratio"], r["reached"], r["tol"])
                for name, r in here["results"].items()
            ]
            print(f"{case} {dtype}, f* proved to {here['proved_gap']:.1e}")
            print(stopwatch.table(rows, ("", "ms", "first ms", "fundl / this", "(f - f*) / f*", "tol")))
            for line in here["missing"]:
                print("left out:", line)
            found["cases"][f"{case} {dtype}"] = here
            keep()


if __name__ == "__main__":
    main()
