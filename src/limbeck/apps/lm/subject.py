"""A trained language model as something that is quantized: its recurrent layers in parts, and windows of words to measure it on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from limbeck.apps.lm.data import Batches, batchify, load_corpus
from limbeck.apps.lm.model import Hidden, RNNModel
from limbeck.apps.lm.session import EVALUATION_BATCH, load_trained
from limbeck.apps.lm.track import measures
from limbeck.apps.quantized import Predictions, Run, Subject
from limbeck.apps.weights import fingerprint
from limbeck.errors import CheckpointError, DataError
from limbeck.quantization import modular


def subject_of(path: Path, data: str | None = None, device: torch.device | None = None) -> Subject:
    """The model of a run folder (its best) or of a checkpoint; ranges come from the validation text.

    Raises ``CheckpointError`` where the corpus has another vocabulary than the run.
    """
    model, checkpoint, options = load_trained(path, device)
    corpus = load_corpus(data or options.data)
    if corpus.words != checkpoint.state["vocabulary"]:
        raise CheckpointError(f"the corpus '{data or options.data}' has another vocabulary than the one that {path} was trained on")
    where = next(model.parameters()).device

    def batches(split: str, words: int) -> Sequence[Run]:
        if split not in ("valid", "test", "train"):
            raise DataError(f"no split named '{split}'; choose valid, test or train")
        windows = Batches(batchify(getattr(corpus, split), EVALUATION_BATCH).to(where), options.bptt)
        return runs(model, windows[: -(-words // (EVALUATION_BATCH * options.bptt))] if words else windows)

    about = {"model": options.type, "weights": fingerprint(model), "corpus": corpus.checksum}
    inputs = (torch.zeros(2, 1, dtype=torch.long, device=where), model.initial_hidden(1))
    parts = modular(model, inplace=False).eval()
    return Subject(parts, inputs, f"{options.type} language model", "words", "valid", batches, lambda means: measures(means[0]), about)


def runs(model: RNNModel, windows: Batches) -> list[Run]:
    """A run for each window, in their order; each model that runs has a state of its own, which goes from window to window."""
    states: dict[nn.Module, Hidden] = {}

    def run(index: int, model_in_parts: nn.Module) -> Predictions:
        words, target = windows[index]
        if index == 0 or model_in_parts not in states:
            states[model_in_parts] = model.initial_hidden(words.shape[1])
        logits, states[model_in_parts] = model_in_parts(words, states[model_in_parts])
        return Predictions(logits.flatten(0, 1).float(), target)

    return [partial(run, index) for index in range(len(windows))]
