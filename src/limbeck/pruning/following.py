"""What an action that prunes does to all that is coupled to the units of its pruner."""

from __future__ import annotations

import warnings

import torch

from limbeck.errors import CaptureError, ScheduleError, ScheduleWarning
from limbeck.events import Action, Coupled, State
from limbeck.graph.removal import scales, silence
from limbeck.masks import Life
from limbeck.pruning.coupled import Group, disagreements, groups
from limbeck.pruning.joint import axes, matrices
from limbeck.pruning.pruner import Pruner

SHOWN = 4
"""Longer lists are cut off."""


class Follower:
    """Masks of the vectors that follow one action's units, and what is kept of the model's coupling between two of its firings."""

    def __init__(self, owner: Action) -> None:
        self._owner = owner
        self._found: tuple[Coupled, list[Group]] | None = None
        self._told = False

    def needed(self, state: State) -> Coupled:
        """The model's coupling; raises ``ScheduleError`` without ``example_inputs``, ``CaptureError`` where the model cannot be captured."""
        coupled = state.coupled()
        if coupled is None:
            raise ScheduleError(
                "coupling: joint needs the model's graph: give example_inputs to load_schedule, Scheduler or file_config, as in (torch.zeros(1, 3, 32, 32),)"
            )
        return coupled

    def groups(self, state: State, pruner: Pruner) -> list[Group]:
        """The groups of a pruner's targets."""
        coupled = self.needed(state)
        if self._found is None or self._found[0] is not coupled:
            self._found = coupled, groups(coupled.coupling, axes(pruner, state.parameters), matrices(coupled))
        return self._found[1]

    def follow(self, state: State, pruner: Pruner, life: Life) -> list[str]:
        """Renew the masks of the vectors whose units have fallen or come back; their names."""
        coupled = self._coupled(state, pruner)
        if coupled is None:
            return []
        kept = {name: keep for name, keep in state.masks.items() if keep.dim() > 1 and name in coupled.graph.tensors}
        silenced = silence(coupled.graph, coupled.coupling, kept)
        if not self._told:
            self._warn(_report(disagreements(coupled.coupling, silenced.flow, self.groups(state, pruner), kept)))
        gains, renewed = scales(coupled.graph), []
        for name, keep in silenced.vectors.items():
            parameter, before = state.parameters[name].parameter.detach(), state.masks.get(name)
            if not self._follows(state, pruner, name, keep):
                continue
            state.masks.put(name, keep, life)
            state.owners[name] = self._owner
            if life != "soft" and before is not None and name in gains:
                _revive(parameter, before)
            renewed.append(name)
        return renewed

    def release(self, state: State, pruner: Pruner, names: list[str]) -> None:
        """Masks are about to be dropped: let the scales that they held begin anew."""
        coupled = self._coupled(state, pruner)
        gains = frozenset[str]() if coupled is None else scales(coupled.graph)
        for name in names:
            if name in gains and name not in pruner.targets and state.masks.life(name) != "soft":
                _revive(state.parameters[name].parameter.detach(), state.masks[name])

    def _coupled(self, state: State, pruner: Pruner) -> Coupled | None:
        """The model's coupling, where units follow it."""
        if pruner.coupling == "none" or not axes(pruner, state.parameters):
            return None
        try:
            return state.coupled()
        except CaptureError as error:
            self._warn([f"biases and norms do not follow the masks: {error}"])
            return None

    def _follows(self, state: State, pruner: Pruner, name: str, keep: torch.Tensor) -> bool:
        """Whether this action is to mask a vector: not where a mask stands that was asked for by name, nor where another's is the same."""
        before, owner = state.masks.get(name), state.owners.get(name)
        if before is None:
            return not bool(keep.all())
        if owner is self._owner:
            return name not in pruner.targets
        by_name = name in getattr(getattr(owner, "pruner", None), "targets", (name,))
        return not by_name and not torch.equal(before.cpu(), keep)

    def _warn(self, lines: list[str]) -> None:
        """Once in a run."""
        if lines and not self._told:
            self._told = True
            warnings.warn("; ".join(lines), ScheduleWarning, stacklevel=2)


def _report(lines: list[str]) -> list[str]:
    """What coupled masks disagree on, with the remedy; nothing where they agree."""
    if not lines:
        return []
    shown = "".join(f"\n  {line}" for line in lines[:SHOWN]) + (f"\n  and {len(lines) - SHOWN} groups more" if len(lines) > SHOWN else "")
    remedy = "the pruner's coupling: joint ranks them as one, and group_dependency: Leader lets the first of its weights decide"
    return [f"masks of coupled tensors disagree; {remedy}:{shown}"]


def _revive(scale: torch.Tensor, before: torch.Tensor) -> None:
    """Scales that a mask held at zero begin at 1, until the new one is applied: with scale and filter at zero neither would ever learn."""
    scale[~before] = 1.0
