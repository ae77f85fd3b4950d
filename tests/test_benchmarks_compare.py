"""The gate between two results files: green where nothing is lost, red for each sort of loss."""

import copy
import dataclasses
import json
import math
import re

import pytest

from benchmarks import compare, records

VERSIONS = {"versions": {"jax": "1", "jaxlib": "1"}}
BASE = {
    "machine": VERSIONS,
    "results": [
        {"size": "9x2", "name": "fundl", "ms": 10.0, "spread": 0.02, "digits": 15.0, "memory": 800, "operations": 90},
        {"size": "9x2", "name": "rival", "ms": 20.0, "spread": 0.02, "digits": 12.0},
        {"size": "8", "name": "fundl", "seconds": 0.001, "error": 1e-9},
        {"size": "7", "name": "fundl", "value": 0.0, "gradient": 2.0, "difference": 1e-15, "loss": 1.5},
        {"size": "6", "name": "fundl", "rule passes": True, "reached": -1e-19},
        {"size": "5", "name": "fundl", "seconds": 0.001},
    ],
    "caught, percent": {"fundl, float64": {"all": 100.0}},
    "false alarms": {"fundl": ["tanh n=3"]},
    "index given, percent": 99.0,
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


@pytest.mark.parametrize(
    ("where", "key", "green", "red"),
    [
        (3, "value", 0.9, 1.1), (3, "gradient", 19.0, 21.0), (3, "difference", 9e-13, 1.1e-12),
        (3, "loss", 1.51, 1.52), (4, "rule passes", True, False), (4, "reached", 9e-11, 1.1e-10),
    ],
)  # fmt: skip
def test_every_other_way_to_be_worse(tmp_path, where, key, green, red):
    assert gate(tmp_path, "row", where, **{key: green}) == 0
    assert gate(tmp_path, "row", where, **{key: red}) == 1


def test_what_the_examiner_says_in_no_row(tmp_path, capsys):
    def alarms(head):
        return head["false alarms"]

    assert gate(tmp_path, alarms, fundl=["another"]) == 0
    assert gate(tmp_path, alarms, fundl=["tanh n=3", "another"]) == 1
    assert "LOST base fundl: less accurate: false alarms 1 -> 2" in capsys.readouterr().out
    assert gate(tmp_path, lambda head: head, **{"index given, percent": 98.5}) == 0
    assert gate(tmp_path, lambda head: head, **{"index given, percent": 97.5}) == 1


@pytest.mark.parametrize("number", [float("nan"), None])
@pytest.mark.parametrize(
    ("where", "key"), [(0, "ms"), (0, "digits"), (0, "memory"), (2, "error"), (3, "value"), (5, "seconds")]
)
def test_a_number_that_is_none_any_more_is_red(tmp_path, capsys, where, key, number):
    assert gate(tmp_path, "row", where, **{key: number}) == 1
    assert " is missing or NaN, was " in capsys.readouterr().out


def test_numbers_of_rivals_may_vanish(tmp_path):
    assert gate(tmp_path, "row", 1, ms=float("nan"), digits=None) == 0


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


@pytest.mark.parametrize("text", ["{", "[1]", "", None, b"\xff"])
def test_what_cannot_be_read_is_no_loss(tmp_path, capsys, text):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(BASE))
    if text is not None:
        bad.write_bytes(text if isinstance(text, bytes) else text.encode())
    for given in ([good, bad], [bad, good]):
        with pytest.raises(SystemExit) as caught:
            compare.main([str(path) for path in given])
        assert caught.value.code == 2
        assert f"no results at {bad}" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        compare.main([str(good), str(tmp_path / "absent")])


def test_folders_and_the_tracked_results_against_themselves():
    assert compare.main([str(records.RESULTS), str(records.RESULTS)]) == 0


def test_a_question_that_is_not_there_is_named(tmp_path, capsys):
    for folder, names in {"base": ("one", "two"), "head": ("two",)}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.json").write_text(json.dumps(BASE))
    assert compare.main([str(tmp_path / "base"), str(tmp_path / "head")]) == 0  # as for a row
    assert "note: one: not measured in the second\n" in capsys.readouterr().out


def test_every_accuracy_of_the_tracked_results_is_gated():
    assert compare.LOST.keys() | compare.GROWN.keys() == {*records.HIGHER, *records.LOWER} - {"rate"}  # of the machine
    for question, found in records.read(records.RESULTS).items():
        for row in filter(lambda r: r.own, records.records(question, found)):
            for k in row.numbers.keys() - set(records.COUNTS):
                for spoilt in (-1.0 if k in records.HIGHER else 1e10 * (1 + row.numbers[k]), math.nan):
                    numbers = {**row.numbers, k: spoilt}
                    assert compare.accuracy(row, dataclasses.replace(row, numbers=numbers)), (question, row, k)


STATES = r"\b(error|digits|caught|alarms?|passes|memory|MB|bytes|value|gradient|reached|difference|named|given)\b"
OUT = {"peak memory so far, MB", "MB ratio"}  # of a process that did other things before; of a rival's over fundl's


def unread(node):
    """Columns that by their name state an accuracy or a memory, and that the gate does not know."""
    known = {*records.COUNTS, *records.HIGHER, *records.LOWER} | OUT
    found = set()
    for key, value in node.items() if isinstance(node, dict) else (("", value) for value in node):
        if isinstance(value, dict | list):
            found |= unread(value)
        elif not isinstance(value, str) and re.search(STATES, key) and key not in known:
            found.add(key)
    return found


def test_every_column_that_states_an_accuracy_or_a_memory_is_read():
    assert unread({"results": [{"name": "an error", "error": 1.0, "worst error": None}]}) == {"worst error"}
    for question, found in records.read(records.RESULTS).items():
        assert unread({k: v for k, v in found.items() if k != "machine"}) == set(), question
