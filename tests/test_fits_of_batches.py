"""Fits of batches: the optimum of all rows with the same proof, few readings, bounded memory, honest statuses."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import least_squares
from fundl import logistic_regression as lr
from fundl import softmax_regression as sr
from fundl._result import Status
from fundl.newton import _batches, _certainty, _survey
from test_concrete_fits import exact_value, made
from test_least_squares import ArrowBatch

pytestmark = pytest.mark.large

WIDTHS = (700, 1, 1300)


class Batches:
    """Rows in batches of changing size; counts how often they are read."""

    def __init__(self, *arrays, widths=WIDTHS):
        self.arrays, self.widths, self.readings = arrays, widths, 0

    def __call__(self):
        self.readings += 1
        start, i = 0, 0
        while start < len(self.arrays[0]):
            stop = start + self.widths[i % len(self.widths)]
            yield tuple(v[start:stop] for v in self.arrays)
            start, i = stop, i + 1


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch):
    """So that a few thousand rows are already more than the sample."""
    monkeypatch.setattr(_survey, "SAMPLE", 6000)


def rows(kind, k):
    """X, y, weights and the options of a problem of that kind, 5000 rows of 5 columns."""
    X, y = made(5000, 5, k)
    X[:, 1] = X[:, 1] * 1e-6 + 1.0  # another offset and scale
    rng = np.random.default_rng(7)
    s, options = None, {}
    if kind == "soft":
        y = np.clip(y + rng.uniform(-1, 1, len(y)) * 0.4, 0, 1)
    if kind == "weights":
        s = rng.integers(0, 3, len(y)) * 0.5
        X = np.where((s == 0)[:, None], np.nan, X)
        options["weights"] = s
    if kind == "no intercept":
        options["intercept"] = False
    if kind == "dependent":
        X = np.concatenate([X, 3 * X[:, :1], np.full((len(X), 1), 7.0)], axis=1)
    return X, y, s, options


KINDS = [(1, v) for v in ("labels", "soft", "weights", "no intercept", "dependent")] + [
    (3, v) for v in ("labels", "weights", "no intercept", "dependent")
]


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize(("k", "kind"), KINDS)
def test_the_optimum_of_all_rows_in_a_few_readings(k, kind, l2):
    X, y, s, options = rows(kind, k)
    model = lr if k == 1 else sr
    expected = model.fit(X, y, l2=l2, **options)
    options.pop("weights", None)
    batches = Batches(*(v for v in (X, y, s) if v is not None))
    found = model.fit_batches(batches, l2=l2, **options)
    assert found.status == (Status.rank_deficient if kind == "dependent" and l2 == 0 else Status.converged)
    for name in ("w", "b"):
        one, other = (np.asarray(getattr(v.params, name)) for v in (found, expected))
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12 * np.abs(other).max())
        errors = (np.asarray(getattr(v.certificate.standard_errors, name)) for v in (found, expected))
        if kind != "dependent":
            np.testing.assert_allclose(*errors, rtol=1e-6)
    if kind == "dependent":  # one column is three times another, beside one of scale 1e-6
        np.testing.assert_allclose(found.params.w[5], 3 * found.params.w[0], rtol=1e-11)
        np.testing.assert_allclose(expected.params.w[5], 3 * expected.params.w[0], rtol=1e-11)
    proof = found.certificate
    np.testing.assert_allclose(proof.objective, expected.certificate.objective, rtol=1e-13)
    assert 0 <= proof.suboptimality <= 1e-15 * proof.objective
    assert proof.rank == 5
    assert bool(proof.converged)
    assert batches.readings <= (10 if kind == "dependent" and l2 == 0 else 7)


@pytest.mark.parametrize("noise", [0.0, 3e-8])
def test_columns_that_depend_to_half_the_digits_only_have_no_bound(noise):
    X, y = made(5000, 4, 1)
    found = lr.fit_batches(Batches(np.c_[X[:, :3], X[:, 0] + noise * X[:, 3]], y))
    least = float(lr.fit(X, y).certificate.objective)  # of the same span, where there is noise
    bound, f = float(found.certificate.suboptimality), float(found.certificate.objective)
    if noise:
        assert (found.status, bound) == (Status.stalled, np.inf)
        assert f > least * (1 + 1e-5)
    else:
        assert found.status is Status.rank_deficient
        assert bound < 1e-12 * f


def test_a_tolerance_saves_readings_and_the_bound_holds():
    X, y = made(8000, 6)
    best = exact_value(X, y, 0.5, lr.fit(X, y, l2=0.5).params)
    readings = []
    for tol in (1e-2, 1e-6, 1e-10):
        batches = Batches(X, y)
        found = lr.fit_batches(batches, l2=0.5, tol=tol)
        f, bound = exact_value(X, y, 0.5, found.params), float(found.certificate.suboptimality)
        assert found.status == Status.converged
        assert -1e-15 * best <= f - best <= bound <= tol * f
        readings.append(batches.readings)
    assert readings[0] <= 3
    assert readings == sorted(readings)
    assert readings[-1] <= 5


@pytest.mark.parametrize("tol", [0.0, 1e-6])
def test_rounding_to_float32_is_in_the_bound_and_costs_no_reading(tol):
    X, y = made(8000, 6)
    X = X.astype(np.float32)
    best = exact_value(X.astype(float), y, 0.5, lr.fit(X.astype(float), y, l2=0.5).params)
    readings = []
    for dtype in (np.float64, np.float32):
        batches = Batches(X.astype(dtype), y.astype(dtype))
        found = lr.fit_batches(batches, l2=0.5, tol=tol)
        assert found.params.w.dtype == dtype
        gap = exact_value(X.astype(float), y, 0.5, found.params) - best
        assert -1e-15 * best <= gap <= float(found.certificate.suboptimality)
        readings.append(batches.readings)
    assert readings[0] == readings[1]
    assert gap > 1e-17 * best  # the rounding is seen


def test_stopped_early_the_bound_still_holds():
    X, y = made(6000, 4, 3)
    best = exact_value(X, y, 0.1, sr.fit(X, y, l2=0.1).params)
    for steps in (1, 2):
        found = sr.fit_batches(Batches(X, y), l2=0.1, max_steps=steps)
        assert found.certificate.steps == steps
        assert exact_value(X, y, 0.1, found.params) - best <= float(found.certificate.suboptimality) + 1e-13 * best


@pytest.mark.parametrize(
    ("shape", "most"),
    [((30_000, 30, 8), 14), ((8000, 440, 1), 40), ((3000, 30, 8), 7)],
    ids=["classes", "columns", "few rows"],
)  # fmt: skip
@pytest.mark.parametrize("weighted", [False, True])
def test_where_the_hessian_is_large_that_of_the_sample_serves_if_it_has_rows_enough(shape, most, weighted, monkeypatch):
    monkeypatch.setattr(_survey, "SAMPLE", shape[0] * shape[1] // 2)
    X, y = made(*shape)
    s = np.random.default_rng(3).integers(1, 4, len(y)).astype(float) if weighted else None
    model = lr if shape[2] == 1 else sr
    batches = Batches(*(v for v in (X, y, s) if v is not None))
    found = model.fit_batches(batches, l2=2.0, tol=1e-9)
    f, best = (exact_value(X, y, 2.0, v.params, s) for v in (found, model.fit(X, y, l2=2.0, weights=s)))
    assert found.status == Status.converged
    assert -1e-15 * best <= f - best <= float(found.certificate.suboptimality) <= 1e-9 * f
    assert batches.readings <= most
    monkeypatch.setattr(_batches, "FORMED", 100)
    with pytest.raises(ValueError, match="too many for a fit of batches without a penalty: more than 100"):
        model.fit_batches(batches)


def test_the_moments_of_all_rows_help_a_sample_of_too_few(monkeypatch):
    monkeypatch.setattr(_batches, "FORMED", 100)
    X, y = made(6000, 60, 8)
    monkeypatch.setattr(_survey, "SAMPLE", 60 * 700)
    batches = Batches(X, y)
    found = sr.fit_batches(batches, l2=1.0, tol=1e-9)
    assert found.status == Status.converged
    f, best = (exact_value(X, y, 1.0, v.params) for v in (found, sr.fit(X, y, l2=1.0)))
    assert -1e-15 * best <= f - best <= float(found.certificate.suboptimality) <= 1e-9 * f
    assert batches.readings <= 70  # with the sample alone hundreds, to max_steps


def test_rows_that_fit_into_the_sample_are_fitted_as_they_are(monkeypatch):
    monkeypatch.setattr(_survey, "SAMPLE", 1 << 20)
    X, y = made(300, 4)
    s = np.arange(300) % 3 + 1.0
    batches = Batches(X, y, s)
    found, expected = lr.fit_batches(batches, l2=1.0), lr.fit(X, y, l2=1.0, weights=s)
    np.testing.assert_array_equal(found.params.w, expected.params.w)
    assert batches.readings == 1
    assert lr.fit_batches([(X.astype(np.float32), y.astype(bool))], l2=1.0).params.w.dtype == np.float32


@pytest.mark.parametrize("kind", ["float32", "half", "lists", "jax", "integers", "booleans"])
def test_what_a_batch_may_be(kind):
    X, y = made(3000, 4)
    X = np.round(X * 8)
    change = {
        "float32": lambda X, y: (X.astype(np.float32), y.astype(np.float32)),
        "half": lambda X, y: (jnp.asarray(X, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16)),
        "lists": lambda X, y: [X.tolist(), y.tolist()],
        "jax": lambda X, y: (jnp.asarray(X), jnp.asarray(y)),
        "integers": lambda X, y: (X.astype(int), y.astype(int)),
        "booleans": lambda X, y: (X, y.astype(bool)),
    }[kind]
    given = [change(*batch) for batch in Batches(X, y)()]
    found, expected = lr.fit_batches(given, l2=1.0), lr.fit(X, y, l2=1.0)
    narrow = kind in ("float32", "half")
    assert found.params.w.dtype == ("float32" if narrow else "float64")
    if kind == "half":  # bfloat16 holds 8 bits of X
        X = np.asarray(given and np.concatenate([np.asarray(v, np.float32) for v, _ in given]), float)
        expected = lr.fit(X, y, l2=1.0)
    np.testing.assert_allclose(found.params.w, expected.params.w, rtol=1e-5 if narrow else 1e-11)
    f, best = (exact_value(X, y, 1.0, v.params) for v in (found, expected))
    assert f - best <= float(found.certificate.suboptimality) * (1 + 1e-6) + 1e-15 * best


def test_a_reader_of_arrow_data_is_a_function_that_starts_anew():
    X, y = made(3000, 2)
    parts = [ArrowBatch(a=X[i : i + 500, 0], b=X[i : i + 500, 1], y=y[i : i + 500]) for i in range(0, 3000, 500)]
    found = lr.fit_batches(lambda: least_squares.from_arrow(iter(parts), target="y"), l2=1.0)
    np.testing.assert_allclose(found.params.w, lr.fit(X, y, l2=1.0).params.w, rtol=1e-11)


def separated(kind):
    """X, y (logistic) or classes (softmax) that can be separated; `ties` only with rows on the border."""
    rng = np.random.default_rng(2)
    X = np.round(rng.normal(size=(4000, 3)) * 2)
    z = X @ [1.0, -2.0, 1.0]
    tie = np.where(kind == "ties", rng.random(len(z)) < 0.5, True)
    return X, np.where(z == 0, tie, z > 0).astype(int)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("kind", ["apart", "ties"])
def test_separable_classes_are_named_with_the_direction(kind, classes):
    X, y = separated(kind)
    if classes == 3:
        y = np.where(X @ [1.0, -2.0, 1.0] < -3, 2, y)
    batches = Batches(X, y)
    found = (lr if classes == 1 else sr).fit_batches(batches)
    w, b = found.certificate.direction
    z = X @ np.asarray(w) + np.asarray(b)
    margin = z * (2 * y - 1) if classes == 1 else z[np.arange(len(y)), y] - z.max(axis=1)
    assert found.status == Status.separable
    assert margin.min() >= -1e-11
    size = np.abs(z).max() if classes == 1 else np.max(z.max(axis=1) - z.min(axis=1))
    assert size == pytest.approx(1)
    assert np.isinf(found.certificate.suboptimality)
    assert not bool(found.certificate.converged)
    assert batches.readings <= 30


@pytest.mark.parametrize("l2", [0.0, 1.0])
def test_an_absent_class_is_named_and_the_others_are_fitted(l2):
    X, y = made(3000, 3)
    for label, sign in ((0, -1.0), (1, 1.0)):
        found = lr.fit_batches(Batches(X, np.full(len(X), label)), l2=l2)
        assert found.status == Status.separable
        assert float(found.certificate.direction.b) == sign
        assert not np.any(found.certificate.direction.w)
        assert np.isinf(found.certificate.suboptimality)
        assert (np.asarray(lr.predict(found.params, X)) == label).all()
    batches = Batches(X, y.astype(int))
    found = sr.fit_batches(batches, num_classes=3, l2=l2)
    assert found.status == Status.separable
    assert batches.readings <= 14
    np.testing.assert_array_equal(found.certificate.direction.b, [0, 0, -1])
    predicted = np.asarray(sr.predict(found.params, X))
    np.testing.assert_array_equal(predicted, np.asarray(sr.predict(sr.fit(X, y.astype(int), l2=l2).params, X)))
    alone = lr.fit_batches(Batches(X, np.ones(len(X))), l2=1.0, intercept=False)
    expected = lr.fit(X, np.ones(len(X)), l2=1.0, intercept=False)
    np.testing.assert_allclose(alone.params.w, expected.params.w, rtol=1e-10)


@pytest.mark.parametrize("l2", [1e-12, 1e-6])
def test_a_small_penalty_on_separable_classes_takes_no_hundreds_of_readings(l2):
    # The fit of the sample is far too sure of itself.
    X = np.random.default_rng(0).normal(size=(3000, 4))
    for model, y in ((lr, (X.sum(axis=1) > 0).astype(int)), (sr, np.argmax(X[:, :3], axis=1))):
        batches = Batches(X, y)
        found = model.fit_batches(batches, l2=l2)
        assert found.status == Status.converged
        assert found.certificate.suboptimality <= 1e-8 * found.certificate.objective
        expected = model.fit(X, y, l2=l2)
        np.testing.assert_allclose(found.certificate.objective, expected.certificate.objective, rtol=1e-12)
        assert batches.readings <= 70


def test_columns_that_change_only_from_batch_to_batch():
    X, y = made(4000, 3)
    X[:, 1] = np.repeat(np.arange(40), 100)
    batches = Batches(X, y, widths=(100,))
    found, expected = lr.fit_batches(batches, l2=0.1), lr.fit(X, y, l2=0.1)
    np.testing.assert_allclose(found.params.w, expected.params.w, rtol=1e-9)
    assert found.certificate.rank == 3


def test_the_bound_counts_the_farthest_row(monkeypatch):
    X, y = made(4000, 3)
    X[7] *= 50
    Z = np.concatenate([(X - X.mean(axis=0)) / 2 ** np.floor(np.log2(X.std(axis=0))), np.ones((len(X), 1))], axis=1)
    seen, proved = [], _certainty.proved
    monkeypatch.setattr(_certainty, "proved", lambda far, H, *rest: seen.append((far, H)) or proved(far, H, *rest))
    lr.fit_batches(Batches(X, y), l2=1.0)
    assert len(seen) >= 4
    for far, H in seen[1:]:  # the first is the end of the fit of the sample
        assert far >= np.max((Z * Z) @ (1 / H.diagonal())) * (1 - 1e-9)


def test_memory_is_that_of_a_batch_and_the_sample(monkeypatch, tmp_path):
    monkeypatch.setattr(_survey, "SAMPLE", 1 << 16)
    X, y = made(400_000, 8)
    np.save(tmp_path / "X.npy", X)
    on_disk = np.load(tmp_path / "X.npy", mmap_mode="r")
    tracemalloc.start()
    found = lr.fit_batches(Batches(on_disk, y, widths=(8192,)), l2=1.0, tol=1e-10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.status == Status.converged
    assert peak < 0.25 * X.nbytes
    assert peak < 2 * y.nbytes  # not even the logits


def test_what_is_refused():
    X, y = made(3000, 3)
    with pytest.raises(TypeError, match=r"readable more than once.*lambda"):
        lr.fit_batches(Batches(X, y)(), l2=1.0)
    with pytest.raises(TypeError, match=r"\(X, y\) or \(X, y, weights\), and batches a list of them; got ndarray"):
        lr.fit_batches([X])
    with pytest.raises(ValueError, match="There is no row"):
        lr.fit_batches([])
    with pytest.raises(ValueError, match="There is no row whose weight is not 0"):
        lr.fit_batches([(X, y, 0 * y)])
    with pytest.raises(ValueError, match="X must have 3 columns, as before; got"):
        lr.fit_batches([(X, y), (X[:, :2], y)])
    with pytest.raises(ValueError, match=r"y must hold labels 0, 1 or between"):
        lr.fit_batches([(X, y), (X, 2 * y)])
    with pytest.raises(ValueError, match="X"):
        lr.fit_batches([(X, y), (X * np.nan, y)])
    with pytest.raises(ValueError, match=r"l2 must .*not.* negative|l2"):
        lr.fit_batches([(X, y)], l2=-1.0)
    with pytest.raises(ValueError, match=r"classes in 0\.\.1"):
        sr.fit_batches([(X, np.arange(3000) % 3)], num_classes=2)
    with pytest.raises(ValueError, match=r"y must be integer classes, shape \(n,\)"):
        sr.fit_batches([(X, np.eye(3)[np.arange(3000) % 3])])
    with pytest.raises(ValueError, match=r"squares float64 does not hold: \[1\]. Scale them"):
        lr.fit_batches(Batches(X * [1, 1e-200, 1], y), l2=1.0)
    with pytest.raises(ValueError, match="l2 must be finite"):
        lr.fit_batches([(X, y)], l2=np.inf)
    with pytest.raises(ValueError, match=r"max_steps must be a whole number, at least 1; got 1\.5"):
        lr.fit_batches([(X, y)], max_steps=1.5)
    with pytest.raises(ValueError, match="num_classes must be a whole number"):
        sr.fit_batches([(X, y.astype(int))], num_classes=0)
    with pytest.raises(TypeError, match="batches must be a list"):
        lr.fit_batches(None)
    with pytest.raises(TypeError, match="l2 is traced"):
        jax.jit(lambda l2: lr.fit_batches(Batches(X, y), l2=l2).params.w)(1.0)
    with pytest.raises(TypeError, match="A batch is traced"):
        jax.jit(lambda X: lr.fit_batches([(X, y)]).params.w)(X)
    with pytest.raises(ValueError, match="y must hold labels") as refused:
        lr.fit_batches([(X, y), (X, y + 3)])
    assert refused.value.__notes__ == ["In batch 1, counted from 0."]


@pytest.mark.parametrize("kind", ["more rows", "other rows", "other labels", "other weights", "wider"])
def test_batches_that_change_from_one_reading_to_the_next_are_refused(kind):
    X, y = made(3000, 3)
    s, readings = np.ones(len(X)), []

    def batches():
        readings.append(1)
        if len(readings) == 1:
            return [(X, y, s)]
        return {
            "more rows": [(X, y, s)] * 2,
            "other rows": [(X + 1e-3, y, s)],
            "other labels": [(X, 1 - y, s)],
            "other weights": [(X, y, 2 * s)],
            "wider": [(np.concatenate([X, X], axis=1), y, s)],
        }[kind]

    if kind == "other labels":
        more = iter([y.astype(int), y.astype(int) + 1])
        with pytest.raises(ValueError, match="batches must give the same rows each time"):
            sr.fit_batches(lambda: [(X, next(more))], l2=1.0)
    words = "X must have 3 columns" if kind == "wider" else "batches must give the same rows each time"
    with pytest.raises(ValueError, match=words):
        lr.fit_batches(batches, l2=1.0)


def test_batches_without_rows_and_in_another_order_change_nothing():
    X, y = made(3000, 3)
    X[:, 1] += 1e9
    given = list(Batches(X, y)())
    turns = iter([given, given[::-1]] * 20)
    found = lr.fit_batches(lambda: [(X[:0], y[:0]), *next(turns), ([], [])], l2=1.0)
    np.testing.assert_allclose(found.params.w, lr.fit(X, y, l2=1.0).params.w, rtol=1e-9)


def test_an_infinite_tolerance_still_reads_all_rows():
    X, y = made(3000, 3)
    found = lr.fit_batches(Batches(X, y), tol=np.inf)
    f = exact_value(X, y, 0.0, found.params)
    np.testing.assert_allclose(found.certificate.objective, float(f), rtol=1e-12)
