"""linear_cross_entropy against its rivals: compiled temporary memory, time of value and all gradients, error.

    python -m benchmarks.bench_linear_cross_entropy [--full] [--repeats 5]

Memory of JAX programs is XLA's own account of temporaries; of torch the growth of the peak resident set (Linux) in a
process of its own, without the gradients. Times are medians over interleaved runs, with the process's CPU time beside
them, which other programs on the machine disturb less. Errors are root mean squares against float64, over the largest
entry.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np


def problem(n: int, d: int, k: int) -> tuple[np.ndarray, ...]:
    r = np.random.default_rng(0)
    X = r.normal(size=(n, d)).astype(np.float32)
    W = (r.normal(size=(d, k)) / d**0.5).astype(np.float32)
    return X, W, r.normal(size=k).astype(np.float32), r.integers(0, k, n)


def torch_once(size: tuple[int, int, int], chunked: bool) -> tuple[Any, Any]:
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


def in_own_process(size: tuple[int, int, int], chunked: bool, repeats: int) -> dict[str, float]:
    """Seconds and MB of one torch variant, in a process of its own."""
    code = f"from benchmarks import bench_linear_cross_entropy as m; m.torch_report({size}, {chunked}, {repeats})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": float("nan"), "why": done.stderr.strip().splitlines()[-1]}  # type: ignore[dict-item]
    return json.loads(done.stdout.splitlines()[-1])


def peak_kib() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def torch_report(size: tuple[int, int, int], chunked: bool, repeats: int) -> None:
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


def jax_variants(size: tuple[int, int, int]) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import optax

    from fundl.losses import cross_entropy_with_logits, linear_cross_entropy

    def logits(X: Any, W: Any, b: Any) -> Any:
        return jnp.matmul(X, W, precision="highest") + b

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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="n=4096 d=512 k=32768 instead of n=1024 d=256 k=8192")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-torch", action="store_true")
    given = parser.parse_args()
    size = (4096, 512, 32768) if given.full else (1024, 256, 8192)
    import jax

    rows: dict[str, dict[str, float]] = {}
    programs = jax_variants(size)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(given.repeats + 1):
        for name, (program, args) in programs.items():
            t, c = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(*args))
            times[name].append((time.perf_counter() - t, time.process_time() - c))
    X, W, b, y = problem(*size)
    exact = reference(X, W, b, y) if not given.full else None
    for name, (program, args) in programs.items():
        wall, cpu = zip(*times[name][1:], strict=True)
        rows[name] = {
            "wall": statistics.median(wall),
            "cpu": min(cpu),
            "MB": program.memory_analysis().temp_size_in_bytes / 2**20,
        }
        if exact is not None:
            value, gradients = program(*args)
            found = (value, *gradients)
            rows[name]["error"] = max(
                float(np.sqrt(np.mean((np.asarray(a, float) - e) ** 2)) / np.max(np.abs(e)))
                for a, e in zip(found, exact, strict=True)
            )
    if not given.no_torch:
        for name, chunked in (("torch: linear_cross_entropy", True), ("torch: cross_entropy(linear)", False)):
            rows[name] = in_own_process(size, chunked, given.repeats)
    ours = rows["fundl.linear_cross_entropy"]
    print(f"n, d, k = {size}, float32, value and gradients of X, W, b; jax {jax.__version__}")
    print("| variant | wall s | CPU s | MB | wall / ours | CPU / ours | MB / ours | error |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        if "why" in row:
            print(f"| {name} | {row['why']} |")
            continue
        ratios = " | ".join(f"{row[q] / ours[q]:.2f}" for q in ("wall", "cpu", "MB"))
        error = f"{row['error']:.1e}" if "error" in row else ""
        print(f"| {name} | {row['wall']:.3f} | {row['cpu']:.3f} | {row['MB']:.1f} | {ratios} | {error} |")


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
