"""The verdict: what was checked, what is wrong, where, by how much and why, readable in a terminal."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Failure", "Report", "Row", "raised"]


@dataclass
class Failure:
    """One wrong gradient: `str(failure)` says all of it.

    argument      whose gradient is wrong, or "the rule", "the output", "the function"
    index         of the entry shown: what was `given`, what was `expected`, the error in units of rounding (`ulp`)
    wrong, size   how many entries of how many
    seen_at       the kinds of point where it appears; `dtype` and `judges` say how it was judged
    likely_cause  the sentence for people, or "" where no tested hypothesis explains the error
    cause         a word for programs. The call: raises, structure, shape, dtype, repeat, mutates, transforms,
                  forward, state, batch, domain. The gradient: zero, factor, sign, swapped, transposed, rolled,
                  reversed, entries, added, offset, precision, cotangent, label, axis, term, nonlinear,
                  independent, unknown.
                  Some inputs only: kink, overflow, saturated, region, zero, cancellation. Of f: shared (a
                  stop_gradient, say)
    """

    argument: str
    cause: str
    message: str
    likely_cause: str = ""
    index: tuple[int, ...] | None = None
    given: float | None = None
    expected: float | None = None
    ulp: float | None = None
    wrong: int = 0
    size: int = 0
    dtype: str = ""
    seen_at: str = ""
    judges: str = ""

    def __str__(self) -> str:
        lines = [f"  {self.argument}  {self.message}"]
        if self.index is not None and self.given is not None and self.expected is not None:
            where = f"at [{','.join(map(str, self.index))}]" if self.index else "at []"
            numbers = f"given {self.given:.9g}   should be {self.expected:.9g}"
            if self.expected not in (0, self.given) and self.given == self.given:
                numbers += f"   ratio {self.given / self.expected:.6g}"
            lines.append(f"      {where}   {numbers}")
            if self.ulp is not None and math.isfinite(self.ulp):
                lines.append(f"      error        {self.ulp:.3g} units of rounding ({self.dtype})")
        if self.judges:
            lines.append(f"      judged by    {self.judges}")
        if self.seen_at:
            lines.append(f"      seen at      {self.seen_at}")
        if self.likely_cause:
            lines.append(f"      likely cause {self.likely_cause}")
        return "\n".join(lines)


def raised(error: Exception, where: str, how: str = "") -> Failure:
    """The failure of a rule that raises: the first line of what it says."""
    text = (str(error).strip().splitlines() or [""])[0]
    name = type(error).__name__
    leaked = name == "UnexpectedTracerError" or "No constant handler" in text
    why = (
        "it reads a value that belongs to another trace: one kept in a global or an attribute, perhaps"
        if leaked
        else ""
    )
    return Failure("the rule", "raises", f"{how}raises {name}: {text}", why, seen_at=where)


@dataclass
class Row:
    """One argument of a report: its type and how well its gradient agrees."""

    name: str
    type: str
    verdict: str


@dataclass
class Report:
    """The result of a check; true exactly if no failure was found, and `str(report)` says everything.

    failures     what is wrong, the first failing argument first
    conventions  the value chosen at each kind of kink, where any value of the subdifferential is right
    reference    points where autodiff of f is itself wrong and the rule is right
    notes        what was not checked, and why
    power        per argument, the smallest relative error of an entry that would have been reported

    >>> from fundl import verify
    >>> report = verify.check_rule(lambda x: x * x, lambda dy, x: 2 * x * dy, 3.0)
    >>> report.ok, report.failures
    (True, [])
    """

    name: str
    failures: list[Failure] = field(default_factory=list)
    arguments: list[Row] = field(default_factory=list)
    conventions: list[str] = field(default_factory=list)
    reference: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    power: dict[str, float] = field(default_factory=dict)
    points: int = 0
    skipped: int = 0
    judges: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.failures

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        verdict = "PASS" if self.ok else f"FAIL, {len(self.failures)} wrong"
        lines = [f"{self.name}: {verdict}   {self.points} points, {self.seconds:.1f} s"]
        width = max((len(r.name) for r in self.arguments), default=0)
        kind = max((len(r.type) for r in self.arguments), default=0)
        lines += [f"  {r.name:<{width}}  {r.type:<{kind}}  {r.verdict}" for r in self.arguments]
        lines += [str(f) for f in self.failures]
        lines += [f"  kink       {c}" for c in self.conventions]
        lines += [f"  reference  {r}" for r in self.reference]
        lines += [f"  note       {n}" for n in self.notes]
        if self.ok and self.judges:
            lines.append(f"  judges     {self.judges}")
        if self.ok and self.power:
            worst = max(self.power.values())
            lines.append(f"  power      a relative error of {worst:.0e} in any entry would have been reported")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything in the report as plain Python values, ready for `json.dumps`."""
        return {"ok": self.ok, **asdict(self)}

    def to_json(self) -> str:
        """The report as one JSON object; not-finite numbers become text, which strict JSON lacks."""
        return json.dumps(_strict(self.to_dict()))


def _strict(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _strict(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_strict(v) for v in x]
    if isinstance(x, float) and (x != x or x in (float("inf"), float("-inf"))):
        return str(x)
    return x
