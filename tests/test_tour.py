"""The tour: every row of the lecture is shown, every gradient verified, and a wrong one is seen."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from fundl import _tour, linear_regression
from fundl._tour import _classification, _losses, _networks, _page, _pictures
from fundl._types import Linear

pytestmark = pytest.mark.large

TOPICS = (
    "Linear regression", "normal equations", "matrix form", "2 X^T X theta - 2 X^T y", "gradient descent",
    "Logistic regression", "sigma(x w + b)", "likelihood", "binary cross-entropy", "inf (not NaN)",
    "l1", "l2", "squared_l2", "L1 line", "MSE line", "outliers",
    "Softmax regression", "cross-entropy", "-sum_i sum_k y_ik log y_hat_ik",
    "chain rule", "every gradient by hand agrees with autodiff", "theta <- theta - eta dJ/dtheta", "momentum", "Adam",
    "Multilayer perceptron", "fundl.verify", "Summary", "held out", "accuracy", "RMSE",
)  # fmt: skip


def test_the_quick_tour_under_the_defaults_of_jax(tmp_path):
    code = "import pathlib, sys; from fundl import _tour; sys.exit(_tour.run(pathlib.Path('pictures'), quick=True))"
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for topic in TOPICS:
        assert topic in done.stdout, topic
    assert "float32" in done.stdout
    assert "WRONG" not in done.stdout
    assert not any(tmp_path.iterdir())
    assert max(map(len, done.stdout.splitlines())) <= 125


@pytest.fixture
def only_linear_regression(monkeypatch):
    monkeypatch.setattr(_losses, "norms_and_outliers", lambda page: None)
    monkeypatch.setattr(_classification, "logistic_regression_on_breast_cancer", lambda page: None)
    monkeypatch.setattr(_classification, "softmax_regression_on_digits", lambda page: None)
    monkeypatch.setattr(_networks, "chain_rule", lambda page: None)
    monkeypatch.setattr(_networks, "perceptron_on_digits", lambda page: None)


@pytest.mark.usefixtures("only_linear_regression")
def test_a_wrong_gradient_gives_exit_code_1(monkeypatch, capsys):
    right = linear_regression.gradient

    def wrong(params, X, y, **options):
        return right(params, X, y, **options) * 1.001

    monkeypatch.setattr(linear_regression, "gradient", wrong)
    assert _tour.run(None, quick=True) == 1
    shown = capsys.readouterr().out
    for name in ("gradient on the data", "gradient under the examiner"):
        assert f"WRONG  linear regression: {name}" in shown
    assert "a constant factor" in shown  # the examiner's report says what is wrong


@pytest.mark.slow
def test_the_whole_tour_under_strict_settings(tmp_path, capsys):
    assert _tour.run(tmp_path / "new" / "folder") == 0, capsys.readouterr().out
    names = {"bowl.png", "outliers.png", "boundary.png", "curves.png", "wrong_digits.png"}
    assert {file.name for file in (tmp_path / "new" / "folder").iterdir()} == names


def _arguments(rng):
    X = rng.normal(size=(40, 2))
    y = rng.integers(0, 2, 40)
    path = np.array([[2.0, 2.0], [1.0, 0.5], [0.1, 0.1], [0.0, 0.0]])
    line = (np.array([1.0, 150.0]), np.array([2.0, 180.0]))
    x = X[:, 0]
    return {
        "bowl": {"X": X, "y": X @ [0.0, 0.0], "descent": 9 * path, "solution": np.zeros(2), "names": ("a", "b")},
        "outliers": {
            "x": x, "standardised": x, "y": rng.uniform(20, 300, 40), "slipped": np.arange(3),
            "lines": {"MSE": line, "L1": line},
        },
        "boundary": {
            "X": X, "y": y, "mean": np.zeros(2), "deviation": np.ones(2), "w": np.ones(2), "b": 0.0,
            "names": ("a", "b"), "classes": ("no", "yes"),
        },
        "curves": {"losses": {k: np.geomspace(2, 0.1, 30) for k in ("a, 1", "b, 2", "c, 3")}, "model": "2 - 2"},
        "wrong_digits": {
            "images": rng.integers(0, 17, (40, 64)), "y": y, "p": rng.dirichlet(np.ones(10), 40),
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", _pictures.__all__)
def test_each_picture_is_drawn_without_a_display(name, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delenv("DISPLAY", raising=False)
    arguments = _arguments(np.random.default_rng(0))[name]
    getattr(_pictures, name)(tmp_path / f"{name}.png", **arguments)
    written = (tmp_path / f"{name}.png").read_bytes()
    assert written.startswith(b"\x89PNG")
    assert 5_000 < len(written) < 120_000


def test_the_pictures_of_the_readme_are_the_tours():
    folder = pathlib.Path(__file__).parents[1] / "docs" / "pictures"
    if not folder.exists():
        pytest.skip("docs are not part of this copy")
    for file in folder.iterdir():
        assert file.stem in _pictures.__all__
        assert file.stat().st_size < 120_000


def test_nothing_wrong_leaves_a_picture_too(tmp_path):
    pytest.importorskip("matplotlib")
    p = np.eye(10)
    _pictures.wrong_digits(tmp_path / "none.png", images=np.zeros((10, 64)), y=np.arange(10), p=p)
    assert (tmp_path / "none.png").exists()


def test_without_matplotlib_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # an import of it now raises ImportError
    page = _page.Page()
    page.picture("bowl.png", _pictures.bowl)
    _tour._draw(page, tmp_path / "tour")
    assert "pip install 'fundl[plot]'" in capsys.readouterr().out
    assert not (tmp_path / "tour").exists()


def test_agreement_is_measured_in_units_of_the_largest_entry():
    eps = np.finfo(np.float32).eps
    a = Linear(np.array([1.0, 0.25], np.float32), np.array(0.5, np.float32))
    assert str(_page.compare(a, a)) == "exact, 0.0 ulp"
    nearly = Linear(a.w + np.array([2 * eps, 0], np.float32), a.b)
    assert _page.compare(nearly, a).ulp == pytest.approx(2)
    assert _page.compare(nearly, a).ok
    assert not _page.compare(Linear(a.w * np.float32(1.001), a.b), a).ok
    assert not _page.compare(Linear(a.w, -a.b), a).ok
    zeros = np.zeros(2, np.float32)
    assert _page.compare(zeros, zeros).ok
    assert not _page.compare(zeros + np.float32(1e-3), zeros).ok


def test_training_and_held_out_rows_are_standardised_by_the_training_rows():
    from fundl import datasets

    rows = _page.split(datasets.diabetes(), ones=True)
    assert np.allclose(np.mean(rows.X[:, :-1], axis=0), 0, atol=1e-6)
    assert np.allclose(np.std(rows.X[:, :-1], axis=0), 1, atol=1e-6)
    assert np.all(np.asarray(rows.X_test[:, -1]) == 1)
    assert abs(np.mean(rows.X_test[:, 0])) > 1e-6
