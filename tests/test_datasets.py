"""The data sets that ship with the package: what they hold, that they are intact, and their licences."""

import gzip
import hashlib
import os
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest

from fundl import datasets

FACTS = {
    "diabetes": ((442, 10), "float64", "float64", "9193026b7622ff944f0a6855a10107b24caf50dad69787c46e6890e69c27faca"),
    "breast_cancer": (
        (569, 30),
        "float64",
        "int32",
        "3b3577b0ec1dc9aceecc0dfeb34897b03853cdd620a06e4d66cbd36a03e1afc7",
    ),
    "digits": ((1797, 64), "uint8", "int32", "592cc047d0a1cc7fdef9fd724514209dcb45a80aa147dc3ab375e3e1a9a380f4"),
}
FOLDER = resources.files("fundl.datasets")


@pytest.mark.parametrize("name", FACTS)
def test_shapes_dtypes_and_names(name):
    shape, x_dtype, y_dtype, _ = FACTS[name]
    data = getattr(datasets, name)()
    assert data.X.shape == shape
    assert data.y.shape == shape[:1]
    assert (data.X.dtype, data.y.dtype) == (x_dtype, y_dtype)
    assert len(data.feature_names) == len(set(data.feature_names)) == shape[1]
    assert np.isfinite(data.X).all()
    assert data.X.flags.c_contiguous
    assert "BSD-3-Clause" in data.about or "CC BY 4.0" in data.about


@pytest.mark.parametrize("name", FACTS)
def test_the_files_are_intact(name):
    text = gzip.decompress((FOLDER / f"{name}.csv.gz").read_bytes())
    assert hashlib.sha256(text).hexdigest() == FACTS[name][-1]


def test_what_is_known_of_the_values():
    diabetes, cancer, digits = datasets.diabetes(), datasets.breast_cancer(), datasets.digits()
    assert (diabetes.y.min(), diabetes.y.max()) == (25, 346)
    assert np.bincount(cancer.y).tolist() == [212, 357]
    assert cancer.target_names == ("malignant", "benign")
    assert np.bincount(digits.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (digits.X.min(), digits.X.max()) == (0, 16)


def test_each_call_gives_arrays_of_its_own():
    first = datasets.diabetes()
    first.X[:] = 0
    assert datasets.diabetes().X.any()


def test_source_citation_and_licence_stand_beside_the_files():
    text = (FOLDER / "README.md").read_text("utf-8")
    for phrase in (
        "Efron", "Least angle regression", "Redistributions in binary form", "scikit-learn developers",
        "10.24432/C5DW2B", "10.24432/C50P49", "creativecommons.org/licenses/by/4.0", "Street", "Alpaydin", "Changes:",
    ):  # fmt: skip
        assert phrase in text
    for name in FACTS:
        assert f"`{name}.csv.gz`" in text


def test_the_data_are_small():
    assert sum(len(f.read_bytes()) for f in FOLDER.iterdir() if f.is_file()) < 120_000


@pytest.mark.parametrize(("n", "test", "held_out"), [(1797, 0.25, 449), (442, 0.25, 110), (2, 0.5, 1), (10, 0.1, 1)])
def test_split_is_disjoint_complete_and_reproducible(n, test, held_out):
    train, rest = datasets.train_test_split(n, test=test, seed=3)
    assert len(rest) == held_out
    assert np.array_equal(np.sort(np.concatenate([train, rest])), np.arange(n))
    again = datasets.train_test_split(n, test=test, seed=3)
    assert np.array_equal(train, again[0])


def test_split_is_the_same_on_every_machine():
    assert datasets.train_test_split(1797)[1][:5].tolist() == [2, 3, 11, 13, 15]
    assert not np.array_equal(datasets.train_test_split(1797, seed=1)[1], datasets.train_test_split(1797)[1])


@pytest.mark.parametrize(("n", "test"), [(10, 0.0), (10, 1.0), (10, -0.1), (1, 0.5), (10, 0.01), (0, 0.5)])
def test_split_refuses_an_empty_part(n, test):
    with pytest.raises(ValueError, match="both sides"):
        datasets.train_test_split(n, test=test)


def test_reading_starts_no_backend():
    # With a platform that does not exist, a backend that starts fails.
    code = "from fundl import datasets; datasets.digits()"
    environment = {**os.environ, "JAX_PLATFORMS": "no_such_platform"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
