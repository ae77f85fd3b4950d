"""Checks from the command line: which rule a `module:name` means, where its inputs come from, and the table."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json as json_module
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundl.verify._report import Failure, Report
from fundl.verify._rules import Options, check_custom_vjp, check_rule

__all__ = ["check_cases", "parse_shapes", "run"]

_ANY = (Exception, SystemExit)  # all that a user's code may raise, but for the interrupt of who runs it

Case = tuple[str, Callable[..., Any], Callable[..., Any] | None, Sequence[Any], dict[str, Any]]


def run(targets: list[str], *, json: bool = False, shapes: str | None = None, quiet: bool = False) -> int:
    """Check rules named `module:name`; the exit code: 0 if all are right, 1 otherwise, 2 if not found or called.

    The rule of `name` is the function `name_backward` beside it, or else its own jax.custom_vjp or custom_jvp.
    Inputs come from `shapes` where given (see `parse_shapes`), else from `name_examples` beside it (the arguments as
    a tuple, a list of such tuples, or a function that returns either), else from the first usual shapes that the
    function accepts; options of the check (`Options`) from a dict `name_options`. A module alone means all its pairs.
    json prints one JSON object, quiet the failing reports and the count alone. What cannot be found or called is
    said on standard error and among the `problems` of the JSON object, and the rest is checked.

    >>> run(["jax.nn:relu"], shapes="(4,3)", quiet=True)  # doctest: +ELLIPSIS
    1 of 1 rules right, ...
    0
    """
    cases: list[Case] = []
    problems: list[str] = []
    for target in targets:
        try:
            cases += _cases(target, shapes, problems)
        except _ANY as error:  # a module may fail in any way when it is imported
            problems.append(_problem(target, error))
    return check_cases(cases, json=json, quiet=quiet, jobs=None, problems=problems)


def check_cases(
    cases: Iterable[Case],
    *,
    json: bool = False,
    quiet: bool = False,
    jobs: int | None = 1,
    problems: Sequence[str] = (),
) -> int:
    """Check (label, f, backward, args, options) one by one; a backward of None means f's own custom rule.

    Prints progress, each failing report, a table, and the notes on rules that pass; with json one JSON object instead,
    with quiet the failing reports and the count alone. jobs threads work at once, with None one for each core up to
    four; what a `with` block sets in jax does not reach other threads, so more than one is for programs without such.
    problems: sentences on what could not be made a case. Returns 0, 1 where a rule is wrong, or 2 where there is a
    problem, no case, or a function or options that cannot be used; this is said on standard error too.

    >>> import jax.numpy as jnp
    >>> cases = [("sine", jnp.sin, lambda dy, x: dy * jnp.cos(x), (jnp.ones(3),), {})]
    >>> check_cases(cases, quiet=True)  # doctest: +ELLIPSIS
    1 of 1 rules right, ...
    0
    """
    cases, problems = list(cases), list(problems)
    if not (cases or problems):
        problems = ["there is no rule to check, so nothing was examined."]
    for problem in problems:
        print(f"fundl verify: {problem}", file=sys.stderr)
    start, reports = time.perf_counter(), []
    jobs = min(4, os.cpu_count() or 1) if jobs is None else jobs
    show_progress = sys.stderr.isatty() and not quiet
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        found = pool.map(_report, cases) if jobs > 1 else map(_report, cases)
        for i, (label, *_) in enumerate(cases):
            if show_progress:
                print(f"\r\033[K[{i + 1}/{len(cases)}] {label}", end="", file=sys.stderr, flush=True)
            reports.append(next(found))
    if show_progress:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - start
    if json:
        rows = [json_module.loads(r.to_json()) for r in reports]
        ok = all(reports) and not problems
        print(json_module.dumps({"ok": ok, "seconds": round(seconds, 2), "reports": rows, "problems": problems}))
    elif cases:
        print(_table(reports, seconds, quiet))
    unusable = [r for r in reports if _unusable(r)]
    for r in unusable:
        print(f"fundl verify: {r.name} {r.failures[0].message}; {r.failures[0].seen_at}", file=sys.stderr)
    return 2 if problems or unusable else 0 if all(reports) else 1


def _report(case: Case) -> Report:
    label, f, backward, args, options = case
    try:
        report = (
            check_custom_vjp(f, *args, **options) if backward is None else check_rule(f, backward, *args, **options)
        )
    except _ANY as error:  # the function itself failed at these inputs: one bad case must not hide the rest
        report, text = Report(label), f"raises {type(error).__name__}: {error}"
        report.failures.append(Failure("the function", "raises", text, seen_at=f"called with {_types(args)}"))
    report.name = label
    return report


def _unusable(report: Report) -> bool:
    """Whether it is not the rule that failed: f cannot be called with the arguments, or checked with the options."""
    return any((f.argument, f.cause) == ("the function", "raises") for f in report.failures)


def _types(args: Sequence[Any]) -> str:
    def shown(x: Any) -> str:
        return f"{x.dtype.name}[{','.join(map(str, x.shape))}]" if isinstance(x, (np.ndarray, jax.Array)) else repr(x)

    return ", ".join(str(jax.tree.map(shown, arg)).replace("'", "") for arg in args)


def _problem(target: str, error: BaseException) -> str:
    """What is wrong with a target: an error's own words where they say which, or else with its type."""
    told = isinstance(error, (ImportError, AttributeError, ValueError)) and target.partition(":")[0] in str(error)
    return str(error) if told else f"{target}: {type(error).__name__}: {error}"


