"""How cost grows as work grows: each question over a series of sizes, and the exponent fitted to it.

    python -m benchmarks.bench_growth [--series least_squares,softmax] [--json benchmarks/results/growth.json]

In a series one number of the size grows: rows n, columns d or classes k. The exponent is the least-squares slope of
log time on log size: 1 is linear, less than 1 means that something fixed still weighs.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import (
    bench_least_squares,
    bench_linear_cross_entropy,
    bench_logistic_regression,
    bench_losses,
    options,
    records,
    stopwatch,
)

Wanted = Callable[[str], bool]
Rows = list[dict[str, Any]]


def least_squares(size: str, repeats: int, wanted: Wanted) -> Rows:
    return bench_least_squares.at_size(size, np.float64, repeats, wanted=wanted)


def regression(size: str, repeats: int, wanted: Wanted) -> Rows:
    found = bench_logistic_regression.run(size, "float64", repeats, wanted)
    return [{"name": name, **row} for name, row in found["results"].items()]


def loss(size: str, repeats: int, wanted: Wanted) -> Rows:
    return bench_losses.measure("cross_entropy_with_logits", size, repeats, wanted)


def fused(size: str, repeats: int, wanted: Wanted) -> Rows:
    return [r for r in bench_linear_cross_entropy.at_size(size, repeats, wanted) if "why" not in r]


SERIES: dict[str, tuple[Callable[[str, int, Wanted], Rows], dict[str, tuple[str, ...]]]] = {
    "least_squares": (
        least_squares,
        {"n": ("1e3x20", "1e4x20", "1e5x20", "1e6x20"), "d": ("4000x25", "4000x100", "4000x400", "4000x1600")},
    ),
    "logistic": (
        regression, {"n": ("1e3x20", "1e4x20", "1e5x20", "1e6x20"), "d": ("4000x25", "4000x100", "4000x400")},
    ),
    "softmax": (
        regression, {"n": ("1e3x20x5", "1e4x20x5", "1e5x20x5"), "k": ("5000x20x3", "5000x20x10", "5000x20x30")},
    ),
    "cross_entropy": (loss, {"n": ("128x1000", "1024x1000", "8192x1000"), "k": ("1024x10", "1024x100", "1024x1000")}),
    "linear_cross_entropy": (
        fused, {"n": ("256x256x8192", "1024x256x8192", "4096x256x8192"), "k": ("512x256x2048", "512x256x8192",
                                                                              "512x256x32768")},
    ),
}  # fmt: skip
QUICK = {"cross_entropy": {"n": ("16x10", "128x10", "1024x10")}}


def slope(sizes: list[float], seconds: list[float]) -> float:
    """Of the line through log time against log size that fits best in least squares."""
    x, y = np.log(sizes), np.log(seconds)
    x = x - x.mean()
    return float(x @ y / (x @ x))


def exponents(rows: Rows) -> Rows:
    """One row for each who was measured at three sizes or more of a series."""
    found = []
    for problem, name in dict.fromkeys((r["problem"], r["name"]) for r in rows):
        mine = [r for r in rows if (r["problem"], r["name"]) == (problem, name)]
        if len(mine) >= 3:
            shapes = np.array([options.shape(r["size"]) for r in mine], float)
            grows = shapes[:, np.argmax(np.ptp(np.log(shapes), axis=0))]
            exponent = slope(list(grows), [r["seconds"] for r in mine])
            found.append({"problem": problem, "name": name, "exponent": exponent, "sizes": [r["size"] for r in mine]})
    return found


def series(name: str, along: str, sizes: tuple[str, ...], repeats: int, wanted: Wanted) -> Rows:
    """Every size of a series, in rows of one form."""
    kept = ("name", "spread", *records.LOWER, *records.HIGHER)
    found = []
    for size in sizes:
        for r in SERIES[name][0](size, repeats, wanted):
            unit = next(k for k in records.TIMES if k in r)
            row = {"problem": f"{name} along {along}", "size": size, "seconds": records.TIMES[unit] * r[unit]}
            found.append(row | {k: r[k] for k in kept if k in r})
    return found


def main() -> None:
    parser = options.parser(__doc__, repeats=3)
    parser.add_argument("--series", default="", help="only these, with commas between")
    args = parser.parse_args()
    options.sizes(args, ())
    jax.config.update("jax_enable_x64", True)
    found: dict[str, Any] = {"question": "how cost grows", "machine": stopwatch.machine(), "results": []}
    for name in args.series.split(",") if args.series else QUICK if args.quick else SERIES:
        chosen = QUICK[name] if args.quick and name in QUICK else SERIES[name][1]
        for along, sizes in chosen.items():
            print(f"  {name} along {along}", file=sys.stderr, flush=True)
            found["results"] += series(
                name, along, sizes, 1 if args.quick else args.repeats, lambda who: options.wanted(args, who)
            )
            found["exponents"] = exponents(found["results"])
            if args.json:
                args.json.write_text(json.dumps(found, indent=1) + "\n")
    lines = [(r["problem"], r["name"], r["exponent"], " ".join(r["sizes"])) for r in found["exponents"]]
    print(stopwatch.table(lines, ("", "", "exponent", "sizes")))


if __name__ == "__main__":
    main()
