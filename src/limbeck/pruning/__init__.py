"""Pruning: criteria, selectors, the pruner that composes them, and the named methods."""

from limbeck.pruning.action import Prune
from limbeck.pruning.methods import (
    automated_gradual_pruner,
    baidu_rnn_pruner,
    level_pruner,
    magnitude_pruner,
    sensitivity_pruner,
    splicing_pruner,
)
from limbeck.pruning.pruner import Pruner, Site

__all__ = [
    "Prune",
    "Pruner",
    "Site",
    "automated_gradual_pruner",
    "baidu_rnn_pruner",
    "level_pruner",
    "magnitude_pruner",
    "sensitivity_pruner",
    "splicing_pruner",
]
