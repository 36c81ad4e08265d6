"""Do the tutorial's schedules prune exactly what they say? Prints the final non-zeros as planned, as the model has them, and as published.

    python benchmarks/exact_nonzeros.py

For each schedule the 1500-unit tied LSTM with random weights walks through all epochs, without training. After every firing every tensor
must have exactly ``n - floor(s(e) * n)`` non-zeros, where this file computes ``s(e)`` itself, from the YAML, as Zhu and Gupta 2017 write it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from limbeck import load_schedule
from limbeck.config import plan
from lm_tasks import Sizes
from timing import machine, show

SCHEDULES = Path(__file__).parents[1] / "schedules" / "lm"
# Non-zeros in Table 1 of the tutorial. What it prints beside "70" is the count of 70B; that of 70 follows from 49,917,000 + 4 * 9,000,000 weights at 70 %.
PUBLISHED = {"large_70": None, "large_70b": 25_487_550, "large_80": 16_847_550, "large_90": 8_591_700, "large_95": 4_295_850}
EPOCHS = 40


def expected(schedule: dict[str, Any], sizes: dict[str, int]) -> Iterator[tuple[int, str, int]]:
    """Epoch, tensor and non-zeros of every firing of a file that has nothing but AGP policies by epoch."""
    for policy in schedule["policies"]:
        pruner = schedule["pruners"][policy["pruner"]["instance_name"]]
        initial, final = pruner["initial_sparsity"], pruner["final_sparsity"]
        epochs = list(range(policy["starting_epoch"], policy["ending_epoch"], policy["frequency"]))
        for epoch in epochs:
            sparsity = final + (initial - final) * (1 - (epoch - epochs[0]) / (epochs[-1] - epochs[0])) ** 3
            for name in pruner["weights"]:
                yield epoch, name, sizes[name] - math.floor(sparsity * sizes[name])


def walk(file: Path, sizes: Sizes) -> tuple[int, int, int]:
    """Firings that were checked, the plan's final non-zeros and the model's; raises ``SystemExit`` at the first count that is not exact."""
    torch.manual_seed(0)
    model = sizes.model()
    weights = {name: weight for name, weight in model.named_parameters() if weight.dim() > 1}
    due: dict[int, list[tuple[str, int]]] = {}
    for epoch, name, nonzeros in expected(yaml.safe_load(file.read_text()), {name: weight.numel() for name, weight in weights.items()}):
        due.setdefault(epoch, []).append((name, nonzeros))
    scheduler = load_schedule(file, model)
    for epoch in scheduler.epochs(EPOCHS):
        for name, nonzeros in due.get(epoch, []):
            counted = int(weights[name].count_nonzero())
            if counted != nonzeros:
                raise SystemExit(f"{file.name}, epoch {epoch}: {name} has {counted:,} non-zeros, not {nonzeros:,}")
    planned = plan(file, model, epochs=EPOCHS).nonzeros
    return sum(map(len, due.values())), planned or 0, sum(int(weight.count_nonzero()) for weight in weights.values())


def row(name: str, published: int | None, sizes: Sizes) -> tuple[str, ...]:
    firings, planned, counted = walk(SCHEDULES / f"{name}.yaml", sizes)
    if planned != counted or published not in (None, counted):
        raise SystemExit(f"{name}: planned {planned:,}, counted {counted:,}, published {published}")
    return name, f"{firings} of {firings}", f"{planned:,}", f"{counted:,}", f"{published:,}" if published else "not printed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    header = ("schedule", "exact counts", "limbeck plan", "the model after it", "the tutorial")
    show(header, (row(name, PUBLISHED[name], Sizes(1500, 1500)) for name in options.schedules))
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
