"""The command line: `fundl tour`, `fundl verify`, `fundl fit`."""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

MODELS = ("linear", "logistic", "softmax")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 for success, 1 for a failed check, 2 for bad input."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, TypeError, OSError) as error:
        print(f"fundl {arguments.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    from fundl import __version__

    parser = argparse.ArgumentParser(prog="fundl", description="The functional fundamentals of deep learning in JAX.")
    parser.add_argument("--version", action="version", version=f"fundl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    tour = commands.add_parser("tour", help="fit every model on real data, verify its gradient, draw pictures")
    tour.add_argument("--out", type=Path, default=Path("tour"), help="folder for the pictures (default: ./tour)")
    tour.add_argument("--quick", action="store_true", help="fewer steps and no pictures")
    tour.set_defaults(run=_tour)

    verify = commands.add_parser(
        "verify",
        help="prove hand-written gradients: fundl's own, or yours",
        description="Without a target all of fundl's own rules are checked. A target module:name is a function with "
        "name_backward beside it, or a jax.custom_vjp; a module alone means all of them in it. Inputs come from "
        "--shapes, from name_examples beside it, or from usual shapes; options of the check from name_options. Exit "
        "code 1 when a rule is wrong, 2 when one cannot be found or called, or on bad options; 2 where both are so.",
    )
    verify.add_argument("targets", nargs="*", metavar="module:name")
    verify.add_argument("--shapes", help="arguments such as '(8,3),(3,),int5(8)' for the targets")
    verify.add_argument("--json", action="store_true", help="one JSON object on standard output")
    verify.add_argument("--quiet", action="store_true", help="print failures and the count alone")
    verify.set_defaults(run=_verify)

    fit = commands.add_parser("fit", help="fit a regression to a CSV file or a data set that ships with fundl")
    fit.add_argument("model", choices=MODELS)
    fit.add_argument("data", help="a .csv file with a header line, or diabetes, breast_cancer, digits")
    fit.add_argument("--target", help="the column to predict (default: the last)")
    fit.add_argument("--l2", type=float, default=0.0, help="penalty on the squared weights (default: 0)")
    fit.add_argument("--l1", type=float, default=0.0, help="penalty on the absolute weights, logistic and softmax")
    fit.add_argument("--test", type=float, default=0.25, help="share of rows held out for the score (default: 0.25)")
    fit.add_argument("--seed", type=int, default=0, help="of the split")
    fit.add_argument("--save", type=Path, help="write the parameters to this .npz file")
    fit.set_defaults(run=_fit)
    return parser


def _tour(arguments: argparse.Namespace) -> int:
    from fundl import _tour

    return _tour.run(arguments.out, arguments.quick)


def _verify(arguments: argparse.Namespace) -> int:
    from fundl import verify

    if arguments.targets:
        return verify.run(arguments.targets, json=arguments.json, shapes=arguments.shapes, quiet=arguments.quiet)
    if arguments.shapes is not None:
        raise ValueError(f"--shapes needs a target: fundl verify module:name --shapes '{arguments.shapes}'.")
    from fundl import _own_rules

    return verify.check_cases(_own_rules.cases(), json=arguments.json, quiet=arguments.quiet, jobs=None)


def _fit(arguments: argparse.Namespace) -> int:
    from fundl import checkpoint, datasets
    from fundl._result import Status

    X, y, names = _read(arguments.data, arguments.target)
    train, test = datasets.train_test_split(len(X), test=arguments.test, seed=arguments.seed)
    if arguments.model == "linear":
        if arguments.l1:
            raise ValueError("--l1 is for logistic and softmax; linear takes --l2.")
        from fundl import linear_regression

        fitted = linear_regression.fit(X[train], y[train], l2=arguments.l2)
        error = np.asarray(linear_regression.predict(fitted.params, X[test])) - y[test]
        score = f"R^2 {1 - np.sum(error**2) / np.sum((y[test] - y[test].mean()) ** 2):.4f}"
    else:
        classes, codes = np.unique(y, return_inverse=True)
        if arguments.model == "logistic":
            if len(classes) != 2:
                raise ValueError(f"logistic needs two classes in the target; it has {len(classes)}. Use softmax.")
            from fundl import logistic_regression as model

            options: dict[str, Any] = {}
        else:
            from fundl import softmax_regression as model

            options = {"num_classes": len(classes)}
        fitted = model.fit(X[train], codes[train], l2=arguments.l2, l1=arguments.l1, **options)
        right = np.asarray(model.predict(fitted.params, X[test])) == codes[test]
        score = f"accuracy {right.mean():.4f} (classes {', '.join(map(str, classes))})"
    print(fitted)
    print(f"  held out           {score} on {len(test)} of {len(X)} rows, {len(names)} columns")
    if arguments.save:
        checkpoint.save(arguments.save, fitted.params)
        print(f"  saved              {arguments.save}")
    return 0 if fitted.status == Status.converged else 1


def _read(source: str, target: str | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Inputs, targets and column names of a data set by name or of a CSV file."""
    from fundl import datasets

    if source in ("diabetes", "breast_cancer", "digits"):
        data = getattr(datasets, source)()
        return data.X.astype(np.float64), data.y, list(data.feature_names)
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:  # with or without the mark that Excel begins with
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{source} is no CSV file in UTF-8 ({error}); save it as one.") from None
    if not rows:
        raise ValueError(f"{source} is empty; a header line and rows are wanted.")
    head, *lines = rows
    if twice := [name for name in dict.fromkeys(head) if head.count(name) > 1]:
        raise ValueError(f"{source} names more than one column {', '.join(map(repr, twice))}; name each but once.")
    if target is not None and target not in head:
        raise ValueError(f"--target {target!r} is not a column of {source}: it has {', '.join(head)}.")
    column = len(head) - 1 if target is None else head.index(target)
    ragged = next((i for i, row in enumerate(lines, 2) if len(row) != len(head)), None)
    if not lines or ragged is not None:
        where = "no rows" if not lines else f"another number of fields in line {ragged} than in the header"
        raise ValueError(f"{source} has {where}.")
    if len(head) == 1:
        raise ValueError(f"{source} has no column but the target, {head[0]}: nothing to predict it from.")
    y = _column([row[column] for row in lines])
    names = [name for i, name in enumerate(head) if i != column]
    columns: list[Any] = [_column([row[i] for row in lines]) for i in range(len(head)) if i != column]
    words = [name for name, values in zip(names, columns, strict=True) if values.dtype.kind == "U"]
    if words:
        raise ValueError(f"{source}: columns {', '.join(words)} hold text; encode them as numbers.")
    return np.stack(columns, axis=1), y, names


def _column(values: list[str]) -> np.ndarray:
    """Numbers where every entry is one, text otherwise."""
    try:
        return np.array([float(v) for v in values])
    except ValueError:
        return np.array(values)
