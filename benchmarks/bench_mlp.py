"""Networks: one training step against other libraries, and the gradient by hand against autodiff of the same network.

    python -m benchmarks.bench_mlp

The training step is one of a network 784-256-128-10, batch 128, Adam; all start from the same parameters, see the same
batches in the same order, and must reach the same loss. The gradients are compared for several depths, widths, batch
sizes and activations, 20 steps of plain gradient descent in one program each.
"""

import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import limits, options, stopwatch
from fundl import descent, mlp

SIZES, BATCH, RATE = (784, 256, 128, 10), 128, 1e-3
GRADIENTS = [
    (SIZES, 128, "relu"), (SIZES, 128, "gelu"), (SIZES, 1024, "tanh"), ((784, 1024, 1024, 10), 256, "relu"),
    ((64, 64, 64, 64, 64, 64, 10), 512, "elu"), ((64, 256, 10), 4096, "sigmoid"), ((256, 512, 10), 64, "silu"),
]  # fmt: skip


def problem(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs like those of MNIST, most of them 0, with labels that a network can learn."""
    rng = np.random.default_rng(0)
    X = (rng.random((rows, SIZES[0])) * (rng.random((rows, SIZES[0])) < 0.2)).astype(np.float32)
    y = np.argmax(X @ rng.normal(size=(SIZES[0], SIZES[-1])).astype(np.float32), axis=1).astype(np.int32)
    return X, y


def with_fundl(params: mlp.Params, X: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """The whole epoch in one program: hand-written gradients in a scan."""
    optimizer, data = optax.adam(RATE), (jnp.asarray(X), jnp.asarray(y))
    steps = len(X) // BATCH
    return lambda: _ordered(optimizer, params, data, steps)


def _ordered(optimizer: Any, params: mlp.Params, data: Any, steps: int) -> Any:
    result = descent.minimize(
        None,
        params,
        data=data,
        value_and_gradient=mlp.value_and_gradient,
        optimizer=optimizer,
        steps=steps,
        batch_size=BATCH,
        key=jax.random.key(0),
    )
    return result.params, result.history[-1]


def jax_loop(step: Callable[..., Any], state: Any, X: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """What a user of a JAX library writes: a jitted step with donated state, called from a Python loop."""
    X, y = jnp.asarray(X), jnp.asarray(y)
    order = descent._batches.permutation(jax.random.key(0), 0, len(X))
    batches = np.asarray(order)[: len(X) // BATCH * BATCH].reshape(-1, BATCH)

    def epoch() -> Any:
        current, J = jax.tree.map(jnp.copy, state), None
        for rows in batches:
            current, J = step(current, X[rows], y[rows])
        return current, J

    return epoch


def with_flax(params: mlp.Params, X: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    from flax import linen

    class Net(linen.Module):
        @linen.compact
        def __call__(self, a: Any) -> Any:
            for k in SIZES[1:-1]:
                a = linen.relu(linen.Dense(k)(a))
            return linen.Dense(SIZES[-1])(a)

    net, optimizer = Net(), optax.adam(RATE)
    variables = {"params": {f"Dense_{i}": {"kernel": p.W, "bias": p.b} for i, p in enumerate(params.layers)}}

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, X: Any, y: Any) -> Any:
        variables, memory = state

        def loss(v: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(net.apply(v, X), y).mean()

        J, g = jax.value_and_grad(loss)(variables)
        updates, memory = optimizer.update(g, memory, variables)
        return (optax.apply_updates(variables, updates), memory), J

    return jax_loop(step, (variables, optimizer.init(variables)), X, y)


def with_equinox(params: mlp.Params, X: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    import equinox as eqx

    net = eqx.nn.MLP(SIZES[0], SIZES[-1], 1, 1, key=jax.random.key(0))
    layers = []
    for p in params.layers:
        layer = eqx.nn.Linear(*p.W.shape, key=jax.random.key(0))
        layers.append(eqx.tree_at(lambda m: (m.weight, m.bias), layer, (p.W.T, p.b)))
    net = eqx.tree_at(lambda m: m.layers, net, tuple(layers))
    optimizer = optax.adam(RATE)
    arrays, static = eqx.partition(net, eqx.is_array)

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, X: Any, y: Any) -> Any:
        arrays, memory = state

        def loss(a: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(eqx.combine(a, static))(X), y).mean()

        J, g = jax.value_and_grad(loss)(arrays)
        updates, memory = optimizer.update(g, memory, arrays)
        return (optax.apply_updates(arrays, updates), memory), J

    return jax_loop(step, (arrays, optimizer.init(arrays)), X, y)


def with_torch(params: mlp.Params, X: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    import torch

    order = np.asarray(descent._batches.permutation(jax.random.key(0), 0, len(X)))
    batches = torch.from_numpy(order[: len(X) // BATCH * BATCH].reshape(-1, BATCH).astype(np.int64))
    inputs, labels = torch.from_numpy(X), torch.from_numpy(y.astype(np.int64))

    def epoch() -> Any:
        layers: list[Any] = []
        for i, p in enumerate(params.layers):
            layer = torch.nn.Linear(*p.W.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(np.array(p.W.T)))
                layer.bias.copy_(torch.from_numpy(np.array(p.b)))
            layers += [layer, torch.nn.ReLU()] if i < len(params.layers) - 1 else [layer]
        net = torch.nn.Sequential(*layers)
        optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
        J = None
        for rows in batches:
            J = torch.nn.functional.cross_entropy(net(inputs[rows]), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            J.backward()
            optimizer.step()
        assert J is not None
        return None, J.detach()

    return epoch


RIVALS = {"flax + optax": with_flax, "equinox + optax": with_equinox, "torch": with_torch}


def run(rows: int, repeats: int, wanted: Callable[[str], bool], quick: bool) -> dict[str, Any]:
    """Epoch times of all that are installed, and the loss that each reached."""
    X, y = problem(rows)
    params = mlp.init(jax.random.key(1), SIZES, dtype=jnp.float32)
    calls = {"fundl": with_fundl(params, X, y)}
    missing = []
    for name, adapter in RIVALS.items():
        if not wanted(name):
            continue
        try:
            calls[name] = adapter(params, X, y)
        except ModuleNotFoundError as error:
            missing.append(f"{name} ({error.name} is not installed)")
    reached = {name: float(call()[1]) for name, call in calls.items()}
    times = stopwatch.interleave(calls, repeats=repeats, progress="mlp")
    steps = rows // BATCH
    results = [
        {
            "name": name,
            "step_ms": 1e3 * t.median / steps,
            "spread": t.spread,
            "epoch_s": t.median,
            "ratio": stopwatch.ratio(times["fundl"], t),
            "loss": reached[name],
        }
        for name, t in times.items()
    ]
    work = 6 * BATCH * sum(a * b for a, b in itertools.pairwise(SIZES))  # three products a layer, two operations each
    peak = limits.peak("GEMM", "float32", limits.products(500 if quick else 2000, np.float32, repeats=5))
    best = min((r for r in results if r["name"] != "fundl"), key=lambda r: r["step_ms"], default=None)
    return {
        "question": "training step, 784-256-128-10, batch 128, Adam, float32",
        "machine": stopwatch.machine(),
        "missing": missing,
        "results": results,
        "fundl over the best rival": None if best is None else best["ratio"],
        "share of peak": work / (1e-3 * results[0]["step_ms"]) / (1e9 * peak),
        "gradients": gradients(GRADIENTS[:1], 3) if quick else gradients(GRADIENTS),
    }


def descend(value_and_gradient: Callable[..., Any], steps: int = 20) -> Callable[..., Any]:
    """`steps` steps of gradient descent in one program, so that the call itself weighs little."""

    @jax.jit
    def run(params: Any, X: Any, y: Any) -> Any:
        def step(p: Any, _: Any) -> Any:
            J, g = value_and_gradient(p, X, y)
            return jax.tree.map(lambda v, d: v - RATE * d, p, g), J

        return jax.lax.scan(step, params, length=steps)

    return run


def gradients(networks: list[Any], repeats: int = 15) -> list[dict[str, Any]]:
    """Time, operations and temporary memory of the gradient by hand, each over those of jax.value_and_grad."""
    automatic = jax.value_and_grad(mlp.loss)
    found = []
    for sizes, n, activation in networks:
        params = mlp.init(jax.random.key(0), sizes, activation=activation, dtype=jnp.float32)
        X = jax.random.normal(jax.random.key(1), (n, sizes[0]), jnp.float32)
        y = jnp.arange(n) % sizes[-1]
        costs = []
        for f in (mlp.value_and_gradient, automatic):
            compiled = jax.jit(f).lower(params, X, y).compile()
            costs.append((compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes))
        by_hand, by_autodiff = descend(mlp.value_and_gradient), descend(automatic)
        times = stopwatch.interleave(
            {
                "by hand": lambda f=by_hand, a=(params, X, y): f(*a),
                "auto": lambda f=by_autodiff, a=(params, X, y): f(*a),
            },
            repeats=repeats,
        )
        found.append(
            {
                "network": f"{'-'.join(map(str, sizes))} {activation}",
                "batch": n,
                "time": stopwatch.ratio(times["by hand"], times["auto"]),
                "operations": costs[0][0] / costs[1][0],
                "memory": costs[0][1] / max(costs[1][1], 1),
            }
        )
    return found


def main() -> None:
    parser = options.parser(__doc__, repeats=7)
    parser.add_argument("--rows", type=int, default=12800)
    args = parser.parse_args()
    options.sizes(args, ())
    rows, repeats = (1280, 3) if args.quick else (args.rows, args.repeats)
    found = run(rows, repeats, lambda name: options.wanted(args, name), args.quick)
    rows = [(r["name"], r["step_ms"], r["epoch_s"], r["ratio"], r["loss"]) for r in found["results"]]
    print(f"fundl's products over the rate of a large one: {found['share of peak']:.2f}")
    print(stopwatch.table(rows, ("", "ms a step", "s an epoch", "fundl / this", "loss reached")))
    rows = [tuple(g.values()) for g in found["gradients"]]
    print("\nthe gradient by hand over jax.value_and_grad of the same network")
    print(stopwatch.table(rows, ("network", "batch", "time", "operations", "temporary memory")))
    for line in found["missing"]:
        print("left out:", line)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
