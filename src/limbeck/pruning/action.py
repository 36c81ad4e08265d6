"""The action that renews masks when its window fires."""

from __future__ import annotations

from dataclasses import replace

import torch

from limbeck.events import Action, State
from limbeck.names import resolve
from limbeck.pruning.pruner import Pruner, Site
from limbeck.schedules import Moment


class Prune(Action):
    """Renews the masks of a pruner's targets at the begin of an epoch, or of a step, and applies them at once."""

    def __init__(self, pruner: Pruner) -> None:
        self.pruner = pruner

    def bind(self, state: State) -> None:
        """Bring the targets to the model's parameter names; raises ``TargetError`` for one that matches nothing."""
        self.pruner = replace(self.pruner, targets=resolve(self.pruner.targets, state.parameters))

    def on_epoch_begin(self, state: State, moment: Moment) -> None:
        """Renew, for windows by epoch."""
        if moment.unit == "epoch":
            self._renew(state, moment)

    def on_minibatch_begin(self, state: State, moment: Moment) -> None:
        """Renew, for windows by step."""
        if moment.unit == "step":
            self._renew(state, moment)

    @torch.no_grad()
    def _renew(self, state: State, moment: Moment) -> None:
        sites = {}
        for name in self.pruner.targets:
            parameter = state.parameters[name].parameter
            sites[name] = Site(parameter.detach(), state.masks.get(name), parameter.grad, memo=state.memo.setdefault(name, {}))
        masks = self.pruner.masks(sites, moment)
        for name, keep in masks.items():
            state.masks.put(name, keep)
        state.masks.apply(masks)
