"""Convex solvers: logistic and softmax regression fitted to the optimum, each fit with its proof."""

from fundl.newton._batches import fit_batches
from fundl.newton._concrete import Start, fit_concrete, fit_prepared, start_from
from fundl.newton._fit import fit
from fundl.newton._prepared import numbers, prepared

__all__ = ["Start", "fit", "fit_batches", "fit_concrete", "fit_prepared", "numbers", "prepared", "start_from"]
