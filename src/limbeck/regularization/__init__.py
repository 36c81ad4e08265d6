"""Regularization: penalties on a schedule."""

from limbeck.regularization.action import Regularize
from limbeck.regularization.regularizers import (
    REGULARIZERS,
    Penalty,
    Regularizer,
    group_lasso_regularizer,
    group_variance_regularizer,
    l1_regularizer,
)

__all__ = [
    "REGULARIZERS",
    "Penalty",
    "Regularize",
    "Regularizer",
    "group_lasso_regularizer",
    "group_variance_regularizer",
    "l1_regularizer",
]
