"""Is it the data that training waits for? Prints milliseconds a batch of CIFAR-sized images takes to make, beside a training step on it.

    python benchmarks/image_batches.py --threads 2
    python benchmarks/image_batches.py --data ../shared/data/cifar-10 --model resnet20_cifar

Without --data the images are noise: what a batch costs does not depend on what is in it. Goal: under 2 ms for 128 images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import torch
from torch import nn
from torch.nn import functional as F

from limbeck.apps.images.batches import Batch, Batches, Form, Split
from limbeck.apps.images.data import load_images
from limbeck.apps.images.datasets import CIFAR10_STATISTICS, in_memory
from limbeck.apps.images.models import MODELS, input_shape
from timing import machine, medians_in_turns, show


def split_of(data: str | None, model: str) -> Split:
    """The training images of a data set, or noise of CIFAR's size."""
    if data is not None:
        return load_images(data, shape=input_shape(model)).train
    noise = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8)
    rows = torch.arange(len(noise))
    return Split(in_memory(noise), rows, rows % 10, Form(input_shape(model), *CIFAR10_STATISTICS, mirror=True))


def trainer(name: str) -> Callable[[Batch], None]:
    """One training step of a network, in a plain loop."""
    torch.manual_seed(0)
    model: nn.Module = MODELS[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def step(batch: Batch) -> None:
        images, labels = batch
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()

    return step


def turns(split: Split, options: argparse.Namespace) -> dict[str, Callable[[], Callable[[], object]]]:
    """Making a batch, with and without augmentation and in both layouts, and a training step on one that is there."""

    def making(batches: Batches) -> Callable[[], Callable[[], object]]:
        steps = count()
        return lambda: partial(batches.__getitem__, next(steps) % len(batches))

    size = options.batch_size
    train = trainer(options.model)
    ready = Batches(split, size)[0]
    return {
        "batch, evaluation": making(Batches(split, size)),
        "batch, augmented": making(Batches(split, size, seed=0, augment=True)),
        "batch, augmented, channels last": making(Batches(split, size, seed=0, augment=True, channels_last=True)),
        f"training step of {options.model}": lambda: partial(train, ready),
    }


def rows(options: argparse.Namespace) -> Iterator[tuple[object, ...]]:
    """One row a contender: milliseconds, and the share of the training step."""
    times = medians_in_turns(turns(split_of(options.data, options.model), options), options.rounds)
    *_, step = times.values()
    for name, taken in times.items():
        yield name, f"{taken * 1000:.2f}", f"{taken / step:.2%}"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="as in limbeck images train; noise without it")
    parser.add_argument("--model", default="resnet20_cifar", choices=list(MODELS))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    show([f"{options.batch_size} images", "ms", "of a training step"], rows(options))
    print(machine())


if __name__ == "__main__":
    main()
