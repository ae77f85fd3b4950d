"""Variances under a penalty, diag(K G K) for the inverse K of G + penalty: no small difference of large numbers."""

from typing import Any

import numpy as np

from fundl._precise import namespace
from fundl.least_squares._shortest import mm


def variance(difference: Any, off: Any, rows: Any, G: Any, share: Any, unit: float) -> Any:
    """diag(rows G rows^T) + share, which `difference`, K - K penalty K, is too, wrong by `off` at most.

    The difference is exact but where the penalty is most of what a column has; there G is small beside it, and so is
    what a product rounded to `unit` gets wrong. NaN where both have lost all of it.
    """
    xp = namespace(G)
    product = mm(rows, G) * rows
    lost = unit * (xp.sum(mm(abs(rows), abs(G)) * abs(rows), axis=1) + share)
    found = xp.where(off <= lost, difference, xp.sum(product, axis=1) + share)
    return xp.where(found >= xp.minimum(off, lost), found, xp.full_like(found, np.nan))
