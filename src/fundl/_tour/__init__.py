"""The guided tour: every row of the lecture on real data, each gradient by hand held against autodiff."""

import pathlib

import jax
import jax.numpy as jnp

from fundl._tour import _classification, _losses, _networks, _regression
from fundl._tour._page import Page

__all__ = ["run"]


def run(out: pathlib.Path | None, quick: bool = False) -> int:
    """Walk through the lecture, print what is found, write the pictures; the exit code.

    out: the folder of the pictures, made where it is missing; ./tour if None.
    quick: fewer steps, no pictures, and the examiner sees the small models only.
    Returns 0 when every verification passed, 1 otherwise. Errors: OSError, at once, where out can be no folder.
    """
    page, out = Page(quick=quick), pathlib.Path("tour") if out is None else out
    if not quick:
        out.mkdir(parents=True, exist_ok=True)  # now, and not after the fits, where it cannot be
    print(
        "fundl tour: the lecture on real data, every gradient written by hand and held against autodiff\n"
        f"jax {jax.__version__} on {jax.default_backend()}, {jnp.zeros(()).dtype}; "
        "1 ulp is one unit of rounding of the gradient's largest entry",
        flush=True,
    )
    with page.workers:
        _regression.linear_regression_on_diabetes(page)
        _losses.norms_and_outliers(page)
        _classification.logistic_regression_on_breast_cancer(page)
        _classification.softmax_regression_on_digits(page)
        _networks.chain_rule(page)
        _networks.perceptron_on_digits(page)
        _close(page, out)
    return 1 if page.failed else 0


def _close(page: Page, out: pathlib.Path) -> None:
    """The examiner's findings, the pictures, the summary and the verdict."""
    page.title("7  The gradients under the examiner, fundl.verify")
    page.say(
        "float64, at the parameters above and at many others; autodiff itself is confirmed by differences\n"
        "would have seen: a relative error as small as this, in any entry\n"
    )
    page.examiner()
    page.title("Summary")
    page.table(("model", "rows x inputs", "fitted by", "held out", "by hand against autodiff"), page.summary)
    if page.pictures:
        _draw(page, out)
    passed = len(page.checks) - len(page.failed)
    print(f"\n{passed} of {len(page.checks)} verifications passed, {page.seconds:.0f} s")
    for name in page.failed:
        print(f"   WRONG  {name}")


def _draw(page: Page, out: pathlib.Path) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("\nNo pictures, since matplotlib is missing: python -m pip install 'fundl[plot]' brings it.")
        return
    page.progress("drawing the pictures")
    print("\nPictures")
    for file, draw, arguments in page.pictures:
        draw(out / file, **arguments)
        page.say(str(out / file))
