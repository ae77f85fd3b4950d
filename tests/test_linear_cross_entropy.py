"""linear_cross_entropy against its definition: in NumPy for values and gradients, plain JAX for every transform."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fundl.losses import (
    cross_entropy_with_logits,
    linear_binary_cross_entropy,
    linear_cross_entropy,
    linear_cross_entropy_backward,
    sum_and_weight,
)

N, D, K = 22, 4, 17
TILE = (8, 5)  # neither divides: both last tiles overlap
OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "z_loss": {"z_loss": 0.3},
    "softcap": {"softcap": 2.0},
    "weights": {"weights": True},
    "sum": {"weights": True, "reduction": "sum"},
    "all": {"weights": True, "label_smoothing": 0.2, "z_loss": 0.1, "softcap": 3.0, "reduction": "none"},
}


def draw(n=N, d=D, k=K, dtype=np.float64, seed=0):
    r = np.random.default_rng(seed)
    X, W, b = r.normal(size=(n, d)), r.normal(size=(d, k)), r.normal(size=k)
    soft = r.dirichlet(np.ones(k), n)
    labels, weights = r.integers(0, k, n), r.integers(0, 3, n).astype(float)
    return [v.astype(dtype) for v in (X, W, b)] + [labels, soft.astype(dtype), weights.astype(dtype)]


def chosen(name, weights):
    return {k: (weights if v is True else v) for k, v in OPTIONS[name].items()}


def definition(
    c,
    X,
    W,
    b,
    y,
    *,
    weights=None,
    reduction="mean",
    label_smoothing=0.0,
    z_loss=0.0,
    softcap=None,
    digits=np.longdouble,
):
    """Value and gradients for the cotangent c, as the books write them, in float64 (more where numpy has it)."""
    X, W, b = (np.asarray(v, digits) for v in (X, W, b))
    (n, _), k = X.shape, W.shape[1]
    u = X @ W + b
    z = u if softcap is None else softcap * np.tanh(u / softcap)
    m = z.max(axis=1, keepdims=True)
    top = np.arange(k) == z.argmax(axis=1)[:, None]
    s = np.where(top, 0, np.exp(z - m)).sum(axis=1, keepdims=True)
    log_p = (z - m) - np.log1p(s)
    p = np.exp(log_p)
    t = np.eye(k)[y] if y.ndim == 1 else y.astype(digits)
    t = (1 - label_smoothing) * t + label_smoothing / k
    lse = m[:, 0] + np.log1p(s[:, 0])
    L = -np.where(t == 0, 0, t * log_p).sum(axis=1) + z_loss * lse**2
    w = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    factor = {"mean": w / w.sum(), "sum": w, "none": w}[reduction]
    J = factor * L if reduction == "none" else (factor * L).sum()
    dL = factor * c
    p_minus_1 = np.where(top, -s / (1 + s), p - 1)
    slope = p * (t.sum(axis=1, keepdims=True) - t) + t * p_minus_1 + 2 * z_loss * lse[:, None] * p
    slope = slope if softcap is None else slope * (1 - np.tanh(u / softcap) ** 2)
    dz = dL[:, None] * slope
    return J, (dz @ W.T, X.T @ dz, dz.sum(axis=0), -dL[:, None] * (1 - label_smoothing) * log_p)


def plain(X, W, b, y, *, weights=None, reduction="mean", label_smoothing=0.0, z_loss=0.0, softcap=None):
    """The same in plain JAX, for its autodiff."""
    z = jnp.matmul(X, W, precision="highest") + (0 if b is None else jnp.expand_dims(b, 0))
    if softcap is not None:
        z = softcap * jnp.tanh(z / softcap)
    t = jax.nn.one_hot(y, z.shape[1], dtype=z.dtype) if y.ndim == 1 else y
    t = (1 - label_smoothing) * t + label_smoothing / z.shape[1]
    L = -jnp.sum(t * jax.nn.log_softmax(z), axis=1) + z_loss * jax.nn.logsumexp(z, axis=1) ** 2
    w = jnp.ones_like(L) if weights is None else jnp.asarray(weights)
    return w * L if reduction == "none" else jnp.sum(w * L) / (1 if reduction == "sum" else jnp.sum(w))


def close(found, expected, ulps=64):
    """Within some rounding errors of the largest entry, whatever the size of the array."""
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(found) == len(expected)
    for a, e in zip(found, expected, strict=True):
        eps = jnp.finfo(a.dtype).eps
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        assert a.shape == e.shape
        np.testing.assert_array_equal(np.isnan(a), np.isnan(e))
        finite = np.isfinite(e)
        np.testing.assert_array_equal(a[~finite], e[~finite])
        if finite.any():
            scale = max(np.abs(e[finite]).max(), np.finfo(np.float32).tiny)
            assert np.abs(a - e)[finite].max() <= ulps * eps * scale


def cotangent(shape, seed=5):
    return np.random.default_rng(seed).normal(size=shape)


# ---- values and hand-written gradients -----------------------------------------------------------------------------


def cases(everything):
    """All options with classes and two with soft labels; the others are slow."""
    for name in OPTIONS:
        yield pytest.param(name, False, id=name, marks=() if everything or name == "all" else pytest.mark.slow)
        yield pytest.param(name, True, id=f"{name}-soft", marks=() if name == "all" else pytest.mark.slow)


@pytest.mark.parametrize(("name", "soft"), list(cases(everything=True)))
def test_value_and_backward_are_the_definition(name, soft):
    X, W, b, labels, t, weights = draw()
    y, options = (t if soft else labels), chosen(name, weights)
    c = cotangent((N,) if options.get("reduction") == "none" else ())

    @jax.jit
    def both(c, X, W, b, y):
        value = linear_cross_entropy(X, W, b, y, tile=TILE, **options)
        return value, linear_cross_entropy_backward(c, X, W, b, y, tile=TILE, **options)

    J, gradients = definition(c, X, W, b, y, **options)
    found = both(c, X, W, b, y)
    close(found, (J, gradients[: 4 if soft else 3]))
    assert [g.dtype for g in found[1]] == [v.dtype for v in (X, W, b, y)[: len(found[1])]]


@pytest.mark.slow
@pytest.mark.parametrize("tile", [(1, 1), (22, 17), (22, 5), (11, 17), (2, 16), (100, 100), None], ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["classes", "soft"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_tiling_gives_the_same(name, soft, tile):
    X, W, b, labels, t, weights = draw()
    y, options = (t if soft else labels), chosen(name, weights)
    c = cotangent((N,) if options.get("reduction") == "none" else ())
    J, gradients = definition(c, X, W, b, y, **options)
    close(linear_cross_entropy(X, W, b, y, tile=tile, **options), J)
    close(linear_cross_entropy_backward(c, X, W, b, y, tile=tile, **options), gradients[: 4 if soft else 3])


def test_without_bias():
    X, W, _, y, _, _ = draw()
    J, (dX, dW, *_) = definition(1.0, X, W, np.zeros(K), y)
    close(linear_cross_entropy(X, W, None, y, tile=TILE), J)
    close(linear_cross_entropy_backward(1.0, X, W, None, y, tile=TILE), (dX, dW))
    close(jax.grad(lambda W: linear_cross_entropy(X, W, None, y, tile=TILE))(jnp.asarray(W)), dW)


def test_float32_is_no_worse_than_the_plain_form():
    # Large enough that the products of tiles and of the whole are done by the same kernel.
    X, W, b, y, _, _ = draw(512, 256, 4096, np.float32)
    W, c = W / np.float32(16), np.ones(512, np.float32)
    J, gradients = definition(c, X, W, b, y, reduction="none", digits=np.float64)

    def tiled(*a):
        return linear_cross_entropy(*a, y, reduction="none")

    def whole(*a):
        return cross_entropy_with_logits(
            jnp.matmul(a[0], a[1], precision="highest") + jnp.expand_dims(a[2], 0), y, reduction="none"
        )

    def errors(f):
        value, pull = jax.vjp(f, *map(jnp.asarray, (X, W, b)))
        pairs = zip((value, *pull(jnp.asarray(c))), (J, *gradients), strict=False)
        return np.array([np.sqrt(np.mean((np.asarray(a, np.float64) - e) ** 2)) for a, e in pairs], float)

    assert (errors(tiled) <= 1.1 * errors(whole)).all()


def test_digits_of_a_confident_class_survive():
    X, W = np.eye(2, dtype=np.float32), np.array([[0, 0, 40, 0, 0], [-40, 0, 0, 0, 0]], np.float32)
    b, y = np.zeros(5, np.float32), np.array([2, 1])
    J, gradients = definition(np.ones(2), X, W, b, y, reduction="none")
    for tile in ((1, 1), (2, 2), (2, 5)):  # the largest logit comes last, within and first
        value = linear_cross_entropy(X, W, b, y, reduction="none", tile=tile)
        assert abs(np.asarray(value, float) / np.asarray(J, float) - 1).max() < 1e-6
        dX, _, db = linear_cross_entropy_backward(np.ones(2), X, W, b, y, reduction="none", tile=tile)
        np.testing.assert_allclose(np.asarray(dX, float)[0], gradients[0].astype(float)[0], rtol=1e-6)
        close(db, gradients[2])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_summed_in_float32(dtype):
    X, W, b, y, _, _ = draw(64, 32, 300, np.float32)
    X, W, b = (jnp.asarray(v).astype(dtype) for v in (X, W, b))
    args = [np.asarray(v, np.float64) for v in (X, W, b)]
    J, gradients = definition(1.0, *args, y)
    value, found = jax.value_and_grad(lambda *a: linear_cross_entropy(*a, y, tile=(24, 64)), (0, 1, 2))(X, W, b)
    assert value.dtype == jnp.float32
    assert abs(float(value) - float(J)) < 1e-6 * abs(float(J)) * 8  # the products are exact, the sums float32
    assert all(g.dtype == dtype for g in found)
    close(found, gradients[:3], ulps=2)


# ---- transforms ----------------------------------------------------------------------------------------------------


@pytest.mark.large
@pytest.mark.parametrize(("name", "soft"), list(cases(everything=False)))
def test_every_derivative_is_that_of_the_plain_form(name, soft):
    X, W, b, labels, t, weights = draw()
    y, options = (t if soft else labels), chosen(name, weights)
    args = tuple(map(jnp.asarray, (X, W, b, y)[: 4 if soft else 3]))
    c = cotangent((N,)) if options.get("reduction") == "none" else np.float64(1.5)
    direction = tuple(jnp.asarray(cotangent(v.shape, i)) for i, v in enumerate(args))

    def derivatives(loss, **more):
        def f(*a):
            return loss(*a, *(() if soft else (jnp.asarray(y),)), **options, **more)

        def J(*a):
            return jnp.sum(c * f(*a))

        gradient = jax.grad(J, tuple(range(len(args))))

        def along(*a):
            return sum(jnp.sum(g * v) for g, v in zip(gradient(*a), direction, strict=True))

        return jax.jit(
            lambda: (
                jax.value_and_grad(J, tuple(range(len(args))))(*args),
                jax.jvp(f, args, direction),
                jax.jvp(gradient, args, direction)[1],
                jax.grad(along, tuple(range(len(args))))(*args),
            )
        )()

    for found, expected in zip(derivatives(linear_cross_entropy, tile=TILE), derivatives(plain), strict=True):
        close(found, expected, ulps=256)


def test_jacfwd():
    X, W, b, y, _, _ = map(jnp.asarray, draw())
    found = jax.jit(jax.jacfwd(lambda b: linear_cross_entropy(X, W, b, y, tile=TILE)))(b)
    close(found, definition(1.0, X, W, b, np.asarray(y))[1][2])


@pytest.mark.slow
def test_hessian():
    X, W, b, y, _, _ = map(jnp.asarray, draw())

    def tiled(b):
        return linear_cross_entropy(X, W, b, y, tile=TILE)

    def whole(b):
        return plain(X, W, b, y)

    close(jax.jit(jax.hessian(tiled))(b), jax.hessian(whole)(b))


@pytest.mark.large
def test_derivative_of_the_options():
    X, W, b, y, _, weights = map(jnp.asarray, draw())

    def tiled(w, a, z):
        return linear_cross_entropy(X, W, b, y, weights=w, label_smoothing=a, z_loss=z, tile=TILE)

    def whole(w, a, z):
        return plain(X, W, b, y, weights=w, label_smoothing=a, z_loss=z)

    at = weights + 1, jnp.asarray(0.1), jnp.asarray(0.2)
    close(jax.grad(tiled, (0, 1, 2))(*at), jax.grad(whole, (0, 1, 2))(*at))


@pytest.mark.large
@pytest.mark.parametrize("over", [pytest.param("data", marks=pytest.mark.slow), "models"])
def test_vmap(over):
    X, W, b, y, _, _ = map(jnp.asarray, draw())
    args = (jnp.stack([X, 2 * X, X * X]), W, b) if over == "data" else (X, jnp.stack([W, -W, W * W]), b)

    def mapped(f):
        g = jax.value_and_grad(lambda X, W, b: f(X, W, b, y), (0, 1, 2))
        return jax.jit(jax.vmap(g, (0, None, None) if over == "data" else (None, 0, None)))(*args)

    close(mapped(lambda *a: linear_cross_entropy(*a, tile=TILE)), mapped(plain))


def test_the_gradient_of_what_vmapped_lanes_share_is_their_sum():
    X, W, b, y, _, _ = map(jnp.asarray, draw())
    Xs = jnp.stack([X, 2 * X, X * X])

    def total(f):
        return jax.jit(jax.grad(lambda W: jnp.sum(jax.vmap(lambda X: f(X, W, b, y))(Xs))))(W)

    close(total(lambda *a: linear_cross_entropy(*a, tile=TILE)), total(plain))


@pytest.mark.large
def test_micro_batches_add_up():
    X, W, b, y, _, weights = draw()
    whole = linear_cross_entropy(X, W, b, y, weights=weights)
    parts = [
        sum_and_weight(linear_cross_entropy, X[i : i + 7], W, b, y[i : i + 7], weights=weights[i : i + 7])
        for i in range(0, N, 7)
    ]
    close(sum(p[0] for p in parts) / sum(p[1] for p in parts), whole)


# ---- edges and refusals --------------------------------------------------------------------------------------------


def test_masked_classes_and_whole_masked_tiles():
    X, W, b, _, _, _ = draw()
    b = np.where(np.arange(K) < 11, -np.inf, b)  # the first two tiles of five classes hold nothing
    y = np.random.default_rng(1).integers(11, K, N)
    J, gradients = definition(np.ones(N), X, W[:, 11:], b[11:], y - 11, reduction="none")
    close(linear_cross_entropy(X, W, b, y, reduction="none", tile=TILE), J)
    dX, dW, db = linear_cross_entropy_backward(np.ones(N), X, W, b, y, reduction="none", tile=TILE)
    close((dX, dW[:, 11:], db[11:]), gradients[:3])
    assert not np.asarray(dW[:, :11]).any()
    t = np.where(np.arange(K) == y[:, None], 1.0, 0.0)
    close(linear_cross_entropy(X, W, b, t, reduction="none", tile=TILE), J)


@pytest.mark.large
@pytest.mark.parametrize("soft", [False, True], ids=["classes", "soft"])
def test_weight_0_leaves_out_nan_rows_and_ignored_labels(soft):
    X, W, b, labels, t, _ = draw()
    weights = np.where(np.arange(N) % 3 == 0, 0.0, 1.5)
    out, kept = weights == 0, weights > 0
    y = np.where(out[:, None], np.nan, t) if soft else np.where(out, -100, labels)
    bad = np.where(out[:, None], np.nan, X)
    options = {"weights": weights, "z_loss": 0.1, "label_smoothing": 0.1}
    J, (dX, dW, db, dy) = definition(1.0, X[kept], W, b, (t if soft else labels)[kept], z_loss=0.1, label_smoothing=0.1)
    found = jax.jit(lambda *a: linear_cross_entropy_backward(1.0, *a, tile=TILE, **options))(bad, W, b, y)
    close(linear_cross_entropy(bad, W, b, y, tile=TILE, **options), J)
    close(found[1:3], (dW, db))
    close(found[0][kept], dX)
    assert not np.asarray(found[0])[out].any()
    if soft:
        close(found[3][kept], dy)
    auto = jax.grad(lambda X: linear_cross_entropy(X, W, b, y, tile=TILE, **options))(jnp.asarray(bad))
    close(auto, found[0])


def test_all_weights_0_is_0():
    X, W, b, y, _, _ = draw()
    value, g = jax.value_and_grad(lambda W: linear_cross_entropy(X, W, b, y, weights=np.zeros(N)))(jnp.asarray(W))
    assert value == 0
    assert not np.asarray(g).any()


def test_infinite_logits_and_labels_on_masked_classes():
    X, W, b = np.ones((1, 1)), np.zeros((1, 4)), np.array([0.0, np.inf, 1.0, -np.inf])
    for tile in ((1, 1), (1, 3), (1, 4)):
        found = [float(linear_cross_entropy(X, W, b, np.array([c]), tile=tile)) for c in range(4)]
        assert found == [np.inf, 0.0, np.inf, np.inf]
    all_masked = linear_cross_entropy(X, W, np.full(4, -np.inf), np.array([0]))
    assert np.isnan(all_masked)


def test_a_single_class_and_a_single_example():
    X, W, b, _, _, _ = draw(1, 3, 1)
    assert float(linear_cross_entropy(X, W, b, np.array([0]))) == 0
    assert not any(np.asarray(g).any() for g in linear_cross_entropy_backward(1.0, X, W, b, np.array([0])))


@pytest.mark.large
def test_labels_out_of_range():
    X, W, b, y, _, _ = draw()
    for wrong in (-1, K, 10**6):
        bad = y.copy()
        bad[3] = wrong
        with pytest.raises(ValueError, match=r"classes in 0..16"):
            linear_cross_entropy(X, W, b, bad)
        found = jax.jit(lambda y: linear_cross_entropy(X, W, b, y, reduction="none", tile=TILE))(bad)
        expected, _ = definition(np.ones(N), X, W, b, y, reduction="none")
        close(found, np.where(np.arange(N) == 3, np.nan, np.asarray(expected, float)))
        dX, *_ = jax.jit(lambda y: linear_cross_entropy_backward(np.ones(N), X, W, b, y, reduction="none"))(bad)
        np.testing.assert_array_equal(np.isnan(np.asarray(dX)).any(axis=1), np.arange(N) == 3)
    t = np.eye(K)[y]
    t[2, 0] = 1.5
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        linear_cross_entropy(X, W, b, t)
    found = jax.jit(lambda t: linear_cross_entropy(X, W, b, t, reduction="none", tile=TILE))(t)
    np.testing.assert_array_equal(np.isnan(np.asarray(found)), np.arange(N) == 2)
    dX, dW, db, dy = jax.jit(lambda t: linear_cross_entropy_backward(np.ones(N), X, W, b, t, reduction="none"))(t)
    assert np.isnan(dW).all()
    assert np.isnan(db).all()
    for found in (dX, dy):
        np.testing.assert_array_equal(np.isnan(found), np.broadcast_to((np.arange(N) == 2)[:, None], found.shape))


@pytest.mark.parametrize("loss", [linear_cross_entropy, linear_binary_cross_entropy])
def test_an_infinite_loss_of_weight_0_is_left_out(loss):
    """Its class is masked by b: no row of X and no label tells."""
    X, W, b, w = np.ones((2, 1)), np.array([[0.5, 1.0, -0.3]]), np.array([-np.inf, 0.0, 0.5]), np.array([0.0, 1.0])
    y = np.array([0, 1]) if loss is linear_cross_entropy else np.array([[1, 1, 0], [0, 1, 0]])
    expected = loss(X[1:], W, b, y[1:])
    assert np.isfinite(expected)
    assert loss(X, W, b, y, weights=w) == expected
    assert np.asarray(loss(X, W, b, y, weights=w, reduction="none")).tolist() == [0.0, float(expected)]
    found = jax.jit(jax.grad(lambda X, W, w: loss(X, W, b, y, weights=w, reduction="sum"), (0, 1, 2)))(X, W, w)
    assert found[0][0] == 0
    close(found[0][1:], jax.grad(lambda X: loss(X, W, b, y[1:]))(X[1:]))
    close(found[1], jax.grad(lambda W: loss(X[1:], W, b, y[1:]))(W))
    close(found[2], np.array([0.0, expected]))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"X": np.ones(D)}, ValueError, r"X must have shape \(n, d\)"),
        ({"W": np.ones((D + 1, K))}, ValueError, "both d"),
        ({"W": np.ones(D)}, ValueError, r"W must have shape"),
        ({"b": np.ones((K, 1))}, ValueError, "b must have one entry"),
        ({"y": np.zeros((N, 1), int)}, ValueError, r"y.reshape"),
        ({"y": np.zeros(N)}, TypeError, "integers"),
        ({"weights": np.ones((N, 1))}, ValueError, "weights must have"),
        ({"weights": -np.ones(N)}, ValueError, "weights must be"),
        ({"reduction": "avg"}, ValueError, "reduction"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing"),
        ({"z_loss": -1.0}, ValueError, "z_loss"),
        ({"softcap": 0.0}, ValueError, "softcap"),
        ({"tile": (0, 5)}, ValueError, "tile"),
        ({"X": np.ones((0, D)), "y": np.zeros(0, int)}, ValueError, "empty"),
        ({"X": "text"}, TypeError, "X must hold"),
    ],
    ids=str,
)
def test_refusals_name_the_argument(change, error, match):
    X, W, b, y, _, _ = draw()
    given = {"X": X, "W": W, "b": b, "y": y, **change}
    options = {k: v for k, v in given.items() if k not in "XWby"}
    args = [given[k] for k in "XWby"]
    with pytest.raises(error, match=match):
        linear_cross_entropy(*args, **options)
    with pytest.raises(error, match=match):
        linear_cross_entropy_backward(1.0, *args, **options)


def test_wrong_cotangent_and_traced_softcap_are_refused():
    X, W, b, y, _, _ = draw()
    with pytest.raises(ValueError, match="dJ must have the shape"):
        linear_cross_entropy_backward(np.ones(N), X, W, b, y)
    with pytest.raises(TypeError, match="softcap is fixed"):
        jax.jit(lambda c: linear_cross_entropy(X, W, b, y, softcap=c))(2.0)


# ---- memory, from the compiled program -----------------------------------------------------------------------------


def compiled(f, n, d, k, dtype=np.float32):
    shapes = [jax.ShapeDtypeStruct(s, dtype) for s in ((n, d), (d, k), (k,))]
    return jax.jit(f).lower(*shapes, jax.ShapeDtypeStruct((n,), np.int32)).compile()


def temporary(f, *size):
    return compiled(f, *size).memory_analysis().temp_size_in_bytes


def gradients_of(loss, **options):
    return jax.value_and_grad(lambda X, W, b, y: loss(X, W, b, y, **options), (0, 1, 2))


def leanest_plain(X, W, b, y):
    z = jnp.matmul(X, W, precision="highest") + jnp.expand_dims(b, 0)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(z, y))


def test_temporary_memory_is_100_times_below_the_plain_form_at_full_size():
    size = 4096, 512, 32768
    whole = temporary(gradients_of(leanest_plain), *size)
    assert whole >= 2 * 4096 * 32768 * 4 * 0.99  # the plain form holds the logits and their gradient
    assert temporary(gradients_of(linear_cross_entropy), *size) * 100 <= whole
    by_hand = temporary(lambda X, W, b, y: linear_cross_entropy_backward(1.0, X, W, b, y), *size)
    assert by_hand * 100 <= whole


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow, id="plain"),
        pytest.param({"label_smoothing": 0.1, "z_loss": 1e-4, "softcap": 30.0}, id="options"),
    ],
)
def test_temporary_memory_does_not_grow_with_the_logits(options):
    def at(n, k):
        return temporary(gradients_of(linear_cross_entropy, **options), n, 64, k)

    once, larger = at(4096, 8192), at(8192, 65536)  # 16 times the logits
    assert larger < 1.5 * once
    assert once < 4096 * 8192 * 4 / 20


def test_logits_that_fit_in_one_tile_are_made_once():
    def products(n, k):
        return len(re.findall(r" dot\(", compiled(gradients_of(linear_cross_entropy), n, 256, k).as_text()))

    assert products(128, 1000) == 3  # the logits, dX and dW
    assert products(1024, 1000) == 4  # the backward pass makes its tiles anew


def test_forward_mode_and_hessian_vector_products_are_lean_too():
    gradient = jax.grad(lambda W, X, b, y: linear_cross_entropy(X, W, b, y))

    def product(X, W, b, y):
        return jax.jvp(lambda W: gradient(W, X, b, y), (W,), (jnp.ones_like(W),))[1]

    def forward(X, W, b, y):
        return jax.jvp(lambda W: linear_cross_entropy(X, W, b, y), (W,), (jnp.ones_like(W),))[1]

    logits = 4096 * 16384 * 4
    assert temporary(forward, 4096, 64, 16384) < logits / 20
    assert temporary(product, 4096, 64, 16384) < logits / 10


def test_weights_cost_no_copy_of_the_data():
    def weighted(X, W, b, y):
        return linear_cross_entropy(X, W, b, y, weights=y != 0)

    extra = temporary(gradients_of(weighted), 4096, 512, 8192) - temporary(
        gradients_of(linear_cross_entropy), 4096, 512, 8192
    )
    assert extra < 4096 * 512 * 4 / 4


# ---- meshes --------------------------------------------------------------------------------------------------------

KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
SPLITS = {"rows": ((8, 1), "data", None), "classes": ((1, 8), None, "model"), "both": ((4, 2), "data", "model")}


def on_mesh(kind, split, soft, options):
    shape, rows, columns = SPLITS[split]
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(KINDS[kind],) * 2)
    X, W, b, labels, t, weights = draw(64, 6, 48)
    y = t if soft else labels
    specs = P(rows, None), P(None, columns), P(columns), P(rows, columns) if soft else P(rows)
    placed = [jax.device_put(v, NamedSharding(mesh, s)) for v, s in zip((X, W, b, y), specs, strict=True)]
    w = jax.device_put(weights, NamedSharding(mesh, P(rows)))
    which = (0, 1, 2, 3) if soft else (0, 1, 2)

    def tiled(*a):
        return linear_cross_entropy(*a, weights=w, tile=(6, 5), **options)

    J, gradients = definition(1.0, X, W, b, y, weights=weights, **options)
    expected = (J, gradients[: len(which)])
    close(jax.jit(jax.value_and_grad(tiled, which))(*placed), expected)
    by_hand = jax.jit(lambda *a: linear_cross_entropy_backward(1.0, *a, weights=w, tile=(6, 5), **options))(*placed)
    close(by_hand, expected[1])
    if kind == "explicit":
        assert [jax.typeof(g).sharding.spec for g in by_hand] == [
            jax.typeof(v).sharding.spec for v in placed[: len(which)]
        ]
    return placed, tiled


@pytest.mark.large
@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_classes_split_over_eight_devices(kind):
    on_mesh(kind, "both", False, {"z_loss": 0.1})


@pytest.mark.large
def test_soft_labels_on_split_classes():
    on_mesh("explicit", "classes", True, {"label_smoothing": 0.1})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("soft", [False, True], ids=["classes", "soft"])
def test_every_split_and_its_hessian_vector_product(kind, split, soft):
    (X, W, b, y), tiled = on_mesh(kind, split, soft, {"z_loss": 0.1, "label_smoothing": 0.1, "softcap": 3.0})
    v = jnp.sin(W)
    product = jax.jit(lambda W, v: jax.jvp(jax.grad(lambda W: tiled(X, W, b, y)), (W,), (v,))[1])(W, v)
    twice = jax.jit(jax.grad(lambda W, v: jnp.sum(jax.grad(lambda W: tiled(X, W, b, y))(W) * v)))(W, v)
    host = [jnp.asarray(np.asarray(u)) for u in (X, W, b, y, v)]
    weights = draw(64, 6, 48)[5]
    options = {"z_loss": 0.1, "label_smoothing": 0.1, "softcap": 3.0, "weights": weights}
    gradient = jax.grad(lambda W: plain(host[0], W, host[2], host[3], **options))
    expected = jax.jvp(gradient, (host[1],), (host[4],))[1]
    close((product, twice), (expected, expected), ulps=256)


def test_inside_the_users_own_shard_map():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    X, W, b, y, _, _ = draw(64, 6, 48)

    def step(X, W, b, y):
        def J(W, b):
            return jax.lax.pmean(linear_cross_entropy(X, W, b, y, tile=(3, 7)), "data")

        return jax.value_and_grad(J, (0, 1))(W, b)

    found = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(P("data"), P(), P(), P("data")), out_specs=P()))(
        X, W, b, y
    )
    J, (_, dW, db, _) = definition(1.0, X, W, b, y)
    close(found, (J, (dW, db)))


def test_no_penalty_is_no_nan_where_the_square_of_the_logits_overflows():
    X, W, y = jnp.full((2, 1), 1e20, jnp.float32), jnp.array([[1.0, 2.0]], jnp.float32), jnp.array([0, 1])
    found = jax.jit(lambda z_loss: linear_cross_entropy(X, W, None, y, z_loss=z_loss, reduction="none"))(0.0)
    np.testing.assert_allclose(found, [1e20, 0.0], rtol=1e-6)
