"""Losses and activations: value with gradient, against jax.grad of the plain formula, jax.nn or optax, and torch.

    python -m benchmarks.bench_losses [--size 128x10] [--functions mse,gelu] [--json benchmarks/results/losses.json]

Many steps run in one compiled loop, so that dispatch is not in the figures of JAX; torch is called from a Python loop,
as it is used, and its dispatch is in its own. Freed memory stays with the process: no step waits for new pages. The
error is the worst of the entries of value and gradient, relative to that entry, against definitions with 60 digits;
half of the sample is of large inputs, where formulas lose their digits. Operations, bytes and temporary memory are the
compiler's counts for one value with gradient. float32.
"""

import functools
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests"))

import oracles
from benchmarks import limits, options, stopwatch
from benchmarks.functions import FUNCTIONS, Function, Inputs
from fundl import activations, losses

SIZES, QUICK = ("8192x1000", "1e7", "128x10"), ("128x10",)
QUICK_FUNCTIONS = ("gelu", "mse", "cross_entropy_with_logits")
WORK = 8e7  # entries that one timed call goes through
Step = Callable[..., tuple[Any, Any]]  # (x, *labels, dy) -> value and gradient


def module(name: str) -> Any:
    return losses if FUNCTIONS[name].kind == "loss" else activations


def own(name: str) -> Step:
    """fundl's function and its backward by hand."""
    f, backward = getattr(module(name), name), getattr(module(name), f"{name}_backward")

    def step(dy: Any, *args: Any) -> tuple[Any, Any]:
        gradient = backward(dy, *args)
        return f(*args), gradient[0] if isinstance(gradient, tuple) else gradient

    return step


def automatic(f: Callable[..., Any]) -> Step:
    def step(dy: Any, x: Any, *labels: Any) -> tuple[Any, Any]:
        value, pull = jax.vjp(lambda x: f(x, *labels), x)
        return value, pull(dy)[0]

    return step


def steps(name: str, wanted: Callable[[str], bool]) -> dict[str, Step]:
    """Those of JAX, fundl's first: by hand, and by jax.grad of its forward."""
    function = FUNCTIONS[name]
    found = {"fundl": own(name), "fundl, jax.grad": automatic(getattr(module(name), name))}
    if wanted("jax.grad, plain formula"):
        found["jax.grad, plain formula"] = automatic(function.plain)
    library = "optax" if function.kind == "loss" else "jax.nn"
    if function.jax is not None and wanted(library):
        found[library] = automatic(function.jax)
    return found


def looped(step: Step, count: int) -> Callable[..., Any]:
    """`count` steps in one program, less XLA's pass that would do before the loop what is the same in all of them."""

    @functools.partial(jax.jit, compiler_options={"xla_disable_hlo_passes": "while-loop-invariant-code-motion"})
    def run(dy: Any, x: Any, *labels: Any) -> Any:
        start = jnp.zeros(dy.shape, x.dtype), jnp.zeros_like(x)
        return jax.lax.fori_loop(0, count, lambda *_: step(dy, x, *labels), start)

    return run


def with_torch(function: Function, dy: np.ndarray, inputs: Inputs, count: int) -> Callable[[], Any]:
    import torch

    x, *labels = (torch.from_numpy(np.array(a)) for a in inputs)
    x.requires_grad_()
    cotangent = torch.from_numpy(np.array(dy))

    forward = function.torch
    assert forward is not None

    def run() -> Any:
        value = None
        for _ in range(count):
            x.grad = None
            value = forward(torch.nn.functional, x, *labels)
            value.backward(cotangent)
        assert value is not None
        assert x.grad is not None
        return value.detach().numpy(), x.grad.numpy()

    return run


def drawn(function: Function, shape: tuple[int, ...], scale: float = 1.0, seed: int = 0) -> tuple[np.ndarray, Inputs]:
    """The cotangent and the inputs, in float32."""
    rng = np.random.default_rng(seed)
    inputs = tuple(a.astype(np.float32) if a.dtype.kind == "f" else a for a in function.sample(rng, shape, scale))
    out = jax.eval_shape(function.plain, *inputs).shape
    return (rng.uniform(0.5, 1.5, out) if out else np.ones(out)).astype(np.float32), inputs


