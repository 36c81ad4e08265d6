"""What a translation model is trained on: pairs, subwords and batches, of a fresh run or as a checkpoint tells them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from limbeck.apps.checkpoint import Checkpoint, is_checkpoint
from limbeck.apps.run import open_checkpoint
from limbeck.apps.translation.batches import Examples, training_batches, within
from limbeck.apps.translation.cycles import Cycles
from limbeck.apps.translation.data import Corpus, Pairs, load_pairs
from limbeck.apps.translation.options import SIZE_FIELDS, TrainOptions
from limbeck.apps.translation.subwords import Subwords, Vocabularies, learn_both
from limbeck.errors import CheckpointError, LimbeckError, require

APPLICATION = "translate"


def prepared(options: TrainOptions) -> tuple[TrainOptions, Corpus, Vocabularies]:
    """What a fresh run begins with: its options with what the model of ``--pretrain_model`` says, its pairs and their subwords.

    Raises ``MissingExtraError`` for what the first validation would miss.
    """
    for library in ("sacrebleu", "sacremoses"):
        require(library, "all")
    pretrained = _pretrained(options)
    if pretrained is not None:
        options = _inherited(options, pretrained)
    corpus = load_pairs(options.data, options.source, options.target)
    if pretrained is not None:
        return options, corpus, saved_vocabularies(pretrained)
    vocabularies = learn_both(corpus.train, options.vocabulary, options.vocabulary_kind, options.separate_vocabulary)
    if options.vocabulary == TrainOptions.vocabulary:  # as many as the text has were as many as were asked for
        vocabularies = replace(vocabularies, notes=())
    return options, corpus, vocabularies


def training_examples(options: TrainOptions, corpus: Corpus, vocabularies: Vocabularies) -> tuple[Examples, list[str]]:
    """The pairs to train on as numbers, and notes on those that are left out."""
    return within(examples_of(corpus.train, vocabularies), options.max_length)


def training_cycles(options: TrainOptions, examples: Examples, device: torch.device) -> Cycles:
    """The batches to train on, in an order that seed, epoch and step decide, in groups that make one update."""
    return Cycles(training_batches(examples, options.tokens, options.seed, device), options.update_cycle)


def examples_of(pairs: Pairs, vocabularies: Vocabularies) -> Examples:
    """Pairs of sentences as numbers of subwords."""
    return Examples.of(vocabularies.source.encode(pairs.source), vocabularies.target.encode(pairs.target))


def corpus_of_run(checkpoint: Checkpoint, options: TrainOptions) -> Corpus:
    """The pairs for a run that goes on, wherever they lie now; raises ``CheckpointError`` where they are not those of the run."""
    source, target = checkpoint.state["languages"]
    corpus = load_pairs(options.data, source, target)
    if corpus.checksum != checkpoint.state.get("corpus", corpus.checksum):
        raise CheckpointError(f"the pairs of '{options.data}' are not those that the run was trained on; give the same --data")
    return corpus


def saved_vocabularies(checkpoint: Checkpoint) -> Vocabularies:
    """The subwords of a checkpoint of this application."""
    source, target = (Subwords.of(tensor) for tensor in checkpoint.state["subwords"])
    return Vocabularies(source, target)


def _pretrained(options: TrainOptions) -> Checkpoint | None:
    """The checkpoint to begin with, where it is one of this application's; a file of weights alone has no subwords."""
    path = None if options.pretrain_model is None else Path(options.pretrain_model)
    if path is not None and path.is_file() and is_checkpoint(path.parent):
        raise LimbeckError(f"--pretrain_model {path} is a part of a checkpoint, which brings its subwords too; give {path.parent}")
    return None if path is None or path.is_file() else open_checkpoint(APPLICATION, path, "best")


def _inherited(options: TrainOptions, checkpoint: Checkpoint) -> TrainOptions:
    """The options with the languages of a model to begin with, and with its sizes where none are given."""
    saved = TrainOptions.of(checkpoint.state["options"])
    source, target = checkpoint.state["languages"]
    for option, given, its in (("source", options.source, source), ("target", options.target, target)):
        if given not in (None, its):
            raise LimbeckError(
                f"--{option} {given}: {options.pretrain_model} translates from {source} to {target}; begin with another model"
            )
    own = {name: getattr(saved, name) for name in SIZE_FIELDS if getattr(options, name) is None}
    if options.hparams_set is not None:
        own = {}
    words = {name: getattr(saved, name) for name in ("vocabulary", "vocabulary_kind", "separate_vocabulary")}
    for name, its in words.items():
        if getattr(options, name) not in (getattr(TrainOptions, name), its):
            raise LimbeckError(
                f"--{name} {getattr(options, name)}: {options.pretrain_model} brings its own subwords ({name} {its}); leave it out"
            )
    return replace(options, source=source, target=target, hparams_set=options.hparams_set or saved.hparams_set, **own, **words)
