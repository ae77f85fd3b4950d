"""The fitted exponents are those of the times, and the pictures show every rival at its size."""

import numpy as np
import pytest

from benchmarks import bench_growth, layouts, options, pictures, records


def rows(power, sizes=("1e2x5", "1e3x5", "1e4x5")):
    return [
        {"problem": "made up along n", "size": s, "name": who, "seconds": c * options.shape(s)[0] ** power, "digits": 9}
        for who, c in (("fundl", 1e-6), ("rival", 3e-6))
        for s in sizes
    ]  # fmt: skip


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_exponents_are_those_of_the_times(power):
    found = bench_growth.exponents(rows(power))
    assert [r["name"] for r in found] == ["fundl", "rival"]
    assert [r["exponent"] for r in found] == pytest.approx([power, power])
    assert f"| {power:.2f} | rival {power:.2f} |" in layouts.growth({"exponents": found})


def test_two_sizes_have_no_exponent_and_the_slope_is_least_squares():
    assert bench_growth.exponents(rows(1.0, ("1e2x5", "1e3x5"))) == []
    noisy = np.array([1.0, 2.0, 8.0, 9.0])
    expected = np.polyfit(np.log([1, 2, 4, 8]), np.log(noisy), 1)[0]
    assert bench_growth.slope([1, 2, 4, 8], list(noisy)) == pytest.approx(expected)


def test_the_sizes_of_a_series_differ_in_one_number():
    for _, alongs in bench_growth.SERIES.values():
        for sizes in alongs.values():
            assert len(sizes) >= 3
            shapes = np.array([options.shape(s) for s in sizes])
            assert sum(np.ptp(shapes, axis=0) > 0) == 1


def test_sizes_are_found_in_cases():
    assert pictures.entries("1e5x100 float64") == 1e7
    assert pictures.entries("mse 128x10") == 1280
    assert pictures.entries("softmax along n 1e3x20x5") == 1e5
    assert pictures.entries("breast cancer, bootstrap") is None


def test_a_picture_is_drawn_for_every_question_with_times(tmp_path):
    pytest.importorskip("matplotlib")
    found = records.records("made_up", {"results": rows(1.0)})
    assert list(pictures.problems(found)) == ["made up along n"]
    pictures.save("made_up", found, tmp_path)
    pictures.save("nothing", [], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["made_up.png"]
    assert (tmp_path / "made_up.png").stat().st_size > 5000
