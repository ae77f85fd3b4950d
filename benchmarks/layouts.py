"""The table of each question, from its results file."""

from collections.abc import Callable
from typing import Any


def mlp(found: dict[str, Any]) -> str:
    """One training step against the rivals."""
    lines = [f"{found['question'].capitalize()}:", "", "| | ms a step | fundl / this | loss after the epoch |"]
    lines.append("|---|---|---|---|")
    for r in found["results"]:
        lines.append(f"| {r['name']} | {r['step_ms']:.2f} | {r['ratio']:.2f} | {r['loss']:.4f} |")
    if "share of peak" in found:
        lines += [
            "",
            f"The step's matrix products a second, over the rate of a large one: {found['share of peak']:.2f}.",
        ]
    lines += ["", "The gradient by hand over `jax.value_and_grad` of the same network:", ""]
    lines += ["| | batch | time | operations | temporary memory |", "|---|---|---|---|---|"]
    for g in found["gradients"]:
        ratios = " | ".join(f"{g[key]:.2f}" for key in ("time", "operations", "memory"))
        lines.append(f"| {g['network']} | {g['batch']} | {ratios} |")
    return "\n".join(lines)


def least_squares(found: dict[str, Any]) -> str:
    """fundl's time over each rival's, with the digits of the worst coefficient."""
    rivals = [n for n in dict.fromkeys(r["name"] for r in found["results"]) if n not in ("fundl", "jnp.linalg.lstsq")]
    head = ["", "fundl, ms", "digits", *(f"/ {name} (digits)" for name in rivals)]
    threads = found["machine"]["threads"].get("OPENBLAS_NUM_THREADS", "all")
    lines = [f"Fit with intercept; fundl's time over each rival's (their correct digits); BLAS threads: {threads}.", ""]
    lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for size, dtype in dict.fromkeys((r["size"], r["dtype"]) for r in found["results"]):
        rows = {r["name"]: r for r in found["results"] if (r["size"], r["dtype"]) == (size, dtype)}
        own = rows["fundl"]
        cells = [f"{size} {dtype}", f"{own['ms']:.3g}", f"{own['digits']:.1f}"]
        cells += [f"{rows[n]['ratio']:.2f} ({rows[n]['digits']:.1f})" if n in rows else "" for n in rivals]
        lines.append("| " + " | ".join(cells) + " |")
    more = []
    if found["path"]:
        ratios = [f"{r['ratio']:.3f} at {r['size']}" for r in found["path"] if r["name"] != "fundl"]
        more.append(f"Ridge with leave-one-out for 100 penalties over sklearn RidgeCV: {', '.join(ratios)}.")
    if found["stream"]:
        own, loop = found["stream"]
        text = f"{own['s']:.2f} s, {loop['ratio']:.2f} of a numpy loop over Gram matrices"
        more.append(f"A memory-mapped file of 1.6 GB: {text}.")
    if found["first"]:
        more.append(f"First result in a fresh process, imports included: {found['first'][0]['s']:.2f} s.")
    if "share of peak" in found:
        more.append(
            f"n d^2 a second at 1e4x1000 over the rate of a square matrix product: {found['share of peak']:.2f}."
        )
    return "\n".join([*lines, "", *more])


