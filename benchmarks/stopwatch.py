"""The only timer: rivals interleaved, warmed up, waited for, reported as medians with their spread."""

import ctypes
import dataclasses
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax

PACKAGES = (
    "jax", "jaxlib", "optax", "numpy", "scipy", "scikit-learn", "torch", "flax", "equinox", "jaxopt", "optimistix",
    "lineax", "statsmodels", "glum", "celer", "skglm",
)  # fmt: skip


SHORT = 0.01  # seconds of a call that the one before it, another's, would slow: one of its own, untimed, goes before


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

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, over the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median


def interleave(
    candidates: Mapping[str, Callable[[], Any]], *, repeats: int = 7, progress: str = ""
) -> dict[str, Timing]:
    """Time the candidates in turn, A B C A B C ..., so that a machine that slows down slows all of them.

    The first call of each is kept apart: it compiles and warms up. Every result is waited for. A short call is timed
    after an untimed one of its own: the candidate before left its data in the caches and its own threads awake.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    first: dict[str, float] = {}
    last = dict.fromkeys(candidates, SHORT)
    before = SHORT  # seconds of the call before
    progress = progress if sys.stderr.isatty() else ""
    for round_ in range(repeats + 1):
        if progress:
            print(f"\r{progress}: round {round_}/{repeats}", end="", file=sys.stderr, flush=True)
        for name, call in candidates.items():
            if max(before, last[name]) >= SHORT:
                _settle()
            if round_ > 0 and last[name] < SHORT:
                jax.block_until_ready(call())
            start = time.perf_counter()
            jax.block_until_ready(call())
            before = last[name] = time.perf_counter() - start
            if round_ == 0:
                first[name] = before
            else:
                seconds[name].append(before)
    if progress:
        print("\r" + " " * (len(progress) + 24) + "\r", end="", file=sys.stderr)
    return {name: Timing(first[name], tuple(seconds[name])) for name in candidates}


def _settle(window: float = 0.005, patience: float = 0.3) -> None:
    """Wait until the threads of the candidate before sleep: those of OpenBLAS spin for 0.1 s and slow the next one."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        start, used = time.perf_counter(), time.process_time()
        time.sleep(window)
        if time.process_time() - used < 0.25 * (time.perf_counter() - start):
            return


def keep_memory() -> None:
    """Have glibc keep what is freed: new pages for 32 MB take as long as to write it ten times. Nothing elsewhere."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def ratio(a: Timing, b: Timing) -> float:
    """The median of a's time over b's, round by round: what drifts for both cancels."""
    return statistics.median(x / y for x, y in zip(a.seconds, b.seconds, strict=True))


def versions() -> dict[str, str | None]:
    """Of fundl's foundations and of every rival; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Its model where the system tells (Linux), else its family."""
    info = pathlib.Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What a stranger needs to place the figures: processor, threads, versions."""
    return {
        "processor": processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "threads": {name: os.environ[name] for name in os.environ if name.endswith("_NUM_THREADS")},
        "versions": versions(),
        "device": jax.devices()[0].device_kind,
    }


def table(rows: list[tuple[Any, ...]], head: tuple[str, ...]) -> str:
    """Rows as aligned text; numbers are written with four significant digits."""
    cells = [tuple(f"{c:.4g}" if isinstance(c, float) else str(c) for c in row) for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)
