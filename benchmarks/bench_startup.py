"""What it costs to begin: imports, the first result of a fresh process, compilation, and small calls.

    python -m benchmarks.bench_startup [--size import,first,compile,call] [--json benchmarks/results/startup.json]

Imports and first results are seconds of whole fresh processes, Python's own start taken off, run in turn. Compilation
is lowering and compiling, in a process that has done neither of that function. A call is one of a compiled function on
few numbers, waited for: what is left is dispatch.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import options, stopwatch
from fundl import linear_regression, logistic_regression, losses, mlp, softmax_regression

QUICK = ("mse and gradient", "cross-entropy and gradient")  # of what is compiled
PARTS = ("import", "first", "compile", "call")
IMPORTS = {
    "fundl": "import fundl\nfor name in fundl.__all__: getattr(fundl, name)",
    "fundl, the name alone": "import fundl",
    "jax": "import jax.numpy",
    "optax": "import optax",
    "sklearn": "import sklearn.linear_model",
    "torch": "import torch",
    "statsmodels": "import statsmodels.api",
}
DATA = "import numpy as np\nX = np.random.default_rng(0).normal(size=(500, 20))\nt = X[:, 0] + np.sin(9 * X[:, 1])\n"
FIRST = {
    "least squares": {
        "fundl": "from fundl import linear_regression as m\nm.fit(X, t).params.w.block_until_ready()",
        "sklearn": "from sklearn.linear_model import LinearRegression\nLinearRegression().fit(X, t)",
        "jnp.linalg.lstsq": "import jax.numpy as j\nj.linalg.lstsq(j.asarray(X), j.asarray(t))[0].block_until_ready()",
        "torch": "import torch\ntorch.linalg.lstsq(torch.from_numpy(X), torch.from_numpy(t)[:, None])",
    },
    "logistic regression": {
        "fundl": "from fundl import logistic_regression as m\nm.fit(X, 1 * (t > 0), l2=1.0).params.w.sum()",
        "sklearn": "from sklearn.linear_model import LogisticRegression\nLogisticRegression().fit(X, 1 * (t > 0))",
        "statsmodels": "import statsmodels.api as s\ns.Logit(t > 0, s.add_constant(X)).fit(disp=False)",
    },
    "a loss and its gradient": {
        "fundl": "from fundl import losses\nimport jax\njax.block_until_ready(losses.mse_backward(1.0, X, X + 1))",
        "jax.grad": "import jax, jax.numpy as jnp\njax.grad(lambda a: jnp.mean((a - 1) ** 2))(X).block_until_ready()",
        "torch": "import torch\nx = torch.from_numpy(X).requires_grad_()\n((x - 1) ** 2).mean().backward()",
    },
}  # fmt: skip


def fresh(code: str) -> float:
    """Seconds of a new process that runs this."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start


def processes(problem: str, codes: dict[str, str], repeats: int) -> list[dict[str, Any]]:
    """Rows of the time beyond that of a process that does nothing; what is not installed is left out."""
    found = {}
    for name, code in codes.items():
        try:
            fresh(code)
            found[name] = code
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode().strip().splitlines()[-1]
            if "ModuleNotFoundError" not in reason:
                raise RuntimeError(f"{name}: {reason}") from error
            print(f"left out: {name} ({reason})")
    nothing = min(fresh("") for _ in range(repeats))
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats):
        for name, code in found.items():
            seconds[name].append(fresh(code) - nothing)
    return rows(problem, {name: stopwatch.Timing(s[0], tuple(s)) for name, s in seconds.items()})


def rows(problem: str, times: dict[str, stopwatch.Timing]) -> list[dict[str, Any]]:
    return [
        {"problem": problem, "name": name, "seconds": t.median, "spread": t.spread,
         "ratio": stopwatch.ratio(times["fundl"], t)}
        for name, t in times.items()
    ]  # fmt: skip


def first(problem: str, codes: dict[str, str], repeats: int) -> list[dict[str, Any]]:
    """From nothing to the first result, imports included."""
    return processes(f"first {problem}", {name: DATA + code for name, code in codes.items()}, repeats)


