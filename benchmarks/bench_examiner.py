"""How good is the examiner? Wrong rules made on purpose, right rules that must pass, and the rivals on the same.

    python benchmarks/bench_examiner.py            everything, about an hour on two cores
    python benchmarks/bench_examiner.py --quick    a few mutants of every operation

Writes benchmarks/results/examiner.json. A mutant counts as caught when the check fails. Mutants are set aside as
equivalent only with a reason (`EQUIVALENT` in tests/mutants.py), never because they were not caught; mutants that
choose another subgradient at a kink are conventions and not wrong.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from typing import Any

import jax
import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402

from fundl import verify  # noqa: E402
from fundl.verify._examine import Examiner  # noqa: E402
from mutants import EQUIVALENT, OPERATIONS, Operation  # noqa: E402

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


def examiner_row(check: Examiner, mutant: verify.Mutant) -> tuple[bool, bool, bool, float]:
    """Caught, cause named, an index given, seconds."""
    start = time.perf_counter()
    report = check.check(mutant)
    indexed = any(f.index is not None for f in report.failures)
    return not report.ok, named_right(mutant, report), indexed, time.perf_counter() - start


def rivals(op: Operation, mutant: verify.Mutant | Any, seed: int = 0) -> dict[str, bool]:
    """Which rivals catch a wrong rule, each with its own defaults, all at the one sample that they are given."""
    out = {}
    for label, dtype in (("jax.test_util.check_grads float64", np.float64),
                         ("jax.test_util.check_grads float32", np.float32)):  # fmt: skip
        out[label] = not _passes(lambda dtype=dtype: _check_grads(op, mutant, arrays(op, seed, dtype)))
    out["chex.assert_numerical_grads float32"] = not _passes(lambda: _chex(op, mutant, arrays(op, seed, np.float32)))
    args = arrays(op, seed, np.float64)
    out["ChainRulesTestUtils algorithm"] = not _passes(lambda: _chain_rules(op, mutant, args))
    try:
        import torch  # noqa: F401
    except ImportError:
        return out
    out["torch.autograd.gradcheck"] = not _passes(lambda: _torch(op, mutant, args))
    return out


def _passes(check: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return check() is not False
        except Exception:  # any error is how these tools reject
            return False


def _registered(op: Operation, backward: Any, args: tuple[Any, ...]) -> tuple[Any, list[Any]]:
    """f with the rule as its custom_vjp, as a function of the floating arguments only."""
    floats = [i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating)]

    def full(xs: Any) -> list[Any]:
        it = iter(xs)
        return [next(it) if i in floats else a for i, a in enumerate(args)]

    @jax.custom_vjp
    def g(*xs: Any) -> Any:
        return op.f(*full(xs))

    def bwd(xs: Any, dy: Any) -> Any:
        out = backward(dy, *full(xs))
        return out if isinstance(out, tuple) else (out,)

    g.defvjp(lambda *xs: (op.f(*full(xs)), xs), bwd)
    return g, [args[i] for i in floats]


def _check_grads(op: Operation, mutant: Any, args: tuple[Any, ...]) -> None:
    from jax.test_util import check_grads

    g, xs = _registered(op, mutant, args)
    check_grads(g, xs, order=1, modes=["rev"])


def _chex(op: Operation, mutant: Any, args: tuple[Any, ...]) -> None:
    import chex

    g, xs = _registered(op, mutant, args)
    chex.assert_numerical_grads(g, xs, order=1, modes=["rev"])


def _chain_rules(op: Operation, mutant: Any, args: tuple[Any, ...]) -> bool:
    """test_rrule: full Jacobian by a five-point stencil, one random cotangent, norms compared at 1e-9."""
    g, xs = _registered(op, mutant, args)
    y, pull = jax.vjp(g, *xs)
    dy = jnp.asarray(np.round(np.random.default_rng(0).standard_normal(y.shape), 2))
    for k, given in enumerate(pull(dy)):
        x = xs[k]

        def moved(e: Any, h: float, k: int = k, x: Any = x) -> Any:
            shifted = jnp.reshape(jnp.reshape(x, (-1,)) + h * e, x.shape)
            return jnp.sum(dy * op.f(*_with(args, xs, k, shifted)))

        unit = jnp.eye(x.size, dtype=x.dtype)
        best, smallest = None, np.inf
        for h in (1e-2, 3e-3, 1e-3):
            slopes = [jax.vmap(lambda e, c=c, h=h, m=moved: m(e, c * h))(unit) for c in (-2, -1, 1, 2)]
            five = (slopes[0] - 8 * slopes[1] + 8 * slopes[2] - slopes[3]) / (12 * h)
            three = (slopes[2] - slopes[1]) / (2 * h)
            gap = float(jnp.linalg.norm(five - three)) * h**2 + 1e-16 / h
            if gap < smallest:
                best, smallest = five, gap
        scale = max(float(jnp.linalg.norm(best)), float(jnp.linalg.norm(given)))
        if not float(jnp.linalg.norm(jnp.ravel(given) - best)) <= 1e-9 + 1e-9 * scale:
            return False
    return True


def _with(args: tuple[Any, ...], xs: list[Any], k: int, value: Any) -> list[Any]:
    return [value if a is xs[k] else a for a in args]


def _torch(op: Operation, mutant: Any, args: tuple[Any, ...]) -> bool:
    import torch

    g, xs = _registered(op, mutant, args)
    forward = jax.jit(g)
    backward = jax.jit(lambda dy, *xs: jax.vjp(g, *xs)[1](dy))

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Any) -> Any:
            ctx.save_for_backward(*tensors)
            return torch.tensor(np.asarray(forward(*[t.detach().numpy() for t in tensors])))

        @staticmethod
        def backward(ctx: Any, dy: Any) -> Any:
            out = backward(dy.numpy(), *[t.numpy() for t in ctx.saved_tensors])
            return tuple(torch.tensor(np.asarray(v)) for v in out)

    tensors = [torch.tensor(np.asarray(x), requires_grad=True) for x in xs]
    return torch.autograd.gradcheck(Rule.apply, tensors)


def false_alarms(names: list[str], repeats: int) -> dict[str, Any]:
    """Right rules at every magnitude, at integers with ties and zeros, at n from 1 on, in both dtypes."""
    runs, alarms = 0, []
    for name in names:
        op = OPERATIONS[name]
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
        print(f"  right rules: {name}, {runs} runs, {len(alarms)} alarms", file=sys.stderr, flush=True)
    return {"runs": runs, "alarms": alarms}


def _varied(a: Any, kind: str, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(a.shape)
    if kind == "integers":
        return jnp.asarray(rng.integers(-2, 3, a.shape), a.dtype)
    return jnp.asarray(x * (1.0 if kind == "typical" else float(kind.split()[1])), a.dtype)


def sizes() -> list[dict[str, Any]]:
    """Right and slightly wrong rules from n = 1 to a million entries: alarms, the catch of one entry, and time."""
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
                out.append(
                    {
                        "operation": name,
                        "n": n,
                        "dtype": np.dtype(dtype).name,
                        "right passes": cold.ok and again.ok,
                        "one entry 1 percent caught": not caught.ok,
                        "index named": named or n == 1,
                        "seconds without compiling": round(seconds, 3),
                    }
                )
                print(f"  sizes: {out[-1]}", file=sys.stderr, flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few mutants of each operation, no large arrays")
    parser.add_argument("--limit", type=int, default=44, help="mutants per operation")
    parser.add_argument("--operations", default="", help="names with commas between; all by default")
    parser.add_argument("--skip", default="", help="parts to leave out: rivals, alarms, sizes, blackbox, float32")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with its share of the operations")
    parser.add_argument("--out", default=str(HERE / "results" / "examiner.json"))
    options = parser.parse_args()
    names = [n for n in options.operations.split(",") if n] or list(OPERATIONS)
    start = time.perf_counter()
    if options.jobs > 1:
        parts = _in_parallel(names, options)
        result = summary([r for part in parts for r in part["mutants"]])
        key = "equivalent, set aside with a reason"
        result[key] = [text for part in parts for text in part[key]]
        for key in ("false alarms", "rivals' false alarms"):
            if key in parts[0]:
                result[key] = _added([part[key] for part in parts])
        if "sizes" not in options.skip and not options.quick:
            result["sizes"] = sizes()
        rows = [r for part in parts for r in part["mutants"]]
    else:
        result, rows = _measure(names, options)
    result["seconds"] = round(time.perf_counter() - start)
    path = pathlib.Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**result, "mutants": rows}, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "sizes"}, indent=1))


def _in_parallel(names: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same command on a share of the operations in each of several processes."""
    shared = ["--limit", str(options.limit), "--skip", options.skip + ",sizes", *(["--quick"] if options.quick else [])]
    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder) / f"{i}.json" for i in range(options.jobs)]
        started = []
        for i, file in enumerate(files):
            share = ["--operations", ",".join(names[i :: options.jobs]), "--out", str(file)]
            started.append(subprocess.Popen([sys.executable, __file__, *shared, *share], stdout=subprocess.DEVNULL))
        if any(process.wait() for process in started):
            raise SystemExit("a part of the measurement failed; its error is above")
        return [json.loads(f.read_text()) for f in files]


