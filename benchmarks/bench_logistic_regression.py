"""Logistic and softmax regression to the optimum: fundl against every solver that reaches it.

    python -m benchmarks.bench_logistic_regression --case 569x30 --json benchmarks/results/logistic_regression.json

All minimise sum_i L_i + (l2 / 2) norm2(w)^2 with a free intercept and l2 = 1. Each rival gets the loosest of its
tolerances with which it ends at f - f* <= 1e-10 f*. f* is that of the best parameters found, and how far those are from
the optimum at most is proved in extended precision: norm2(gradient)^2 / (2 l2), by strong convexity.
scikit-learn's liblinear penalises the intercept and solves another problem; sag and saga are left to small data.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import stopwatch
from fundl import datasets, logistic_regression, softmax_regression

GOAL = 1e-10
L2 = 1.0
LADDER = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
PATIENCE = 60.0  # seconds that one rival may spend on finding its tolerance


class Data(NamedTuple):
    X: np.ndarray
    y: np.ndarray
    k: int  # 1: binary


def standardised(X: np.ndarray) -> np.ndarray:
    spread = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1)


def normal(n: int, d: int, k: int, seed: int = 0) -> Data:
    """Correlated normal columns, labels drawn from a model of the same kind."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X += 0.5 * X[:, rng.permutation(d)]
    W = rng.normal(size=(d, max(k, 1))) * (2 / np.sqrt(d))
    z = X @ W
    if k == 1:
        return Data(X, (rng.random(n) < 1 / (1 + np.exp(-z[:, 0]))).astype(np.int32), 1)
    return Data(X, np.argmax(z + rng.gumbel(size=z.shape), axis=1).astype(np.int32), k)


