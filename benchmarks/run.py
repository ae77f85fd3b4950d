"""Every question, one after another: fundl against its rivals, with what each reached.

    python -m benchmarks.run                                    all of it, hours
    python -m benchmarks.run --quick                            small sizes, under two minutes
    python -m benchmarks.run --only logistic_regression --size 1e5x100 --rivals sklearn,torch

Each question is a process of its own, so that one that fails does not lose the others; exit status 1 if any did.
Results go to --json FOLDER (the tracked ones are in benchmarks/results); --csv writes all of them as one table.
"""

import argparse
import csv
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import options, pictures, records, stopwatch

ROOT = Path(__file__).parent.parent
PACKAGE = "benchmarks."


@dataclasses.dataclass(frozen=True)
class Question:
    """A module, what it asks, and how its quick form is called; its results file has the question's name.

    `choice`: are its rivals those that --rivals names? If not, it says so and measures all that it has.
    """

    module: str
    about: str
    quick: tuple[str, ...] = ("--quick",)
    full: tuple[str, ...] = ()
    choice: bool = True


QUESTIONS = {
    "limits": Question("limits", "what this machine can do, and what measuring costs", choice=False),
    "floors": Question(
        "bench_floors", "the bare products of the plain methods, beside fundl and a rival", choice=False
    ),
    "wrong_autodiff": Question("wrong_autodiff", "where jax.grad itself is wrong", choice=False),
    "losses": Question("bench_losses", "losses and activations: value with gradient, error, operations"),
    "accuracy": Question("bench_accuracy", "losses and activations: digits over the whole range, value and gradient"),
    "mlp": Question("bench_mlp", "a training step, and its gradient by hand against jax.grad"),
    "least_squares": Question("bench_least_squares", "least squares: time and digits"),
    "logistic_regression": Question("bench_logistic_regression", "logistic and softmax fits, all to the same optimum"),
    "sweep": Question("bench_sweep", "many fits in one program", choice=False),
    "l1_paths": Question("bench_l1_paths", "sparse logistic regression along a path of penalties"),
    "linear_cross_entropy": Question("bench_linear_cross_entropy", "the fused cross-entropy: time, memory, error"),
    "startup": Question("bench_startup", "imports, the first result, compilation, small calls", choice=False),
    "growth": Question("bench_growth", "how cost grows with size"),
    "examiner": Question(
        "bench_examiner", "wrong gradients caught, right ones accused",
        ("--quick", "--parts", "mse", "--skip", "differences,float32"), ("--jobs", "2"), choice=False,
    ),
}  # fmt: skip


def unknown_rivals(words: list[str], names: list[str]) -> str:
    """What is wrong with --rivals: a word that no rival's name holds in the tracked results of these questions."""
    asked = {name for name in names if QUESTIONS[name].choice}
    paths = [path for name in asked if (path := records.RESULTS / f"{name}.json").exists()]
    tracked = {name: found for path in sorted(paths) for name, found in records.read(path).items()}
    if not asked or asked - tracked.keys():  # none can be chosen, or not all that there are can be known
        return ""
    there = dict.fromkeys(r.name for name, found in tracked.items() for r in records.records(name, found) if not r.own)
    left_out = [text for found in tracked.values() for text in found.get("missing", [])]
    known = "\n".join([*there, *left_out]).lower()
    unknown = [word for word in words if word.lower() not in known]
    return f"no rival {', '.join(unknown)}; there are: {'; '.join(there)}" if unknown else ""


def command(question: Question, given: argparse.Namespace, results: Path) -> list[str]:
    """What is asked of one module; those that lack an option say so themselves."""
    flags = [*(question.quick if given.quick else question.full), "--json", str(results)]
    for name in ("size", "rivals"):
        if getattr(given, name):
            flags += [f"--{name}", getattr(given, name)]
    return [sys.executable, "-W", "ignore", "-m", f"{PACKAGE}{question.module}", *flags]


