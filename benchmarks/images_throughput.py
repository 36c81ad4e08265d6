"""How fast does ``limbeck images train`` train beside a plain loop without Limbeck? Prints images a second of both, and the ratio by block.

    python benchmarks/images_throughput.py --threads 2
    python benchmarks/images_throughput.py --threads 2 --compile --data ../shared/data/cifar-10

The plain loop is what one would write without a library: images in memory, shifted, mirrored and normalised by a few lines of torch, SGD with
Nesterov momentum, torch's OneCycleLR, cross entropy. The application's loop has the scheduler, its batches, the counts for the log; once without a
schedule, and once with automated gradual pruning on all weights, whose masks are applied after every step and renewed every 50. They start from the
same weights and take turns in blocks of steps; a figure is the median over the blocks. Goal: at least 0.95 of the plain loop. Without --data
the images are noise, which changes no time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.apps.images.batches import Batches, Form, Split
from limbeck.apps.images.data import load_images
from limbeck.apps.images.datasets import CIFAR10_STATISTICS, in_memory
from limbeck.apps.images.models import CIFAR, MODELS, input_shape
from limbeck.apps.images.network import Forward, hits, loss_of
from limbeck.apps.images.options import TrainOptions
from limbeck.apps.images.session import one_cycle
from limbeck.apps.run import autocast
from limbeck.events import Action
from limbeck.pruning import Prune, automated_gradual_pruner
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from timing import OwnRandomness, blocks_in_turns, machine, quartiles, show

PLAIN, APPLICATION, PRUNED = "plain loop", "limbeck images train", "the same, pruned"
EVERY = 50
OPTIONS = TrainOptions()


def split_of(data: str | None, model: str, images: int) -> Split:
    """The training images of a data set, or noise of CIFAR's size."""
    if data is not None:
        return load_images(data, shape=input_shape(model)).train
    noise = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)
    rows = torch.arange(images)
    return Split(in_memory(noise), rows, rows % 10, Form(input_shape(model), *CIFAR10_STATISTICS, mirror=True))


def plain(model: nn.Module, split: Split, steps: int, compiled: bool) -> Iterator[float]:
    """The loop without Limbeck; yields the loss of every step as the device holds it, to be read when it is logged."""
    images, labels = split.pixels.batch(split.rows, None, False, torch.device("cpu")), split.labels
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in CIFAR10_STATISTICS)
    padded = F.pad(images, (4, 4, 4, 4))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=OPTIONS.lr, momentum=OPTIONS.momentum, weight_decay=OPTIONS.weight_decay, nesterov=True, fused=True
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, OPTIONS.lr, total_steps=steps + 1, cycle_momentum=False)
    forward = torch.compile(model, dynamic=False) if compiled else model
    model.train()
    size, span = OPTIONS.batch_size, torch.arange(32)
    order = torch.randperm(len(labels))
    for step in range(steps):
        places = order[torch.arange(step * size, (step + 1) * size) % len(order)]
        down, across, turn = torch.randint(0, 9, (size, 1)), torch.randint(0, 9, (size, 1)), torch.rand(size, 1) < 0.5
        columns = torch.where(turn, across + 31 - span, across + span)
        index = (
            torch.arange(size)[:, None, None, None],
            torch.arange(3)[None, :, None, None],
            (down + span)[:, None, :, None],
            columns[:, None, None, :],
        )
        batch = (padded[places][index].float() / 255 - mean) / std
        loss = F.cross_entropy(forward(batch), labels[places])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()
        rate.step()
        yield float(loss.detach())


def application(model: nn.Module, split: Split, steps: int, compiled: bool, schedule: list[tuple[Window, Action]]) -> Iterator[Tensor]:
    """The loop of ``limbeck/apps/images/train.py``; yields what it counts, which the application reads when it logs."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=OPTIONS.lr, momentum=OPTIONS.momentum, weight_decay=OPTIONS.weight_decay, nesterov=True, fused=True
    )
    scheduler = Scheduler(model, schedule, optimizer)
    scheduler.add(Window(unit="step"), one_cycle(OPTIONS.lr, steps + 1))
    batches = Batches(split, OPTIONS.batch_size, seed=1, augment=True)
    forward = Forward(model, lambda: len(scheduler.recipes), compiled)
    model.train()
    for epoch in scheduler.epochs(steps):
        whole = replace(batches.epoch(epoch), window=range(len(split) // OPTIONS.batch_size))
        for images, labels in scheduler.steps(whole):
            with autocast(images.device, OPTIONS.amp):
                logits = forward(images)
                loss = loss_of(logits, labels)
            total = scheduler.loss(loss)
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimizer.step()
            yield torch.stack([loss.detach(), *hits(logits[-1].detach(), labels)]).double()


def race(name: str, split: Split, block: int, rounds: int, compiled: bool = False) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every block but the first by contender, and the sparsity of each network in the end."""
    steps = block * (rounds + 1)
    torch.manual_seed(0)
    models = {contender: MODELS[name]() for contender in (PLAIN, APPLICATION, PRUNED)}
    for model in models.values():
        model.load_state_dict(models[PLAIN].state_dict())
    weights = [name for name, weight in models[PRUNED].named_parameters() if weight.dim() > 1]
    agp = (Window(0, steps + 1, EVERY, unit="step"), Prune(automated_gradual_pruner(0.5, 0.8, weights)))
    loops: dict[str, Iterator[float | Tensor]] = {
        PLAIN: plain(models[PLAIN], split, steps, compiled),
        APPLICATION: application(models[APPLICATION], split, steps, compiled, []),
        PRUNED: application(models[PRUNED], split, steps, compiled, [agp]),
    }
    times, _ = blocks_in_turns(loops, block, rounds + 1, OwnRandomness(0))
    sparsity = {
        contender: 1 - sum(int(dict(model.named_parameters())[name].count_nonzero()) for name in weights)
        / sum(dict(model.named_parameters())[name].numel() for name in weights)
        for contender, model in models.items()
    }  # fmt: skip
    return {contender: taken[1:] for contender, taken in times.items()}, sparsity


def rows(times: dict[str, list[float]], sparsity: dict[str, float], block: int) -> Iterator[tuple[str, ...]]:
    """A row a contender."""
    for name, taken in times.items():
        low, middle, high = quartiles([theirs / ours for theirs, ours in zip(times[PLAIN], taken, strict=True)])
        step = quartiles(taken)[1] / block
        ratio = f"{middle:.3f} ({low:.3f} to {high:.3f})"
        yield name, f"{1000 * step:.1f}", f"{OPTIONS.batch_size / step:,.0f}", ratio, f"{sparsity[name]:.1%}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", default="resnet20_cifar", choices=sorted(CIFAR), metavar="MODEL", help="one for CIFAR")
    parser.add_argument("--data", help="where CIFAR-10 lies; noise without it")
    parser.add_argument("--block", type=int, default=10, help="steps of a block")
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each, after one that warms up")
    parser.add_argument("--compile", action="store_true", help="compile both with torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    times, sparsity = race(options.model, split_of(options.data, options.model, 50_000), options.block, options.rounds, options.compile)
    print(f"{options.model}, batches of {OPTIONS.batch_size}{', compiled' if options.compile else ''}\n")
    show(("loop", "ms a step", "images/s", "x plain, by block", "sparsity"), rows(times, sparsity, options.block))
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
