"""placeholder"""

from fundl.layers import linear
from fundl.losses._categorical import cross_entropy_with_logits


def linear_cross_entropy(X, W, b, y, **o):
    """x"""
    return cross_entropy_with_logits(linear(X, W, b), y, **o)


def linear_cross_entropy_backward(dJ, X, W, b, y, **o):
    """x"""
    raise TypeError
