"""The gate between two results files, or folders of them: what fundl lost from the first to the second.

    python -m benchmarks.compare BASE HEAD

Exit status 1 when, in a case that both measured, fundl
- is slower by 15 percent and by more than the noise: half a millisecond, and three times the spread of the rounds;
- takes more memory or operations than before by the account of the compiled program, which has no noise;
- has lost half a digit, makes an error ten times as large, or ends at a loss 1 percent larger;
- catches or explains fewer of the wrong rules, or accuses more of the right ones;
- has no number, or NaN, where it had one.
Rows and questions that only the first has are named, and are no loss. Exit status 2 when there is nothing to compare.
A machine that is slower in the second run slows the rivals too: times are divided by the rivals' median slowdown,
where that is above 1. Counts are comparable only between equal versions of jax; where they differ, that is said.
"""

import argparse
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks import records, stopwatch

SLOWER, MARGIN = 1.15, 0.5e-3  # as a ratio, and in seconds
LOST = {  # more than this
    "digits": 0.5, "all": 0.0, **dict.fromkeys(records.NAMED, 1.0), **dict.fromkeys(records.TRUE, 0.0),
}  # fmt: skip
GROWN = {  # this many times, and above the second: below it nothing is lost, however much it grew
    "error": (10.0, 1e-12), "difference": (10.0, 1e-12), "reached": (10.0, 1e-10),
    "value": (10.0, 1.0), "gradient": (10.0, 1.0),  # in units of the last place
    "loss": (1.01, 0.0), "false alarms": (1.0, 0.0),
}  # fmt: skip

Rows = dict[tuple[str, str], records.Record]


def slowdown(base: Rows, head: Rows) -> float:
    """By how much the rivals, which have not changed, are slower: the machine's part."""
    ratios = [
        head[key].seconds / row.seconds
        for key, row in base.items()
        if key in head and not row.own and row.seconds and head[key].seconds
    ]  # fmt: skip
    return max(1.0, statistics.median(ratios)) if ratios else 1.0


def slower(base: records.Record, head: records.Record, machine: float = 1.0) -> str:
    if base.seconds is None:
        return ""
    if head.seconds is None:
        return f"the time is missing or NaN, was {1e3 * base.seconds:.3g} ms"
    now = head.seconds / machine
    noise = 3 * max(base.spread * base.seconds, head.spread * now)
    if now > SLOWER * base.seconds and now - base.seconds > max(MARGIN, noise):
        return f"slower: {1e3 * base.seconds:.3g} -> {1e3 * now:.3g} ms ({now / base.seconds:.2f} times)"
    return ""


def counts(base: records.Record, head: records.Record) -> list[str]:
    both = [k for k in records.COUNTS if k in base.numbers and k in head.numbers]
    return [
        f"more {k}: {base.numbers[k]:.6g} -> {head.numbers[k]:.6g}" for k in both if head.numbers[k] > base.numbers[k]
    ]


def accuracy(base: records.Record, head: records.Record) -> list[str]:
    found = []
    for k, old in base.numbers.items():
        new = head.numbers.get(k, math.nan)
        times, floor = GROWN.get(k, (1.0, math.inf))
        if math.isnan(new) and not math.isnan(old):
            found.append(f"{k} is missing or NaN, was {old:.3g}")
        elif old - new > LOST.get(k, math.inf) or new > max(times * old, floor):
            found.append(f"less accurate: {k} {old:.3g} -> {new:.3g}")
    return found


def compare(question: str, base: dict[str, Any], head: dict[str, Any]) -> tuple[list[str], list[str], int]:
    """What fundl lost, what else is to be said, and how many of its rows both have."""
    old, new = ({(r.case, r.name): r for r in records.records(question, found)} for found in (base, head))
    lost, notes = [], []
    machine = slowdown(old, new)
    if machine > SLOWER:
        notes.append(f"{question}: the rivals are {machine:.2f} times slower, and fundl's times are divided by that")
    versions = [
        [found.get("machine", {}).get("versions", {}).get(k) for k in ("jax", "jaxlib")] for found in (base, head)
    ]
    if versions[0] != versions[1]:
        notes.append(f"{question}: jax and jaxlib {versions[0]} against {versions[1]}: counts are not compared")
    own = [key for key, row in old.items() if row.own]
    for key in own:
        where = " ".join(filter(None, (question, *key)))
        if key not in new:
            notes.append(f"{where}: not measured in the second")
            continue
        found = [slower(old[key], new[key], machine), *accuracy(old[key], new[key])]
        if versions[0] == versions[1]:
            found += counts(old[key], new[key])
        lost += [f"{where}: {text}" for text in found if text]
    return lost, notes, sum(key in new for key in own)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("head", type=Path)
    given = parser.parse_args(argv)
    base, head = records.read(given.base), records.read(given.head)
    if not (given.base.is_dir() or given.head.is_dir()):  # two files are one question, whatever their names
        head = dict(zip(base, head.values(), strict=True))
    lost, compared, rows = [], 0, []
    for question in base:
        if question not in head:
            print(f"note: {question}: not measured in the second")
            continue
        worse, notes, count = compare(question, base[question], head[question])
        lost += worse
        compared += count
        rows.append((question, count, len(worse)))
        for note in notes:
            print("note:", note)
    print(stopwatch.table(sorted(rows), ("question", "rows of fundl compared", "lost")))
    if not compared:
        print("nothing to compare: the two have no row of fundl in common", file=sys.stderr)
        return 2
    for text in lost:
        print("LOST", text)
    print(f"{len(lost)} losses in {compared} rows" if lost else f"nothing lost in {compared} rows")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
