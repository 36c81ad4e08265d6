"""NeurST's pruning options for a translation model: which parameters they prune and why, the policies, and the report of what became of them.

Patterns are searched in two names of each parameter, its own and NeurST's: ``(ln/gamma)|(ln/beta)|(modalit)`` and ``norm|embedding`` find the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from limbeck.apps.translation.model import neurst_name
from limbeck.config.count import Counter
from limbeck.errors import TargetError
from limbeck.events import Action
from limbeck.names import Named, closest, named_parameters
from limbeck.pruning import Prune
from limbeck.pruning.translated import NeurST, Step
from limbeck.scheduler import Scheduler
from limbeck.schedules import Clock, Window
from limbeck.stats import nonzero_groups
from limbeck.summaries.render import Column, Table, thousands, tied_notes

EMBEDDING, NORM, BIAS, FEED_FORWARD, ATTENTION = "embedding", "norm", "bias", "feed-forward", "attention"
KINDS = ((r"modalit", EMBEDDING), (r"ln/(gamma|beta)$", NORM), (r"/bias$", BIAS), (r"/ffn/", FEED_FORWARD), (r"", ATTENTION))
"""What a parameter is, by the first pattern that its NeurST name has; the softmax layer is an embedding, whose weight it mostly is."""
PATTERNS = ("pruning_variable_pattern", "nopruning_variable_pattern")


class Choice(NamedTuple):
    """Whether a parameter is pruned, and why, or why not."""

    pruned: bool
    why: str


def kind(name: str) -> str:
    """What a parameter of ``Transformer`` is.

    >>> [kind(name) for name in ("encoder.layers.0.ffn.conv1.weight", "decoder.norm.bias", "softmax.weight")]
    ['feed-forward', 'norm', 'embedding']
    """
    return next(found for pattern, found in KINDS if re.search(pattern, neurst_name(name)))


def choices(options: NeurST, model: nn.Module, prune_embeddings: bool = False) -> dict[str, Choice]:
    """Of every parameter, by its first name, whether the options prune it.

    Without a pattern those are the matrices of attention and feed-forward, and with ``prune_embeddings`` the embeddings (and the softmax layer). With
    ``pruning_variable_pattern`` they are what it finds, else all but what ``nopruning_variable_pattern`` finds, embeddings too. Biases and norms
    are only pruned with ``prune_vectors``, whatever a pattern finds. A tied parameter is found under any of its names.

    >>> from limbeck.apps.translation.hparams import Sizes
    >>> from limbeck.apps.translation.model import Transformer
    >>> model = Transformer(Sizes(width=4, heads=1, encoder_layers=1, decoder_layers=1, ffn=4), 9, 9)
    >>> found = choices(NeurST(pruning_variable_pattern="qkv_transform"), model)
    >>> [name for name, choice in found.items() if choice.pruned]
    ['encoder.layers.0.self_attention.qkv.weight', 'decoder.layers.0.self_attention.qkv.weight']
    >>> found["encoder.layers.0.self_attention.qkv.bias"]
    Choice(pruned=False, why='bias; prune_vectors prunes it')

    Raises ``TargetError`` for a pattern that finds nothing, with the closest name, for options that prune nothing, and for ``prune_embeddings`` beside
    a pattern.
    """
    parameters = named_parameters(model)
    given = next((name for name in PATTERNS if getattr(options, name) is not None), None)
    if given is None:
        return {name: _by_kind(options, named, prune_embeddings) for name, named in parameters.items()}
    pattern = str(getattr(options, given))
    if prune_embeddings:
        raise TargetError(f"prune_embeddings goes without a pattern: {given} '{pattern}' says itself whether embeddings are pruned")
    found = _found(given, pattern, parameters)
    chosen = {name: _by_pattern(options, given, named, name in found) for name, named in parameters.items()}
    if not any(choice.pruned for choice in chosen.values()):
        only = "finds" if given == PATTERNS[0] else "leaves"
        rest = "only biases and norms, which prune_vectors prunes" if len(found) < len(parameters) else "nothing to be pruned"
        raise TargetError(f"{given} '{pattern}' {only} {rest}; see limbeck summary for the names")
    return chosen


def _by_kind(options: NeurST, named: Named, prune_embeddings: bool) -> Choice:
    what = kind(named.name)
    if named.parameter.dim() < 2:
        return Choice(True, f"{what}, by prune_vectors") if options.prune_vectors else _vector(named)
    if what == EMBEDDING:
        return Choice(prune_embeddings, f"{what}, by prune_embeddings" if prune_embeddings else f"{what}; prune_embeddings prunes it")
    return Choice(True, what)


def _by_pattern(options: NeurST, given: str, named: Named, found: bool) -> Choice:
    what = kind(named.name)
    if given == PATTERNS[0] and not found:
        return Choice(False, f"{what}; {given} does not find it")
    if given == PATTERNS[1] and found:
        return Choice(False, f"{what}; {given} finds it")
    if named.parameter.dim() < 2 and not options.prune_vectors:
        return _vector(named)
    return Choice(True, f"{what}; {given} {'finds' if found else 'does not find'} it")


def _vector(named: Named) -> Choice:
    return Choice(False, f"{kind(named.name)}; prune_vectors prunes it")


def _found(option: str, pattern: str, parameters: Mapping[str, Named]) -> set[str]:
    """The parameters in one of whose names the pattern is found; raises ``TargetError`` where there is none."""
    found = {name for name, named in parameters.items() if any(re.search(pattern, each) for each in _names(named))}
    if not found:
        names = [each for named in parameters.values() for each in _names(named)]
        examples = f"; names are such as '{names[-1]}' and '{names[-2]}'" if len(names) > 1 else ""
        raise TargetError(f"{option} '{pattern}' finds no parameter{closest(pattern, names) or examples}")
    return found


def _names(named: Named) -> list[str]:
    """All names of a parameter, each followed by NeurST's."""
    return [spelling for name in (named.name, *named.aliases) for spelling in (name, neurst_name(name))]


