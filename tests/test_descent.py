"""The loop: the lecture's rule step by step, optax, stops, batches, resuming, transforms, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fundl import checkpoint, descent
from fundl._result import FitError, Status

pytestmark = pytest.mark.large

A = jnp.array([[3.0, 1.0], [1.0, 2.0]])
TARGET = jnp.array([1.0, -2.0])


def bowl(theta):
    r = theta - TARGET
    return r @ (A @ r)


def bowl_gradient(theta):
    return 2 * A @ (theta - TARGET)


ZERO = jnp.zeros(2)


def test_the_rule_of_the_lecture_step_by_step():
    theta, eta, losses = np.zeros(2), 0.05, []
    for _ in range(7):
        r = theta - np.asarray(TARGET)
        losses.append(r @ np.asarray(A) @ r)
        theta = theta - eta * 2 * np.asarray(A) @ r
    for gradient in (None, bowl_gradient):
        result = descent.minimize(bowl, ZERO, optimizer=eta, steps=7, gradient=gradient)
        np.testing.assert_allclose(result.params, theta, rtol=1e-14)
        np.testing.assert_allclose(result.history, losses, rtol=1e-14)
        assert result.status == Status.max_steps
        assert result.check() is result


@pytest.mark.parametrize(
    "optimizer",
    [
        0.1,
        optax.sgd(0.05, momentum=0.5, nesterov=True),
        optax.adam(0.1),
        optax.adamw(optax.cosine_decay_schedule(0.2, 2000), weight_decay=0.0),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.05)),
        optax.lbfgs(),
    ],
    ids=["gradient descent", "momentum", "adam", "adamw with a schedule", "clipped", "lbfgs"],
)
def test_every_optimiser_converges_and_says_so(optimizer):
    result = descent.minimize(bowl, ZERO, optimizer=optimizer, steps=2000, tol=1e-7)
    assert result.status == Status.converged
    assert result.check() is result
    np.testing.assert_allclose(result.params, TARGET, atol=1e-6)
    assert result.gradient_norms[-1] <= 1e-7
    assert (result.gradient_norms[:-1] > 1e-7).all()
    assert result.history.shape == result.gradient_norms.shape == (int(result.state.step) + 1,)


def test_same_steps_as_a_python_loop_over_optax():
    optimizer = optax.adam(optax.exponential_decay(0.1, 10, 0.5))
    theta, update = ZERO, jax.jit(optimizer.update)  # jitted: optax's schedules round otherwise when run eagerly
    with jax.numpy_dtype_promotion("standard"):
        memory = optimizer.init(theta)
        for _ in range(20):
            updates, memory = update(bowl_gradient(theta), memory, theta)
            theta = optax.apply_updates(theta, updates)
    result = descent.minimize(bowl, ZERO, optimizer=optimizer, steps=20)
    np.testing.assert_allclose(result.params, theta, rtol=1e-13)


def test_step_limit_before_the_tolerance_raises_on_check():
    result = descent.minimize(bowl, ZERO, optimizer=1e-3, steps=5, tol=1e-9)
    assert result.status == Status.max_steps
    with pytest.raises(FitError, match="raise max_steps or steps"):
        result.check()


@pytest.mark.parametrize("tol", [None, 1e-9])
def test_divergence_stops_with_a_status_and_finite_parameters(tol):
    result = descent.minimize(bowl, ZERO, optimizer=1.0, steps=5000, tol=tol)
    assert result.status == Status.non_finite
    assert jnp.isfinite(result.params).all()
    assert result.history.shape[0] < 5000
    with pytest.raises(FitError, match="lower the learning rate"):
        result.check()


def test_nan_in_the_loss_never_reaches_the_parameters():
    # Here the gradient is finite where the loss is not.
    result = descent.minimize(
        lambda t: jnp.where(t > 1.5, jnp.nan, t), jnp.array(0.0), optimizer=-1.0, steps=10, gradient=jnp.ones_like
    )
    assert result.status == Status.non_finite
    assert float(result.params) == 2.0
    assert float(result.history[0]) == 0.0


@pytest.mark.parametrize(
    ("dtype", "factor", "eta", "norm"),
    [
        ("float16", 50.0, 1e-3, 300 * 2**0.5),
        ("float16", 1e-4, 1.0, 6e-4 * 2**0.5),
        ("bfloat16", 50.0, 1e-3, 300 * 2**0.5),
        ("float32", 1e20, 1e-21, 6e20 * 2**0.5),
        ("float32", 1e-24, 1e23, 6e-24 * 2**0.5),
    ],
)
@pytest.mark.parametrize("tol", [None, 0.0])
def test_a_norm_whose_square_leaves_the_range_of_the_parameters(dtype, factor, eta, norm, tol):
    def loss(t):
        return jnp.sum((t - jnp.asarray(3, dtype)) ** 2 * jnp.asarray(factor, dtype))

    result = descent.minimize(loss, jnp.zeros(2, dtype), optimizer=eta, steps=3, tol=tol)
    assert result.status == Status.max_steps
    assert result.gradient_norms.dtype == jnp.float32
    assert result.gradient_norms.shape == (3,)
    np.testing.assert_allclose(result.gradient_norms[0], norm, rtol=2 * float(jnp.finfo(dtype).eps))


def test_the_norm_has_a_derivative_where_it_is_0():
    def last(eta):
        return descent.minimize(lambda t: t @ t, jnp.array([3.0, 4.0]), optimizer=eta, steps=2).gradient_norms[-1]

    for differentiate in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(jax.vmap(differentiate(last))(jnp.array([0.25, 0.5])), [-20.0, 0.0])


def test_parameters_that_an_update_takes_out_of_their_range_stay():
    result = descent.minimize(jnp.sum, jnp.full(2, 6e4, jnp.float16), optimizer=-1e4, steps=9)
    assert result.status == Status.non_finite
    assert result.params.tolist() == [6e4, 6e4]


def test_an_update_that_is_rejected_enters_no_memory():
    def loss(t):
        return jnp.sum(t**2)

    optimizer = optax.chain(optax.scale(1e308), optax.trace(0.9))
    result = descent.minimize(loss, jnp.ones(2), optimizer=optimizer, steps=3)
    assert result.status == Status.non_finite
    assert int(result.state.step) == 0
    assert [v.tolist() for v in jax.tree.leaves(result.state.opt_state)] == [[0.0, 0.0]]


@pytest.mark.parametrize("tol", [None, 1e-3])
def test_a_flat_loss_has_gradient_0(tol):
    result = descent.minimize(lambda t: jnp.sum(jnp.round(t)), ZERO, optimizer=0.1, steps=2, tol=tol)
    assert result.status == (Status.max_steps if tol is None else Status.converged)
    assert not result.gradient_norms.any()


@pytest.mark.parametrize("tol", [None, 1e-9])
@pytest.mark.parametrize("slope", [jnp.nan, jnp.inf])
def test_the_history_ends_with_the_loss_at_which_the_descent_stopped(slope, tol):
    def gradient(t):
        return jnp.where(t > 1.5, slope, jnp.ones_like(t))

    result = descent.minimize(lambda t: t, jnp.array(0.0), optimizer=-1.0, steps=9, tol=tol, gradient=gradient)
    assert result.status == Status.non_finite
    assert result.history.tolist() == [0.0, 1.0, 2.0]
    assert result.gradient_norms.tolist() == [1.0, 1.0, jnp.inf]
    assert str(result) == "Result: non_finite after 2 steps: loss 0 -> 2"


def _line_data(n: int = 40):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2))
    return jnp.asarray(X), jnp.asarray(X @ np.array([2.0, -1.0]) + 0.5)


def _line_loss(params, X, y):
    return jnp.mean((X @ params["w"] + params["b"] - y) ** 2)


START = {"w": jnp.zeros(2), "b": jnp.zeros(())}


def test_batches_use_every_row_once_in_an_epoch():
    n, batch = 12, 4
    rows = jnp.arange(n)
    # The loss is linear in theta, so each step subtracts the one-hot sum of the rows it saw.
    result = descent.minimize(
        lambda theta, i: jnp.sum(theta[i]),
        jnp.zeros(n),
        data=(rows,),
        optimizer=1.0,
        steps=3 * (n // batch),
        batch_size=batch,
        key=jax.random.key(3),
    )
    np.testing.assert_array_equal(result.params, -3 * np.ones(n))
    first = descent.minimize(
        lambda theta, i: jnp.sum(theta[i]),
        jnp.zeros(n),
        data=(rows,),
        optimizer=1.0,
        steps=1,
        batch_size=batch,
        key=jax.random.key(3),
    )
    assert int((first.params == -1).sum()) == batch


def test_mini_batches_reach_the_line():
    X, y = _line_data()
    result = descent.minimize(
        _line_loss, START, data=(X, y), optimizer=optax.adam(0.05), steps=1500, batch_size=8, key=jax.random.key(0)
    )
    np.testing.assert_allclose(result.params["w"], [2.0, -1.0], atol=1e-5)
    np.testing.assert_allclose(result.params["b"], 0.5, atol=1e-5)


@pytest.mark.parametrize("cut", [1, 7, 10])
def test_resuming_from_a_saved_state_is_the_same_as_never_stopping(tmp_path, cut: int):
    X, y = _line_data()
    options = {"data": (X, y), "optimizer": optax.adam(0.05), "batch_size": 8}
    whole = descent.minimize(_line_loss, START, steps=17, key=jax.random.key(0), **options)
    part = descent.minimize(_line_loss, START, steps=cut, key=jax.random.key(0), **options)
    checkpoint.save(tmp_path / "state.npz", part.state)
    state = checkpoint.load(tmp_path / "state.npz", like=part.state)
    rest = descent.minimize(_line_loss, START, steps=17 - cut, state=state, **options)
    np.testing.assert_array_equal(jnp.concatenate([part.history, rest.history]), whole.history)
    for a, b in zip(jax.tree.leaves(rest.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_progress_prints_and_changes_nothing(capsys):
    quiet = descent.minimize(bowl, ZERO, optimizer=0.1, steps=50, tol=1e-12)
    loud = descent.minimize(bowl, ZERO, optimizer=0.1, steps=50, tol=1e-12, progress=True)
    err = capsys.readouterr().err
    assert "step 50/50" in err
    assert "loss" in err
    np.testing.assert_array_equal(quiet.params, loud.params)
    np.testing.assert_array_equal(quiet.history, loud.history)


def test_no_second_compilation_for_a_new_rate_or_new_data():
    traces = []

    def counted(theta, X):
        traces.append(1)
        return jnp.mean((X @ theta) ** 2)

    optimizer = optax.adam(0.1)
    for optimizer_ in (0.1, 0.2, np.float64(0.3)):
        descent.minimize(counted, ZERO, data=(jnp.ones((3, 2)) * optimizer_,), optimizer=optimizer_, steps=4)
    after_first = len(traces)
    descent.minimize(counted, ZERO, data=(jnp.ones((3, 2)),), optimizer=0.9, steps=4)
    assert len(traces) == after_first
    descent.minimize(counted, ZERO, data=(jnp.ones((3, 2)),), optimizer=optimizer, steps=4)
    with_adam = len(traces)
    descent.minimize(counted, ZERO, data=(jnp.zeros((3, 2)),), optimizer=optimizer, steps=4)
    assert len(traces) == with_adam


def test_lanes_of_a_vmap_stop_each_on_its_own():
    def run(eta):
        return descent.minimize(bowl, ZERO, optimizer=eta, steps=400, tol=1e-6)

    rates = jnp.array([0.01, 0.1, 0.2, 5.0])
    together = jax.vmap(run)(rates)
    for i, eta in enumerate(rates):
        alone = run(eta)
        taken = alone.history.shape[0]
        assert int(together.code[i]) == int(alone.code)
        np.testing.assert_allclose(together.params[i], alone.params, rtol=1e-12)
        np.testing.assert_allclose(together.history[i, :taken], alone.history, rtol=1e-9)
        assert jnp.isnan(together.history[i, taken:]).all()
    assert list(map(int, together.code[1:])) == [Status.converged, Status.converged, Status.non_finite]
    with pytest.raises(FitError, match=r"non_finite.*1 of 4 results"):
        together.check()


def test_derivative_through_the_loop():
    def last(eta):
        return descent.minimize(bowl, ZERO, optimizer=eta, steps=6).history[-1]

    h = 1e-6
    by_differences = (last(0.1 + h) - last(0.1 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(last)(0.1), by_differences, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(last, (0.1,), (1.0,))[1], by_differences, rtol=1e-6)

    def stops(eta):
        return descent.minimize(bowl, ZERO, optimizer=eta, steps=6, tol=0.0).params[0]

    np.testing.assert_allclose(
        jax.jvp(stops, (0.1,), (1.0,))[1], (stops(0.1 + h) - stops(0.1 - h)) / (2 * h), rtol=1e-6
    )


def test_under_jit_the_history_keeps_its_length():
    result = jax.jit(lambda t: descent.minimize(bowl, t, optimizer=0.2, steps=300, tol=1e-6))(ZERO)
    assert result.history.shape == (300,)
    assert result.status == Status.converged
    assert int(jnp.isnan(result.history).sum()) > 0


def test_float32_parameters_stay_float32_whatever_the_optimiser():
    for optimizer in (0.1, optax.adam(0.1), optax.lbfgs()):
        result = descent.minimize(lambda t: jnp.sum(t**2), jnp.ones(3, jnp.float32), optimizer=optimizer, steps=3)
        assert result.params.dtype == jnp.float32


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_rows_on_a_mesh_give_the_answer_of_one_device(kind: str):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    X, y = _line_data()
    there = jax.device_put(X, rows), jax.device_put(y, rows)
    start = jax.device_put(START, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    for batch in ({}, {"batch_size": 16, "key": jax.random.key(0)}):
        options = {"optimizer": optax.adam(0.05), "steps": 30, **batch}
        want = descent.minimize(_line_loss, START, data=(X, y), **options)
        got = descent.minimize(_line_loss, start, data=there, **options)
        np.testing.assert_allclose(got.params["w"], want.params["w"], rtol=1e-12)
        np.testing.assert_allclose(got.history, want.history, rtol=1e-11)


def test_refusals():
    ok = {"optimizer": 0.1, "steps": 3}
    with pytest.raises(ValueError, match="steps must be a positive integer; got 0"):
        descent.minimize(bowl, ZERO, optimizer=0.1, steps=0)
    with pytest.raises(ValueError, match="loss must return a scalar"):
        descent.minimize(lambda t: t, ZERO, **ok, gradient=lambda t: t)
    with pytest.raises(ValueError, match="gradient must return a pytree like params"):
        descent.minimize(bowl, ZERO, **ok, gradient=lambda t: (t, t))
    with pytest.raises(TypeError, match="loss must be a function"):
        descent.minimize(None, ZERO, **ok)
    with pytest.raises(TypeError, match="not both"):
        descent.minimize(bowl, ZERO, **ok, gradient=bowl_gradient, value_and_gradient=jax.value_and_grad(bowl))
    X, y = _line_data()
    with pytest.raises(ValueError, match="first axes must be equal"):
        descent.minimize(_line_loss, START, data=(X, y[:-1]), **ok)
    with pytest.raises(ValueError, match=r"batch_size needs key=jax.random.key\(seed\)"):
        descent.minimize(_line_loss, START, data=(X, y), **ok, batch_size=4)
    with pytest.raises(ValueError, match="batch_size is 99 but data has only 40 rows"):
        descent.minimize(_line_loss, START, data=(X, y), **ok, batch_size=99, key=jax.random.key(0))
    with pytest.raises(ValueError, match="batch_size needs data="):
        descent.minimize(bowl, ZERO, **ok, batch_size=4, key=jax.random.key(0))
    with pytest.raises(TypeError, match="params must hold real numbers"):
        descent.minimize(bowl, "start", **ok)
    with pytest.raises(ValueError, match="progress=True prints from Python"):
        jax.jit(lambda t: descent.minimize(bowl, t, **ok, progress=True).params)(ZERO)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": 0}, "key must be a random key such as jax.random.key(0); got 0."),
        ({"optimizer": jnp.array([0.1, 0.2])}, "must be one number, shape (); got shape (2,). Use vmap for many."),
        ({"optimizer": optax.adam}, "Call it first, optax.adam(1e-3), and give a schedule to a transformation"),
        (
            {"optimizer": optax.constant_schedule(0.1)},
            "optimizer must be a learning rate or an optax transformation; got",
        ),
        ({"tol": [1e-3, 1e-3]}, "tol must be one number, shape (); got shape (2,)."),
        ({"tol": -1.0}, "tol must not be negative or NaN; got a bad value: -1.0."),
        ({"tol": np.nan}, "tol must not be negative or NaN; got a bad value: nan."),
        ({"steps": 2.0}, "steps must be a positive integer; got 2.0."),
    ],
)
def test_refused_options(options, words):
    with pytest.raises((TypeError, ValueError)) as error:
        descent.minimize(bowl, ZERO, **{"optimizer": 0.1, "steps": 3, **options})
    assert words in str(error.value)


def test_a_state_of_another_optimiser_is_refused():
    sgd, momentum = optax.sgd(0.1), optax.sgd(0.1, momentum=0.9)
    state = descent.minimize(bowl, ZERO, optimizer=momentum, steps=1).state
    for optimizer in (0.1, sgd, optax.adam(0.1)):
        with pytest.raises(ValueError, match="state was made by another optimizer: it remembers"):
            descent.minimize(bowl, None, optimizer=optimizer, steps=1, state=state)
    plain = descent.minimize(bowl, ZERO, optimizer=0.1, steps=1).state
    with pytest.raises(ValueError, match="it remembers nothing, and optimizer needs"):
        descent.minimize(bowl, None, optimizer=momentum, steps=1, state=plain)
    assert int(descent.minimize(bowl, None, optimizer=momentum, steps=1, state=state).state.step) == 2


@pytest.mark.parametrize(
    ("loss", "params", "optimizer", "words"),
    [
        (lambda t: 0.0, {}, 0.1, "params must hold at least one array to minimise over; got {}."),
        (bowl, ZERO, optax.MultiSteps(optax.sgd(0.1), 2), "optax.MultiSteps(...).gradient_transformation()"),
        (lambda t: t[:1], ZERO, 0.1, "loss must return a scalar; it returned shape (1,). Take the mean"),
        (lambda t: (t @ t, t), ZERO, 0.1, "loss must return a scalar; it returned a tuple. Return the loss alone."),
    ],
)
def test_what_cannot_be_minimised_is_named(loss, params, optimizer, words):
    with pytest.raises((TypeError, ValueError)) as error:
        descent.minimize(loss, params, optimizer=optimizer, steps=1)
    assert words in str(error.value)


def test_a_gradient_of_another_shape_and_a_bare_array_of_data_are_refused():
    with pytest.raises(ValueError, match="gradient must have the shapes of params"):
        descent.minimize(bowl, ZERO, optimizer=0.1, steps=3, gradient=lambda t: jnp.ones(1))
    with pytest.raises(TypeError, match=r"data must be a tuple of arrays such as \(X, y\)"):
        descent.minimize(_line_loss, START, data=_line_data()[0], optimizer=0.1, steps=3)


def test_a_state_without_batches_needs_a_key_to_go_on_with_them():
    X, y = _line_data()
    part = descent.minimize(_line_loss, START, data=(X, y), optimizer=0.1, steps=2)
    options = {"data": (X, y), "optimizer": 0.1, "steps": 2, "batch_size": 4, "state": part.state}
    with pytest.raises(ValueError, match="batch_size needs key="):
        descent.minimize(_line_loss, START, **options)
    assert descent.minimize(_line_loss, START, **options, key=jax.random.key(0)).state.key is not None
