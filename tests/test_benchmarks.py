"""The tables of the pages are those of the tracked results, and the stopwatch and the gate work."""

import dataclasses
import json
import re
import sys
import time
import tomllib

import numpy as np
import pytest

from benchmarks import (
    bench_floors,
    bench_linear_cross_entropy,
    layouts,
    limits,
    options,
    problems,
    records,
    run,
    stopwatch,
    tables,
    wrong_autodiff,
)
from fundl import logistic_regression

FOUND = records.read(records.RESULTS)


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_tables_are_generated_from_the_results(page):
    text = page.read_text()
    assert tables.render(text, FOUND) == text, "run: python -m benchmarks.tables"


def test_every_question_has_its_table_on_one_page_and_every_table_its_results():
    text = "".join(page.read_text() for page in tables.PAGES)
    assert FOUND.keys() == layouts.TABLES.keys() == run.QUESTIONS.keys()
    for name in (*(f"benchmarks: {name}" for name in FOUND), "questions", "losing", "summary", "versions"):
        assert text.count(f"<!-- {name} -->") == 1, name


def test_a_typed_figure_is_noticed():
    text = tables.PAGES[-1].read_text()
    typed = text.replace(f"| {FOUND['mlp']['results'][1]['ratio']:.2f} |", "| 0.01 |", 1)
    assert typed != text
    assert tables.render(typed, FOUND) == text


def test_stopwatch_interleaves_and_keeps_the_first_call_apart():
    order = []

    def slow():
        order.append("slow")
        time.sleep(0.02)

    times = stopwatch.interleave({"slow": slow, "quick": lambda: order.append("quick")}, repeats=3)
    assert order == ["slow", "quick", *["slow", "quick", "quick"] * 3]  # a short call once more, untimed, before it
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


# ---- one command for every question ----------------------------------------------------------------------------------

GOOD = """
import json, sys
rows = [{"size": "9x2", "name": "fundl", "ms": 3.0, "digits": 16.0}, {"size": "9x2", "name": "slow", "ms": 9.0},
        {"size": "9x2", "name": "quick", "ms": 2.0, "digits": 7.0}]
print("seen", sys.argv[1:])
json.dump({"results": rows, "machine": {}}, open(sys.argv[sys.argv.index("--json") + 1], "w"))
"""


@pytest.fixture
def questions(monkeypatch, tmp_path):
    """Three questions made up: one that is answered, one that fails, one that has not the size asked for."""
    for name, code in {"good": GOOD, "bad": "raise ValueError('broken')", "other": "raise SystemExit(3)"}.items():
        (tmp_path / f"fake_{name}.py").write_text(code)
    found = {name: run.Question(f"fake_{name}", name) for name in ("bad", "good", "other")}
    monkeypatch.setattr(run, "QUESTIONS", found)
    monkeypatch.setattr(run, "PACKAGE", "")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return found


def test_a_failing_question_does_not_lose_the_others(questions, tmp_path, capfd):
    assert run.main(["--csv", str(tmp_path / "all.csv"), "--json", str(tmp_path / "out"), "--size", "9x2"]) == 1
    text, errors = capfd.readouterr()
    assert "[1/3] bad: failed" in text
    assert "[3/3] other: left out" in text
    assert "broken" in errors
    assert "fundl loses" in next(line for line in text.splitlines() if line.startswith("good"))
    lines = (tmp_path / "all.csv").read_text().splitlines()
    assert lines[1].startswith("good,9x2,fundl,0.003,")
    assert len(lines) == 4
    assert run.main(["--only", "good"]) == 0


def test_options_reach_the_questions_and_unknown_ones_are_named(questions, capfd):
    assert run.main(["--only", "good", "--verbose", "--quick", "--rivals", "a,b"]) == 0
    assert "'--quick'" in (text := capfd.readouterr().out)
    assert "'--rivals', 'a,b'" in text
    assert run.main(["--only", "nonsense"]) == 2


def test_a_rival_that_no_question_has_is_refused(questions, monkeypatch, tmp_path, capsys):
    rows = [{"size": "9x2", "name": name, "ms": 1.0} for name in ("fundl", "Slow", "quick")]
    tracked = {"results": rows, "missing": ["9x2: absent (it is not there)"]}
    (tmp_path / "good.json").write_text(json.dumps(tracked))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert run.main(["--only", "good", "--rivals", "slow,nobody"]) == 2
    assert "no rival nobody; there are: Slow; quick\n" in capsys.readouterr().err
    assert run.unknown_rivals(["slow", "absent"], ["good"]) == ""
    assert run.unknown_rivals(["nobody"], ["good", "bad"]) == ""  # bad has no tracked results: who knows
    monkeypatch.setitem(run.QUESTIONS, "good", run.Question("fake_good", "good", choice=False))
    assert run.unknown_rivals(["nobody"], ["good"]) == ""  # it says so itself


