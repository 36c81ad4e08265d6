"""A classifier from its name, its forward pass, and what comes out of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.apps.images.models import MODELS, input_shape
from limbeck.apps.modules import imported
from limbeck.errors import DataError, LimbeckError, did_you_mean

Shape = tuple[int, int, int]
Logits = tuple[Tensor, ...]
"""``[batch, classes]`` of every exit, the network's own last; most networks have that one alone."""


def build_network(name: str, classes: int) -> nn.Module:
    """A fresh classifier: one of ``MODELS`` by its short name, or what ``package.module:function`` returns.

    The function is given ``num_classes=`` if it takes that.

    >>> sum(weight.numel() for weight in build_network("resnet20_cifar", 10).parameters() if weight.dim() > 1)
    270896

    Raises ``LimbeckError`` for a name that means nothing, and where the function fails or returns something else.
    """
    if name in MODELS:
        return MODELS[name](num_classes=classes)
    if ":" not in name:
        remedy = did_you_mean(name, MODELS) or "; limbeck images train --help names them; or give package.module:function"
        raise LimbeckError(f"no model is named '{name}'{remedy}")
    builder = imported(name)
    try:
        model = builder(num_classes=classes) if _takes_classes(builder) else builder()
    except Exception as error:  # a function of the user's may raise anything
        raise LimbeckError(f"--model {name}: {name.partition(':')[2]} raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise LimbeckError(f"--model {name} gave {model!r:.60}, not a torch.nn.Module")
    return model


def _takes_classes(builder: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):  # some callables have no signature
        return False
    return any(parameter.name == "num_classes" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def wanted_shape(name: str) -> Shape | None:
    """Channels, height and width that a model of ``MODELS`` is made for; None for any other, which takes the images as they are."""
    return input_shape(name) if name in MODELS else None


def example(shape: Shape, device: torch.device | str = "cpu", channels_last: bool = False, count: int = 2) -> tuple[Tensor]:
    """Some images of zeros: what the network's graph is captured with. Two, because batch norms in training cannot do with one."""
    images = torch.zeros(count, *shape, device=device)
    return (images.contiguous(memory_format=torch.channels_last) if channels_last else images,)


def logits_of(output: object) -> Logits:
    """What a network returned, as the logits of its exits.

    >>> len(logits_of(torch.zeros(2, 10))), len(logits_of((torch.zeros(2, 10), torch.zeros(2, 10))))
    (1, 2)

    Raises ``DataError`` for anything else.
    """
    output = getattr(output, "logits", output)
    found = output if isinstance(output, tuple | list) else (output,)
    if not found or not all(isinstance(logits, Tensor) and logits.dim() == 2 for logits in found):
        kinds = ", ".join(str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in found)
        raise DataError(
            f"the model returned {kinds or 'nothing'}; a classifier returns logits [batch, classes], or a tuple of them: "
            "one for each exit, the network's own last"
        )
    return tuple(found)


def refuse_misfit(name: str, model: nn.Module, images: Tensor, classes: int) -> None:
    """Raise ``LimbeckError`` where a model cannot take images ``[batch, channels, height, width]``, or has fewer outputs than there are classes."""
    modes = [(module, module.training) for module in model.modules()]
    shape = " x ".join(map(str, images.shape[1:]))
    try:
        with torch.no_grad():
            logits = logits_of(model.eval()(images))
    except DataError:
        raise
    except Exception as error:  # the code of a model may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LimbeckError(
            f"--model {name} cannot take images of {shape} (channels, height, width): {reason}; choose a model for such images, or other --data"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    if least := [part.shape[1] for part in logits if part.shape[1] < classes]:
        raise LimbeckError(f"--model {name} tells {least[0]} classes apart, and the images are of {classes}; give it as many outputs")


def loss_of(logits: Logits, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy in nats, the mean over images and over exits."""
    losses = [F.cross_entropy(exit_, labels, label_smoothing=smoothing) for exit_ in logits]
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images have their label at the top, and among the five highest: two counts, on the device.

    >>> hits(torch.tensor([[0.1, 0.9, 0.3], [0.1, 0.9, 0.3]]), torch.tensor([1, 2])).tolist()
    [1, 2]
    """
    top = logits.topk(min(5, logits.shape[1]), 1).indices == labels[:, None]
    return torch.stack([top[:, 0].sum(), top.sum()])


class Forward:
    """The network's forward pass, compiled on request; compiled anew where the network has become a smaller one.

    Parameters are the same objects before and after a thinning, but code that was compiled holds their old sizes. A shape of images is compiled
    on its own, so that the last, smaller batch of an epoch does not slow the others.
    """

    def __init__(self, model: nn.Module, thinnings: Callable[[], int], compiled: bool) -> None:
        self._model, self._thinnings, self._compiled = model, thinnings, compiled
        self._at = -1
        self._call: Callable[[Tensor], Any] = model

    def __call__(self, images: Tensor) -> Logits:
        """Images ``[batch, channels, height, width]`` to the logits of every exit."""
        if self._compiled and self._at != self._thinnings():
            if self._at >= 0:
                torch.compiler.reset()
            self._at = self._thinnings()
            self._call = torch.compile(self._model, dynamic=False)
        return logits_of(self._call(images))
