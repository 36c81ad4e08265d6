"""What the image classifiers are put together from: named chains, residual blocks, sums of branches, early exits, He's initialisation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def chain(parts: Mapping[str, nn.Module]) -> nn.Sequential:
    """The modules one after the other, each under its own name.

    >>> [name for name, _ in chain({"conv1": nn.Conv2d(3, 8, 3), "relu": nn.ReLU()}).named_parameters()]
    ['conv1.weight', 'conv1.bias']
    """
    return nn.Sequential(OrderedDict(parts))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps height and width, but for its stride; without a bias, because a batch norm has one."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)


def relu() -> nn.ReLU:
    """A rectifier that writes over its input, which nothing else reads in these networks."""
    return nn.ReLU(inplace=True)


def normalized(conv: nn.Conv2d, activated: bool = True) -> list[nn.Module]:
    """A convolution with its batch norm, and its rectifier."""
    return [conv, nn.BatchNorm2d(conv.out_channels), *([relu()] if activated else [])]


def pooled(features: int, num_classes: int) -> dict[str, nn.Module]:
    """The head of most of these networks: the mean over all places, ``[batch, features]``, then one linear layer."""
    return {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(features, num_classes)}


class EltwiseAdd(nn.Module):
    """The sum of two tensors of one shape, as a module, so that hooks, quantizers and graphs see it."""

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Both added, in a new tensor."""
        return one + other


class Residual(nn.Module):
    """A residual unit: ``after(path(before(x)) + shortcut)``, each part a chain of modules that go by their names in the unit itself.

    The shortcut is ``downsample``, or nothing where shapes agree, of ``x``; with ``shared`` it starts behind ``before``. ``before`` is empty in
    the first residual networks (He et al. 2015, arXiv 1512.03385) and ``after`` in the pre-activated ones (He et al. 2016, arXiv 1603.05027).

    >>> unit = Residual({"conv1": nn.Conv2d(4, 4, 1, bias=False)}, after={"relu1": nn.ReLU()})
    >>> [name for name, _ in unit.named_children()]
    ['conv1', 'add', 'relu1']
    >>> import torch
    >>> torch.equal(unit(x := torch.randn(1, 4, 2, 2)), (unit.conv1(x) + x).relu())
    True
    """

    add: EltwiseAdd

    def __init__(
        self,
        path: Mapping[str, nn.Module],
        *,
        before: Mapping[str, nn.Module] | None = None,
        after: Mapping[str, nn.Module] | None = None,
        downsample: nn.Module | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__()
        before, after = before or {}, after or {}
        for name, part in {**before, **path, "add": EltwiseAdd(), **after}.items():
            self.add_module(name, part)
        if downsample is not None:
            self.add_module("downsample", downsample)
        self._before, self._path, self._after = tuple(before), tuple(path), tuple(after)
        self._shortcut = ("downsample",) if downsample is not None else ()
        self._shared = shared

    def _run(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, inputs, height, width]`` to ``[batch, outputs, height / stride, width / stride]``."""
        begun = self._run(self._before, x)
        shortcut = self._run(self._shortcut, begun if self._shared else x)
        return self._run(self._after, self.add(self._run(self._path, begun), shortcut))


class Branches(nn.ModuleList):
    """The sum of what two modules, ``0`` and ``1``, make of one input.

    >>> import torch
    >>> Branches([nn.Identity(), nn.ReLU()])(torch.tensor([-1.0, 1.0]))
    tensor([-1.,  2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape that both take; what they give has one shape."""
        one, other = self
        total: Tensor = one(x) + other(x)
        return total


class EarlyExits(nn.Module):
    """A chain that also answers early: behind its part ``name``, the branch ``exits[name]`` makes logits (BranchyNet, arXiv 1709.01686).

    The parts keep their names, so that a schedule for the chain names the same parameters here.

    >>> import torch
    >>> net = EarlyExits(chain({"one": nn.Linear(4, 4), "two": nn.Linear(4, 2)}), {"one": nn.Linear(4, 2)})
    >>> [tuple(logits.shape) for logits in net(torch.zeros(3, 4))], list(net.state_dict())[-2:]
    ([(3, 2), (3, 2)], ['exits.one.weight', 'exits.one.bias'])
    """

    def __init__(self, parts: nn.Sequential, exits: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._parts = tuple(name for name, _ in parts.named_children())
        for name, part in parts.named_children():
            self.add_module(name, part)
        self.exits = nn.ModuleDict(dict(exits))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The logits of every exit, ``[batch, classes]``, the earliest first and the network's own last."""
        logits = []
        for name in self._parts:
            x = getattr(self, name)(x)
            if name in self.exits:
                logits.append(self.exits[name](x))
        return (*logits, x)


def he_initialised(model: Net) -> Net:
    """The same model with weights drawn for rectifiers: normal, of variance 2 / inputs of a unit; biases 0.

    That is equation 10 of He et al. 2015, arXiv 1502.01852; of the last linear layer, which nothing rectifies, the variance is 1 / inputs. Inputs of
    a unit are what one of its sums runs over, so that depthwise and grouped convolutions keep the variance too.

    >>> net = he_initialised(nn.Sequential(nn.Linear(5000, 100), nn.ReLU(), nn.Linear(100, 5000)))
    >>> [round(layer.weight.var().item() * layer.in_features, 1) for layer in (net[0], net[2])]
    [2.0, 1.0]
    """
    weighted = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for module in weighted:
        last = module is weighted[-1] and isinstance(module, nn.Linear)
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if last else "relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return model
