"""Many fits: each lane is its separate fit, scores follow the definition, failures are flagged, bad input refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import _result, datasets, linear_regression, logistic_regression, newton, softmax_regression, sweep
from fundl._result import FitError, Status
from fundl.newton import _conjugate
from fundl.sweep import _concrete_lanes

pytestmark = pytest.mark.large

RNG = np.random.default_rng(0)
N, D = 90, 4
X = RNG.normal(size=(N, D)) * [1.0, 5.0, 0.2, 1.0] + [0.0, 30.0, 0.0, -2.0]
SIGNAL = (X - X.mean(0)) / X.std(0) @ RNG.normal(size=(D, 3))
Y = (RNG.random((N, 3)) < 1 / (1 + np.exp(-SIGNAL))).astype(float)
CLASSES = np.argmax(SIGNAL + RNG.gumbel(size=SIGNAL.shape), axis=1)
REAL = SIGNAL + RNG.normal(size=SIGNAL.shape)
WEIGHTS = RNG.integers(0, 3, (3, N)).astype(float)
L2 = np.array([3.0, 0.01, 200.0])


def same(lane, fit, tolerance=1e-10):
    """The parameters of a lane are those of its separate fit; b, which an offset makes large, to its own rounding."""
    size = float(np.max(np.abs(fit.params.w)))
    for got, want in zip(lane, fit.params, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-14, atol=tolerance * size)


def lane(found, *index):
    return jax.tree.map(lambda v: v[index], found.params)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weights", [None, WEIGHTS[0], WEIGHTS], ids=["ones", "one", "replicates"])
def test_each_lane_of_a_logistic_sweep_is_its_separate_fit(weights, intercept):
    found = sweep.logistic(X, Y, l2=L2, weights=weights, intercept=intercept)
    s = np.atleast_2d(np.ones(N) if weights is None else weights)
    assert found.code.shape == (3, len(s), 3)
    for i, j, c in np.ndindex(found.code.shape):
        fit = logistic_regression.fit(X, Y[:, c], l2=L2[i], weights=s[j], intercept=intercept)
        same(lane(found, i, j, c), fit)
        assert found.certificate.objective[i, j, c] == pytest.approx(float(fit.certificate.objective), rel=1e-13)
        assert 0 <= found.certificate.suboptimality[i, j, c] <= 1e-12 * fit.certificate.objective
    assert found.check() is found
    assert (found.scores is None) == (len(s) == 1)


@pytest.mark.parametrize(
    "folds",
    [3, np.arange(N) % 3, jnp.asarray(np.arange(N)[None] % 3 == np.arange(3)[:, None])],
    ids=["k", "of", "held"],
)
def test_folds_leave_their_rows_out_and_are_scored_by_them(folds):
    found = sweep.logistic(X, Y[:, 0], l2=L2, folds=folds, weights=WEIGHTS[:2])
    assert found.code.shape == (3, 6, 1)
    for i, j in np.ndindex(3, 6):
        s, out = WEIGHTS[j // 3], np.arange(N) % 3 == j % 3
        fit = logistic_regression.fit(X, Y[:, 0], l2=L2[i], weights=s * ~out)
        same(lane(found, i, j, 0), fit)
        loss, accuracy = scored(np.asarray(X @ fit.params.w + fit.params.b), Y[:, 0], s * out)
        assert found.scores.loss[i, j, 0] == pytest.approx(loss, rel=1e-10)
        assert found.scores.accuracy[i, j, 0] == pytest.approx(accuracy, rel=1e-12)
    for i, j in np.ndindex(3, 2):
        same(lane(found.whole, i, j, 0), logistic_regression.fit(X, Y[:, 0], l2=L2[i], weights=WEIGHTS[j]))
    assert int(found.best[0]) == int(np.argmin(np.mean(found.scores.loss[:, :, 0], axis=1)))
    fit = logistic_regression.fit(X, Y[:, 0], l2=L2[found.best[0]], weights=WEIGHTS[1])
    same(jax.tree.map(lambda v: v[1, 0], found.best_params), fit)


def scored(z, y, q):
    """Mean cross-entropy and accuracy over rows weighted by q, from the definition."""
    L = np.log(1 + np.exp(-np.where(y == 1, z, -z)))
    return np.sum(q * L) / q.sum(), np.sum(q * ((z > 0) == (y == 1))) / q.sum()


def test_rows_that_a_replicate_leaves_out_score_it():
    s = WEIGHTS.copy()
    s[:, 7] = 0  # a row that no replicate uses may hold anything
    bad = X.copy()
    bad[7] = np.nan
    found = sweep.logistic(bad, Y, l2=1.0, weights=s)
    for j, c in np.ndindex(3, 3):
        w, b = lane(found, 0, j, c)
        rest = s.any(0)  # rows that no replicate uses count nowhere
        loss, accuracy = scored(np.asarray(X @ w + b)[rest], Y[rest, c], 1.0 * (s[j] == 0)[rest])
        assert found.scores.loss[0, j, c] == pytest.approx(loss, rel=1e-10)
        assert found.scores.accuracy[0, j, c] == pytest.approx(accuracy, rel=1e-12)


def test_hard_data_beside_easy_lanes():
    """Offsets of 1e8, scales of 1e-8 to 1e8, a constant column: the separate fits again, and the easy lanes unmoved."""
    hard = X * [1.0, 1e8, 1e-8, 0.0] + [1e8, 0.0, 1.0, 3.0]
    found = sweep.logistic(hard, Y, l2=[1e-3, 1e3], weights=WEIGHTS)
    for i, j, c in np.ndindex(2, 3, 3):
        fit = logistic_regression.fit(hard, Y[:, c], l2=[1e-3, 1e3][i], weights=WEIGHTS[j])
        same(lane(found, i, j, c), fit, 1e-7)
        assert found.certificate.objective[i, j, c] == pytest.approx(float(fit.certificate.objective), rel=1e-12)


def test_a_finished_lane_does_not_drift():
    """The lane is the same, to the last bit but a few, whatever steps beside it."""
    alone = sweep.logistic(X, Y[:, 0], l2=200.0, weights=WEIGHTS[0])
    beside = sweep.logistic(X, Y, l2=[200.0, 1e-6, 1e-5, 1e-4], weights=WEIGHTS[0])
    assert int(beside.certificate.steps.max()) > int(alone.certificate.steps.max())
    np.testing.assert_allclose(beside.params.w[0, 0, 0], alone.params.w[0, 0, 0], rtol=1e-13)


def test_lanes_without_a_minimum_are_flagged_and_the_others_are_fits():
    y = np.stack([X[:, 0] > 0, Y[:, 1] > 0.5, np.ones(N)], axis=1).astype(float)
    found = sweep.logistic(X, y, l2=[0.0, 1.0], folds=2)
    codes = np.asarray(found.code)
    assert (codes[0, :, [0, 2]] == Status.separable).all()
    assert (codes[0, :, 1] == Status.converged).all()
    # One class only has no minimum in b, whatever the penalty.
    assert (codes[1, :, 2] == Status.separable).all()
    assert (codes[1, :, :2] == Status.converged).all()
    held = np.arange(N) % 2
    for j in range(2):
        direction = found.certificate.direction
        margin = (X @ direction.w[0, j, 0] + direction.b[0, j, 0]) * (2 * y[:, 0] - 1)
        assert margin[held != j].min() >= -1e-9
        assert margin[held != j].max() > 0
        same(lane(found, 0, j, 1), logistic_regression.fit(X, y[:, 1], weights=1.0 * (held != j)))
    assert np.isinf(found.loss[0, 0])
    assert int(found.best[0]) == 1
    with pytest.raises(FitError, match="separable"):
        found.check()
    assert "separable" in str(found)


def test_dependent_columns_without_penalty_give_the_shortest_solution():
    double = np.concatenate([X, X[:, :1] * 2], axis=1)
    found = sweep.logistic(double, Y[:, 0], l2=[0.0, 1.0], weights=WEIGHTS[0])
    assert np.asarray(found.code).ravel().tolist() == [Status.rank_deficient, Status.converged]
    same(lane(found, 0, 0, 0), logistic_regression.fit(double, Y[:, 0], weights=WEIGHTS[0]), 1e-9)


def test_l1_lanes_are_the_separate_fits():
    found = sweep.logistic(X, Y[:, 0], l2=0.5, l1=[0.0, 2.0], folds=2)
    for i, j in np.ndindex(2, 2):
        fit = logistic_regression.fit(X, Y[:, 0], l2=0.5, l1=[0.0, 2.0][i], weights=1.0 * (np.arange(N) % 2 != j))
        same(lane(found, i, j, 0), fit)
    assert np.any(np.asarray(found.params.w[1]) == 0)


def test_l1_lanes_of_more_data_start_from_each_other_and_compile_nothing(monkeypatch):
    rng = np.random.default_rng(8)
    Z, y = rng.normal(size=(150, 60)), (rng.random((150, 2)) < 0.4).astype(float)
    l2, l1 = [0.0, 0.3, 0.3, 0.1], [0.5, 0.0, 3.0, 6.0]
    monkeypatch.setattr(sweep._fits._program, "solve", lambda *a, **options: pytest.fail("compiled"))
    read, prepared = [], newton.prepared
    monkeypatch.setattr(newton, "prepared", lambda *a, **options: read.append(1) or prepared(*a, **options))
    for dtype, close in ((np.float64, 1e-9), (np.float32, 1e-5)):
        read.clear()
        found = sweep.logistic(Z.astype(dtype), y.astype(dtype), l2=l2, l1=l1, folds=2)
        assert len(read) == (2 + 1) * 2  # folds and all rows, targets: once for all penalties
        for i, j, c in np.ndindex(4, 2, 2):
            weights = 1.0 * (np.arange(150) % 2 != j)
            fit = logistic_regression.fit(Z.astype(dtype).astype(float), y[:, c], l2=l2[i], l1=l1[i], weights=weights)
            np.testing.assert_allclose(found.params.w[i, j, c], fit.params.w, rtol=close, atol=close)
            np.testing.assert_allclose(found.certificate.objective[i, j, c], fit.certificate.objective, rtol=close)
        assert (np.asarray(found.code) == Status.converged).all()


def test_float32_data_give_the_float64_fit_rounded():
    found = sweep.logistic(np.float32(X), np.float32(Y), l2=np.float32(L2), weights=np.float32(WEIGHTS))
    assert {v.dtype for v in jax.tree.leaves((found.params, found.scores))} == {jnp.dtype("float32")}
    wide = sweep.logistic(np.float64(np.float32(X)), Y, l2=np.float64(np.float32(L2)), weights=WEIGHTS)
    np.testing.assert_array_equal(found.params.w, np.float32(wide.params.w))
    f, least = np.float64(found.certificate.objective), np.asarray(wide.certificate.objective)
    assert np.all(np.float64(found.certificate.suboptimality) >= f - least - 1e-7 * f)
    assert np.all(np.asarray(found.certificate.suboptimality) <= 1e-6 * f)
    traced = jax.jit(lambda X, Y: sweep.logistic(X, Y, l2=jnp.float32(1.0)))(jnp.float32(X), jnp.float32(Y))
    assert traced.params.w.dtype == jnp.float32
    for c in range(3):
        same(lane(traced, 0, 0, c), logistic_regression.fit(X, Y[:, c], l2=1.0), 1e-5)


def test_softmax_lanes_are_the_separate_fits():
    found = sweep.softmax(X, CLASSES, l2=[0.1, 10.0], folds=3)
    assert found.params.w.shape == (2, 3, 1, D, 3)
    for i, j in np.ndindex(2, 3):
        out = np.arange(N) % 3 == j
        fit = softmax_regression.fit(X, CLASSES, num_classes=3, l2=[0.1, 10.0][i], weights=1.0 * ~out)
        same(lane(found, i, j, 0), fit)
        z = X[out] @ np.asarray(fit.params.w) + np.asarray(fit.params.b)
        z = z - z.max(1, keepdims=True)
        L = np.log(np.exp(z).sum(1)) - z[np.arange(out.sum()), CLASSES[out]]
        assert found.scores.loss[i, j, 0] == pytest.approx(L.mean(), rel=1e-10)
        assert found.scores.accuracy[i, j, 0] == pytest.approx(np.mean(z.argmax(1) == CLASSES[out]), rel=1e-12)
        same(lane(found.whole, i, 0, 0), softmax_regression.fit(X, CLASSES, l2=[0.1, 10.0][i]))


@pytest.mark.parametrize("intercept", [True, False])
def test_each_lane_of_a_linear_sweep_is_its_separate_fit(intercept):
    found = sweep.linear(X, REAL, l2=L2, folds=3, weights=WEIGHTS[0], intercept=intercept)
    for i, j, c in np.ndindex(3, 3, 3):
        out = np.arange(N) % 3 == j
        fit = linear_regression.fit(X, REAL[:, c], l2=L2[i], weights=WEIGHTS[0] * ~out, intercept=intercept)
        same(lane(found, i, j, c), fit)
        assert found.certificate.objective[i, j, c] == pytest.approx(float(fit.certificate.objective), rel=1e-12)
        error = (np.asarray(X @ fit.params.w + fit.params.b) - REAL[:, c]) ** 2
        q = WEIGHTS[0] * out
        assert found.scores.loss[i, j, c] == pytest.approx(np.sum(q * error) / q.sum(), rel=1e-10)
    assert np.all(np.asarray(found.certificate.suboptimality) <= 1e-12 * np.asarray(found.certificate.objective))
    fit = linear_regression.fit(X, REAL[:, 2], l2=L2[found.best[2]], weights=WEIGHTS[0], intercept=intercept)
    same(jax.tree.map(lambda v: v[0, 2], found.best_params), fit)


def test_leave_one_out_is_leaving_every_row_out():
    found = sweep.linear(X[:30], REAL[:30], l2=L2, weights=WEIGHTS[0, :30] + 1, leave_one_out=True)
    s = WEIGHTS[0, :30] + 1
    for i, c in np.ndindex(3, 3):
        error = []
        for a in range(30):
            rest = s * (np.arange(30) != a)
            w, b = linear_regression.fit(X[:30], REAL[:30, c], l2=L2[i], weights=rest).params
            error.append((REAL[a, c] - X[a] @ w - b) ** 2)
        assert found.scores.loss[i, 0, c] == pytest.approx(np.sum(s * error) / s.sum(), rel=1e-9)
    assert found.whole is None


@pytest.mark.parametrize("traced", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_linear_lanes_that_do_not_settle_go_to_the_exact_solver(traced):
    """Dependent columns without penalty, and columns of 1e8 beside 1: rank and digits of the separate fits."""
    hard = jnp.asarray(np.concatenate([X * [1.0, 1e8, 1e-4, 1.0], X[:, :1]], axis=1))

    def fit_all(hard):
        return sweep.linear(hard, REAL[:, 0], l2=jnp.array([0.0, 1e-3]), folds=2)

    found = (jax.jit(fit_all) if traced else fit_all)(hard)
    for i, j in np.ndindex(2, 2):
        fit = linear_regression.fit(hard, REAL[:, 0], l2=[0.0, 1e-3][i], weights=1.0 * (np.arange(N) % 2 != j))
        assert found.code[i, j, 0] == fit.status
        same(lane(found, i, j, 0), fit, 1e-9)


@pytest.mark.parametrize(("near", "scale"), [(1e-5, 1.0), (1e-7, 1.0), (1.0, [1e-8, 1.0, 1e8])])
def test_lanes_that_do_not_settle_are_left_out_exactly(near, scale):
    rng = np.random.default_rng(3)
    A = rng.normal(size=(40, 3))
    A[:, 2] = A[:, 1] + near * A[:, 2]
    y = A.sum(axis=1) + rng.normal(size=40)
    A = A * scale
    found = sweep.linear(A, y, l2=0.0, leave_one_out=True)
    square = 0.0
    for i in range(40):
        w, b = linear_regression.fit(np.delete(A, i, axis=0), np.delete(y, i)).params
        square += float(y[i] - A[i] @ np.asarray(w) - b) ** 2
    np.testing.assert_allclose(found.scores.loss[0, 0, 0], square / 40, rtol=1e-7)


def test_an_example_that_alone_decides_its_prediction_cannot_be_left_out():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n, d = int(rng.integers(8, 200)), int(rng.integers(1, 6))
        A = rng.normal(size=(n, d)) * 10 ** rng.uniform(-2, 2, d) + 10 ** rng.uniform(-2, 3)
        A, y = np.column_stack([A, np.arange(n) == 0]), rng.normal(size=n)
        assert np.isnan(linear_regression.ridge_path(A, y, np.array([0.0])).leave_one_out[0])
        assert np.isnan(sweep.linear(A, y, l2=0.0, leave_one_out=True).scores.loss[0, 0, 0])


def test_float32_ridge_is_the_float64_one_rounded():
    found = sweep.linear(np.float32(X), np.float32(REAL), l2=np.float32(L2), folds=2)
    wide = sweep.linear(np.float64(np.float32(X)), np.float64(np.float32(REAL)), l2=np.float64(np.float32(L2)), folds=2)
    np.testing.assert_array_equal(found.params.w, np.float32(wide.params.w))


def test_tol_is_met_by_the_bound():
    found = sweep.logistic(X, Y, l2=L2, folds=3, tol=1e-6)
    exact = sweep.logistic(X, Y, l2=L2, folds=3)
    f, least = found.certificate.objective, exact.certificate.objective
    assert np.all(f - least <= found.certificate.suboptimality)
    assert np.all(found.certificate.suboptimality <= 1e-6 * f)
    assert found.certificate.steps.sum() < exact.certificate.steps.sum()


def test_under_jit_and_no_recompilation_for_new_numbers():
    compiled = []

    @jax.jit
    def run(X, Y, l2, held):
        compiled.append(1)
        found = sweep.logistic(X, Y, l2=l2, folds=held)
        return found, found.best

    for seed in range(2):
        held = sweep.folds(N, 3, jax.random.key(seed))
        found, best = run(jnp.asarray(X) + seed, jnp.asarray(Y), jnp.asarray(L2) * (1 + seed), held)
        plain = sweep.logistic(X + seed, Y, l2=L2 * (1 + seed), folds=held)
        np.testing.assert_allclose(found.params.w, plain.params.w, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(best, plain.best)
    assert len(compiled) == 1
    compiles = [_result.on_device, sweep._fits._program.solve]
    before = [f._cache_size() for f in compiles]
    sweep.logistic(X * 2, 1 - Y, l2=L2 / 7, folds=np.asarray(held), intercept=True)
    assert [f._cache_size() for f in compiles] == before


@pytest.mark.parametrize("intercept", [True, False])
def test_traced_lanes_are_the_concrete_ones(intercept):
    """Two implementations of the same steps: soft labels, weights, no penalty, a constant column, scores."""
    A, soft = np.column_stack([X, np.full(N, 3.0)]), 0.1 + 0.8 * Y
    options = {"l2": L2, "weights": WEIGHTS, "folds": 3, "intercept": intercept}
    one, other = sweep.logistic(A, soft, **options), jax.jit(lambda y: sweep.logistic(A, y, **options))(soft)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    for a, b in zip(one.scores, other.scores, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)
    np.testing.assert_array_equal(one.code, other.code)
    np.testing.assert_allclose(one.certificate.objective, other.certificate.objective, rtol=1e-13)
    assert np.all(one.certificate.suboptimality <= 1e-12 * one.certificate.objective)


def test_lanes_between_known_penalties_take_fewer_steps(monkeypatch):
    data = datasets.breast_cancer()
    A, y = np.asarray(data.X, float), np.asarray(data.y, float)
    A = (A - A.mean(0)) / A.std(0)
    options = {
        "l2": np.geomspace(1e3, 1e-2, 13),
        "weights": np.random.default_rng(2).multinomial(569, np.ones(569) / 569, size=4).astype(float),
    }
    found = sweep.logistic(A, y, **options)
    monkeypatch.setattr(sweep._fits._concrete_program, "_away", lambda *a: np.zeros(()))
    plain = sweep.logistic(A, y, **options)
    assert int(found.certificate.steps.sum()) < int(plain.certificate.steps.sum())
    np.testing.assert_allclose(found.params.w, plain.params.w, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("max_steps", [4, 5, 6])
def test_a_lane_that_the_step_limit_stops_is_fitted_alone(max_steps, monkeypatch):
    alone: list[int] = []
    exact = newton.fit_concrete
    monkeypatch.setattr(newton, "fit_concrete", lambda *a, **options: alone.append(1) or exact(*a, **options))
    ended = []
    minimise = sweep._fits._concrete_program._concrete_lanes.minimise

    def seen(*a):
        found = minimise(*a)
        ended.append(found.steps)
        return found

    monkeypatch.setattr(sweep._fits._concrete_program._concrete_lanes, "minimise", seen)
    sweep.logistic(X, Y, l2=L2, max_steps=max_steps)
    assert len(alone) == np.sum(np.concatenate(ended) == max_steps) > 0


@pytest.mark.parametrize(("n", "d"), [(700, 70), (5000, 3), (33, 2)])
def test_concrete_lanes_of_all_shapes(n, d, monkeypatch):
    """Products in pieces of rows, of columns and of neither; hard lanes among them; one lane, and odd numbers."""
    monkeypatch.setattr(sweep._fits._program, "solve", lambda *a, **options: pytest.fail("compiled"))
    alone: list[float] = []
    exact = newton.fit_concrete
    monkeypatch.setattr(
        newton, "fit_concrete", lambda *a, **options: alone.append(options["l2"]) or exact(*a, **options)
    )
    rng = np.random.default_rng(n)
    A = rng.normal(size=(n, d))
    y = np.stack([A[:, 0] > 0, A[:, 0] + rng.normal(size=n) > 0], axis=1).astype(float)
    found = sweep.logistic(A, y, l2=[0.0, 3.0, 0.1, 30.0, 1.0, 0.3], folds=3)
    assert (found.code[0, :, 0] == Status.separable).all()
    assert (found.code[1:] == Status.converged).all()
    assert not any(alone)  # only those without penalty left the others
    for i, j, c in ((1, 2, 0), (2, 0, 1), (5, 1, 0)):
        s = 1.0 * (np.arange(n) % 3 != j)
        same(lane(found, i, j, c), logistic_regression.fit(A, y[:, c], l2=found.l2[i], weights=s))
    same(lane(sweep.logistic(A, y[:, 1], l2=2.0), 0, 0, 0), logistic_regression.fit(A, y[:, 1], l2=2.0))


def test_traced_values_that_are_bad_mark_their_lanes():
    bad = jnp.asarray(Y).at[3, 1].set(2.0)
    found = jax.jit(lambda y: sweep.logistic(X, y, l2=1.0, folds=3))(bad)
    codes = np.asarray(found.code)
    assert (codes[0, :, [0, 2]] == Status.converged).all()
    assert [codes[0, j, 1] == Status.non_finite for j in range(3)] == [j != 0 for j in range(3)]


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_rows_on_a_mesh_give_the_answer_of_one_device(kind):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    along = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))

    def run(X, Y, s):
        return sweep.logistic(X, Y, l2=jnp.array([0.1, 10.0]), weights=s)

    want = run(jnp.asarray(X), jnp.asarray(Y), jnp.asarray(WEIGHTS))
    got = jax.jit(run)(jax.device_put(X, rows), jax.device_put(Y, rows), jax.device_put(WEIGHTS, along))
    np.testing.assert_allclose(got.params.w, want.params.w, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(got.scores.loss, want.scores.loss, rtol=1e-11)


def test_table_and_plot(tmp_path):
    pytest.importorskip("matplotlib")
    found = sweep.logistic(X, Y, l2=L2, folds=3)
    text = str(found)
    assert "3 penalties x 3 replicates x 3 targets = 27 logistic fits: 27 converged" in text
    assert len(text.splitlines()) == 5
    assert f"{float(found.loss[0].mean()):.6g}" in text.splitlines()[2]
    assert "target 0" in text
    for result, name in ((found, "a.png"), (sweep.linear(X, REAL, l2=[0.0, 1.0]), "b.svg")):
        result.plot(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


def test_without_held_out_rows_there_are_no_scores():
    found = sweep.logistic(X, Y, l2=L2)
    assert found.scores is None
    with pytest.raises(ValueError, match="folds="):
        found.best
    with pytest.raises(ValueError, match="l2\\[best\\]"):
        found.best_params


def test_folds_and_bootstrap():
    held = np.asarray(sweep.folds(10, 3, jax.random.key(1)))
    assert (held.sum(0) == 1).all()
    assert sorted(held.sum(1)) == [3, 3, 4]
    weights = np.asarray(sweep.bootstrap(2000, 3, jax.random.key(1)))
    assert (weights.sum(1) == 2000).all()
    assert abs((weights == 0).mean() - np.exp(-1)) < 0.03
    key = jax.random.key(1)
    for draw, bad in (
        (sweep.folds, [(10, 1), (10, 2.5), (10, 11), ("a", 2)]),
        (sweep.bootstrap, [(0, 3), (10, 0), (10.0, 2)]),
    ):
        for sizes in bad:
            with pytest.raises(ValueError, match="whole number"):
                draw(*sizes, key)
        with pytest.raises(TypeError, match="key"):
            draw(10, 3, 0)
        with pytest.raises(ValueError, match="key must be one"):
            draw(10, 3, jax.random.split(key))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"l2": -1.0}, "l2 must not be negative"),
        ({"l2": [1.0, -1.0]}, "l2 must not be negative"),
        ({"l2": [[1.0]]}, r"l2 must have shape \(m,\)"),
        ({"l2": []}, "l2 is empty"),
        ({"l2": [1.0, 2.0], "l1": [1.0, 2.0, 3.0]}, "as long as each other"),
        ({"weights": np.ones(N - 1)}, "weights must have one entry"),
        ({"weights": -WEIGHTS}, "must be finite and not negative"),
        ({"weights": np.zeros((2, N))}, "must not all be 0"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"folds": N + 1}, "at most the number of rows"),
        ({"folds": np.zeros(N, int)}, "one fold"),
        ({"folds": np.arange(N) % 3 * 2}, "no row in fold 1"),
        ({"folds": np.arange(N) % 3 - 1}, "negative fold"),
        ({"folds": np.arange(N) % 3 * 1.0}, "folds must be a number"),
        ({"folds": np.arange(N - 1) % 3}, "folds must be a number"),
        ({"folds": np.ones((2, N), bool)}, "rows of weight > 0 to train on"),
        ({"tol": -1.0}, "tol must not be negative"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_refusals(options, match):
    with pytest.raises(ValueError, match=match):
        sweep.logistic(X, Y, **options)


def test_refusals_of_data():
    with pytest.raises(ValueError, match="labels 0, 1 or between"):
        sweep.logistic(X, Y * 2, l2=1.0)
    with pytest.raises(ValueError, match="y must have shape"):
        sweep.logistic(X, Y[:, :, None], l2=1.0)
    with pytest.raises(ValueError, match="first axes"):
        sweep.logistic(X[:-1], Y, l2=1.0)
    with pytest.raises(ValueError, match="must be finite"):
        sweep.logistic(np.where(X > 30, np.nan, X), Y, l2=1.0)
    with pytest.raises(ValueError, match="not both"):
        sweep.linear(X, REAL, l2=1.0, folds=2, leave_one_out=True)
    with pytest.raises(ValueError, match="folds is traced"):
        jax.jit(lambda f: sweep.linear(X, REAL, folds=f))(np.arange(N) % 3)


def test_a_penalty_without_a_score_is_never_the_best():
    """Two points and a line: without a penalty each leverage is 1 and there is no leave-one-out error."""
    found = sweep.linear([[0.0], [1.0]], [0.0, 1.0], l2=[0.0, 1.0], leave_one_out=True)
    assert int(found.best[0]) == 1
    assert found.loss[0, 0] == np.inf


def test_a_fit_that_is_not_finite_has_no_accuracy():
    def accuracy(l2):  # where it is traced, nobody can refuse an infinite penalty
        return sweep.logistic(np.arange(4.0)[:, None], np.array([1, 0, 1, 1]), l2=l2, folds=2).scores.accuracy

    found = jax.jit(accuracy)(jnp.array([jnp.inf, 1.0]))
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("differentiate", [jax.grad, jax.jacfwd])
def test_derivatives_of_a_sweep_are_refused(differentiate):
    for fit in (sweep.logistic, sweep.linear):
        with pytest.raises(TypeError, match="A sweep is not differentiated"):
            differentiate(lambda l2, fit=fit: jnp.sum(fit(X, Y, l2=l2, folds=2).scores.loss))(jnp.array([1.0, 2.0]))


def test_a_softmax_lane_starts_with_the_curvature_of_its_parent(monkeypatch):
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(150, 60)), rng.integers(0, 3, 150)
    starts = []
    minimise = _conjugate.minimise

    def recorded(rows, K, tol, max_steps, theta, near):
        starts.append((bool(theta.any()), near))
        return minimise(rows, K, tol, max_steps, theta, near)

    monkeypatch.setattr(_conjugate, "minimise", recorded)
    held = sweep.folds(150, 3, jax.random.key(0))
    found = sweep.softmax(X, y, num_classes=3, l2=np.array([0.5, 5.0]), folds=held)
    assert found.code.shape == (2, 3, 1)
    moved, near = zip(*starts, strict=True)
    assert moved == (False, *[True] * 7)  # two penalties x (all rows, three folds); the first has no parent
    inverses = [None if v is None else id(v.inverse) for v in near]
    assert inverses[0] is None
    assert inverses[1:5] == [inverses[1]] * 4  # the folds of 5.0, and all rows with 0.5
    assert inverses[5:] == [inverses[5]] * 3
    assert inverses[5] not in (None, inverses[1])


def test_a_lane_ends_by_no_more_than_its_value_is():
    rng = np.random.default_rng(45)
    z, y, s = (
        rng.normal(size=(20, 50)) * 10.0 ** rng.uniform(-2, 2, (20, 1)),
        rng.random((20, 50)),
        rng.random((20, 50)),
    )
    p = 1 / (1 + np.exp(-z))
    f = np.sum(s * (np.logaddexp(0, z) - y * z), axis=1)
    least = _concrete_lanes._least(s * (1 - y), s * y, z, s * p * (1 - p))
    assert np.all(least <= f)
    assert np.all(least >= f / 5)  # it is of use
