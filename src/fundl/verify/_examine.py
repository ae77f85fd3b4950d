"""The examination of one rule: structure, float64 at exposing points, other shapes, float32, and the verdict."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fundl.verify._arbitrate import Wrong, arbitrate, confirm
from fundl.verify._arguments import Arguments
from fundl.verify._diagnose import diagnose
from fundl.verify._engine import UNTRACEABLE, Engine
from fundl.verify._judges import Bench, flat
from fundl.verify._points import UNEQUAL, Domain, guess_domain, resized
from fundl.verify._probes import Evidence
from fundl.verify._report import Failure, Report, Row, raised
from fundl.verify._single import check_float32, check_half
from fundl.verify._structure import check_state, check_structure

__all__ = ["Examiner"]

_quiet = np.errstate(all="ignore")  # points far out overflow on purpose, and their NaN and infinities are looked at
_FROZEN = "right at the shapes given alone: a size or an array is frozen into the rule, or an order that fits there"
_CONFUSED = "one size is taken for another that equals it here (if f is not meant for others, let it refuse them)"
_KINKS = ("left", "right", "average", "zero")


class Examiner:
    """f and everything about it that does not depend on the rule, so that many rules can be checked against it."""

    @_quiet
    def __init__(
        self,
        f: Callable[..., Any],
        args: Sequence[Any],
        *,
        domain: Domain | dict[str, Domain] | None = None,
        kink: str | None = None,
        reference: str = "auto",
        has_aux: bool = False,
        wrt: Sequence[int] | None = None,
        fixed: Sequence[int] = (),
        seed: int = 0,
        budget: int = 400_000,
    ) -> None:
        if kink is not None and kink not in _KINKS:
            raise ValueError(f"kink must be one of {_KINKS} or None; got {kink!r}.")
        if reference not in ("auto", "autodiff", "differences"):
            raise ValueError(f"reference must be 'auto', 'autodiff' or 'differences'; got {reference!r}.")
        start = time.perf_counter()
        self.f, self.args, self.kink, self.reference, self.seed = f, tuple(args), kink, reference, seed
        self.arguments = Arguments(f, args, wrt=wrt, fixed=fixed)
        self.engine = Engine(f, self.args, self.arguments, has_aux)
        self.engine.look_inside()
        self.notes = [
            f"every entry of {leaf.name} is {leaf.value.flat[0]}, so a rule that ignores it passes: vary it"
            for leaf in self.arguments.leaves
            if not leaf.floating and leaf.value.size > 1 and np.ptp(leaf.value.astype(np.int64)) == 0
        ]
        if self.engine.own_dtypes_only:
            self.notes.append("f takes no float64: its operations were run one by one in float64 instead")
        if self.engine.inside is not None:
            name = self.engine.inside.name
            self.notes.append(f"f casts to {name}: judged as if that and such casts of the rule kept every digit")
        self.domains = self._domains(domain)
        # Large inputs get fewer points: time and memory stay linear in the size of the input.
        values = [leaf.value for leaf in self.arguments.leaves]
        self.budget = budget
        self.bench = self._bench(values, self.engine.shapes, budget)
        if not self.bench.ok[:1].all():
            f(*args)  # no value at the arguments given: f may say why, and better
        self._others: list[tuple[str, Bench]] | None = None
        self._kept: dict[int, Callable[..., Any]] = {}
        self._preparation = time.perf_counter() - start

    def keep(self, backward: Callable[..., Any]) -> None:
        """Keep what is compiled for a rule that will be checked at many arguments; see `at`."""
        self._kept[id(backward)] = self.engine.rule(backward)

    @_quiet
    def at(self, args: Sequence[Any], seed: int) -> Examiner:
        """The same examination around other arguments of the same shapes, without compiling anything again."""
        other = copy.copy(self)
        other.args, other.seed, other._others, other.notes = tuple(args), seed, [], []
        fresh = Arguments(self.f, args)
        other.arguments = other.engine.arguments = fresh
        other.bench = other._bench([leaf.value for leaf in fresh.leaves], self.engine.shapes, self.budget)
        return other

    def _domains(self, domain: Domain | dict[str, Domain] | None) -> dict[int, Domain]:
        named = {leaf.name: k for k, leaf in enumerate(self.arguments.leaves) if leaf.floating}
        if domain is None:
            return {}
        if not isinstance(domain, dict):
            return dict.fromkeys(named.values(), domain)
        out: dict[int, Domain] = {}
        for name, value in domain.items():
            mine = [k for n, k in named.items() if n == name or self.arguments.names[self._argument(k)] == name]
            if not mine:
                raise ValueError(f"domain names {name!r}, which is no floating argument; there are {list(named)}.")
            out.update(dict.fromkeys(mine, value))
        return out

    def _argument(self, k: int) -> int:
        return self.arguments.leaves[k].argument

    def _bench(self, values: list[np.ndarray], shapes: list[tuple[int, ...]], budget: int) -> Bench:
        blackbox = self.reference == "differences"
        in_python = self.engine.calls_back or not self.engine.traced

        def make(domains: dict[int, Domain]) -> Bench:
            # Where each value of f is a call from Python there is time for a few points only.
            room = min(budget, 6 * max(1, sum(v.size for v in values))) if blackbox and in_python else budget
            return Bench(self.engine, values, domains, blackbox, room, self.seed, shapes, self.reference == "autodiff")

        try:
            bench = make(self.domains)
        except Exception as error:
            reason = self._no_autodiff(error)
            if reason is None:
                raise
            self.reference, blackbox = "differences", True
            few = ", at a few points" if in_python else ""
            self.notes.append(f"{reason}: differences are the only judge{few}")
            bench = make(self.domains)
        guesses = {k: guess_domain(leaf) for k, leaf in enumerate(self.arguments.leaves) if leaf.floating}
        guesses = {k: g for k, g in guesses.items() if g is not None and k not in self.domains}
        if np.mean(bench.ok) < 0.6 and guesses:
            narrowed = make({**self.domains, **guesses})
            if np.mean(narrowed.ok) > np.mean(bench.ok):
                self.domains = {**self.domains, **guesses}
                words = ", ".join(f"{self.arguments.leaves[k].name} {g}" for k, g in guesses.items())
                self.notes.append(f"f has no finite value at most points, so they were drawn with {words}")
                bench = narrowed
        return bench

    def _no_autodiff(self, error: Exception) -> str | None:
        """Why autodiff cannot judge f, where this error says so and differences still can."""
        numpy = isinstance(error, jax.errors.TracerArrayConversionError)
        if not self.engine.traced and not isinstance(error, UNTRACEABLE):
            error.add_note(
                "fundl called f in float64, to judge rules beyond the rounding of float32: let f take it too."
            )
        if self.reference != "auto":
            return None
        if numpy:
            return "f cannot be traced by jax"
        if self.engine.traced and isinstance(error, (NotImplementedError, TypeError, ValueError)):
            return f"jax has no derivative of f ({(str(error).splitlines() or [''])[0]})"
        return None

    def others(self) -> list[tuple[str, Bench]]:
        """Benches of other shapes that f accepts: one example, another batch size, equal sizes made unequal."""
        if self._others is None:
            self._others = []
            shapes: dict[int, list[tuple[int, ...]]] = {}

            def accepts(values: list[np.ndarray]) -> bool:
                with jax.enable_x64(True):
                    structs = [jax.ShapeDtypeStruct(v.shape, np.float64 if v.dtype.kind == "f" else v.dtype)
                               for v in values]  # fmt: skip
                    try:
                        out = jax.eval_shape(self.engine.values, structs)
                    except Exception:  # f refuses these shapes, in whatever way it likes
                        return False
                shapes[id(values)] = [v.shape for v in out]
                return True

            if self.bench.size <= 200_000:
                for text, values in resized(self.arguments.leaves, accepts):
                    bench = self._bench(values, shapes[id(values)], min(self.budget, 24 * sum(v.size for v in values)))
                    self._others.append((text, bench))
        return self._others

    @_quiet
    def check(self, backward: Callable[..., Any], name: str = "", own_value: Any = None, crossed: Any = None) -> Report:
        """Examine one rule.

        A registered rule comes with a forward of its own: own_value(leaves); and crossed(leaves, dys, others) runs it
        with another forward, of others, between its forward and its backward.
        """
        start, self._preparation = time.perf_counter() - self._preparation, 0.0
        name = name or getattr(backward, "__name__", "rule").removesuffix("_backward")
        report = Report(name, notes=list(self.notes))
        report.failures += check_structure(self.engine, self.args, backward, own_value)
        if not report.failures and crossed is not None:
            report.failures += check_state(self.engine, backward, crossed, self.bench, report.notes)
        compute = self._kept.get(id(backward)) or self.engine.rule(backward)
        if not report.failures:
            self._float64(compute, report)
        if not report.failures and own_value is not None:
            self._forward(own_value, report)
        if not report.failures:
            self._other_shapes(compute, report)
        if not report.failures:
            report.failures += check_float32(self.engine, self.bench, compute, report.notes)
        if not report.failures:
            report.failures += check_half(self.engine, self.bench, compute)
        if id(backward) not in self._kept:
            self.engine.forget(compute)
        self._rows(report)
        report.seconds = time.perf_counter() - start
        return report

    def _float64(self, compute: Callable[..., Any], report: Report) -> None:
        bench = self.bench
        report.points, report.skipped = int(bench.ok.sum()), int((~bench.ok).sum())
        if not bench.ok.any():
            nothing = "has no finite value at any point, so nothing was checked: give arguments in its domain"
            report.failures.append(Failure("the function", "domain", nothing))
            return
        try:
            given = bench.given(compute)
        except Exception as error:
            report.failures.append(raised(error, "float64 inputs"))
            return
        wrong = arbitrate(bench, given, compute, self.kink, report)
        report.failures += self._explain(bench, given, wrong, compute)
        report.judges = "differences of f" if bench.blackbox else "jax.vjp of f"
        if not wrong.where and self.reference == "auto":
            report.failures += confirm(bench, given, report)
        self._power(bench, report)

    def _forward(self, own_value: Callable[[list[Any]], list[Any]], report: Report) -> None:
        """The forward that the rule comes with, at every point."""
        bench = self.bench
        stacks = [bench.points.stacks]
        own = flat(self.engine.run(own_value, own_value, stacks, np.float64, bench.chunk))
        plain = flat(bench.outputs)
        top = np.abs(np.where(np.isfinite(plain), plain, 0)).max(axis=1, initial=0.0, keepdims=True)
        off = bench.ok[:, None] & ~(np.abs(own - plain) <= 1e-11 * np.abs(plain) + 1e-12 * top)
        if off.any():
            p, e = (int(i) for i in np.argwhere(off)[0])
            report.failures.append(Failure(
                "the output", "forward", "the rule's forward differs from the plain function",
                "the fwd rule computes something else", (e,), float(own[p, e]), float(plain[p, e]),
                seen_at=bench.points.kinds[p], judges="the undecorated function",
            ))  # fmt: skip

    def _other_shapes(self, compute: Callable[..., Any], report: Report) -> None:
        sizes = [s for leaf in self.arguments.leaves for s in leaf.value.shape if s > 1]
        equal = next((s for s in sizes if sizes.count(s) > 1), None)
        if equal is not None and not self.others():
            report.notes.append(f"f took no other shapes, and {equal} occurs in these more than once: a "
                                "rule that takes one such size or axis for another may pass")  # fmt: skip
        for text, bench in self.others():
            if not bench.ok.any():
                continue
            report.points += int(bench.ok.sum())
            try:
                given = bench.given(compute)
            except Exception as error:
                failure = raised(error, text)
                if text == UNEQUAL:  # f may take such by accident, and then a rule may refuse them
                    report.notes.append(f"not examined with {text}: there the rule {failure.message}")
                    continue
                failure.likely_cause = "a size is frozen into the rule: it works only for the shapes given"
                report.failures.append(failure)
                return
            wrong = arbitrate(bench, given, compute, self.kink, Report(""))
            for failure in self._explain(bench, given, wrong, compute):
                failure.cause, failure.seen_at = "batch", f"{text}, {failure.seen_at}"
                failure.likely_cause = (_CONFUSED if text == UNEQUAL else _FROZEN) + (
                    f" ({failure.likely_cause})" if failure.likely_cause else ""
                )
                report.failures.append(failure)
            if report.failures:
                return

    def _power(self, bench: Bench, report: Report) -> None:
        truth = bench.gradients
        live = bench.ok[:, None] & (truth != 0) & np.isfinite(truth)
        ratio = np.where(live, bench.tolerance(truth) / np.abs(truth), np.inf)
        smallest = ratio.min(axis=0, initial=np.inf)
        if bench.blackbox and not (judged := np.isfinite(bench.errors).any(axis=0)).all():
            report.notes.append(f"differences judged {judged.sum()} of {judged.size} entries, which power speaks of")
        for k, (a, b) in zip(
            self.arguments.differentiable, zip(bench.offsets[:-1], bench.offsets[1:], strict=True), strict=True
        ):
            mine = smallest[a:b][np.isfinite(smallest[a:b])]
            if b == a:
                continue
            report.power[self.arguments.leaves[k].name] = float(mine.max()) if mine.size else 1.0

    def _explain(self, bench: Bench, given: np.ndarray, wrong: Wrong, compute: Callable[..., Any]) -> list[Failure]:
        if not wrong.where:
            return []
        off = bench.ok[:, None] & ~(np.abs(given - bench.gradients) <= bench.tolerance(bench.gradients))
        evidence = Evidence(self.engine, bench, given, off, compute)
        failures = []
        for leaf in sorted({bench.where(e)[0] for _, e in wrong.where}):
            mine = [i for i, (_, e) in enumerate(wrong.where) if bench.where(e)[0] == leaf]
            failures.append(diagnose(evidence, leaf, [wrong.where[i] for i in mine],
                                     [wrong.truth[i] for i in mine], [wrong.kind[i] for i in mine]))  # fmt: skip
        return failures

    def _rows(self, report: Report) -> None:
        failed = {f.argument for f in report.failures}
        for leaf in self.arguments.leaves:
            if leaf.differentiable:
                verdict = "WRONG" if leaf.name in failed else ("not judged" if failed else "ok")
                if verdict == "not judged" and not any(f.cause in ("raises", "structure") for f in report.failures):
                    verdict = "ok"
            else:
                verdict = "no gradient expected"
            report.arguments.append(Row(leaf.name, leaf.describe, verdict))
