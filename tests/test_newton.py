"""The bound of f - f* must hold: at early stops, on random and on nasty problems, against float64 optima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import datasets, newton
from fundl import logistic_regression as lr
from fundl import softmax_regression as sr
from fundl._result import Status

pytestmark = pytest.mark.large


def value(X, y, s, l2, w, b):
    X, w, b = (np.asarray(v, np.longdouble) for v in (X, w, b))  # logits of offset columns cancel
    z = X @ w + b
    return s @ (np.logaddexp(0, z) - y * z) + l2 / 2 * w @ w


def problems(lanes, n=24, d=3):
    """Random and nasty: soft and hard labels, weights over six orders, columns over four, offsets, duplicates."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(lanes, n, d)) * 10.0 ** rng.uniform(-2, 2, size=(lanes, 1, d))
    X[::3] += rng.normal(size=(len(X[::3]), 1, d)) * 100
    X[1::5, :, 2] = X[1::5, :, 1]
    X[2::7, :, 0] = 1.0
    centred = X - X.mean(axis=1, keepdims=True)
    z = (
        np.einsum("lnd,ld->ln", centred, rng.normal(size=(lanes, d)))
        / np.maximum(centred.std(axis=(1, 2)), 1e-9)[:, None]
    )
    p = 1 / (1 + np.exp(-z))
    y = np.where(rng.random((lanes, 1)) < 0.3, p, (rng.random((lanes, n)) < p).astype(float))
    s = np.where(rng.random((lanes, 1)) < 0.5, 1.0, 10.0 ** rng.uniform(-3, 3, size=(lanes, n)))
    l2 = np.where(rng.random(lanes) < 0.3, 0.0, 10.0 ** rng.uniform(-4, 4, size=lanes))
    return X, y, s, l2


def test_the_bound_holds_on_a_thousand_problems_at_every_stage():
    X, y, s, l2 = problems(1000)
    run = jax.jit(
        jax.vmap(lambda X, y, s, l2, steps: newton.fit(
            X, y[:, None], link="sigmoid", l2=l2, l1=0.0, weights=s, intercept=True, method="auto", tol=0.0,
            max_steps=steps,
        ), in_axes=(0, 0, 0, 0, None))
    )  # fmt: skip
    best = run(X, y, s, l2, 200)
    codes = np.asarray(best.code)
    optimal = [
        value(X[i], y[i], s[i], l2[i], np.asarray(best.params.w[i]), float(best.params.b[i])) for i in range(len(X))
    ]
    solved = np.isin(codes, [Status.converged, Status.rank_deficient])
    assert np.isin(codes, [Status.converged, Status.rank_deficient, Status.separable]).all()
    assert solved.sum() > 700
    told = 0
    for steps in (1, 2, 3, 4, 5, 7):
        early = run(X, y, s, l2, steps)
        bound = np.asarray(early.certificate.suboptimality)
        for i in np.flatnonzero(solved):
            f = value(X[i], y[i], s[i], l2[i], np.asarray(early.params.w[i]), float(early.params.b[i]))
            assert f - optimal[i] <= bound[i] + 1e-13 * f, (i, steps, f - optimal[i], bound[i])
            told += np.isfinite(bound[i]) and f - optimal[i] > 1e-10 * f
    assert told > 300  # the bound was finite while there was a way to go
    assert np.isinf(np.asarray(best.certificate.suboptimality)[codes == Status.separable]).all()


def test_separating_directions_separate():
    rng = np.random.default_rng(1)
    n, d = 20, 2
    X = rng.normal(size=(60, n, d))
    X[::2] = np.round(X[::2])  # ties
    w = rng.normal(size=(60, d))
    w[::2] = np.round(w[::2]) + 0.0
    z = np.einsum("lnd,ld->ln", X, w)
    y = np.where(z == 0, rng.random(z.shape) < 0.5, z > 0).astype(float)
    found = jax.jit(jax.vmap(lambda X, y: lr.fit(X, y)))(X, y)
    separable = np.asarray(found.code) == Status.separable
    # Where w = 0 nothing is said about the labels.
    assert separable[np.any(w != 0, axis=1)].all()
    margin = (
        np.einsum("lnd,ld->ln", X, found.certificate.direction.w) + np.asarray(found.certificate.direction.b)[:, None]
    )
    margin = (margin * (2 * y - 1))[separable]
    assert (margin >= -1e-11).all()
    np.testing.assert_allclose(margin.max(axis=1), 1, rtol=1e-9)


