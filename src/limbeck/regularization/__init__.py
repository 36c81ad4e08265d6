"""Regularization: penalties on a schedule."""

from limbeck.regularization.regularizers import REGULARIZERS, Regularize, Regularizer, l1_regularizer

__all__ = ["REGULARIZERS", "Regularize", "Regularizer", "l1_regularizer"]
