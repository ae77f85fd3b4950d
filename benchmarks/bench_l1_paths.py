"""Sparse logistic regression along a path of penalties: fundl against solvers made for it.

    python -m benchmarks.bench_l1_paths [--size 2000x200] [--json benchmarks/results/l1_paths.json]

All minimise sum_i L_i + l1 norm1(w) without an intercept (celer has none), for penalties from the smallest that makes
w = 0 down to a hundredth of it; those that can begin each fit at the last one do, fundl as `sweep.logistic`. Each gets
the loosest of its tolerances with which every fit of the path ends at f - f* <= 1e-8 f*; f* is that of fundl's fits to
rounding, whose distance from the optimum at most is proved by duality. float64.
"""

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import options, stopwatch
from benchmarks.problems import Data, classes
from fundl import logistic_regression, sweep

SIZES, QUICK = ("569x30", "2000x200", "1e5x100", "300x600"), ("569x30",)
GOAL = 1e-8
LADDER = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10, 1e-12)
Path = Callable[[float], Any]  # tolerance -> w (penalties, d)


def penalties(data: Data, count: int) -> np.ndarray:
    """From the smallest for which w = 0 is the optimum to a hundredth."""
    return float(np.max(np.abs(data.X.T @ (data.y - 0.5)))) * np.geomspace(0.99, 0.01, count)


def objective(data: Data, l1: float, w: np.ndarray) -> float:
    z = (data.X @ np.asarray(w, float)) * (1 - 2.0 * data.y)
    return float(np.sum(np.logaddexp(0, z)) + l1 * np.sum(np.abs(w)))


# ---- adapters: each returns a path(tolerance) ------------------------------------------------------------------------


def of_fundl(data: Data, l1s: np.ndarray) -> Path:
    def path(tol: float) -> Any:
        return sweep.logistic(data.X, data.y, l1=l1s, intercept=False, tol=tol).params.w[:, 0, 0]

    return path


def of_fundl_fit_by_fit(data: Data, l1s: np.ndarray) -> Path:
    """Each by itself, from 0."""

    def path(tol: float) -> Any:
        return jnp.stack(
            [logistic_regression.fit(data.X, data.y, l1=l1, intercept=False, tol=tol).params.w for l1 in l1s]
        )

    return path


def of_fundl_in_one_program(data: Data, l1s: np.ndarray) -> Path:
    X, y, penalties = jnp.asarray(data.X), jnp.asarray(data.y), jnp.asarray(l1s)

    @jax.jit
    def run(X: Any, y: Any, penalties: Any, tol: Any) -> Any:
        return jax.lax.map(
            lambda l1: logistic_regression.fit(X, y, l1=l1, intercept=False, tol=tol).params.w, penalties
        )

    return lambda tol: run(X, y, penalties, tol)


def of_celer(data: Data, l1s: np.ndarray) -> Path:
    from celer import celer_path

    X, y = np.asfortranarray(data.X), 2.0 * data.y - 1
    return lambda tol: celer_path(X, y, "logreg", alphas=l1s, tol=tol, max_iter=200, use_PN=True)[1].T


def of_skglm(data: Data, l1s: np.ndarray) -> Path:
    from skglm import SparseLogisticRegression

    X, y = np.asfortranarray(data.X), 2.0 * data.y - 1

    def path(tol: float) -> Any:
        model = SparseLogisticRegression(tol=tol, fit_intercept=False, warm_start=True, max_iter=200)
        return [model.set_params(alpha=l1 / len(y)).fit(X, y).coef_.ravel().copy() for l1 in l1s]

    return path


def of_sklearn(solver: str) -> Callable[[Data, np.ndarray], Path]:
    def adapter(data: Data, l1s: np.ndarray) -> Path:
        from sklearn.linear_model import LogisticRegression

        def path(tol: float) -> Any:
            model = LogisticRegression(
                l1_ratio=1.0, solver=solver, tol=tol, fit_intercept=False, max_iter=5000,
                warm_start=solver == "saga", random_state=0,
            )  # fmt: skip
            return [model.set_params(C=1 / l1).fit(data.X, data.y).coef_.ravel().copy() for l1 in l1s]

        return path

    return adapter


