"""Results files of every question, read as rows of one form: what was measured, of whom, and what came out."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
TIMES = {"seconds": 1.0, "ms": 1e-3, "s": 1.0, "step_ms": 1e-3, "wall": 1.0}  # to seconds
COUNTS = ("operations", "bytes", "memory", "MB")  # of compiled programs: free of noise
HIGHER = ("digits", "all", "rate")  # the more the better: digits, percent caught, work a second
LOWER = ("error", "reached", "value", "gradient")
LABELS = ("problem", "case", "network", "batch", "size", "dtype")
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
    """The results of a file, or of every file in a folder, by question."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise SystemExit(f"no results at {path}")
    return {file.stem: json.loads(file.read_text()) for file in files}


def records(question: str, found: dict[str, Any]) -> list[Record]:
    """Every row of a results file that holds a time, a count or an accuracy."""
    return [r for key, value in found.items() if key != "machine" for r in _walk(question, key, value, ())]


def _walk(question: str, key: str, node: Any, trail: tuple[str, ...]) -> Iterator[Record]:
    if isinstance(node, list):
        trail = trail if key in PLAIN else (*trail, key)
        for entry in node:
            yield from _walk(question, "", entry, trail)
    if not isinstance(node, dict):
        return
    seen = " ".join(trail).split()
    labels = tuple(str(node[k]) for k in LABELS if k in node and str(node[k]) not in (*seen, *key.split()))
    unit = next((k for k in TIMES if isinstance(node.get(k), int | float)), None)
    numbers = {k: float(node[k]) for k in (*COUNTS, *HIGHER, *LOWER) if isinstance(node.get(k), int | float)}
    if unit or numbers:
        yield Record(
            question, " ".join((*trail, *labels)), str(node.get("name", key or "fundl")),
            TIMES[unit] * node[unit] if unit else None, float(node.get("spread", 0.0)), numbers,
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