def truth(name: str, dy: np.ndarray, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient from definitions that share no code with fundl, in float64 of 60 digits."""
    with oracles.mp.workdps(60):
        x, *labels = (oracles.exact(a) if a.dtype.kind == "f" else a for a in inputs)
        if FUNCTIONS[name].kind == "loss":
            value = oracles.reduced(getattr(oracles, name), x, *labels)
            gradient = oracles.reduced_gradient(getattr(oracles, f"{name}_gradient"), oracles.exact(dy), x, *labels)[0]
        else:
            value = getattr(oracles, name)(x)
            if FUNCTIONS[name].kind == "axis":
                gradient = getattr(oracles, f"{name}_gradient")(oracles.exact(dy), x)[0]
            else:
                gradient = oracles.exact(dy) * getattr(oracles, f"{name}_slope")(x)
        return oracles.rounded(value), oracles.rounded(gradient)


def error(found: tuple[Any, Any], exact: tuple[np.ndarray, np.ndarray]) -> float:
    """The worst entry's, relative to that entry; those below 1e-36 need not be told from 0."""
    worst, floor = 0.0, 128 * float(np.finfo(np.float32).tiny)
    for a, e in zip(found, exact, strict=True):
        a, e = np.asarray(a, float).ravel(), np.asarray(e, float).ravel()
        # What is below the normal numbers XLA rounds to 0, and it may do so on the way to what is just above them.
        far = np.maximum(np.abs(a - e) - (np.abs(e) < floor) * floor, 0) / np.maximum(np.abs(e), floor)
        worst = max(worst, float(np.max(np.where(np.isnan(far), np.inf, far))))
    return worst


def counts(step: Step, dy: Any, inputs: Any) -> dict[str, float]:
    program = jax.jit(step).lower(dy, *inputs).compile()
    cost = program.cost_analysis() or {}
    return {
        "operations": cost.get("flops", 0.0) + cost.get("transcendentals", 0.0),
        "bytes": cost.get("bytes accessed", 0.0),
        "memory": program.memory_analysis().temp_size_in_bytes,
    }


def errors(name: str, calls: dict[str, Step], wanted: Callable[[str], bool]) -> dict[str, float]:
    function, found = FUNCTIONS[name], {}
    for scale in (1.0, 20.0):
        dy, inputs = drawn(function, (12, 10) if function.rows else (120,), scale, seed=1)
        exact = truth(name, dy, inputs)
        here = {who: jax.jit(step)(dy, *inputs) for who, step in calls.items()}
        if wanted("torch") and stopwatch.versions()["torch"]:
            here["torch"] = with_torch(function, dy, inputs, 1)()
        for who, values in here.items():
            found[who] = max(found.get(who, 0.0), error(values, exact))
    return found


def traffic(name: str, size: str) -> int:
    """Bytes that must move at least: inputs and cotangent are read, value and gradient written."""
    dy, inputs = drawn(FUNCTIONS[name], options.shape(size))
    return 2 * dy.nbytes + sum(a.nbytes for a in inputs) + inputs[0].nbytes


def measure(name: str, size: str, repeats: int, wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    """One row for each that offers the function."""
    function, shape = FUNCTIONS[name], options.shape(size)
    dy, inputs = drawn(function, shape)
    count = max(1, min(2000, int(WORK / np.prod(shape))))
    here = steps(name, wanted)
    reached = errors(name, here, wanted)
    cotangent, arrays = jnp.asarray(dy), tuple(map(jnp.asarray, inputs))
    calls: dict[str, Callable[[], Any]] = {}
    rounds = dict.fromkeys(here, count)
    for who, step in here.items():
        run = looped(step, count)
        calls[who] = lambda run=run: run(cotangent, *arrays)
    if "torch" in reached:
        rounds["torch"] = max(1, count // 20)  # dispatch makes its small steps long
        calls["torch"] = with_torch(function, dy, inputs, rounds["torch"])
    times = stopwatch.interleave(calls, repeats=repeats, progress=f"{name} {size}")
    return [
        {"problem": name, "size": size, "name": who, "seconds": t.median / rounds[who], "spread": t.spread,
         "ratio": stopwatch.ratio(times["fundl"], t) * rounds[who] / count, "error": reached[who],
         "compile": t.first - t.median,
         **(counts(here[who], cotangent, arrays) if who in here else {})}
        for who, t in times.items()
    ]  # fmt: skip


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--functions", default="", help="only these, with commas between")
    args = parser.parse_args()
    names = args.functions.split(",") if args.functions else QUICK_FUNCTIONS if args.quick else list(FUNCTIONS)
    found: dict[str, Any] = {"question": "losses and activations, value with gradient, float32"}
    found |= {"machine": stopwatch.machine(), "results": []}
    stopwatch.keep_memory()
    copy = max(r["rate"] for r in limits.bandwidth(64 if args.quick else 512, 5))
    for size in options.sizes(args, SIZES, QUICK, dimensions=(1, 2)):
        for name in names:
            if FUNCTIONS[name].rows and len(options.shape(size)) < 2:
                continue
            rows = measure(name, size, 2 if args.quick else args.repeats, lambda who: options.wanted(args, who))
            lines = [
                (r["name"], 1e6 * r["seconds"], r["ratio"], r["error"], r.get("operations", ""), r.get("bytes", ""),
                 r.get("memory", ""))
                for r in rows
            ]  # fmt: skip
            for r in rows:
                r["share"] = traffic(name, size) / r["seconds"] / (1e9 * copy)
            head = (f"{name} {size}", "us", "fundl / this", "error", "operations", "bytes", "temporary")
            print(stopwatch.table(lines, head), "\n", flush=True)
            found["results"] += rows
            if args.json:
                args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
