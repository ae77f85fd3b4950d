"""Operations with right hand-written backwards, on which wrong ones are made on purpose; imports no fundl.

Each is (f, backward, arguments): plain functions as users write them, so the examiner meets other people's styles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["EQUIVALENT", "OPERATIONS", "Operation"]


class Operation(NamedTuple):
    f: Callable[..., Any]
    backward: Callable[..., Any]
    sample: Callable[[np.random.Generator], tuple[np.ndarray, ...]]
    options: dict[str, Any]


OPERATIONS: dict[str, Operation] = {}
# Mutants that compute the same function, and why; "*" stands for every mutant of that operation with this beginning.
EQUIVALENT: dict[tuple[str, str], str] = {}


def normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], tuple[np.ndarray, ...]]:
    return lambda rng: tuple(rng.standard_normal(s) for s in shapes)


def operation(sample: Callable[[np.random.Generator], tuple[np.ndarray, ...]], **options: Any) -> Callable[..., Any]:
    """Register the pair of functions that the decorated function returns."""

    def register(pair: Callable[[], tuple[Callable[..., Any], Callable[..., Any]]]) -> Callable[..., Any]:
        f, backward = pair()
        OPERATIONS[pair.__name__] = Operation(f, backward, sample, options)
        return pair

    return register


def with_labels(n: int, k: int) -> Callable[[np.random.Generator], tuple[np.ndarray, ...]]:
    return lambda rng: (rng.standard_normal((n, k)), np.resize(np.arange(k), n).astype(np.int32))


def sig(x: Any) -> Any:
    e = jnp.exp(-jnp.abs(x))
    return jnp.where(x >= 0, 1 / (1 + e), e / (1 + e))


def soft(z: Any) -> Any:
    e = jnp.exp(z - jnp.max(z, axis=-1, keepdims=True))
    return e / jnp.sum(e, axis=-1, keepdims=True)


def onehot(y: Any, z: Any) -> Any:
    return (y[..., None] == jnp.arange(z.shape[-1], dtype=y.dtype)[None]).astype(z.dtype)


@operation(normal((5, 3), (3, 4), (4,)))
def linear():
    return (lambda X, W, b: X @ W + b[None]), (lambda dz, X, W, b: (dz @ W.T, X.T @ dz, jnp.sum(dz, axis=0)))


@operation(normal((5, 3), (3,), (3,)))
def scale_shift():
    def f(x, g, b):
        return x * g[None] + b[None]

    return f, lambda dy, x, g, b: (dy * g[None], jnp.sum(dy * x, axis=0), jnp.sum(dy, axis=0))


@operation(normal((4, 6), (6,), (6,)))
def layer_norm():
    def parts(x):
        c = x - jnp.mean(x, axis=-1, keepdims=True)
        r = jax.lax.rsqrt(jnp.mean(c * c, axis=-1, keepdims=True) + 1e-5)
        return c * r, r

    def f(x, g, b):
        return parts(x)[0] * g[None] + b[None]

    def backward(dy, x, g, b):
        h, r = parts(x)
        dh = dy * g[None]
        dx = r * (dh - jnp.mean(dh, axis=-1, keepdims=True) - h * jnp.mean(dh * h, axis=-1, keepdims=True))
        return dx, jnp.sum(dy * h, axis=0), jnp.sum(dy, axis=0)

    return f, backward


@operation(normal((4, 6), (6,)))
def rms_norm():
    def f(x, g):
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * g[None]

    def backward(dy, x, g):
        r = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
        dh = dy * g[None]
        dx = r * (dh - x * r * r * jnp.mean(dh * x, axis=-1, keepdims=True))
        return dx, jnp.sum(dy * x * r, axis=0)

    return f, backward


@operation(normal((4, 3), (5, 3), (5, 2)))
def attention():
    def f(q, k, v):
        return soft(q @ k.T * (q.shape[-1] ** -0.5)) @ v

    def backward(dy, q, k, v):
        s = q.shape[-1] ** -0.5
        p = soft(q @ k.T * s)
        dp = dy @ v.T
        dz = p * (dp - jnp.sum(p * dp, axis=-1, keepdims=True)) * s
        return dz @ k, dz.T @ q, p.T @ dy

    return f, backward


@operation(lambda rng: (rng.standard_normal((6, 3)), np.array([0, 5, 2, 2, 1], np.int32)))
def embedding():
    return (lambda E, i: E[i]), (lambda dy, E, i: jnp.zeros_like(E).at[i].add(dy))


@operation(normal((4,), (5,)))
def outer_sum():
    return (lambda a, b: a[:, None] + b[None]), (lambda dy, a, b: (jnp.sum(dy, axis=1), jnp.sum(dy, axis=0)))


@operation(normal((4, 3)))
def relu():
    return (lambda x: jnp.maximum(x, 0)), (lambda dy, x: jnp.where(x > 0, dy, 0))


@operation(normal((4, 3)))
def leaky_relu():
    return (lambda x: jnp.where(x > 0, x, 0.1 * x)), (lambda dy, x: jnp.where(x > 0, dy, 0.1 * dy))


@operation(normal((4, 3)))
def sigmoid():
    def backward(dy, x):
        e = jnp.exp(-jnp.abs(x))
        return dy * e / jnp.square(1 + e)

    return sig, backward


@operation(normal((4, 3)))
def tanh():
    def backward(dy, x):
        e = jnp.exp(-2 * jnp.abs(x))
        return dy * 4 * e / jnp.square(1 + e)

    return jnp.tanh, backward


@operation(normal((4, 3)))
def softplus():
    return (lambda x: jnp.logaddexp(x, 0)), (lambda dy, x: dy * sig(x))


@operation(normal((4, 3)))
def elu():
    def f(x):
        return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))

    return f, lambda dy, x: jnp.where(x > 0, dy, dy * jnp.exp(jnp.minimum(x, 0)))


@operation(normal((4, 3)))
def silu():
    return (lambda x: x * sig(x)), (lambda dy, x: dy * (sig(x) * (1 + x * sig(-x))))


@operation(normal((4, 3)))
def gelu():
    def f(x):
        return 0.5 * x * (1 + jnp.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))

    def backward(dy, x):
        t = jnp.tanh(0.7978845608028654 * (x + 0.044715 * x**3))
        return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x))

    return f, backward


@operation(normal((5, 4)))
def softmax():
    def backward(dy, z):
        p = soft(z)
        return p * (dy - jnp.sum(p * dy, axis=-1, keepdims=True))

    return soft, backward


@operation(normal((5, 4)))
def log_softmax():
    def f(z):
        s = z - jnp.max(z, axis=-1, keepdims=True)
        return s - jnp.log(jnp.sum(jnp.exp(s), axis=-1, keepdims=True))

    return f, lambda dy, z: dy - soft(z) * jnp.sum(dy, axis=-1, keepdims=True)


@operation(normal((5, 4)))
def logsumexp():
    def f(z):
        m = jnp.max(z, axis=-1)
        return m + jnp.log(jnp.sum(jnp.exp(z - m[..., None]), axis=-1))

    return f, lambda dy, z: dy[..., None] * soft(z)


@operation(normal((5, 4)))
def maximum():
    def backward(dy, x):
        hit = (jnp.arange(x.shape[-1])[None] == jnp.argmax(x, axis=-1)[:, None]).astype(x.dtype)
        return dy[:, None] * hit

    return (lambda x: jnp.max(x, axis=-1)), backward


@operation(normal((5, 2), (5, 2)))
def mse():
    def backward(dJ, y_hat, y):
        g = dJ * 2 * (y_hat - y) / y.size
        return g, -g

    return (lambda y_hat, y: jnp.mean(jnp.square(y_hat - y))), backward


@operation(normal((6,), (6,)))
def l1_loss():
    def backward(dJ, y_hat, y):
        g = dJ * jnp.sign(y_hat - y) / y.size
        return g, -g

    return (lambda y_hat, y: jnp.mean(jnp.abs(y_hat - y))), backward


@operation(normal((6,), (6,)))
def huber():
    def f(y_hat, y):
        r = jnp.abs(y_hat - y)
        return jnp.sum(jnp.where(r <= 1, 0.5 * r * r, r - 0.5))

    def backward(dJ, y_hat, y):
        g = dJ * jnp.clip(y_hat - y, -1, 1)
        return g, -g

    return f, backward


@operation(normal((6,), (6,)))
def log_cosh():
    def f(y_hat, y):
        r = jnp.abs(y_hat - y)
        return jnp.sum(r + jnp.log1p(jnp.exp(-2 * r)) - 0.6931471805599453)

    def backward(dJ, y_hat, y):
        g = dJ * jnp.tanh(y_hat - y)
        return g, -g

    return f, backward


@operation(lambda rng: (rng.standard_normal(6), np.array([0.0, 1.0, 1.0, 0.0, 0.25, 1.0])), domain={"y": (0.0, 1.0)})
def bce():
    def f(z, y):  # the textbook's stable form, which autodiff gets wrong at 0
        return jnp.mean(jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z))))

    return f, lambda dJ, z, y: (dJ * (sig(z) - y) / z.size, -dJ * z / z.size)


@operation(with_labels(5, 4))
def cross_entropy():
    def f(z, y):
        s = z - jnp.max(z, axis=-1, keepdims=True)
        return jnp.mean(jnp.log(jnp.sum(jnp.exp(s), axis=-1)) - jnp.sum(s * onehot(y, z), axis=-1))

    return f, lambda dJ, z, y: dJ * (soft(z) - onehot(y, z)) / y.size


@operation(normal((5, 4), (5, 4)))
def cross_entropy_soft():
    def logp(z):
        s = z - jnp.max(z, axis=-1, keepdims=True)
        return s - jnp.log(jnp.sum(jnp.exp(s), axis=-1, keepdims=True))

    def backward(dL, z, t):
        return dL[:, None] * (soft(z) * jnp.sum(t, axis=-1, keepdims=True) - t), -dL[:, None] * logp(z)

    return (lambda z, t: -jnp.sum(t * logp(z), axis=-1)), backward


@operation(normal((6,), (6,)))
def hinge():
    def backward(dL, s, y):
        active = jnp.where(s * y < 1, -dL, 0)
        return active * y, active * s

    return (lambda s, y: jnp.maximum(1 - s * y, 0)), backward


@operation(normal((5, 3), (3, 4), (4,), (4, 2), (2,)))
def mlp():
    def f(X, W1, b1, W2, b2):
        return jnp.maximum(X @ W1 + b1[None], 0) @ W2 + b2[None]

    def backward(dy, X, W1, b1, W2, b2):
        z = X @ W1 + b1[None]
        a = jnp.maximum(z, 0)
        dz = jnp.where(z > 0, dy @ W2.T, 0)
        return dz @ W1.T, X.T @ dz, jnp.sum(dz, axis=0), a.T @ dy, jnp.sum(dy, axis=0)

    return f, backward


@operation(normal((7,), (3,)))
def convolution():
    def f(x, w):
        return jnp.stack([jnp.sum(x[i : i + w.size] * w) for i in range(x.size - w.size + 1)])

    def backward(dy, x, w):
        dx = jnp.zeros_like(x)
        for j in range(w.size):
            dx = dx.at[j : j + dy.size].add(dy * w[j])
        return dx, jnp.stack([jnp.sum(dy * x[j : j + dy.size]) for j in range(w.size)])

    return f, backward


@operation(normal((4, 3), (4, 3)))
def cosine_similarity():
    def f(x, y):
        return jnp.sum(x * y, axis=-1) / jnp.sqrt(jnp.sum(x * x, axis=-1) * jnp.sum(y * y, axis=-1))

    def backward(dc, x, y):
        nx, ny = (jnp.sqrt(jnp.sum(v * v, axis=-1, keepdims=True)) for v in (x, y))
        c = jnp.sum((x / nx) * (y / ny), axis=-1, keepdims=True)
        return dc[:, None] * (y / ny - c * x / nx) / nx, dc[:, None] * (x / nx - c * y / ny) / ny

    return f, backward


@operation(normal((5, 3), (3, 4)))
def tied_weights():
    def f(X, W):
        return jnp.tanh(X @ W) @ W.T

    def backward(dy, X, W):
        h = jnp.tanh(X @ W)
        dz = (dy @ W) * (1 - h * h)
        return dz @ W.T, X.T @ dz + dy.T @ h

    return f, backward


@operation(normal((4, 5)))
def cumsum():
    return (lambda x: jnp.cumsum(x, axis=-1)), (lambda dy, x: jnp.cumsum(dy[:, ::-1], axis=-1)[:, ::-1])


@operation(normal((2, 4, 3), (3, 5)))
def batched_matmul():
    def backward(dy, X, W):
        return jnp.einsum("bnk,dk->bnd", dy, W), jnp.einsum("bnd,bnk->dk", X, dy)

    return (lambda X, W: jnp.einsum("bnd,dk->bnk", X, W)), backward


@operation(normal((4, 3)))
def norm():
    def f(x):
        s = jnp.sum(x * x, axis=-1)
        return jnp.where(s > 0, jnp.sqrt(jnp.where(s > 0, s, 1)), 0)

    def backward(dy, x):
        n = f(x)[:, None]
        return dy[:, None] * jnp.where(n > 0, x / jnp.where(n > 0, n, 1), 0)

    return f, backward


@operation(normal((4, 3)))
def gram():
    return (lambda X: X.T @ X), (lambda dG, X: X @ (dG + dG.T))


for _name in ("softmax", "log_softmax", "logsumexp", "cross_entropy", "cross_entropy_soft", "attention"):
    for _what in ("sign", "times 2", "times 1.01"):
        EQUIVALENT[_name, f"exp 0: {_what}"] = "p = e / sum(e) is unchanged when every e is multiplied by one number"
EQUIVALENT["relu", "input 0: 1.1 times where x < -3"] = "the gradient is 0 there, and 1.1 times 0 is 0"
for _what in ("sub 0: times 2", "sub 0: times 1.01"):
    EQUIVALENT["l1_loss", _what] = "sign(c r) = sign(r) for every c > 0"
for _name in ("sigmoid", "tanh"):
    EQUIVALENT[_name, "add 0: sign"] = "only its square is used, and (-x)^2 = x^2"
EQUIVALENT["elu", "min 0: only the first operand kept"] = "it differs only where the other branch is selected"
for _what in ("1.1 times where x < -3", "NaN where abs(x) > 20"):
    EQUIVALENT["bce", f"input 1: {_what}"] = "y is in [0, 1], the declared domain"
EQUIVALENT["gram", "dot_general 0: operand 1 transposed"] = "dG + dG^T is its own transpose"
for _j in (0, 1):
    EQUIVALENT["convolution", f"scatter-add {_j}: last entry zeroed"] = "the window of w_j ends before the last entry"
