"""What a trained network holds and costs, measured on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from limbeck.apps.cost import Latency, file_size, latencies
from limbeck.apps.images.network import Shape, example
from limbeck.apps.images.session import Trained
from limbeck.apps.loop import device_name
from limbeck.errors import CaptureError
from limbeck.names import named_parameters
from limbeck.stats import nonzero_groups, weights
from limbeck.summaries.compute import compute

LATENCY_BATCHES = (1, 64)


@dataclass(frozen=True)
class Measured:
    """Sizes and times of a network. Weights are the parameters of two dimensions or more; MACs are of one image."""

    weights: int
    nonzeros: int
    sparsity: float
    parameters: int
    macs: int | None
    """None where the network's graph cannot be captured, or has operations of which no count is known."""
    bytes: int
    """Of the safetensors file."""
    deflated: int
    latency: Mapping[int, Latency]
    """By the size of the batch."""
    device: str


def measure(saved: Trained, device: torch.device, batches: Sequence[int] = LATENCY_BATCHES) -> Measured:
    """Sizes of a network, and the time that it takes on its device for each of these batch sizes."""
    timed = time_in_turns({"": saved}, device, batches)
    return sizes(saved.model, saved.shape, device, {batch: found[""] for batch, found in timed.items()})


def sizes(model: nn.Module, shape: Shape, device: torch.device, latency: Mapping[int, Latency]) -> Measured:
    """The same with times that were measured before."""
    tensors = [named.parameter.detach() for named in weights(named_parameters(model).values())]
    total, nonzeros = sum(tensor.numel() for tensor in tensors), sum(map(nonzero_groups, tensors))
    file = file_size(model)
    return Measured(
        weights=total,
        nonzeros=nonzeros,
        sparsity=1 - nonzeros / total if total else 0.0,
        parameters=sum(named.parameter.numel() for named in named_parameters(model).values()),
        macs=macs_of(model, shape),
        bytes=file.plain,
        deflated=file.deflated,
        latency=latency,
        device=device_name(device),
    )


def macs_of(model: nn.Module, shape: Shape) -> int | None:
    """The MACs of one image; None where they are not known."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        found = compute(model, example(shape, device, count=1))
    except CaptureError:
        return None
    return None if found.unsupported else found.macs


def time_in_turns(networks: Mapping[str, Trained], device: torch.device, batches: Sequence[int]) -> dict[int, dict[str, Latency]]:
    """Times by batch size and network; the networks take turns, batch by batch, so that their times can be compared."""

    def call(saved: Trained, batch: int) -> Callable[[], object]:
        images = torch.randn(batch, *saved.shape, device=device)
        layout = torch.channels_last if saved.options.channels_last else torch.contiguous_format
        return partial(saved.model, images.contiguous(memory_format=layout))

    return {batch: latencies({name: call(saved, batch) for name, saved in networks.items()}, device) for batch in batches}
