"""The rivals of the examiner, one adapter per tool: does it reject a rule? Each with its own defaults."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["missing", "rejected_by"]

Backward = Callable[..., Any]
Arrays = tuple[Any, ...]


def rejected_by(f: Callable[..., Any], backward: Backward, sample: Callable[[Any], Arrays]) -> dict[str, bool]:
    """Which tools reject the rule; `sample(dtype)` gives the one point that each of them is given."""
    double, single = sample(np.float64), sample(np.float32)
    checks = {
        "jax check_grads, float64": lambda: _check_grads(f, backward, double),
        "jax check_grads, float32": lambda: _check_grads(f, backward, single),
        "chex assert_numerical_grads, float32": lambda: _chex(f, backward, single),
        "torch gradcheck, float64": lambda: _torch(f, backward, double),
        "ChainRulesTestUtils' algorithm, float64": lambda: _chain_rules(f, backward, double),
    }
    gone = missing()
    return {name: not _passes(check) for name, check in checks.items() if name.split()[0] not in gone}


def missing() -> list[str]:
    """The tools that are not installed."""
    gone = []
    for name in ("chex", "torch"):
        try:
            __import__(name)
        except ModuleNotFoundError:
            gone.append(name)
    return gone


def _passes(check: Callable[[], Any]) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return check() is not False
        except Exception:  # any error is how these tools reject
            return False


def _registered(f: Callable[..., Any], backward: Backward, args: Arrays) -> tuple[Any, list[Any]]:
    """f with the rule as its custom_vjp, as a function of the floating arguments only."""
    floats = [i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating)]

    def full(xs: Any) -> list[Any]:
        it = iter(xs)
        return [next(it) if i in floats else a for i, a in enumerate(args)]

    @jax.custom_vjp
    def g(*xs: Any) -> Any:
        return f(*full(xs))

    def bwd(xs: Any, dy: Any) -> Any:
        out = backward(dy, *full(xs))
        return out if isinstance(out, tuple) else (out,)

    g.defvjp(lambda *xs: (f(*full(xs)), xs), bwd)
    return g, [args[i] for i in floats]


def _check_grads(f: Callable[..., Any], backward: Backward, args: Arrays) -> None:
    from jax.test_util import check_grads

    g, xs = _registered(f, backward, args)
    check_grads(g, xs, order=1, modes=["rev"])


def _chex(f: Callable[..., Any], backward: Backward, args: Arrays) -> None:
    import chex

    g, xs = _registered(f, backward, args)
    chex.assert_numerical_grads(g, xs, order=1, modes=["rev"])


def _torch(f: Callable[..., Any], backward: Backward, args: Arrays) -> bool:
    import torch

    g, xs = _registered(f, backward, args)
    forward = jax.jit(g)
    pull = jax.jit(lambda dy, *xs: jax.vjp(g, *xs)[1](dy))

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Any) -> Any:
            ctx.save_for_backward(*tensors)
            return torch.tensor(np.asarray(forward(*[t.detach().numpy() for t in tensors])))

        @staticmethod
        def backward(ctx: Any, dy: Any) -> Any:
            out = pull(dy.numpy(), *[t.numpy() for t in ctx.saved_tensors])
            return tuple(torch.tensor(np.asarray(v)) for v in out)

    tensors = [torch.tensor(np.asarray(x), requires_grad=True) for x in xs]
    return torch.autograd.gradcheck(Rule.apply, tensors)


def _chain_rules(f: Callable[..., Any], backward: Backward, args: Arrays) -> bool:
    """test_rrule: full Jacobian by a five-point stencil, one random cotangent, norms compared at 1e-9."""
    g, xs = _registered(f, backward, args)
    y, pull = jax.vjp(g, *xs)
    dy = jnp.asarray(np.round(np.random.default_rng(0).standard_normal(y.shape), 2))
    for k, given in enumerate(pull(dy)):
        x = xs[k]

        def moved(e: Any, h: float, k: int = k, x: Any = x) -> Any:
            shifted = jnp.reshape(jnp.reshape(x, (-1,)) + h * e, x.shape)
            return jnp.sum(dy * f(*[shifted if a is xs[k] else a for a in args]))

        unit = jnp.eye(x.size, dtype=x.dtype)
        best, smallest = None, np.inf
        for h in (1e-2, 3e-3, 1e-3):
            slopes = [jax.vmap(lambda e, c=c, h=h, m=moved: m(e, c * h))(unit) for c in (-2, -1, 1, 2)]
            five = (slopes[0] - 8 * slopes[1] + 8 * slopes[2] - slopes[3]) / (12 * h)
            three = (slopes[2] - slopes[1]) / (2 * h)
            gap = float(jnp.linalg.norm(five - three)) * h**2 + 1e-16 / h
            if gap < smallest:
                best, smallest = five, gap
        scale = max(float(jnp.linalg.norm(best)), float(jnp.linalg.norm(given)))
        if not float(jnp.linalg.norm(jnp.ravel(given) - best)) <= 1e-9 + 1e-9 * scale:
            return False
    return True