def parse_shapes(text: str) -> tuple[Any, ...]:
    """Random arguments from a text such as `(8,3), (3,), int5(8), 0.5`.

    `(8,3)` is a float array; `int5(8)` integers 0 to 4; `pos(8)` positive and `prob(8)` in (0, 1); `bool(8)`; a
    number stands for itself, an integer as a static argument.

    >>> [getattr(a, "shape", a) for a in parse_shapes("(8,3), int5(8), 2")]
    [(8, 3), (8,), 2]
    """
    rng = np.random.default_rng(0)
    out: list[Any] = []
    rest = text.strip()
    kinds = r"(?P<kind>int(?P<top>[1-9]\d*)|pos|prob|bool)?\((?P<shape>[\d,\s]*)\)"
    number = r"(?P<number>[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)"
    pattern = re.compile(rf"({kinds}|{number})\s*(,\s*|$)")
    while rest:
        match = pattern.match(rest)
        if match is None:
            raise ValueError(
                f"cannot read the shapes from {rest!r} on; write float arrays as (8,3), integers 0 to 4 as int5(8), "
                "positive ones as pos(8), numbers as they are, with commas between"
            )
        rest = rest[match.end() :]
        if (value := match["number"]) is not None:
            out.append(float(value) if re.search(r"[.e]", value) else int(value))
            continue
        shape = tuple(int(s) for s in match["shape"].replace(" ", "").split(",") if s)
        kind = match["kind"]
        if match["top"]:
            out.append(jnp.asarray(rng.integers(0, int(match["top"]), shape), jnp.int32))
        elif kind == "bool":
            out.append(jnp.asarray(rng.random(shape) < 0.5))
        else:
            x = rng.standard_normal(shape)
            x = np.abs(x) + 0.1 if kind == "pos" else 1 / (1 + np.exp(-x)) if kind == "prob" else x
            out.append(jnp.asarray(x, jnp.result_type(float)))
    return tuple(out)


def _cases(target: str, shapes: str | None, problems: list[str]) -> list[Case]:
    """The cases of a target; of a module those that can be had, and why the others cannot."""
    module_name, _, name = target.partition(":")
    if module_name.endswith(".py") or "/" in module_name or os.sep in module_name:
        stem, rest = Path(module_name).stem, f":{name}" if name else ""
        raise ValueError(f"{target} is a path; name the module as in import, from its folder: {stem}{rest}.")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: the user's own file in the current folder
    module = importlib.import_module(module_name)
    if not name:
        names = [n for n in vars(module) if n.endswith("_backward") or _is_custom(vars(module)[n])]
        names = list(dict.fromkeys(n.removesuffix("_backward") for n in names))
        if not names:
            raise ValueError(f"{module_name} holds no pair of name and name_backward and no jax.custom_vjp function.")
        cases: list[Case] = []
        for n in names:
            try:
                cases += _cases(f"{module_name}:{n}", shapes, problems)
            except _ANY as error:  # its examples may fail in any way too
                problems.append(_problem(f"{module_name}:{n}", error))
        return cases
    f = getattr(module, name, None)
    if f is None:
        raise AttributeError(f"{module_name} has no {name!r}.")
    backward = getattr(module, f"{name}_backward", None)
    if backward is None and not _is_custom(f):
        raise ValueError(
            f"{target} has no rule: put {name}_backward(dy, *args) beside it, or register a jax.custom_vjp."
        )
    options = _options(module, target, name)
    examples = getattr(module, f"{name}_examples", None)
    if shapes is not None:
        inputs = [parse_shapes(shapes)]
    elif examples is not None:
        examples = examples() if callable(examples) else examples
        inputs = list(examples) if isinstance(examples, list) else [examples]
        if not inputs:
            raise ValueError(f"{name}_examples of {target} is empty, so nothing can be checked: put arguments in it.")
        if not all(isinstance(args, (tuple, list)) for args in inputs):
            raise ValueError(f"{name}_examples of {target} must be the arguments as a tuple, or a list of such tuples.")
    else:
        inputs = [_usual_inputs(target, f, backward)]
    labels = [target] if len(inputs) == 1 else [f"{target} {i}" for i in range(len(inputs))]
    return [(label, f, backward, tuple(args), options) for label, args in zip(labels, inputs, strict=True)]


