"""What a network costs on this machine: the time of a batch, measured, and the size of its file."""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import nn

from limbeck._tensors import first_names, packed

WARM_UP = 3
LEAST = 11
"""Rounds that are always measured."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a call: the median, and the quartiles, between which half of all times lie."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """How far from the median, as a fraction of it, the farther quartile is."""
        return max(self.high - self.median, self.median - self.low) / self.median


def latencies(calls: Mapping[str, Callable[[], object]], device: torch.device, seconds: float = 2.0) -> dict[str, Latency]:
    """Milliseconds of each call, taken in turns: a machine that is busy for a moment is busy for all.

    Some rounds warm up; then at least 11 are measured, and more until each call has had its ``seconds`` on average.

    >>> found = latencies({"short": lambda: sum(range(100)), "long": lambda: sum(range(100_000))}, torch.device("cpu"), seconds=0.02)
    >>> found["short"].median < found["long"].median
    True
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(WARM_UP):
            for call in calls.values():
                call()
        end = time.perf_counter() + seconds * len(calls)
        while len(next(iter(times.values()))) < LEAST or time.perf_counter() < end:
            for name, call in calls.items():
                _wait(device)
                began = time.perf_counter()
                call()
                _wait(device)
                times[name].append(time.perf_counter() - began)
    return {name: _latency(taken) for name, taken in times.items()}


def _latency(taken: list[float]) -> Latency:
    low, median, high = (1000 * quartile for quartile in statistics.quantiles(taken, n=4, method="inclusive"))
    return Latency(median, low, high)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class FileSize:
    """Bytes of a network's tensors as one safetensors file: as it is, and deflated as zip and gzip do."""

    plain: int
    deflated: int


def file_size(model: nn.Module) -> FileSize:
    """The size of the file that holds a network's tensors, tied ones once.

    Zeros of a mask take their four bytes in the file itself, and next to none when it is deflated.

    >>> dense, sparse = nn.Linear(100, 100), nn.Linear(100, 100)
    >>> _ = nn.init.zeros_(sparse.weight)
    >>> file_size(dense).plain == file_size(sparse).plain, file_size(sparse).deflated < file_size(dense).deflated / 10
    (True, True)
    """
    own = model.state_dict(keep_vars=True)
    first = first_names(own)
    content = save(packed({name: tensor for name, tensor in own.items() if first[name] == name})[0])
    return FileSize(len(content), len(zlib.compress(content, 9)))
