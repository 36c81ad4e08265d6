"""Thinning: units that are zero are taken out of a model, its masks and its optimizer; what it computes stays the same."""

from limbeck.recipes import Change, Cut, Recipe
from limbeck.thinning.apply import apply
from limbeck.thinning.plan import plan
from limbeck.thinning.thin import check, tensors, thin

__all__ = ["Change", "Cut", "Recipe", "apply", "check", "plan", "tensors", "thin"]