def _options(module: Any, target: str, name: str) -> dict[str, Any]:
    options = getattr(module, f"{name}_options", {})
    allowed = ", ".join(Options.__annotations__)
    if not isinstance(options, dict):
        raise ValueError(f"{name}_options of {target} must be a dict of options of a check: {allowed}.")
    unknown = [key for key in options if key not in Options.__annotations__]
    if unknown:
        raise ValueError(f"{name}_options of {target} has {unknown[0]!r}, which is no option; there are {allowed}.")
    return options


def _is_custom(f: Any) -> bool:
    while f is not None:
        if isinstance(f, (jax.custom_vjp, jax.custom_jvp)):
            return True
        f = getattr(f, "__wrapped__", None)
    return False


def _usual_inputs(target: str, f: Callable[..., Any], backward: Callable[..., Any] | None) -> tuple[Any, ...]:
    """The first usual shapes at which every gradient has that of its argument; without a rule, none that broadcast."""
    parameters = inspect.signature(f).parameters.values()
    count = sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    usual = ("(5,3)", "(3,4)", "(3,)", "(4,)", "(5,)", "()", "int3(5)")
    name = target.partition(":")[2]
    raised = at_fault = ""
    for shapes in itertools.product(usual, repeat=count) if count <= 4 else ():
        args = parse_shapes(", ".join(shapes))
        if "(5,3)" not in shapes and "(5,)" not in shapes:
            continue
        try:
            with jax.numpy_rank_promotion("raise" if backward is None else "allow"):
                out = jax.eval_shape(f, *args)
        except (TypeError, ValueError, IndexError, AssertionError):
            continue
        except _ANY as error:  # f refuses these shapes in a way of its own, or cannot run at all
            raised = f" (it raises {type(error).__name__}: {error})"
            continue
        if backward is None:
            return args
        try:
            grads = jax.eval_shape(backward, out, *args)
            found = [g.shape for g in jax.tree.leaves(grads) if g.dtype != jax.dtypes.float0]
            if found == [a.shape for a in args if jnp.issubdtype(a.dtype, jnp.floating)]:
                return args
            does = f"returns gradients of shapes {', '.join(map(str, found))}"
        except _ANY as error:
            does = f"raises {type(error).__name__}: {error}"
        at_fault = at_fault or f"{target} takes {', '.join(shapes)}, where {name}_backward {does}; if others are meant"
    raise ValueError(
        f"{at_fault or f'no usual shapes fit {target}{raised};'} give them with --shapes '(8,3),(3,),int5(8)' or put "
        f"{name}_examples = (arguments...) beside it."
    )


def _table(reports: list[Report], seconds: float, quiet: bool) -> str:
    lines: list[str] = []
    for r in reports:
        if r.ok or _unusable(r):
            continue
        lines += [str(r), ""]
    width = max((len(r.name) for r in reports), default=4)
    if not quiet:
        lines.append(f"{'rule':<{width}}  verdict  points  power   seconds")
        for r in reports:
            power = max((p for p in r.power.values() if math.isfinite(p)), default=math.nan)
            shown = "      " if math.isnan(power) else f"{power:.0e} "
            extra = f"  {len(r.conventions)} kink" if r.conventions else ""
            extra += "  jax.grad wrong here" if r.reference else ""
            verdict = "ok   " if r.ok else "error" if _unusable(r) else "WRONG"
            lines.append(f"{r.name:<{width}}  {verdict}    {r.points:>6}  {shown}  {r.seconds:>6.2f}{extra}".rstrip())
        lines.append("")
        # What was not examined, or not decided, is all that warns of a rule that passes.
        notes = [f"note  {r.name}: {note}" for r in reports if r.ok for note in r.notes]
        lines += [*notes, ""] if notes else []
    lines.append(f"{sum(r.ok for r in reports)} of {len(reports)} rules right, {seconds:.1f} s")
    return "\n".join(lines)