def test_a_size_that_no_question_has_is_refused(questions, capfd):
    assert run.main(["--only", "other", "--size", "abc"]) == 2
    text, errors = capfd.readouterr()
    assert "nothing measured: no question has the size abc" in errors
    assert "fastest rival" not in text
    assert run.main(["--only", "good,other", "--size", "9x2"]) == 0


@pytest.mark.parametrize("threads", ["0", "-1", "1000000", "x"])
def test_threads_that_cannot_be_had_are_refused(questions, capsys, threads):
    with pytest.raises(SystemExit) as caught:
        run.main(["--only", "good", "--threads", threads])
    assert caught.value.code == 2
    assert "--threads" in capsys.readouterr().err


def test_a_busy_machine_is_told_what_helps_where_it_is_not_done_yet(questions, monkeypatch, capsys):
    monkeypatch.setattr(run.os, "getloadavg", lambda: (9.0, 9.0, 9.0), raising=False)
    monkeypatch.setattr(run.os, "sched_setaffinity", lambda *_: None, raising=False)
    monkeypatch.setattr(stopwatch, "cores", lambda: 4)
    for options_, helps in (["--threads", "2"], True), (["--threads", "1"], False):
        run.main(["--only", "good", *options_])
        text = capsys.readouterr().out
        assert "The machine is busy, load 9.0" in text
        assert ("--threads 1 helps" in text) == helps


