"""Smooth functions as they are often written, whose gradient by jax.grad is wrong at some points.

    python -m benchmarks.wrong_autodiff --json benchmarks/results/wrong_autodiff.json

The examiner is given each function with its right gradient by hand. It must find where autodiff and differences of the
function part, say so, and pass the rule.
"""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import options, stopwatch
from fundl import verify


class Case(NamedTuple):
    """A smooth function, how it is written, its right backward, and a sample."""

    name: str
    written: str
    f: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Any, ...]


def _sigmoid(x: Any) -> Any:
    e = jnp.exp(-jnp.abs(x))
    return jnp.where(x >= 0, 1 / (1 + e), e / (1 + e))


X = np.array([0.5, -1.0, 2.0])

CASES = [
    Case(
        "binary cross-entropy of logits, y = 1/4",
        "max(z, 0) - z y + log1p(exp(-abs(z)))",
        lambda z: jnp.maximum(z, 0) - 0.25 * z + jnp.log1p(jnp.exp(-jnp.abs(z))),
        lambda dy, z: dy * (_sigmoid(z) - 0.25),
        (X,),
    ),
    Case(
        "softplus",
        "max(x, 0) + log1p(exp(-abs(x)))",
        lambda x: jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))),
        lambda dy, x: dy * _sigmoid(x),
        (X,),
    ),
    Case(
        "log-sigmoid",
        "min(x, 0) - log1p(exp(-abs(x)))",
        lambda x: jnp.minimum(x, 0) - jnp.log1p(jnp.exp(-jnp.abs(x))),
        lambda dy, x: dy * _sigmoid(-x),
        (X,),
    ),
    Case(
        "elu",
        "where(x > 0, x, expm1(min(x, 0)))",
        lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0))),
        lambda dy, x: dy * jnp.exp(jnp.minimum(x, 0)),
        (X,),
    ),
    Case(
        "sigmoid",
        "where(x >= 0, 1 / (1 + exp(-x)), exp(x) / (1 + exp(x)))",
        lambda x: jnp.where(x >= 0, 1 / (1 + jnp.exp(-x)), jnp.exp(x) / (1 + jnp.exp(x))),
        lambda dy, x: dy * _sigmoid(x) * _sigmoid(-x),
        (X,),
    ),
    Case(
        "squared norm", "linalg.norm(x) ** 2", lambda x: jnp.linalg.norm(x) ** 2, lambda dy, x: dy * 2 * x, (X,)
    ),
    Case(
        "variance", "std(x) ** 2", lambda x: jnp.std(x) ** 2, lambda dy, x: dy * 2 * (x - jnp.mean(x)) / x.size, (X,)
    ),
    Case(
        "square root of the positive part",
        "where(x > 0, sqrt(x), 0)",
        lambda x: jnp.where(x > 0, jnp.sqrt(x), 0),
        lambda dy, x: jnp.where(x > 0, dy / (2 * jnp.sqrt(x)), 0),
        (X,),
    ),
]  # fmt: skip


def examine(case: Case) -> verify.Report:
    """The report on the right rule of a case, in float64."""
    with jax.enable_x64(True):
        return verify.check_rule(case.f, case.backward, *(jnp.asarray(a, jnp.float64) for a in case.args))


def run() -> dict[str, Any]:
    """Per case whether the rule passes, and jax.grad and the rule where the report calls the reference wrong."""
    rows = []
    for case in CASES:
        report = examine(case)
        found = next((m for m in (re.search(r" at (\S+) \(", text) for text in report.reference) if m), None)
        row: dict[str, Any] = {"function": case.name, "written": case.written, "rule passes": report.ok}
        if found:
            with jax.enable_x64(True):
                x = jnp.full(X.shape, float(found[1]))
                y, pull = jax.vjp(case.f, x)
                row["at"], row["jax.grad"] = float(found[1]), float(pull(jnp.ones_like(y))[0][0])
                row["by hand, and by differences"] = float(case.backward(jnp.ones_like(y), x)[0])
        rows.append({k: str(v) if isinstance(v, float) and v != v else v for k, v in row.items()})
    return {"question": "where jax.grad itself is wrong", "machine": stopwatch.machine(), "results": rows}


def main() -> None:
    arguments = options.parser(__doc__).parse_args()
    options.sizes(arguments, ())
    options.no_rivals(arguments)
    found = run()
    for r in found["results"]:
        print(r)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