def functions() -> dict[str, dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]]:
    """Small problems: what is compiled, or called, by whom."""
    rng = np.random.default_rng(0)
    X, t = jnp.asarray(rng.normal(size=(128, 10)), jnp.float32), jnp.asarray(rng.normal(size=128), jnp.float32)
    y, c = jnp.asarray(t > 0, jnp.int32), jnp.arange(128) % 10
    net = mlp.init(jax.random.key(0), (10, 16, 10), dtype=jnp.float32)

    def cross_entropy(z: Any, c: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(z, c).mean()

    def by_hand(z: Any, c: Any) -> Any:
        return losses.cross_entropy_with_logits(z, c), losses.cross_entropy_with_logits_backward(1.0, z, c)

    def mse_by_hand(a: Any, t: Any) -> Any:
        return losses.mse(a, t), losses.mse_backward(1.0, a, t)[0]

    return {
        "mse and gradient": {
            "fundl": (mse_by_hand, (t, t + 1)),
            "jax.grad": (jax.value_and_grad(lambda a, t: jnp.mean((a - t) ** 2)), (t, t + 1)),
        },
        "cross-entropy and gradient": {
            "fundl": (by_hand, (X, c)), "optax, jax.grad": (jax.value_and_grad(cross_entropy), (X, c))
        },
        "network and gradient": {
            "fundl": (mlp.value_and_gradient, (net, X, c)), "jax.grad": (jax.value_and_grad(mlp.loss), (net, X, c))
        },
        "least squares": {
            "fundl": (lambda X, t: linear_regression.fit(X, t).params, (X, t)),
            "jnp.linalg.lstsq": (lambda X, t: jnp.linalg.lstsq(X, t)[0], (X, t)),
        },
        "logistic regression": {"fundl": (lambda X, y: logistic_regression.fit(X, y, l2=1.0).params, (X, y))},
        "softmax regression": {
            "fundl": (lambda X, c: softmax_regression.fit(X, c, num_classes=10, l2=1.0).params, (X, c))
        },
    }  # fmt: skip


def compilation(repeats: int, problems: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """Seconds of lowering and compiling; caches are emptied before each, and the rivals take turns."""
    found = []
    for problem, who in functions().items():
        if problems and problem not in problems:
            continue

        def compiled(f: Callable[..., Any], args: tuple[Any, ...]) -> float:
            jax.clear_caches()
            start = time.perf_counter()
            jax.jit(lambda *a: f(*a)).lower(*args).compile()
            return time.perf_counter() - start

        seconds: dict[str, list[float]] = {name: [] for name in who}
        for _ in range(repeats):
            for name, call in who.items():
                seconds[name].append(compiled(*call))
        found += rows(f"compile {problem}", {n: stopwatch.Timing(s[0], tuple(s)) for n, s in seconds.items()})
    return found


def calls(repeats: int) -> list[dict[str, Any]]:
    """A compiled function on few numbers, and an identity, which is dispatch alone."""
    found = []
    for problem, who in functions().items():
        if "regression" in problem or problem == "least squares":
            continue
        ready = {name: (lambda f=jax.jit(f), args=args: f(*args)) for name, (f, args) in who.items()}  # noqa: B008
        identity = jax.jit(lambda *a: a[0])
        ready["limit: identity"] = lambda f=identity, args=who["fundl"][1]: f(*args)
        found += rows(f"call {problem}", stopwatch.interleave(ready, repeats=repeats))
    return found


def main() -> None:
    args = options.parser(__doc__).parse_args()
    options.no_rivals(args)
    repeats = 1 if args.quick else args.repeats
    found: dict[str, Any] = {"question": "start-up, compilation, dispatch", "machine": stopwatch.machine()}
    found["results"] = []
    for part in options.sizes(args, PARTS, ("import", "compile", "call")):
        if part == "import":
            chosen = {k: IMPORTS[k] for k in (("fundl", "jax") if args.quick else IMPORTS)}
            here = processes("import", chosen, repeats)
        elif part == "first":
            here = [r for name, codes in FIRST.items() for r in first(name, codes, repeats)]
        else:
            here = compilation(repeats, QUICK if args.quick else None) if part == "compile" else calls(200)
        lines = [(r["problem"], r["name"], 1e3 * r["seconds"], r["ratio"]) for r in here]
        print(stopwatch.table(lines, (part, "", "ms", "fundl / this")), "\n", flush=True)
        found["results"] += here
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
