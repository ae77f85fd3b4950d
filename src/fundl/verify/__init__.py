"""The gradient examiner: proves or refutes hand-written gradients, and says what is wrong with them.

It imports jax, NumPy and the standard library only, so it shares no code with what it examines.
"""

from fundl.verify._cli import check_cases as check_cases
from fundl.verify._cli import run as run
from fundl.verify._mutants import Mutant as Mutant
from fundl.verify._mutants import MutationScore as MutationScore
from fundl.verify._mutants import mutants as mutants
from fundl.verify._mutants import mutation_score as mutation_score
from fundl.verify._report import Failure as Failure
from fundl.verify._report import Report as Report
from fundl.verify._rules import assert_custom_vjp as assert_custom_vjp
from fundl.verify._rules import assert_gradient as assert_gradient
from fundl.verify._rules import assert_rule as assert_rule
from fundl.verify._rules import check_custom_vjp as check_custom_vjp
from fundl.verify._rules import check_gradient as check_gradient
from fundl.verify._rules import check_rule as check_rule
from fundl.verify._rules import judge as judge
