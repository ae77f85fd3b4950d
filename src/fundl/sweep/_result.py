"""What a sweep returns: the fits with their proofs, the held-out scores, the best penalty, a table and a plot."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundl._result import Certificate, Fit, Status, check_status, status_of
from fundl._types import Array
from fundl.sweep import _plot

LOSS = {"logistic": "cross-entropy", "softmax": "cross-entropy", "linear": "squared error"}


class Scores(NamedTuple):
    """How each fit does on the rows that it has not seen; NaN where there are none.

    loss: mean loss over the held-out rows. accuracy: the share of them that is classified right; None in regression.
    """

    loss: Array
    accuracy: Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sweep:
    """Fits along the axes (m penalties, r replicates, t targets); a pytree, so it passes through `jit`.

    Attributes:
        l2: the penalties, (m,).
        l1: the penalties, (m,).
        params: `Linear` with w (m, r, t, d) and b (m, r, t); of softmax w (m, r, 1, d, k) and b (m, r, 1, k).
        certificate: of each fit, arrays (m, r, t).
        code: the status of each fit, (m, r, t); read it through `status`.
        scores: on the rows held out, arrays (m, r, t); None where no row is.
        whole: with folds, the fits to all rows, for each row of weights: arrays (m, weights, t); otherwise None.
        kind: "logistic", "softmax" or "linear".
    """

    l2: Array
    l1: Array
    params: Any
    certificate: Certificate
    code: Array
    scores: Scores | None
    whole: Fit | None
    kind: str = dataclasses.field(metadata={"static": True})

    @property
    def status(self) -> Any:
        """The codes of the fits, as `Status` counts them."""
        return status_of(self.code)

    def check(self) -> "Sweep":
        """Return self when every fit converged; raise `FitError` with the advice of each other status that occurs."""
        check_status(self.code if self.whole is None else jnp.append(self.code, self.whole.code), "Fit")
        return self

    @property
    def loss(self) -> Array:
        """The held-out loss of each penalty and target, (m, t): the mean over replicates; inf where a fit failed."""
        if self.scores is None:
            raise ValueError("No row is held out, so there are no scores: give folds= or weights= with zeros.")
        ended = (self.code == int(Status.converged)) | (self.code == int(Status.rank_deficient))
        mean = _mean(self.scores.loss)
        return jnp.where(jnp.all(ended, axis=1) & ~jnp.isnan(mean), mean, jnp.inf)

    @property
    def best(self) -> Array:
        """The index of the penalty with the least held-out loss, for each target: (t,)."""
        return jnp.argmin(self.loss, axis=0)

    @property
    def best_params(self) -> Any:
        """The parameters fitted to all rows with the best penalty of each target: w (weights, t, ...), b likewise."""
        if self.whole is None:
            raise ValueError("Only folds= come with a fit to all rows; fit again with the penalty l2[best].")
        targets = jnp.arange(self.code.shape[2])
        # Two index arrays around a slice: the targets come first.
        return jax.tree.map(lambda v: jnp.swapaxes(v[self.best, :, targets], 0, 1), self.whole.params)

    def __str__(self) -> str:
        if isinstance(self.code, jax.core.Tracer):
            return f"Sweep(traced, {self.kind}, shape {self.code.shape})"
        return _table(self)

    def plot(self, path: str | pathlib.Path) -> None:
        """Draw the held-out loss and the coefficients of the first target against the penalty into a file.

        Errors: ModuleNotFoundError without matplotlib (the extra `plot`).
        """
        error = None if self.scores is None else standard_error(self.scores.loss)
        _plot.draw(self, pathlib.Path(path), error=error, unit=LOSS[self.kind])


def _mean(v: Array) -> Array:
    """The mean over the replicates, without those that hold nothing out."""
    there = ~jnp.isnan(v)
    return jnp.sum(jnp.where(there, v, jnp.zeros_like(v)), axis=1) / jnp.sum(there, axis=1).astype(v.dtype)


def standard_error(v: Any) -> Any:
    """Of the mean over the replicates, (m, t); numpy."""
    v = np.asarray(v, float)
    there = np.maximum(np.sum(~np.isnan(v), axis=1), 1)
    mean = np.nansum(v, axis=1) / there
    square = np.nansum((v - mean[:, None]) ** 2, axis=1) / np.maximum(there - 1, 1)
    return np.where(there > 1, np.sqrt(square / there), np.nan)


def _table(found: Sweep) -> str:
    m, r, t = found.code.shape
    codes = np.asarray(found.code)
    names = {Status(int(c)).name: int(np.sum(codes == c)) for c in np.unique(codes)}
    lines = [
        f"Sweep: {m} penalties x {r} replicates x {t} targets = {codes.size} {found.kind} fits: "
        + ", ".join(f"{count} {name}" for name, count in names.items())
    ]
    l1 = np.asarray(found.l1)
    sparse = bool(l1.any())
    head = ["l2", *(["l1"] if sparse else []), "ended", "steps", "f - f* <="]
    ended = np.isin(codes, (Status.converged, Status.rank_deficient))
    rows = []
    for i in range(m):
        row = [f"{float(found.l2[i]):.4g}", *([f"{l1[i]:.4g}"] if sparse else [])]
        row += [f"{int(ended[i].sum())}/{ended[i].size}", f"{float(np.mean(found.certificate.steps[i])):.1f}"]
        rows.append([*row, f"{float(np.max(found.certificate.suboptimality[i])):.1e}"])
    if found.scores is not None:
        loss, error, best = np.asarray(found.loss), standard_error(found.scores.loss), np.asarray(found.best)
        head += [f"held-out {LOSS[found.kind]}", "+-"]
        for i, row in enumerate(rows):
            row += [f"{loss[i].mean():.6g}", f"{error[i].mean():.2g}"]
        if found.scores.accuracy is not None:
            head.append("accuracy")
            for row, share in zip(rows, np.asarray(_mean(found.scores.accuracy)), strict=True):
                row.append(f"{share.mean():.4f}")
        head.append("best for")
        for i, row in enumerate(rows):
            chosen = " ".join(str(j) for j in range(t) if best[j] == i)
            row.append("" if not chosen else "*" if t == 1 else f"target {chosen}")
    rows = [head, *rows]
    widths = [max(len(row[j]) for row in rows) for j in range(len(head))]
    return "\n".join(
        lines + ["  " + "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    )
