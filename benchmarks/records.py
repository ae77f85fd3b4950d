"""Results files of every question, read as rows of one form: what was measured, of whom, and what came out."""

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

RESULTS = Path(__file__).parent / "results"
TIMES = {"seconds": 1.0, "ms": 1e-3, "s": 1.0, "step_ms": 1e-3, "wall": 1.0}  # to seconds
COUNTS = ("operations", "bytes", "memory", "MB")  # of compiled programs: free of noise
TRUE = ("rule passes", "right passes", "one entry 1 percent caught", "index named", "same penalty")  # or false
NAMED = ("cause named, percent", "index given, percent")  # of what the examiner catches
HIGHER = ("digits", "all", "rate", *NAMED, *TRUE)  # the more the better: digits, percent caught, work a second
LOWER = ("error", "reached", "difference", "value", "gradient", "loss", "false alarms")
LABELS = ("problem", "function", "operation", "case", "network", "batch", "size", "dtype", "n")
PLAIN = ("results", "cases", "problems", "caught, percent")  # names that only hold rows


@dataclasses.dataclass(frozen=True)
class Record:
    """One row: `numbers` are its counts and what it reached, `spread` that of its rounds over their median."""

    question: str
    case: str
    name: str
    seconds: float | None
    spread: float
    numbers: Mapping[str, float]

    @property
    def own(self) -> bool:
        return self.name.startswith("fundl")

    @property
    def solves(self) -> bool:
        """Is there a digit in it? And a limit is no rival."""
        return self.numbers.get("digits", 1.0) >= 1 and not self.name.startswith("limit")

    @property
    def accuracy(self) -> str:
        """What it reached, in words, or nothing."""
        forms = {"error": "error {:.2g}", "reached": "f* + {:.2g} f*", "digits": "{:.3g} digits"}
        return next((text.format(self.numbers[k]) for k, text in forms.items() if k in self.numbers), "")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The results of a file, or of every file in a folder, by question; exit status 2 where they cannot be read."""
    found = {}
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        try:
            found[file.stem] = json.loads(file.read_text())
        except (OSError, ValueError) as why:
            _refuse(f"no results at {file}: {why}")
        if not isinstance(found[file.stem], dict):
            _refuse(f"no results at {file}: it holds no JSON object")
    if not found:
        _refuse(f"no results at {path}: it holds no file that ends in .json")
    return found


def _refuse(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise SystemExit(2)  # 1 is the gate's word for a loss


def records(question: str, found: dict[str, Any]) -> list[Record]:
    """Every row of a results file that holds a time, a count or an accuracy, though it be null."""
    rows = [r for key, value in found.items() if key != "machine" for r in _walk(question, key, value, ())]
    if "false alarms" in found:  # the examiner's: what it says of fundl in no row
        said = {"false alarms": len(found["false alarms"]["fundl"]), **{k: found[k] for k in NAMED if k in found}}
        rows += _walk(question, "fundl", said, ())
    return rows


def _walk(question: str, key: str, node: Any, trail: tuple[str, ...]) -> Iterator[Record]:
    if isinstance(node, list):
        trail = trail if key in PLAIN else (*trail, key)
        for entry in node:
            yield from _walk(question, "", entry, trail)
    if not isinstance(node, dict):
        return
    seen = " ".join(trail).split()
    labels = tuple(str(node[k]) for k in LABELS if k in node and str(node[k]) not in (*seen, *key.split()))
    known = (*TIMES, *COUNTS, *HIGHER, *LOWER)
    told = {k: node[k] for k in known if isinstance(node.get(k, ""), int | float | None)}
    there = {k: float(v) for k, v in told.items() if v is not None}
    unit = next((k for k in TIMES if k in there and not math.isnan(there[k])), None)
    numbers = {k: v for k, v in there.items() if k not in TIMES}
    if told:
        yield Record(
            question, " ".join((*trail, *labels)), str(node.get("name", key or "fundl")),
            TIMES[unit] * there[unit] if unit else None, float(node.get("spread") or 0.0), numbers,
        )  # fmt: skip
    inner = trail if key in (*PLAIN, "") or unit else (*trail, key)
    for k, value in node.items():
        yield from _walk(question, k, value, (*inner, *labels))


def against_rivals(rows: list[Record]) -> list[tuple[Record, Record | None]]:
    """fundl's row of each case with the fastest rival's, in the order of the results."""
    cases: dict[tuple[str, str], list[Record]] = {}
    for row in rows:
        if row.seconds is not None:
            cases.setdefault((row.question, row.case), []).append(row)
    found = []
    for here in cases.values():
        own = [r for r in here if r.own]
        rivals = [r for r in here if not r.own and r.solves]
        if own:
            found.append((own[0], min(rivals, key=lambda r: r.seconds or 0.0, default=None)))
    return found
