"""Write the tables of the READMEs and of RESULTS.md from the tracked results: python -m benchmarks.tables [--check]."""

import argparse
import functools
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import layouts, records, run

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PAGES = (README, HERE / "README.md", HERE / "RESULTS.md")


def render(text: str, found: dict[str, dict[str, Any]]) -> str:
    """The text with each list and table between its markers written anew from the results."""
    rows = [r for name, file in found.items() for r in records.records(name, file)]
    bodies: dict[str, Callable[[], str]] = {
        "questions": questions,
        "losing": functools.partial(losing, rows),
        "summary": functools.partial(summary, rows),
        "versions": functools.partial(versions, found),
    }
    for name, layout in layouts.TABLES.items():
        if name in found:  # else not measured yet: its place stays empty
            bodies[f"benchmarks: {name}"] = functools.partial(table, layout, found[name])
    for name, body in bodies.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda m, body=body: f"{m[1]}{body()}\n{m[2]}", text)
    return text


def table(layout: Callable[[dict[str, Any]], str], found: dict[str, Any]) -> str:
    """The table of a question with the machine it was measured on."""
    machine = found["machine"]
    return f"{layout(found)}\n\n{machine['cores']} cores ({machine['processor']})."


def versions(found: dict[str, dict[str, Any]]) -> str:
    """What was measured: the versions of each set of results that shares them."""
    files: dict[str, list[str]] = {}
    for name, file in found.items():
        machine = file["machine"]
        about = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v)
        files.setdefault(f"Python {machine['python']}, {about}", []).append(name)
    return "\n".join(f"- {', '.join(names)}: {about}." for about, names in files.items())


def questions() -> str:
    """What is asked, a row each."""
    rows = [f"| `{name}` | {q.about} |" for name, q in run.QUESTIONS.items()]
    return "\n".join(["| question | |", "|---|---|", *rows])


def summary(rows: list[records.Record]) -> str:
    """For each question in how many cases fundl is the fastest, and its time over the fastest rival's."""
    lines = ["| question | fastest in | middle case | best | worst |", "|---|---|---|---|---|"]
    ratios: dict[str, list[tuple[float, str]]] = {}
    for own, rival in records.against_rivals(rows):
        if rival and own.seconds and rival.seconds:
            ratios.setdefault(own.question, []).append(
                (own.seconds / rival.seconds, f"{own.case} ({rival.name})".strip())
            )
    for name in (name for name in run.QUESTIONS if name in ratios):
        cases = sorted(ratios[name])
        ahead = sum(ratio <= 1 for ratio, _ in cases)
        middle = statistics.median(ratio for ratio, _ in cases)
        ends = [f"{ratio:.2f} {case}" for ratio, case in (cases[0], cases[-1])]
        about = run.QUESTIONS[name].about
        lines.append(f"| {about} | {ahead} of {len(cases)} | {middle:.2f} | {' | '.join(ends)} |")
    return "\n".join(lines)


def losing(rows: list[records.Record]) -> str:
    """Every case in which a rival is faster, with what both reached."""
    lines = ["| question | case | fundl, ms | reached | fastest rival | ms | reached | fundl / it |", "|---" * 8 + "|"]
    for own, rival in records.against_rivals(rows):
        if rival and own.seconds and rival.seconds and own.seconds > rival.seconds:
            cells = [own.question, own.case, f"{1e3 * own.seconds:.3g}", own.accuracy, rival.name]
            cells += [f"{1e3 * rival.seconds:.3g}", rival.accuracy, f"{own.seconds / rival.seconds:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if one is stale; write nothing")
    arguments = parser.parse_args()
    found = records.read(records.RESULTS)
    for path in PAGES:
        old = path.read_text()
        new = render(old, found)
        if arguments.check and old != new:
            return 1
        if old != new:
            path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