def examiner(found: dict[str, Any]) -> str:
    """Who catches what, and whom they accuse."""
    alarms, caught = found["false alarms"], found["caught, percent"]
    runs, rivals = alarms["runs"], alarms["rivals, percent of runs"]
    lines = [
        f"{found['wrong rules']:,} wrong rules made of the right ones of {found['operations']} operations; each tool "
        "has its own defaults, and but for fundl the one sample that it is given:",
        "",
        "| | wrong rules caught | of the class it sees worst | right rules accused |",
        "|---|---|---|---|",
    ]
    for name, by_class in caught.items():
        worst = min((k for k in by_class if k != "all"), key=lambda k: by_class[k])
        accused = f"{rivals[name]:.0f} %" if name in rivals else ""
        if name in ("fundl, float64", "fundl, float32"):
            accused = f"{len(alarms['fundl'])} of {runs:,}, in both dtypes"
        asked = found["of wrong rules"][name]
        of = "" if asked == found["wrong rules"] else f" of {asked:,}"
        lines.append(f"| {name} | {by_class['all']:.1f} %{of} | {by_class[worst]:.0f} % ({worst}) | {accused} |")
    more = [
        f"An index is given for {found['index given, percent']:.1f} % of what fundl catches, the true cause for "
        f"{found['cause named, percent']:.1f} % of the {found['of known cause']:,} of known cause."
    ]
    if found["sizes"]:
        large = [r["one entry 1 percent caught"] for r in found["sizes"] if r["n"] == 1_000_000]
        slowest = max(r["seconds without compiling"] for r in found["sizes"] if r["n"] <= 100_000)
        more.append(
            f"One entry of a million wrong by 1 % is caught in {sum(large)} of {len(large)} cases; a check of up to "
            f"100,000 entries takes at most {slowest:.2f} s beyond compilation, where jax can trace the function."
        )
    lines += ["", " ".join(more)]
    return "\n".join(lines)


