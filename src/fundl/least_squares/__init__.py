"""Exact least squares: the solution of smallest norm, with rank, condition and the digits to believe."""

from fundl.least_squares._fit import fit as fit
from fundl.least_squares._inputs import inputs as inputs

__all__ = ["fit", "inputs"]
