"""What does the scheduler add to a training step? Prints shares of the step's time, measured in two ways (budget: 1 %).

    python benchmarks/scheduler_overhead.py --threads 2

All weights of a model are under automated gradual pruning, and the masks are applied after every optimizer step. Three loops are timed: the
plain one, one whose masks stay as they are, and one whose masks are renewed every 100 steps. They take turns in blocks of 10 steps; a round is
100 steps of each.

"Beside the plain loop" is a loop's time over the plain loop's, by round, and holds everything, the noise of the machine too. "In the scheduler"
is the time between entering and leaving it, in the same steps, over the step's time: it misses what a hook does to the caches of the next
operation, and resolves far less than 1 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.apps.lm.model import RNNModel, detach
from limbeck.apps.lm.options import TrainOptions
from limbeck.pruning import Prune, automated_gradual_pruner
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from lm_tasks import add_size_options, text
from timing import OwnRandomness, blocks_in_turns, machine, show, spread

PLAIN, APPLIED, RENEWED = "no scheduler", "masks applied", "masks renewed"
EVERY, BLOCK = 100, 10
OPTIONS = TrainOptions()


@dataclass(frozen=True)
class Task:
    """A model in training: ``loss(batch)`` of the next batch, the optimizer of its parameters, and how the application clips its gradients."""

    model: nn.Module
    batches: Sequence[Any]
    loss: Callable[[Any], Tensor]
    optimizer_of: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
    clip: float | None = None

    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh one."""
        return self.optimizer_of(self.model.parameters())

    def backward(self, loss: Tensor) -> None:
        """What stands between the loss and the optimizer's step."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)


class LanguageModelLoss:
    """The loss of the next batch; carries the hidden state from batch to batch."""

    def __init__(self, model: RNNModel, batch: int) -> None:
        self.model, self.hidden = model, model.initial_hidden(batch)

    def __call__(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross entropy, nats a word."""
        loss, hidden = self.model.loss(*batch, self.hidden)
        self.hidden = detach(hidden)
        return loss


def language_model(options: argparse.Namespace, steps: int) -> Callable[[], Task]:
    sizes, batches = text(options, steps)

    def make() -> Task:
        model = sizes.model()
        return Task(model, batches, LanguageModelLoss(model, sizes.batch), partial(torch.optim.SGD, lr=OPTIONS.lr), OPTIONS.clip)

    return make


CASES: dict[str, Callable[[argparse.Namespace, int], Callable[[], Task]]] = {"LSTM, tied": language_model}
"""Each makes the data for so many steps once, and then equal tasks, one for each loop."""


@dataclass
class Stopwatch:
    """Seconds in the scheduler, step by step."""

    steps: list[float] = field(default_factory=list)
    _since: float = 0.0

    def start(self, *_: object) -> None:
        """Entering it."""
        self._since = time.perf_counter()

    def stop(self, *_: object) -> None:
        """Leaving it."""
        self.steps[-1] += time.perf_counter() - self._since


def plain(task: Task) -> Iterator[None]:
    """The loop without a scheduler."""
    optimizer = task.optimizer()
    for batch in task.batches:
        loss = task.loss(batch)
        optimizer.zero_grad()
        task.backward(loss)
        optimizer.step()
        yield


def scheduled(task: Task, window: Window, watch: Stopwatch) -> Iterator[None]:
    """The same with the six hooks, each between the stopwatch's start and stop; those of the optimizer's own step included."""
    optimizer = task.optimizer()
    optimizer.register_step_pre_hook(watch.start)
    optimizer.register_step_post_hook(watch.start)
    weights = [name for name, weight in task.model.named_parameters() if weight.dim() > 1]
    scheduler = Scheduler(task.model, [(window, Prune(automated_gradual_pruner(0.5, 0.8, weights)))], optimizer)
    optimizer.register_step_pre_hook(watch.stop)
    optimizer.register_step_post_hook(watch.stop)
    scheduler.on_epoch_begin(0)
    total = len(task.batches)
    for step, batch in enumerate(task.batches):
        watch.steps.append(0.0)
        watch.start()
        scheduler.on_minibatch_begin(0, step, total)
        watch.stop()
        loss = task.loss(batch)
        watch.start()
        loss = scheduler.before_backward_pass(0, step, total, loss)
        watch.stop()
        optimizer.zero_grad()
        task.backward(loss)
        optimizer.step()
        watch.start()
        scheduler.on_minibatch_end(0, step, total)
        watch.stop()
        yield


def measure(make: Callable[[], Task], rounds: int) -> Iterator[tuple[str, ...]]:
    """A row for every loop: milliseconds a step, and both shares, by round."""
    windows = {APPLIED: Window(0, 1), RENEWED: Window(0, (rounds + 1) * EVERY, EVERY, unit="step")}
    watches = {name: Stopwatch() for name in windows}
    random = OwnRandomness(OPTIONS.seed)
    loops: dict[str, Iterator[None]] = {}
    for name in (PLAIN, *windows):
        with random.of(name):
            task = make()
        loops[name] = scheduled(task, windows[name], watches[name]) if name in windows else plain(task)
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds + 1):
        for name, taken in blocks_in_turns(loops, BLOCK, EVERY // BLOCK, random)[0].items():
            times[name].append(sum(taken))
    base = times.pop(PLAIN)[1:]
    yield PLAIN, spread([1000 * taken / EVERY for taken in base], ".1f"), "", ""
    for name, all_taken in times.items():
        taken = all_taken[1:]
        inside = [sum(watches[name].steps[index * EVERY : (index + 1) * EVERY]) for index in range(1, rounds + 1)]
        yield (
            name,
            spread([1000 * time / EVERY for time in taken], ".1f"),
            spread([100 * (ours / theirs - 1) for ours, theirs in zip(taken, base, strict=True)], "+.2f", " %"),
            spread([100 * own / time for own, time in zip(inside, taken, strict=True)], ".2f", " %"),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_options(parser)
    parser.add_argument("--rounds", type=int, default=6, help=f"rounds of {EVERY} steps of each loop, after one that warms up")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, prepare in CASES.items():
        print(f"\n{name}, {options.emsize}/{options.nhid}; medians of {options.rounds} rounds (with quartiles)\n")
        rows = measure(prepare(options, EVERY * (options.rounds + 1)), options.rounds)
        show(("loop", "ms a step", "beside the plain loop", "in the scheduler"), rows)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
