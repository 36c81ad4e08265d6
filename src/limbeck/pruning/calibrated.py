"""Pruning once, with calibration data and without training: Wanda and SparseGPT; and Wanda on a schedule.

The functions put zeros into the model's weights and give the masks. A scheduler that is to hold them through further training adopts them::

    masks = sparsegpt(model, {"*.fc?.weight": "2:4"}, batches)
    for name, keep in masks.items():
        scheduler.masks.put(name, keep)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from limbeck.errors import MaskError
from limbeck.fields import Names
from limbeck.names import named_parameters, resolve
from limbeck.pruning._sparsegpt import Blocks, n_of_m, prune_matrix, shares
from limbeck.pruning.composed import NOfM, composed_pruner, parse_n_of_m
from limbeck.pruning.inputs import KEY, LAYERS, input_matrix, input_squares, takes_matrix, wanda_score
from limbeck.pruning.pruner import Pruner, Site
from limbeck.pruning.selectors import Lowest
from limbeck.ramps import Amount
from limbeck.schedules import Moment

T = TypeVar("T")

Sparsity = float | str
"""What is asked of a target: the fraction of zeros, or ``"2:4"``: 2 kept of every 4 along the input axis."""

Forward = Callable[[nn.Module, Any], object]
"""Runs the model on one batch."""

Look = Callable[[str, nn.Module, Tensor], None]
"""``(parameter, layer, its input)``: called in each forward pass."""


def run_batch(model: nn.Module, batch: Any) -> object:
    """A tensor is the model's only argument, a tuple or list its arguments, a mapping its arguments by name."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


@dataclass(frozen=True)
class _Target:
    """A parameter, the layers that hold it, and what is asked of it."""

    name: str
    weight: nn.Parameter
    layers: tuple[nn.Module, ...]
    sparsity: Sparsity

    @property
    def pruner(self) -> Pruner:
        """Wanda's, to the sparsity asked for."""
        return (
            wanda_pruner([self.name], n_of_m=self.sparsity) if isinstance(self.sparsity, str) else wanda_pruner([self.name], self.sparsity)
        )


def wanda(model: nn.Module, targets: Mapping[str, Sparsity], batches: Iterable[Any], forward: Forward = run_batch) -> dict[str, Tensor]:
    """Zero the weights of least ``|weight| * norm of its input``, row by row, and give the masks (Sun et al. 2023, arXiv 2306.11695).

    ``floor(sparsity * inputs)`` of each output row fall, or all but n of every m. Inputs are those of the dense model in evaluation mode.

    >>> layer = nn.Linear(4, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[4.0, 0.0, 1.0, -1.0]]))
    >>> wanda(layer, {"weight": 0.5}, [torch.tensor([[1.0, 2.0, 8.0, 3.0]])])
    {'weight': tensor([[ True, False,  True, False]])}
    >>> layer.weight.tolist()
    [[4.0, 0.0, 1.0, 0.0]]

    Raises ``TargetError`` for a target that matches nothing and ``MaskError``, before any weight is changed, for one that is no weight of a
    Linear layer, Conv1d or Conv2d, that saw no data, or whose weights or inputs are NaN.
    """
    asked = _targets(model, targets)
    _refuse_one_batch(batches)
    sums: dict[str, tuple[Tensor, int]] = {}

    def look(name: str, layer: nn.Module, x: Tensor) -> None:
        squares, samples = input_squares(layer, asked[name].weight, x)
        before, seen = sums.get(name, (torch.zeros_like(squares), 0))
        sums[name] = (before + squares, seen + samples)

    _run(model, asked.values(), batches, forward, look)
    masks: dict[str, Tensor] = {}
    for name, target in asked.items():
        squares, samples = sums.get(name, (target.weight, 0))
        _refuse_unseen(target, samples)
        masks |= target.pruner.masks({name: Site(target.weight.detach(), stats={KEY: squares / samples})}, Moment())
    with torch.no_grad():
        for name, keep in masks.items():
            asked[name].weight.masked_fill_(~keep, 0.0)
    return masks


@torch.no_grad()
def sparsegpt(
    model: nn.Module,
    targets: Mapping[str, Sparsity],
    batches: Iterable[Any],
    forward: Forward = run_batch,
    *,
    sequential: bool = True,
    damping: float = 0.01,
) -> dict[str, Tensor]:
    """Zero weights and change those that stay so that each layer's outputs on ``batches`` change least, and give the masks.

    Frantar and Alistarh 2023 (arXiv 2301.00774): ``damping`` is in means of the Hessian's diagonal, and masks are chosen in blocks of 128 columns.
    ``floor(sparsity * weights)`` fall, or all but n of every m. ``sequential`` prunes layer by layer in the order in which the model runs
    them, each on what the layers pruned before it give: one pass over ``batches`` for each target. Without it one pass serves all.

    >>> layer = nn.Linear(8, 4)
    >>> masks = sparsegpt(layer, {"weight": "2:4"}, [torch.randn(32, 8)])
    >>> masks["weight"].reshape(4, 2, 4).sum(2).unique()
    tensor([2])

    Raises as ``wanda`` does; the weights are then as they were.
    """
    asked = _targets(model, targets)
    _refuse_one_batch(batches)
    batches = list(batches)
    order = _order(model, asked, batches, forward) if sequential else list(asked)
    before = {name: target.weight.detach().clone() for name, target in asked.items()}
    masks: dict[str, Tensor] = {}
    try:
        for names in [[name] for name in order] if sequential else [order]:
            sums = _hessians(model, [asked[name] for name in names], batches, forward)
            for name in names:
                _refuse_unseen(asked[name], name in sums)
                masks[name] = _named(name, partial(_prune, asked[name], sums.pop(name), damping))
    except BaseException:
        for name, values in before.items():
            asked[name].weight.copy_(values)
        raise
    return {name: masks[name] for name in asked}


