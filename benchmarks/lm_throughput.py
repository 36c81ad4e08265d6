"""How fast is the application's training step beside the textbook's? Prints tokens a second of both, their ratio and the machine's limit.

    python benchmarks/lm_throughput.py --threads 2 --data ../shared/data/wikitext-2

The textbook is the loop of the ancestor's tutorial and of PyTorch's word language model, written plainly: logits, ``nn.CrossEntropyLoss``,
``loss.item()`` in every step. Both start from the same weights, read the same words, draw the same dropout and must report the same losses,
to 1e-5 nats in every step. They take turns in blocks of steps; a figure is the median over the blocks. The limit is what the step's matrix
products alone take at the rate of a large ``torch.mm``.

The learning rate here is 1, which changes no time. At the application's 20 the first hundred steps are chaotic: a textbook that starts
from weights 1e-7 away reports losses 1e-2 away after them, and so no two orders of summation can be compared there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from limbeck.apps.lm.data import Batches
from limbeck.apps.lm.model import RNNModel, detach
from limbeck.apps.lm.options import TrainOptions
from limbeck.apps.run import autocast
from limbeck.scheduler import Scheduler
from lm_tasks import Sizes, add_size_options, text
from timing import OwnRandomness, blocks_in_turns, machine, matrix_rate, quartiles, show

APPLICATION, TEXTBOOK = "limbeck lm train", "textbook"
OPTIONS = TrainOptions(lr=1.0)
TOLERANCE = 1e-5  # nats: ten units in the last place of a loss of 10

State = tuple[Tensor, Tensor]


class TextbookModel(nn.Module):
    """The tied LSTM of PyTorch's word language model."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.drop = nn.Dropout(sizes.dropout)
        self.encoder = nn.Embedding(sizes.vocabulary, sizes.emsize)
        self.rnn = nn.LSTM(sizes.emsize, sizes.nhid, sizes.nlayers, dropout=sizes.dropout)
        self.decoder = nn.Linear(sizes.nhid, sizes.vocabulary)
        if sizes.tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, words: Tensor, hidden: State) -> tuple[Tensor, State]:
        """Words ``[time, batch]`` to logits ``[time, batch, vocabulary]``."""
        output, hidden = self.rnn(self.drop(self.encoder(words)), hidden)
        return self.decoder(self.drop(output)), hidden


def repackage_hidden(hidden: State) -> State:
    return hidden[0].detach(), hidden[1].detach()


def textbook(model: TextbookModel, batches: Batches, sizes: Sizes) -> Iterator[float]:
    """The loop of the tutorial; yields every step's loss."""
    optimizer = torch.optim.SGD(model.parameters(), OPTIONS.lr, momentum=OPTIONS.momentum, weight_decay=OPTIONS.weight_decay)
    criterion = nn.CrossEntropyLoss()
    zeros = torch.zeros(sizes.nlayers, sizes.batch, sizes.nhid)
    hidden = (zeros, zeros.clone())
    model.train()
    for words, targets in batches:
        hidden = repackage_hidden(hidden)
        output, hidden = model(words, hidden)
        loss = criterion(output.view(-1, sizes.vocabulary), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIONS.clip)
        optimizer.step()
        yield loss.item()


def application(model: RNNModel, batches: Batches, sizes: Sizes) -> Iterator[Tensor]:
    """The loop of ``limbeck/apps/lm/train.py``; yields every step's loss, which the application reads when it logs."""
    optimizer = torch.optim.SGD(model.parameters(), lr=OPTIONS.lr, momentum=OPTIONS.momentum, weight_decay=OPTIONS.weight_decay)
    scheduler = Scheduler(model, optimizer=optimizer)
    model.train()
    for _ in scheduler.epochs(1):
        hidden = model.initial_hidden(sizes.batch)
        for words, target in scheduler.steps(batches):
            with autocast(words.device, OPTIONS.amp):
                loss, hidden = model.loss(words, target, hidden)
            total = scheduler.loss(loss)
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIONS.clip)
            optimizer.step()
            hidden = detach(hidden)
            yield loss.detach()


def race(sizes: Sizes, batches: Batches, steps: int, rounds: int) -> tuple[dict[str, list[float]], float, float]:
    """Seconds of every block but the first by contender, the largest absolute difference of the losses (nats), and the last loss."""
    torch.manual_seed(OPTIONS.seed)
    model = sizes.model()
    plain = TextbookModel(sizes)
    plain.load_state_dict(model.state_dict())
    loops: dict[str, Iterator[Tensor | float]] = {
        TEXTBOOK: textbook(plain, batches, sizes),
        APPLICATION: application(model, batches, sizes),
    }
    times, losses = blocks_in_turns(loops, steps, rounds + 1, OwnRandomness(OPTIONS.seed))
    pairs = [(float(ours), float(theirs)) for ours, theirs in zip(losses[APPLICATION], losses[TEXTBOOK], strict=True)]
    return {name: taken[1:] for name, taken in times.items()}, max(abs(ours - theirs) for ours, theirs in pairs), pairs[-1][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_options(parser)
    parser.add_argument("--block", type=int, default=10, help="steps of a block")
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each, after one that warms up")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps = options.block * (options.rounds + 1)
    sizes, batches = text(options, steps)
    rate = matrix_rate()
    times, difference, last = race(sizes, batches, options.block, options.rounds)
    rate = max(rate, matrix_rate())
    limit = sizes.matrix_operations / rate
    ratios = [theirs / ours for theirs, ours in zip(times[TEXTBOOK], times[APPLICATION], strict=True)]
    low, middle, high = quartiles(ratios)

    def row(name: str, step: float) -> tuple[str, ...]:
        base = quartiles(times[TEXTBOOK])[1] / options.block
        return name, f"{1000 * step:.1f}", f"{sizes.tokens / step:,.0f}", f"{base / step:.2f}", f"{limit / step:.0%}"

    print(f"LSTM {sizes.emsize}/{sizes.nhid}, tied, vocabulary {sizes.vocabulary:,}, {sizes.batch} columns of {sizes.bptt} words a step\n")
    rows = [row(name, quartiles(taken)[1] / options.block) for name, taken in times.items()]
    show(("loop", "ms a step", "tokens/s", "x textbook", "of the limit"), [*rows, row("matrix products alone", limit)])
    print(f"\nratio by block: {middle:.2f} (quartiles {low:.2f} to {high:.2f}); matrix rate {rate / 1e9:.0f} GFLOP/s")
    print(f"largest difference of the losses over {steps} steps: {difference:.1e} nats (tolerance {TOLERANCE}); last loss {last:.3f}")
    print(machine())
    if difference > TOLERANCE:
        raise SystemExit("the losses differ by more than the tolerance: the two do not train the same model")


if __name__ == "__main__":
    main()
