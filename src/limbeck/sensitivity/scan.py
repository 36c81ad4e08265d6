"""The analysis: one parameter is pruned at a time, to one level after the other, and what the model then does is measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.errors import TargetError
from limbeck.names import Named, named_parameters, resolve
from limbeck.pruning.methods import level_pruner
from limbeck.pruning.pruner import Pruner, Site
from limbeck.pruning.structures import l1_ranked_structure_pruner
from limbeck.schedules import Moment
from limbeck.sensitivity.rows import Metrics, Row

Group = Literal["element", "filter", "channel"]
Evaluate = Callable[[nn.Module, Collection[str]], Metrics]
"""The model, and which of its parameters are not what they are in the dense one: what comes before them gives what it gave before."""
Masks = Mapping[str, Tensor]
"""By parameter, bool, True = kept."""
Follow = Callable[[Masks], Masks]
"""Masks to these and those of what falls silent with them: biases, scales and shifts."""


def _elements(name: str, level: float) -> Pruner:
    return level_pruner({name: level})


def _structures(kind: str, name: str, level: float) -> Pruner:
    return l1_ranked_structure_pruner(kind, level, [name])


PRUNERS: Mapping[Group, Callable[[str, float], Pruner]] = {
    "element": _elements,
    "filter": partial(_structures, "Filters"),
    "channel": partial(_structures, "Channels"),
}
"""What prunes one parameter to a level, by group: the smallest magnitudes, or the structures of the smallest mean magnitude."""


def analysed(model: nn.Module, targets: Sequence[str], group: Group) -> list[str]:
    """The parameters that targets name and that have such groups, in the model's order.

    Without targets, these are the weights of two dimensions or more, of convolutions alone where whole filters or channels go.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    >>> analysed(net, (), "filter"), analysed(net, (), "element"), analysed(net, ["*"], "filter")
    (['0.weight'], ['0.weight', '2.weight'], ['0.weight', '2.weight'])

    Raises ``TargetError`` for a target that matches nothing, and where nothing is left.
    """
    parameters = named_parameters(model)
    least = 2 if targets or group == "element" else 3
    chosen = resolve(dict.fromkeys(targets, True), parameters) if targets else parameters
    found = [name for name in chosen if parameters[name].parameter.dim() >= least]
    if not found:
        what = "the model has no convolutions" if not targets else f"{', '.join(targets)} names only biases and gains"
        raise TargetError(f"nothing to analyse: {what}; name weights of two dimensions or more")
    return found


def sensitivity(
    model: nn.Module,
    names: Sequence[str],
    levels: Sequence[float],
    group: Group,
    evaluate: Evaluate,
    known: Iterable[Row] = (),
    follow: Follow = dict,
) -> Iterator[Row]:
    """A row for each of ``names`` (canonical) at each of ``levels``, but for those that are ``known``, as soon as it is measured.

    The masks are those of the library's pruners, the weights are changed in place, and after each point, or an error, the model holds to the
    bit what it held before. Levels that drop equally many units share one evaluation, as do all that drop none. ``evaluate`` gets the model in
    evaluation mode; ``follow`` adds the masks of what falls silent with a unit.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> zeros = lambda model, changed: Metrics(100.0, 100.0, float((model.weight == 0).sum()))
    >>> [(row.sparsity, row.loss) for row in sensitivity(layer, ["weight"], [0.0, 0.25, 0.3, 0.5], "element", zeros)]
    [(0.0, 0.0), (0.25, 1.0), (0.3, 1.0), (0.5, 2.0)]
    """
    parameters = named_parameters(model)
    done = {(row.parameter, row.sparsity): row.metrics for row in known}
    dense = next((metrics for (_, level), metrics in done.items() if level == 0), None)
    for name in names:
        weight = parameters[name].parameter
        seen = {} if dense is None else {weight.numel(): dense}
        for level in levels:
            masks = PRUNERS[group](name, level).masks({name: Site(weight)}, Moment())
            kept = int(masks[name].count_nonzero())
            if kept not in seen:
                seen[kept] = done.get((name, level)) or _measured(model, parameters, follow(masks), evaluate)
            if kept == weight.numel():
                dense = seen[kept]
            if (name, level) not in done:
                metrics = seen[kept]
                yield Row(name, level, metrics.top1, metrics.top5, metrics.loss, 1 - kept / weight.numel())


def _measured(model: nn.Module, parameters: Mapping[str, Named], masks: Masks, evaluate: Evaluate) -> Metrics:
    with pruned(model, parameters, masks):
        changed = [name for name, keep in masks.items() if not bool(keep.all())]
        return evaluate(model, changed)


@contextmanager
def pruned(model: nn.Module, parameters: Mapping[str, Named], masks: Masks) -> Iterator[None]:
    """The model with what masks drop at zero and in evaluation mode; afterwards it is what it was, to the bit.

    Only the parameters that have masks are copied.
    """
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        copies = {name: parameters[name].parameter.detach().clone() for name in masks}
        try:
            model.eval()
            for name, keep in masks.items():
                parameters[name].parameter.masked_fill_(~keep, 0)
            yield
        finally:
            for name, values in copies.items():
                parameters[name].parameter.copy_(values)
            for module, mode in modes:
                module.training = mode
