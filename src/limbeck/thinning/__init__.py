"""Thinning: units that are zero are taken out of a model, its masks and its optimizer; what it computes stays the same."""

from limbeck.recipes import Change, Cut, Recipe
from limbeck.thinning.action import Thin, thin_now
from limbeck.thinning.apply import apply
from limbeck.thinning.plan import plan, tensors
from limbeck.thinning.replay import replay
from limbeck.thinning.save import load_thinned, save_thinned
from limbeck.thinning.thin import thin
from limbeck.thinning.trial import check

__all__ = [
    "Change",
    "Cut",
    "Recipe",
    "Thin",
    "apply",
    "check",
    "load_thinned",
    "plan",
    "replay",
    "save_thinned",
    "tensors",
    "thin",
    "thin_now",
]
