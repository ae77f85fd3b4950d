"""Work in NumPy on all processors: threads suffice, since products and loops over arrays leave Python free."""

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np


@functools.cache
def processors() -> int:
    """Those that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def on_all(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """work(item) of every item, in their order, with NumPy's warnings off: threads start with its default state."""

    def quietly(item: Any) -> Any:
        with np.errstate(all="ignore"):
            return work(item)

    given = list(items)
    workers = min(processors(), len(given))
    if workers < 2:
        return [quietly(item) for item in given]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(quietly, given))
