"""The only timer: rivals interleaved, warmed up, waited for, reported as medians with their spread."""

import dataclasses
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one candidate: its first call (compilation included) and its repeats."""

    first: float
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


def interleave(
    candidates: Mapping[str, Callable[[], Any]], *, repeats: int = 7, progress: str = ""
) -> dict[str, Timing]:
    """Time the candidates in turn, A B C A B C ..., so that a machine that slows down slows all of them.

    The first call of each is kept apart: it compiles and warms up. Every result is waited for.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    first: dict[str, float] = {}
    for round_ in range(repeats + 1):
        if progress:
            print(f"\r{progress}: round {round_}/{repeats}", end="", file=sys.stderr, flush=True)
        for name, call in candidates.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            elapsed = time.perf_counter() - start
            if round_ == 0:
                first[name] = elapsed
            else:
                seconds[name].append(elapsed)
    if progress:
        print("\r" + " " * (len(progress) + 24) + "\r", end="", file=sys.stderr)
    return {name: Timing(first[name], tuple(seconds[name])) for name in candidates}


def ratio(a: Timing, b: Timing) -> float:
    """The median of a's time over b's, round by round: what drifts for both cancels."""
    return statistics.median(x / y for x, y in zip(a.seconds, b.seconds, strict=True))


def machine() -> dict[str, Any]:
    """What a stranger needs to place the figures: processor, threads, versions."""
    versions = {}
    for name in ("jax", "jaxlib", "optax", "numpy", "scipy", "scikit-learn", "torch", "flax", "equinox"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    threads = {name: os.environ[name] for name in os.environ if name.endswith("_NUM_THREADS")}
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "threads": threads,
        "versions": versions,
        "device": jax.devices()[0].device_kind,
    }


def table(rows: list[tuple[Any, ...]], head: tuple[str, ...]) -> str:
    """Rows as aligned text; numbers are written with four significant digits."""
    cells = [tuple(f"{c:.4g}" if isinstance(c, float) else str(c) for c in row) for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)