def like_mnist(n: int = 60000) -> Data:
    """Ten classes of 28 x 28 pictures: a few strokes for each class, moved and blurred, most pixels 0."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, n)
    styles = rng.random((10, 12, 2)) * 18 + 5
    rows, cols = np.arange(28)[:, None], np.arange(28)[None, :]
    X = np.empty((n, 784))
    for start in range(0, n, 4000):
        part = slice(start, min(start + 4000, n))
        points = styles[y[part]] + rng.normal(size=(len(y[part]), 12, 2)) * 1.3 + rng.normal(size=(len(y[part]), 1, 2))
        a = np.exp(-((rows[None, None, :, 0] - points[:, :, :1]) ** 2) / 2.5)
        b = np.exp(-((cols[None, None, 0, :] - points[:, :, 1:]) ** 2) / 2.5)
        picture = np.minimum(np.einsum("npi,npj->nij", a, b), 1)
        X[part] = np.round(np.where(picture > 0.1, picture, 0) * 255).reshape(len(y[part]), 784) / 255
    return Data(X, y.astype(np.int32), 10)


def breast_cancer() -> Data:
    data = datasets.breast_cancer()
    return Data(standardised(np.asarray(data.X, float)), np.asarray(data.y, np.int32), 1)


def digits() -> Data:
    data = datasets.digits()
    return Data(np.asarray(data.X, float) / 16, np.asarray(data.y, np.int32), 10)


CASES: dict[str, Callable[[], Data]] = {
    "569x30": breast_cancer,
    "1e5x100": lambda: normal(100_000, 100, 1),
    "1e6x20": lambda: normal(1_000_000, 20, 1),
    "2000x2000": lambda: normal(2000, 2000, 1),
    "1797x64x10": digits,
    "60000x784x10": like_mnist,
    "1e5x50x10": lambda: normal(100_000, 50, 10),
}


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


# ---- adapters: each returns call(tolerance) -> (w, b) ----------------------------------------------------------------


def of_fundl(data: Data, method: str = "auto") -> Callable[[float], Any]:
    model = logistic_regression if data.k == 1 else softmax_regression
    options = {} if data.k == 1 else {"num_classes": data.k}

    def call(tol: float) -> Any:
        fit = model.fit(data.X, data.y, l2=L2, method=method, tol=tol, **options)
        assert float(fit.certificate.suboptimality) <= max(GOAL, 1e-8 if data.X.dtype.itemsize < 8 else 0) * float(
            fit.certificate.objective
        )
        return fit.params

    return call


def of_sklearn(solver: str) -> Callable[[Data], Callable[[float], Any]]:
    def adapter(data: Data) -> Callable[[float], Any]:
        from sklearn.linear_model import LogisticRegression

        def call(tol: float) -> Any:
            model = LogisticRegression(C=1 / L2, solver=solver, tol=tol, max_iter=10_000).fit(data.X, data.y)
            w, b = model.coef_.T, model.intercept_
            return (w[:, 0], b[0]) if data.k == 1 else (w, b)

        return call

    return adapter


def of_glum(data: Data) -> Callable[[float], Any]:
    from glum import GeneralizedLinearRegressor

    if data.k > 1:
        raise ModuleNotFoundError(name="glum has no softmax and")

    def call(tol: float) -> Any:
        model = GeneralizedLinearRegressor(family="binomial", alpha=L2 / len(data.X), gradient_tol=tol, max_iter=1000)
        model.fit(data.X, data.y)
        return model.coef_, model.intercept_

    return call


def of_torch(data: Data) -> Callable[[float], Any]:
    import torch

    X = torch.from_numpy(data.X)
    y = torch.from_numpy(data.y).to(X.dtype if data.k == 1 else torch.int64)
    n = len(data.X)

    def call(tol: float) -> Any:
        shape = (data.X.shape[1],) if data.k == 1 else (data.X.shape[1], data.k)
        w = torch.zeros(shape, dtype=X.dtype, requires_grad=True)
        b = torch.zeros(shape[1:], dtype=X.dtype, requires_grad=True)
        solver = torch.optim.LBFGS(
            [w, b], max_iter=2000, max_eval=4000, history_size=10, tolerance_grad=tol, tolerance_change=0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Any:
            solver.zero_grad()
            z = X @ w + b
            if data.k == 1:
                J = torch.nn.functional.binary_cross_entropy_with_logits(z, y)
            else:
                J = torch.nn.functional.cross_entropy(z, y)
            J = J + L2 / 2 / n * (w * w).sum()
            J.backward()
            return J

        solver.step(closure)
        return w.detach().numpy(), b.detach().numpy()

    return call


def mean_objective(data: Data) -> tuple[Any, Any, Any]:
    X, y = jnp.asarray(data.X), jnp.asarray(data.y)
    d, n = X.shape[1], X.shape[0]

    def J(params: Any, X: Any, y: Any) -> Any:
        z = X @ params[0] + params[1]
        if data.k == 1:
            L = jax.nn.softplus(z) - y.astype(z.dtype) * z
        else:
            L = jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], axis=1)[:, 0]
        return jnp.mean(L) + L2 / 2 / n * jnp.sum(params[0] ** 2)

    shape = (d,) if data.k == 1 else (d, data.k)
    return J, (jnp.zeros(shape, X.dtype), jnp.zeros(shape[1:], X.dtype)), (X, y)


def of_jaxopt(data: Data) -> Callable[[float], Any]:
    import jaxopt

    J, start, (X, y) = mean_objective(data)

    @jax.jit
    def run(start: Any, X: Any, y: Any, tol: Any) -> Any:
        return jaxopt.LBFGS(J, tol=tol, maxiter=2000, jit=True).run(start, X, y).params

    return lambda tol: run(start, X, y, tol)


def of_optax(data: Data) -> Callable[[float], Any]:
    import optax

    J, start, (X, y) = mean_objective(data)
    solver = optax.lbfgs()

    @jax.jit
    def run(start: Any, X: Any, y: Any, tol: Any) -> Any:
        def f(params: Any) -> Any:
            return J(params, X, y)

        value_and_grad = optax.value_and_grad_from_state(f)

        def step(carry: Any) -> Any:
            params, state, _, count = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=f)
            return optax.apply_updates(params, updates), state, optax.tree.norm(grad), count + 1

        first = (start, solver.init(start), jnp.asarray(jnp.inf, X.dtype), jnp.asarray(0))
        return jax.lax.while_loop(lambda c: (c[2] > tol) & (c[3] < 2000), step, first)[0]

    return lambda tol: run(start, X, y, tol)


RIVALS: dict[str, Callable[[Data], Callable[[float], Any]]] = {
    **{f"sklearn {s}": of_sklearn(s) for s in ("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga")},
    "glum": of_glum,
    "torch L-BFGS": of_torch,
    "jaxopt L-BFGS": of_jaxopt,
    "optax L-BFGS": of_optax,
}


def tolerance(call: Callable[[float], Any], values: Callable[[Any], Any], ladder: tuple[float, ...], best: Any) -> Any:
    """The loosest tolerance that reaches the goal, what it reached, and why not if none does."""
    start, reached = time.perf_counter(), np.inf
    for tol in ladder:
        reached = float((values(call(tol)) - best) / best)
        if reached <= GOAL:
            return tol, reached, ""
        if time.perf_counter() - start > PATIENCE:
            return None, reached, f"stopped after {PATIENCE:g} s"
    return None, reached, "does not reach it"


def run(case: str, dtype: str, repeats: int, only: list[str] | None = None) -> dict[str, Any]:
    data = CASES[case]()
    data = data._replace(X=np.ascontiguousarray(data.X.astype(dtype)))
    w, b = of_fundl(data._replace(X=data.X.astype(float)))(0.0)
    best, gap = value_and_gap(data, w, polished(data, w, b))
    assert gap <= 1e-12 * best, f"f* is known to {gap / float(best)} only"

    def values(params: Any) -> Any:
        return value_and_gap(data, *params)[0]

    calls, rows, missing = {}, {}, []
    mine = of_fundl(data)
    calls["fundl"], rows["fundl"] = (
        (lambda: mine(GOAL)),
        {"tol": GOAL, "reached": float((values(mine(GOAL)) - best) / best)},
    )
    calls["fundl, tol=0"] = lambda: mine(0.0)
    rows["fundl, tol=0"] = {"tol": 0.0, "reached": float((values(mine(0.0)) - best) / best)}
    for name, adapter in RIVALS.items():
        if only and not any(word in name for word in only):
            continue
        if name.endswith(("sag", "saga")) and data.X.size > 2e5:
            continue
        if name.endswith("newton-cholesky") and data.X.shape[1] * max(data.k, 1) > 3000:
            missing.append(f"{name}: minutes for a Hessian of {data.X.shape[1] * data.k} rows")
            continue
        try:
            call = adapter(data)
            print(f"  {case} {dtype}: {name}", file=sys.stderr, flush=True)
            tol, reached, why = tolerance(call, values, LADDER, best)
        except ModuleNotFoundError as error:
            missing.append(f"{name} ({error.name} is not there)")
            continue
        if tol is None:
            missing.append(f"{name}: {why} (f - f* = {reached:.1e} f*)")
        else:
            calls[name], rows[name] = (lambda call=call, tol=tol: call(tol)), {"tol": tol, "reached": reached}
    times = stopwatch.interleave(calls, repeats=repeats, progress=case)
    for name, t in times.items():
        rows[name] |= {"ms": 1e3 * t.median, "first_ms": 1e3 * t.first, "ratio": stopwatch.ratio(times["fundl"], t)}
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="*", choices=[*CASES, "first"], default=list(CASES))
    parser.add_argument("--dtype", nargs="*", choices=["float64", "float32"], default=["float64"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="rivals whose name holds one of these words")
    parser.add_argument("--json", type=Path, help="also write the results to this file, beside those of other cases")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    found: dict[str, Any] = json.loads(args.json.read_text()) if args.json and args.json.exists() else {"cases": {}}
    for case in args.case:
        if case == "first":
            found["first_result_s"] = first_result()
            print(found["first_result_s"])
            continue
        for dtype in args.dtype:
            here = run(case, dtype, args.repeats, args.only)
            rows = [
                (name, r["ms"], r["first_ms"], r["ratio"], r["reached"], r["tol"])
                for name, r in here["results"].items()
            ]
            print(f"{case} {dtype}, f* proved to {here['proved_gap']:.1e}")
            print(stopwatch.table(rows, ("", "ms", "first ms", "fundl / this", "(f - f*) / f*", "tol")))
            for line in here["missing"]:
                print("left out:", line)
            found["cases"][f"{case} {dtype}"] = here
    found["machine"] = stopwatch.machine()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
