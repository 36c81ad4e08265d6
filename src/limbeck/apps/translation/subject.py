"""A trained translation model as something that is quantized, and the pairs of sentences to measure it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from limbeck.apps.log import perplexity
from limbeck.apps.progress import Progress
from limbeck.apps.quantized import Few, Predictions, Run, Subject
from limbeck.apps.translation.batches import Batches, Examples, evaluation_batches
from limbeck.apps.translation.bleu import score
from limbeck.apps.translation.data import VALID, Pairs, checksum, load_splits
from limbeck.apps.translation.prepare import examples_of
from limbeck.apps.translation.session import EXAMPLE_LENGTHS, Trained, load_trained
from limbeck.apps.translation.subwords import PAD
from limbeck.apps.translation.validate import Decoding, translations
from limbeck.apps.weights import fingerprint
from limbeck.errors import require

FEW = Few(calibration=1000, costs=200, search=500)


def subject_of(path: Path, data: str | None = None, device: torch.device | None = None) -> Subject:
    """The model of a run folder (its average) or of a checkpoint; ranges come from the pairs for validation, and ``test`` means all tests together.

    Raises ``MissingExtraError`` for what BLEU would miss at the end, and ``DataError`` for pairs that are not there.
    """
    for library in ("sacrebleu", "sacremoses"):
        require(library, "all")
    trained = load_trained(path, device)
    where, source = next(trained.model.parameters()).device, data or trained.options.data

    @cache
    def splits(split: str, sentences: int) -> Mapping[str, Pairs]:
        found = load_splits(source, *trained.languages, None if split == "test" else split)
        return {name: Pairs(pairs.source[: sentences or None], pairs.target[: sentences or None]) for name, pairs in found.items()}

    @cache
    def batches(split: str, sentences: int) -> Sequence[Run]:
        found = splits(split, sentences).values()
        together = Pairs(tuple(one for pairs in found for one in pairs.source), tuple(one for pairs in found for one in pairs.target))
        cut = evaluation_batches(examples_of(together, trained.vocabularies), trained.options.eval_batch_size, where)
        return [partial(run, cut, step) for step in range(len(cut))]

    def scores(model: nn.Module, split: str, sentences: int, progress: Progress) -> dict[str, float]:
        return bleu(trained, model, splits(split, sentences), progress)

    about = {"model": trained.options.type, "weights": fingerprint(trained.model), "pairs": checksum(splits(VALID[0], 0))}
    inputs = tuple(torch.full((2, length), 4, device=where) for length in EXAMPLE_LENGTHS)
    return Subject(
        trained.model, inputs, f"{trained.options.type} translation model", "sentences", VALID[0], batches,
        lambda means: {"loss": means[0], "perplexity": perplexity(means[0])}, about, FEW, scores=scores,
    )  # fmt: skip


def run(batches: Batches, step: int, model: nn.Module) -> Predictions:
    """One batch: all tokens of the references; padding is none."""
    batch = batches[step]
    real = batch.target_out != PAD
    return Predictions(model(batch.source, batch.target_in)[real].float(), batch.target_out[real])


def bleu(trained: Trained, model: nn.Module, splits: Mapping[str, Pairs], progress: Progress) -> dict[str, float]:
    """BLEU of each split in percent, translated as the run translated; of a single one it goes without its name."""
    options, what, found = trained.options, progress.description, {}
    how = Decoding(options.beam_size, options.length_penalty, options.eval_batch_size)  # integers are no short floats, so never by autocast
    for name, pairs in splits.items():
        progress.begin(f"{what}, BLEU of {name}", total=len(pairs), done=0)
        examples = Examples.of(trained.vocabularies.source.encode(pairs.source))
        texts = translations(model, examples, trained.vocabularies.target, how, progress)  # type: ignore[arg-type]  # a quantized Transformer
        found["bleu" if len(splits) == 1 else f"{name} BLEU"] = score(texts, pairs.target, trained.languages[1]).detokenised
    return found
