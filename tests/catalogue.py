"""One row for each exported operation: its pair, its oracle, and the points where it is looked at.

The laws in `laws.py` take a row and know nothing of any operation; a new operation needs a row here and nothing
else. Variants (an option, another kind of label) are rows of their own.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

import oracles as o
from fundl import activations, layers, losses, norms

Inputs = tuple[np.ndarray, ...]
Sampler = Callable[[np.random.Generator, int, Any], Inputs]
INF, NAN = np.inf, np.nan
LOG_2, LOG_3 = float(np.log(2.0)), float(np.log(3.0))


@dataclasses.dataclass(frozen=True)
class Edge:
    """A point where a limit or a convention decides: the exact value, and the gradients for a cotangent of ones."""

    inputs: tuple[Any, ...]
    value: Any
    gradients: tuple[Any, ...] | None = None  # None: not defined there
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """An operation and all that its laws need to know of it."""

    module: ModuleType
    name: str
    kind: str  # elementwise, axis, norm, loss, layer
    sample: Sampler  # n rows of ordinary points, away from kinks
    wide: Sampler  # n rows over the whole range of the dtype
    oracle: Callable[..., o.Exact]
    oracle_gradient: Callable[..., tuple[o.Exact, ...]]
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variant: str = ""
    differentiable: tuple[int, ...] = (0,)  # positions of the inputs that get a gradient
    with_rows: tuple[int, ...] = (0,)  # positions of the inputs whose first axis is that of the examples
    domain: tuple[float, float] = (-INF, INF)  # of the first input
    edges: tuple[Edge, ...] = ()
    smallest: float = 1.0  # results below this many times the smallest normal number may be flushed to 0 by XLA

    def __str__(self) -> str:
        name = f"{self.module.__name__.removeprefix('fundl.')}.{self.name}"
        return f"{name}[{self.variant}]" if self.variant else name


def row(module: ModuleType, name: str, **fields: Any) -> Row:
    fields.setdefault("forward", getattr(module, name))
    fields.setdefault("backward", getattr(module, f"{name}_backward"))
    return Row(module=module, name=name, **fields)


# ---- samplers --------------------------------------------------------------------------------------------------------


def normal(*shape: int) -> Sampler:
    return lambda rng, n, dtype: (rng.normal(size=(n, *shape)).astype(dtype),)


def both(*shape: int) -> Sampler:
    """Predictions and targets, the errors from 0.1 to 3."""

    def sample(rng: np.random.Generator, n: int, dtype: Any) -> Inputs:
        y = rng.normal(size=(n, *shape))
        r = rng.uniform(0.1, 3, size=(n, *shape)) * rng.choice([-1.0, 1.0], size=(n, *shape))
        return (y + r).astype(dtype), y.astype(dtype)

    return sample


def over_the_range(rng: np.random.Generator, n: int, dtype: Any) -> Inputs:
    """Both signs, from the smallest normal to the largest finite number, and densely where exp is neither 0 nor inf."""
    info = np.finfo(dtype)
    exponents = np.linspace(info.minexp, info.maxexp - 1, n).astype(int)
    spread = np.ldexp(1 + rng.random(n), exponents)
    near = np.concatenate([np.linspace(0, -np.log(float(info.tiny)) + 5, n), np.linspace(0, 6, n)])[1:]
    x = np.concatenate([spread, near, near * (1 + 0.3 * rng.random(near.size))]).astype(dtype)
    x = x[np.isfinite(x) & (x >= info.tiny)]
    return (np.concatenate([-x, x]),)


def spread(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, decades: float) -> np.ndarray:
    return (rng.normal(size=shape) * 10.0 ** rng.uniform(-decades, decades, shape)).astype(dtype)


def wide_vectors(k: int) -> Sampler:
    """Vectors whose entries, or whose scales, differ by half the decades of the dtype."""

    def sample(rng: np.random.Generator, n: int, dtype: Any) -> Inputs:
        d = 17 if dtype == np.float32 else 150
        rows = [spread(rng, (n, k), dtype, d), rng.normal(size=(n, k)) * 10.0 ** rng.uniform(-2 * d, 2 * d, (n, 1))]
        x = np.concatenate(rows).astype(dtype)
        return (x[np.isfinite(x).all(1) & (abs(x) >= np.finfo(dtype).tiny).all(1)],)

    return sample


def wide_errors(k: int) -> Sampler:
    def sample(rng: np.random.Generator, n: int, dtype: Any) -> Inputs:
        d = 8 if dtype == np.float32 else 70
        y = np.concatenate([spread(rng, (n, k), dtype, d), rng.normal(size=(n, k))]).astype(dtype)
        y_hat = np.concatenate([spread(rng, (n, k), dtype, d), rng.normal(size=(n, k))]).astype(dtype)
        y_hat[::4] = y[::4] * 1.001
        return y_hat, y

    return sample


def certain_to(dtype: Any) -> float:
    """The largest margin between logits: exp(-80) is a normal float32, and exp(-200) needs 90 digits of the oracle."""
    return 80.0 if dtype == np.float32 else 200.0


def wide_logits(rng: np.random.Generator, n: int, dtype: Any, k: int = 4) -> np.ndarray:
    """Small, large and equal logits, and a class that is certain to any degree."""
    top = certain_to(dtype)
    z = rng.normal(size=(7, n, k))
    certain = z[0].copy()
    certain[:, 1] += rng.uniform(0, top, n)
    tied = z[1].copy()
    tied[:, 2] = tied[:, 0]
    families = [certain, tied + 1000, z[2], 10 * z[3], 1e4 * z[4], 1e-8 * z[5], 1e20 * z[6]]
    families.append(rng.uniform(-top / 2, top / 2, (n, k)))
    return np.concatenate(families).astype(dtype)


def soft_labels(rng: np.random.Generator, shape: tuple[int, int], dtype: Any, zeros: float = 0.0) -> np.ndarray:
    y = rng.dirichlet(np.full(shape[1], 0.5), shape[0])
    return np.where(rng.random(shape) < zeros, 0, y).astype(dtype)


def labelled(make: Callable[..., np.ndarray], *, soft: bool, zeros: float = 0.0, k: int = 4) -> Sampler:
    def sample(rng: np.random.Generator, n: int, dtype: Any) -> Inputs:
        x = make(rng, n, dtype)
        y = soft_labels(rng, x.shape, dtype, zeros) if soft else rng.integers(0, k, len(x)).astype(np.int32)
        return x, y

    return sample


def logits(rng: np.random.Generator, n: int, dtype: Any) -> np.ndarray:
    return rng.normal(size=(n, 4)).astype(dtype)


def probabilities(rng: np.random.Generator, n: int, dtype: Any) -> np.ndarray:
    return (0.05 + 0.8 * rng.dirichlet(np.ones(4), n)).astype(dtype)


def wide_probabilities(rng: np.random.Generator, n: int, dtype: Any) -> np.ndarray:
    z = wide_logits(rng, n, np.float64) % 60
    e = np.exp(z - z.max(1, keepdims=True))
    return (e / e.sum(1, keepdims=True)).astype(dtype)


def binary(wide: bool, of_logits: bool, *shape: int) -> Sampler:
    def sample(rng: np.random.Generator, n: int, dtype: Any) -> Inputs:
        size = (n, *shape)
        x = rng.normal(size=size) if of_logits else rng.uniform(0.05, 0.95, size)
        y = rng.uniform(0.05, 0.95, size)
        if wide:
            top = certain_to(dtype)
            small = 10.0 ** -rng.uniform(0, 36, size)
            near_1 = 1 - 10.0 ** -rng.uniform(0, 6, size)
            more = (
                [rng.uniform(-top, top, size), spread(rng, size, dtype, 30)]
                if of_logits
                else [rng.random(size), small, near_1]
            )
            x = np.concatenate([x, *more])
            y = rng.choice([0, 1, 0.25, 1e-3, 1 - 2**-20, 1 / 3], size=x.shape)
        return x.astype(dtype), y.astype(dtype)

    return sample


def linear_inputs(vector: bool, scale: float) -> Sampler:
    def sample(rng: np.random.Generator, n: int, dtype: Any) -> Inputs:
        k = () if vector else (3,)
        X, W, b = rng.normal(size=(n, 4)), rng.normal(size=(4, *k)), rng.normal(size=k)
        return (X * scale).astype(dtype), (W / scale).astype(dtype), np.asarray(b, dtype)

    return sample


# ---- rows ------------------------------------------------------------------------------------------------------------


def elementwise(name: str, at_0: Any, at_inf: Any, at_minus_inf: Any, **fields: Any) -> Row:
    """`at_x` is the pair (value, slope) at x."""
    points = ((0.0, at_0), (-0.0, at_0), (INF, at_inf), (-INF, at_minus_inf))
    return row(
        activations,
        name,
        kind="elementwise",
        sample=normal(3),
        wide=over_the_range,
        oracle=getattr(o, name),
        oracle_gradient=o.gradient_of(getattr(o, f"{name}_slope")),
        edges=tuple(Edge((x,), value, (slope,)) for x, (value, slope) in points),
        **fields,
    )


def over_axis(name: str, *edges: Edge, **fields: Any) -> Row:
    return row(
        activations,
        name,
        kind="axis",
        sample=normal(4),
        wide=lambda rng, n, dtype: (wide_logits(rng, n, dtype),),
        oracle=getattr(o, name),
        oracle_gradient=getattr(o, f"{name}_gradient"),
        edges=edges,
        **fields,
    )


def norm(name: str, *edges: Edge, **fields: Any) -> Row:
    return row(
        norms,
        name,
        kind="norm",
        sample=normal(4),
        wide=wide_vectors(4),
        oracle=getattr(o, f"norm_{name}"),
        oracle_gradient=getattr(o, f"norm_{name}_gradient"),
        edges=edges,
        **fields,
    )


def loss(name: str, *edges: Edge, differentiable: tuple[int, ...] = (0, 1), **fields: Any) -> Row:
    return row(
        losses,
        name,
        kind="loss",
        oracle=partial(o.reduced, getattr(o, name)),
        oracle_gradient=partial(o.reduced_gradient, getattr(o, f"{name}_gradient")),
        differentiable=differentiable,
        with_rows=(0, 1),
        edges=tuple(dataclasses.replace(e, options={"reduction": "sum", **e.options}) for e in edges),
        **fields,
    )


SMOOTHING = 0.125

ELEMENTWISE = (
    elementwise("identity", (0, 1), (INF, 1), (-INF, 1)),
    elementwise("relu", (0, 0), (INF, 1), (0, 0)),
    elementwise("leaky_relu", (0, 0.25), (INF, 1), (-INF, 0.25), options={"negative_slope": 0.25}),
    elementwise("elu", (0, 1), (INF, 1), (-1, 0)),
    elementwise("elu", (0, 0.75), (INF, 1), (-0.75, 0), variant="alpha", options={"alpha": 0.75}),
    elementwise("sigmoid", (0.5, 0.25), (1, 0), (0, 0)),
    elementwise("log_sigmoid", (-LOG_2, 0.5), (0, 0), (-INF, 1)),
    elementwise("tanh", (0, 1), (1, 0), (-1, 0)),
    elementwise("softplus", (LOG_2, 0.5), (INF, 1), (0, 0)),
    elementwise("silu", (0, 0.5), (INF, 1), (0, 0)),
    elementwise("gelu", (0, 0.5), (INF, 1), (0, 0)),
    # exp(-x^2 / 2) is flushed where x exp(-x^2 / 2) is still a normal number, and erfc with it.
    elementwise("gelu", (0, 0.5), (INF, 1), (0, 0), variant="exact", options={"approximate": False}, smallest=64.0),
)

OVER_AXIS = (
    over_axis(
        "softmax",
        Edge(([0.0, 0.0],), [0.5, 0.5], ([0, 0],)),
        Edge(([1e30, 1e30, 1e30],), [1 / 3] * 3, ([0, 0, 0],)),
        Edge(([0.0, -INF],), [1, 0], ([0, 0],)),
        Edge(([INF, 0.0, INF],), [0.5, 0, 0.5], ([0, 0, 0],)),
        Edge(([-INF, -INF],), [NAN, NAN]),
        Edge(([3.0],), [1], ([0],)),
    ),
    over_axis("softmax", variant="axis=0", options={"axis": 0}),
    over_axis(
        "log_softmax",
        Edge(([0.0, 0.0],), [-LOG_2, -LOG_2], ([0, 0],)),
        Edge(([1e30, 1e30, 1e30],), [-LOG_3] * 3, ([0, 0, 0],)),
        Edge(([0.0, -INF],), [0, -INF], ([-1, 1],)),
        Edge(([-INF, -INF],), [NAN, NAN]),
        Edge(([3.0],), [0], ([0],)),
    ),
    over_axis("log_softmax", variant="axis=0", options={"axis": 0}),
    over_axis(
        "logsumexp",
        Edge(([0.0, 0.0],), LOG_2, ([0.5, 0.5],)),
        Edge(([1e30, 1e30],), 1e30, ([0.5, 0.5],)),
        Edge(([0.0, -INF],), 0, ([1, 0],)),
        Edge(([INF, 0.0],), INF, ([1, 0],)),
        Edge(([-INF, -INF],), -INF),
        Edge(([3.0],), 3, ([1],)),
    ),
    over_axis("logsumexp", variant="axis=0", options={"axis": 0}),
)

NORMS = (
    norm(
        "l1",
        Edge(([0.0, -0.0, -2.0],), 2, ([0, 0, -1],)),
        Edge(([INF, -1.0],), INF, ([1, -1],)),
        variant="axis=1",
        options={"axis": 1},
    ),
    norm("l1"),
    norm(
        "l2",
        Edge(([0.0, -0.0],), 0, ([0, 0],)),
        Edge(([3e30, -4e30],), 5e30, ([0.6, -0.8],)),
        Edge(([3e-30, -4e-30],), 5e-30, ([0.6, -0.8],)),
        Edge(([-INF, 1.0],), INF, ([-1, 0],)),
        variant="axis=1",
        options={"axis": 1},
    ),
    norm("l2"),
    norm(
        "squared_l2",
        Edge(([0.0, -3.0],), 9, ([0, -6],)),
        Edge(([INF, 1.0],), INF, ([INF, 2],)),
        variant="axis=1",
        options={"axis": 1},
        smallest=8.0,
    ),
    norm("squared_l2", smallest=8.0),
)

REGRESSION = (
    loss(
        "l1",
        Edge(([1.0, INF], [1.0, 0.0]), INF, ([0, 1], [0, -1])),
        sample=both(),
        wide=wide_errors(3),
    ),
    loss("l1", variant="vectors", sample=both(3), wide=wide_errors(3)),
    loss(
        "mse",
        Edge(([1.0, 3.0], [1.0, 0.0]), 9, ([0, 6], [0, -6])),
        sample=both(),
        wide=wide_errors(3),
        smallest=8.0,
    ),
    loss("mse", variant="vectors", sample=both(3), wide=wide_errors(3), smallest=8.0),
    loss(
        "huber",
        Edge(([1.0, 2.0, -2.0, INF], [1.0, 1.0, 1.0, 0.0]), INF, ([0, 1, -1, 1], [0, -1, 1, -1])),
        Edge(([3e30], [0.0]), 3e30, ([1], [-1])),
        sample=both(),
        wide=wide_errors(3),
        smallest=8.0,
    ),
    loss("huber", variant="delta", options={"delta": 0.5}, sample=both(3), wide=wide_errors(3), smallest=8.0),
)

BINARY = (
    loss(
        "binary_cross_entropy",
        Edge(([0.0, 1.0], [0.0, 1.0]), 0, ([1, -1], [INF, -INF])),
        Edge(([0.0], [1.0]), INF, ([-INF], [INF])),
        Edge(([1.0], [0.0]), INF, ([INF], [-INF])),
        sample=binary(False, False),
        wide=binary(True, False),
        domain=(0.0, 1.0),
    ),
    loss(
        "binary_cross_entropy",
        variant="targets",
        sample=binary(False, False, 3),
        wide=binary(True, False, 3),
        domain=(0.0, 1.0),
    ),
    loss(
        "binary_cross_entropy_with_logits",
        Edge(([0.0, 0.0], [0.0, 1.0]), 2 * LOG_2, ([0.5, -0.5], [0, 0])),
        Edge(([INF, -INF], [1.0, 0.0]), 0, ([0, 0], [-INF, INF])),
        Edge(([INF], [0.0]), INF, ([1], [-INF])),
        Edge(([-INF], [1.0]), INF, ([-1], [INF])),
        sample=binary(False, True),
        wide=binary(True, True),
    ),
    loss(
        "binary_cross_entropy_with_logits",
        variant="targets",
        sample=binary(False, True, 3),
        wide=binary(True, True, 3),
    ),
    loss(
        "focal_with_logits",
        Edge(([0.0, 0.0], [0.0, 1.0]), LOG_2 / 2, ([0.125 + LOG_2 / 4, -0.125 - LOG_2 / 4], [0, 0])),
        Edge(([INF, -INF], [1.0, 0.0]), 0, ([0, 0], [0, 0])),
        Edge(([INF], [0.0]), INF, ([1], [-INF])),
        Edge(([-INF], [1.0]), INF, ([-1], [INF])),
        Edge(([INF], [0.25]), INF, ([27 / 64], [-INF])),
        sample=binary(False, True),
        wide=binary(True, True),
    ),
    loss(
        "focal_with_logits",
        Edge(([[INF, -INF]], [[1.0, 0.0]]), 0, ([[0, 0]], [[0, 0]])),
        variant="gamma",
        options={"gamma": 0.25},
        sample=binary(False, True, 3),
        wide=binary(True, True, 3),
    ),
)

CATEGORICAL = (
    loss(
        "cross_entropy",
        Edge(([[1.0, 0.0], [0.5, 0.5]], [0, 1]), LOG_2, ([[-1, 0], [0, -2]],)),
        Edge(([[1.0, 0.0]], [1]), INF, ([[0, -INF]],)),
        Edge(([[1.0]], [0]), 0, ([[-1]],)),
        differentiable=(0,),
        sample=labelled(probabilities, soft=False),
        wide=labelled(wide_probabilities, soft=False),
        domain=(0.0, 1.0),
    ),
    loss(
        "cross_entropy",
        Edge(([[1.0, 0.0]], [[1.0, 0.0]]), 0, ([[-1, 0]], [[0, INF]])),
        variant="soft",
        sample=labelled(probabilities, soft=True),
        wide=labelled(wide_probabilities, soft=True, zeros=0.2),
        domain=(0.0, 1.0),
    ),
    loss(
        "cross_entropy_with_logits",
        Edge(([[0.0, -INF]], [0]), 0, ([[0, 0]],)),
        Edge(([[0.0, -INF]], [1]), INF, ([[1, -1]],)),
        Edge(([[1e30, 1e30, 1e30]], [2]), LOG_3, ([[1 / 3, 1 / 3, -2 / 3]],)),
        Edge(([[3.0]], [0]), 0, ([[0]],)),
        Edge(([[-INF, -INF]], [0]), NAN),
        differentiable=(0,),
        sample=labelled(logits, soft=False),
        wide=labelled(wide_logits, soft=False),
    ),
    loss(
        "cross_entropy_with_logits",
        Edge(([[0.0, -INF]], [[1.0, 0.0]]), 0, ([[0, 0]], [[0, INF]])),
        Edge(([[1e30, 1e30, 1e30]], [[0.0, 0.5, 0.5]]), LOG_3, ([[1 / 3, -1 / 6, -1 / 6]], [[LOG_3] * 3])),
        variant="soft",
        sample=labelled(logits, soft=True),
        wide=labelled(wide_logits, soft=True, zeros=0.2),
    ),
    loss(
        "cross_entropy_with_logits",
        Edge(([[0.0, -INF]], [0]), INF, ([[0.0625, -0.0625]],), {"label_smoothing": SMOOTHING}),
        variant="smoothed",
        options={"label_smoothing": SMOOTHING},
        differentiable=(0,),
        sample=labelled(logits, soft=False),
        wide=labelled(wide_logits, soft=False),
    ),
    loss(
        "cross_entropy_with_logits",
        variant="soft, smoothed",
        options={"label_smoothing": SMOOTHING},
        sample=labelled(logits, soft=True),
        wide=labelled(wide_logits, soft=True, zeros=0.2),
    ),
)

LAYERS = tuple(
    row(
        layers,
        "linear",
        kind="layer",
        variant="vector" if vector else "",
        sample=linear_inputs(vector, 1.0),
        wide=linear_inputs(vector, 2.0**40),
        oracle=o.linear,
        oracle_gradient=o.linear_vector_gradient if vector else o.linear_gradient,
        differentiable=(0, 1, 2),
    )
    for vector in (False, True)
)

LOSSES = REGRESSION + BINARY + CATEGORICAL
ROWS = NORMS + ELEMENTWISE + OVER_AXIS + LOSSES + LAYERS

# Exported, but no pair of a forward and its backward (or held to the laws in a file of its own).
OTHERS = {"losses.sum_and_weight", "losses.linear_cross_entropy", "losses.linear_binary_cross_entropy"}