def wrong_autodiff(found: dict[str, Any]) -> str:
    """Smooth functions at points where jax.grad is wrong."""
    lines = ["| function | as often written | at | jax.grad | by hand, and by differences |", "|---|---|---|---|---|"]
    for r in found["results"]:
        numbers = [r["at"], r["jax.grad"], r["by hand, and by differences"]]
        cells = [x if isinstance(x, str) else f"{x + 0.0:.4g}" for x in numbers]
        lines.append(f"| {r['function']} | `{r['written']}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def logistic_regression(found: dict[str, Any]) -> str:
    """The fits of every size against the fastest rival that reaches the optimum."""
    about = "Logistic and softmax regression, l2 = 1, every solver to f - f* <= 1e-10 f*, in float32 1e-6 f* (ms):"
    head = ("rows x columns (x classes)", "fundl", "fastest rival", "fundl / it", "best of scikit-learn", "fundl / it")
    lines = [about, "", f"| {' | '.join(head)} |", "|---|---|---|---|---|---|"]
    alone = []
    for name, case in found["cases"].items():
        rivals = {k: r for k, r in case["results"].items() if not k.startswith("fundl")}
        learners = {k: r for k, r in rivals.items() if k.startswith("sklearn")}
        cells = [name, f"{case['results']['fundl']['ms']:.3g}"]
        for rows in (rivals, learners):
            k = min(rows, key=lambda k, rows=rows: rows[k]["ms"], default=None)
            cells += (
                [f"{k.removeprefix('sklearn ')} {rows[k]['ms']:.3g}", f"{rows[k]['ratio']:.2f}"] if k else ["none", ""]
            )
        lines.append(f"| {' | '.join(cells)} |")
        if not rivals:
            alone.append(f"No rival ends at {name}: {'; '.join(case['missing'])}.")
    lines += ["", *alone] if alone else []
    both = [
        (name, *(case["results"].get(k) for k in ("fundl", "fundl, batches"))) for name, case in found["cases"].items()
    ]
    if ratios := [f"{streamed['ms'] / own['ms']:.1f} at {name}" for name, own, streamed in both if streamed]:
        lines += ["", f"`fit_batches`, a block of the rows in memory, over `fit` of them all: {', '.join(ratios)}."]
    first = found.get("first_result_s")
    if first:
        lines += ["", f"First result in a fresh process after the imports, 569x30: {first['569x30']:.2f} s;"]
        lines.append(f"under `jax.jit`, compilation included, {first['569x30, jit']:.1f} s.")
    return "\n".join(lines)


def sweep(found: dict[str, Any]) -> str:
    """Many fits against a loop over the rival, with the error each reached."""
    lines = ["| many fits | rival | seconds, fundl | rival | fundl / rival | largest error, fundl | rival |"]
    lines.append("|---|---|---|---|---|---|---|")
    for p in found["problems"]:
        own, rival = p["results"][0], next(r for r in p["results"] if r["name"] == p["rival"])
        cells = [f"{p['problem']}, {p['fits']}", p["rival"], f"{own['seconds']:.3g}", f"{rival['seconds']:.3g}"]
        cells += [f"{own['ratio']:.3f}", f"{own['error']:.0e}", f"{rival['error']:.0e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def limits(found: dict[str, Any]) -> str:
    """What the machine can do, and what measuring costs."""
    rows = found["results"]
    lines = ["| | by | float64 | float32 | |", "|---|---|---|---|---|"]
    for problem, name in dict.fromkeys((r["problem"], r["name"]) for r in rows):
        here = [r for r in rows if (r["problem"], r["name"]) == (problem, name)]
        rates = [
            next((f"{r['rate']:.3g}" for r in here if r.get("dtype", "float64") == d), "")
            for d in ("float64", "float32")
        ]
        lines.append(f"| {problem} | {name} | {' | '.join(rates)} | {here[0]['unit']} |")
    return "\n".join(lines)


def floors(found: dict[str, Any]) -> str:
    """The bare products of the plain methods, and fundl, over the rival that is to be beaten."""
    head = ("", "rival, ms", "fundl / it", "aim", "floor / it", "floor of")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in found["results"]:
        cells = [f"{r['problem']} {r['size']} {r['dtype']}", f"{r['rival']} {1e3 * r['rival seconds']:.3g}"]
        cells += [f"{r[k]:.2f}" for k in ("fundl over rival", "aim", "floor over rival")]
        lines.append(f"| {' | '.join([*cells, r['of']])} |")
    return "\n".join(lines)


LOSSES = (
    "Operations and bytes are over those of jax.grad of the plain formula. The share of a copy is the rate at which\n"
    "inputs are read and the gradient is written, over that of copying memory. benchmarks/results/losses.json has the\n"
    "same at other sizes, and benchmarks/README.md every case that fundl loses."
)


def losses(found: dict[str, Any]) -> str:
    """Value with gradient: fundl's time over each rival's, with the worst relative error."""
    who = ("fundl, jax.grad", "jax.grad, plain formula", "optax", "jax.nn", "torch")
    rivals = " | ".join(f"/ {name.replace('fundl, ', 'its own ')} (error)" for name in who)
    lines = [f"| | us, fundl (error) | {rivals} | operations | bytes | share of a copy |"]
    lines.append("|---" * (len(who) + 5) + "|")
    size = found["results"][0]["size"]
    for problem in dict.fromkeys(r["problem"] for r in found["results"]):
        rows = {r["name"]: r for r in found["results"] if (r["size"], r["problem"]) == (size, problem)}
        own, plain = rows["fundl"], rows.get(who[1])
        cells = [f"{problem} {size}", f"{1e6 * own['seconds']:.3g} ({own['error']:.0e})"]
        cells += [f"{rows[n]['ratio']:.2f} ({rows[n]['error']:.0e})" if n in rows else "" for n in who]
        cells += [f"{own[k] / plain[k]:.2f}" if plain and plain[k] else "" for k in ("operations", "bytes")]
        cells.append(f"{own['share']:.2f}" if "share" in own else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", LOSSES])


def accuracy(found: dict[str, Any]) -> str:
    """Worst error of value and gradient, in units in the last place."""

    def last_places(x: float) -> str:
        return "∞" if x == float("inf") else f"{x:.1f}" if x < 1000 else f"{x:.0e}"

    who = list(dict.fromkeys(r["name"] for r in found["results"]))
    lines = [f"| | {' | '.join(who)} |", "|---" * (len(who) + 1) + "|"]
    for problem in dict.fromkeys(r["problem"] for r in found["results"]):
        cells = [problem]
        for name in who:
            rows = [r for r in found["results"] if (r["problem"], r["name"]) == (problem, name)]
            worst = [max(r[k] for r in rows) for k in ("value", "gradient") if rows and rows[0][k] is not None]
            cells.append(", ".join(map(last_places, worst)))
        lines.append(f"| {' | '.join(cells)} |")
    points = sum(r["points"] for r in found["results"] if r["name"] == "fundl")
    lines += [
        "",
        f"Value, gradient; the worse of float32 and float64, at {points:,} points in all over the whole range",
    ]
    lines[-1] += " of the dtype. ∞: NaN or infinite where there is a number."
    return "\n".join(lines)


def linear_cross_entropy(found: dict[str, Any]) -> str:
    """The fused cross-entropy: time, memory and error of value and all gradients."""
    lines = [
        "| rows x columns x classes | | s | fundl / this | MB | fundl / this | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in found["results"]:
        if "why" not in r:
            cells = [r["size"], r["name"], *(f"{r[k]:.3g}" for k in ("wall", "wall ratio", "MB"))]
            cells += [f"{r['MB ratio']:.2f}" if "MB ratio" in r else "", f"{r['error']:.0e}" if "error" in r else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def startup(found: dict[str, Any]) -> str:
    """What it costs to begin, in milliseconds."""
    lines = ["| | ms, fundl | others, ms |", "|---|---|---|"]
    for problem in dict.fromkeys(r["problem"] for r in found["results"]):
        own, *others = [r for r in found["results"] if r["problem"] == problem]
        cells = [f"{r['name']} {1e3 * r['seconds']:.3g}" for r in others]
        lines.append(f"| {problem} | {1e3 * own['seconds']:.3g} | {', '.join(cells)} |")
    return "\n".join(lines)


def _two(x: float) -> str:
    return f"{round(x, 2) + 0.0:.2f}"  # -0.00 is 0.00


def growth(found: dict[str, Any]) -> str:
    """The fitted exponents: fundl's and the others'."""
    lines = ["| | sizes | fundl | others |", "|---|---|---|---|"]
    for problem in dict.fromkeys(r["problem"] for r in found["exponents"]):
        own, *others = [r for r in found["exponents"] if r["problem"] == problem]
        cells = [f"{r['name']} {_two(r['exponent'])}" for r in others if not r["name"].startswith("fundl")]
        lines.append(f"| {problem} | {' '.join(own['sizes'])} | {_two(own['exponent'])} | {', '.join(cells)} |")
    return "\n".join(lines)


def l1_paths(found: dict[str, Any]) -> str:
    """Whole paths, every fit of them to f - f* <= 1e-8 f*."""
    rivals = [n for n in dict.fromkeys(r["name"] for r in found["results"]) if not n.startswith("fundl")]
    ways = ("fundl", "fundl, fit by fit", "fundl, one program")
    head = ("rows x columns, penalties", *(f"{n}, s" for n in (*ways, *rivals)))
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for size in dict.fromkeys(r["size"] for r in found["results"]):
        rows = {r["name"]: r for r in found["results"] if r["size"] == size}
        cells = [f"{rows[n]['seconds']:.3g}" if n in rows else "" for n in (*ways, *rivals)]
        lines.append(f"| {size}, {rows['fundl']['penalties']} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "limits": limits,
    "floors": floors,
    "examiner": examiner,
    "wrong_autodiff": wrong_autodiff,
    "least_squares": least_squares,
    "logistic_regression": logistic_regression,
    "losses": losses,
    "accuracy": accuracy,
    "linear_cross_entropy": linear_cross_entropy,
    "l1_paths": l1_paths,
    "growth": growth,
    "startup": startup,
    "sweep": sweep,
    "mlp": mlp,
}
