"""The ancestor's module of this name is not here yet: to take one of its names is an error that says so."""

from __future__ import annotations

from limbeck.compat.distiller._later import THINNING, not_here

NAMES = (
    "ChannelRemover",
    "FilterRemover",
    "StructureRemover",
    "ThinningRecipe",
    "contract_model",
    "execute_thinning_recipe",
    "execute_thinning_recipes_list",
    "find_nonzero_channels",
    "find_nonzero_channels_list",
    "remove_channels",
    "remove_filters",
)
"""What it held."""

__getattr__ = not_here(__name__, NAMES, THINNING)
