"""Concrete fits, which run in NumPy: the same optimum and a bound that holds, whatever the size and the solver."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import datasets, newton, sweep
from fundl import logistic_regression as lr
from fundl import softmax_regression as sr
from fundl._result import Status
from fundl._types import Linear
from fundl.newton import _certainty, _conjugate, _distance, _passes, _sampled
from test_logistic_regression import digits_right, optimum
from test_newton import problems, value

pytestmark = pytest.mark.large


def concrete(X, y, k=1, *, l2=1.0, l1=0.0, weights=None, intercept=True, tol=0.0, max_steps=200, start=None):
    """The fit that compiled nothing; fails where it was left to the compiled program."""
    given = newton.prepared(X, y, k=k, weights=weights, intercept=intercept)
    assert given is not None
    found = newton.fit_prepared(given, newton.numbers(l2, l1, tol, max_steps), start)
    assert found is not None
    return found


def compiled(X, y, **options):
    model = sr if y.max() > 1 else lr
    return model.fit(X, y, method="newton", **({"l2": 1.0} | options))


def exact_value(X, y, l2, params, s=None):
    """f in extended precision; y in [0, 1] or integer classes."""
    w, b = np.asarray(params.w, np.longdouble), np.asarray(params.b, np.longdouble)
    z = np.asarray(X, np.longdouble) @ w + b
    if w.ndim == 1:
        L = np.logaddexp(0, z) - y * z
    else:
        top = z.max(axis=1)
        L = top + np.log(np.exp(z - top[:, None]).sum(axis=1)) - z[np.arange(len(y)), y]
    return (L if s is None else s * L).sum() + l2 / 2 * np.sum(w * w)


def made(n, d, k=1, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-1, 1, d) + 0.3
    z = (X - 0.3) / np.abs(X).max(axis=0) @ rng.normal(size=(d, max(k, 1))) * 2
    if k == 1:
        return X, (rng.random(n) < 1 / (1 + np.exp(-z[:, 0]))).astype(float)
    return X, np.argmax(z + rng.gumbel(size=z.shape), axis=1)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["labels", "soft", "weights", "no intercept"])
def test_the_same_optimum_as_the_compiled_program(l2, kind):
    X, y = made(60, 4)
    rng = np.random.default_rng(1)
    options = {"l2": l2}
    if kind == "soft":
        y = np.clip(y + rng.uniform(-1, 1, len(y)) * 0.4, 0.05, 0.95)
    if kind == "weights":
        options["weights"] = rng.integers(0, 3, len(y))
        X = np.where((options["weights"] == 0)[:, None], np.nan, X)
    if kind == "no intercept":
        options["intercept"] = False
    a, b = concrete(X, y, **options), compiled(X, y, **options)
    for u, v in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(u, v, rtol=1e-11)
    np.testing.assert_allclose(a.certificate.objective, b.certificate.objective, rtol=1e-14)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert [v.dtype for v in jax.tree.leaves(a)] == [v.dtype for v in jax.tree.leaves(b)]
    assert a.certificate.rank == b.certificate.rank
    np.testing.assert_allclose(a.certificate.standard_errors.w, b.certificate.standard_errors.w, rtol=1e-7)
    np.testing.assert_allclose(a.certificate.standard_errors.b, b.certificate.standard_errors.b, rtol=1e-7)
    assert a.certificate.suboptimality <= 1e-18 * a.certificate.objective


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("l2", [0.0, 0.5])
def test_the_same_optimum_for_several_classes(k, l2):
    X, y = made(200, 3, k)
    a, b = concrete(X, y, k, l2=l2), compiled(X, y, l2=l2)
    np.testing.assert_allclose(a.params.w, b.params.w, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(a.params.b, b.params.b, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(a.certificate.standard_errors.w, b.certificate.standard_errors.w, rtol=1e-6)


SHAPES = {  # each reaches another part of the code: sampled Hessian, float32 products, both, data not copied
    "tall": (40_000, 5, 1), "tall, not copied": (500_000, 9, 1), "wide": (300, 700, 1), "classes": (900, 40, 6),
    "tall, classes": (60_000, 30, 6),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_size_reaches_the_optimum_and_proves_it(shape, dtype):
    X, y = made(*SHAPES[shape])
    X = X.astype(dtype)
    k = SHAPES[shape][2]
    best = concrete(X.astype(float), y, k)
    f_best = exact_value(X, y, 1.0, best.params)
    assert best.certificate.suboptimality <= 1e-12 * float(f_best)
    rough = concrete(X, y.astype(int), k, tol=1e-6)
    bound = float(rough.certificate.suboptimality)
    f = exact_value(X, y, 1.0, rough.params)
    assert -1e-15 * f_best <= f - f_best <= bound + 1e-15 * f_best
    assert bound <= 1e-6 * f
    if dtype == "float32":
        fine = concrete(X, y.astype(int), k)
        assert fine.params.w.dtype == np.float32
        scale = np.abs(best.params.w).max()
        np.testing.assert_allclose(fine.params.w, best.params.w, rtol=1e-5, atol=1e-6 * scale)


def bounds_hold(lanes):
    X, y, s, l2 = problems(lanes)
    told = 0
    for i in range(lanes):
        best = lr.fit(X[i], y[i], l2=l2[i], weights=s[i])
        if best.status not in (Status.converged, Status.rank_deficient):
            assert best.status is Status.separable
            continue
        f_best = value(X[i], y[i], s[i], l2[i], best.params.w, best.params.b)
        for steps in (3, 5, 200):
            for tol in (1e-2, 1e-6):
                early = newton.fit_concrete(
                    X[i], y[i], k=1, l2=l2[i], l1=0.0, weights=s[i], intercept=True, method="auto", tol=tol,
                    max_steps=steps,
                )  # fmt: skip
                if early is None:
                    continue
                f = value(X[i], y[i], s[i], l2[i], early.params.w, early.params.b)
                bound = float(early.certificate.suboptimality)
                assert f - f_best <= bound + 1e-13 * f, (i, steps, tol)
                told += bool(np.isfinite(bound) and f - f_best > 1e-12 * f)
    return told


def test_the_bound_holds_wherever_the_steps_end():
    assert bounds_hold(60) > 15


@pytest.mark.slow
def test_the_bound_holds_on_a_thousand_problems():
    assert bounds_hold(1000) > 300


def test_what_is_not_plain_goes_to_the_compiled_program():
    X, y = made(40, 2)
    plain = {"k": 1, "l2": 0.0, "l1": 0.0, "weights": None, "intercept": True, "method": "auto", "tol": 0.0}
    plain["max_steps"] = 200

    def left(X, y, **options):
        return newton.fit_concrete(X, y, **(plain | options)) is None

    assert not left(X, y)
    assert left(X, (X[:, 0] > 0.3).astype(float))  # separable
    assert left(X, np.ones(40))
    assert left(X[:, [0, 0]], y)  # dependent columns
    assert left(np.where(X[3, 1] == X, np.nan, X), y)
    assert left(X, y + 1)
    assert left(X, y, weights=-np.ones(40))
    assert left(X, np.arange(40) % 3, k=3, l1=1.0)
    assert left(X, y, l1=1.0, max_steps=1)
    assert left(X, y, l2=-1.0)
    assert left(X, y, max_steps=1)
    assert left(X, y, method="newton")
    assert jax.jit(lambda l2: jnp.asarray(left(X, y, l2=l2)))(1.0)
    assert left(X, np.arange(40) % 3 + 1, k=4, l2=1.0)  # a class that never occurs


def test_lists_integers_and_narrow_numbers_are_read_as_the_compiled_program_reads_them():
    X, y = made(30, 2)
    whole = np.round(X * 10).astype(int)
    for inputs, labels in ((X.tolist(), y.tolist()), (whole, y.astype(bool)), (X.astype(np.float32), y.astype(int))):
        a = concrete(inputs, labels)
        b = lr.fit(inputs, labels, l2=1.0, method="newton")
        np.testing.assert_allclose(a.params.w, b.params.w, rtol=1e-6 if a.params.w.dtype == np.float32 else 1e-11)
        assert a.params.w.dtype == b.params.w.dtype
    with jax.enable_x64(False):
        found = concrete(X, y)
        assert found.params.w.dtype == np.float32
        assert found.certificate.suboptimality < 1e-9


def test_large_offsets_and_outliers_do_not_hide_in_the_sample():
    X, y = made(300_000, 15)
    X[:, 3] += 1e8
    found = concrete(X, y)
    np.testing.assert_allclose(found.params.w, concrete(X - np.eye(15)[3] * 1e8, y).params.w, rtol=1e-9)
    X[7, 2] = 1e3  # in no sample
    found, best = lr.fit(X, y, l2=1.0), lr.fit(X, y, l2=1.0, method="newton")
    assert found.status is best.status is Status.converged
    np.testing.assert_allclose(found.params.w, best.params.w, rtol=1e-9)


def test_digits_of_the_optimum_on_breast_cancer():
    data = datasets.breast_cancer()
    X, y = np.asarray(data.X, float)[:150, :8], np.asarray(data.y)[:150]
    found = concrete(X, y)
    w, b, _ = optimum(X, y.astype(float), 1.0, start=np.append(found.params.w, found.params.b), digits=32)
    assert digits_right(found.params.w, w) > 11.5
    assert digits_right(found.params.b, b) > 11.5


@pytest.mark.parametrize("l2", [1.0, 0.0])
def test_rows_on_disk_are_read_a_few_times_and_never_held(l2, tmp_path, monkeypatch):
    X, y = made(400_000, 12)
    np.save(tmp_path / "X.npy", X)
    on_disk = np.load(tmp_path / "X.npy", mmap_mode="r")
    reads = []
    monkeypatch.setattr(_passes, "full", lambda rows, theta, pass_=_passes.full: reads.append(1) or pass_(rows, theta))
    tracemalloc.start()
    found = concrete(on_disk, y, l2=l2, tol=1e-10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.certificate.suboptimality <= 1e-10 * found.certificate.objective
    assert peak < 0.75 * X.nbytes  # logits and labels are held, (n,) each, and the sample
    assert len(reads) <= 9
    right = concrete(X, y, l2=l2)
    np.testing.assert_allclose(found.params.w, right.params.w, rtol=1e-4)
    np.testing.assert_allclose(found.certificate.standard_errors.w, right.certificate.standard_errors.w, rtol=1e-6)


@pytest.mark.parametrize("every", [5, 10])
@pytest.mark.parametrize("intercept", [True, False])
def test_an_inverse_hessian_from_nearby_changes_the_work_and_not_the_optimum(intercept, every, monkeypatch):
    n, d, k = 600, 60, 8
    rng = np.random.default_rng(4)
    X = rng.normal(size=(n, d)) + rng.normal(size=(n, 1))
    y = np.argmax(X[:, :k] - 1 + rng.gumbel(size=(n, k)), axis=1)
    X[:, 1] = 1e3 * (X[:, 1] + 7)
    s = np.ones(n)
    s[::every] = 0.0  # a fold: other means and spreads, and so other coordinates
    options = {"intercept": intercept, "k": k}
    whole = concrete(X, y, l2=0.5, **options)
    start = newton.start_from(whole.params, newton.prepared(X, y, weights=None, **options), l2=0.5, fits=5)
    assert start.inverse is not None
    products = []
    times = _conjugate.Model.times
    monkeypatch.setattr(_conjugate.Model, "times", lambda *a: products.append(1) or times(*a))
    found = {}
    for name, near in (("parameters", newton.Start(whole.params)), ("both", start)):
        products.clear()
        fit = concrete(X, y, l2=0.3, weights=s, start=near, **options)
        found[name] = fit, len(products)
    (plain, many), (quick, few) = found["parameters"], found["both"]
    # Without a fifth of the rows, about as many as coefficients, the inverse is no nearer than a matrix for each class.
    assert few < (0.6 * many if every == 10 else 0.6 * 127)
    assert many < 110  # where rounding moved all classes alike, hundreds were spent on that
    f = [exact_value(X, y, 0.3, fit.params, s) for fit in (plain, quick)]
    bounds = [float(fit.certificate.suboptimality) for fit in (plain, quick)]
    assert abs(f[0] - f[1]) <= max(bounds) <= 1e-8 * f[0]
    np.testing.assert_allclose(quick.params.w, plain.params.w, atol=1e-11 * np.abs(plain.params.w).max())


@pytest.mark.parametrize(("shape", "serves"), [((300, 450), True), ((120, 480, 3), True), ((4000, 60, 6), False)])
def test_a_preconditioner_serves_again_where_products_are_cheaper(shape, serves, monkeypatch):
    X, y = made(*shape)
    k = shape[2] if len(shape) > 2 else 1
    made_anew, inverse_of = [], _conjugate.inverse_of
    monkeypatch.setattr(_conjugate, "inverse_of", lambda M: made_anew.append(1) or inverse_of(M))
    found = concrete(X, y, k)
    assert found.certificate.steps >= 5
    assert (2 * len(made_anew) <= found.certificate.steps) == serves

    def dependent(M):
        raise np.linalg.LinAlgError

    monkeypatch.setattr(_conjugate, "inverse_of", dependent)
    np.testing.assert_allclose(concrete(X, y, k).params.w, found.params.w, atol=1e-9 * np.abs(found.params.w).max())


@pytest.mark.parametrize("changed", ["nothing", "not finite", "one logit", "dense", "no penalty", "few fits"])
def test_a_start_has_an_inverse_hessian_only_where_fits_will_use_it(changed):
    X, y = made(200, 5 if changed == "dense" else 60, 3)
    k, bad = (1, 0.0) if changed == "one logit" else (3, np.nan if changed == "not finite" else 0.0)
    y = 1 * (y > 0) if k == 1 else y
    params = Linear(np.full((X.shape[1], k), bad), np.full(k, bad))
    l2, fits = 0.0 if changed == "no penalty" else 1.0, 0 if changed == "few fits" else 5
    given = newton.prepared(X, y, k=k, weights=None, intercept=True)
    found = newton.start_from(params, given, l2=l2, fits=fits)
    assert (found.inverse is not None) == (changed == "nothing")


@pytest.mark.parametrize("k", [1, 4])
def test_intercepts_are_levelled_and_their_move_is_known(k):
    X, y = made(80, 3, k)
    rows = _passes.Rows(np.c_[X, np.ones(80)], 1 - 2 * y if k == 1 else y, None, k, False, True, None)
    K, theta = np.r_[np.ones(3), 0.0], np.full((4, k), 0.1) * np.arange(1, k + 1)
    z = _passes.logits(rows, theta)
    found = _distance.level(rows, K, theta, z)
    f, a, _ = _passes.loss(rows, _passes.logits(rows, found.theta))
    assert np.abs(a.sum(axis=0)).max() <= 1e-12 * np.abs(a).sum()
    np.testing.assert_array_equal(found.theta[:-1], theta[:-1])
    np.testing.assert_allclose(found.f, f + _sampled.quadratic(K, theta), rtol=1e-14)
    np.testing.assert_allclose(found.moved, np.linalg.norm(a - _passes.loss(rows, z)[1], axis=0), rtol=1e-10)
    coarse = _distance.level(rows, K, theta, z, 1e-3)  # the gradient in b may be 1e-3 f
    assert 1e-12 * f < coarse.left <= 1e-3 * f


def test_constant_columns_and_the_last_digit_cost_neither_the_bound_nor_the_numpy_path():
    data = datasets.digits()
    X, y = np.asarray(data.X, float) / 16, np.asarray(data.y)
    found = concrete(X, y, k=10)
    other = sr.fit(X, y, l2=1.0, method="subspace")
    assert int(found.certificate.rank) == int(other.certificate.rank) == 61
    for fit in (found, other):
        assert 0 < float(fit.certificate.suboptimality) <= 1e-12 * float(fit.certificate.objective)
    np.testing.assert_allclose(found.params.w, other.params.w, atol=1e-12 * np.abs(found.params.w).max())


def test_a_preconditioner_for_each_class_halves_the_products(monkeypatch):
    X, y = made(600, 40, 8)
    products, found, times = [], [], _conjugate.Model.times
    monkeypatch.setattr(_conjugate.Model, "times", lambda *a: products.append(1) or times(*a))
    for entries in (_conjugate.ENTRIES, 0):
        monkeypatch.setattr(_conjugate, "ENTRIES", entries)
        products.clear()
        fit = concrete(X, y, 8)
        found.append((len(products), fit))
    (few, one_each), (many, one_for_all) = found
    assert few < 0.6 * many
    np.testing.assert_allclose(one_each.params.w, one_for_all.params.w, atol=1e-11 * np.abs(one_each.params.w).max())


@pytest.mark.parametrize("shape", [(300, 450), (150, 60, 5)])
def test_a_step_that_rounding_turns_uphill_is_the_last(shape, monkeypatch):
    X, y = made(*shape)
    k = shape[2] if len(shape) > 2 else 1
    right, solve = concrete(X, y, k), _conjugate.Model.solve

    def turned(self, g, accuracy):
        v = solve(self, g, accuracy)
        return -v if np.vdot(g, v) < 1e-20 else v

    monkeypatch.setattr(_conjugate.Model, "solve", turned)
    found = concrete(X, y, k)  # not left to the compiled program
    assert found.certificate.steps <= right.certificate.steps
    assert found.certificate.suboptimality <= 1e-10 * found.certificate.objective
    np.testing.assert_allclose(found.params.w, right.params.w, atol=1e-8 * np.abs(right.params.w).max())


def test_parameters_that_float32_does_not_hold_are_named():
    X, y = made(200, 3)
    found = lr.fit((X * [1e-40, 1, 1]).astype(np.float32), y.astype(np.float32))
    assert found.status == Status.non_finite
    assert not bool(found.certificate.converged)
    assert lr.fit(X * [1e-40, 1, 1], y).status == Status.converged


@pytest.mark.parametrize("sizes", [(1.0, 3.0), (1e25, 1.0), (1e-25, 1.0), (0.0, 1.0)])
def test_column_norms_of_float32_rows_are_at_least_the_true_ones(sizes):
    X = (np.random.default_rng(31).normal(size=(70_000, 2)) * sizes).astype(np.float32)
    rows = _passes.Rows(X, np.ones(len(X)), None, 1, False, True, np.ones(2))
    true = np.append(np.linalg.norm(X.astype(float), axis=0), np.sqrt(len(X)))
    with np.errstate(over="ignore"):
        found = rows.column_norms()
    assert (found >= true * (1 - 1e-12)).all()
    assert (found <= true * 1.01).all()


@pytest.mark.parametrize(("k", "soft"), [(1, False), (1, True), (3, False), (40, False)])
def test_a_loss_in_float32_is_that_in_float64_far_out_too(k, soft):
    rng = np.random.default_rng(33)
    n = 400
    z = (rng.normal(size=(n, k)) * 10.0 ** rng.uniform(-2, 2.2, (n, 1))).astype(np.float32)
    y = rng.random(n) if soft else 1.0 - 2 * rng.integers(0, 2, n) if k == 1 else rng.integers(0, k, n)
    rows = _passes.Rows(z, y, rng.random(n), k, soft, True, np.ones(k))
    if soft:
        rows = rows._replace(y=y.astype(np.float32).astype(float))
    single = rows.single()
    rows = rows._replace(s=single.s.astype(float))
    for order in ("C", "F"):  # of few classes the columns are contiguous, of many the rows
        with np.errstate(over="ignore", divide="ignore"):
            f, a, p = _passes.loss(single, np.asarray(z, order=order))
            g, b, q = _passes.loss(rows, np.asarray(z, np.float64, order=order))
        assert (a.dtype, p.dtype, b.dtype) == (np.float32, np.float32, np.float64)
        np.testing.assert_allclose(f, g, rtol=1e-6)
        # exp(-d) of d <= 104, which is rounded once: 104 eps / 2, and some eps more; atol: float32's smallest numbers.
        # A soft label's a is a difference of numbers up to 1.
        atol = _passes.EPS32 if soft else 1e-37
        np.testing.assert_allclose(a, b, rtol=60 * _passes.EPS32, atol=atol)
        np.testing.assert_allclose(p, q, rtol=60 * _passes.EPS32, atol=1e-37)
        none = _passes.loss(rows, np.asarray(z, np.float64, order=order), False)
        assert none[0] == g
        np.testing.assert_array_equal(none[1], b)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_weighted_gram_matrix_of_many_blocks(dtype):
    rng = np.random.default_rng(34)
    X, c = rng.normal(size=(3000, 500)).astype(dtype), rng.random(3000).astype(dtype)
    assert len(X) > 2 * _passes.rows_of_block(500, 1)
    right = X.T.astype(float) @ (c.astype(float)[:, None] * X)
    found = _passes.weighted_gram(X, c)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, right, atol=np.sqrt(3000) * np.finfo(dtype).eps * np.abs(right).max())


def counted(monkeypatch):
    """The dtypes of the passes over all rows."""
    passes, full = [], _passes.full

    def one(rows, theta):
        passes.append((len(rows.y), np.dtype(rows.dtype).name))
        return full(rows, theta)

    monkeypatch.setattr(_passes, "full", one)
    return passes


@pytest.mark.parametrize("shape", [(300_000, 15), (60_000, 30, 6)])
def test_float32_rows_are_read_as_they_are_up_to_the_last_steps(shape, monkeypatch):
    n, k = shape[0], shape[2] if len(shape) > 2 else 1
    X, y = made(n, shape[1], k)
    X, y = (X / X.std(axis=0)).astype(np.float32), y.astype(int)
    monkeypatch.setattr("fundl.newton._prepared.LARGE", X.size // 2)
    right, passes = concrete(X.astype(float), y, k), counted(monkeypatch)
    for tol, most in ((1e-6, 2), (0.0, 14)):
        passes.clear()
        found = concrete(X, y, k, tol=tol)
        wide = [dtype for size, dtype in passes if size == n]
        told = k == 1 and tol > 0  # float32 proves the end
        assert wide.count("float64") == 0 if told else 1 <= wide.count("float64") <= most
        assert wide.count("float32") >= 1
        f, best = exact_value(X, y, 1.0, found.params), exact_value(X, y, 1.0, right.params)
        assert f - best <= float(found.certificate.suboptimality) <= (tol or 1e-9) * float(f)


@pytest.mark.parametrize(("d", "k"), [(12, 1), (3, 3)])
def test_float32_tells_the_end_of_one_logit_where_its_rounding_is_less_than_the_tolerance(d, k, monkeypatch):
    X, y = made(400_000, d, k)
    X, y = (X / X.std(axis=0)).astype(np.float32), y.astype(int)
    monkeypatch.setattr("fundl.newton._prepared.LARGE", X.size // 2)
    right, passes = concrete(X.astype(float), y, k), counted(monkeypatch)
    for tol in (1e-5, 1e-8):
        passes.clear()
        found = concrete(X, y, k, tol=tol)
        assert all(dtype == "float32" for _, dtype in passes) == (k == 1 and tol == 1e-5)
        f, best = exact_value(X, y, 1.0, found.params), exact_value(X, y, 1.0, right.params)
        assert f - best <= float(found.certificate.suboptimality) <= max(tol, 1e-7) * float(f)


def test_a_sample_that_grows_leaves_few_passes_over_all_rows(monkeypatch):
    X, y = made(150_000, 20)
    passes = counted(monkeypatch)
    found = concrete(X, y, tol=1e-10)
    assert sum(size == 150_000 for size, _ in passes) <= 4
    assert found.certificate.suboptimality <= 1e-10 * found.certificate.objective


@pytest.mark.parametrize("k", [2, 3, 7])
def test_a_bound_from_the_smallest_probabilities_holds(k):
    X, y = made(3000, 6, k, seed=k)
    Z = np.c_[(X - X.mean(axis=0)) / X.std(axis=0), np.ones(3000)]
    rows = _passes.Rows(Z, y, None, k, False, True, None)
    K, rng, tight = np.r_[np.full(6, 0.5), 0.0], np.random.default_rng(35), 0
    theta = _sampled.newton(rows, K, 0.0, 100).theta
    least = _passes.value(rows, theta) + _sampled.quadratic(K, theta)
    far = np.argsort(np.linalg.norm(Z, axis=1))[-300:]  # rows that bend more than others
    some = _conjugate.narrowed(rows._replace(X=Z[far], y=rows.y[far]), 10.0)
    for bends in (_conjugate.narrowed(rows, 1.0), some):
        for size in 10.0 ** rng.uniform(-5, 0.5, 60):
            v = rng.normal(size=theta.shape) * size
            at = theta + v - v.mean(axis=1, keepdims=True)
            now = _passes.at(rows, at)
            g = now.g + K[:, None] * at
            gap = now.f + _sampled.quadratic(K, at) - least
            bound = _distance.concordance(bends.rows, K, at, g, np.zeros_like(g))
            assert bound >= gap - 1e-14 * least  # the rounding of f
            tight += bound < 300 * gap + 1e-9
    assert tight > 30  # it is of use


def test_a_fit_goes_on_where_its_end_is_not_proved_yet():
    rng = np.random.default_rng(36)
    X = rng.normal(size=(26_000, 20))
    z = X @ rng.normal(size=(20, 6)) * 30
    y = np.argmax(z + rng.gumbel(size=z.shape), axis=1)
    found = concrete(X, y, 6, l2=1e-6, tol=1e-6)
    assert found.certificate.suboptimality <= 1e-6 * found.certificate.objective


def test_a_bound_from_probabilities_that_float32_takes_for_0_is_infinite():
    y = np.repeat(np.arange(24), 50)
    Z = np.c_[100.0 * (y - 11.5), np.ones(len(y))]
    rows = _passes.Rows(Z, y, None, 24, False, True, None)
    theta = np.c_[np.arange(24) - 11.5, -50 * (np.arange(24) - 11.5) ** 2].T
    K, g = np.array([1e-3, 0.0]), np.full((2, 24), 1e-6)
    assert _passes.probabilities(rows, theta).min(axis=1).max() < 1e-60
    with np.errstate(under="ignore"):
        assert _distance.concordance(_conjugate.narrowed(rows, 1.0).rows, K, theta, g, 0 * g) == np.inf


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint64, np.int64])
def test_classes_may_be_integers_of_any_size(dtype):
    X, y = made(9000, 3, 5)
    right, found = concrete(X, y, 5), concrete(X, y.astype(dtype), 5)
    np.testing.assert_array_equal(found.params.w, right.params.w)


@pytest.mark.parametrize("shape", [(2600, 450), (600, 90)])
def test_a_start_with_many_columns_has_the_inverse_of_the_penalised_hessian(shape):
    X, y = made(*shape, 2)
    fit = concrete(X, y, 2)
    start = newton.start_from(fit.params, newton.prepared(X, y, k=2, weights=None, intercept=True), l2=1.0, fits=50)
    Z = np.c_[(X - start.inverse.m) / start.inverse.scale, np.ones(len(X))]
    rows = _passes.Rows(Z, y, None, 2, False, True, None)
    K = np.append(1 / start.inverse.scale**2, 0.0)
    theta = np.r_[fit.params.w * start.inverse.scale[:, None], (fit.params.b + start.inverse.m @ fit.params.w)[None]]
    H = _sampled.regular(_passes.hessian(rows, _passes.probabilities(rows, theta)), K, rows)
    r = np.random.default_rng(37).normal(size=(len(H), 5))
    atol = np.linalg.cond(H) * _passes.EPS32 * np.abs(r).max()
    np.testing.assert_allclose(H @ (start.inverse.matrix @ r), r, atol=atol)


@pytest.mark.parametrize("size", [1e-10, 1e-24])
def test_a_column_whose_penalty_float32_does_not_hold_is_not_called_converged_at_0(size):
    X, y = made(300, 500)
    found = lr.fit(X * np.where(np.arange(500) == 3, size, 1.0), y, l2=1.0)
    best = concrete(X * np.where(np.arange(500) == 3, 0.0, 1.0), y)
    if size == 1e-10 or found.status == Status.converged:
        np.testing.assert_allclose(found.certificate.objective, best.certificate.objective, rtol=1e-9)
    assert concrete(np.zeros((600, 450)), np.arange(600) % 2).status == Status.converged  # at 0, where the slope is 0


@pytest.mark.parametrize("kind", ["ones", "dummies", "twice", "near"])
@pytest.mark.parametrize("tol", [0.0, 1e-6])
def test_dependent_columns_of_many_rows_are_proved_in_float64(kind, tol):
    X, y = made(150_000, 8)
    rng = np.random.default_rng(38)
    more = {
        "ones": np.ones((len(X), 1)),
        "dummies": np.eye(3)[rng.integers(0, 3, len(X))],
        "twice": X[:, :1],
        "near": X[:, :1] + 1e-4 * rng.normal(size=(len(X), 1)),
    }[kind]
    found = concrete(np.c_[X, more], y, l2=1e-2, tol=tol)
    assert found.status == Status.converged
    assert found.certificate.suboptimality <= (tol or 1e-10) * found.certificate.objective


@pytest.mark.parametrize("weight", [1e-50, 1e-30, 1e30])
def test_weights_that_float32_does_not_hold(weight):
    X, y = made(120_000, 10)
    found, right = concrete(X, y, l2=weight, weights=np.full(len(X), weight)), concrete(X, y)
    np.testing.assert_allclose(found.params.w, right.params.w, rtol=1e-9)


def test_a_step_that_is_too_long_is_cut_where_the_line_is_lowest():
    X, y = made(400, 3, 3)
    rows = _passes.Rows(np.c_[X, np.ones(400)], y, None, 3, False, True, None)
    K, theta = np.r_[np.ones(3), 0.0], np.zeros((4, 3))
    now = _passes.at(rows, theta)
    step = -0.0016 * now.g

    def f(t):
        return _passes.value(rows, theta + t * step) + _sampled.quadratic(K, theta + t * step)

    lengths = np.linspace(0.1, 0.5, 2001)
    best = lengths[np.argmin([f(t) for t in lengths])]
    assert 0.12 < best < 0.48
    t = _conjugate.shorter(rows, 1.0, K, now.z, _passes.logits(rows, theta + step), theta, step)
    assert abs(t - best) <= 0.4 / 32 + 2e-4  # the last interval, and the grid


@pytest.mark.parametrize("kind", ["labels", "weights", "soft", "classes"])
def test_a_newton_step_goes_on_where_the_value_still_falls(kind):
    rng = np.random.default_rng(41)
    k = 4 if kind == "classes" else 1
    X, y = made(500, 8, k, seed=7)
    Z = np.c_[X / X.std(axis=0), np.ones(500)]
    y = y if k > 1 else rng.random(500) if kind == "soft" else 1 - 2.0 * y
    rows = _passes.Rows(Z, y, rng.random(500) if kind == "weights" else None, k, kind == "soft", True, None)
    K, longer = np.r_[np.full(8, 0.1), 0.0], 0
    for size in (0.0, 0.1, 1.0):
        theta = rng.normal(size=(9, k)) * size
        now = _passes.at(rows, theta)
        g = now.g + K[:, None] * theta
        v = -np.linalg.solve(_sampled.regular(_passes.hessian(rows, now.p), K, rows), g.reshape(-1)).reshape(g.shape)
        t = _sampled.length(rows, 1.0, K, theta, v, now.z, -float(np.vdot(g, v)))

        def value(t, theta=theta, v=v):
            return _passes.value(rows, theta + t * v) + _sampled.quadratic(K, theta + t * v)

        assert t >= 1
        longer += t > 1
        assert t == 1 or value(t) < value(1.0)
        assert t == 1 or value(t) < value(t - 0.01)  # not beyond the lowest point
    assert longer >= (0 if kind == "soft" else 1)


def test_few_hessians_lead_to_the_optimum(monkeypatch):
    formed, hessian = [], _passes.hessian
    monkeypatch.setattr(_passes, "hessian", lambda rows, p: formed.append(rows.dtype) or hessian(rows, p))
    data = datasets.breast_cancer()
    X = np.asarray(data.X, float)
    found = concrete((X - X.mean(axis=0)) / X.std(axis=0), np.asarray(data.y), tol=1e-10)
    assert found.certificate.suboptimality <= 1e-10 * found.certificate.objective
    assert len(formed) <= 6  # 8 with steps that are not lengthened
    assert formed.count(np.float32) >= 4


@pytest.mark.parametrize(("n", "d", "q"), [(300_000, 2, 0.95), (300_000, 2, 1.0), (200_000, 3, 1.0), (100_000, 8, 1.0)])
def test_float32_sums_of_equal_rows_lose_no_more_than_is_allowed_for(n, d, q):
    rng = np.random.default_rng(43)
    X = (rng.random((n, d)) < q).astype(np.float32)
    y = 1 - 2.0 * (np.arange(n) < n / 2)  # sorted: the terms of a block have one sign
    rows = _passes.Rows(X, y, None, 1, False, True, np.ones(d))
    for slope in (0.0, 1.0):
        theta = np.full((d + 1, 1), slope)
        theta[-1] = 0.3
        found, right = _passes.full(rows.single(), theta), _passes.full(rows, theta)
        allowed = _certainty.rounding(
            1.0, np.zeros(d + 1), rows.column_norms(), found.alpha, theta, float(np.finfo(np.float32).eps)
        )
        assert np.all(np.abs(found.g - right.g) <= allowed / 2)


def test_a_logit_whose_square_overflows_does_not_keep_the_steps_going():
    rng = np.random.default_rng(2)
    X, y, s = rng.normal(size=(60, 2)), rng.integers(0, 3, 60), np.ones(60)
    X[0, 0], s[0] = 1e155, 1e-310
    assert sr.fit(X, y, l2=1.0, weights=s, intercept=False).status is not Status.non_finite


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_bend_along_a_step_is_that_of_the_hessian(k, weighted):
    rng = np.random.default_rng(44)
    y = 1 - 2.0 * rng.integers(0, 2, 50) if k == 1 else rng.integers(0, k, 50)
    rows = _passes.Rows(rng.normal(size=(50, 6)), y, rng.random(50) if weighted else None, k, False, True, None)
    p, v = _passes.probabilities(rows, rng.normal(size=(6, k))), rng.normal(size=(6, k))
    right = v.reshape(-1) @ _passes.hessian(rows, p) @ v.reshape(-1)
    np.testing.assert_allclose(_passes.bend(rows, p, _passes.logits(rows, v)), right, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_the_rounding_of_the_gradient_is_within_its_bound_where_classes_are_certain(k):
    """Logits that are small sums of large terms: their rounding is most of the error, and the losses bound it."""
    rng = np.random.default_rng(46)
    n, units = 400, np.array([3.0, 2.0, 5.0])
    u, v = rng.normal(size=n), 1 + rng.random(n)
    Z = np.stack([u, u + 1e-6 * v, np.ones(n)], axis=1)
    theta = np.outer([1.1e7, -1.1e7, 0.3], 1.0 if k == 1 else [1.0, -0.5, -1.5])
    exact = Z.astype(np.longdouble) @ theta
    y = np.ones(n) if k == 1 else np.argmax(exact, axis=1)  # for k = 1 as -1 for 1 and 1 for 0
    rows = _passes.Rows(Z, y, None, k, False, True, None)
    f, a, _ = _passes.loss(rows, _passes.logits(rows, theta))
    if k == 1:
        right = 1 / (1 + np.exp(-exact))
    else:
        p = np.exp(exact - exact.max(axis=1, keepdims=True))
        right = p / p.sum(axis=1, keepdims=True) - np.eye(k)[y]
    norms, far = np.linalg.norm(Z, axis=0), _certainty.reach(rows, units)
    moved = _certainty.moved(f, far, units, theta)
    error = np.abs(_passes.back(rows, a) - Z.T @ right).astype(float)
    alpha = float(np.linalg.norm(a))
    assert np.all(error <= _certainty.rounding(1.0, np.zeros(3), norms, alpha, theta, moved=moved))
    # Without what logits move it would be too little, and by how rows bend at most it is far more.
    assert np.any(error > _certainty.rounding(1.0, np.zeros(3), norms, alpha, theta, moved=0.0))
    assert moved < 1e-2 * np.sum(norms[:, None] * np.abs(theta)) / 4


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_hessian_of_certain_classes_keeps_its_digits(dtype, weighted):
    rng = np.random.default_rng(45)
    n, D, k = 1500, 4, 3
    z = rng.normal(size=(n, k)) + 30 * np.eye(k)[np.arange(n) % k]
    X, s = rng.normal(size=(n, D)).astype(dtype), rng.random(n).astype(dtype) if weighted else None
    rows = _passes.Rows(X, np.arange(n) % k, s, k, False, True, None, dtype)
    p = _passes.loss(rows, z.astype(dtype))[2]
    e = np.exp(z.astype(dtype).astype(np.longdouble))
    q = e / e.sum(axis=1, keepdims=True)
    h = -q[:, :, None] * q[:, None, :]
    others = np.stack([np.delete(q, a, axis=1).sum(axis=1) for a in range(k)], axis=1)
    h[:, np.arange(k), np.arange(k)] = q * others
    weights = np.ones(n) if s is None else s
    right = np.einsum("n,ni,nab,nj->iajb", weights, X.astype(np.longdouble), h, X.astype(np.longdouble))
    right = right.reshape(D * k, D * k).astype(float)
    root = np.sqrt(np.diagonal(right))
    error = np.abs(_passes.hessian(rows, p) - right) / np.outer(root, root)
    assert error.max() <= 40 * np.finfo(dtype).eps  # p is 1 to 1e-13: from p (1 - p) nothing would be right in float32
    np.testing.assert_array_equal(rows.X, X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_nearly_alike_keep_hessians_in_float64(dtype):
    rng = np.random.default_rng(0)
    n, d, k = 30_000, 8, 5
    X = rng.normal(size=(n, d))
    X[:, 0] = X[:, 1] + 1e-4 * rng.normal(size=n)
    y = np.argmax(X @ rng.normal(size=(d, k)) / 3 + rng.gumbel(size=(n, k)), axis=1)
    found = concrete(X.astype(dtype), y, k, l2=0.0)
    assert found.certificate.suboptimality <= (1e-8 if dtype == np.float64 else 1e-5)


def far_away(offset, dtype):
    """One column at an offset that leaves few digits of it in dtype."""
    rng = np.random.default_rng(0)
    t = np.round(rng.normal(size=200) * 4) * 2
    return (offset + t).astype(dtype)[:, None], (rng.random(200) < 1 / (1 + np.exp(-t / 5))).astype(int), t


@pytest.mark.parametrize("way", ["fit", "l1", "newton", "softmax", "batches", "sweep", "traced"])
def test_no_fit_has_converged_whose_parameters_the_dtype_does_not_hold(way):
    offset, dtype = (2.0**23, np.float32) if way in ("sweep", "traced") else (1.7e9, np.float64)
    X, y, t = far_away(offset, dtype)
    ways = {
        "fit": lambda: lr.fit(X, y),
        "l1": lambda: lr.fit(X, y, l1=1e-6),
        "newton": lambda: lr.fit(X, y, method="newton"),
        "softmax": lambda: sr.fit(X, y),
        "batches": lambda: lr.fit_batches([(X, y)]),
        "sweep": lambda: jax.tree.map(lambda v: v[(0,) * min(v.ndim, 3)], sweep.logistic(X, y, l2=[0.0])),
        "traced": lambda: jax.jit(lr.fit)(X, y),
    }
    with jax.enable_x64(False):
        found = ways[way]()
    least = float(exact_value(t[:, None], y, 0, lr.fit(t[:, None], y).params))
    got = float(exact_value(X, y, 0, found.params))
    assert got > 1.0002 * least
    assert found.certificate.suboptimality >= 0.9999 * (got - least)
    assert Status(int(found.code)) == Status.stalled
    assert not found.certificate.converged