def of_glum(data: Data, l1s: np.ndarray) -> Path:
    from glum import GeneralizedLinearRegressor

    def path(tol: float) -> Any:
        model = GeneralizedLinearRegressor(
            family="binomial", alpha_search=True, alpha=list(l1s / len(data.y)), l1_ratio=1.0, fit_intercept=False,
            gradient_tol=tol, max_iter=1000,
        )  # fmt: skip
        return model.fit(data.X, data.y).coef_path_

    return path


RIVALS: dict[str, Callable[[Data, np.ndarray], Path]] = {
    "celer": of_celer,
    "skglm": of_skglm,
    "sklearn liblinear": of_sklearn("liblinear"),
    "sklearn saga": of_sklearn("saga"),
    "glum": of_glum,
}


def reaching(path: Path, data: Data, l1s: np.ndarray, best: list[float]) -> tuple[float | None, float]:
    """The loosest tolerance that reaches the goal everywhere on the path, and the worst (f - f*) / f* there."""
    worst = np.inf
    for tol in LADDER:
        found = path(tol)
        worst = max(objective(data, l1, w) / f - 1 for l1, w, f in zip(l1s, found, best, strict=True))
        if worst <= GOAL:
            return tol, worst
    return None, worst


def run(size: str, count: int, repeats: int, wanted: Callable[[str], bool]) -> tuple[list[dict[str, Any]], list[str]]:
    """One row for each that reaches the goal, and why the others are left out."""
    data = classes(size)
    l1s = penalties(data, count)
    candidates = {
        "fundl": of_fundl,
        "fundl, fit by fit": of_fundl_fit_by_fit,
        "fundl, one program": of_fundl_in_one_program,
    }
    candidates |= {name: adapter for name, adapter in RIVALS.items() if wanted(name)}
    exact = []
    for l1 in l1s:
        fit = logistic_regression.fit(data.X, data.y, l1=l1, intercept=False)
        exact.append(objective(data, l1, np.asarray(fit.params.w)))
        gap = float(fit.certificate.suboptimality) / exact[-1]
        assert gap <= GOAL / 100, f"f* is known to {gap:.1e} only, at l1 = {l1:.3g}"
    calls: dict[str, Callable[[], Any]] = {}
    reached, left_out = {}, []
    for name, adapter in candidates.items():
        if name.endswith("saga") and data.X.size > 2e5:
            left_out.append(f"{name}: minutes")
            continue
        print(f"  {size}: {name}", file=sys.stderr, flush=True)
        try:
            path = adapter(data, l1s)
        except ModuleNotFoundError as error:
            left_out.append(f"{name} ({error.name} is not installed)")
            continue
        tol, worst = reaching(path, data, l1s, exact)
        if tol is None:
            left_out.append(f"{name}: does not reach it (f - f* = {worst:.1e} f*)")
            continue
        calls[name], reached[name] = (lambda path=path, tol=tol: path(tol)), (tol, worst)
    times = stopwatch.interleave(calls, repeats=repeats, progress=size)
    rows = [
        {"problem": "logistic, l1 path", "size": size, "penalties": count, "name": name, "seconds": t.median,
         "spread": t.spread, "first": t.first, "ratio": stopwatch.ratio(times["fundl"], t),
         "tol": reached[name][0], "reached": max(reached[name][1], 0.0)}
        for name, t in times.items()
    ]  # fmt: skip
    return rows, left_out


def main() -> None:
    parser = options.parser(__doc__, repeats=3)
    parser.add_argument("--penalties", type=int, default=10)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    count, repeats = (3, 1) if args.quick else (args.penalties, args.repeats)
    found: dict[str, Any] = {"question": "sparse logistic regression along a path of penalties"}
    found |= {"machine": stopwatch.machine(), "results": [], "missing": []}
    for size in options.sizes(args, SIZES, QUICK, dimensions=(2,)):
        rows, left_out = run(size, count, repeats, lambda name: options.wanted(args, name))
        lines = [(r["name"], r["seconds"], r["first"], r["ratio"], r["reached"], r["tol"]) for r in rows]
        print(stopwatch.table(lines, (f"{size}, {count} penalties", "s", "first s", "fundl / this", "reached", "tol")))
        for text in left_out:
            print("left out:", text)
        found["results"] += rows
        found["missing"] += [f"{size}: {text}" for text in left_out]
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
