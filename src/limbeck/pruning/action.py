"""The action that renews masks when its window fires, and gives them the life that the policy asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch

from limbeck.errors import MaskError, ScheduleError
from limbeck.events import Action, State
from limbeck.fields import Levels, Whole
from limbeck.masks import Life
from limbeck.names import resolve
from limbeck.pruning.chance import Survivors
from limbeck.pruning.criteria import BATCH_NORM
from limbeck.pruning.following import Follower
from limbeck.pruning.joint import joined, joint_masks
from limbeck.pruning.pruner import Cut, Pruner, Site
from limbeck.recipes import Recipe
from limbeck.schedules import Clock, Moment, Window
from limbeck.watch import FollowingNorm, Watch


@dataclass(frozen=True)
class Options:
    """When masks are renewed besides the window's firings, and what becomes of them."""

    keep_mask: bool
    every_minibatches: int
    life: Life
    mask_gradients: bool
    discard: bool
    skip_first_minibatch: bool
    after_step: bool


class Prune(Action):
    """Renews the masks of a pruner's targets at the begin of an epoch, or of a step, and applies them at once.

    ``levels`` takes the place of the pruner's targets, which a group or a leader of their own forbids. What becomes of the weights that fall:

    - by default they are gone, and no step brings them back;
    - ``use_double_copies``: the forward pass sees masked weights, the optimizer changes a dense copy of them, and that is what the next mask is
      made from. In between the parameter holds masked values: a checkpoint or an evaluation sees no others;
    - ``mask_on_forward_only`` alone: what the optimizer makes of the masked weights is what the next mask is made from, and no more than that.
      Beside ``use_double_copies`` it changes nothing, because the dense copy holds that, too;
    - ``keep_mask``: at the end of the window's last firing epoch (or step) the dense values go, and the mask stays for good;
    - ``discard_masks_at_minibatch_end``: there are masks from a firing to the end of that minibatch.

    ``mask_gradients`` zeroes the gradients of what has fallen, from the window's begin to its end. ``mini_batch_pruning_frequency`` renews
    within an epoch in which the window fires, each time so many minibatches have passed since the run began. ``skip_first_minibatch`` puts
    the first firing off by one minibatch. ``fold_batchnorm`` ranks a convolution's weights as the batch norm behind it scales them
    (``w * gamma / sqrt(running variance + eps)``). ``after_step`` renews right after the optimizer's step, before masks are applied again,
    with a clock that counts that step: NeurST's timing, in which weights that have fallen compete with what one step made of them.

    Where the scheduler has ``example_inputs``, the bias of a whole filter, row or column that falls, and the scale and shift of the norm behind it,
    fall with it and live as its mask does, which the pruner's ``coupling`` says. Where a hard mask lets a unit come back, its scale begins at 1.

    A criterion that must have seen gradients or activations is put off until it has, at most to the end of the epoch. It looks on from one
    period (``every``) before the window's begin.

    >>> from torch import nn
    >>> from limbeck.scheduler import Scheduler
    >>> layer = nn.Linear(4, 2)
    >>> scheduler = Scheduler(layer, [(Window(0, 2), Prune(Pruner({"weight": 0.5}), use_double_copies=True))])
    >>> scheduler.on_epoch_begin(0)
    >>> int(layer.weight.count_nonzero()), int(scheduler.masks.dense("weight").count_nonzero())
    (4, 8)
    """

    def __init__(  # noqa: PLR0913, PLR0917  # the arguments of a pruner policy in a schedule file, by the ancestor's names
        self,
        pruner: Pruner,
        levels: Levels | None = None,
        keep_mask: bool = False,
        mini_batch_pruning_frequency: Whole = 0,
        mask_on_forward_only: bool = False,
        use_double_copies: bool = False,
        mask_gradients: bool = False,
        discard_masks_at_minibatch_end: bool = False,
        skip_first_minibatch: bool = False,
        fold_batchnorm: bool = False,
        after_step: bool = False,
    ) -> None:
        if not isinstance(pruner, Pruner):
            raise ScheduleError(
                f"Prune takes a Pruner, not {pruner!r}; one is made as in Pruner({{'fc.weight': 0.5}}), or by a function such as level_pruner"
            )
        if keep_mask and discard_masks_at_minibatch_end:
            raise ScheduleError("keep_mask and discard_masks_at_minibatch_end exclude each other: leave one of them out")
        if levels is not None and any(isinstance(target, Cut) for target in pruner.targets.values()):
            raise ScheduleError(
                "levels would take the place of targets that say what falls as one, or which of them leads; leave levels out"
            )
        if levels is not None and not isinstance(pruner.select, Survivors) and not hasattr(pruner.select, "dropped"):
            raise ScheduleError(
                "levels are fractions of zeros, and this pruner goes by thresholds, which they would not be: leave levels out"
            )
        life: Life = "soft" if use_double_copies else "forward" if mask_on_forward_only else "hard"
        self.pruner = pruner if levels is None else replace(pruner, targets=dict(levels))
        self._fold = fold_batchnorm
        self._options = Options(
            keep_mask, mini_batch_pruning_frequency, life, mask_gradients, discard_masks_at_minibatch_end, skip_first_minibatch, after_step
        )
        self._watch: Watch | None = None
        self._pending: Moment | None = None  # a firing that was put off
        self._follower = Follower(self)

    def fits(self, window: Window) -> None:
        """Raise ``ScheduleError`` for options that need a window of the other unit."""
        if window.unit == "step" and self._options.every_minibatches:
            raise ScheduleError("mini_batch_pruning_frequency renews within epochs; a window by step has a frequency of its own")
        if window.unit == "epoch" and self._options.after_step:
            raise ScheduleError("after_step follows single steps; give the window in steps")
        if self._options.after_step and not any(moment.now for moment in islice(window.firings(), 2)):
            raise ScheduleError("after_step counts steps from 1, and this window fires at step 0 alone: never; let it end later")

    def bind(self, state: State) -> None:
        """Bring the targets to the model's parameter names.

        Raises ``TargetError`` for one that matches nothing, and ``ScheduleError`` for a tensor of which no mask can be made.
        """
        self.pruner = replace(self.pruner, targets=resolve(self.pruner.targets, state.parameters))
        if self.pruner.coupling == "joint":
            self.pruner = joined(self.pruner, self._follower.needed(state), state.parameters)
        shapes = _shapes(state, self.pruner)
        if faults := list(self.pruner.misfits(self.pruner.targets, shapes)):
            raise ScheduleError("; ".join(faults), faults)
        needs = self.pruner.needs
        needs = [] if needs is None else list(needs) if isinstance(needs, tuple | list) else [needs]
        if self._fold:
            needs.append(FollowingNorm(BATCH_NORM))
        if needs:
            self._watch = Watch(needs, state.model, state.parameters, self.pruner.targets, self.pruner.unit_of)

    # --- what fires --------------------------------------------------------------------------------------------------------------

    def on_epoch_begin(self, state: State, moment: Moment) -> None:
        """Renew, for windows by epoch."""
        if moment.unit == "epoch":
            self._fire(state, moment)

    def on_minibatch_begin(self, state: State, moment: Moment) -> None:
        """Renew, for windows by step, and within epochs."""
        if moment.unit == "step":
            if not self._options.after_step:
                self._fire(state, moment)
            return
        minibatch, every = state.clock.minibatch, self._options.every_minibatches
        if every and minibatch and (state.clock.epoch * (state.steps_per_epoch or 0) + minibatch) % every == 0:
            self._fire(state, replace(moment, minibatch=minibatch))

    def after_step(self, state: State, moment: Moment) -> None:
        """Renew, for windows by step, by the weights as the step has left them."""
        if moment.unit == "step" and self._options.after_step:
            self._fire(state, moment)

    # --- what looks on -----------------------------------------------------------------------------------------------------------

    def watch_minibatch(self, state: State, window: Window) -> None:
        """Look on, make up for a firing that was put off, and let dense values go after the last firing by step."""
        if self._options.mask_gradients and state.optimizer is None:
            raise ScheduleError(
                "mask_gradients needs the optimizer, whose steps it comes before; give it to the scheduler, after the model"
            )
        if window.unit == "step" and _is_over(window, state.clock):
            self._keep(state)
        moment = self._pending
        if moment is not None and self._may_fire(state, moment):
            self._renew(state, moment)
        elif moment is not None and moment.unit == "step" and state.clock.step >= moment.now + moment.every:
            self._refuse_unseen(f"up to step {state.clock.step}")
        if self._watch is not None and (self._pending is not None or _is_near(window, state.clock)):
            self._watch.open()

    def watch_step(self, state: State, window: Window) -> None:
        """Read the gradients, then zero those of what has fallen."""
        if self._watch is not None and (self._pending is not None or _is_near(window, state.clock)):
            self._watch.step()
            self._watch.close()
        if self._options.mask_gradients and _covers(window, state.clock):
            state.masks.zero_gradients(self._own(state))

    def watch_minibatch_end(self, state: State, window: Window) -> None:
        """Drop the masks that last no longer than this, also of a firing that was put off to a minibatch at which the window does not fire."""
        if self._options.discard and (own := self._own(state)):
            self._follower.release(state, self.pruner, own)
            state.masks.drop(own)

    def watch_epoch_end(self, state: State, window: Window) -> None:
        """Make up for a firing that was put off, or raise ``MaskError``; let dense values go after the last firing by epoch."""
        if self._watch is not None:
            self._watch.close()
        moment = self._pending
        if moment is not None and (moment.unit == "step" or state.clock.epoch >= moment.now):
            if self._watch is not None and self._watch.missing():
                self._refuse_unseen(f"in epoch {state.clock.epoch}")
            self._renew(state, moment)
        if _is_over(window, state.clock) or (window.unit == "epoch" and state.clock.epoch == window.last):
            self._keep(state)

    # --- thinning ----------------------------------------------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether a firing was put off."""
        return self._pending is not None

    def thinned(self, state: State, window: Window, recipe: Recipe) -> None:
        """Cut what was seen as the tensors were; raises ``MaskError`` for one of which no mask can be made any more, and should."""
        if self._watch is not None:
            self._watch.thinned(recipe.cuts)
        if _is_over(window, state.clock):
            return
        if fault := next(iter(self.pruner.misfits(self.pruner.targets, _shapes(state, self.pruner))), None):
            raise MaskError(
                f"thinned, {fault}; let the pruner's window end before the thinning, or take units that the new sizes divide into"
            )

    # --- state -------------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any] | None:
        """What was seen, and the firing that was put off; None where there is neither."""
        if self._watch is None and self._pending is None:
            return None
        return {
            "pending": None if self._pending is None else asdict(self._pending),
            "watch": None if self._watch is None else self._watch.state_dict(),
        }

    def load_state_dict(self, state: State, saved: dict[str, Any] | None) -> None:
        """Stand where ``state_dict`` was taken."""
        pending = saved["pending"] if saved else None
        self._pending = None if pending is None else Moment(**pending)
        if self._watch is not None and saved and saved["watch"] is not None:
            self._watch.load_state_dict(saved["watch"])

    # --- inside ------------------------------------------------------------------------------------------------------------------

    def _own(self, state: State) -> list[str]:
        return [name for name in state.masks if state.owners.get(name) is self]

    def _keep(self, state: State) -> None:
        if self._options.keep_mask and self._options.life != "hard":
            state.masks.harden(self._own(state))

    def _fire(self, state: State, moment: Moment) -> None:
        if self._may_fire(state, moment):
            self._renew(state, moment)
        elif self._pending is not None and moment.unit == "step":  # a whole period has passed in vain
            self._refuse_unseen(f"up to step {state.clock.step}")
        else:
            self._pending = moment

    def _may_fire(self, state: State, moment: Moment) -> bool:
        if self._options.skip_first_minibatch and moment.now == moment.begin:
            begun = state.clock.minibatch > 0 if moment.unit == "epoch" else state.clock.step > moment.now
            if not begun:
                return False
        return self._watch is None or not self._watch.missing()

    def _refuse_unseen(self, when: str) -> None:
        unseen = "; ".join(self._watch.missing()[:3]) if self._watch is not None else ""
        raise MaskError(
            f"no mask can be made: {when} its pruner has not seen what it ranks by ({unseen}); train with model.train() under the "
            "scheduler's hooks, give the scheduler the optimizer, and take out targets that the model does not use"
        )

    @torch.no_grad()
    def _renew(self, state: State, moment: Moment) -> None:
        sites, removed = {}, state.removed
        for name in self.pruner.targets:
            grad = state.parameters[name].parameter.grad
            stats = (None if self._watch is None else self._watch.stats(name)) or {}
            memo = state.memo.setdefault(name, {})
            sites[name] = Site(state.masks.dense(name), state.masks.get(name), grad, stats, memo, removed.get(name, {}))
        masks = self._masks(state, sites, moment)
        for name, keep in masks.items():
            state.masks.put(name, keep, self._options.life, self._scale(keep))
            state.owners[name] = self
        state.masks.apply([*masks, *self._follower.follow(state, self.pruner, self._options.life)])
        self._pending = None
        if self._watch is not None:
            self._watch.forget()

    def _masks(self, state: State, sites: Mapping[str, Site], moment: Moment) -> dict[str, torch.Tensor]:
        if self.pruner.coupling == "joint":
            return joint_masks(self.pruner, sites, moment, self._follower.groups(state, self.pruner))
        return self.pruner.masks(sites, moment)

    def _scale(self, keep: torch.Tensor) -> float:
        """What a pruner that rescales multiplies the kept weights by: 1 over their fraction."""
        if not self.pruner.rescale or self._options.life != "soft":
            return 1.0
        return keep.numel() / max(int(keep.count_nonzero()), 1)


def _shapes(state: State, pruner: Pruner) -> dict[str, tuple[int, ...]]:
    return {name: tuple(state.parameters[name].parameter.shape) for name in pruner.targets}


def _is_over(window: Window, clock: Clock) -> bool:
    return window.last is not None and clock.read(window.unit) > window.last


def _is_near(window: Window, clock: Clock) -> bool:
    """From one period before the begin to the last firing."""
    return clock.read(window.unit) >= window.begin - window.every and not _is_over(window, clock)


def _covers(window: Window, clock: Clock) -> bool:
    now = clock.read(window.unit)
    return window.begin <= now and (window.end is None or now < window.end)
