"""What a checkpoint holds of a scheduler's state, and how a run stands there again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.errors import CheckpointError
from limbeck.events import State, saved_state
from limbeck.recipes import Recipe, shapes, unfinished
from limbeck.schedules import Clock

PARTS = ("clock", "masks", "memo", "metrics", "actions")
"""What the state of a scheduler of any version has."""


def saved_parts(state: State) -> dict[str, Any]:
    """All but the clock, as plain data and tensors."""
    places = {id(action): place for place, (_, action) in enumerate(state.schedule)}
    return {
        "masks": state.masks.state_dict(),
        "aside": state.masks.aside_state_dict(),
        "owners": {name: places[id(owner)] for name, owner in state.owners.items()},
        "memo": {name: dict(numbers) for name, numbers in state.memo.items()},
        "metrics": dict(state.metrics),
        "recipes": [recipe.to_json() for recipe in state.recipes],
        "inherited": state.inherited,
        "actions": [[type(action).__name__, saved_state(action)] for _, action in state.schedule],
    }


def refuse_other(saved: Mapping[str, Any], state: State) -> None:
    """Raise ``CheckpointError`` for what is no scheduler's state, and for that of another schedule."""
    if missing := [repr(part) for part in PARTS if not isinstance(saved, Mapping) or part not in saved]:
        raise CheckpointError(f"this is no scheduler's state: it has no {', '.join(missing)}; give what scheduler.state_dict() returned")
    here, there = [type(action).__name__ for _, action in state.schedule], [kind for kind, _ in saved["actions"]]
    if here != there:
        raise CheckpointError(
            f"the checkpoint's schedule has the actions {there}, this one {here}; resume with the schedule that was saved"
        )


def put_back(state: State, saved: Mapping[str, Any], clock: Clock) -> None:
    """Stand where ``saved_parts`` was taken, at this clock; raises ``CheckpointError`` where the model is not as thin, or lacks what masks name."""
    recipes = _done(saved.get("recipes", ()), state)
    state.masks.load_state_dict(saved["masks"], saved.get("aside"))
    state.clock, state.recipes, state.inherited = clock, recipes, saved.get("inherited", 0)
    state.memo = {name: dict(numbers) for name, numbers in saved["memo"].items()}
    state.metrics = dict(saved["metrics"])
    state.owners = {name: state.schedule[place][1] for name, place in saved.get("owners", {}).items()}
    for (_, action), (_, own) in zip(state.schedule, saved["actions"], strict=True):
        load = getattr(action, "load_state_dict", None)
        if load is not None:
            load(state, own)


def _done(saved: Sequence[str], state: State) -> list[Recipe]:
    """The recipes of a saved state, which have been carried out on the model."""
    recipes = [Recipe.from_json(text) for text in saved]
    if faults := unfinished(recipes, shapes(state.model)):
        raise CheckpointError(
            f"the checkpoint's model was thinned and this one was not so: {faults[0]}; restore the model from the checkpoint first, or thin "
            "it by limbeck.replay(recipes, model)"
        )
    return recipes
