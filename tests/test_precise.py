"""The numerics policy itself: what the formulas above it lean on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import laws
import oracles as o
from fundl import _precise
from fundl.activations._times_sigmoid import times_sigmoid, times_sigmoid_slope


def test_float32_products_are_float32_products() -> None:
    """Precision HIGHEST is in the compiled program, for X @ W and for X^T dz."""
    X, D = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    for f, arguments in ((_precise.matmul, (X.T, D)), (_precise.rows_dot, (X, D))):
        text = jax.jit(f).lower(*arguments).as_text()
        assert "precision = [HIGHEST, HIGHEST]" in text


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_products_are_added_up_in_float32(dtype: type) -> None:
    """4096 ones: adding in bfloat16 stops at 256, in float16 at 2048."""
    ones = jnp.ones((4096, 1), dtype)
    assert float(_precise.matmul(ones.T, ones)[0, 0]) == 4096
    assert float(_precise.rows_dot(ones, ones)[0, 0]) == 4096
    assert float(_precise.rows_dot(ones, ones[:, 0])[0]) == 4096


def test_division_by_0_is_0_with_finite_derivatives() -> None:
    a, b = jnp.array([1.0, 0.0, 6.0]), jnp.array([0.0, 0.0, 3.0])
    assert _precise.safe_divide(a, b).tolist() == [0, 0, 2]
    da, db = jax.grad(lambda a, b: jnp.sum(_precise.safe_divide(a, b)), (0, 1))(a, b)
    assert np.isfinite(da).all()
    assert np.isfinite(db).all()
    laws.assert_near(da[2], 1 / 3)
    laws.assert_near(db[2], -2 / 3)


def test_times_sigmoid() -> None:
    x = jnp.array([-800.0, -33.0, -3.0, 0.0, 3.0, 800.0])
    laws.assert_near(times_sigmoid(3 * jnp.ones_like(x), x), 3 * _precise.sigmoid(x))
    tail = jnp.array([-720.0])  # sigma(x) is below the smallest normal number, x sigma(x) is not by much
    for f, factor in ((times_sigmoid, -1e9), (times_sigmoid_slope, 1 - 1e9)):
        assert float(f(jnp.array([-1e9]), tail)[0]) == pytest.approx(factor * np.exp(-720.0), rel=1e-12)
        assert f(jnp.full(2, -1e9), jnp.array([-jnp.inf, -1e300])).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log1p(dtype: type) -> None:
    """Within 1.5 ulp, where XLA's own is off by more than 2, in float64 by a hundred."""
    x = np.concatenate([np.linspace(-0.5, 1, 3001), 10.0 ** -np.arange(1, 30), -(10.0 ** -np.arange(1, 30))]).astype(
        dtype
    )

    def ulps(got: np.ndarray) -> float:
        with o.mp.workdps(60):
            exact = o.log1p(o.exact(x))
            size = np.spacing(abs(o.rounded(exact, dtype))).astype(np.float64)
            return float(np.max(o.rounded(abs(o.exact(got) - exact)) / size))

    assert ulps(np.asarray(jax.jit(_precise.log1p)(x))) <= 1.5
    assert ulps(np.asarray(jax.jit(jnp.log1p)(x))) > 2
    assert jnp.isnan(_precise.log1p(jnp.full((), jnp.nan)))
    laws.assert_near(jax.grad(_precise.log1p)(0.25), 0.8)


def test_exp_shifted_keeps_what_one_plus_would_round_away() -> None:
    v = jnp.array([[0.0, -50.0], [3.0, 3.0], [jnp.inf, 0.0], [0.0, -jnp.inf]])
    e, s, d, m = _precise.exp_shifted(v)
    laws.assert_near(s[0, 0], np.exp(-50.0))
    assert s[1:, 0].tolist() == [1, 0, 0]
    assert m[:, 0].tolist() == [0, 3, np.inf, 0]
    assert d[2].tolist() == [0, -np.inf]
    assert e[3].tolist() == [1, 0]


def test_sum_of_others_does_not_cancel() -> None:
    """The others of an entry that is nearly all of the total."""
    t, e = jnp.array([1.0, 1e-20, 3e-20]), jnp.array([1.0, 0.4, 0.1])
    assert float((t.sum() - t)[0]) == 0  # the short form loses them
    laws.assert_near(_precise.sum_of_others(t, e)[0], 4e-20)
    laws.assert_near(_precise.sum_of_others(t, e)[1:], [1.0, 1.0])
    ties = jnp.array([1.0, 1.0, 0.4])
    laws.assert_near(_precise.sum_of_others(jnp.array([1.0, 2.0, 4.0]), ties), [6.0, 5.0, 3.0])


def test_within_unit_interval_leaves_what_is_inside_and_poisons_the_rest() -> None:
    inside = jnp.array([0.0, -0.0, 1e-300, 0.3, 1.0])
    assert _precise.within_unit_interval(inside).tolist() == inside.tolist()
    outside = jnp.array([-0.1, 1.1, -1e-300, 1 + 2.0**-52, np.inf, -np.inf])
    assert np.isnan(_precise.within_unit_interval(outside)).all()
    slope = jax.grad(lambda t: jnp.sum(_precise.within_unit_interval(t)))(inside)
    assert slope.tolist() == [1.0] * 5