def _hessians(model: nn.Module, targets: Sequence[_Target], batches: Iterable[Any], forward: Forward) -> dict[str, Tensor]:
    """Of each target the sum of its samples' outer products, ``[groups, columns, columns]``."""
    sums: dict[str, Tensor] = {}

    def look(name: str, layer: nn.Module, x: Tensor) -> None:
        matrix = input_matrix(layer, x)
        if matrix.shape[1]:
            products = matrix.transpose(1, 2) @ matrix
            sums[name] = sums[name].add_(products) if name in sums else products

    _run(model, targets, batches, forward, look)
    return sums


def _prune(target: _Target, hessians: Tensor, damping: float) -> Tensor:
    """Prune one weight in place, group by group of a convolution, with the input channels of a place in the kernel side by side."""
    weight = target.weight.detach()
    dtype = torch.promote_types(weight.dtype, hessians.dtype)
    order = torch.arange(weight[0].numel(), device=weight.device).view(weight.shape[1], -1).t().reshape(-1)
    matrix = weight.flatten(1).to(dtype)[:, order]
    rows, masks = len(weight) // len(hessians), []
    for number, hessian in enumerate(hessians.to(dtype)):
        blocks = _blocks(target, number * rows, (number + 1) * rows)
        masks.append(prune_matrix(matrix[number * rows : (number + 1) * rows], hessian[order][:, order], blocks, damping))
    back = order.argsort()
    weight.copy_(matrix[:, back].view(weight.shape))
    return torch.cat(masks)[:, back].view(weight.shape)


def _blocks(target: _Target, first: int, last: int) -> Blocks:
    """What falls in some rows of a weight; over all rows it adds up to exactly what is asked."""
    rows, columns = len(target.weight), target.weight[0].numel()
    if isinstance(target.sparsity, str):
        kept, size = parse_n_of_m(target.sparsity)
        return n_of_m(columns, target.weight.shape[1], kept, size)
    dropped = Lowest().dropped(target.sparsity, rows * columns)
    return shares(columns, dropped * last // rows - dropped * first // rows)


def _targets(model: nn.Module, targets: Mapping[str, Sparsity]) -> dict[str, _Target]:
    parameters, found = named_parameters(model), {}
    for name, sparsity in resolve(targets, parameters).items():
        weight = parameters[name].parameter
        owners = [(module, attribute) for module in model.modules() for attribute, own in module._parameters.items() if own is weight]
        layers = tuple(module for module, attribute in owners if takes_matrix(module, attribute))
        if not layers:
            module, attribute = owners[0]
            kinds = ", ".join(kind.__name__ for kind in LAYERS)
            raise MaskError(f"'{name}' is '{attribute}' of {type(module).__name__}; calibration is for weights of {kinds}: leave it out")
        if isinstance(sparsity, bool) or not isinstance(sparsity, float | int | str):
            raise MaskError(f"'{name}': the sparsity must be a fraction, as 0.5, or n:m, as '2:4', not {sparsity!r}")
        found[name] = _Target(name, weight, layers, sparsity)
        _named(name, partial(_blocks, found[name], 0, len(weight)))
    return found


def _order(model: nn.Module, targets: Mapping[str, _Target], batches: Sequence[Any], forward: Forward) -> list[str]:
    """The targets as the first batch comes to them, then those to which it does not come."""
    called: dict[str, None] = {}
    _run(model, targets.values(), batches[:1], forward, lambda name, layer, x: called.setdefault(name))
    return list(dict.fromkeys([*called, *targets]))


def _run(model: nn.Module, targets: Iterable[_Target], batches: Iterable[Any], forward: Forward, look: Look) -> None:
    """Run the model on all batches, in evaluation mode and without gradients, and look at what goes into the targets' layers."""

    def before(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        _named(name, partial(look, name, layer, next(iter((*args, *kwargs.values())))))

    handles = [
        layer.register_forward_pre_hook(partial(before, target.name), with_kwargs=True) for target in targets for layer in target.layers
    ]
    with _evaluating(model), torch.no_grad():
        try:
            for batch in batches:
                forward(model, batch)
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _refuse_one_batch(batches: object) -> None:
    """A tensor would be taken apart into its rows, and a mapping into its keys."""
    if isinstance(batches, Tensor | Mapping):
        raise MaskError(f"batches must be an iterable of batches, not a single {type(batches).__name__}; put it into a list")


def _refuse_unseen(target: _Target, seen: object) -> None:
    if not seen:
        raise MaskError(
            f"'{target.name}': its {type(target.layers[0]).__name__} saw no data; give batches that reach it, or leave it out of the targets"
        )


def _named(name: str, make: Callable[[], T]) -> T:
    """Give an error that was raised deep the name of its tensor."""
    try:
        return make()
    except (MaskError, ValueError) as error:
        raise MaskError(f"'{name}': {error}") from error


def wanda_pruner(weights: Names, sparsity: Amount | None = None, n_of_m: NOfM | None = None) -> Pruner:
    """Drop the weights of least ``|weight| * norm of its input``, row by row (Wanda; Sun et al. 2023, arXiv 2306.11695).

    Inputs are observed in training, between one renewal and the next. Of each row ``floor(sparsity * inputs)`` fall, or all but n of every m.

    >>> wanda_pruner(["fc.weight"], 0.5).pool
    Tile(sizes=(1,), rest=-1)
    """
    return composed_pruner(weights, sparsity, wanda_score, scope="tensor" if n_of_m else "row", n_of_m=n_of_m)


CALIBRATED_PRUNERS: dict[str, Callable[..., Pruner]] = {"WandaPruner": wanda_pruner}
"""Pruners that weigh weights by what goes into their layer."""
