"""Losses L per example and their mean, sum or neither (J), each with its hand-written backward.

Every loss takes `weights=` and `reduction=`. With per-example losses L_i and weights w_i (1 when not given):
"mean" (default) is sum_i w_i L_i / sum_i w_i, "sum" is sum_i w_i L_i, "none" is the array of w_i L_i. The
lecture's cross-entropy and the matrix form of its squared error are sums: `reduction="sum"`.

An example of weight 0 is left out even if its values are NaN; when all weights are 0 the mean is 0. The derivative of
the sum in a weight is the loss of its example, also where the weight is 0 (some finite number where that is not).
Losses of half-precision inputs are computed, and returned, in float32.
"""

from fundl.losses._binary import (
    binary_cross_entropy as binary_cross_entropy,
)
from fundl.losses._binary import (
    binary_cross_entropy_backward as binary_cross_entropy_backward,
)
from fundl.losses._binary import (
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
)
from fundl.losses._binary import (
    binary_cross_entropy_with_logits_backward as binary_cross_entropy_with_logits_backward,
)
from fundl.losses._binary import (
    focal_with_logits as focal_with_logits,
)
from fundl.losses._binary import (
    focal_with_logits_backward as focal_with_logits_backward,
)
from fundl.losses._categorical import (
    cross_entropy as cross_entropy,
)
from fundl.losses._categorical import (
    cross_entropy_backward as cross_entropy_backward,
)
from fundl.losses._categorical import (
    cross_entropy_with_logits as cross_entropy_with_logits,
)
from fundl.losses._categorical import (
    cross_entropy_with_logits_backward as cross_entropy_with_logits_backward,
)
from fundl.losses._linear_binary_cross_entropy import (
    linear_binary_cross_entropy as linear_binary_cross_entropy,
)
from fundl.losses._linear_binary_cross_entropy import (
    linear_binary_cross_entropy_backward as linear_binary_cross_entropy_backward,
)
from fundl.losses._linear_cross_entropy import (
    linear_cross_entropy as linear_cross_entropy,
)
from fundl.losses._linear_cross_entropy import (
    linear_cross_entropy_backward as linear_cross_entropy_backward,
)
from fundl.losses._reduction import sum_and_weight as sum_and_weight
from fundl.losses._regression import (
    huber as huber,
)
from fundl.losses._regression import (
    huber_backward as huber_backward,
)
from fundl.losses._regression import (
    l1 as l1,
)
from fundl.losses._regression import (
    l1_backward as l1_backward,
)
from fundl.losses._regression import (
    mse as mse,
)
from fundl.losses._regression import (
    mse_backward as mse_backward,
)

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_backward", "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_backward", "cross_entropy", "cross_entropy_backward",
    "cross_entropy_with_logits", "cross_entropy_with_logits_backward", "focal_with_logits",
    "focal_with_logits_backward", "huber", "huber_backward", "l1", "l1_backward",
    "linear_binary_cross_entropy", "linear_binary_cross_entropy_backward", "linear_cross_entropy",
    "linear_cross_entropy_backward", "mse", "mse_backward", "sum_and_weight",
]  # fmt: skip
