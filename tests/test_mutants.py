"""Every wrong rule is caught, no right rule is accused, and a weak test is told what it lets through."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundl import _own_rules, verify
from fundl.verify._examine import Examiner
from fundl.verify._mutants import equals
from mutants import EQUIVALENT, OPERATIONS

pytestmark = pytest.mark.large

QUICK = ("linear", "softmax", "relu", "cross_entropy")


def arrays(name, dtype=np.float64, seed=0):
    op = OPERATIONS[name]
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(a, dtype if a.dtype.kind == "f" else a.dtype) for a in op.sample(rng))


def wrong_rules(name, every):
    op = OPERATIONS[name]
    args = arrays(name)
    dy = jnp.asarray(np.random.default_rng(1).standard_normal(np.shape(op.f(*args))))
    found = [m for m in verify.mutants(op.backward, dy, *args) if m.kind != "convention"]
    return [m for m in found if (name, m.name) not in EQUIVALENT][::every]


def survivors(name, every):
    check = Examiner(OPERATIONS[name].f, arrays(name), **OPERATIONS[name].options)
    return [m.name for m in wrong_rules(name, every) if check.check(m).ok]


@pytest.mark.parametrize("name", QUICK)
def test_wrong_rules_are_caught(name):
    assert survivors(name, 6) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_every_wrong_rule_is_caught(name):
    assert survivors(name, 1) == []


@pytest.mark.parametrize("name", ["linear", "softmax", "bce", "embedding"])
def test_right_rules_pass(name):
    op = OPERATIONS[name]
    report = verify.check_rule(op.f, op.backward, *arrays(name), **op.options)
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_every_right_rule_passes(name, dtype):
    op = OPERATIONS[name]
    for reference in ("auto", "differences"):
        report = verify.check_rule(op.f, op.backward, *arrays(name, dtype), reference=reference, **op.options)
        assert report.ok, str(report)


def test_mutants_are_named_and_work_at_other_shapes():
    op = OPERATIONS["linear"]
    args = arrays("linear")
    dy = jnp.ones((5, 4))
    found = list(verify.mutants(op.backward, dy, *args))
    assert len({m.name for m in found}) > 40
    assert {"structural", "one percent", "cotangent", "interface", "tail", "kink"} <= {m.kind for m in found}
    without_cotangent = list(verify.mutants(op.backward, *args))
    assert [m.name for m in without_cotangent] == [m.name for m in found]
    twice = next(m for m in found if m.name.endswith("times 2"))
    other = (jnp.ones((2, 4)), jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(4))
    assert any(not np.array_equal(a, b) for a, b in zip(twice(*other), op.backward(*other), strict=True))


def test_mutation_score_prints_what_a_weak_test_lets_through(capsys):
    def backward(dy, x):
        return 2 * x * dy

    x = jnp.array([1.0, 2.0])

    def weak(candidate):
        assert jnp.allclose(candidate(jnp.ones(2), x), 2 * x)

    def strong(candidate):
        verify.assert_rule(lambda x: x * x, candidate, x)

    score = verify.mutation_score(weak, backward, jnp.ones(2), x)
    assert 0 < score.score < 1
    assert "the cotangent is ignored" in capsys.readouterr().out
    assert verify.mutation_score(strong, backward, jnp.ones(2), x, quiet=True).survived == []


def test_mutation_score_refuses_a_test_that_rejects_the_right_rule():
    def never(candidate):
        raise AssertionError

    with pytest.raises(ValueError, match="rejects the backward itself"):
        verify.mutation_score(never, lambda dy, x: dy, jnp.ones(2), jnp.ones(2))


# ---- fundl's own rules: what `fundl verify` lets through -------------------------------------------------------------

# Survivors that compute the right gradient: the rule, the sites that are meant, and why. Those equal to the rule in
# every bit at points chosen to tell them apart are set aside by themselves.
OWN_EQUIVALENT = [
    (r".*\.(softmax|log_softmax|logsumexp|cross_entropy_with_logits)|softmax_regression", "min 0: (sign|times)",
     "(v - c) - (m - c) is v - m whatever c is"),
    (r".*\.(softmax|log_softmax|logsumexp|cross_entropy_with_logits)|softmax_regression",
     r"(floor 0|sub [13]): (sign|times 2|only the first|add in its place)",
     "s = small + (round(sum(e) - small) - 1) is sum(e) - 1 whatever small is, as long as the rest is a whole number"),
    ("activations.(softmax|log_softmax|logsumexp)", r"exp 0: (sign|times)",
     "p = e / sum(e) is unchanged when every e is multiplied by one number"),
    (r"activations.log_softmax", r"(floor 1|mul 1): (sign|times|only the first)",
     "(A - t) + (sum(t) - A), the sum of all but t whatever A is"),
    ("activations.softmax", r"(floor 0|mul 0|reduce_sum [12]|div 1|sub 3): ",
     "they only change the constant taken from dy along the axis, and sum_l p_l = 1 cancels any constant"),
    ("norms.l2", r"(select_n (1[3-9]|2\d)|bitcast_convert_type \d|(add|sub|pow) \d+|mul ([5-9]|1[01])): times 1.01",
     "they only change the scale of u, and u / norm2(u) does not depend on it"),
    (r"losses.(binary_cross_entropy|focal)", r"(sub 0|mul [01]|sqrt 0|add 0): (only|add|last|left|sign)",
     "they make what is added to y: 0 in its declared domain [0, 1], and NaN outside"),
    (r"losses.binary_cross_entropy( \(|$)", r"(sub 1|mul [23]|sqrt 1|add 1): (only|add|last|left|sign)",
     "the same of p"),
    (r"losses.(binary_cross_entropy|focal)_with_logits", r"input 1: (1.1 times where x < -3|NaN where abs\(x\) > 20)",
     "outside the declared domain [0, 1] of y"),
    (r"losses.cross_entropy(_with_logits)? \(soft", r"reduce_(min|max) 0: ",
     "they only tell a label outside of its declared domain [0, 1]"),
    (r"losses.cross_entropy_with_logits \(soft", r"mul 0: only the first|input 1: (1.1 times|NaN where abs)",
     "the other operand is 1 in the declared domain [0, 1] of y, and nothing is asked outside"),
    (r"losses.cross_entropy_with_logits \(smoothed", "mul [0-2]: only the first",
     "the other operand is 1 for the labels 0..k-1, and NaN for others, which are not given"),
    ("leaky_relu from its output", "mul 0: div in its place", "only the sign of the output is used"),
    ("sigmoid from its output", r"(gt [01]|select_n [01]|neg 0): ",
     "a (1 - a) is unchanged where a becomes 1 - a"),
    (r"losses.(binary_)?cross_entropy( \(|$)", r"input [01]: (1.1 times where x < -3|NaN where abs\(x\) > 20)",
     "outside the declared domain [0, 1]"),
    (r"losses.cross_entropy \(soft\)", r"mul 0: only the first|input 0: (NaN|outside the subdifferential) where x = 0",
     "outside the declared domains, [0, 1] of y and [0.01, 0.99] of p"),
    (r"losses.binary_cross_entropy \(soft\)",
     r"mul 0: only the first|input 0: (NaN|outside the subdifferential) where x = 0|gt [01]: comparison flipped",
     "outside the declared domains, [0, 1] of y and [0.01, 0.99] of p; and log(1 - p) = log1p(-p), whichever is taken"),
    (".* from its output", r"input 0: NaN where abs\(x\) > 20", "outside the declared domain (-5, 5)"),
    (r"mlp\.gradient|backprop of shared weights", r"input \d: (1.1 times where x < -3|NaN where abs\(x\) > 20)",
     "outside the declared domain (-2, 2)"),
    (r"mlp\.gradient \(relu", r"floor 1: (sign|times 2)|sub 6: (only the first|add in its place)",
     "sum(e - top) + (sum(top) - 1) = sum(e) - 1 whatever top is"),
    (r"mlp\.gradient", r"reduce_max 1: (times 1.01|last entry zeroed)|eq 4: comparison flipped",
     "softmax is unchanged by any shift of the logits, and sum(e - top) + (sum(top) - 1) = sum(e) - 1 whatever top is"),
    (r"mlp\.gradient \((tanh|sigmoid)", "sub 4: only the first operand kept",
     "the same shift, left out: logits of activations in [-1, 1] and weights in the domain overflow nothing"),
    (r"mlp\.gradient \(sigmoid", "reduce_max 1: (sign|times 2)|sub 4: add in its place",
     "the same shift, of another size: the logits stay small"),
]  # fmt: skip


def known_equivalent(label, mutant):
    return any(re.match(rule, label) and re.match(sites, mutant.name) for rule, sites, _ in OWN_EQUIVALENT)


def own_survivors(case, every, offset=0):
    """Mutants of one of fundl's rules that the examiner passes, though some entry moves by more than 1e-8 of itself.

    Less than that are the low words and the late terms of series, whose place is `test_accuracy.py`.
    """
    label, f, backward, args, options = case
    rng = np.random.default_rng(1)
    dy = jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s.shape), s.dtype), jax.eval_shape(f, *args))
    chosen = [m for m in verify.mutants(backward, dy, *args) if m.kind != "convention"][offset::every]
    check = Examiner(f, args, **options)
    passed = [m for m in chosen if check.check(m).ok]
    left = [m for m in passed if not known_equivalent(label, m) and not equals(m, backward, (dy, *args), 1e-8)]
    jax.clear_caches()
    return [m.name for m in left]


def by_label(*labels):
    return [case for case in _own_rules.cases() if case[0] in labels]


@pytest.mark.parametrize("case", by_label("activations.elu", "losses.mse (weights)"), ids=lambda case: case[0])
def test_wrong_versions_of_own_rules_are_caught(case):
    assert own_survivors(case, 8) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", _own_rules.cases(), ids=lambda case: case[0])
def test_every_wrong_version_of_own_rules_is_caught(case):
    assert own_survivors(case, 1) == []
