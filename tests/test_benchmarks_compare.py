"""The gate between two results files: green where nothing is lost, red for each sort of loss."""

import copy
import json

import pytest

from benchmarks import compare, records

VERSIONS = {"versions": {"jax": "1", "jaxlib": "1"}}
BASE = {
    "machine": VERSIONS,
    "results": [
        {"size": "9x2", "name": "fundl", "ms": 10.0, "spread": 0.02, "digits": 15.0, "memory": 800, "operations": 90},
        {"size": "9x2", "name": "rival", "ms": 20.0, "spread": 0.02, "digits": 12.0},
        {"size": "8", "name": "fundl", "seconds": 0.001, "error": 1e-9},
    ],
    "caught, percent": {"fundl, float64": {"all": 100.0}},
}


def gate(tmp_path, change, where=0, **new):
    """The exit status of the gate between BASE and a copy that differs in one row."""
    head = copy.deepcopy(BASE)
    (head["results"][where] if change == "row" else change(head)).update(new)
    for name, found in {"base": BASE, "head": head}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    return compare.main([str(tmp_path / "base.json"), str(tmp_path / "head.json")])


GREEN = {
    "the same": {},
    "faster": {"ms": 2.0},
    "slower by less than 15 percent": {"ms": 11.4},
    "slower within the noise of the rounds": {"ms": 14.0, "spread": 0.12},
    "fewer operations": {"operations": 80},
    "a little less accurate": {"digits": 14.6},
}
RED = {
    "slower": ({"ms": 12.0}, "slower: 10 -> 12 ms"),
    "memory": ({"memory": 801}, "more memory: 800 -> 801"),
    "operations": ({"operations": 91}, "more operations: 90 -> 91"),
    "digits": ({"digits": 14.0}, "less accurate: digits 15 -> 14"),
}


@pytest.mark.parametrize("new", GREEN.values(), ids=GREEN)
def test_green(tmp_path, new):
    assert gate(tmp_path, "row", **new) == 0


@pytest.mark.parametrize(("new", "text"), RED.values(), ids=RED)
def test_red(tmp_path, capsys, new, text):
    assert gate(tmp_path, "row", **new) == 1
    assert f"LOST base 9x2 fundl: {text}" in capsys.readouterr().out


@pytest.mark.parametrize("error", [1.1e-8, float("nan")])
def test_a_larger_error_is_red(tmp_path, error):
    assert gate(tmp_path, "row", 2, error=error) == 1
    assert gate(tmp_path, "row", 2, error=9e-9) == 0


def test_a_small_time_may_double_within_the_margin(tmp_path):
    assert gate(tmp_path, "row", 2, seconds=0.0014) == 0
    assert gate(tmp_path, "row", 2, seconds=0.0016) == 1


def test_a_lower_catch_rate_is_red(tmp_path):
    assert gate(tmp_path, lambda head: head["caught, percent"]["fundl, float64"], all=99.9) == 1


def test_a_slower_machine_is_not_a_slower_fundl(tmp_path, capsys):
    def all_slower(head):
        head["results"][1]["ms"] = 40.0
        return head["results"][0]

    assert gate(tmp_path, all_slower, ms=20.0) == 0
    assert "the rivals are 2.00 times slower" in capsys.readouterr().out
    assert gate(tmp_path, all_slower, ms=25.0) == 1


def test_counts_of_other_versions_are_not_compared(tmp_path, capsys):
    def newer(head):
        head["machine"] = {"versions": {"jax": "2", "jaxlib": "2"}}
        return head["results"][0]

    assert gate(tmp_path, newer, operations=1000) == 0
    assert "counts are not compared" in capsys.readouterr().out


def test_nothing_in_common_is_not_green(tmp_path):
    assert gate(tmp_path, lambda head: head.clear() or head, results=[]) == 2


def test_folders_and_the_tracked_results_against_themselves():
    assert compare.main([str(records.RESULTS), str(records.RESULTS)]) == 0
