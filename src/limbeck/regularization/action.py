"""The action that adds a regularizer's penalty to the loss and cuts small groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.errors import ScheduleError
from limbeck.events import Action, State
from limbeck.names import resolve
from limbeck.regularization.norms import MEASURES, split
from limbeck.regularization.regularizers import Penalty, Regularizer
from limbeck.schedules import Moment, Window


class Regularize(Action):
    """Adds a regularizer's penalty to the loss of every step in its window's epochs, or of the steps at which it fires.

    A regularizer with ``threshold_criteria`` also sets to zero, after each of these steps, the groups that do not exceed their strength. They
    may come back in the next step; with ``keep_mask`` those that are cut when the window's last firing ends stay zero for good, as a mask
    that narrows the one that a pruner may have made.
    """

    def __init__(self, regularizer: Regularizer, keep_mask: bool = False) -> None:
        if not isinstance(regularizer, Regularizer):
            raise ScheduleError(
                f"Regularize takes a Regularizer, not {regularizer!r}; one is made as in l1_regularizer({{'fc.weight': 1e-4}}), "
                "from limbeck.regularization"
            )
        self.regularizer = regularizer
        self.keep_mask = keep_mask

    def fits(self, window: Window) -> None:
        """Raise ``ScheduleError`` where ``keep_mask`` has nothing to keep, or no end at which to keep it."""
        if self.keep_mask and self.regularizer.criteria is None:
            raise ScheduleError(f"{self.regularizer.name} cuts nothing, so keep_mask has nothing to keep; give it threshold_criteria")
        if self.keep_mask and window.end is None:
            raise ScheduleError("keep_mask keeps what is cut when the window ends, and this one does not end; give it an end")

    def bind(self, state: State) -> None:
        """Bring the targets to the model's parameter names.

        Raises ``TargetError`` for one that matches nothing and ``ScheduleError`` for a tensor that has no such groups.
        """
        self.regularizer = replace(self.regularizer, targets=resolve(self.regularizer.targets, state.parameters))
        shapes = {name: state.parameters[name].parameter.shape for name in self.regularizer.targets}
        if faults := list(self.regularizer.misfits(self.regularizer.targets, shapes)):
            raise ScheduleError("; ".join(faults), faults)

    def before_backward_pass(self, state: State, moment: Moment) -> Mapping[str, Tensor]:
        """The penalty, strengths included, under the name ``<regularizer>_loss``."""
        terms = [penalty.strength * penalty.norm(weight) for _, weight, penalty in self._at_work(state)]
        return {f"{self.regularizer.name}_loss": torch.stack([term.to(terms[0].device) for term in terms]).sum()} if terms else {}

    @torch.no_grad()
    def on_minibatch_end(self, state: State, moment: Moment) -> None:
        """Cut what does not exceed its strength; masks stay as they are until the last step of a window by step."""
        if self.regularizer.criteria is not None:
            for _, weight, penalty in self._at_work(state):
                for view, small in self._small(weight, penalty):
                    view.masked_fill_(small, 0.0)
            if moment.unit == "step":
                self._keep(state, moment)

    def on_epoch_end(self, state: State, moment: Moment) -> None:
        """Make what is cut a mask, at the end of a window by epoch."""
        if moment.unit == "epoch":
            self._keep(state, moment)

    @torch.no_grad()
    def _keep(self, state: State, moment: Moment) -> None:
        if not self.keep_mask or moment.now != moment.last:
            return
        for name, weight, penalty in self._at_work(state):
            keep, before = torch.ones_like(weight, dtype=torch.bool), state.masks.get(name)
            for tile, (_, small) in zip(penalty.groups, self._small(weight, penalty), strict=True):
                split(keep, tile)[0].logical_and_(~small)
            state.masks.put(name, keep if before is None else keep & before, state.masks.life(name))
            state.masks.apply([name])

    def _small(self, weight: Tensor, penalty: Penalty) -> list[tuple[Tensor, Tensor]]:
        """For each grouping a view of the weight, and which of its groups do not exceed the strength; NaN is not small."""
        assert self.regularizer.criteria is not None
        views = [split(weight.detach(), tile) for tile in penalty.groups]
        return [(view, MEASURES[self.regularizer.criteria](view, inside) <= penalty.strength) for view, inside in views]

    def _at_work(self, state: State) -> Iterator[tuple[str, Tensor, Penalty]]:
        for name, penalty in self.regularizer.targets.items():
            weight = state.parameters[name].parameter
            if penalty.strength and weight.numel():
                yield name, weight, penalty
