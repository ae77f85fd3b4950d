"""Convex solvers: logistic and softmax regression fitted to the optimum, each fit with its proof."""

from fundl.newton._concrete import fit_concrete
from fundl.newton._fit import fit

__all__ = ["fit", "fit_concrete"]
