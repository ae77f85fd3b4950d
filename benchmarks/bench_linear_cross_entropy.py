"""linear_cross_entropy against its rivals: compiled temporary memory, time of value and all gradients, error.

    python -m benchmarks.bench_linear_cross_entropy [--size 1024x256x8192] [--json FILE]

Memory of JAX programs is XLA's own account of temporaries; of torch the growth of the peak resident set (Linux) in a
process of its own, without the gradients. Times are medians over interleaved runs, with the process's CPU time beside
them, which other programs on the machine disturb less. Errors are root mean squares against float64, over the largest
entry.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import options, stopwatch

SIZES, QUICK = ("1024x256x8192", "4096x512x32768"), ("256x64x2048",)


def problem(n: int, d: int, k: int) -> tuple[np.ndarray, ...]:
    r = np.random.default_rng(0)
    X = r.normal(size=(n, d)).astype(np.float32)
    W = (r.normal(size=(d, k)) / d**0.5).astype(np.float32)
    return X, W, r.normal(size=k).astype(np.float32), r.integers(0, k, n)


def torch_once(size: tuple[int, ...], chunked: bool) -> tuple[Any, Any]:
    import torch

    X, W, b, y = problem(*size)
    x, w, bias = torch.tensor(X), torch.tensor(W.T.copy()), torch.tensor(b)
    y = torch.tensor(y)
    for v in (x, w, bias):
        v.requires_grad_()
    F = torch.nn.functional

    def step() -> Any:
        for v in (x, w, bias):
            v.grad = None
        if chunked:
            loss = F.linear_cross_entropy(x, w, y, linear_bias=bias, options=torch.nn.LinearCrossEntropyOptions())
        else:
            loss = F.cross_entropy(F.linear(x, w, bias), y)
        loss.backward()
        return loss

    return step, lambda loss: loss.item()


def in_own_process(size: tuple[int, ...], chunked: bool, repeats: int) -> dict[str, Any]:
    """Seconds and MB of one torch variant, in a process of its own."""
    code = f"from benchmarks import bench_linear_cross_entropy as m; m.torch_report({size}, {chunked}, {repeats})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"why": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def peak_kib() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def torch_report(size: tuple[int, ...], chunked: bool, repeats: int) -> None:
    n, d, k = size
    step, _ = torch_once(size, chunked)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now (Linux)
    before = peak_kib()
    wall, cpu = [], []
    for _ in range(repeats + 1):
        t, c = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - t)
        cpu.append(time.process_time() - c)
    grown = (peak_kib() - before) / 1024 - 4 * (n * d + d * k + k) / 2**20  # without the gradients themselves
    print(json.dumps({"wall": statistics.median(wall[1:]), "cpu": min(cpu[1:]), "MB": grown}))


def jax_variants(size: tuple[int, ...]) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import optax

    from fundl.losses import cross_entropy_with_logits, linear_cross_entropy

    def logits(X: Any, W: Any, b: Any) -> Any:
        return jnp.matmul(X, W, precision="highest") + b[None, :]

    def with_optax(X: Any, W: Any, b: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits(X, W, b), y).mean()

    losses = {
        "fundl.linear_cross_entropy": linear_cross_entropy,
        "plain: optax": with_optax,
        "plain: jax.checkpoint(optax)": jax.checkpoint(with_optax),
        "plain: fundl": lambda X, W, b, y: cross_entropy_with_logits(logits(X, W, b), y),
    }
    args = tuple(map(jnp.asarray, problem(*size)))
    gradients = {name: jax.jit(jax.value_and_grad(f, (0, 1, 2))) for name, f in losses.items()}
    return {name: (g.lower(*args).compile(), args) for name, g in gradients.items()}


def at_size(name: str, repeats: int, wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    """One row a variant."""
    import jax

    size = options.shape(name)
    rows: dict[str, dict[str, Any]] = {}
    programs = {who: p for who, p in jax_variants(size).items() if who.startswith("fundl") or wanted(who)}
    times: dict[str, list[tuple[float, float]]] = {who: [] for who in programs}
    for _ in range(repeats + 1):
        for who, (program, args) in programs.items():
            t, c = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(*args))
            times[who].append((time.perf_counter() - t, time.process_time() - c))
    X, W, b, y = problem(*size)
    exact = reference(X, W, b, y) if size[0] * size[2] < 2e7 else None
    for who, (program, args) in programs.items():
        wall, cpu = zip(*times[who][1:], strict=True)
        rows[who] = {
            "wall": statistics.median(wall),
            "spread": stopwatch.Timing(0.0, wall).spread,
            "cpu": min(cpu),
            "MB": program.memory_analysis().temp_size_in_bytes / 2**20,
        }
        if exact is not None:
            value, gradients = program(*args)
            rows[who]["error"] = max(
                float(np.sqrt(np.mean((np.asarray(a, float) - e) ** 2)) / np.max(np.abs(e)))
                for a, e in zip((value, *gradients), exact, strict=True)
            )
    for who, chunked in (("torch: linear_cross_entropy", True), ("torch: cross_entropy(linear)", False)):
        if wanted(who):
            rows[who] = in_own_process(size, chunked, repeats)
    ours = rows["fundl.linear_cross_entropy"]
    for row in rows.values():
        if "why" not in row:
            row |= {f"{q} ratio": ours[q] / row[q] for q in ("wall", "cpu", "MB") if row[q]}
    return [{"name": who, "size": name} | row for who, row in rows.items()]


def main() -> None:
    args = options.parser(__doc__).parse_args()
    found: dict[str, Any] = {"question": "fused cross-entropy, float32, value and gradients of X, W, b"}
    found |= {"machine": stopwatch.machine(), "results": []}
    for size in options.sizes(args, SIZES, QUICK, dimensions=(3,)):
        rows = at_size(size, 2 if args.quick else args.repeats, lambda name: options.wanted(args, name))
        found["results"] += rows
        lines = [
            (r["name"], r["why"]) if "why" in r
            else (r["name"], r["wall"], r["cpu"], r["MB"], *(r.get(f"{q} ratio", "") for q in ("wall", "cpu", "MB")),
                  r.get("error", ""))
            for r in rows
        ]  # fmt: skip
        head = ("variant", "wall s", "CPU s", "MB", "fundl / it: wall", "CPU", "MB", "error")
        lines = [(*line, *[""] * (len(head) - len(line))) for line in lines]
        print(f"n, d, k = {size}\n{stopwatch.table(lines, head)}")
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n")


def reference(X: np.ndarray, W: np.ndarray, b: np.ndarray, y: np.ndarray) -> tuple[Any, ...]:
    X, W, b = (v.astype(np.float64) for v in (X, W, b))
    z = X @ W + b
    m = z.max(axis=1, keepdims=True)
    p = np.exp(z - m)
    total = p.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    value = np.mean(np.log(total[:, 0]) + m[:, 0] - z[rows, y])
    p /= total
    p[rows, y] -= 1
    p /= len(y)
    return value, p @ W.T, X.T @ p, p.sum(axis=0)


if __name__ == "__main__":
    main()
