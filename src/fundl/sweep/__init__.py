"""Many fits at once: penalties x folds or bootstrap replicates x targets, with held-out scores.

Every array of a `Sweep` starts with the axes (penalties, replicates, targets); each lane along them is the fit that
`logistic_regression.fit`, `softmax_regression.fit` or `linear_regression.fit` would return for it. Those have
derivatives; a sweep refuses them.
"""

from fundl.sweep._fits import linear as linear
from fundl.sweep._fits import logistic as logistic
from fundl.sweep._fits import softmax as softmax
from fundl.sweep._resample import bootstrap as bootstrap
from fundl.sweep._resample import folds as folds
from fundl.sweep._result import Scores as Scores
from fundl.sweep._result import Sweep as Sweep

__all__ = ["Scores", "Sweep", "bootstrap", "folds", "linear", "logistic", "softmax"]
