"""The command line: every command, its exit code, and what it says of bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fundl import _own_rules, checkpoint, cli, norms, verify

WRONG = """
import jax.numpy as jnp

def right(x):
    return x * x

def right_backward(dy, x):
    return 2 * x * dy

def wrong(x):
    return x * x

def wrong_backward(dy, x):
    return x * dy
"""


@pytest.fixture
def rules(tmp_path, monkeypatch):
    (tmp_path / "rules_of_a_user.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    yield "rules_of_a_user"
    sys.modules.pop("rules_of_a_user", None)


def test_help_names_every_command():
    shown = subprocess.run([sys.executable, "-m", "fundl", "--help"], capture_output=True, text=True, check=True).stdout
    for command in ("tour", "verify", "fit"):
        assert command in shown


def test_a_users_rule_passes_or_fails_with_the_exit_code(rules, capsys):
    assert cli.main(["verify", f"{rules}:right"]) == 0
    assert cli.main(["verify", f"{rules}:wrong"]) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert "factor" in out, "the report names the likely cause"
    assert cli.main(["verify", rules, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert len(found["reports"]) == 2


def test_a_rule_that_does_not_exist_is_bad_input(capsys):
    assert cli.main(["verify", "no_such_module:f"]) == 2
    assert "no_such_module" in capsys.readouterr().err


BAD = """
import jax.numpy as jnp
import numpy as np

def misspelt(x):
    return x * x

def misspelt_backward(dy, x):
    return 2 * x * dy

misspelt_options = {"tolx": 1}

def listed(x):
    return x * x

listed_backward, listed_options = misspelt_backward, ["domain"]

def valued(x):
    return x * x

valued_backward, valued_options, valued_examples = misspelt_backward, {"kink": "middle"}, (np.ones(3),)

def bare(x):
    return x * x

bare_backward, bare_examples = misspelt_backward, np.ones(3)

def product(x, w):
    return jnp.matmul(x, w)

def product_backward(dy, x, w):
    return dy @ w.T, x.T @ dy

def refusing(x):
    raise KeyError("only a tree will do")

refusing_backward = misspelt_backward

def broken():
    return [1][2]

broken_backward, broken_examples = misspelt_backward, broken

def empty(x):
    return x * x

empty_backward, empty_examples = misspelt_backward, []

def leaving(x):
    raise SystemExit(0)

leaving_backward = misspelt_backward

def right(x):
    return x * x

def right_backward(dy, x):
    raise KeyError("a slip")

def shapeless(x):
    return x * x

def shapeless_backward(dy, x):
    return (dy * x).sum()
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["misspelt"], ["bad_rules:misspelt", "'tolx'", "domain, kink, reference, has_aux, seed"]),
        (["listed"], ["listed_options", "must be a dict"]),
        (["valued"], ["bad_rules:valued", "kink must be one of"]),
        (["bare"], ["bare_examples", "must be the arguments as a tuple"]),
        (["refusing"], ["no usual shapes fit bad_rules:refusing"]),
        (["broken"], ["bad_rules:broken", "IndexError"]),
        (["empty"], ["empty_examples of bad_rules:empty is empty"]),
        (["leaving"], ["no usual shapes fit bad_rules:leaving (it raises SystemExit: 0)"]),
        (["leaving", "--shapes", "(3,)"], ["bad_rules:leaving raises SystemExit: 0"]),
        (["right"], ["bad_rules:right takes (5,3), where right_backward raises KeyError: 'a slip'"]),
        (["shapeless"], ["takes (5,3), where shapeless_backward returns gradients of shapes ()"]),
        (["product", "--shapes", "1.2.3,(3,)"], ["cannot read the shapes from '1.2.3,(3,)' on"]),
        (["product", "--shapes", "(3,), int0(3)"], ["cannot read the shapes from 'int0(3)' on"]),
        (["product", "--shapes", "(3,)"], ["bad_rules:product", "missing 1 required", "called with float64[3]"]),
        (["product", "--shapes", "(4,3),(2,5)"], ["bad_rules:product", "float64[4,3], float64[2,5]"]),
    ],
)
def test_what_cannot_be_examined_is_bad_input_and_no_wrong_rule(tmp_path, monkeypatch, capsys, arguments, words):
    (tmp_path / "bad_rules.py").write_text(BAD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bad_rules", raising=False)
    name, *rest = arguments
    assert cli.main(["verify", f"bad_rules:{name}", *rest]) == 2
    out, err = capsys.readouterr()
    for word in words:
        assert word in err
    assert "WRONG" not in out


def test_shapes_without_a_target_are_refused(capsys):
    assert cli.main(["verify", "--shapes", "(3,)"]) == 2
    assert "--shapes needs a target: fundl verify module:name --shapes '(3,)'" in capsys.readouterr().err


def test_a_module_that_fails_when_imported_does_not_hide_the_rest(rules, tmp_path, capsys):
    (tmp_path / "dividing.py").write_text("1 / 0\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    assert cli.main(["verify", "dividing:f", "leaving:f", f"{rules}:right"]) == 2
    out, err = capsys.readouterr()
    assert "dividing:f: ZeroDivisionError" in err
    assert "leaving:f: SystemExit: 0" in err
    assert "1 of 1 rules right" in out


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("./at/rules.py:f", "./at/rules.py:f is a path; name the module as in import, from its folder: rules:f."),
        ("rules.py", "rules.py is a path; name the module as in import, from its folder: rules."),
    ],
)
def test_what_is_not_found_is_a_problem_in_json_too(capsys, target, problem):
    assert cli.main(["verify", target, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["reports"], found["problems"]) == (False, [], [problem])


def test_no_rules_at_all_are_no_success(capsys):
    assert verify.check_cases([], json=True) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] is False
    assert "nothing was examined" in err


