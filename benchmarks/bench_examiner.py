"""How good is the examiner? Wrong rules made on purpose, right rules that must pass, and the rivals on the same.

    python -m benchmarks.bench_examiner --jobs 2 --json benchmarks/results/examiner.json

Half an hour on two cores; --quick takes a few mutants of every operation, --skip leaves parts out, and with --work
FOLDER what is measured already is kept there and not measured again. A mutant counts as caught when the check fails.
Mutants are set aside as equivalent only with a reason (`EQUIVALENT` in tests/mutants.py), never because they were not
caught; mutants that choose another subgradient at a kink are conventions and not wrong.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from typing import Any

import jax
import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402

from benchmarks import options, stopwatch  # noqa: E402
from benchmarks.gradient_checkers import missing, rejected_by  # noqa: E402
from fundl import verify  # noqa: E402
from fundl.verify._examine import Examiner  # noqa: E402
from mutants import EQUIVALENT, OPERATIONS, Operation  # noqa: E402

RIVALS = ".rivals"
LIMIT = 44  # mutants of one operation, beside the rare classes

# What a diagnosis may call a planted cause; a last row left out of the cotangent is also wrong entries, say.
SYNONYMS = {
    "cotangent": {"cotangent", "entries", "reversed", "rolled", "zero", "sign", "factor", "axis"},
    "rolled": {"rolled", "reversed", "transposed"},
    "region": {"region", "saturated", "zero", "kink", "overflow"},
    "entries": {"entries"},
}


def arrays(op: Operation, seed: int, dtype: Any) -> tuple[Any, ...]:
    return tuple(
        jnp.asarray(a, dtype if a.dtype.kind == "f" else a.dtype) for a in op.sample(np.random.default_rng(seed))
    )


def population(name: str, op: Operation, limit: int) -> tuple[list[verify.Mutant], list[str]]:
    """A fixed selection of the mutants of one operation, every class in proportion, and those set aside."""
    args = arrays(op, 0, np.float64)
    dy = jnp.asarray(np.random.default_rng(1).standard_normal(jax.eval_shape(op.f, *args).shape))
    found = [m for m in verify.mutants(op.backward, dy, *args) if m.kind != "convention"]
    aside = [f"{name}: {m.name}: {EQUIVALENT[name, m.name]}" for m in found if (name, m.name) in EQUIVALENT]
    found = [m for m in found if (name, m.name) not in EQUIVALENT]
    if len(found) > limit:
        rng = np.random.default_rng(2)
        keep = set(rng.choice(len(found), limit, replace=False).tolist())
        # The rare classes are the interesting ones: they are never thinned out.
        rare = {"tail", "saturation", "zero input", "kink", "precision"}
        found = [m for i, m in enumerate(found) if i in keep or m.kind in rare]
    return found, aside


def named_right(mutant: verify.Mutant, report: verify.Report) -> bool:
    causes = {f.cause for f in report.failures}
    return bool(causes & (SYNONYMS.get(mutant.cause, set()) | {mutant.cause}))


def examined(check: Examiner, mutant: verify.Mutant) -> tuple[bool, bool, bool]:
    """Caught, cause named, an index given where the wrong gradient has one."""
    report = check.check(mutant)
    indexed = any(f.index is not None for f in report.failures)
    return not report.ok, named_right(mutant, report), indexed


def false_alarms(name: str, repeats: int) -> dict[str, Any]:
    """The right rule at every magnitude and at integers with ties and zeros, in both dtypes."""
    op, runs, alarms = OPERATIONS[name], 0, []
    for dtype in (np.float32, np.float64):
        base = arrays(op, 0, dtype)
        check = Examiner(op.f, base, budget=60_000, **op.options)
        check.keep(op.backward)
        for seed in range(repeats):
            for kind in ("typical", "times 30", "times 1e-6", "times 1e6", "times 1e-3", "integers"):
                args = [_varied(a, kind, seed) if a.dtype.kind == "f" else a for a in base]
                if op.options:  # a declared domain: the sample stays in it
                    args = list(arrays(op, seed, dtype))
                report = check.at(args, seed).check(op.backward)
                runs += 1
                if not report.ok:
                    alarms.append(f"{name} {np.dtype(dtype).name} {kind} {seed}: {report.failures[0].message}")
    return {"runs": runs, "alarms": alarms}


def _varied(a: Any, kind: str, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(a.shape)
    if kind == "integers":
        return jnp.asarray(rng.integers(-2, 3, a.shape), a.dtype)
    return jnp.asarray(x * (1.0 if kind == "typical" else float(kind.split()[1])), a.dtype)


def sizes() -> dict[str, Any]:
    """Right and slightly wrong rules from n = 1 to a million entries: alarms, the catch of one entry, time, memory."""
    out = []
    for n in (1, 10, 1_000, 10_000, 100_000, 1_000_000):
        for dtype in (np.float32, np.float64):
            x = jnp.asarray(np.random.default_rng(n).standard_normal(n), dtype)
            y = jnp.asarray(np.random.default_rng(n + 1).standard_normal(n), dtype)
            pairs = {
                "relu": (OPERATIONS["relu"], (x,)), "tanh": (OPERATIONS["tanh"], (x,)),
                "mse": (OPERATIONS["mse"], (x, y)),
                "scale_shift": (OPERATIONS["scale_shift"], (x[:, None], x[:1], y[:1])),
            }  # fmt: skip
            for name, (op, args) in pairs.items():
                check = Examiner(op.f, args)
                check.keep(op.backward)
                cold = check.check(op.backward)
                start = time.perf_counter()
                again = check.at(args, 1).check(op.backward)
                seconds = time.perf_counter() - start

                def wrong(dy: Any, *a: Any, op: Operation = op) -> Any:
                    g = op.backward(dy, *a)
                    first = g[0] if isinstance(g, tuple) else g
                    flat = first.reshape(-1).at[first.size // 2].multiply(jnp.asarray(1.01, first.dtype))
                    first = flat.reshape(first.shape)
                    return (first, *g[1:]) if isinstance(g, tuple) else first

                caught = check.check(wrong)
                named = bool(caught.failures) and bool(caught.failures[0].index) and (
                    int(np.ravel_multi_index(caught.failures[0].index, args[0].shape)) == args[0].size // 2
                )  # fmt: skip
                out.append({
                    "operation": name, "n": n, "dtype": np.dtype(dtype).name, "right passes": cold.ok and again.ok,
                    "one entry 1 percent caught": not caught.ok, "index named": named or n == 1,
                    "seconds without compiling": round(seconds, 3),
                    "peak memory so far, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                })  # fmt: skip
                print(f"sizes: {out[-1]}", file=sys.stderr, flush=True)
    return {"rows": out}


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--parts", default="", help="operations, with commas between; `NAME.rivals`, `sizes`")
    parser.add_argument("--skip", default="", help="parts to leave out: rivals, alarms, sizes, differences, float32")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with its share of the operations")
    parser.add_argument("--work", type=pathlib.Path, help="a folder for what is measured, and kept for the next run")
    given = parser.parse_args()
    options.sizes(given, ())
    options.no_rivals(given)
    parts = [n for n in given.parts.split(",") if n] or list(OPERATIONS)
    if not given.parts and "rivals" not in given.skip:
        parts += [f"{name}{RIVALS}" for name in OPERATIONS]
    if not given.parts and "sizes" not in given.skip and not given.quick:
        parts.append("sizes")
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or pathlib.Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if given.jobs > 1:
            _in_parallel(parts, work, given)
        for part in parts:
            path = work / f"{part}.json"
            if not path.exists():
                start = time.perf_counter()
                if part == "sizes":
                    found = sizes()
                elif part.endswith(RIVALS):
                    found = measure_rivals(part.removesuffix(RIVALS), given.quick)
                else:
                    found = measure(part, given.skip, given.quick)
                found["seconds"] = round(time.perf_counter() - start)
                path.write_text(json.dumps(found))
                jax.clear_caches()
        result = summary({part: json.loads((work / f"{part}.json").read_text()) for part in parts})
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _in_parallel(parts: list[str], work: pathlib.Path, given: argparse.Namespace) -> None:
    """The same command on a share of the parts in each of several processes."""
    shared = ["--work", str(work), "--skip", given.skip, *(["--quick"] if given.quick else [])]
    command = [sys.executable, "-m", "benchmarks.bench_examiner", *shared, "--parts"]
    shares = [",".join(parts[i :: given.jobs]) for i in range(given.jobs)]
    started = [subprocess.Popen([*command, share], stdout=subprocess.DEVNULL) for share in shares if share]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit("a part of the measurement failed; its error is above")


def measure(name: str, skip: str, quick: bool) -> dict[str, Any]:
    """The mutants of one operation and its right rule, judged by fundl and by the rivals."""
    op, rows = OPERATIONS[name], []
    chosen, equivalent = population(name, op, 6 if quick else LIMIT)
    checks = {"float64": Examiner(op.f, arrays(op, 0, np.float64), **op.options)}
    if "float32" not in skip:
        checks["float32"] = Examiner(op.f, arrays(op, 0, np.float32), **op.options)
    if "differences" not in skip:
        checks["differences only"] = Examiner(op.f, arrays(op, 0, np.float64), reference="differences", **op.options)
    for mutant in chosen:
        row: dict[str, Any] = {"mutant": mutant.name, "kind": mutant.kind, "cause": mutant.cause, "caught": {}}
        for label, check in checks.items():
            row["caught"][f"fundl, {label}"], named, indexed = examined(check, mutant)
            if label == "float64":
                row["named"], row["indexed"] = named, indexed
        rows.append(row)
    missed = [r["mutant"] for r in rows if not r["caught"]["fundl, float64"]]
    print(f"{name}: {len(chosen)} mutants, missed {missed}", file=sys.stderr, flush=True)
    found: dict[str, Any] = {"mutants": rows, "equivalent": equivalent, "alarms": {}}
    if "alarms" not in skip:
        found["alarms"] = false_alarms(name, 1 if quick else 5)
        print(f"{name}: {found['alarms']}", file=sys.stderr, flush=True)
    return found


def measure_rivals(name: str, quick: bool) -> dict[str, Any]:
    """The same mutants and the right rule before the rivals, all at the one sample that they are given."""
    op = OPERATIONS[name]
    chosen, _ = population(name, op, 6 if quick else LIMIT)
    caught = {m.name: rejected_by(op.f, m, lambda dtype: arrays(op, 0, dtype)) for m in chosen}
    alarms: dict[str, int] = defaultdict(int)
    base = arrays(op, 0, np.float64)
    # A declared domain: the rivals know no such thing, and would be accused of what they were not told.
    for seed in range(0 if op.options else 1 if quick else 2):
        for kind in ("typical", "times 30", "integers", "times 1e-3"):
            varied = [_varied(a, kind, seed) if a.dtype.kind == "f" else a for a in base]

            def sample(dtype: Any, varied: list[Any] = varied) -> tuple[Any, ...]:
                return tuple(a.astype(dtype) if a.dtype.kind == "f" else a for a in varied)

            alarms["runs"] += 1
            for rival, rejected in rejected_by(op.f, op.backward, sample).items():
                alarms[rival] += rejected
    print(f"{name}: the rivals' alarms {dict(alarms)}", file=sys.stderr, flush=True)
    return {"caught": caught, "alarms": dict(alarms)}


def summary(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures, and every miss by name."""
    large = parts.pop("sizes", {"rows": []})
    others = {name.removesuffix(RIVALS): parts.pop(name) for name in list(parts) if name.endswith(RIVALS)}
    rows = [{**r, "operation": name} for name, part in parts.items() for r in part["mutants"]]
    for r in rows:
        r["caught"] |= others.get(r["operation"], {"caught": {}})["caught"].get(r["mutant"], {})
    checkers = list(dict.fromkeys(c for r in rows for c in r["caught"]))
    kinds = sorted({r["kind"] for r in rows})
    table, asked = {}, {}
    for checker in checkers:
        mine = [r for r in rows if checker in r["caught"]]
        asked[checker] = len(mine)
        table[checker] = {"all": _percent([r["caught"][checker] for r in mine])}
        table[checker] |= {k: _percent([r["caught"][checker] for r in mine if r["kind"] == k]) for k in kinds}
    known = [r for r in rows if r["cause"] and r["caught"]["fundl, float64"]]
    alarms = [part["alarms"] for part in parts.values() if part["alarms"]]
    rivals = [part["alarms"] for part in others.values() if part["alarms"]]
    runs = sum(r["runs"] for r in rivals)
    right = [r for r in large["rows"] for _ in range(2)]  # two right rules are examined at each size
    return {
        "question": "wrong hand-written gradients caught, right ones accused",
        "machine": stopwatch.machine(),
        "missing": missing(),
        "wrong rules": len(rows),
        "operations": len(parts),
        "per class": {k: sum(r["kind"] == k for r in rows) for k in kinds},
        "caught, percent": table,
        "of wrong rules": asked,
        "false alarms": {
            "fundl": [text for a in alarms for text in a["alarms"]]
            + [f"{r['operation']} {r['dtype']} n={r['n']}" for r in large["rows"] if not r["right passes"]],
            "runs": sum(a["runs"] for a in alarms) + len(right),
            "rivals, percent of runs": {k: round(100 * sum(r[k] for r in rivals) / runs, 1) for k in checkers
                                        if rivals and k in rivals[0]},
            "rivals' runs": runs,
        },
        "cause named, percent": _percent([r["named"] for r in known]),
        "of known cause": len(known),
        "index given, percent": _percent([r["indexed"] for r in rows if r["caught"]["fundl, float64"]]),
        "sizes": large["rows"],
        "missed": {c: [f"{r['operation']}: {r['mutant']}" for r in rows if not r["caught"][c]]
                   for c in checkers if c.startswith("fundl")},
        "cause not named": [f"{r['operation']}: {r['mutant']}" for r in known if not r["named"]],
        "no index": [f"{r['operation']}: {r['mutant']}" for r in rows
                     if r["caught"]["fundl, float64"] and not r["indexed"]],
        "equivalent, set aside with a reason": [text for part in parts.values() for text in part["equivalent"]],
        "seconds": sum(part["seconds"] for part in [*parts.values(), *others.values(), large] if "seconds" in part),
    }  # fmt: skip


def _percent(hits: list[bool]) -> float:
    return round(100 * sum(hits) / len(hits), 2) if hits else 100.0


if __name__ == "__main__":
    main()
