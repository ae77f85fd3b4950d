"""Exact least squares: the solution of smallest norm, with rank, condition and the digits to believe.

`fit` takes all rows at once, in memory, memory-mapped, or sharded over a mesh; `fit_batches` takes them from an
iterable (`from_arrow` makes one), `update`, `merge` and `solve` as they come.
"""

from fundl.least_squares._fit import fit as fit
from fundl.least_squares._influence import Influence as Influence
from fundl.least_squares._influence import Interval as Interval
from fundl.least_squares._influence import influence as influence
from fundl.least_squares._influence import interval as interval
from fundl.least_squares._inputs import inputs as inputs
from fundl.least_squares._path import Path as Path
from fundl.least_squares._path import ridge_path as ridge_path
from fundl.least_squares._stream import State as State
from fundl.least_squares._stream import fit_batches as fit_batches
from fundl.least_squares._stream import from_arrow as from_arrow
from fundl.least_squares._stream import merge as merge
from fundl.least_squares._stream import solve as solve
from fundl.least_squares._stream import update as update

__all__ = [
    "Influence", "Interval", "Path", "State", "fit", "fit_batches", "from_arrow", "influence", "inputs", "interval",
    "merge", "ridge_path", "solve", "update",
]  # fmt: skip
