"""What an action sees and which hooks it may have: the scheduler's events, in the order of one training step.

::

    on_epoch_begin                 masks renewed and applied
      on_minibatch_begin           the same, for windows by step
        forward, loss
      before_backward_pass         returns named penalties, which are added to the loss
        backward
      before_parameter_optimization
        optimizer.step()           dense copies of soft masks back before it
      after_step                   for windows by step: the clock counts the step that was made; then all masks are applied again
      on_minibatch_end             thresholds of regularizers, learning rates by step
    on_epoch_end                   learning rates by epoch

Those run when the window fires. An action that must look on at other times has ``watch_epoch``, ``watch_minibatch``, ``watch_step`` (between
the backward pass and ``optimizer.step()``), ``watch_minibatch_end`` and ``watch_epoch_end``: they are called each time, whatever the window
says, with ``(state, window)``, after the hooks that fire there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.errors import ScheduleError
from limbeck.graph import Coupling, Graph, Inputs, capture, coupling
from limbeck.masks import Masks
from limbeck.names import Named, unwrap
from limbeck.recipes import Recipe, removed
from limbeck.schedules import Clock, Moment, Window

HOOKS = (
    "on_epoch_begin",
    "on_minibatch_begin",
    "before_backward_pass",
    "before_parameter_optimization",
    "on_minibatch_end",
    "on_epoch_end",
)
"""What a training loop calls; an action may have a hook of each name."""

AFTER_STEP = "after_step"
WATCHES = ("watch_epoch", "watch_minibatch", "watch_step", "watch_minibatch_end", "watch_epoch_end")


@dataclass(frozen=True)
class Coupled:
    """A model's graph, and which of its units live and die together."""

    graph: Graph
    coupling: Coupling


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
    owners: dict[str, Action] = field(default_factory=dict)
    """Which action made a parameter's mask last: its life is that action's affair, and no other's."""
    example_inputs: Inputs | None = None
    """One small batch of what the model takes, in its order or by name: what its graph is captured with."""
    recipes: list[Recipe] = field(default_factory=list)
    """The thinnings that the model has been through, in their order."""
    inherited: int = 0
    """How many of them it came with."""
    schedule: list[tuple[Window, Action]] = field(default_factory=list)
    """The scheduler's (window, action) pairs."""
    _coupled: tuple[int, Coupled] | None = field(default=None, repr=False)

    @property
    def removed(self) -> dict[str, dict[int, int]]:
        """How many positions this run's thinnings have taken out: by canonical name of a parameter or buffer, then axis."""
        return removed(self.recipes[self.inherited :])

    def inputs(self) -> Inputs | None:
        """The example inputs where the model's first parameter is; None without any."""
        if self.example_inputs is None:
            return None
        device = next((named.parameter.device for named in self.parameters.values()), torch.device("cpu"))
        inputs: Inputs = _moved(self.example_inputs, device)
        return inputs

    def coupled(self) -> Coupled | None:
        """The graph and the coupling of the model as it is now; None without ``example_inputs``.

        They are captured when first asked for, and anew after a thinning. Raises ``CaptureError`` for a model that cannot be captured.

        >>> from limbeck.names import named_parameters
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> names = named_parameters(net)
        >>> state = State(net, names, Masks(names), example_inputs=(torch.zeros(1, 2),))
        >>> state.coupled().coupling.units("0.weight", 0) == state.coupled().coupling.units("2.weight", 1)
        True
        """
        inputs = self.inputs()
        if inputs is None:
            return None
        if self._coupled is None or self._coupled[0] != len(self.recipes):
            graph = capture(unwrap(self.model), inputs)
            self._coupled = len(self.recipes), Coupled(graph, coupling(graph))
        return self._coupled[1]


