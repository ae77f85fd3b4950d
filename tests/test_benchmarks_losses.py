"""Every loss and activation of fundl is measured, and the error beside the time is a true one."""

import jax
import numpy as np

from benchmarks import bench_losses, layouts
from benchmarks.functions import FUNCTIONS
from fundl import activations, losses

# Nothing to compute, another question, no loss.
NOT_THERE = {"identity", "linear_cross_entropy", "linear_binary_cross_entropy", "sum_and_weight"}


def test_every_loss_and_activation_is_measured():
    public = {n for m in (losses, activations) for n in m.__all__ if not n.endswith("_backward")}
    assert public - NOT_THERE == set(FUNCTIONS)


def test_all_compute_the_same_and_the_error_is_seen():
    for name in ("tanh", "logsumexp", "huber"):
        dy, inputs = bench_losses.drawn(FUNCTIONS[name], (6, 5))
        exact = bench_losses.truth(name, dy, inputs)
        found = {who: step(dy, *inputs) for who, step in bench_losses.steps(name, lambda who: True).items()}
        assert {"fundl", "jax.grad, plain formula"} <= found.keys()
        for value, gradient in found.values():
            assert bench_losses.error((value, gradient), exact) < 1e-5
            assert bench_losses.error((value, gradient * 1.01), exact) > 1e-3
        assert bench_losses.error((np.nan * exact[0], exact[1]), exact) > 1


def test_the_loop_takes_every_step():
    """XLA would do before the loop what is the same in every step."""
    dy, inputs = bench_losses.drawn(FUNCTIONS["sigmoid"], (128, 10))
    step = bench_losses.own("sigmoid")
    run = bench_losses.looped(step, 3)
    for found, expected in zip(run(dy, *inputs), step(dy, *inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def before_the_loop(compiled) -> list[str]:
        entry = compiled.as_text().partition("ENTRY")[2].splitlines()
        return [line for line in entry if " fusion(" in line and "%x." in line]

    assert not before_the_loop(run.lower(dy, *inputs).compile())
    assert before_the_loop(jax.jit(run.__wrapped__).lower(dy, *inputs).compile())


def test_rows_have_counts_and_make_a_table():
    rows = bench_losses.measure("relu", "8x4", 1, lambda who: who != "torch")
    assert [r["name"] for r in rows] == ["fundl", "fundl, jax.grad", "jax.grad, plain formula", "jax.nn"]
    assert all(r["bytes"] > 0 and r["seconds"] > 0 for r in rows)
    assert layouts.losses({"results": rows}).splitlines()[2].startswith("| relu 8x4 |")