def kept_back(options: NeurST, model: nn.Module, prune_embeddings: bool = False) -> list[str]:
    """Why the matrices that the options do not prune are not, in a line for each reason. Raises as ``choices`` does.

    >>> from limbeck.apps.translation.hparams import Sizes
    >>> from limbeck.apps.translation.model import Transformer
    >>> kept_back(NeurST(), Transformer(Sizes(width=4, heads=1, encoder_layers=1, decoder_layers=1, ffn=4), 9, 9))
    ['not pruned: source_embedding.weight: embedding; prune_embeddings prunes it']
    """
    parameters, found = named_parameters(model), dict[str, list[str]]()
    for name, choice in choices(options, model, prune_embeddings).items():
        if not choice.pruned and parameters[name].parameter.dim() > 1:
            found.setdefault(choice.why, []).append(name)
    return [f"not pruned: {', '.join(names)}: {why}" for why, names in found.items()]


def steps(options: NeurST, model: nn.Module, prune_embeddings: bool = False) -> list[Step]:
    """The options as policies that name the parameters; none where they prune nothing. Raises as ``choices`` does.

    ``limbeck.config.write.schedule_text`` makes a schedule file of them.
    """
    if not options.target_sparsity:
        return []
    return options.steps([name for name, choice in choices(options, model, prune_embeddings).items() if choice.pruned])


def policies(options: NeurST, model: nn.Module, prune_embeddings: bool = False) -> list[tuple[Window, Action]]:
    """What a scheduler runs for these options; nothing where they prune nothing. Raises as ``choices`` does."""
    return [step.policy() for step in steps(options, model, prune_embeddings)]


@dataclass(frozen=True)
class PruningRow:
    """What became of one parameter, or of all of two dimensions or more."""

    name: str
    aliases: tuple[str, ...]
    neurst: str
    shape: tuple[int, ...] | None
    pruned: bool | None
    why: str
    target: float | None
    """The sparsity after the last renewal of its mask; None where it is not pruned, and where that depends on data."""
    sparsity: float
    """The fraction of zeros now."""
    weights: int
    nonzeros: int


