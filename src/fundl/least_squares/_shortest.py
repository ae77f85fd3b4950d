"""Of all solutions that predict the same the shortest."""

from typing import Any

import jax
import numpy as np

from fundl._precise import inverse_of_lower, matmul, namespace


def mm(A: Any, B: Any) -> Any:
    """A @ B at full precision."""
    return A @ B if namespace(A) is np else matmul(A, B)


def minimum_norm(F: Any, swept: Any, basic: Any) -> tuple[Any, Any, Any]:
    """The shortest of all w that predict what `basic` does, which is 0 where not swept.

    Returns a bound of its rounding errors too, and the projection onto all shortest ones.

    They are those with B w = w_P, where B = (I, F) and w_P is what is swept of `basic`. With B^T = Q R the shortest is
    Q R^-T w_P. With the rows in the order of their size Householder's QR loses little of any (Cox and Higham, BIT 38
    (1998), 34-44), so the error is small beside w; that of a projection is small beside w_P, which may be far longer.
    """
    xp = namespace(F)
    d = F.shape[0]
    eye = xp.eye(d, dtype=F.dtype)
    B = xp.where(swept[None, :], eye + F.T, xp.zeros((), F.dtype))
    B = xp.where(xp.isfinite(B), B, xp.zeros_like(B))
    largest = xp.where(swept, xp.max(xp.abs(B), axis=0), xp.ones((), F.dtype))
    B = B / largest[None, :]
    # The columns of zeros go last, where the arbitrary directions that they are given are left out.
    rows, columns = xp.argsort(-xp.max(xp.abs(B), axis=1)), xp.argsort(~swept)
    there = xp.arange(d) < xp.sum(swept)
    Q, R = xp.linalg.qr(xp.take(xp.take(B, rows, axis=0), columns, axis=1))
    Q = xp.take(xp.where(there[None, :], Q, xp.zeros_like(Q)), xp.argsort(rows), axis=0)
    inverse = _inverse_of_upper(xp.where(there[None, :], R, eye))
    w_P = xp.take(basic / largest[:, None], columns, axis=0)
    v = mm(inverse.T, w_P)
    w = mm(Q, v)
    # An error E of B^T, of a size r_j in row j, moves w by -B^+ E^T w and by the projection of E (B B^T)^-1 w_P off B.
    r = xp.max(xp.abs(B), axis=1)[:, None]
    along = mm(xp.abs(mm(Q, inverse.T)), xp.sum(r * xp.abs(w), axis=0)[None, :] + xp.abs(w_P))
    across = (r + mm(xp.abs(Q), mm(xp.abs(Q).T, r))) * xp.sum(xp.abs(mm(inverse, v)), axis=0)[None, :]
    off = 8 * float(np.finfo(F.dtype).eps) * (along + across + xp.abs(w))
    return w, off, mm(Q, Q.T)


def _inverse_of_upper(R: Any) -> Any:
    eye = namespace(R).eye(len(R), dtype=R.dtype)
    return inverse_of_lower(R.T).T if namespace(R) is np else jax.scipy.linalg.solve_triangular(R, eye)