def _moved(value: Any, device: torch.device) -> Any:
    """The tensors of a nested value on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(_moved(item, device) for item in value)
    return {key: _moved(item, device) for key, item in value.items()} if isinstance(value, dict) else value


class Action:
    """The "what" of a policy: any of the hooks above, all with one signature ``(state, moment)``; the base has none.

    ``fits(window)`` and ``bind(state)`` run once when the scheduler is built, before training, and raise what is wrong. An action that holds numbers of its own
    gives and takes them through ``state_dict`` and ``load_state_dict(state, saved)``. ``before_backward_pass`` returns ``{name: penalty}``.
    ``thinned(state, window, recipe)`` runs after units have been taken out of the model: what an action holds of tensors must follow. While ``waits`` is
    true, a firing that was put off is still to come, and no thinning goes before it.
    """


Hook = Callable[[State, Moment], Mapping[str, Tensor] | None]
Watcher = Callable[[State, Window], None]
PLAIN = {"Pruner": "Prune", "Regularizer": "Regularize"}
"""Values that are no actions, and the actions that they go into."""


class Policies:
    """The (window, action) pairs in the order in which they run, and who of them has which hook."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Window, Action]] = []
        self._hooks: dict[str, list[tuple[Window, Hook]]] = {event: [] for event in (*HOOKS, AFTER_STEP)}
        self._watchers: dict[str, list[tuple[Window, Watcher]]] = {event: [] for event in WATCHES}

    def add(self, window: Window, action: Action, state: State) -> None:
        """Append a policy; raises what the action finds wrong with its window or the model."""
        for check, given in (("fits", window), ("bind", state)):
            found = getattr(action, check, None)
            if found is not None:
                found(given)
        self.pairs.append((window, action))
        for table in (self._hooks, self._watchers):
            for event, calls in table.items():
                call = getattr(action, event, None)
                if call is not None and (event != AFTER_STEP or window.unit == "step"):
                    calls.append((window, call))

    def refuse_epochs(self) -> None:
        """Raise ``ScheduleError`` for windows by epoch."""
        for window, action in self.pairs:
            if window.unit == "epoch":
                raise ScheduleError(
                    f"{type(action).__name__} has a window by epoch, from {window.begin} to {window.end}, and optimizer.step(), which drives "
                    'this schedule, knows steps alone; give it in steps: Window(begin, end, every, unit="step"), or starting_step and ending_step'
                )

    def have(self, event: str) -> bool:
        """Whether any action has a hook of that name."""
        return bool(self._hooks[event])

    def due(self, event: str, clock: Clock) -> bool:
        """Whether any action with a hook of that name fires at this clock."""
        return any(window.at(clock) is not None for window, _ in self._hooks[event])

    def run(self, event: str, state: State, by_step: bool = True) -> list[tuple[str, Tensor]]:
        """Call the hook of every action whose window, by epoch or ``by_step``, fires now; gives the penalties that they return."""
        returned: list[tuple[str, Tensor]] = []
        for window, call in self._hooks[event]:
            moment = window.at(state.clock) if by_step or window.unit != "step" else None
            given = None if moment is None else call(state, moment)
            if given:
                returned.extend(given.items())
        return returned

    def watch(self, event: str, state: State, by_step: bool = True) -> None:
        """Call every action that looks on by epoch or ``by_step``, whatever its window says."""
        for window, call in self._watchers[event]:
            if by_step or window.unit != "step":
                call(state, window)


def as_policies(schedule: object) -> list[tuple[Window, Action]]:
    """The (window, action) pairs of a schedule; raises ``ScheduleError`` that says what stands in the place of one.

    >>> as_policies([(Window(0, 2), Action())])[0][0]
    Window(begin=0, end=2, every=1, unit='epoch', only=())
    """
    if not isinstance(schedule, Iterable) or isinstance(schedule, str | Mapping):
        raise ScheduleError(f"a schedule is a list of (Window, Action) pairs, not {_kind(schedule)}; put the pairs into a list")
    return [_as_policy(item, f"schedule[{place}]") for place, item in enumerate(schedule)]


def _as_policy(item: object, place: str) -> tuple[Window, Action]:
    pair = tuple(item) if isinstance(item, tuple | list) else ()
    if len(pair) != 2:
        raise ScheduleError(f"{place} must be a pair (Window, Action), not {_kind(item)}; a schedule is a list of such pairs")
    window, action = pair
    if not isinstance(window, Window):
        raise ScheduleError(f"{place}[0] must be a Window, as in Window(0, 10), not {_kind(window)}")
    if not isinstance(action, Action):
        wrap = PLAIN.get(type(action).__name__)
        remedy = f"wrap it: {wrap}(...)" if wrap else "an action is an instance of a subclass of limbeck.Action, such as Prune(pruner)"
        raise ScheduleError(f"{place}[1] must be an Action, not {_kind(action)}; {remedy}")
    return window, action


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{'an' if type(value).__name__[0] in 'AEIOUaeiou' else 'a'} {type(value).__name__}"


def saved_state(action: Action) -> Any:
    """What the action wants to keep in a checkpoint, or None."""
    give = getattr(action, "state_dict", None)
    return None if give is None else give()
