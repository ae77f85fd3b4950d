"""What a fit returns: parameters, a certificate of arrays, and a status with one sentence of advice."""

import dataclasses
import enum
from typing import Any, TypeVar

import jax
import numpy as np

from fundl._types import Array

__all__ = ["Certificate", "Fit", "FitError", "Status", "on_device"]

Tree = TypeVar("Tree")


class Status(enum.IntEnum):
    """How a fit or a descent ended; an integer, so that it travels through `jit` and `vmap` as an array.

    >>> Status(2).name
    'separable'
    >>> print(Status.max_steps.advice)
    The step limit came before convergence: raise max_steps or steps, or loosen tol.
    """

    converged = 0
    max_steps = 1
    separable = 2
    rank_deficient = 3
    ill_conditioned = 4
    non_finite = 5
    stalled = 6

    @property
    def advice(self) -> str:
        """One sentence that says what happened and what to do about it."""
        return _ADVICE[self]

    def __str__(self) -> str:
        return self.name


_ADVICE = {
    Status.converged: "The optimum was reached to the tolerance asked for.",
    Status.max_steps: "The step limit came before convergence: raise max_steps or steps, or loosen tol.",
    Status.separable: "A hyperplane separates the classes, or one is absent: no minimum; add a penalty (l2=...).",
    Status.rank_deficient: (
        "The columns of X are linearly dependent, so the minimiser is not unique and the one of smallest norm was "
        "returned: drop columns or add a penalty (l2=...)."
    ),
    Status.ill_conditioned: (
        "X is too ill-conditioned for the digits to be trusted: rescale or drop columns, use float64, or use fit "
        'with method="auto" in place of the normal equations.'
    ),
    Status.non_finite: ("A NaN or an infinity appeared: look for one in X, y or weights, or lower the learning rate."),
    Status.stalled: (
        "No step improves the objective at this precision: use float64, rescale X, drop columns that nearly depend on "
        "others or add a penalty (l2=...), or loosen tol."
    ),
}


class FitError(RuntimeError):
    """Raised by `Fit.check` and `descent.Result.check` for every status but `converged`."""


def status_of(code: Array) -> Any:
    """The `Status` of a concrete scalar code; the array of codes itself when traced or batched."""
    if isinstance(code, jax.core.Tracer) or np.ndim(code) > 0:
        return code
    return Status(int(code))


def check_status(code: Array, what: str) -> None:
    """Raise `FitError` with the advice of each status other than `converged` that occurs in `code`."""
    if isinstance(code, jax.core.Tracer):
        raise TypeError(f"{what}.check() needs concrete values: call it on what the jitted function returns.")
    codes, counts = np.unique(np.asarray(code), return_counts=True)
    bad = [(Status(int(c)), int(m)) for c, m in zip(codes, counts, strict=True) if c != Status.converged]
    if bad:
        total = int(np.size(code))
        lines = [f"{s.name}: {s.advice}" + (f" ({m} of {total} {what.lower()}s)" if total > 1 else "") for s, m in bad]
        raise FitError("\n".join(lines))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Certificate:
    """The proof that comes with a fit; every field is an array, or None where the method does not know it.

    Attributes:
        converged: True when `params` minimise the objective to the tolerance asked for.
        steps: iterations taken; 0 for a closed form.
        gradient_norm: Euclidean norm of the objective's gradient at `params` (of the minimal subgradient under l1).
        objective: the value that the fit minimised, at `params`; of traced classes before `params` are rounded.
        suboptimality: an upper bound of objective - minimum; inf where none is known.
        rank: numerical rank of the (centred, scaled, weighted) design matrix; least squares.
        condition: its 2-norm condition number after scaling its columns; least squares.
        digits: decimal digits of the coefficients believed correct; least squares.
        residual_deviation: sqrt(sum of weighted squared residuals / degrees of freedom); least squares.
        standard_errors: of each coefficient, shaped like `params`; NaN where they do not exist, or rounding leaves
            nothing of them; least squares.
        error_bound: an upper bound of each coefficient's error by rounding, shaped like `params`; least squares.
        direction: a direction that separates the classes, shaped like `params`; separable data only.
    """

    converged: Array
    steps: Array
    gradient_norm: Array
    objective: Array
    suboptimality: Array
    rank: Array | None = None
    condition: Array | None = None
    digits: Array | None = None
    residual_deviation: Array | None = None
    standard_errors: Any = None
    error_bound: Any = None
    direction: Any = None

    def __str__(self) -> str:
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name not in ("standard_errors", "error_bound", "direction"):
                lines.append(f"  {field.name.replace('_', ' '):<18} {_show(value)}")
        return "\n".join(lines)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fit:
    """Fitted parameters with their proof; a pytree, so it passes through `jit`, `vmap` and `grad`.

    Attributes:
        params: the fitted parameters, with `.w` and `.b`.
        certificate: what is known about them, as arrays.
        code: the status as an int32 array (one per lane under `vmap`); read it through `status`.
    """

    params: Any
    certificate: Certificate
    code: Array

    @property
    def status(self) -> Any:
        """The `Status` of this fit; an array of codes when the fit is traced or batched."""
        return status_of(self.code)

    def check(self) -> "Fit":
        """Return self when the status is `converged`; raise `FitError` with the status's advice otherwise."""
        check_status(self.code, "Fit")
        return self

    def __str__(self) -> str:
        if isinstance(self.code, jax.core.Tracer):
            return f"Fit(traced, params={self.params})"
        codes = np.unique(np.asarray(self.code))
        names = ", ".join(Status(int(c)).name for c in codes)
        advice = "" if len(codes) != 1 else f": {Status(int(codes[0])).advice}"
        shapes = ", ".join(
            f"{jax.tree_util.keystr(path)[1:]} {np.shape(leaf)} = {_show(leaf)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(self.params)
        )
        return f"Fit: {names}{advice}\n  {'params':<18} {shapes}\n{self.certificate}"


@jax.jit
def on_device(tree: Tree) -> Tree:
    """NumPy's arrays as those of jax, all at once: a tenth of the time of one device_put each."""
    return tree


def _show(value: Any) -> str:
    """A short text for an array: the number itself, or the first few entries."""
    if isinstance(value, jax.core.Tracer):
        return str(value)
    array = np.asarray(value)
    if array.ndim == 0:
        return str(array.item()) if array.dtype.kind in "bi" else f"{float(array):.6g}"
    flat = array.ravel()
    head = " ".join(f"{float(v):.6g}" for v in flat[:4])
    return f"[{head}{' ...' if flat.size > 4 else ''}]"