def pin(threads: int | None) -> dict[str, str]:
    """The environment with every library held to as many threads: by affinity (XLA asks for it) and by name."""
    if threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    count = str(threads or stopwatch.cores())
    pinned = {f"{name}_NUM_THREADS": count for name in ("OPENBLAS", "OMP", "MKL", "NUMBA")}
    found = os.environ | pinned
    found["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return found


def measure(name: str, given: argparse.Namespace, folder: Path, environment: dict[str, str]) -> str:
    """Run one question; 'done', 'left out' or 'failed'. What it prints is kept beside its results."""
    log = folder / f"{name}.log"
    with log.open("w") as out:
        todo = command(QUESTIONS[name], given, folder / f"{name}.json")
        code = subprocess.run(todo, stdout=out, env=environment, check=False).returncode
    if given.verbose:
        print(log.read_text())
    log.unlink()
    if code == options.NOT_HERE:
        return "left out"
    return "failed" if code else "done"


def summary(rows: list[records.Record]) -> str:
    """fundl against the fastest rival of every case, with what both reached."""
    lines = []
    for own, rival in records.against_rivals(rows):
        ms = 1e3 * (own.seconds or 0)
        if rival is None:
            lines.append((own.question, own.case, ms, own.accuracy, "", "", "", ""))
            continue
        ratio = (own.seconds or 0) / (rival.seconds or 1)
        verdict = f"{ratio:.2f}" + (" fundl loses" if ratio > 1 else "")
        lines.append(
            (own.question, own.case, ms, own.accuracy, rival.name, 1e3 * rival.seconds, rival.accuracy, verdict)
        )
    head = ("question", "case", "fundl, ms", "reached", "fastest rival", "ms", "reached", "fundl / it")
    return stopwatch.table(lines, head)


def write_csv(path: Path, rows: list[records.Record]) -> None:
    keys = (*records.COUNTS, *records.HIGHER, *records.LOWER)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["question", "case", "name", "seconds", "spread", *keys])
        for r in rows:
            out.writerow([r.question, r.case, r.name, r.seconds, r.spread, *(r.numbers.get(k, "") for k in keys)])


def arguments(argv: list[str] | None) -> argparse.Namespace:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--list", action="store_true", help="name the questions and the rivals, and stop")
    found.add_argument("--quick", action="store_true", help="every question at small sizes: under two minutes")
    found.add_argument("--only", metavar="NAME[,NAME]", default="", help="only these questions")
    found.add_argument("--size", default="", help="only these sizes, with commas between; others are left out")
    found.add_argument("--rivals", default="", help="only rivals whose name holds one of these words")
    found.add_argument("--threads", metavar="N", type=int, choices=range(1, stopwatch.cores() + 1),
                       help="hold every library to as many cores (default: all there are)")  # fmt: skip
    found.add_argument("--json", metavar="FOLDER", type=Path, help="keep the results here, one file a question")
    found.add_argument("--csv", metavar="FILE", type=Path, help="write every row of the results as one table")
    found.add_argument("--pictures", metavar="FOLDER", type=Path, help="draw one picture a question (matplotlib)")
    found.add_argument("--verbose", action="store_true", help="show what each question prints")
    return found.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    given = arguments(argv)
    if given.list:
        print(stopwatch.table([(name, q.about) for name, q in QUESTIONS.items()], ("question", "")))
    there = {name: version for name, version in stopwatch.versions().items() if version}
    print("Installed: " + ", ".join(f"{k} {v}" for k, v in there.items()))
    if absent := [name for name in stopwatch.PACKAGES if name not in there]:
        print(f"Not installed, left out: {', '.join(absent)}. All of them: pip install 'fundl[bench]'")
        print("(of torch the CPU build is enough: see its own page for where pip finds it).")
    if given.list:
        return 0
    names = [n for n in given.only.split(",") if n] or list(QUESTIONS)
    if unknown := [n for n in names if n not in QUESTIONS]:
        print(f"no question {', '.join(unknown)}; there are: {', '.join(QUESTIONS)}", file=sys.stderr)
        return 2
    if wrong := unknown_rivals([word for word in given.rivals.split(",") if word], names):
        print(wrong, file=sys.stderr)
        return 2
    for folder in filter(None, (given.json, given.pictures, given.csv and given.csv.parent)):
        try:  # now, and not after hours of measuring
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            print(f"a folder is wanted at {folder}: {why}", file=sys.stderr)
            return 2
    if given.csv:
        try:
            options.writable(given.csv)
        except OSError as why:
            print(f"a file is wanted at {given.csv}: {why}", file=sys.stderr)
            return 2
    environment, ends, rows = pin(given.threads), {}, []
    threads = environment["OMP_NUM_THREADS"]
    print(f"{stopwatch.processor()}, {stopwatch.cores()} cores, libraries held to {threads} threads")
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5:
        advice = "" if threads == "1" else " --threads 1 helps."
        print(f"The machine is busy, load {load:.1f}: ratios to rivals suffer, small sizes most.{advice}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.json or Path(temporary)
        for i, name in enumerate(names, 1):
            print(f"[{i}/{len(names)}] {name}: {QUESTIONS[name].about} ...", flush=True)
            start = time.perf_counter()
            ends[name] = measure(name, given, folder, environment)
            print(f"[{i}/{len(names)}] {name}: {ends[name]}, {time.perf_counter() - start:.0f} s", flush=True)
            if ends[name] == "done":
                rows += records.records(name, records.read(folder / f"{name}.json")[name])
    if set(ends.values()) == {"left out"}:
        print(f"nothing measured: no question has the size {given.size}", file=sys.stderr)
        return 2
    print(f"\n{summary(rows)}")
    if given.csv:
        write_csv(given.csv, rows)
    if given.pictures:
        for name in dict.fromkeys(r.question for r in rows):
            pictures.save(name, [r for r in rows if r.question == name], given.pictures)
    failed = [name for name, end in ends.items() if end == "failed"]
    if failed:
        print(f"failed, see above: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
