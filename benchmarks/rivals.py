"""Adapters of the rivals in logistic and softmax regression: each returns call(tolerance) -> (w, b).

All minimise sum_i L_i + (l2 / 2) norm2(w)^2, l2 = 1, with a free intercept; what a rival needs in another form (a mean,
tensors of its own) it is given before it is timed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.problems import Data

L2 = 1.0


def of_sklearn(solver: str) -> Callable[[Data], Callable[[float], Any]]:
    def adapter(data: Data) -> Callable[[float], Any]:
        from sklearn.linear_model import LogisticRegression

        def call(tol: float) -> Any:
            model = LogisticRegression(C=1 / L2, solver=solver, tol=tol, max_iter=10_000).fit(data.X, data.y)
            w, b = model.coef_.T, model.intercept_
            return (w[:, 0], b[0]) if data.k == 1 else (w, b)

        return call

    return adapter


def of_glum(data: Data) -> Callable[[float], Any]:
    from glum import GeneralizedLinearRegressor

    if data.k > 1:
        raise ModuleNotFoundError(name="glum has no softmax and")

    def call(tol: float) -> Any:
        model = GeneralizedLinearRegressor(family="binomial", alpha=L2 / len(data.X), gradient_tol=tol, max_iter=1000)
        model.fit(data.X, data.y)
        return model.coef_, model.intercept_

    return call


def of_torch(data: Data) -> Callable[[float], Any]:
    import torch

    X = torch.from_numpy(data.X)
    y = torch.from_numpy(data.y).to(X.dtype if data.k == 1 else torch.int64)
    n = len(data.X)

    def call(tol: float) -> Any:
        shape = (data.X.shape[1],) if data.k == 1 else (data.X.shape[1], data.k)
        w = torch.zeros(shape, dtype=X.dtype, requires_grad=True)
        b = torch.zeros(shape[1:], dtype=X.dtype, requires_grad=True)
        solver = torch.optim.LBFGS(
            [w, b], max_iter=2000, max_eval=4000, history_size=10, tolerance_grad=tol, tolerance_change=0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Any:
            solver.zero_grad()
            z = X @ w + b
            if data.k == 1:
                J = torch.nn.functional.binary_cross_entropy_with_logits(z, y)
            else:
                J = torch.nn.functional.cross_entropy(z, y)
            J = J + L2 / 2 / n * (w * w).sum()
            J.backward()
            return J

        solver.step(closure)
        return w.detach().numpy(), b.detach().numpy()

    return call


def mean_objective(data: Data) -> tuple[Any, Any, Any]:
    X, y = jnp.asarray(data.X), jnp.asarray(data.y)
    d, n = X.shape[1], X.shape[0]

    def J(params: Any, X: Any, y: Any) -> Any:
        z = X @ params[0] + params[1]
        if data.k == 1:
            L = jax.nn.softplus(z) - y.astype(z.dtype) * z
        else:
            L = jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], axis=1)[:, 0]
        return jnp.mean(L) + L2 / 2 / n * jnp.sum(params[0] ** 2)

    shape = (d,) if data.k == 1 else (d, data.k)
    return J, (jnp.zeros(shape, X.dtype), jnp.zeros(shape[1:], X.dtype)), (X, y)


def of_jaxopt(data: Data) -> Callable[[float], Any]:
    import jaxopt

    J, start, (X, y) = mean_objective(data)

    @jax.jit
    def run(start: Any, X: Any, y: Any, tol: Any) -> Any:
        return jaxopt.LBFGS(J, tol=tol, maxiter=2000, jit=True).run(start, X, y).params

    return lambda tol: run(start, X, y, tol)


def of_optax(data: Data) -> Callable[[float], Any]:
    import optax

    J, start, (X, y) = mean_objective(data)
    solver = optax.lbfgs()

    @jax.jit
    def run(start: Any, X: Any, y: Any, tol: Any) -> Any:
        def f(params: Any) -> Any:
            return J(params, X, y)

        value_and_grad = optax.value_and_grad_from_state(f)

        def step(carry: Any) -> Any:
            params, state, _, count = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=f)
            return optax.apply_updates(params, updates), state, optax.tree.norm(grad), count + 1

        first = (start, solver.init(start), jnp.asarray(jnp.inf, X.dtype), jnp.asarray(0))
        return jax.lax.while_loop(lambda c: (c[2] > tol) & (c[3] < 2000), step, first)[0]

    return lambda tol: run(start, X, y, tol)


def of_optimistix(data: Data) -> Callable[[float], Any]:
    import optimistix

    J, start, (X, y) = mean_objective(data)

    @jax.jit
    def run(start: Any, X: Any, y: Any, tol: Any) -> Any:
        solver = optimistix.LBFGS(rtol=tol, atol=tol)
        return optimistix.minimise(
            lambda params, args: J(params, *args), solver, start, (X, y), max_steps=2000, throw=False
        ).value

    return lambda tol: run(start, X, y, tol)


RIVALS: dict[str, Callable[[Data], Callable[[float], Any]]] = {
    **{f"sklearn {s}": of_sklearn(s) for s in ("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga")},
    "glum": of_glum,
    "torch L-BFGS": of_torch,
    "jaxopt L-BFGS": of_jaxopt,
    "optax L-BFGS": of_optax,
    "optimistix L-BFGS": of_optimistix,
}
