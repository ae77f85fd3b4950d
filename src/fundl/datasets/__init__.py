"""Three small real data sets that ship with the package, and a split that is the same on every machine.

The values are NumPy arrays, read from the files beside this one; README.md there has sources and licences.
"""

import dataclasses
import gzip
from importlib import resources
from typing import Any

import numpy as np

__all__ = ["Dataset", "breast_cancer", "diabetes", "digits", "train_test_split"]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples and targets of one data set.

    Attributes:
        X: inputs (n, d), as measured: float64, or uint8 for images.
        y: targets (n,): float64 for a regression, int32 classes 0, 1, ... otherwise.
        feature_names: the names of the d columns.
        target_names: the name of each class, or of the one measured target.
        about: what it is, whose it is, and its licence.
    """

    X: np.ndarray
    y: np.ndarray
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    about: str

    def __repr__(self) -> str:
        return f"Dataset(X {self.X.dtype}{list(self.X.shape)}, y {self.y.dtype}{list(self.y.shape)}: {self.about})"


def diabetes() -> Dataset:
    """Diabetes, a regression: 442 patients, ten measurements, and the progression of the disease a year later.

    Raw units, not standardised; column sex is 1 or 2; y from 25 to 346.

    >>> data = diabetes()
    >>> data.X.shape, data.feature_names[:4], float(data.y[0])
    ((442, 10), ('age', 'sex', 'bmi', 'bp'), 151.0)

    Source: Efron, Hastie, Johnstone and Tibshirani, Least angle regression, Annals of Statistics 32 (2004).
    """
    return _read(
        "diabetes",
        np.float64,
        np.float64,
        ("disease progression",),
        "disease progression of 442 diabetes patients one year after ten measurements; Efron, Hastie, Johnstone and "
        "Tibshirani (2004), as distributed with scikit-learn, BSD-3-Clause",
    )


def breast_cancer() -> Dataset:
    """Breast cancer Wisconsin (diagnostic), two classes: 569 tumours, thirty measurements of their cell nuclei.

    y is 0 for malignant (212) and 1 for benign (357). All thirty columns together separate the classes by a
    hyperplane, so logistic regression needs a penalty here.

    >>> data = breast_cancer()
    >>> data.X.shape, data.target_names, int(data.y.sum())
    ((569, 30), ('malignant', 'benign'), 357)

    Source: Wolberg, Mangasarian, Street and Street (1993), UCI Machine Learning Repository.
    """
    return _read(
        "breast_cancer",
        np.float64,
        np.int32,
        ("malignant", "benign"),
        "569 breast tumours, thirty measurements of cell nuclei, malignant or benign; Wolberg, Mangasarian, Street "
        "and Street (1993), UCI Machine Learning Repository, CC BY 4.0",
    )


def digits() -> Dataset:
    """Handwritten digits, ten classes: 1797 images of 8 x 8 pixels, ink 0 to 16.

    >>> data = digits()
    >>> data.X.shape, data.X.dtype.name, data.X.reshape(-1, 8, 8)[0, 0].tolist()
    ((1797, 64), 'uint8', [0, 0, 5, 13, 9, 1, 0, 0])

    Source: Alpaydin and Kaynak (1998), UCI Machine Learning Repository.
    """
    return _read(
        "digits",
        np.uint8,
        np.int32,
        tuple("0123456789"),
        "1797 handwritten digits, 8 x 8 pixels; Alpaydin and Kaynak (1998), UCI Machine Learning Repository, CC BY 4.0",
    )


def train_test_split(n: int, *, test: float = 0.25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for training and for testing: a random split of 0, ..., n - 1, the same wherever it is run.

    test is the fraction held out. Both parts are sorted, disjoint, and together all rows.
    Errors: ValueError where one part would be empty, or seed is negative.

    >>> train, test = train_test_split(8)
    >>> train.tolist(), test.tolist()
    ([0, 1, 4, 5, 6, 7], [2, 3])
    """
    held_out = round(n * test) if 0 < test < 1 else 0
    if not 0 < held_out < n:
        raise ValueError(f"test must leave rows on both sides, 0 < test < 1; got test={test} of n={n} rows.")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more; got seed={seed}.")
    # NumPy promises the raw bits of a bit generator for all versions, and not the permutations drawn from them.
    order = np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _read(name: str, x_dtype: Any, y_dtype: Any, target_names: tuple[str, ...], about: str) -> Dataset:
    """The CSV file `name`: a line of names, then rows with the target last."""
    packed = (resources.files(__name__) / f"{name}.csv.gz").read_bytes()
    head, *lines = gzip.decompress(packed).decode("ascii").splitlines()
    table = np.array([line.split(",") for line in lines], dtype=np.float64)
    return Dataset(
        X=np.ascontiguousarray(table[:, :-1]).astype(x_dtype),
        y=table[:, -1].astype(y_dtype),
        feature_names=tuple(head.split(",")[:-1]),
        target_names=target_names,
        about=about,
    )
