"""The ancestor's module of this name is not here yet: to take one of its names is an error that says so."""

from __future__ import annotations

from typing import NoReturn

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


def __getattr__(name: str) -> NoReturn:
    if name in NAMES:
        raise ImportError(f"there is no '{name}': this version of Limbeck has no thinning; what a mask drops stays in its tensor, as zeros")
    raise AttributeError(f"limbeck.compat.distiller.thinning has no '{name}': this version of Limbeck has no thinning")
