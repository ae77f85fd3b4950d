"""Exact least squares: the solution of smallest norm, with rank, condition and the digits to believe.

`fit` takes all rows at once, on one device or sharded over a mesh; `update`, `merge` and `solve` take them in batches.
"""

from fundl.least_squares._fit import fit as fit
from fundl.least_squares._inputs import inputs as inputs
from fundl.least_squares._stream import State as State
from fundl.least_squares._stream import merge as merge
from fundl.least_squares._stream import solve as solve
from fundl.least_squares._stream import update as update

__all__ = ["State", "fit", "inputs", "merge", "solve", "update"]
