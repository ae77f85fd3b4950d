"""The command line that every question shares, so that one name means the same in all of them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

NOT_HERE = 3  # the exit status of a question that has nothing of the size asked for


def shape(size: str) -> tuple[int, ...]:
    """The numbers of a size: 1e5x100 is (100000, 100)."""
    return tuple(int(float(part)) for part in size.split("x"))


def parser(doc: str | None, *, repeats: int = 5) -> argparse.ArgumentParser:
    """--quick, --size, --rivals, --repeats and --json, as every question has them."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="small sizes: seconds instead of minutes, to see it work")
    found.add_argument("--size", type=_words, default=[], help="only these sizes, with commas between: 1e5x100,100x5")
    found.add_argument("--rivals", type=_words, default=[], help="only rivals whose name holds one of these words")
    found.add_argument("--repeats", type=_count, default=repeats, help="rounds, after one that warms up")
    found.add_argument("--json", type=_file, help="write the results to this file")
    return found


def writable(path: Path) -> None:
    """OSError where this file cannot be written: known now, and not after hours of measuring."""
    new = not path.exists()
    path.open("a").close()
    if new:
        path.unlink()


def _file(text: str) -> Path:
    try:
        writable(Path(text))
    except OSError as why:
        raise argparse.ArgumentTypeError(f"cannot be written: {why}") from None
    return Path(text)


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {text}")
    return int(text)


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def sizes(
    given: argparse.Namespace, named: Sequence[str], quick: Sequence[str] = (), dimensions: Sequence[int] = ()
) -> list[str]:
    """The sizes to measure: those asked for, else all or the quick ones. Free ones have as many numbers as allowed."""
    if not given.size:
        return list(quick if given.quick and quick else named)
    known = [size for size in given.size if size in named or _has(size, dimensions)]
    if unknown := [size for size in given.size if size not in known]:
        forms = {1: "N", 2: "NxD", 3: "NxDxK"}
        free = "".join(f", or any {forms[k]}" for k in dimensions)
        there = f"there are: {', '.join(named)}{free}" if named else "it has no sizes to choose from"
        print(f"{_module()}: no size {', '.join(unknown)}; {there}", file=sys.stderr)
    if not known:
        raise SystemExit(NOT_HERE)
    return known


def _has(size: str, dimensions: Sequence[int]) -> bool:
    try:
        found = shape(size)
    except (ValueError, OverflowError):  # abc, inf
        return False
    return len(found) in dimensions and min(found) > 0


def wanted(given: argparse.Namespace, rival: str) -> bool:
    if given.quick and "sag" in rival:  # scikit-learn's sag and saga take as long as all others together
        return False
    return not given.rivals or any(word.lower() in rival.lower() for word in given.rivals)


def no_rivals(given: argparse.Namespace) -> None:
    """Said by a question whose rivals cannot be chosen."""
    if given.rivals:
        print(f"{_module()}: --rivals is not known here; all are measured", file=sys.stderr)


def _module() -> str:
    return Path(sys.argv[0]).stem
