"""The path begins where w = 0 stops being the optimum, and a solver that stops short is not counted."""

import numpy as np

from benchmarks import bench_l1_paths as paths
from benchmarks import layouts, problems

DATA = problems.normal(80, 4, 1)


def test_the_path_begins_just_below_the_penalty_that_makes_w_zero():
    l1s = paths.penalties(DATA, 3)
    top = l1s[0] / 0.99
    w = paths.of_fundl(DATA, np.array([1.01 * top, l1s[0], l1s[2]]))(1e-9)
    assert np.count_nonzero(w[0]) == 0
    assert 0 < np.count_nonzero(w[1]) <= np.count_nonzero(w[2])
    assert l1s[2] == 0.01 * top


def test_only_paths_that_reach_the_optimum_count():
    l1s = paths.penalties(DATA, 2)
    exact = paths.of_fundl(DATA, l1s)(0.0)
    best = [paths.objective(DATA, l1, w) for l1, w in zip(l1s, exact, strict=True)]
    assert paths.reaching(lambda tol: exact + tol, DATA, l1s, best)[0] < 1e-3
    tol, worst = paths.reaching(lambda tol: exact * 1.01, DATA, l1s, best)
    assert tol is None
    assert worst > paths.GOAL


def test_rows_make_a_table():
    rows, left_out = paths.run("60x3", 2, 1, lambda name: False)
    assert [r["name"] for r in rows] == ["fundl", "fundl, fit by fit", "fundl, one program"]
    assert not left_out
    assert all(r["reached"] <= paths.GOAL for r in rows)
    assert layouts.l1_paths({"results": rows}).splitlines()[2].startswith("| 60x3, 2 |")
