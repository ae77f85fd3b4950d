"""A linear map with its transpose written by hand, that can be differentiated, mapped and transposed again.

`jax.custom_derivatives.linear_call` is the same idea, but refuses `vmap` and derivatives of its second order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

Map = Callable[[Any, Any], Any]


def linear_pair(forward: Map, transpose: Map, fixed: Any, x: Any) -> Any:
    """forward(fixed, x), linear in x, whose transpose in x is y -> transpose(fixed, y).

    `fixed` and `x` are pytrees of arrays; neither function may close over traced values. Derivatives with respect to
    `fixed` are taken by jax through the function itself.
    """
    fixed_leaves, fixed_tree = jax.tree.flatten(fixed)
    x_leaves, x_tree = jax.tree.flatten(x)
    out_tree = jax.tree.structure(jax.eval_shape(forward, fixed, x))

    def flat(f: Map, in_tree: Any, tree: Any) -> Callable[..., list[Any]]:
        def g(*leaves: Any) -> list[Any]:
            split = len(fixed_leaves)
            out = f(jax.tree.unflatten(fixed_tree, leaves[:split]), jax.tree.unflatten(in_tree, leaves[split:]))
            found = jax.tree.structure(out)
            assert found == tree, f"the transpose returns {found}, not {tree}"
            return jax.tree.leaves(out)

        return g

    there, back = flat(forward, x_tree, out_tree), flat(transpose, out_tree, x_tree)
    return jax.tree.unflatten(out_tree, _bind(there, back, fixed_leaves, x_leaves))


linear_pair_p = Primitive("linear_pair")
linear_pair_p.multiple_results = True


def _bind(forward: Callable[..., Any], transpose: Callable[..., Any], fixed: Sequence[Any], x: Sequence[Any]) -> Any:
    jaxpr = jax.make_jaxpr(forward)(*fixed, *x)
    return linear_pair_p.bind(*fixed, *x, jaxpr=jaxpr, forward=forward, transpose=transpose, split=len(fixed))


def _evaluate(*args: Any, jaxpr: ClosedJaxpr, **_: Any) -> Any:
    return jaxpr_as_fun(jaxpr)(*args)


def _abstract(*_: Any, jaxpr: ClosedJaxpr, **__: Any) -> Any:
    return jaxpr.out_avals


def _jvp(primals: Any, tangents: Any, *, forward: Any, transpose: Any, split: int, **params: Any) -> Any:
    out = linear_pair_p.bind(*primals, forward=forward, transpose=transpose, split=split, **params)
    parts = []
    if any(type(t) is not ad.Zero for t in tangents[split:]):
        dx = [ad.instantiate_zeros(t) for t in tangents[split:]]
        parts.append(_bind(forward, transpose, primals[:split], dx))
    moving = [i for i in range(split) if type(tangents[i]) is not ad.Zero]
    if moving:

        def of_fixed(*moved: Any) -> Any:
            args = list(primals)
            for i, v in zip(moving, moved, strict=True):
                args[i] = v
            return forward(*args)

        parts.append(jax.jvp(of_fixed, tuple(primals[i] for i in moving), tuple(tangents[i] for i in moving))[1])
    return out, [sum(part[1:], part[0]) for part in zip(*parts, strict=True)]


def _transpose(cts: Any, *args: Any, forward: Any, transpose: Any, split: int, **_: Any) -> Any:
    fixed, x = args[:split], args[split:]
    found = _bind(transpose, forward, fixed, [ad.instantiate_zeros(ct) for ct in cts])
    found = [g if ad.is_undefined_primal(v) else None for g, v in zip(found, x, strict=True)]
    return [None] * split + found


def _batch(args: Any, dims: Any, *, jaxpr: ClosedJaxpr, forward: Any, transpose: Any, split: int) -> Any:
    size = next(v.shape[d] for v, d in zip(args, dims, strict=True) if d is not None)
    # Every linear argument gets the mapped axis, or the transpose would have to know which to sum.
    x = [batching.bdim_at_front(v, d, size) for v, d in zip(args[split:], dims[split:], strict=True)]
    axes = tuple(dims[:split])

    def mapped(f: Any, count: int) -> Any:
        return jax.vmap(f, in_axes=axes + (0,) * count, out_axes=0)

    out = _bind(mapped(forward, len(x)), mapped(transpose, len(jaxpr.out_avals)), args[:split], x)
    return out, [0] * len(out)


linear_pair_p.def_impl(_evaluate)
linear_pair_p.def_abstract_eval(_abstract)
mlir.register_lowering(linear_pair_p, mlir.lower_fun(_evaluate, multiple_results=True))
ad.primitive_jvps[linear_pair_p] = _jvp
ad.primitive_transposes[linear_pair_p] = _transpose
batching.primitive_batchers[linear_pair_p] = _batch
