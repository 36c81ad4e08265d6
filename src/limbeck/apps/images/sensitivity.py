"""How sensitive a trained classifier is to pruning each of its parameters, and the schedules that follow from it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

import torch
from rich.console import Console
from torch import Tensor, nn

from limbeck.apps.images.batches import Batch, Batches
from limbeck.apps.images.network import example
from limbeck.apps.images.session import Trained, evaluation_batches, load, load_trained
from limbeck.apps.images.train import evaluate
from limbeck.apps.progress import Progress
from limbeck.apps.run import chosen_device
from limbeck.apps.sensitivity import SETTINGS, TABLE, Analysis, draw, overview
from limbeck.apps.weights import fingerprint
from limbeck.errors import DataError
from limbeck.sensitivity import (
    Group,
    Metrics,
    Row,
    Structure,
    Suggestion,
    analysed,
    parse_budget,
    parse_levels,
    schedule_text,
    suggest,
)
from limbeck.sensitivity.scan import Follow
from limbeck.summaries import render

REMEMBERED = 1 << 28
"""Elements of activations that are kept at most: 1 GiB in float32."""
SPLITS = ("valid", "train", "test")
PRUNING, RATE = 0.6, 0.25
"""Parts of a fine-tuning: of its epochs in which filters and weights fall, and of the rate of the first training."""


@dataclass(frozen=True)
class SensitivityOptions:
    """What ``limbeck images sensitivity`` was asked for."""

    run: Path
    group: Group = "element"
    levels: str = "0:0.95:0.05"
    params: tuple[str, ...] = ()
    samples: int = 0
    """0: all."""
    split: str | None = None
    data: str | None = None
    out: Path | None = None
    suggest: tuple[str, ...] = ()
    epochs: int = 8
    """Of the fine-tuning for which a schedule is suggested."""
    cuda: bool = False
    device: str | None = None
    command: str = "limbeck images sensitivity"


def run_sensitivity(options: SensitivityOptions, as_json: bool = False) -> None:
    """Analyse a trained network, write table, picture and schedules to a folder, and print an overview."""
    levels, budgets = parse_levels(options.levels), [parse_budget(text) for text in options.suggest]
    if budgets and levels[0] > 0:
        raise DataError(f"--suggest compares with the dense model: let --levels begin at 0, not at {levels[0]:g}")
    trained = load_trained(options.run, chosen_device(options.cuda, options.device))
    names = analysed(trained.model, options.params, options.group)
    folder = options.out or Path(f"sensitivity-{options.group}")
    split, batches = _batches(options, trained)
    settings = {
        "model": trained.options.model, "weights": fingerprint(trained.model), "data": options.data or trained.options.data, "split": split,
        "samples": batches.images,
    }  # fmt: skip
    inputs = example(trained.shape, next(trained.model.parameters()).device, trained.options.channels_last)
    follow: Follow = dict if options.group == "element" else Structure.of(trained.model, inputs).follow
    with Progress(len(names) * len(levels), "sensitivity", console=Console(stderr=True)) as progress:
        analysis = Analysis(names, levels, options.group, settings)
        rows = analysis.run(trained.model, Shared(batches), folder, progress, follow)
    title = f"{trained.options.model}: {options.group}s of one parameter pruned at a time"
    files = [folder / TABLE, folder / SETTINGS, *draw(rows, title, folder)]
    for budget in budgets:
        made = suggest(rows, trained.model, inputs, options.group, budget)
        path = folder / f"suggested_{budget.kind}_{budget.amount:g}.yaml"
        path.write_text(_schedule(made, options, trained, batches.images, path), encoding="utf-8")
        files.append(path)
    _print(rows, files, as_json)


def _print(rows: Sequence[Row], files: Sequence[Path], as_json: bool) -> None:
    table, console = overview(rows), Console()
    if as_json:
        tree = {**render.as_tree(table), "files": [str(path) for path in files]}
        console.file.write(json.dumps(tree, indent=2, allow_nan=False) + "\n")
        return
    render.show(table, console=console)
    console.file.write("\n".join(["", *map(str, files)]) + "\n")


def _batches(options: SensitivityOptions, trained: Trained) -> tuple[str, Batches]:
    """The images to measure on, evenly spread over their split: those held out for validation where there are any, else those of the training."""
    images = load(replace(trained.options, data=options.data or trained.options.data))
    held = images.valid is not None and images.valid is not images.test
    split = options.split or ("valid" if held else "train")
    chosen = {"valid": images.valid, "train": images.train, "test": images.test}[split]
    if chosen is None:
        raise DataError("no images were held out for validation; measure on those of the training with --split train, or on --split test")
    batches = evaluation_batches(chosen, next(trained.model.parameters()).device, trained.options.channels_last)
    part = options.samples / len(chosen) if options.samples else 1.0
    return split, replace(batches, fraction=min(1.0, part))


def _schedule(made: Suggestion, options: SensitivityOptions, trained: Trained, images: int, path: Path) -> str:
    kinds = {"element": "single weights", "filter": "filters", "channel": "channels"}
    saved = trained.options
    comments = [
        f"{saved.model}: {kinds[made.group]} pruned to {made.budget}, as a sensitivity analysis on {images:,} images suggests.",
        "",
        f"  limbeck images train --model {quote(saved.model)} --data {quote(options.data or saved.data)} --weights {quote(str(options.run))} \\",
        f"    --epochs {options.epochs} --lr {saved.lr * RATE:g} --compress {quote(str(path))}",
        "",
        f"Made by: {options.command}",
    ]
    return schedule_text(made, max(2, round(PRUNING * options.epochs)), comments) + "\n"


class Shared:
    """Evaluates a network on batches; in a chain of modules, what comes before the first that has changed runs once for all its levels.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    >>> measure = Shared([(torch.ones(2, 1, 2, 2), torch.tensor([0, 1]))])
    >>> measure(net, ["3.weight"]).top1, measure.remembered
    (50.0, 3)
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self._kept: list[Batch] = []
        self.remembered = 0
        """How many modules at the begin of the chain need not run again."""

    def __call__(self, model: nn.Module, changed: Collection[str]) -> Metrics:
        """The metrics of the model, in which these parameters are not what they are in the dense one."""
        links = list(chained(model, ""))
        first = next((place for place, (name, link) in enumerate(links) if _holds(name, link, changed)), 0)
        self._remember([link for _, link in links], first)
        tail = nn.Sequential(*[link for _, link in links[self.remembered :]]).eval()
        found = evaluate(tail, ((images.clone(), labels) for images, labels in self._kept) if self.remembered else self._batches)
        return Metrics(found["top1"], found["top5"], found["loss"])

    @torch.no_grad()
    def _remember(self, links: Sequence[nn.Module], first: int) -> None:
        """Have the results of the first links at hand, from those of fewer links where these are kept; none where they are too large."""
        if first == self.remembered:
            return
        further = 0 < self.remembered < first
        source = self._kept if further else self._batches
        steps = nn.Sequential(*links[self.remembered if further else 0 : first]).eval()
        kept, elements = list[Batch](), 0
        for images, labels in source if first else ():
            result = steps(images)
            elements += result.numel() if isinstance(result, Tensor) else REMEMBERED
            if elements > REMEMBERED:
                kept, first = [], 0
                break
            kept.append((result, labels))
        self._kept, self.remembered = kept, first


def chained(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that run one after the other, by name; a model that is no chain is one of them.

    >>> [name for name, _ in chained(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2))), "")]
    ['0', '1.0', '1.1']
    """
    if type(model).forward is not nn.Sequential.forward or model._forward_hooks or model._forward_pre_hooks:
        yield name, model
        return
    for child, module in model.named_children():
        yield from chained(module, f"{name}.{child}" if name else child)


def _holds(name: str, link: nn.Module, changed: Collection[str]) -> bool:
    prefix = f"{name}." if name else ""
    return any(prefix + own in changed for own, _ in link.named_parameters())
