"""What ``--model SPEC`` and ``--model-arg k=v`` name: an application's model, or a function of the user's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.apps.images.models import MODELS, input_shape
from limbeck.apps.lm.model import CELLS, RNNModel
from limbeck.apps.modules import imported
from limbeck.apps.translation.hparams import SIZES
from limbeck.apps.translation.model import Transformer, build_model
from limbeck.apps.translation.subwords import UNKNOWN
from limbeck.config.load import scalar
from limbeck.config.signature import signature
from limbeck.errors import LimbeckError, did_you_mean


def language_model(
    cell: str, vocabulary: int = 33278, emsize: int = 200, nhid: int = 200, nlayers: int = 2, dropout: float = 0.2, tied: bool = False
) -> nn.Module:
    """The word language model with the application's defaults and the vocabulary of WikiText-2."""
    return RNNModel(cell, vocabulary, emsize, nhid, nlayers, dropout, tied)


def translation_model(
    name: str, vocabulary: int = 8000, target_vocabulary: int | None = None, width: int | None = None, heads: int | None = None,
    encoder_layers: int | None = None, decoder_layers: int | None = None, ffn: int | None = None, dropout: float | None = None,
    attention_dropout: float | None = None, ffn_dropout: float | None = None, share_embeddings: bool | None = None, tie_softmax: bool | None = None,
) -> nn.Module:  # fmt: skip
    """A translation model of a set of sizes, each of which may be given another value, with the application's vocabulary of both languages."""
    other = {
        "width": width, "heads": heads, "encoder_layers": encoder_layers, "decoder_layers": decoder_layers, "ffn": ffn, "dropout": dropout,
        "attention_dropout": attention_dropout, "ffn_dropout": ffn_dropout, "share_embeddings": share_embeddings, "tie_softmax": tie_softmax,
    }  # fmt: skip
    sizes = replace(SIZES[name], **{field: value for field, value in other.items() if value is not None})  # type: ignore[arg-type]  # each its own
    return build_model(sizes, vocabulary, vocabulary if target_vocabulary is None else target_vocabulary)


APPLICATIONS: dict[str, Callable[..., nn.Module]] = {
    **{f"lm:{cell}": functools.partial(language_model, cell) for cell in CELLS},
    **{f"images:{name}": builder for name, builder in MODELS.items()},
    **{f"translate:{name}": functools.partial(translation_model, name) for name in SIZES},
}
"""Models that live in Limbeck, by SPEC."""


def resolve_model(spec: str, arguments: Sequence[str] = (), device: str = "meta") -> nn.Module:
    """The model that a SPEC names; an application's own is made on the meta device, so that it costs no memory, unless another is asked for.

    >>> model = resolve_model("lm:LSTM", ["emsize=1500", "nhid=1500", "tied=true"])
    >>> sum(weight.numel() for weight in model.parameters() if weight.dim() > 1)
    85917000

    Raises ``LimbeckError`` when there is no such model or when it does not take the arguments.
    """
    given = parse_arguments(arguments)
    own = spec in APPLICATIONS
    builder = APPLICATIONS[spec] if own else _imported(spec)
    valid, problems = signature(builder, spec).check(given)
    if problems:
        raise LimbeckError("\n".join(f"{' '.join(['--model-arg', *map(str, problem.path)])}: {problem.message}" for problem in problems))
    try:
        with torch.device(device) if own else torch.device("cpu"):
            model = builder(**valid)
    except Exception as error:  # a function of the user's may raise anything
        what = str(error) if own else f"{spec.partition(':')[2]} raised {type(error).__name__}: {error}"
        raise LimbeckError(f"--model {spec}: {what}") from error
    if not isinstance(model, nn.Module):
        raise LimbeckError(f"--model {spec} gave {model!r:.60}, not a torch.nn.Module")
    return model


def example_inputs(spec: str, model: nn.Module, shapes: Sequence[str] = ()) -> tuple[Any, ...]:
    """One small batch for the model of a SPEC, or inputs of the ``shapes`` that are given, the batch in them.

    That is one image, one word with its state, or a sentence of one subword with its translation; of a user's model zeros.

    >>> [tuple(images.shape) for images in example_inputs("images:resnet20_cifar", nn.Identity())]
    [(1, 3, 32, 32)]

    Raises ``LimbeckError`` where nothing tells what the model takes.
    """
    given = tuple(map(parse_input, shapes))
    if isinstance(model, RNNModel):
        words = given[0].long() if given else torch.zeros(1, 1, dtype=torch.long)
        if len(given) > 1 or words.dim() != 2:
            raise LimbeckError(f"--input-shape of a language model is two numbers, words and sequences, as in 35,1, not {' '.join(shapes)}")
        return words, model.initial_hidden(words.shape[1])
    if isinstance(model, Transformer):
        source, *target = given or (torch.zeros(1, 1),)
        if len(given) > 2 or any(tokens.dim() != 2 for tokens in given):
            raise LimbeckError(
                f"--input-shape of a translation model is two numbers, sentences and subwords, as in 1,20, not {' '.join(shapes)}"
            )
        return tuple(torch.full_like(tokens, UNKNOWN, dtype=torch.long) for tokens in (source, target[0] if target else source))
    name = spec.removeprefix("images:")
    if not given and (spec == name or name not in MODELS):
        raise LimbeckError(f"nothing tells what {spec} takes; give the shape, the batch in it, as in --input-shape 1,3,224,224")
    return given or (torch.zeros(1, *input_shape(name)),)


def parse_input(text: str) -> Tensor:
    """Zeros of a shape, and of a type of torch's where one is given: whole numbers for a model that looks up embeddings.

    >>> parse_input("1,3,224,224").shape, parse_input("1,16:int64").dtype
    (torch.Size([1, 3, 224, 224]), torch.int64)

    Raises ``LimbeckError`` for anything else.
    """
    numbers, colon, name = text.partition(":")
    sizes = [size.strip() for size in numbers.split(",")]
    kind = getattr(torch, name.strip(), None) if colon else torch.float32
    if not all(size.isdecimal() and int(size) > 0 for size in sizes) or not isinstance(kind, torch.dtype):
        raise LimbeckError(f"--input-shape takes positive numbers with commas, as in 1,3,224,224, or 1,16:int64 with a type, not '{text}'")
    return torch.zeros(*map(int, sizes), dtype=kind)


def parse_arguments(arguments: Sequence[str]) -> dict[str, object]:
    """``k=v`` options as values.

    >>> parse_arguments(["emsize=1500", "tied=true", "dropout=1e-1"])
    {'emsize': 1500, 'tied': True, 'dropout': 0.1}

    Raises ``LimbeckError`` for one without '='.
    """
    found: dict[str, object] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise LimbeckError(f"--model-arg takes name=value, not '{argument}'")
        found[name] = scalar(value)
    return found


def _imported(spec: str) -> Callable[..., nn.Module]:
    """The function that ``package.module:function`` names."""
    module, colon, _ = spec.partition(":")
    if not colon or module in {name.partition(":")[0] for name in APPLICATIONS}:
        own = [name for name in APPLICATIONS if name.startswith(f"{module}:")] if colon else []
        known = ", ".join(own or [name for name in APPLICATIONS if name.startswith("lm:")])
        kinds = known if own else f"{known}, an image model as in images:resnet50, a translation model as in translate:transformer_base"
        remedy = did_you_mean(spec, APPLICATIONS) or f"; give one of {kinds}, or package.module:function"
        raise LimbeckError(f"no model is named '{spec}'{remedy}")
    return imported(spec)