def test_labels_that_overlap_are_never_called_separable():
    # Every row occurs with both labels, however far out it lies.
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 10, 2)) * 10.0 ** rng.uniform(-3, 3, size=(60, 1, 2))
    X, y = np.concatenate([X, X], axis=1), np.concatenate([np.zeros((60, 10)), np.ones((60, 10))], axis=1)
    weights = np.concatenate([np.ones((60, 10)), 10.0 ** rng.uniform(-6, 0, size=(60, 10))], axis=1)
    found = jax.jit(jax.vmap(lambda X, y, s: lr.fit(X, y, weights=s)))(X, y, weights)
    assert (np.asarray(found.code) == Status.converged).all()


def test_standard_errors_are_the_inverse_of_the_information():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 3)) + np.array([0.0, 10.0, 0.0])
    y = (rng.random(40) < 0.5).astype(float)
    found = lr.fit(X, y)
    A = np.column_stack([X, np.ones(40)])
    p = np.asarray(lr.predict_proba(found.params, X))
    errors = np.sqrt(np.diag(np.linalg.inv(A.T @ (A * (p * (1 - p))[:, None]))))
    np.testing.assert_allclose(found.certificate.standard_errors.w, errors[:3], rtol=1e-7)
    np.testing.assert_allclose(found.certificate.standard_errors.b, errors[3], rtol=1e-7)
    y3 = rng.integers(0, 3, size=40)
    found = sr.fit(X, y3, num_classes=3)
    P = np.asarray(sr.predict_proba(found.params, X))
    H = np.einsum("ni,nj,nab->iajb", A, A, P[:, :, None] * np.eye(3) - P[:, :, None] * P[:, None, :]).reshape(12, 12)
    errors = np.sqrt(np.diag(np.linalg.pinv(H, rcond=1e-12))).reshape(4, 3)
    np.testing.assert_allclose(found.certificate.standard_errors.w, errors[:3], rtol=1e-6)


def test_no_compilation_for_new_numbers():
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(40, 3)), (rng.random(40) < 0.5).astype(float)
    lr.fit(X, y, l2=0.5)
    with jax.log_compiles(False):
        before = newton._fit._jitted._cache_size()
        for l2 in (1.0, jnp.asarray(2.0), 0.0):
            lr.fit(X + l2, y, l2=l2, tol=1e-6, max_steps=50)
        assert newton._fit._jitted._cache_size() == before


@pytest.mark.parametrize("bad", ["l2", "l1", "weights"])
def test_negative_numbers_in_a_trace_are_not_a_fit(bad: str):
    X, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 1, 0, 1])
    value = jnp.array([-1.0, 1.0, 1.0, 1.0]) if bad == "weights" else jnp.array(-0.5)
    for model, options in ((lr, {}), (sr, {"num_classes": 2})):
        fit = jax.jit(lambda v, m=model, o=options: m.fit(X, y, **{"l2": 1.0, bad: v}, **o))(value)
        assert fit.status == Status.non_finite
        assert jnp.isnan(fit.params.w).all()


def test_float64_rows_count_as_they_are_where_jax_holds_float32_only():
    x = np.array([0.0, 0.4, 1.1, 1.6, 2.2])
    y = np.array([0, 1, 0, 1, 1])
    wide = lr.fit((1e8 + x)[:, None], y, l2=0.1)
    with jax.enable_x64(False):
        found = lr.fit((1e8 + x)[:, None], y, l2=0.1)
    assert found.params.w.dtype == jnp.float32
    np.testing.assert_allclose(found.params.w, wide.params.w, rtol=1e-6)