COLUMNS = (
    Column("Name", "name", fold=True),
    Column("NeurST name", "neurst", fold=True),
    Column("Shape", "shape", lambda shape: "x".join(map(str, shape))),
    Column("Pruned", "pruned", lambda pruned: "yes" if pruned else "no"),
    Column("Why", "why", fold=True),
    Column("Target (%)", "target", lambda share: f"{share:.2f}", scale=100),
    Column("Sparsity (%)", "sparsity", lambda share: f"{share:.2f}", scale=100),
    Column("Weights", "weights", thousands),
    Column("Non-zero", "nonzeros", thousands),
)


def report(model: nn.Module, scheduler: Scheduler, chosen: Mapping[str, Choice] | None = None) -> list[PruningRow]:
    """A row a parameter: whether it is pruned and why, what sparsity it is to reach, and what is zero now.

    ``chosen`` is what ``choices`` said of the options; without it the policies of a schedule file say it.
    """
    targets = _targets(scheduler)
    return [_row(named, targets, (chosen or {}).get(name)) for name, named in named_parameters(model).items()]


def pruning_table(rows: Sequence[PruningRow]) -> Table:
    """The rows with the total of those of two dimensions or more; ``limbeck.summaries.render`` draws it and writes it."""
    matrices = [row for row in rows if row.shape is not None and len(row.shape) > 1]
    count, nonzeros = (sum(numbers) for numbers in zip(*((row.weights, row.nonzeros) for row in matrices), strict=True))
    total = PruningRow("Total of matrices", (), "", None, None, "", None, 1 - nonzeros / count, count, nonzeros)
    return Table("Pruning", COLUMNS, tuple(rows), total=total, notes=(*tied_notes(rows), *_notes(rows)))


def _notes(rows: Sequence[PruningRow]) -> Iterator[str]:
    pruned = [row for row in rows if row.pruned]
    count, zeros = sum(row.weights for row in pruned), sum(row.weights - row.nonzeros for row in pruned)
    share = f", of which {zeros:,} are zero ({zeros / count:.2%})" if count else ""
    yield f"Pruned: {len(pruned)} of {len(rows)} parameters, {count:,} weights{share}"


def _row(named: Named, targets: Mapping[str, float | None], choice: Choice | None) -> PruningRow:
    pruned, tensor = named.name in targets, named.parameter.detach()
    if choice is None or choice.pruned != pruned:
        choice = Choice(pruned, f"{kind(named.name)}; {'a policy prunes it' if pruned else 'no policy prunes it'}")
    count, nonzeros = tensor.numel(), nonzero_groups(tensor)
    zeros = (count - nonzeros) / count if count else 0.0
    shape, target = tuple(tensor.shape), targets.get(named.name)
    return PruningRow(named.name, named.aliases, neurst_name(named.name), shape, pruned, choice.why, target, zeros, count, nonzeros)


def target_of(scheduler: Scheduler) -> float | None:
    """The sparsity that all pruned parameters together are to reach; 0 where none is pruned, None where it depends on data."""
    targets, parameters = _targets(scheduler), scheduler.state.parameters
    sizes = {name: parameters[name].parameter.numel() for name in targets}
    known = [target * sizes[name] for name, target in targets.items() if target is not None]
    return None if len(known) < len(targets) else sum(known) / max(sum(sizes.values()), 1)


def _targets(scheduler: Scheduler) -> dict[str, float | None]:
    """What every pruned parameter is to reach: the last renewal of the last policy that knows."""
    found: dict[str, float | None] = {}
    parameters = scheduler.state.parameters
    for window, action in scheduler.schedule:
        if isinstance(action, Prune):
            shapes = {name: tuple(parameters[name].parameter.shape) for name in action.pruner.targets}
            last = window.begin if window.last is None else window.last
            moment = window.at(Clock(epoch=last, step=last))
            assert moment is not None
            dropped = Counter(action.pruner, shapes).dropped(moment).each
            sizes = {name: parameters[name].parameter.numel() for name in shapes}
            shares = {name: count / sizes[name] for name, count in dropped.items() if count is not None and sizes[name]}
            found = {**dict.fromkeys(shapes), **found, **shares}
    return found
