"""What kinds of layers a model has, as a quantizer sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from torch import nn

from limbeck.names import canonical
from limbeck.quantization.eltwise import BatchMatmul, Chunk, Concat, EltwiseAdd, EltwiseMult, EltwiseSub, Matmul, Split, Stack
from limbeck.quantization.recurrent import ModularRecurrent


class Kind(StrEnum):
    """How the numbers of a layer come about."""

    WEIGHTED = "weighted"
    """Sums of products with weights: ``Linear`` and convolutions."""
    EMBEDDING = "embedding"
    ADD = "add"
    """``EltwiseAdd`` and ``EltwiseSub``."""
    MULT = "mult"
    CONCAT = "concat"
    """``Concat`` and ``Stack``."""
    MATMUL = "matmul"
    MOVED = "moved"
    """Numbers only change places, or are the largest of several: what was an integer is one."""
    OPAQUE = "opaque"
    """Torch reads its weights and computes inside, where no quantizer sees it."""
    OTHER = "other"


KINDS: Mapping[type[nn.Module], Kind] = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), Kind.WEIGHTED),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), Kind.WEIGHTED),
    nn.Embedding: Kind.EMBEDDING,
    EltwiseAdd: Kind.ADD,
    EltwiseSub: Kind.ADD,
    EltwiseMult: Kind.MULT,
    Concat: Kind.CONCAT,
    Stack: Kind.CONCAT,
    Matmul: Kind.MATMUL,
    BatchMatmul: Kind.MATMUL,
    **dict.fromkeys((Chunk, Split, nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle), Kind.MOVED),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout), Kind.MOVED),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), Kind.MOVED),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), Kind.MOVED),
    **dict.fromkeys((nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention), Kind.OPAQUE),
}
"""By class; a subclass with a forward pass of its own is ``OTHER``."""

JOINS = frozenset({Kind.ADD, Kind.MULT, Kind.CONCAT, Kind.MATMUL})
"""Kinds that compute with the integers of several inputs."""
INTEGER = JOINS | {Kind.WEIGHTED}
"""Kinds that compute with integers, and need their inputs to be some."""


def kind_of(module: nn.Module) -> Kind:
    """The kind of a module.

    >>> kind_of(nn.Conv2d(3, 4, 1)), kind_of(nn.Sigmoid()), kind_of(nn.LSTM(3, 4))
    (<Kind.WEIGHTED: 'weighted'>, <Kind.OTHER: 'other'>, <Kind.OPAQUE: 'opaque'>)
    """
    for base, kind in KINDS.items():
        if isinstance(module, base):
            own = type(module).forward is not base.forward and kind is not Kind.OPAQUE
            rescales = isinstance(module, nn.Embedding) and module.max_norm is not None
            return Kind.OTHER if own or rescales else kind
    return Kind.OTHER


@dataclass(frozen=True)
class Leaf:
    """A layer of a model: a module without children, or one that is opaque, with every place in which it stands."""

    name: str
    """Canonical, of its first place."""
    module: nn.Module
    kind: Kind
    places: tuple[str, ...]
    """Its names in the model, as ``get_submodule`` takes them."""


def leaves(model: nn.Module) -> dict[str, Leaf]:
    """The layers of a model by canonical name, in its own order; what is inside of an opaque one is not listed.

    >>> list(leaves(nn.ModuleDict({"rnn": nn.LSTM(3, 4), "head": nn.Sequential(nn.Linear(4, 2), nn.ReLU())})))
    ['rnn', 'head.0', 'head.1']
    """
    places: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    hidden: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if any(name.startswith(prefix) for prefix in hidden):
            continue
        if isinstance(module, tuple(KINDS)):
            hidden.append(f"{name}.")  # of what torch computes inside, and of parametrizations
        elif next(module.children(), None) is not None or isinstance(module, ModularRecurrent | nn.ModuleList | nn.ModuleDict):
            continue
        places.setdefault(id(module), []).append(name)
        modules[id(module)] = module
    return {
        canonical(names[0]): Leaf(canonical(names[0]), modules[key], kind_of(modules[key]), tuple(names)) for key, names in places.items()
    }