@pytest.mark.parametrize("kind", ["more columns than rows", "one-hot", "a copy"])
def test_a_few_directions_at_a_time_with_dependent_columns(kind):
    """What they leave free grew with each step, until rounding of it made the model indefinite: NaN."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(20, 30)) if kind == "more columns than rows" else np.eye(3)[rng.integers(0, 3, 20)]
        if kind == "a copy":
            X = rng.normal(size=(20, 3))[:, [0, 1, 2, 0]]
        y, l2 = rng.integers(0, 2, 20), rng.uniform(0.1, 2)
        found = lr.fit(X, y, l2=l2, method="subspace")
        right = lr.fit(X, y, l2=l2)
        assert found.status == Status.converged
        assert int(found.certificate.rank) == np.linalg.matrix_rank(X - X.mean(axis=0))
        np.testing.assert_allclose(found.params.w, right.params.w, rtol=1e-7, atol=1e-9)


def test_the_rank_of_many_columns_counts_no_rounding():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(60, 400)), rng.integers(0, 2, 60)
    assert int(lr.fit(X, y, l2=1.0, method="subspace").certificate.rank) == 59


def test_float64_data_keep_their_digits_in_compiled_fits_where_jax_holds_float32():
    rng = np.random.default_rng(0)
    Z, classes = rng.normal(size=(40, 2)), rng.integers(0, 3, 40)
    offsets = np.array([3e4, -1e4])
    X = Z + offsets
    Z = X - offsets
    y = (classes > 0) * 1
    fits = (
        lambda X: sr.fit(X, np.eye(3)[classes], l2=1.0),
        lambda X: lr.fit(X, y, l2=1.0, method="subspace"),
        lambda X: lr.fit(X, (Z[:, 0] > 0) * 1),
    )
    with jax.enable_x64(False):
        for fit in fits:
            found, right = fit(X), fit(Z)
            assert found.status == right.status
            assert {v.dtype.name for v in jax.tree.leaves(found.params)} == {"float32"}
            if found.status == Status.converged:
                np.testing.assert_allclose(found.params.w, right.params.w, rtol=1e-5, atol=1e-7)
                # The rounding of b at such offsets moves every logit: f and its bound say so, to the digits of float32.
                proof, f = found.certificate, float(right.certificate.objective)
                assert float(proof.objective) - f <= float(proof.suboptimality) + 2e-7 * f


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"l2": 1.0}, marks=pytest.mark.slow),
        pytest.param({"l1": 1.0}, marks=pytest.mark.slow),
        {},
        {"l2": 1.0, "method": "subspace"},
    ],
    ids=str,
)
def test_an_absent_class_is_named_inside_and_outside_of_a_trace(options):
    """b runs away whatever the penalty on w: no NaN, and not as many steps as there may be."""
    X, y = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32), np.zeros(12, int)
    fits = [lr.fit(X, y, **options), sr.fit(X, y, num_classes=3, **options)]
    fits += [
        jax.jit(lambda X, m=m, o=o: m.fit(X, y, **options, **o))(X) for m, o in ((lr, {}), (sr, {"num_classes": 3}))
    ]
    for fit in fits:
        assert fit.status == Status.separable
        assert fit.certificate.steps <= 10
        assert np.isfinite(fit.params.b).all()
        assert np.all(np.sign(fit.certificate.direction.b) == ([0, -1, -1] if np.ndim(fit.params.b) else -1))


def test_steps_are_doubled_where_the_value_still_falls():
    data = datasets.breast_cancer()
    X = np.asarray(data.X, float)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    found = lr.fit(X, np.asarray(data.y), l2=1e-4, method="newton")
    assert found.status is Status.converged
    assert int(found.certificate.steps) <= 16  # 18 with whole steps at most


def outlier(far):
    """Overlapping classes; one entry is far beyond its column, whose curvature is lost beside it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    y = (X @ [1.0, 2.0, -1.0] + 2 * rng.normal(size=40) > 0).astype(int)
    X[0, 0] = far
    return X, y


def proved(found):
    return bool(found.certificate.suboptimality <= 1e-7 * found.certificate.objective)


@pytest.mark.parametrize("method", ["auto", "newton"])
def test_a_fit_whose_bound_proves_nothing_is_not_called_converged(method):
    X, y = outlier(1e7)
    for penalty in ({"l1": 1e-6}, {"l2": 1e-6}):
        found = lr.fit(X, y, method=method, **penalty)
        assert not proved(found)
        assert found.status == Status.stalled


@pytest.mark.parametrize("method", ["auto", "newton"])
def test_the_penalty_proves_what_the_hessian_does_not(method):
    X, y = outlier(1e5)
    found = lr.fit(X, y, l2=1.0, method=method)
    assert found.status == Status.converged
    assert proved(found)


