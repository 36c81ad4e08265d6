"""The learning rate of a run that has no other: held, lowered on a plateau of the validation loss, and cooled down at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.errors import ScheduleError
from limbeck.events import Action, State
from limbeck.schedules import Moment
from limbeck.training.learning_rate import watched


def cooldown_factor(step: int, total_steps: int, cooldown: float) -> float:
    """1, then linearly to zero over the last ``cooldown`` fraction of all steps (Defazio et al. 2023, "When, why and how much?").

    >>> [round(cooldown_factor(step, 10, 0.5), 2) for step in (0, 5, 6, 9)]
    [1.0, 1.0, 0.8, 0.2]
    """
    return min(1.0, (total_steps - step) / (cooldown * total_steps)) if cooldown > 0 else 1.0


class PlateauDecay(Action):
    """Multiplies the learning rate by ``factor`` after each epoch whose loss is not the best so far, and cools it down to zero at the end.

    The learning rate of a step is ``base * factor ** plateaus * cooldown_factor(step)``; ``base`` is what each parameter group has when the
    run begins. Meant for a window over the whole run: ``(Window(), PlateauDecay(...))``.
    """

    def __init__(self, factor: float = 0.5, total_steps: int = 0, cooldown: float = 0.0) -> None:
        self.factor, self.total_steps, self.cooldown = factor, total_steps, cooldown
        self._scale = 1.0
        self._best = float("inf")
        self._bases: list[float] = []

    def bind(self, state: State) -> None:
        """Note the base learning rates; raises ``ScheduleError`` without an optimizer."""
        if state.optimizer is None:
            raise ScheduleError(
                "a plateau decay changes an optimizer's learning rate: give the optimizer to the scheduler, after the model"
            )
        self._bases = [float(group["lr"]) for group in state.optimizer.param_groups]

    def on_minibatch_begin(self, state: State, moment: Moment) -> None:
        """Set the learning rate of this step."""
        assert state.optimizer is not None
        cooled = cooldown_factor(state.clock.step, self.total_steps, self.cooldown)
        for group, base in zip(state.optimizer.param_groups, self._bases, strict=True):
            group["lr"] = base * self._scale * cooled

    def on_epoch_end(self, state: State, moment: Moment) -> None:
        """Lower the learning rate unless the loss is the best so far."""
        loss = watched(state.metrics, "min")
        if not loss < self._best:
            self._scale *= self.factor
        self._best = min(self._best, loss)

    def state_dict(self) -> dict[str, Any]:
        """The plateaus so far, the best loss and the base learning rates."""
        return {"scale": self._scale, "best": self._best, "bases": list(self._bases)}

    def load_state_dict(self, state: State, saved: Mapping[str, Any]) -> None:
        """Stand where ``state_dict`` was taken."""
        self._scale, self._best, self._bases = saved["scale"], saved["best"], list(saved["bases"])
