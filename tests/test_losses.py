"""What losses have in common beside their formulas: weights, reductions, sums that merge, labels, refusals."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import laws
from catalogue import BINARY, LOSSES, SMOOTHING, Row
from fundl import losses

PLAIN = [row for row in LOSSES if row.variant in ("", "soft", "smoothed")]
WITH_CLASSES = [row for row in LOSSES if row.differentiable == (0,)]
WITH_LABELS_IN_0_1 = [*BINARY, *(row for row in LOSSES if "soft" in row.variant)]

plain = pytest.mark.parametrize("row", PLAIN, ids=str)
reductions = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])

TWO_ARRAYS = [
    "l1", "mse", "huber", "binary_cross_entropy", "binary_cross_entropy_with_logits", "focal_with_logits",
]  # fmt: skip

WEIGHTS = np.array([0.5, 0.0, 2.0, 1.25, 3.0])


def all_gradients(row: Row, inputs: tuple[Any, ...], dy: Any, **options: Any) -> tuple[tuple[Any, ...], ...]:
    """By hand and by autodiff, as NumPy arrays."""
    arrays = {k: jnp.asarray(v) for k, v in options.items() if not isinstance(v, (str, float))}
    static = tuple((k, v) for k, v in options.items() if k not in arrays)
    return jax.device_get(_compiled(str(row), static)(dy, tuple(map(jnp.asarray, inputs)), arrays))


@functools.cache
def _compiled(name: str, static: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    row = next(row for row in LOSSES if str(row) == name)

    def both(dy: Any, inputs: tuple[Any, ...], arrays: dict[str, Any]) -> Any:
        given = {**row.options, **dict(static), **arrays}
        f, kept = laws.of_differentiable(row, inputs, **dict(static), **arrays)
        return laws.as_tuple(row.backward(dy, *inputs, **given)), jax.vjp(f, *kept)[1](dy)

    return jax.jit(both)


# ---- weights and reductions ------------------------------------------------------------------------------------------


@reductions
@plain
def test_weights_and_reductions(row: Row, reduction: str) -> None:
    inputs = laws.draw(row)
    y, dy, found = laws.run(row, inputs, weights=WEIGHTS, reduction=reduction)
    laws.assert_near(y, laws.truth(row, inputs, weights=WEIGHTS, reduction=reduction))
    laws.assert_all_near(found, laws.true_gradients(row, dy, inputs, weights=WEIGHTS, reduction=reduction))


@plain
def test_an_integer_weight_is_that_many_copies(row: Row) -> None:
    inputs = laws.draw(row, 4)
    copies = np.array([3, 0, 1, 2])
    rows = np.repeat(np.arange(4), copies)
    y, _, found = laws.run(row, inputs, weights=copies)
    repeated, _, of_copies = laws.run(row, tuple(v[rows] for v in inputs))
    laws.assert_near(y, repeated)
    for g, c in zip(found, of_copies, strict=True):
        added = np.zeros(g.shape)
        np.add.at(added, rows, np.asarray(c))
        laws.assert_near(g, added)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@plain
def test_weight_0_removes_the_example_whatever_it_holds(row: Row, bad: float) -> None:
    inputs = [np.array(v) for v in laws.draw(row)]
    expected = laws.run(row, tuple(np.delete(v, 1, 0) for v in inputs), weights=np.delete(WEIGHTS, 1))
    for v in inputs:
        v[1] = bad if v.dtype.kind == "f" else -7  # WEIGHTS[1] is 0
    y = row.forward(*inputs, weights=WEIGHTS, **row.options)  # concrete, so nothing is refused either
    laws.assert_near(y, expected[0])
    for gradients in all_gradients(row, tuple(inputs), expected[1], weights=WEIGHTS):
        for g, e in zip(gradients, expected[2], strict=True):
            assert (g[1] == 0).all()
            laws.assert_near(np.delete(g, 1, 0), e)


@plain
def test_the_derivative_in_a_weight_of_0_is_the_loss_of_its_example(row: Row) -> None:
    inputs = laws.draw(row)
    each = row.forward(*inputs, reduction="none", **row.options)
    w = jnp.asarray(WEIGHTS)  # WEIGHTS[1] is 0
    found = jax.grad(lambda w: row.forward(*inputs, weights=w, reduction="sum", **row.options))(w)
    laws.assert_near(found, each)
    bad = [np.array(v) for v in inputs]
    for v in bad:
        v[1] = np.nan if v.dtype.kind == "f" else -7
    found = jax.grad(lambda w: row.forward(*bad, weights=w, reduction="sum", **row.options))(w)
    laws.assert_near(np.delete(found, 1), np.delete(np.asarray(each), 1))
    assert np.isfinite(found[1])


FAR_RESIDUALS = [1e10, -3e37, np.nan, np.inf, 1e18, 1e30]
FAR_LOGITS = [1e10, -3e37, np.nan, np.inf, -np.inf, np.inf]
FAR_PAIRS = [[1e37, 0], [-np.inf, 0], [np.inf, -1e37], [0, np.inf], [np.nan, 0], [-np.inf, -np.inf]]
FAR_PROBABILITIES = [[1e-8, 1], [0, 1], [1 - 6e-8, 1e-30], [1, 0], [np.nan, 1], [np.nan, np.inf]]
FAR = [
    ("l1", FAR_RESIDUALS, [0.0] * 6),
    ("mse", FAR_RESIDUALS, [0.0] * 6),
    ("huber", FAR_RESIDUALS, [0.0] * 6),
    ("binary_cross_entropy", [1e-8, 1, 0, 0, 1e-30, np.nan], [1.0, 1, 0, 1, 1, 0.5]),
    ("binary_cross_entropy_with_logits", FAR_LOGITS, [0.5, 0, 0, 1, 0, 0]),
    ("focal_with_logits", FAR_LOGITS, [0.5, 0, 0, 1, 0, 0]),
    ("cross_entropy", FAR_PROBABILITIES, [0, 1, 1, 0, 0, 0]),
    ("cross_entropy", FAR_PROBABILITIES, [[1.0, 0], [0, 1], [0.5, 0.5], [1, 0], [0.5, np.nan], [1, 0]]),
    ("cross_entropy_with_logits", FAR_PAIRS, [1, 1, 0, 0, 0, 0]),
    ("cross_entropy_with_logits", FAR_PAIRS, [[0.5, 0.5], [0, 1], [1, 0], [1, 0], [np.nan, 0.5], [1, 0]]),
]


@pytest.mark.parametrize(("name", "x", "y"), FAR)
def test_an_example_of_weight_0_far_out(name: str, x: Any, y: Any) -> None:
    """The derivative in its weight is its loss where that is finite; all others are 0, also where theirs would not be.

    Of the losses that overflow, or that float32 clips at the end of its range, it is some number.
    """
    x = jnp.asarray(np.array(x), jnp.float32)
    y = jnp.asarray(np.array(y), jnp.float32) if np.array(y).dtype.kind == "f" else jnp.array(y)
    f = functools.partial(getattr(losses, name), reduction="sum")
    backward = functools.partial(getattr(losses, f"{name}_backward"), 1.0, reduction="sum")

    @jax.jit
    def found(x: Any, w: Any) -> Any:
        each = jax.vmap(lambda x, y: getattr(losses, name)(x[None], y[None]))(x, y)
        in_w, in_x = jax.grad(lambda w, x: f(x, y, weights=w), (0, 1))(w, x)
        return each, in_w, in_x, jax.hessian(lambda x: f(x, y, weights=w))(x), backward(x, y, weights=w)

    each, in_w, *derivatives = found(x, jnp.zeros(len(x)))
    assert np.isfinite(in_w).all()
    finite = np.isfinite(each)
    assert finite.sum() >= 2
    np.testing.assert_allclose(in_w[finite], each[finite], rtol=1e-6)
    for d in jax.tree.leaves(derivatives):
        assert not np.asarray(d).any()


@plain
def test_all_weights_0_give_0(row: Row) -> None:
    inputs = laws.draw(row)
    nothing = np.zeros(5)
    y, dy, _ = laws.run(row, inputs, weights=nothing)
    assert float(y) == 0
    for gradients in all_gradients(row, inputs, dy, weights=nothing):
        assert all((g == 0).all() for g in gradients)


MERGED = [(row, True) for row in PLAIN if "mse" in row.name or "logits" in row.name]
MERGED += [pytest.param(row, row in PLAIN, marks=pytest.mark.slow) for row in LOSSES if (row, True) not in MERGED]


@pytest.mark.parametrize(("row", "weighted"), [*MERGED, (PLAIN[1], False)], ids=str)
def test_micro_batches_merge(row: Row, weighted: bool) -> None:
    """1, 2, 7 and n micro-batches: sum of sums over sum of weights, and the same for the gradient."""
    n = 14
    inputs = laws.draw(row, n)
    w = np.random.default_rng(3).uniform(0, 2, n) if weighted else np.ones(n)

    @jax.jit
    def part(inputs: tuple[Any, ...], w: Any) -> Any:
        given = {**row.options, **({"weights": w} if weighted else {})}

        def f(first: Any) -> Any:
            return losses.sum_and_weight(row.forward, first, *inputs[1:], **given)

        (total, weight), pull = jax.vjp(f, inputs[0])
        auto = pull((jnp.ones_like(total), jnp.zeros_like(weight)))[0]
        hand = laws.as_tuple(row.backward(1.0, *inputs, reduction="sum", **given))[0]
        return total, weight, auto, hand

    for batches in (1, 2, 7, n):
        chunks = [part(tuple(v[i] for v in inputs), w[i]) for i in np.split(np.arange(n), batches)]
        total, weight = (sum(float(c[i]) for c in chunks) for i in (0, 1))
        expected, _, gradients = laws.run(row, inputs, **({"weights": w} if weighted else {}), cotangent=jnp.ones)
        laws.assert_near(np.float64(total / weight), expected, what=f"{batches} batches")
        for i in (2, 3):
            merged = np.concatenate([c[i] for c in chunks]) / weight
            laws.assert_near(merged, gradients[0], what=f"{batches} batches, gradient")


def test_sum_and_weight_takes_no_reduction() -> None:
    with pytest.raises(TypeError, match="leave out reduction="):
        losses.sum_and_weight(losses.mse, [1.0], [0.0], reduction="mean")


def test_sum_and_weight_of_half_precision_counts_in_float32() -> None:
    ones = jnp.ones(3000, jnp.bfloat16)
    total, weight = losses.sum_and_weight(losses.l1, ones, 0 * ones, weights=ones)
    assert (float(total), float(weight)) == (3000.0, 3000.0)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "cross_entropy"])
def test_second_derivatives_of_confident_probabilities(name: str) -> None:
    """y / p^2, and for two classes in one (1 - y) / (1 - p)^2 as well, where 1 / p^2 is beyond the range of float32."""
    p, y = np.array([1e-37, 1e-30, 1e-20, 0.25, 0.75, 1.0], np.float32), np.array([0, 0, 0, 0.25, 1, 1], np.float32)
    f, f_backward = getattr(losses, name), getattr(losses, f"{name}_backward")

    def value(p: Any, y: Any) -> Any:
        return f(p[None], y[None])

    def hand(p: Any, y: Any) -> Any:
        return f_backward(jnp.ones(()), p[None], y[None])[0][0]

    def found(p: Any, y: Any) -> Any:
        if name == "cross_entropy":  # a one-hot row: beside the class of label y one that is certain
            p, y = jnp.stack([p, jnp.ones_like(p)]), jnp.stack([y, jnp.ones_like(y)])
        twice = jax.hessian(value)(p, y), jax.jacrev(jax.jacrev(value))(p, y), jax.jacfwd(hand)(p, y)
        once = jax.jacfwd(value, 1)(p, y), jax.jacrev(jax.jacrev(value, 1))(p, y)
        return [H[0, 0] if H.ndim else H for H in twice], [D.ravel()[0] for D in once]

    p64, y64 = p.astype(np.float64), y.astype(np.float64)
    second, slope, mixed = y64 / p64**2, -np.log(p64), -1 / p64
    if name == "binary_cross_entropy":
        with np.errstate(divide="ignore", invalid="ignore"):
            second += np.where(y64 == 1, 0, (1 - y64) / (1 - p64) ** 2)
            slope, mixed = slope + np.log1p(-p64), mixed - 1 / (1 - p64)
    twice, (in_y, in_both) = jax.jit(jax.vmap(found))(p, y)
    for H in twice:
        np.testing.assert_allclose(H, second, rtol=1e-6)
    np.testing.assert_allclose(in_y[:-1], slope[:-1], rtol=1e-6)
    np.testing.assert_allclose(in_both[:-1], mixed[:-1], rtol=1e-6)


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [-1, 4, 2**31 - 1])
@pytest.mark.parametrize("row", WITH_CLASSES, ids=str)
def test_classes_out_of_range(row: Row, label: int) -> None:
    """Concrete ones raise; traced ones give NaN for their example, in value and both gradients, and for no other."""
    x, y = laws.draw(row)
    y = np.where(np.arange(5) == 2, np.int32(label), y)
    assert f"classes in 0..3; got a bad value at index 2: {label}" in laws.refusal(lambda: row.forward(x, y))
    assert "classes in 0..3" in laws.refusal(lambda: row.backward(1.0, x, y))
    values = jax.jit(lambda *a: row.forward(*a, reduction="none", **row.options))(x, y)
    assert np.isnan(values).tolist() == [False, False, True, False, False]
    for (gradient,) in all_gradients(row, (x, y), jnp.ones(5), reduction="none"):
        assert np.isnan(gradient).all(axis=1).tolist() == [False, False, True, False, False]
        assert np.isnan(gradient).any(axis=1).sum() == 1


@pytest.mark.parametrize("label", [-0.25, 1.25])
@pytest.mark.parametrize("row", WITH_LABELS_IN_0_1, ids=str)
def test_soft_labels_out_of_range(row: Row, label: float) -> None:
    x, y = laws.draw(row)
    y = np.array(y)
    y[(2, *(0,) * (y.ndim - 1))] = label
    assert "y must hold labels 0, 1 or between in [0, 1]" in laws.refusal(lambda: row.forward(x, y))
    values = jax.jit(lambda *a: row.forward(*a, reduction="none", **row.options))(x, y)
    assert np.isnan(values).tolist() == [False, False, True, False, False]
    for gradient, *_ in all_gradients(row, (x, y), jnp.ones(5), reduction="none"):
        assert np.isnan(gradient).reshape(5, -1).any(axis=1).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("bad", [-0.25, 1.25])
@pytest.mark.parametrize("row", [row for row in LOSSES if row.domain == (0.0, 1.0)], ids=str)
def test_probabilities_out_of_range(row: Row, bad: float) -> None:
    p, y = laws.draw(row)
    p = np.array(p)
    p[(2, *(0,) * (p.ndim - 1))] = bad
    assert "p must hold probabilities in [0, 1]" in laws.refusal(lambda: row.forward(p, y))
    if row.name == "binary_cross_entropy":  # traced it poisons its own example
        values = jax.jit(lambda *a: row.forward(*a, reduction="none"))(p, y)
        gradient = jax.jit(lambda *a: row.backward(jnp.ones(5), *a, reduction="none")[0])(p, y)
        for found in (values, gradient):
            assert np.isnan(found).reshape(5, -1).any(axis=1).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("loss", "option", "good", "bad"),
    [
        (losses.huber, "delta", 1.0, 0.0),
        (losses.focal_with_logits, "gamma", 2.0, -1.0),
        (losses.focal_with_logits, "gamma", 2.0, np.inf),
        (losses.cross_entropy_with_logits, "label_smoothing", 0.5, 1.5),
    ],
)
def test_a_traced_option_out_of_range_is_no_number(loss: Any, option: str, good: float, bad: float) -> None:
    """Where a concrete one is refused; by hand, by autodiff, and in the derivative with respect to it."""
    x = jnp.full((5, 4), 0.25)
    y = jnp.zeros(5, int) if option == "label_smoothing" else jnp.zeros_like(x)
    backward = getattr(losses, f"{loss.__name__}_backward")
    assert f"{option} must be" in laws.refusal(lambda: loss(x, y, **{option: bad}))

    @jax.jit
    def found(a: Any) -> Any:
        value, (in_x, in_a) = jax.value_and_grad(lambda x, a: loss(x, y, **{option: a}), (0, 1))(x, a)
        return value, in_x, in_a, laws.as_tuple(backward(1.0, x, y, **{option: a}))[0]

    for part in found(good):
        assert np.isfinite(part).all()
    value, in_x, _, by_hand = found(bad)
    for part in (value, in_x, by_hand):
        assert np.isnan(part).all()


def test_smoothing_of_logits_near_the_largest_number() -> None:
    """The mean of logits that no sum of them would hold."""
    far = -0.6 * np.finfo(np.float32).max
    z = np.array([[0, far, far, far]], np.float32)
    found = losses.cross_entropy_with_logits(z, np.array([0]), label_smoothing=0.1)
    np.testing.assert_allclose(found, -0.1 * 0.75 * float(far), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_labels_of_every_integer_dtype_reach_every_class(dtype: type) -> None:
    """300 classes: an iota of dtype uint8 would wrap around and match two of them."""
    y = np.array([5, 100, 127], dtype)
    z = np.zeros((3, 300))
    expected = losses.cross_entropy_with_logits(z, y.astype(np.int32), reduction="none")
    assert losses.cross_entropy_with_logits(z, y, reduction="none").tolist() == expected.tolist()  # none is refused

    @jax.jit
    def pair(z: Any, y: Any) -> Any:
        backward = losses.cross_entropy_with_logits_backward
        return losses.cross_entropy_with_logits(z, y, reduction="none"), backward(1.0, z, y, reduction="sum")

    values, gradient = jax.device_get(pair(z, y))
    laws.assert_near(values, expected)
    assert (np.argmin(gradient, axis=1) == y).all()
    assert (np.sum(gradient < 0, axis=1) == 1).all()


@pytest.mark.parametrize("name", ["cross_entropy", "cross_entropy_with_logits"])
def test_one_hot_is_the_class(name: str) -> None:
    row = next(row for row in LOSSES if row.name == name and not row.variant)
    x, y = laws.draw(row)
    laws.assert_near(row.forward(x, np.eye(4)[y]), row.forward(x, y))
    of_rows = row.backward(1.0, x, np.eye(4)[y])
    laws.assert_near(of_rows[0], row.backward(1.0, x, y))
    as_integers = row.backward(1.0, x, np.eye(4, dtype=int)[y])
    laws.assert_near(as_integers, of_rows[0])  # integer rows are labels too, and have no gradient


def test_smoothing_is_smoothed_labels() -> None:
    f, f_backward = losses.cross_entropy_with_logits, losses.cross_entropy_with_logits_backward
    x, y = laws.draw(next(row for row in LOSSES if row.variant == "smoothed"))
    smoothed = (1 - SMOOTHING) * np.eye(4)[y] + SMOOTHING / 4
    laws.assert_near(f(x, y, label_smoothing=SMOOTHING), f(x, smoothed))
    laws.assert_near(f_backward(1.0, x, y, label_smoothing=SMOOTHING), f_backward(1.0, x, smoothed)[0])
    slope = jax.grad(lambda a: f(x, y, label_smoothing=a))(0.0)
    laws.assert_near(slope, f(x, np.full((5, 4), 0.25)) - f(x, y))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_traced_smoothing_at_its_ends(share: float) -> None:
    """Smoothing of 0 as an array: a masked class still adds nothing, 0 inf = 0."""
    z, y = np.array([[0.0, -np.inf, 1.0]]), np.array([2])
    f = jax.jit(lambda a: losses.cross_entropy_with_logits(z, y, label_smoothing=a))
    laws.assert_same(f(share), losses.cross_entropy_with_logits(z, y) if share == 0 else np.inf, 1e-15, "value")


# ---- the lecture's forms, dtypes -------------------------------------------------------------------------------------


def test_the_lecture() -> None:
    rng = np.random.default_rng(0)
    X, theta, y = rng.normal(size=(6, 3)), rng.normal(size=3), rng.normal(size=6)
    r = X @ theta - y
    laws.assert_near(losses.mse(X @ theta, y), np.mean(r**2))
    laws.assert_near(losses.mse(X @ theta, y, reduction="sum"), r @ r)
    Y, Y_hat = rng.normal(size=(2, 6, 3))
    laws.assert_near(losses.mse(Y_hat, Y), np.mean(np.linalg.norm(Y - Y_hat, axis=1) ** 2))
    laws.assert_near(losses.l1(Y_hat, Y), np.mean(np.sum(abs(Y - Y_hat), axis=1)))
    p = rng.dirichlet(np.ones(3), 6)
    onehot = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    laws.assert_near(losses.cross_entropy(p, onehot, reduction="sum"), -np.sum(onehot * np.log(p)))


@pytest.mark.parametrize("name", TWO_ARRAYS)
def test_integer_targets_have_no_gradient(name: str) -> None:
    backward = getattr(losses, f"{name}_backward")
    found = backward(1.0, np.array([0.25, 0.75]), np.array([0, 1]))
    assert isinstance(found, jax.Array)
    laws.assert_near(found, backward(1.0, np.array([0.25, 0.75]), np.array([0.0, 1.0]))[0])


@pytest.mark.parametrize("name", TWO_ARRAYS)
def test_mixed_dtypes_are_computed_in_the_wider(name: str) -> None:
    x, y = np.array([0.25, 0.75], np.float32), np.array([0.125, 1.0])
    assert getattr(losses, name)(x, y).dtype == np.float64
    assert [g.dtype for g in getattr(losses, f"{name}_backward")(1.0, x, y)] == [np.float32, np.float64]


# ---- refusals --------------------------------------------------------------------------------------------------------

ONES = np.ones(3)
Z = np.zeros((3, 4))
OVER_CLASSES = ["cross_entropy", "cross_entropy_with_logits"]
FIRST = {"binary_cross_entropy": "p", "cross_entropy": "p"} | {
    "binary_cross_entropy_with_logits": "z",
    "focal_with_logits": "z",
    "cross_entropy_with_logits": "z",
}


def refused(name: str, *arguments: Any, under_jit: bool = False, **options: Any) -> str:
    """The message with which the loss and its backward, both, refuse."""
    f, f_backward = getattr(losses, name), getattr(losses, f"{name}_backward")
    if under_jit:
        message = laws.refusal(lambda: jax.eval_shape(lambda *a: f(*a, **options), *arguments))
        assert message == laws.refusal(lambda: jax.eval_shape(lambda *a: f_backward(1.0, *a, **options), *arguments))
        return message
    message = laws.refusal(lambda: f(*arguments, **options))
    assert message == laws.refusal(lambda: f_backward(1.0, *arguments, **options))
    return message


@pytest.mark.parametrize("under_jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", TWO_ARRAYS)
def test_a_column_against_a_row(name: str, under_jit: bool) -> None:
    message = refused(name, ONES, ONES[:, None], under_jit=under_jit)
    first = FIRST.get(name, "y_hat")
    assert message == (
        f"{first} has shape (3,) but y has shape (3, 1). Reshape one of them, for example y.reshape({first}.shape)."
    )
    assert "(3, 1)" in refused(name, ONES[:, None], ONES, under_jit=under_jit)


@pytest.mark.parametrize("name", TWO_ARRAYS)
def test_another_number_of_examples(name: str) -> None:
    message = refused(name, ONES, np.ones(4))
    assert "(3,)" in message
    assert "(4,)" in message
    assert "one entry for each other" in message


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.zeros((3, 1), int), ("(3, 1)", "(3,)", "(3, 4)", "y.reshape((3,))")),
        (np.zeros(4, int), ("(4,)", "(3,)")),
        (np.zeros((4, 4)), ("(4, 4)", "(3, 4)")),
        (np.zeros(3), ("y", "(3,)", "integers", "float64", "y.astype(int)")),
        (np.zeros(3, bool), ("integers", "bool")),
        (0, ("y", "()", "(3,)")),
    ],
    ids=["column", "length", "rows", "floats", "booleans", "scalar"],
)
@pytest.mark.parametrize("name", OVER_CLASSES)
def test_labels_that_do_not_fit(name: str, y: Any, words: tuple[str, ...]) -> None:
    message = refused(name, Z, y)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", TWO_ARRAYS + OVER_CLASSES)
@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("three", ("must hold real numbers", "str")),
        (np.array(["a", "b", "c"]), ("must hold real numbers", "Encode text")),
        (None, ("must hold real numbers", "NoneType")),
        (np.array([object()] * 3), ("must hold real numbers", "object")),
        (ONES * 1j, ("must hold real numbers", "complex", "real and imaginary parts")),
    ],
    ids=["text", "texts", "None", "objects", "complex"],
)
def test_what_is_no_number(name: str, first: Any, words: tuple[str, ...]) -> None:
    message = refused(name, first, ONES)
    assert message.startswith(FIRST.get(name, "y_hat"))
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", TWO_ARRAYS + OVER_CLASSES)
@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_empty(name: str, shape: tuple[int, ...]) -> None:
    message = refused(name, np.ones(shape), np.ones(shape))
    assert message.startswith(f"{FIRST.get(name, 'y_hat')} is empty: shape {shape}. Give at least one example")


@pytest.mark.parametrize("name", TWO_ARRAYS + OVER_CLASSES)
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.ones(4), ("weights", "(3,)", "(4,)")),
        (np.ones((3, 1)), ("weights", "(3,)", "(3, 1)")),
        (1.0, ("weights", "(3,)", "()")),
        ([1.0, -1.0, 1.0], ("weights must be finite and not negative", "index 1: -1.0")),
        ([1.0, np.nan, 1.0], ("weights must be finite and not negative", "nan")),
        ([1.0, np.inf, 1.0], ("weights must be finite and not negative", "inf")),
        ("heavy", ("weights must hold real numbers",)),
        (ONES * 1j, ("weights must hold real numbers", "complex")),
    ],
    ids=["length", "column", "scalar", "negative", "NaN", "infinite", "text", "complex"],
)
def test_weights_that_do_not_fit(name: str, weights: Any, words: tuple[str, ...]) -> None:
    arguments = (ONES, ONES) if name in TWO_ARRAYS else (np.full((3, 4), 0.25), np.zeros(3, int))
    message = refused(name, *arguments, weights=weights)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", TWO_ARRAYS)
def test_an_unknown_reduction(name: str) -> None:
    assert refused(name, ONES, ONES, reduction="average") == (
        "reduction must be one of 'mean', 'sum', 'none'; got 'average'."
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.huber(ONES, ONES, delta=0.0), "delta must be positive"),
        (lambda: losses.huber(ONES, ONES, delta=-1.0), "delta must be positive"),
        (lambda: losses.huber(ONES, ONES, delta=np.nan), "delta must be positive"),
        (lambda: losses.focal_with_logits(ONES, ONES, gamma=-1.0), "gamma must be finite and not negative; got a bad"),
        (lambda: losses.focal_with_logits(ONES, ONES, gamma=np.nan), "gamma must be finite and not negative"),
        (lambda: losses.focal_with_logits(ONES, ONES, gamma=np.inf), "gamma must be finite and not negative"),
        (lambda: losses.focal_with_logits(ONES, ONES, gamma=ONES), "gamma must be one number, shape (); got"),
        (lambda: losses.focal_with_logits_backward(1.0, ONES, ONES, gamma=-1.0), "gamma must be finite"),
        (lambda: losses.cross_entropy_with_logits(Z, [0, 1, 2], label_smoothing=1.5), "label_smoothing must be"),
        (lambda: losses.cross_entropy_with_logits(Z, [0, 1, 2], label_smoothing=-0.1), "label_smoothing must be"),
        (lambda: losses.cross_entropy_with_logits(0.0, 0), "z must have shape (n, k)"),
    ],
)
def test_options_out_of_range(call: Callable[[], Any], words: str) -> None:
    assert words in laws.refusal(call)
    assert words in laws.refusal(jax.jit(call))  # a number is known inside a trace too


CONSTANT = {
    "a third": np.full((5, 3), 1 / 3),
    "ones": np.ones((5, 3)),
    "zeros": np.zeros((5, 3)),
    "one-hot": np.eye(3)[[0, 1, 2, 0, 1]],
}
OF_LABELS = {
    "cross_entropy": losses.cross_entropy,
    "cross_entropy_with_logits": losses.cross_entropy_with_logits,
    "binary_cross_entropy": losses.binary_cross_entropy,
    "binary_cross_entropy_with_logits": losses.binary_cross_entropy_with_logits,
    "focal_with_logits": losses.focal_with_logits,
    "focal, gamma 0": functools.partial(losses.focal_with_logits, gamma=0.0),
}


@pytest.mark.parametrize("labels", CONSTANT)
@pytest.mark.parametrize("name", OF_LABELS)
def test_compiled_constants_change_nothing(name, labels):
    """XLA multiplies the constants of a program beforehand: none of those products may overflow."""
    f = functools.partial(OF_LABELS[name], reduction="none")
    x, t = jnp.asarray(np.random.default_rng(3).uniform(0.1, 0.9, (5, 3))), jnp.asarray(CONSTANT[labels])
    right = np.asarray(f(x, t))
    assert np.isfinite(right).all()
    for found in (
        jax.jit(f)(x, t),
        jax.jit(lambda x: f(x, t))(x),
        jax.jit(lambda t: f(x, t))(t),
        jax.jit(lambda: f(x, t))(),
    ):
        np.testing.assert_allclose(found, right, rtol=1e-5)
