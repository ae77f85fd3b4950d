"""Fits and their certificates as data: they pass through transforms, print, and raise only when asked to."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import fundl
from fundl import Certificate, Fit, FitError, Status
from fundl._result import check_status, status_of
from fundl._types import Linear


def fit(code: Any = 0, w: Any = (1.0, 2.0)) -> Fit:
    certificate = Certificate(
        converged=jnp.asarray(code == Status.converged),
        steps=jnp.asarray(3),
        gradient_norm=jnp.asarray(1e-9),
        objective=jnp.asarray(0.5),
        suboptimality=jnp.asarray(1e-12),
    )
    return Fit(Linear(jnp.asarray(w), jnp.asarray(0.25)), certificate, jnp.asarray(code, jnp.int32))


@pytest.mark.parametrize("status", Status, ids=lambda s: s.name)
def test_every_status_has_one_sentence_of_advice(status: Status) -> None:
    assert status.advice[0].isupper()
    assert status.advice.endswith(".")
    assert status.advice.count(". ") == 0


def test_check_returns_the_fit_or_raises_its_advice() -> None:
    good = fit()
    assert good.check() is good
    with pytest.raises(FitError, match=r"^separable: A hyperplane separates the classes") as error:
        fit(Status.separable).check()
    assert str(error.value) == f"separable: {Status.separable.advice}"


def test_a_batch_of_fits_names_each_status_and_how_many() -> None:
    codes = jnp.array([0, 1, 1, 5], jnp.int32)
    with pytest.raises(FitError) as error:
        check_status(codes, "Fit")
    assert str(error.value).splitlines() == [
        f"max_steps: {Status.max_steps.advice} (2 of 4 fits)",
        f"non_finite: {Status.non_finite.advice} (1 of 4 fits)",
    ]
    check_status(jnp.zeros(3, jnp.int32), "Fit")


def test_status_is_a_name_when_concrete_and_an_array_otherwise() -> None:
    assert fit(2).status is Status.separable
    assert isinstance(jax.eval_shape(lambda c: status_of(c) + 0, jnp.int32(2)), jax.ShapeDtypeStruct)
    assert status_of(jnp.array([0, 2])).tolist() == [0, 2]


def test_a_fit_passes_through_jit_vmap_and_grad() -> None:
    again = jax.jit(lambda f: f)(fit())
    assert type(again) is Fit
    assert again.status is Status.converged
    lanes = jax.vmap(lambda w: jax.tree.map(lambda v: v, fit(w=w)))(jnp.ones((3, 2)))
    assert lanes.params.w.shape == (3, 2)
    assert lanes.status.tolist() == [0, 0, 0]
    slope = jax.grad(lambda w: jnp.sum(fit(w=w).params.w ** 2))(jnp.array([1.0, 2.0]))
    assert slope.tolist() == [2, 4]


def test_nothing_raises_inside_a_trace_but_check() -> None:
    with pytest.raises(TypeError, match=r"Fit.check\(\) needs concrete values"):
        jax.jit(lambda f: f.check().params.w)(fit())
    assert jax.jit(lambda f: f.params.w if str(f) else 0 * f.params.w)(fit()).tolist() == [1, 2]


def test_the_summary_shows_what_is_known_and_only_that() -> None:
    text = str(fit())
    assert text.splitlines()[0] == f"Fit: converged: {Status.converged.advice}"
    for words in ("w (2,) = [1 2]", "b () = 0.25", "steps", "suboptimality      1e-12"):
        assert words in text
    assert "rank" not in text
    assert "None" not in text


def test_the_facade_has_them() -> None:
    assert {"Fit", "Certificate", "Status", "FitError", "Linear", "Layer"} <= set(fundl.__all__)
