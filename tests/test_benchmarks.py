"""The tables of the README are those of the tracked results, and the stopwatch and the gate work."""

import json
import time

import pytest

from benchmarks import stopwatch, tables, wrong_autodiff


def test_readme_tables_are_generated_from_the_results():
    text = tables.README.read_text()
    assert tables.render(text) == text, "run: python -m benchmarks.tables"


def test_a_typed_figure_is_noticed():
    text = tables.README.read_text()
    ratio = json.loads((tables.HERE / "results" / "mlp.json").read_text())["results"][1]["ratio"]
    typed = text.replace(f"| {ratio:.2f} |", "| 0.01 |", 1)
    assert typed != text
    assert tables.render(typed) != typed


def test_stopwatch_interleaves_and_keeps_the_first_call_apart():
    order = []

    def slow():
        order.append("slow")
        time.sleep(0.02)

    times = stopwatch.interleave({"slow": slow, "quick": lambda: order.append("quick")}, repeats=3)
    assert order == ["slow", "quick"] * 4
    assert len(times["slow"].seconds) == 3
    assert stopwatch.ratio(times["slow"], times["quick"]) > 2


def test_results_name_the_machine_and_every_rival_reached_the_same_loss():
    found = json.loads((tables.HERE / "results" / "mlp.json").read_text())
    assert {"cores", "processor", "versions"} <= found["machine"].keys()
    losses = [r["loss"] for r in found["results"]]
    assert len(losses) >= 2
    assert max(losses) - min(losses) == pytest.approx(0, abs=0.01 * max(losses))


def test_published_faults_of_autodiff_are_found_by_the_examiner():
    published = json.loads((tables.HERE / "results" / "wrong_autodiff.json").read_text())["results"]
    assert [r["function"] for r in published] == [case.name for case in wrong_autodiff.CASES]
    for row in published:
        assert row["rule passes"]
        assert row["jax.grad"] != row["by hand, and by differences"]
    for case in wrong_autodiff.CASES[::4]:
        report = wrong_autodiff.examine(case)
        assert report.ok, str(report)
        assert any("jax.grad of f is wrong" in text for text in report.reference)
