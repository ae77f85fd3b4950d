"""fundl: the functional fundamentals of deep learning in JAX, with every gradient derived by hand and examined.

Import the modules: `from fundl import losses, linear_regression, verify`. They load when they are first used, so that
`import fundl` is quick and starts no device.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fundl import activations as activations
    from fundl import backprop as backprop
    from fundl import checkpoint as checkpoint
    from fundl import datasets as datasets
    from fundl import descent as descent
    from fundl import layers as layers
    from fundl import least_squares as least_squares
    from fundl import linear_regression as linear_regression
    from fundl import logistic_regression as logistic_regression
    from fundl import losses as losses
    from fundl import mlp as mlp
    from fundl import newton as newton
    from fundl import norms as norms
    from fundl import softmax_regression as softmax_regression
    from fundl import sweep as sweep
    from fundl import verify as verify
    from fundl._result import Certificate as Certificate
    from fundl._result import Fit as Fit
    from fundl._result import FitError as FitError
    from fundl._result import Status as Status
    from fundl._types import Layer as Layer
    from fundl._types import Linear as Linear

_MODULES = (
    "activations", "backprop", "checkpoint", "datasets", "descent", "layers", "least_squares", "linear_regression",
    "logistic_regression", "losses", "mlp", "newton", "norms", "softmax_regression", "sweep", "verify",
)  # fmt: skip
_NAMES = {"Certificate": "_result", "Fit": "_result", "FitError": "_result", "Status": "_result"}
_NAMES |= {"Layer": "_types", "Linear": "_types"}

__all__ = [*_MODULES, *_NAMES]  # noqa: PLE0604, RUF100


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fundl.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"fundl.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'fundl' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