@pytest.mark.parametrize("l2", [1.0, 0.0])
@pytest.mark.parametrize("model", [lr, sr], ids=["logistic", "softmax"])
def test_the_subspace_method_proves_its_fit_whatever_the_scale_of_the_columns(model, l2):
    X, y = outlier(0.0)
    found = model.fit(X * 1e50, y, l2=l2, method="subspace")
    assert found.status == Status.converged
    assert proved(found)
    np.testing.assert_allclose(found.params.w * 1e50, model.fit(X, y).params.w, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("y", [[0, 1, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 2, 2, 2, 0]], ids=["two", "three"])
def test_the_subspace_method_has_no_nan_where_rows_tie_and_others_run_away(y):
    X, y = np.array([[0.0], [0], [1], [1], [2], [2], [3], [0]]), np.array(y)
    found = sr.fit(X, y, method="subspace")
    assert found.status == Status.stalled
    assert np.isfinite(found.params.w).all()
    least = -np.log(1 / 3) - 2 * np.log(2 / 3)  # the three rows at 0
    np.testing.assert_allclose(found.certificate.objective, least, rtol=1e-9)


@pytest.mark.parametrize("model", [lr, sr])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_penalty_that_is_large_for_a_small_column_spoils_no_compiled_fit(model, dtype):
    """Fewer rows than columns: along dependent columns theta is held still only where the penalty is weak."""
    options = {"num_classes": 3} if model is sr else {}
    y = np.arange(12) % (3 if model is sr else 2)
    run = jax.jit(lambda X, y, l2: model.fit(X, y, l2=l2, **options))
    close = 1e-9 if dtype == "float64" else 1e-3
    for scale in (1e-4, 1e-8, 1e-12) if dtype == "float64" else (1e-3, 1e-5, 1e-7):
        for l2 in (1e-6, 0.45) if dtype == "float64" else (0.45,):
            X = np.random.default_rng(0).normal(size=(12, 15))
            X[:, 0] *= scale
            X[:, 3] = X[:, 2]
            X = X.astype(dtype)
            found, right = run(X, y, np.asarray(l2, dtype)), model.fit(X.astype(float), y, l2=l2)
            assert (found.status, found.certificate.rank) == (Status.converged, 11), (scale, l2)
            np.testing.assert_allclose(
                found.params.w, right.params.w, atol=close * np.abs(right.params.w).max(), err_msg=f"{scale} {l2}"
            )


@pytest.mark.parametrize("tol", [1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("method", ["l1", "subspace"])
def test_a_compiled_fit_goes_on_until_the_proof_reaches_the_tolerance(method, tol):
    """What a step promises is no proof: the duality gap falls with its root only."""
    more = 0
    for seed in range(2):
        rng = np.random.default_rng(seed)
        if method == "l1":
            X, y, options = rng.normal(size=(40, 6)), np.arange(40) % 3, {"l1": 0.9}
        else:  # soft labels
            X, options = rng.normal(size=(120, 55)), {"l2": 1.0}
            X[:, 0] *= 1e-8
            y = 0.9 * np.eye(3)[rng.integers(0, 3, 120)] + 0.1 / 3
        found, best = sr.fit(X, y, tol=tol, **options), sr.fit(X, y, **options)
        assert found.status is Status.converged
        f, least = (float(v.certificate.objective) for v in (found, best))
        assert f - least <= float(found.certificate.suboptimality) + 1e-13 * f
        assert float(found.certificate.suboptimality) <= tol * f
        assert int(found.certificate.steps) <= int(best.certificate.steps) + 3
        more += int(found.certificate.steps) < int(best.certificate.steps)
        few = sr.fit(X, y, tol=tol, max_steps=2, **options)
        assert int(few.certificate.steps) <= (20 if method == "subspace" else 2)
    assert more > 0


@pytest.mark.parametrize("seed", range(4))
def test_the_rank_of_a_penalised_fit_is_that_of_the_columns(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(248, 99)) * np.exp(3 * rng.normal(size=99)) + 5 * rng.normal(size=99)
    X[:, -1] = X[:, 0] + X[:, 1]
    y = rng.integers(0, 2, 248)
    found = [lr.fit(X, y, l2=1.0), lr.fit(X, y, l1=1.0), sr.fit(X, y, l2=1.0), lr.fit(X, y, l2=1.0, method="newton")]
    found.append(lr.fit_batches([(X[:100], y[:100]), (X[100:], y[100:])], l2=1.0))
    assert [int(fit.certificate.rank) for fit in found] == [98] * 5


@pytest.mark.parametrize("method", ["newton", "subspace"])
@pytest.mark.parametrize("noise", [0.0, 1e-15, 3e-8, 1e-7])
def test_columns_that_depend_to_half_the_digits_only_have_no_bound(noise, method):
    """f may fall along what separates them, which their products have lost; where they depend to rounding it cannot."""
    run = jax.jit(lambda X, y: lr.fit(X, y, method=method))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        B, y = rng.normal(size=(40, 4)), (rng.random(40) < 0.5).astype(float)
        found = run(np.c_[B[:, :3], B[:, 0] + noise * B[:, 3]], y)
        bound, f = float(found.certificate.suboptimality), float(found.certificate.objective)
        whole = float(lr.fit(B, y).certificate.objective)  # of the same span, noise or not
        assert (found.status is Status.rank_deficient) == (noise < 1e-8)
        assert f - whole <= bound if noise > 1e-8 else bound < 1e-12
        X = np.c_[B[:, :3], B[:, 0] + noise * B[:, 3]]
        here = value(X, y, np.ones(40), 0.0, found.params.w, found.params.b)
        np.testing.assert_allclose(f, float(here), rtol=1e-10)
