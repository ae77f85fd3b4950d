"""Every row of the catalogue against every law; then each law against a row that breaks it."""

import dataclasses

import catalogue
import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
from catalogue import ROWS, Row

from fundl import activations, layers, losses, norms

DTYPES = [np.float32, np.float64]
FEW, MANY = 5, 300  # the tolerances are the same for both
HALVES = [jnp.bfloat16, jnp.float16]
EDGES = [pytest.param(r, e, id=f"{r}-{i}") for r in ROWS for i, e in enumerate(r.edges)]

rows = pytest.mark.parametrize("row", ROWS, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)


def exported() -> set[str]:
    modules = {"norms": norms, "activations": activations, "losses": losses, "layers": layers}
    return {f"{name}.{f}" for name, module in modules.items() for f in module.__all__ if not f.endswith("_backward")}


def test_no_operation_is_missing() -> None:
    listed = {str(row).partition("[")[0] for row in ROWS} | catalogue.OTHERS
    assert listed == exported()


def test_every_forward_has_its_backward() -> None:
    for module in (norms, activations, losses, layers):
        names = set(module.__all__) - {"sum_and_weight"}
        forwards = {n for n in names if not n.endswith("_backward")}
        assert names == forwards | {f"{n}_backward" for n in forwards}, module.__name__


@pytest.mark.parametrize(("dtype", "n"), [(np.float64, FEW), (np.float32, MANY)])
@rows
def test_truth(row: Row, dtype: type, n: int) -> None:
    laws.is_true(row, dtype, n)


@rows
def test_autodiff(row: Row) -> None:
    laws.agrees_with_autodiff(row)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, *HALVES], ids=lambda d: np.dtype(d).name)
@rows
def test_pair(row: Row, dtype: type) -> None:
    laws.pair_fits(row, dtype)


@rows
def test_signature(row: Row) -> None:
    laws.signatures_match(row)


@rows
def test_wrong_cotangent(row: Row) -> None:
    laws.refuses_a_wrong_cotangent(row)


@rows
def test_jit(row: Row) -> None:
    laws.jit_changes_nothing(row)


@rows
def test_vmap(row: Row) -> None:
    laws.vmap_is_a_loop(row)


@rows
def test_forward_mode(row: Row) -> None:
    laws.forward_mode_agrees(row)


@pytest.mark.parametrize("dtype", HALVES, ids=lambda d: np.dtype(d).name)
@rows
def test_half_precision(row: Row, dtype: type) -> None:
    laws.half_precision_is_accumulated(row, dtype, MANY)


@rows
def test_nan(row: Row) -> None:
    laws.nan_shows(row)


@dtypes
@pytest.mark.parametrize(("row", "edge"), EDGES)
def test_edge(row: Row, edge: catalogue.Edge, dtype: type) -> None:
    laws.edge_is_exact(row, edge, dtype)
