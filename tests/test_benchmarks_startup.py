"""Fresh processes are timed beyond Python's own start, and what is not installed is left out, not failed."""

import pytest

from benchmarks import bench_startup, layouts, records


def test_a_process_is_timed_beyond_one_that_does_nothing(capsys):
    codes = {"fundl": "", "slow": "import time; time.sleep(0.3)", "absent": "import no_such_module"}
    quick, slow = bench_startup.processes("import", codes, 2)
    assert quick["seconds"] < 0.2 < slow["seconds"]
    assert slow["name"] == "slow"
    assert "left out: absent" in capsys.readouterr().out


def test_code_that_fails_is_not_left_out_in_silence():
    with pytest.raises(RuntimeError, match="fundl: ValueError"):
        bench_startup.processes("import", {"fundl": "raise ValueError"}, 1)


def test_calls_and_compilation_have_rows_and_a_table(monkeypatch):
    monkeypatch.setattr(bench_startup.jax, "clear_caches", lambda: None)  # other tests have theirs
    rows = bench_startup.compilation(1, ("mse and gradient",)) + bench_startup.calls(2)
    assert rows[0]["problem"] == "compile mse and gradient"
    assert all(r["seconds"] > 0 for r in rows)
    text = layouts.startup({"results": rows})
    assert "| call mse and gradient |" in text
    for own, rival in records.against_rivals(records.records("startup", {"results": rows})):
        assert own.name == "fundl"
        assert rival is not None
        assert not rival.name.startswith("limit")
