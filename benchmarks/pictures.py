"""One picture a question: time against size on log axes, and what was reached against time.

    python -m benchmarks.pictures benchmarks/results FOLDER [--format svg]

A row of the picture is one problem; fundl is the thick line. Problems of one size only show their accuracy.
"""

import argparse
import math
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks import options, records

SIZE = re.compile(r"(?<!\S)\d[\d.]*(?:e\d+)?(?:x\d[\d.]*(?:e\d+)?)*(?!\S)")


def entries(case: str) -> float | None:
    """The number of entries of the size that a case names: 1e5x100 has 1e7."""
    found = SIZE.search(case)
    return float(math.prod(options.shape(found[0]))) if found else None


def problems(rows: list[records.Record]) -> dict[str, dict[str, list[records.Record]]]:
    """Timed rows by problem, the case without its size, and by name; by size within."""
    found: dict[str, dict[str, list[records.Record]]] = {}
    for row in rows:
        if row.seconds:
            problem = " ".join(SIZE.sub("", row.case).split())
            found.setdefault(problem, {}).setdefault(row.name, []).append(row)
    for by_name in found.values():
        for mine in by_name.values():
            mine.sort(key=lambda r: entries(r.case) or 0)
    return found


def draw(question: str, rows: list[records.Record], path: Path) -> bool:
    """Write the picture of one question; False if it has no times."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = problems(rows)
    if not groups:
        return False
    figure = Figure(figsize=(11, 3.4 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(groups), 2, squeeze=False)
    for (left, right), (problem, by_name) in zip(axes, groups.items(), strict=True):
        title = " ".join(filter(None, (question, problem)))
        for i, (name, mine) in enumerate(by_name.items()):
            style: dict[str, Any] = {"color": f"C{i % 10}", "lw": 2.5 if mine[0].own else 1, "label": name}
            _sizes(left, mine, style)
            _reached(right, mine, style)
        left.set(title=title, xlabel="entries", ylabel="seconds", xscale="log", yscale="log")
        right.set(title="what was reached", xlabel="seconds", xscale="log")
        left.legend(fontsize="x-small")
    figure.savefig(path)
    return True


def _sizes(axis: Any, mine: list[records.Record], style: dict[str, Any]) -> None:
    """Time against size, with the spread of the rounds."""
    seconds = [r.seconds or 0 for r in mine]
    spread = [r.spread * (r.seconds or 0) for r in mine]
    axis.errorbar([entries(r.case) or 1 for r in mine], seconds, yerr=spread, marker="o", ms=4, capsize=2, **style)


def _reached(axis: Any, mine: list[records.Record], style: dict[str, Any]) -> None:
    """Digits against time; an error is shown as the digits that it leaves."""
    points = [(r.seconds, _digits(r)) for r in mine if _digits(r) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), "o", color=style["color"], ms=7 if mine[0].own else 4)
        axis.set_ylabel("digits")


def _digits(row: records.Record) -> float | None:
    if "digits" in row.numbers:
        return row.numbers["digits"]
    lost = next((row.numbers[k] for k in ("error", "reached") if k in row.numbers), None)
    return None if lost is None or lost != lost else -math.log10(min(max(lost, 1e-17), 1e3))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", choices=["png", "svg"], default="png")
    given = parser.parse_args(argv)
    for question, found in records.read(given.results).items():
        save(question, records.records(question, found), given.folder, given.format)
    return 0


def save(question: str, rows: list[records.Record], folder: Path, form: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{question}.{form}"
    if draw(question, rows, path):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
