"""Refusals themselves: which dtype arrays are given, what is looked at when, and what the messages say."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import laws
from fundl import (
    _check,
    activations,
    linear_regression,
    logistic_regression,
    losses,
    norms,
    softmax_regression,
    sweep,
)  # fmt: skip

F16, BF16, F32, F64 = (jnp.zeros(1, t) for t in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64))
INTEGERS = jnp.zeros(1, jnp.int32)


@pytest.mark.parametrize(
    ("arrays", "dtype"),
    [
        ((F32,), "float32"),
        ((F32, F64), "float64"),
        ((F64, INTEGERS), "float64"),
        ((F32, INTEGERS, jnp.asarray(1.0)), "float32"),  # a Python number takes the dtype beside it
        ((F16,), "float16"),
        ((BF16,), "bfloat16"),
        ((BF16, F16), "float32"),  # neither holds the other
        ((BF16, F32), "float32"),
        ((INTEGERS,), "float64"),  # jax's default float
    ],
)
def test_common_dtype(arrays: tuple[Any, ...], dtype: str) -> None:
    assert _check.common_dtype(*arrays) == dtype
    assert _check.compute_dtype(*arrays) == ("float32" if dtype in ("float16", "bfloat16") else dtype)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ("abc", "x must hold real numbers; got str 'abc'. Give an array."),
        (None, "x must hold real numbers; got NoneType None. Give an array."),
        (np.array(["a"]), "x must hold real numbers; got an array of dtype <U1. Encode text or objects as numbers."),
        (
            jnp.zeros(1, complex),
            "x must hold real numbers; got complex128. Pass the real and imaginary parts as columns.",
        ),
    ],
)
def test_what_is_no_real_number(x: Any, words: str) -> None:
    with pytest.raises(TypeError) as error:
        _check.array("x", x)
    assert str(error.value) == words


def test_text_that_looks_like_a_number_is_text() -> None:
    assert "must hold real numbers" in laws.refusal(lambda: _check.array("x", "1.5"))
    assert "must hold real numbers" in laws.refusal(lambda: _check.array("x", ["1.5"]))


X, Y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])
REFUSED = [
    (lambda: activations.gelu(X, approximate="none"), "approximate must be True or False; got 'none'."),
    (lambda: activations.gelu_backward(X, X, approximate="tanh"), "approximate must be True or False; got 'tanh'."),
    (lambda: activations.elu(X, alpha=[1.0, 2.0]), "alpha must be one number, shape (); got shape (2,)."),
    (lambda: activations.leaky_relu(X, negative_slope="x"), "negative_slope must hold real numbers; got str 'x'."),
    (lambda: activations.softmax(X, axis=(0, 1)), "axis must be one whole number; got (0, 1)."),
    (lambda: norms.l2(X, axis=1.0), "axis must be a whole number, a tuple of them, or None for all; got 1.0."),
    (lambda: losses.cross_entropy_with_logits(X, Y, label_smoothing=np.nan), "label_smoothing must be a share in"),
    (lambda: losses.linear_cross_entropy(X, X.T, None, Y, softcap=np.inf), "softcap must be finite; got inf."),
    (
        lambda: losses.linear_cross_entropy(X, X.T, None, Y, softcap=jnp.array([3.0, 4.0])),
        "softcap must be one number, shape (); got shape (2,).",
    ),
    (
        lambda: losses.linear_cross_entropy(X, X.T, None, Y, tile=(True, 1)),
        "tile must be two positive whole numbers, examples and classes per tile; got (True, 1).",
    ),
    (lambda: logistic_regression.fit(X, Y, l2=1.0, intercept="no"), "intercept must be True or False; got 'no'."),
    (lambda: softmax_regression.fit(X, Y, l2=1.0, intercept=None), "intercept must be True or False; got None."),
    (lambda: linear_regression.fit(X, Y, intercept="no"), "intercept must be True or False; got 'no'."),
    (lambda: sweep.linear(X, Y, l2=1.0, intercept="no"), "intercept must be True or False; got 'no'."),
    (lambda: logistic_regression.fit(X, Y, l2=1.0, max_steps=1.5), "max_steps must be a whole number, at least 1;"),
    (lambda: sweep.logistic(X, Y, l2=1.0, max_steps=0), "max_steps must be a whole number, at least 1; got 0."),
    (lambda: sweep.softmax(X, Y, num_classes=2, max_steps=None), "max_steps must be a whole number, at least 1; got"),
    (lambda: logistic_regression.fit(X, Y, max_steps="3"), "max_steps must be a whole number, at least 1; got '3'."),
    (lambda: logistic_regression.fit(X, Y, max_steps=np.nan), "max_steps must be a whole number, at least 1; got nan."),
    (lambda: logistic_regression.fit(X, Y, max_steps=np.inf), "max_steps must be a whole number, at least 1; got inf."),
    (lambda: logistic_regression.fit(X, Y, max_steps=np.array([3, 4])), "max_steps must be a whole number, at least 1"),
    (lambda: logistic_regression.fit(X, Y, l2=np.complex64(1)), "l2 must hold real numbers; got complex64."),
    (lambda: logistic_regression.fit(X, Y, l2={}), "l2 must hold real numbers; got dict {}."),
    (lambda: logistic_regression.fit(X, Y, l2=np.inf), "l2 must be finite (a large one gives w = 0); got a bad value:"),
    (lambda: logistic_regression.fit(X, Y, l1=np.inf), "l1 must be finite"),
    (lambda: softmax_regression.fit(X, Y, l2=np.inf), "l2 must be finite"),
    (lambda: linear_regression.fit(X, Y, l2=np.inf), "l2 must be finite"),
    (lambda: linear_regression.ridge_path(X, Y, [1.0, np.inf]), "l2 must be finite (a large one gives w = 0); got"),
    (lambda: logistic_regression.fit_batches([(X, Y)], l2=np.inf), "l2 must be finite"),
    (lambda: sweep.logistic(X, Y, l2=[1.0, np.inf]), "l2 must be finite"),
    (lambda: sweep.logistic(X, Y, l1=[1.0, np.inf]), "l1 must be finite"),
    (lambda: softmax_regression.fit(X, Y + 2**40), f"y must hold classes 0, 1, ...; got {2**40 + 1}, which would make"),
    (lambda: softmax_regression.fit(X, Y, num_classes=2.5), "num_classes must be a whole number, at least 1; got 2.5."),
]


def test_arrays_of_numpy_that_jax_would_read_otherwise() -> None:
    masked = np.ma.masked_greater(X, 5)
    for fit in (linear_regression.fit, logistic_regression.fit, softmax_regression.fit):
        with pytest.raises(TypeError, match="X is a masked array"):
            fit(masked, Y, l2=1.0)
        right = fit(X, Y, l2=1.0).params.w
        for same in (X.view(np.matrix), X.astype(">f8"), np.ma.masked_greater(X, 50)):
            np.testing.assert_allclose(fit(same, Y, l2=1.0).params.w, right, rtol=1e-12)


def test_labels_beyond_the_integers_are_named() -> None:
    y = np.where(np.arange(4) == 2, 2**32 + 1, Y)
    with jax.enable_x64(False):
        for call in (
            lambda: softmax_regression.fit(X, y),
            lambda: losses.cross_entropy_with_logits(X, y),
            lambda: losses.linear_cross_entropy(X, X.T, None, y),
        ):
            words = laws.refusal(call)
            assert words.startswith("y must hold classes 0, 1, ...; got ")
            assert "4294967297" in words


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_options_that_are_none(call: Any, words: str) -> None:
    assert words in laws.refusal(call)


def test_a_tile_of_numpy_integers_is_one_of_whole_numbers() -> None:
    want = losses.linear_cross_entropy(X, X.T, None, Y, tile=(1, 2))
    assert losses.linear_cross_entropy(X, X.T, None, Y, tile=(np.int64(1), np.int32(2))) == want


def test_same_shape_names_both_and_the_fix() -> None:
    column = laws.refusal(lambda: _check.same_shape(a=jnp.zeros(3), b=jnp.zeros((3, 1))))
    assert column == "a has shape (3,) but b has shape (3, 1). Reshape one of them, for example b.reshape(a.shape)."
    length = laws.refusal(lambda: _check.same_shape(a=jnp.zeros(3), b=jnp.zeros(4)))
    assert length == "a has shape (3,) but b has shape (4,). a and b need one entry for each other."
    _check.same_shape(a=jnp.zeros(3), b=jnp.ones(3))


def test_examples() -> None:
    assert _check.examples(X=jnp.zeros((4, 2)), y=jnp.zeros(4)) == 4
    words = laws.refusal(lambda: _check.examples(X=jnp.zeros((4, 2)), y=jnp.zeros(3)))
    assert words == "The first axes must be equal, one row for each example; got X (4, 2), y (3,)."
    assert "X is empty: shape (0, 2)" in laws.refusal(lambda: _check.examples(X=jnp.zeros((0, 2)), y=jnp.zeros(0)))


def test_concrete_weights_are_refused_and_traced_ones_are_nan() -> None:
    def f(w: Any) -> Any:
        return _check.per_example_weights(w, (2,), jnp.dtype("float64"))

    words = laws.refusal(lambda: f([1.0, -1.0]))
    assert words == "weights must be finite and not negative; got a bad value at index 1: -1.0."
    for bad in (-1.0, np.nan, np.inf):  # which then poisons its own example
        assert np.isnan(jax.jit(f)(jnp.array([1.0, bad]))).tolist() == [False, True]
    assert np.isnan(jax.vmap(f)(jnp.array([[1.0, -1.0]]))).tolist() == [[False, True]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("bad", [1e300, 1e-300])
def test_weights_beyond_the_range_of_the_data_are_named(bad: float, x64: bool) -> None:
    x, y = X.astype(np.float32), Y.astype(np.float32)
    w = np.array([0.0, bad, 0.0, bad])
    with jax.enable_x64(x64):
        if bad < 1:  # beside others such a weight is none
            some = [losses.mse(y, 2 * y, weights=np.add(w, [0, 0, 1, v])) for v in (0, bad)]
            assert some[0] == some[1] == y[2] ** 2
        for call in (
            lambda w: losses.mse(y, y, weights=w),
            lambda w: losses.linear_cross_entropy(x, x.T, None, Y, weights=w),
            lambda w: logistic_regression.fit(x, Y, weights=w),
            lambda w: softmax_regression.fit(x, Y, weights=w),
            lambda w: jax.eval_shape(lambda x: linear_regression.fit(x, y, weights=np.asarray(w)), x),
        ):
            for given in (w, w.tolist(), jnp.asarray(w)) if x64 else (w, w.tolist()):
                words = laws.refusal(functools.partial(call, given))
                assert words.startswith("weights must be within the range of float32, which the data have: scale")
                assert words.endswith(f"got a bad value at index 1: {bad}.")


def test_a_constant_inside_a_trace_is_still_concrete() -> None:
    def f(x: Any) -> Any:
        _check.positive("delta", -1.0)
        return x

    assert "delta must be positive" in laws.refusal(lambda: jax.jit(f)(1.0))


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_positive(value: float) -> None:
    assert laws.refusal(lambda: _check.positive("delta", value)).startswith("delta must be positive; got a bad value")


@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_nonnegative(value: float) -> None:
    assert laws.refusal(lambda: _check.nonnegative("l2", value)).startswith("l2 must not be negative or NaN; got")
    _check.nonnegative("l2", 0.0)


def test_labels() -> None:
    y = jnp.array([0, 2, -1])
    assert _check.labels("y", y, 3, jnp.array([1.0, 1.0, 0.0])).tolist() == [0, 2, 0]  # weight 0 may hold anything
    words = laws.refusal(lambda: _check.labels("y", y, 3))
    assert words == "y must hold classes in 0..2; got a bad value at index 2: -1."
    assert _check.labels("y", jnp.array([1], jnp.int8), 300).dtype == jnp.int32
    with pytest.raises(TypeError, match=r"y of shape \(2,\) holds class labels and must be integers; got float64"):
        _check.labels("y", jnp.zeros(2), 3)


def test_finite() -> None:
    X = jnp.array([[1.0, 2.0], [np.nan, 3.0]])
    words = laws.refusal(lambda: _check.finite("X", X))
    assert words == (
        "X must be finite (give such rows weight 0 to leave them out); got a bad value at index (1, 0): nan."
    )
    _check.finite("X", X, jnp.array([1.0, 0.0]))
    assert "X must be finite" in laws.refusal(lambda: _check.finite("X", X, jnp.array([0.0, 1.0])))


def test_unit_interval() -> None:
    x = jnp.array([0.0, 1.0, np.nan])
    _check.unit_interval("p", x, "probabilities")
    words = laws.refusal(lambda: _check.unit_interval("p", jnp.array([1.5]), "probabilities"))
    assert words == "p must hold probabilities in [0, 1]; got a bad value at index 0: 1.5."


def test_choice() -> None:
    assert laws.refusal(lambda: _check.choice("method", "magic", ("a", "b"))) == (
        "method must be one of 'a', 'b'; got 'magic'."
    )


def test_a_long_thing_is_cut_short() -> None:
    assert len(laws.refusal(lambda: _check.array("x", "a" * 1000))) < 160


def test_integers_too_large_for_jax_are_not_other_integers():
    with jax.enable_x64(False):
        big = np.array([2**32, 2**31])
        assert losses.mse(big, np.array([0, 0])) == pytest.approx((2.0**64 + 2.0**62) / 2, rel=1e-6)
        assert losses.l1(np.array([-3, 2**31 - 1]), np.array([0, 0])) == pytest.approx((3 + 2.0**31) / 2, rel=1e-6)
        with pytest.raises(ValueError, match="4294967297"):
            losses.cross_entropy_with_logits(jnp.zeros((1, 2), jnp.float32), np.array([2**32 + 1]))
        with pytest.raises(TypeError, match="give floats"):
            losses.mse([2**40], [0.0])


def test_a_whole_fit_is_no_params():
    fit = linear_regression.fit([[0.0], [1.0]], [0.0, 1.0])
    for model in (linear_regression, logistic_regression, softmax_regression):
        with pytest.raises(TypeError, match=r"got Fit: give its \.params"):
            model.predict(fit, jnp.ones((1, 1)))
