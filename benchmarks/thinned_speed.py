"""How much faster is a thinned network, measured? Prints milliseconds a batch, dense and thinned in turns, and what planning the thinning took.

    python benchmarks/thinned_speed.py --threads 2
    python benchmarks/thinned_speed.py --model resnet50 --fraction 0.5 --batches 1 8 --rounds 5

Half of the filters inside every block go, at random weights: which ones does not matter for the time. "MACs kept" over "time kept" tells how much of
what is saved on paper is saved on the clock; small convolutions do not fill the machine, and batch norms and additions of the shortcuts stay.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from limbeck.apps.images.models import MODELS, input_shape
from limbeck.summaries.compute import macs
from limbeck.thinning import thin
from timing import machine, medians_in_turns, show


def inner_convolutions(model: nn.Module) -> list[tuple[nn.Conv2d, nn.Module]]:
    """The convolutions of each block but its last one, with their batch norms: what they compute meets no shortcut."""
    blocks = [block for block in model.modules() if hasattr(block, "conv2") and hasattr(block, "bn2")]
    last = {id(block): max(name for name, _ in block.named_children() if name.startswith("conv")) for block in blocks}
    return [
        (module, getattr(block, f"bn{name.removeprefix('conv')}"))
        for block in blocks
        for name, module in block.named_children()
        if isinstance(module, nn.Conv2d) and name.startswith("conv") and name != last[id(block)]
    ]


@torch.no_grad()
def drop_filters(model: nn.Module, fraction: float) -> None:
    """Set the filters of lowest L1 norm to zero, with the scale and the shift that follow."""
    for convolution, norm in inner_convolutions(model):
        norms: Tensor = convolution.weight.abs().sum((1, 2, 3))
        gone = norms.argsort()[: int(fraction * len(norms))]
        for tensor in (convolution.weight, norm.weight, norm.bias):
            assert isinstance(tensor, Tensor)
            tensor[gone] = 0


def thinned_pair(name: str, fraction: float, channels_last: bool) -> tuple[dict[str, nn.Module], dict[str, int], float]:
    """The dense network, the thinned one, their MACs, and the seconds that thinning took."""
    torch.manual_seed(0)
    dense = MODELS[name]().eval()
    if channels_last:
        dense = dense.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch does not annotate it
    small = copy.deepcopy(dense)
    drop_filters(small, fraction)
    example = (torch.zeros(1, *input_shape(name)),)
    begin = time.perf_counter()
    thin(small, example)
    took = time.perf_counter() - begin
    models = {"dense": dense, "thinned": small}
    return models, {which: macs(model, example) for which, model in models.items()}, took


def turns(models: Mapping[str, nn.Module], batch: Tensor) -> dict[str, Callable[[], Callable[[], object]]]:
    """One evaluation of a batch by each network."""
    return {name: partial(partial, model, batch) for name, model in models.items()}


def rows(options: argparse.Namespace) -> Iterator[tuple[object, ...]]:
    """One row a network and batch size."""
    for name in options.model:
        models, counted, took = thinned_pair(name, options.fraction, options.channels_last)
        for size in options.batches:
            batch = torch.randn(size, *input_shape(name))
            if options.channels_last:
                batch = batch.contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                times = medians_in_turns(turns(models, batch), options.rounds)
            yield (
                name,
                size,
                f"{counted['dense']:,}",
                f"{counted['thinned'] / counted['dense']:.2%}",
                f"{1e3 * times['dense']:.2f}",
                f"{1e3 * times['thinned']:.2f}",
                f"{times['dense'] / times['thinned']:.2f} x",
                f"{took:.2f}",
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--model", nargs="+", default=["resnet56_cifar", "resnet20_cifar"], choices=sorted(MODELS), metavar="MODEL")
    parser.add_argument("--fraction", type=float, default=0.5, help="of the filters inside each block")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    header = ("network", "batch", "MACs", "MACs kept", "dense ms", "thinned ms", "faster", "thinning s")
    show(header, rows(options))
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
