"""Every row of the catalogue against every law; `test_laws.py` shows each law a row that breaks it."""

import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import catalogue
import laws
from catalogue import ROWS, Row
from fundl import activations, layers, losses, norms

DTYPES = [np.float32, np.float64]
FEW, MANY, VERY_MANY = 5, 100, 3000  # the tolerances are the same for both
EDGES = [pytest.param(r, e, id=f"{r}-{i}") for r in ROWS for i, e in enumerate(r.edges)]

rows = pytest.mark.parametrize("row", ROWS, ids=str)
# Variants that go through the same lines of code as another row meet the transforms in the slow suite only.
SAME_LINES = ("alpha", "targets", "vectors", "delta", "gamma", "vector", "axis=1")
transformed = pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] if row.variant in SAME_LINES else []) for row in ROWS],
    ids=str,
)
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


@pytest.mark.slow
@dtypes
@rows
def test_truth_of_very_many(row: Row, dtype: type) -> None:
    laws.is_true(row, dtype, VERY_MANY)


@pytest.mark.large
@rows
def test_autodiff(row: Row) -> None:
    laws.agrees_with_autodiff(row)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16, jnp.float16], ids=lambda d: np.dtype(d).name)
@rows
def test_pair(row: Row, dtype: type) -> None:
    laws.pair_fits(row, dtype)


@rows
def test_signature(row: Row) -> None:
    laws.signatures_match(row)


@rows
def test_wrong_cotangent(row: Row) -> None:
    laws.refuses_a_wrong_cotangent(row)


@pytest.mark.large
@transformed
def test_jit(row: Row) -> None:
    laws.jit_changes_nothing(row)


@pytest.mark.large
@transformed
def test_vmap(row: Row) -> None:
    laws.vmap_is_a_loop(row)


@pytest.mark.large
@transformed
def test_forward_mode(row: Row) -> None:
    laws.forward_mode_agrees(row)


@pytest.mark.parametrize("row", [row for row in ROWS if row.variant in ("", "exact", "soft", "smoothed")], ids=str)
def test_bfloat16(row: Row) -> None:
    laws.half_precision_is_accumulated(row, jnp.bfloat16, MANY)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@rows
def test_half_precision(row: Row, dtype: type) -> None:
    laws.half_precision_is_accumulated(row, dtype, MANY)


@rows
def test_nan(row: Row) -> None:
    laws.nan_shows(row)


@pytest.mark.parametrize(("row", "edge"), EDGES)
def test_edge(row: Row, edge: catalogue.Edge) -> None:
    laws.edge_is_exact(row, edge, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("row", "edge"), EDGES)
def test_edge_float64(row: Row, edge: catalogue.Edge) -> None:
    laws.edge_is_exact(row, edge, np.float64)


IN_FLOAT32 = """
import sys
sys.path.insert(0, sys.argv[1])
import jax, numpy as np
import catalogue, laws
assert not jax.config.jax_enable_x64
for row in catalogue.ROWS[::2]:
    y, _, found = laws.run(row, laws.draw(row, 100, np.float32))
    for v in (y, *found):
        assert v.dtype == np.float32, row
        print(np.asarray(v).tobytes().hex())
"""


def test_without_x64_the_answers_are_the_same_float32_numbers() -> None:
    """Every other row in a process with jax's defaults: every bit as here, where x64 is on."""
    here = pathlib.Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")} | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", IN_FLOAT32, str(here)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.split())
    for row in ROWS[::2]:
        y, _, found = laws.run(row, laws.draw(row, MANY, np.float32))
        for v in (y, *found):
            assert np.asarray(v).tobytes().hex() == next(lines), row
    assert next(lines, None) is None
