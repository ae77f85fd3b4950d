"""The gradient examiner: proves or refutes hand-written gradients, and says what is wrong with them.

Which check? `check_rule(f, backward, *args)` for a vector-Jacobian product by hand; `check_gradient(f, gradient,
*args)` for the gradient of a scalar function; `check_custom_vjp(f, *args)` for a function that carries its rule
(`jax.custom_vjp` or `custom_jvp`). Each returns a `Report`: true or false, and printed it says all. Each has a twin
for tests, `assert_rule` and so on, which raises with the report.

The arguments only say shapes, dtypes and a typical scale. The rule is examined at some hundred points around and
far from them: zeros, ties, small integers, saturated and overflowing values, tiny and huge ones; at other shapes
that f accepts; with cotangents of any sign and size; in float64, in float32 and in the half precision of arguments
that have one, whatever the global setting. Two judges decide: autodiff of f, and differences of its values, which
need no autodiff. There is no tolerance to choose. What is a choice and not an error is said and not failed: the value
at a kink, and digits lost to rounding where a gradient is next to nothing.

>>> import jax.numpy as jnp
>>> def f(x, w):
...     return jnp.tanh(x @ w)
>>> def f_backward(dy, x, w):
...     dz = dy * (1 - jnp.tanh(x @ w) ** 2)
...     return dz @ w.T, x.T @ dz / len(x)             # a mean where a sum belongs
>>> report = check_rule(f, f_backward, jnp.ones((4, 3)), jnp.ones((3, 2)))
>>> print(report.failures[0].argument, report.failures[0].cause, report.failures[0].likely_cause, sep="; ")
w; factor; a constant factor of 1/4 (an axis has size 4: a mean for a sum)

Where f has no value everywhere, say where it has: `domain={"p": (0, 1)}`; see `Options`. How good your own tests of
a gradient are, `mutation_score` tells. `fundl verify package.module:f` does all this from the command line.

It imports jax, NumPy and the standard library only, so it shares no code with what it examines.
"""

from fundl.verify._cli import check_cases as check_cases
from fundl.verify._cli import run as run
from fundl.verify._judge import judge as judge
from fundl.verify._mutants import Mutant as Mutant
from fundl.verify._mutants import MutationScore as MutationScore
from fundl.verify._mutants import mutants as mutants
from fundl.verify._mutants import mutation_score as mutation_score
from fundl.verify._report import Failure as Failure
from fundl.verify._report import Report as Report
from fundl.verify._rules import Options as Options
from fundl.verify._rules import assert_custom_vjp as assert_custom_vjp
from fundl.verify._rules import assert_gradient as assert_gradient
from fundl.verify._rules import assert_rule as assert_rule
from fundl.verify._rules import check_custom_vjp as check_custom_vjp
from fundl.verify._rules import check_gradient as check_gradient
from fundl.verify._rules import check_rule as check_rule
