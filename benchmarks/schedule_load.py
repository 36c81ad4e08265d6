"""How long does a schedule over 1,000 tensors take to check and build? Prints milliseconds, beside PyYAML's own reading (budget: 1 s).

python benchmarks/schedule_load.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import yaml
from torch import nn

from limbeck import load_schedule
from limbeck.config import check_file, plan
from timing import machine, medians_in_turns, show

WHAT: dict[str, Callable[[str, nn.Module], object]] = {
    "yaml.safe_load, ms": lambda text, _: yaml.safe_load(text),
    "check, ms": check_file,
    "check and build, ms": load_schedule,
    "plan, ms": plan,
}


def model(tensors: int) -> nn.Module:
    """A model of so many weights and no biases: ``0.weight``, ``1.weight`` and so on."""
    return nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(tensors)))


def agp(weights: list[str]) -> dict[str, object]:
    return {"class": "AutomatedGradualPruner", "initial_sparsity": 0.05, "final_sparsity": 0.8, "weights": weights}


def schedule(pruners: dict[str, dict[str, object]]) -> str:
    policies = [{"pruner": {"instance_name": name}, "starting_epoch": 0, "ending_epoch": 30, "frequency": 3} for name in pruners]
    return yaml.safe_dump({"version": 1, "pruners": pruners, "policies": policies}, sort_keys=False)


def texts(tensors: int) -> dict[str, str]:
    """Three ways to say the same."""
    names = [f"{index}.weight" for index in range(tensors)]
    return {
        "one pruner, one pattern": schedule({"all": agp(["*.weight"])}),
        f"one pruner, {tensors:,} names": schedule({"all": agp(names)}),
        f"{tensors:,} pruners and policies": schedule({f"pruner_{index}": agp([name]) for index, name in enumerate(names)}),
    }


def row(name: str, text: str, module: nn.Module, rounds: int) -> tuple[str, ...]:
    report = check_file(text, module)
    if report.faults:
        raise SystemExit(report.text())
    taken = medians_in_turns({what: partial(partial, turn, text, module) for what, turn in WHAT.items()}, rounds)
    return name, f"{len(text) / 1024:.0f}", *(f"{1000 * time:.0f}" for time in taken.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    module = model(options.tensors)

    print(f"{options.tensors:,} tensors; median of {options.rounds} rounds\n")
    module = model(options.tensors)
    show(("schedule", "KiB", *WHAT), (row(name, text, module, options.rounds) for name, text in texts(options.tensors).items()))
    print(f"\n{machine()}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
