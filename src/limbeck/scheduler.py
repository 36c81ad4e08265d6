"""The scheduler: walks the list of (window, action), owns the masks, and leaves the training loop to the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck._saved import put_back, refuse_other, saved_parts
from limbeck._steps import Steps
from limbeck.errors import ScheduleError
from limbeck.events import Action, Policies, State, as_policies
from limbeck.graph import Inputs
from limbeck.masks import Masks
from limbeck.names import named_parameters
from limbeck.recipes import Recipe
from limbeck.schedules import Clock, Window

B = TypeVar("B")


class Scheduler:
    """Compression on a schedule, for any training loop.

    The short form::

        scheduler = limbeck.load_schedule("agp.yaml", model, optimizer)
        for epoch in scheduler.epochs(40):
            for x, y in scheduler.steps(loader):
                loss = scheduler.loss(criterion(model(x), y))
                optimizer.zero_grad(); loss.backward(); optimizer.step()
            scheduler.metrics(loss=evaluate(model))

    The long form calls the six hooks by hand, in the order that ``limbeck.events`` draws. Either way all masks are applied again after every
    ``optimizer.step()``, in every epoch, whether or not a policy is active: momentum and weight decay cannot revive a weight. A loop that calls
    no hook at all gets steps, penalties and masks by ``drive(optimizer)``.

    ``example_inputs`` is one small batch of what the model takes, ``(images,)``, or by name, ``{"images": images}``: with it structures are pruned with
    all that is coupled to them, and can be thinned out.

    Raises ``ScheduleError`` for a schedule that is not made of (Window, Action) pairs, and for an optimizer of another model.

    >>> import torch
    >>> from limbeck.pruning import Prune, level_pruner
    >>> layer = nn.Linear(4, 2)
    >>> scheduler = Scheduler(layer, [(Window(0, 1), Prune(level_pruner({"weight": 0.5})))])
    >>> scheduler.on_epoch_begin(0)
    >>> int(layer.weight.count_nonzero())
    4
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Sequence[tuple[Window, Action]] = (),
        optimizer: Optimizer | None = None,
        text: str | None = None,
        example_inputs: Inputs | None = None,
    ) -> None:
        parameters = named_parameters(model)
        inputs = None if example_inputs is None else _as_inputs(example_inputs)
        self._state = State(model, parameters, Masks(parameters), example_inputs=inputs)
        self._policies = Policies()
        self._state.schedule = self._policies.pairs
        self._steps = Steps(self._state, self._policies)
        self._epoch_open = False
        self.text = text
        if optimizer is not None:
            self.attach(optimizer)
        for window, action in as_policies(schedule):
            self.add(window, action)

    @property
    def clock(self) -> Clock:
        """The epoch, the minibatch in it and the optimizer step that come next; without an optimizer every minibatch is a step."""
        return self._state.clock

    @property
    def masks(self) -> Masks:
        """The masks, by canonical parameter name."""
        return self._state.masks

    @property
    def state(self) -> State:
        """What actions see."""
        return self._state

    @property
    def schedule(self) -> tuple[tuple[Window, Action], ...]:
        """The (window, action) pairs in the order in which they run."""
        return tuple(self._policies.pairs)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The thinnings that were carried out, in their order."""
        return tuple(self._state.recipes)

    def inherit(self, recipes: Sequence[Recipe]) -> None:
        """Note the thinnings that a model came with, before the first epoch: levels of pruners are then fractions of what it has now."""
        self._state.recipes, self._state.inherited = list(recipes), len(recipes)

    @property
    def loss_components(self) -> Mapping[str, Tensor]:
        """The penalties that were added to the last loss, by name: numbers for a log, detached from the graph."""
        return {name: penalty.detach() for name, penalty in self._steps.components.items()}

    @property
    def penalties(self) -> Mapping[str, Tensor]:
        """The same as they were added, with their graph: for a loop that adds them to a loss of its own."""
        return self._steps.components

    def add(self, window: Window, action: Action) -> None:
        """Append a policy; raises ``ScheduleError`` for what is none, and what the action finds wrong with the model, before any training."""
        [policy] = as_policies([(window, action)])
        self._policies.add(*policy, self._state)

    def attach(self, optimizer: Optimizer) -> None:
        """Let the masks follow every ``optimizer.step()``, also in loops that call no hook of ours (LBFGS, trainers).

        Raises ``ScheduleError`` for an optimizer that holds none of the model's parameters.
        """
        self._steps.follow(optimizer)
        self._state.optimizer = optimizer

    def drive(self, optimizer: Optimizer) -> None:
        """Let ``optimizer.step()`` carry the whole schedule, in a loop that calls no hook of ours; each call is one step.

        In each: the gradients of this step's penalties are added, the optimizer steps, ``after_step`` hooks run, all masks are applied, the
        clock moves on, and the next step begins: its masks are renewed. What fires at step 0 does so within the first ``optimizer.step()``:
        a run that is resumed may load its model and its state before or after this call.

        Raises ``ScheduleError`` for windows by epoch, and when an epoch has begun: an optimizer knows of none.

        >>> import torch
        >>> from limbeck.pruning import Prune, level_pruner
        >>> layer = nn.Linear(4, 2)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> scheduler = Scheduler(layer, [(Window(1, 2, unit="step"), Prune(level_pruner({"weight": 0.5})))])
        >>> scheduler.drive(optimizer)
        >>> layer(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> scheduler.clock.step, int(layer.weight.count_nonzero())
        (1, 4)
        """
        if self._epoch_open:
            raise ScheduleError("an epoch has begun, and optimizer.step() knows of none; build a scheduler of its own to drive")
        self._policies.refuse_epochs()
        self.attach(optimizer)
        self._steps.drive(optimizer)

    def begin(self) -> None:
        """Begin the next step of a scheduler that is driven now, if that has not been done: so the first forward pass sees what fires at step 0."""
        if self._steps.driven and not self._steps.begun:
            self._steps.begin()

    # --- the six hooks -----------------------------------------------------------------------------------------------------------

    def on_epoch_begin(self, epoch: int, optimizer: Optimizer | None = None, **_: Any) -> None:
        """Renew and apply the masks of the policies that fire in this epoch."""
        self._use(optimizer)
        self._state.clock = Clock(epoch, 0, self.clock.step)
        self._epoch_open = True
        self._steps.begin_epoch()

    def on_minibatch_begin(
        self, epoch: int, minibatch_id: int, minibatches_per_epoch: int | None = None, optimizer: Optimizer | None = None
    ) -> None:
        """Renew and apply the masks of the policies that fire in this step, in its first minibatch if gradients add up over several."""
        self._enter(epoch, minibatch_id, minibatches_per_epoch, optimizer)
        self._steps.begin()

    def before_backward_pass(
        self,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int | None,
        loss: Tensor,
        optimizer: Optimizer | None = None,
    ) -> Tensor:
        """The loss with the penalties of this step's policies added; use what it RETURNS. ``loss_components`` names the penalties."""
        self._enter(epoch, minibatch_id, minibatches_per_epoch, optimizer)
        return self.loss(loss)

    def before_parameter_optimization(
        self, epoch: int, minibatch_id: int, minibatches_per_epoch: int | None = None, optimizer: Optimizer | None = None
    ) -> None:
        """Between the backward pass and ``optimizer.step()``."""
        self._enter(epoch, minibatch_id, minibatches_per_epoch, optimizer)
        self._steps.prepare()

    def on_minibatch_end(
        self, epoch: int, minibatch_id: int, minibatches_per_epoch: int | None = None, optimizer: Optimizer | None = None
    ) -> None:
        """After ``optimizer.step()``: all masks again, then thresholds and learning rates by step; the clock moves on.

        A minibatch in which an attached optimizer made no step only adds to the gradient: the steps stand still.
        """
        stepped = self._steps.stepped or self._state.optimizer is None
        self._enter(epoch, minibatch_id, minibatches_per_epoch, optimizer)
        self._steps.end(stepped)
        self._state.clock = Clock(epoch, minibatch_id + 1, self.clock.step)

    def on_epoch_end(self, epoch: int, optimizer: Optimizer | None = None, metrics: Mapping[str, float] | None = None, **_: Any) -> None:
        """After the evaluation, with its ``metrics``: learning rates by epoch; the clock moves to the next epoch."""
        self._use(optimizer)
        self._steps.count_left()
        self.masks.close()
        self.metrics(**(metrics or {}))
        self._state.clock = Clock(epoch, self.clock.minibatch, self.clock.step)
        self._steps.end_epoch()
        self._state.metrics = {}
        self._epoch_open = False
        self._state.clock = Clock(epoch + 1, 0, self.clock.step)

    # --- the short form ----------------------------------------------------------------------------------------------------------

    def epochs(self, total: int, after: Callable[[], None] | None = None) -> Iterator[int]:
        """The epochs up to ``total``, from where the clock stands; a resumed epoch is entered where it was left.

        ``after`` runs when an epoch is complete and the clock stands at the next: the place to save a checkpoint.
        """
        while (epoch := self.clock.epoch) < total:
            if not self._epoch_open:
                self.on_epoch_begin(epoch)
            yield epoch
            self.on_epoch_end(epoch)
            if after is not None:
                after()

    def steps(self, batches: Iterable[B], after: Callable[[], None] | None = None) -> Iterator[B]:
        """The batches of this epoch, from where the clock stands; ``after`` runs when a step is complete: the place to save a checkpoint.

        A sequence that slices is entered at once; any other iterable is read up to that place.
        Raises ``ScheduleError`` outside of an epoch.
        """
        if not self._epoch_open:
            raise ScheduleError(
                "no epoch has begun: loop over scheduler.epochs(N), or call on_epoch_begin(epoch), around scheduler.steps(...)"
            )
        epoch, start = self.clock.epoch, self.clock.minibatch
        total = len(batches) if isinstance(batches, Sized) else None
        rest: Iterable[B] = batches[start:] if isinstance(batches, Sequence) and start else islice(batches, start, None)
        for minibatch, batch in enumerate(rest, start):
            self.on_minibatch_begin(epoch, minibatch, total)
            yield batch
            self.on_minibatch_end(epoch, minibatch, total)
            if after is not None:
                after()

    def loss(self, loss: Tensor) -> Tensor:
        """The loss with the penalties of this step's policies added."""
        self._steps.refuse_driven()
        for penalty in self._steps.penalties().values():
            loss = loss + penalty
        return loss

    def metrics(self, **values: float) -> None:
        """What the evaluation of this epoch measured, for learning rates that watch it: ``metrics(loss=...)``."""
        self._state.metrics.update({name: float(value) for name, value in values.items()})

    # --- state -------------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, except the model and the optimizer: clock, masks, measured numbers, the actions' own state."""
        clock = self.clock
        return {
            "clock": {"epoch": clock.epoch, "minibatch": clock.minibatch, "step": clock.step, "epoch_open": self._epoch_open},
            "step": {"begun": self._steps.begun, "stepped": self._steps.stepped},
            **saved_parts(self._state),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Stand where ``state_dict`` was taken; load the model first and the optimizer's own state after it.

        A model that was thinned must have been thinned alike: ``limbeck.thinning.replay``, or its checkpoint, does it.
        Raises ``CheckpointError`` for what is no scheduler's state, and for that of another schedule or model.
        """
        refuse_other(saved, self._state)
        clock = dict(saved["clock"])
        put_back(self._state, saved, Clock(clock["epoch"], clock["minibatch"], clock["step"]))
        self._epoch_open = bool(clock["epoch_open"])
        self._steps.restore(**saved.get("step", {"begun": False, "stepped": False}))  # earlier versions saved between two steps

    # --- inside ------------------------------------------------------------------------------------------------------------------

    def _enter(self, epoch: int, minibatch: int, steps: int | None, optimizer: Optimizer | None) -> None:
        self._use(optimizer)
        clock = self._state.clock
        if clock.epoch != epoch or clock.minibatch != minibatch:
            self._state.clock = Clock(epoch, minibatch, clock.step)
        if steps is not None:
            self._state.steps_per_epoch = steps

    def _use(self, optimizer: Optimizer | None) -> None:
        self._steps.refuse_driven()
        if optimizer is not None and optimizer is not self._state.optimizer:
            self.attach(optimizer)


def _as_inputs(given: Inputs) -> Inputs:
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, Tensor) or not isinstance(given, Sequence):
        kind = type(given).__name__
        raise ScheduleError(f"example_inputs is a tuple of what the model takes, as in (torch.zeros(1, 3, 32, 32),), not a {kind}")
    return tuple(given)
