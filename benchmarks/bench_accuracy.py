"""How many digits are right, over the whole range of the dtype: activations and losses, value and gradient.

    python -m benchmarks.bench_accuracy --json benchmarks/results/accuracy.json

The points, the exact values (mpmath) and the measure are those of tests/test_accuracy.py: the error in units of the
last place, where an error that one unit in the inputs would cause as well counts as one. jax.nn and optax are
differentiated by jax.grad, torch by its autograd; scipy has values only. float32 and float64.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import laws  # noqa: E402
import oracles as o  # noqa: E402
from benchmarks import options, stopwatch  # noqa: E402
from benchmarks.functions import FUNCTIONS, Function  # noqa: E402
from catalogue import ROWS, Row  # noqa: E402
from test_accuracy import errors, exactly, wobbles  # noqa: E402

# From a cotangent and the inputs to the values, one for each example, and the gradient of the first input.
Evaluate = Callable[[Any, tuple[Any, ...]], tuple[Any, Any]]
DTYPES = (np.float32, np.float64)
DIGITS = 700  # of the exact values: what is left of 1 - p where p is certain may be 1e-300
SCIPY = {
    "sigmoid": "expit", "log_sigmoid": "log_expit", "softmax": "softmax", "log_softmax": "log_softmax",
    "logsumexp": "logsumexp", "huber": "huber",
}  # fmt: skip


def chosen() -> list[Row]:
    """The rows of the catalogue that FUNCTIONS has rivals for: the plain ones, without options."""
    return [row for row in ROWS if row.name in FUNCTIONS and row.kind != "norm" and not row.variant and not row.options]


def own(row: Row) -> Evaluate:
    options = {"reduction": "none"} if row.kind == "loss" else {}

    def evaluate(dy: Any, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        y, _, found = laws.run(row, inputs, cotangent=lambda *_: jnp.asarray(dy), **options)
        return y, found[0]

    return evaluate


def in_jax(row: Row, f: Callable[..., Any]) -> Evaluate:
    """Losses, which are means over the examples given, of one example at a time."""
    each = f if row.kind != "loss" else jax.vmap(lambda *x: f(*(v[None] for v in x)))

    def evaluate(dy: Any, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        y, backward = jax.vjp(lambda x: each(x, *inputs[1:]), inputs[0])
        return y, backward(dy)[0]

    return jax.jit(evaluate)


def in_torch(row: Row, f: Callable[..., Any]) -> Evaluate:
    import torch

    def of_one(dy: Any, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        x, *rest = (torch.tensor(np.asarray(v)) for v in inputs)
        x.requires_grad_()
        y = f(torch.nn.functional, x, *rest)
        y.backward(torch.tensor(np.asarray(dy)))
        return y.detach().numpy(), x.grad.numpy()

    def evaluate(dy: Any, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        if row.kind != "loss":
            return of_one(dy, inputs)
        found = [of_one(dy[i], tuple(v[i : i + 1] for v in inputs)) for i in range(len(dy))]
        return np.stack([y for y, _ in found]), np.concatenate([g for _, g in found])

    return evaluate


def in_scipy(row: Row) -> Evaluate:
    import scipy.special

    f = getattr(scipy.special, SCIPY[row.name])
    if row.kind == "axis":
        return lambda _, inputs: (f(inputs[0], axis=-1), None)
    if row.name == "huber":
        return lambda _, inputs: (f(inputs[0].dtype.type(1), inputs[0] - inputs[1]).sum(axis=1), None)
    return lambda _, inputs: (f(inputs[0]), None)


def evaluators(row: Row, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Evaluate]]:
    yield "fundl", own(row)
    function: Function = FUNCTIONS[row.name]
    versions = stopwatch.versions()
    if wanted("jax.nn, optax"):
        yield "jax.nn, optax", in_jax(row, function.jax or function.plain)
    if function.torch and versions["torch"] and wanted("torch"):
        yield "torch", in_torch(row, function.torch)
    if row.name in SCIPY and versions["scipy"] and wanted("scipy"):
        yield "scipy", in_scipy(row)


def worst(got: Any, exact: o.Exact, wobble: o.Exact, row: Row, dtype: Any) -> float:
    """Units in the last place; infinite where a number is due and there is none, or the other way round."""
    try:
        return errors(got, exact, wobble, dtype, row.smallest)[1]
    except AssertionError:
        return math.inf


def measure(row: Row, dtype: Any, n: int, wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    inputs = row.wide(np.random.default_rng(1), n, dtype)
    eps = float(np.finfo(dtype).eps)
    with o.mp.workdps(60 if row.kind == "elementwise" else DIGITS):
        given = [laws.of_floats(v) for v in inputs]
        [exact] = exactly(row.oracle, row, given)
        [wobble] = wobbles(row.oracle, row, given, eps)
        # A softmax does not change when all logits do alike: its gradient for a cotangent of ones is 0.
        draw = np.random.default_rng(2).standard_normal if row.kind == "axis" else np.ones
        dy = np.asarray(draw(exact.shape), dtype)
        given = [laws.of_floats(v) for v in (dy, *inputs)]
        slope = exactly(row.oracle_gradient, row, given)[0]
        slope_wobble = wobbles(row.oracle_gradient, row, given, eps)[0]
        found = []
        for who, evaluate in evaluators(row, wanted):
            with np.errstate(all="ignore"):
                y, g = evaluate(dy, inputs)
            found.append({
                "problem": row.name, "dtype": np.dtype(dtype).name, "name": who, "points": int(np.size(inputs[0])),
                "value": worst(y, exact, wobble, row, dtype),
                "gradient": None if g is None else worst(g, slope, slope_wobble, row, dtype),
            })  # fmt: skip
    return found


def main() -> None:
    parser = options.parser(__doc__)
    args = parser.parse_args()
    options.sizes(args, ())
    found: dict[str, Any] = {"question": "worst error in units of the last place", "machine": stopwatch.machine()}
    found["results"] = []
    rows = chosen()[::4] if args.quick else chosen()
    for row in rows:
        for dtype in DTYPES:
            n = (20 if args.quick else 400) if row.kind == "elementwise" else (2 if args.quick else 20)
            here = measure(row, dtype, n, lambda who: options.wanted(args, who))
            found["results"] += here
            text = ", ".join(f"{r['name']} {r['value']:.3g} / {_text(r['gradient'])}" for r in here)
            print(f"{row.name} {np.dtype(dtype).name}: {text}", file=sys.stderr, flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    head = ("function", "dtype", "", "value", "gradient")
    lines = [(r["problem"], r["dtype"], r["name"], r["value"], _text(r["gradient"])) for r in found["results"]]
    print(stopwatch.table(lines, head))


def _text(x: float | None) -> str:
    return "" if x is None else f"{x:.3g}"


if __name__ == "__main__":
    main()
