"""What an action sees and which hooks it may have: the scheduler's events, in the order of one training step.

::

    on_epoch_begin                 masks renewed and applied
      on_minibatch_begin           the same, for windows by step
        forward, loss
      before_backward_pass         returns named penalties, which are added to the loss
        backward
      before_parameter_optimization
        optimizer.step()           all masks applied again
      on_minibatch_end             thresholds of regularizers, learning rates by step
    on_epoch_end                   learning rates by epoch
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.masks import Masks
from limbeck.names import Named
from limbeck.schedules import Clock, Moment

HOOKS = (
    "on_epoch_begin",
    "on_minibatch_begin",
    "before_backward_pass",
    "before_parameter_optimization",
    "on_minibatch_end",
    "on_epoch_end",
)


@dataclass
class State:
    """What the scheduler owns and every action may use."""

    model: nn.Module
    parameters: dict[str, Named]
    masks: Masks
    optimizer: Optimizer | None = None
    clock: Clock = field(default_factory=Clock)
    steps_per_epoch: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    rate_set: tuple[Clock, Action] | None = None
    """Which action set the learning rate last, and when: two at once are an error."""
    memo: dict[str, dict[str, float]] = field(default_factory=dict)
    """Numbers that are measured once, by parameter name; saved and restored with the rest."""


class Action:
    """The "what" of a policy: any of the hooks below, all with one signature ``(state, moment)``; the base has none.

    ``bind(state)`` runs once when the scheduler is built, before training, and raises what is wrong. An action that holds numbers of its own
    gives and takes them through ``state_dict`` and ``load_state_dict(state, saved)``. ``before_backward_pass`` returns ``{name: penalty}``.
    """


Hook = Callable[[State, Moment], Mapping[str, Tensor] | None]


def hook(action: Action, name: str) -> Hook | None:
    """The action's hook of that name, or None."""
    found: Hook | None = getattr(action, name, None)
    return found


def saved_state(action: Action) -> Any:
    """What the action wants to keep in a checkpoint, or None."""
    give = getattr(action, "state_dict", None)
    return None if give is None else give()
