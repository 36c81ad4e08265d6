"""Text from a trained language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from limbeck.apps.lm.model import RNNModel

WORDS_A_LINE = 20


@torch.no_grad()
def generate_words(
    model: RNNModel, vocabulary: Sequence[str], words: int, temperature: float, seed: int, report: Callable[[int], None] | None = None
) -> str:
    """``words`` words drawn one by one from ``softmax(logits / temperature)``, 20 to a line; ``<eos>`` ends a line too.

    The first word is drawn evenly from the vocabulary. ``report`` is told how many words there are.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    hidden = model.initial_hidden(1)
    word = torch.randint(len(vocabulary), (1, 1), generator=generator)
    line: list[str] = []
    lines: list[str] = []
    for done in range(1, words + 1):
        logits, hidden = model(word.to(device), hidden)
        chances = logits.flatten().float().cpu().div(temperature).softmax(0)
        word = torch.multinomial(chances, 1, generator=generator)[None]
        text = vocabulary[int(word)]
        if text != "<eos>":
            line.append(text)
        if len(line) == WORDS_A_LINE or text == "<eos>":
            lines.append(" ".join(line))
            line = []
        if report is not None:
            report(done)
    return "\n".join([*lines, " ".join(line)]).rstrip("\n") + "\n"
