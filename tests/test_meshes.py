"""Rows sharded over a mesh of eight devices: the same answers as on one, under Auto and Explicit axis types.

A job is a function of arrays and the positions of the arguments that have rows; everything else is replicated. To put
another function under this test, add it to `jobs`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import laws
from catalogue import ROWS, Row
from fundl import losses

pytestmark = pytest.mark.large

N = 16  # rows, two for each device


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    with_rows: tuple[int, ...]

    def __str__(self) -> str:
        return self.name


def jobs() -> Iterator[Job]:
    for row in ROWS:
        yield from of_row(row)


def of_row(row: Row) -> Iterator[Job]:
    """Value, hand-written gradients and autodiff's in one job; losses with weights and two reductions."""
    inputs = laws.draw(row, N)
    weights = np.arange(N) % 3.0
    variants: list[dict[str, Any]] = [{}]
    if row.kind == "loss":
        variants = [{}] if row.variant else [{}, {"reduction": "none"}]
    for options in variants:
        name = " ".join([str(row), *options.values()])
        yield Job(name, pair(row, options), (*inputs, weights), (*row.with_rows, len(inputs)))


def pair(row: Row, options: dict[str, Any]) -> Callable[..., Any]:
    def both(*arguments: Any) -> tuple[Any, ...]:
        *inputs, weights = arguments
        given = {**row.options, **options, **({"weights": weights} if row.kind == "loss" else {})}
        y = row.forward(*inputs, **given)
        dy = y  # any cotangent will do; this one is sharded as y is
        hand = laws.as_tuple(row.backward(dy, *inputs, **given))

        def f(*kept: Any) -> Any:
            replaced = dict(zip(row.differentiable, kept, strict=True))
            return row.forward(*(replaced.get(i, v) for i, v in enumerate(inputs)), **given)

        auto = jax.vjp(f, *(inputs[i] for i in row.differentiable))[1](dy)
        return (y, *hand, *auto)

    return both


JOBS = list(jobs())
PLAIN = [job for job in JOBS if "[" not in job.name and " " not in job.name]
OTHER_FORMULAS = [job for job in JOBS if job.name.endswith(("soft]", "smoothed]", "axis=0]", "axis=1]", "exact]"))]
SOME = [job for job in JOBS if job.name in ("activations.softmax", "layers.linear", "losses.cross_entropy")]


@functools.cache
def on_one_device(job: Job) -> Any:
    return jax.jit(job.function)(*map(jnp.asarray, job.arguments))


def on_mesh(job: Job, axis_type: AxisType) -> tuple[jax.sharding.Mesh, tuple[Any, ...]]:
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(axis_type,))
    placed = []
    for i, v in enumerate(job.arguments):
        spec = PartitionSpec("rows") if i in job.with_rows else PartitionSpec()
        placed.append(jax.device_put(v, NamedSharding(mesh, spec)))
    return mesh, tuple(placed)


def same_answers(job: Job, axis_type: AxisType, *, eager: bool) -> None:
    expected = on_one_device(job)
    mesh, placed = on_mesh(job, axis_type)
    with jax.set_mesh(mesh):
        got = (job.function if eager else jax.jit(job.function))(*placed)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for i, (g, e) in enumerate(zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)):
        assert len(g.sharding.device_set) == 8, "the result left the mesh"
        laws.assert_near(g, e, what=f"result {i}")


@pytest.mark.parametrize("job", PLAIN + OTHER_FORMULAS, ids=str)
def test_explicit_under_jit(job: Job) -> None:
    same_answers(job, AxisType.Explicit, eager=False)


@pytest.mark.parametrize("job", PLAIN, ids=str)
def test_auto_under_jit(job: Job) -> None:
    same_answers(job, AxisType.Auto, eager=False)


@pytest.mark.parametrize("job", SOME, ids=str)
def test_explicit_eager(job: Job) -> None:
    same_answers(job, AxisType.Explicit, eager=True)


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True], ids=["jit", "eager"])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda a: a.name)
@pytest.mark.parametrize("job", JOBS, ids=str)
def test_all(job: Job, axis_type: AxisType, eager: bool) -> None:
    same_answers(job, axis_type, eager=eager)


def test_a_difference_is_seen() -> None:
    job = JOBS[0]
    with pytest.raises(AssertionError, match="eps of its scale"):
        same_answers(
            dataclasses.replace(
                job, function=lambda *a: sum(jax.typeof(v).sharding.mesh.size for v in a) + job.function(*a)[0]
            ),
            AxisType.Explicit,
            eager=False,
        )


def test_what_explicit_meshes_refuse_is_seen() -> None:
    job = Job("X^T X by hand", lambda X: X.T @ X, (np.ones((N, 2)),), (0,))
    with pytest.raises(Exception, match=r"(?i)sharding"):
        same_answers(job, AxisType.Explicit, eager=False)


@pytest.mark.parametrize(
    "spec",
    [PartitionSpec("rows", "classes"), pytest.param(PartitionSpec(None, "classes"), marks=pytest.mark.slow)],
    ids=str,
)
def test_integer_labels_of_classes_that_are_split(spec: PartitionSpec) -> None:
    mesh = jax.make_mesh((4, 2), ("rows", "classes"), axis_types=(AxisType.Explicit,) * 2)
    rng = np.random.default_rng(0)
    z, y, w = rng.normal(size=(N, 6)), rng.integers(0, 6, N), np.arange(N) % 3.0
    options = {"label_smoothing": 0.1}
    for loss, x, given in (
        (losses.cross_entropy_with_logits, z, {}),
        (losses.cross_entropy_with_logits, z, options),
        (losses.cross_entropy, np.asarray(jax.nn.softmax(z)), {}),
    ):
        backward = getattr(losses, f"{loss.__name__}_backward")
        right = loss(x, y, weights=w, **given), backward(1.0, x, y, weights=w, **given)
        with jax.set_mesh(mesh):
            x_ = jax.device_put(x, NamedSharding(mesh, spec))
            y_, w_ = (jax.device_put(v, NamedSharding(mesh, PartitionSpec(spec[0]))) for v in (y, w))
            J, by_autodiff = jax.jit(jax.value_and_grad(functools.partial(loss, **given)))(x_, y_, weights=w_)
            by_hand = jax.jit(functools.partial(backward, 1.0, **given))(x_, y_, weights=w_)
        np.testing.assert_allclose(J, right[0], rtol=1e-13)
        for found in (by_autodiff, by_hand):
            np.testing.assert_allclose(found, right[1], rtol=1e-12, atol=1e-15)
    outside = backward(1.0, x_, y_, weights=w_, **given)  # of the mesh's context, and not compiled as one program
    np.testing.assert_allclose(outside, right[1], rtol=1e-12, atol=1e-15)


def test_labels_and_weights_that_a_program_closes_over_keep_their_split() -> None:
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Explicit,))
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(N, 3)), rng.integers(0, 5, N), np.arange(N) % 3.0
    W = rng.normal(size=(3, 5))
    right = losses.linear_cross_entropy(X, W, None, y, weights=w)
    with jax.set_mesh(mesh):
        X_, y_, w_ = (jax.device_put(v, NamedSharding(mesh, PartitionSpec("rows"))) for v in (X, y, w))
        found = jax.jit(lambda X: losses.linear_cross_entropy(X, jnp.asarray(W), None, y_, weights=w_))(X_)
    np.testing.assert_allclose(found, right, rtol=1e-5)