def _added(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts added, lists joined."""
    out = dict(parts[0])
    for part in parts[1:]:
        for key, value in part.items():
            out[key] = out[key] + value
    return out


def _measure(names: list[str], options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    limit = 6 if options.quick else options.limit
    start = time.perf_counter()
    rows, aside = [], []
    for name in names:
        op = OPERATIONS[name]
        chosen, equivalent = population(name, op, limit)
        aside += equivalent
        checks = {"float64": Examiner(op.f, arrays(op, 0, np.float64), **op.options)}
        if "float32" not in options.skip:
            checks["float32"] = Examiner(op.f, arrays(op, 0, np.float32), **op.options)
        if "blackbox" not in options.skip:
            checks["differences only"] = Examiner(
                op.f, arrays(op, 0, np.float64), reference="differences", **op.options
            )
        for mutant in chosen:
            row: dict[str, Any] = {"operation": name, "mutant": mutant.name, "kind": mutant.kind, "cause": mutant.cause}
            for label, check in checks.items():
                row[label], named, indexed, row[f"{label} seconds"] = examiner_row(check, mutant)
                if label == "float64":
                    row["named"], row["indexed"] = named, indexed
            if "rivals" not in options.skip:
                row.update(rivals(op, mutant))
            rows.append(row)
        jax.clear_caches()
        missed = [r["mutant"] for r in rows if r["operation"] == name and not r["float64"]]
        seconds = time.perf_counter() - start
        print(f"{name}: {len(chosen)} mutants, missed {missed}, {seconds:.0f} s", file=sys.stderr, flush=True)
    result = summary(rows)
    result["equivalent, set aside with a reason"] = aside
    if "alarms" not in options.skip:
        result["false alarms"] = false_alarms(names, 1 if options.quick else 5)
        if "rivals" not in options.skip:
            result["rivals' false alarms"] = _rival_alarms(names, 1 if options.quick else 2)
    if "sizes" not in options.skip and not options.quick:
        result["sizes"] = sizes()
    return result, rows


def _rival_alarms(names: list[str], seeds: int) -> dict[str, int]:
    alarms: dict[str, int] = defaultdict(int)
    runs = 0
    for name in names:
        op = OPERATIONS[name]
        if op.options:
            continue
        base = arrays(op, 0, np.float64)
        for seed in range(seeds):
            for kind in ("typical", "times 30", "integers", "times 1e-3"):
                varied = [_varied(a, kind, seed) if a.dtype.kind == "f" else a for a in base]
                moved = Operation(op.f, op.backward, lambda rng, v=varied: tuple(np.asarray(a) for a in v), {})
                runs += 1
                for rival, caught in rivals(moved, op.backward).items():
                    alarms[rival] += caught
        jax.clear_caches()
    return {"runs": runs, **alarms}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    checkers = [k for k in rows[0] if isinstance(rows[0][k], bool) and k not in ("named", "indexed")]
    kinds = sorted({r["kind"] for r in rows})
    table = {}
    for checker in checkers:
        table[checker] = {"all": _percent([r[checker] for r in rows])}
        table[checker] |= {k: _percent([r[checker] for r in rows if r["kind"] == k]) for k in kinds}
    known = [r for r in rows if r["cause"] and r["float64"]]
    return {
        "wrong rules": len(rows), "operations": len({r["operation"] for r in rows}),
        "per class": {k: sum(r["kind"] == k for r in rows) for k in kinds},
        "caught, percent": table,
        "cause named, percent": _percent([r["named"] for r in known]), "of known cause": len(known),
        "index given, percent": _percent([r["indexed"] for r in rows if r["float64"]]),
        "median seconds per check": round(float(np.median([r["float64 seconds"] for r in rows])), 3),
        "missed": {c: [f"{r['operation']}: {r['mutant']}" for r in rows if not r[c]]
                   for c in ("float64", "float32", "differences only") if c in checkers},
        "cause not named": [f"{r['operation']}: {r['mutant']}" for r in known if not r["named"]],
    }  # fmt: skip


def _percent(hits: list[bool]) -> float:
    return round(100 * sum(hits) / len(hits), 1) if hits else 100.0


if __name__ == "__main__":
    main()