@pytest.mark.parametrize("option", ["--json", "--pictures", "--csv"])
def test_a_file_where_a_folder_is_wanted_is_refused(questions, tmp_path, capsys, option):
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file" / "x", *([] if option == "--csv" else [tmp_path / "file"])):
        assert run.main(["--only", "good", option, str(place)]) == 2
        assert "a folder is wanted at" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_what_cannot_be_written_or_repeated_is_refused_before_measuring(questions, tmp_path, capsys):
    assert run.main(["--only", "good", "--csv", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert f"a file is wanted at {tmp_path}" in err
    assert "[1/1]" not in out
    parser = options.parser("")
    bad = [["--json", str(tmp_path)], ["--json", str(tmp_path / "none" / "x.json")], ["--repeats", "0"]]
    for arguments, word in zip(bad, ("Is a directory", "No such file", "must be 1 or more; got 0"), strict=True):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(arguments)
        assert word in capsys.readouterr().err
    (tmp_path / "kept.json").write_text("kept")
    for name in ("kept.json", "new.json"):
        assert parser.parse_args(["--json", str(tmp_path / name)]).json == tmp_path / name
    assert (tmp_path / "kept.json").read_text() == "kept"
    assert not (tmp_path / "new.json").exists()


def test_everybody_says_how_long_the_quick_form_takes_alike():
    texts = [tables.README.read_text(), (tables.HERE / "README.md").read_text(), run.__doc__ or ""]
    assert all("under two minutes" in " ".join(text.split()) for text in texts)


def test_rivals_that_are_not_there_are_named(monkeypatch, capsys):
    monkeypatch.setattr(stopwatch, "PACKAGES", ("jax", "no-such-rival"))
    assert run.main(["--list"]) == 0
    assert "left out: no-such-rival" in (text := capsys.readouterr().out)
    assert "pip install 'fundl[bench]'" in text
    assert all(name in text for name in run.QUESTIONS)


def test_every_question_has_its_module_and_takes_the_shared_options():
    for question in run.QUESTIONS.values():
        text = (tables.HERE / f"{question.module}.py").read_text()
        assert "options.parser(" in text
        assert "options.sizes(" in text
        assert ("options.wanted(" in text) == question.choice


def test_sizes_are_read_and_what_is_not_there_is_said(capsys):
    def given(text):
        return options.parser("").parse_args(text.split())

    assert options.shape("1e5x100") == (100_000, 100)
    assert options.sizes(given(""), ["a", "b"], ["q"]) == ["a", "b"]
    assert options.sizes(given("--quick"), ["a", "b"], ["q"]) == ["q"]
    assert options.sizes(given("--size b,5x2,7"), ["a", "b"], dimensions=[2]) == ["b", "5x2"]
    assert "no size 7; there are: a, b, or any NxD" in capsys.readouterr().err
    assert options.sizes(given("--size b,0x2,infx2,abcx2"), ["b"], dimensions=[2]) == ["b"]
    assert options.wanted(given("--rivals Torch,glum"), "torch L-BFGS")
    assert not options.wanted(given("--rivals Torch,glum"), "sklearn saga")
    with pytest.raises(SystemExit) as caught:
        options.sizes(given("--size 7"), [])
    assert caught.value.code == options.NOT_HERE


def test_results_of_every_question_are_read_as_rows():
    for path in records.RESULTS.glob("*.json"):
        rows = records.records(path.stem, json.loads(path.read_text()))
        assert rows, path
        assert len({(r.case, r.name) for r in rows}) == len(rows), path
        if path.stem not in ("limits", "floors", "wrong_autodiff", "examiner", "accuracy"):  # no times, or no rivals
            assert any(own.own and rival for own, rival in records.against_rivals(rows)), path


# ---- the physical limit ----------------------------------------------------------------------------------------------


def test_limits_count_the_work_and_the_harness_costs_little():
    rows = limits.products(64, np.float32, 2) + limits.bandwidth(1, 2)
    for r in rows:
        work = {"GEMM": 2 * 64**3, "SYRK": 4 * 64**3, "copy": 2 * 2**20}[r["problem"]]
        assert r["rate"] == pytest.approx(work / r["seconds"] / 1e9)
    assert limits.peak("GEMM", "float32", rows) == max(r["rate"] for r in rows if r["problem"] == "GEMM")
    nothing, dispatch = limits.overheads(20)
    assert nothing["seconds"] < dispatch["seconds"]


def test_limits_have_a_table(tmp_path, monkeypatch):
    rows = limits.products(8, np.float32, 1) + limits.products(8, np.float64, 1) + limits.overheads(1)
    text = layouts.limits({"results": rows})
    assert len(text.splitlines()) == 2 + 4 + 2
    assert all(line.count("|") == 6 for line in text.splitlines())


def test_what_fundl_loses_is_listed():
    own = records.Record("made_up", "9x2", "fundl", 0.003, 0.0, {"digits": 16.0})
    rival = records.Record("made_up", "9x2", "rival", 0.002, 0.0, {"digits": 7.0})

    def rows(*given):
        return tables.losing(list(given)).splitlines()[2:]

    assert rows(own, rival) == ["| made_up | 9x2 | 3 | 16 digits | rival | 2 | 7 digits | 1.50 |"]
    assert rows(own, dataclasses.replace(rival, numbers={"digits": 0.2})) == []  # it solves nothing
    assert rows(dataclasses.replace(own, seconds=0.001), rival) == []


def test_the_summary_counts_wins_and_names_the_ends():
    rows = [
        records.Record("sweep", case, name, seconds, 0.0, {})
        for case, times in (("a", (1.0, 2.0)), ("b", (3.0, 2.0)), ("c", (2.0, 2.0)))
        for name, seconds in zip(("fundl", "rival"), times, strict=True)
    ]
    about = run.QUESTIONS["sweep"].about
    assert tables.summary(rows).splitlines()[2:] == [f"| {about} | 2 of 3 | 1.00 | 0.50 a (rival) | 1.50 b (rival) |"]


def test_one_extra_installs_every_rival():
    extra = tomllib.loads((tables.HERE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"][
        "bench"
    ]
    of_fundl = {"jax", "jaxlib", "optax", "numpy", "scipy"}  # fundl's own, or jax's
    assert set(stopwatch.PACKAGES) - of_fundl <= {re.split("[>=]", name)[0] for name in extra}


def test_the_fused_cross_entropy_has_rows_and_a_table():
    rows = bench_linear_cross_entropy.at_size("8x4x16", 1, lambda name: name == "plain: optax")
    assert [r["name"] for r in rows] == ["fundl.linear_cross_entropy", "plain: optax"]
    assert all(r["error"] < 1e-5 and r["MB"] >= 0 for r in rows)
    assert len(layouts.linear_cross_entropy({"results": rows}).splitlines()) == 2 + 2


def test_a_floor_counts_no_more_products_than_there_are_directions():
    data = problems.normal(300, 3, 1)
    found = logistic_regression.fit(data.X, data.y, l2=1.0)
    f, bare = float(found.certificate.objective), bench_floors.Bare(data)
    theta = np.append(np.asarray(found.params.w), float(found.params.b))[:, None]
    needed = [bench_floors.least_products(bare, theta, f, goal) for goal in (1.0, 1e-2, 1e-10)]
    assert needed[0] == 0  # from 0 it is that near
    assert needed[0] < needed[1] < needed[2] <= 4  # three columns and the intercept
    steps = [bench_floors.least_newton_steps(bare, theta.shape, f, goal) for goal in (1.0, 1e-2, 1e-10)]
    assert steps[0] == 0 < steps[1] < steps[2] <= 5


def test_a_floor_is_no_rival():
    times = {"another": stopwatch.Timing(2.0, (2.0, 2.0)), "fundl": stopwatch.Timing(1.0, (1.0, 3.0))}
    row = bench_floors.row("fit", "9x9", "float64", 0.1, 1.0, "a Hessian", times, "another")
    assert row["fundl over rival"] == 1.0
    assert row["floor over rival"] == 0.5
    (found,) = records.records("floors", {"results": [row]})
    assert not found.solves
    assert not found.own


def test_floors_leave_out_rivals_that_are_not_there(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    monkeypatch.setattr(sys, "argv", ["bench_floors", "--quick", "--json", str(tmp_path / "floors.json")])
    bench_floors.main()
    assert "left out: 100x5, for sklearn" in capsys.readouterr().out
    assert json.loads((tmp_path / "floors.json").read_text())["results"] == []