def test_own_rules_cover_every_exported_pair():
    labels = {label.split(" (")[0] for label, *_ in _own_rules.cases()}
    from fundl import activations, layers, losses

    for module in (activations, layers, losses, norms):
        home = module.__name__.removeprefix("fundl.")
        for name in module.__all__:
            if name.endswith("_backward"):
                assert f"{home}.{name.removesuffix('_backward')}" in labels, name


def test_own_rules_are_examined_and_a_broken_one_is_found(monkeypatch, capsys):
    chosen = [
        case for case in _own_rules.cases() if case[0] in ("norms.l2", "losses.mse", "linear_regression.gradient")
    ]
    assert len(chosen) == 3
    monkeypatch.setattr(_own_rules, "cases", lambda: chosen)
    assert cli.main(["verify"]) == 0
    label, f, backward, args, options = chosen[0]
    broken = (label, f, lambda dy, x: 1.01 * backward(dy, x), args, options)
    monkeypatch.setattr(_own_rules, "cases", lambda: [broken, *chosen[1:]])
    assert cli.main(["verify", "--quiet"]) == 1
    assert "2 of 3 rules right" in capsys.readouterr().out


@pytest.mark.slow
def test_all_own_rules_are_right():
    assert verify.check_cases(_own_rules.cases(), quiet=True) == 0


def test_fit_of_a_csv_file_and_its_saved_parameters(tmp_path, capsys):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    y = X @ [3.0, -2.0] + 1
    lines = ["price,a,b", *(f"{t!r},{u!r},{v!r}" for t, (u, v) in zip(y.tolist(), X.tolist(), strict=True))]
    (tmp_path / "data.csv").write_text("\n".join(lines), encoding="utf-8-sig")  # as Excel writes it
    arguments = ["fit", "linear", str(tmp_path / "data.csv"), "--target", "price", "--save", str(tmp_path / "p.npz")]
    assert cli.main(arguments) == 0
    assert "R^2 1.0000" in capsys.readouterr().out
    params = checkpoint.load(tmp_path / "p.npz")
    np.testing.assert_allclose(params["w"], [3.0, -2.0], rtol=1e-12)
    np.testing.assert_allclose(params["b"], 1.0, rtol=1e-12)


def test_fit_of_classes_with_names(tmp_path, capsys):
    rng = np.random.default_rng(1)
    rows = [f"{v + rng.normal()!r},{'yes' if v else 'no'}" for v in rng.integers(0, 2, 120).tolist()]
    (tmp_path / "data.csv").write_text("\n".join(["x,answer", *rows]))
    for model in ("logistic", "softmax"):
        assert cli.main(["fit", model, str(tmp_path / "data.csv"), "--l2", "1"]) == 0
        assert "classes no, yes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("a,b\n1,2\n3,4\n5,6\n", ["--target", "c"], "--target 'c' is not a column"),
        ("a,b\n1,2\n3\n", [], "another number of fields in line 3"),
        ("a,b\n", [], "no rows"),
        ("a,b\nx,2\ny,3\nz,4\n", [], "columns a hold text"),
        ("a,b\n1,2\n3,4\n5,6\n", ["--test", "2"], "test must leave rows on both sides"),
        ("a,b\nnan,2\n3,4\n5,6\n1,1\n", [], "X must be finite"),
        ("a,b\n1,2\n3,4\n5,6\n", ["--seed", "-1"], "seed must be 0 or more; got seed=-1"),
        ("", [], "data.csv is empty"),
        ("a\n1\n2\n", [], "data.csv has no column but the target, a"),
        ("a,a,b\n1,2,3\n2,1,4\n", [], "data.csv names more than one column 'a'"),
        ("année,b\n1,2\n3,4\n", [], "data.csv is no CSV file in UTF-8"),
    ],
)
def test_bad_files_are_refused(tmp_path, capsys, text: str, arguments: list[str], message: str):
    (tmp_path / "data.csv").write_bytes(text.encode("latin-1"))
    assert cli.main(["fit", "linear", str(tmp_path / "data.csv"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_pictures_of_the_tour_below_a_file_are_refused_at_once(tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert cli.main(["tour", "--out", str(out)]) == 2
        said = capsys.readouterr()
        assert str(out) in said.err
        assert said.out == ""


def test_a_missing_file_is_bad_input(capsys):
    assert cli.main(["fit", "linear", "no_such_file.csv"]) == 2
    assert "no_such_file.csv" in capsys.readouterr().err
