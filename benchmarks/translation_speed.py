"""How fast is the translation application's training step beside a plain loop on ``nn.Transformer``? And what does pruning add to it?

    python benchmarks/translation_speed.py --threads 2 --data ../shared/data/multi30k
    python benchmarks/translation_speed.py --threads 2 --sizes transformer_small --overhead-rounds 0

The plain loop is what one would write without a library: ``nn.Transformer`` with the same sizes, norms first and the same dropouts, one embedding for both
languages and the softmax layer, torch's cross entropy over all positions with padding ignored, fused Adam. Both read the same batches and begin
with the same weights; without dropout both must report the same loss, to 1e-4 nats. They take turns in blocks of steps; a figure is the median
over the blocks. Tokens are the target's, without padding. The limit is what the matrix products of tokens that are no padding take at the rate
of a large ``torch.mm``.

The second table is ``scheduler_overhead.py``'s for this model: all weights under automated gradual pruning, masks applied after every step, and
renewed once or every 100 steps (budget: 1 %). Without --data the sentences are random, in the lengths of Multi30k.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, count, islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.apps.fused_loss import Scratch
from limbeck.apps.translation.batches import Batch, Batches, Examples, training_batches
from limbeck.apps.translation.data import load_pairs
from limbeck.apps.translation.hparams import SIZES, Sizes
from limbeck.apps.translation.loss import translation_loss
from limbeck.apps.translation.model import DecoderLayer, EncoderLayer, Transformer, build_model, sinusoids
from limbeck.apps.translation.subwords import EOS, PAD, learn_both
from limbeck.scheduler import Scheduler
from scheduler_overhead import EVERY, Task, measure
from timing import OwnRandomness, blocks_in_turns, machine, matrix_rate, quartiles, show

APPLICATION, PLAIN = "limbeck translate train", "plain loop on nn.Transformer"
SMOOTHING = 0.1
TOLERANCE = 1e-4  # nats
adam = partial(torch.optim.Adam, lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)


def batches_of(data: str | None, tokens: int, vocabulary: int) -> tuple[Batches, int]:
    """Batches for training, and the size of their vocabulary."""
    if data is not None:
        pairs = load_pairs(data).train
        subwords = learn_both(pairs, vocabulary).source
        examples = Examples.of(subwords.encode(pairs.source), subwords.encode(pairs.target))
        return training_batches(examples, tokens, seed=1), subwords.size
    lengths = torch.randn(2, 20_000).mul_(4).add_(14).round_().clamp_(3, 40).long()
    sides = [[torch.randint(EOS + 1, vocabulary, (size,)).tolist() for size in side] for side in lengths.tolist()]
    return training_batches(Examples.of(*sides), tokens, seed=1), vocabulary


class PlainModel(nn.Module):
    """``nn.Transformer`` between an embedding and the same matrix again."""

    def __init__(self, ours: Transformer) -> None:
        super().__init__()
        sizes = ours.sizes
        shape = (sizes.width, sizes.heads, sizes.ffn, sizes.dropout)
        encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(*shape, norm_first=True, batch_first=True),
            sizes.encoder_layers,
            nn.LayerNorm(sizes.width),
            enable_nested_tensor=False,
        )
        decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(*shape, norm_first=True, batch_first=True), sizes.decoder_layers, nn.LayerNorm(sizes.width)
        )
        self.embedding = nn.Embedding(ours.source_embedding.num_embeddings, sizes.width)
        self.drop = nn.Dropout(sizes.dropout)
        self.transformer = nn.Transformer(
            sizes.width, sizes.heads, custom_encoder=encoder, custom_decoder=decoder, norm_first=True, batch_first=True
        )
        self.register_buffer("positions", sinusoids(512, sizes.width))
        with torch.no_grad():
            self._take(ours)

    def _take(self, ours: Transformer) -> None:
        """The other model's weights, and its dropouts, of which ``nn.Transformer`` has one for all."""
        self.embedding.load_state_dict(ours.source_embedding.state_dict())
        pairs = ((self.transformer.encoder, ours.encoder), (self.transformer.decoder, ours.decoder))
        for theirs, stack in pairs:
            theirs.norm.load_state_dict(stack.norm.state_dict())
            for layer, own in zip(theirs.layers, stack.layers, strict=True):
                assert isinstance(layer, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
                assert isinstance(own, EncoderLayer | DecoderLayer)
                layer.dropout.p = ours.sizes.ffn_dropout
                parts = [(layer.self_attn, own.self_attention, [own.self_attention.qkv])]
                norms = [own.self_attention_norm, own.ffn_norm]
                if isinstance(layer, nn.TransformerDecoderLayer) and isinstance(own, DecoderLayer):
                    crossed = own.cross_attention
                    parts.append((layer.multihead_attn, crossed, [crossed.q, crossed.kv]))
                    norms.insert(1, own.cross_attention_norm)
                for theirs_attention, attention, packed in parts:
                    theirs_attention.dropout = ours.sizes.attention_dropout
                    theirs_attention.in_proj_weight.copy_(torch.cat([part.weight for part in packed]))
                    theirs_attention.in_proj_bias.copy_(torch.cat([part.bias for part in packed]))
                    theirs_attention.out_proj.load_state_dict(attention.output.state_dict())
                for number, norm in enumerate(norms, 1):
                    getattr(layer, f"norm{number}").load_state_dict(norm.state_dict())
                layer.linear1.load_state_dict(own.ffn.conv1.state_dict())
                layer.linear2.load_state_dict(own.ffn.conv2.state_dict())

    def embed(self, tokens: Tensor) -> Tensor:
        """``[batch, tokens]`` to ``[batch, tokens, width]``."""
        positions: Tensor = self.positions  # type: ignore[assignment]  # a buffer
        embedded: Tensor = self.drop(self.embedding(tokens) * self.embedding.embedding_dim**0.5 + positions[: tokens.shape[1]])
        return embedded

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Logits ``[batch, target, vocabulary]``."""
        later = nn.Transformer.generate_square_subsequent_mask(target_in.shape[1]).isinf()
        padding = source == PAD
        hidden = self.transformer(
            self.embed(source), self.embed(target_in), tgt_mask=later, tgt_is_causal=True,
            src_key_padding_mask=padding, memory_key_padding_mask=padding,
        )  # fmt: skip
        return F.linear(hidden, self.embedding.weight)


def plain_loss(model: PlainModel, batch: Batch, vocabulary: int) -> Tensor:
    """The mean over tokens; torch's smoothing spreads over the target too, which the factor makes up for."""
    logits = model(batch.source, batch.target_in)
    return F.cross_entropy(
        logits.flatten(0, 1), batch.target_out.flatten(), ignore_index=PAD, label_smoothing=SMOOTHING * vocabulary / (vocabulary - 1)
    )


def plain(model: PlainModel, batches: Batches, vocabulary: int) -> Iterator[float]:
    """The loop without Limbeck; yields every step's loss."""
    optimizer = adam(model.parameters())
    model.train()
    for epoch in count():
        for batch in batches.epoch(epoch):
            loss = plain_loss(model, batch, vocabulary)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimizer.step()
            yield loss.item()


def mean_loss(model: Transformer) -> Callable[[Batch], Tensor]:
    """The application's loss of a batch, the mean over tokens."""
    scratch = Scratch()

    def loss(batch: Batch) -> Tensor:
        losses = translation_loss(model, batch, SMOOTHING, scratch)
        return losses.total / losses.tokens

    return loss


def application(model: Transformer, batches: Batches) -> Iterator[Tensor]:
    """The loop of ``limbeck/apps/translation/train.py``; yields every step's loss, which the application reads when it logs."""
    optimizer = adam(model.parameters())
    scheduler = Scheduler(model, optimizer=optimizer)
    loss_of = mean_loss(model)
    model.train()
    for epoch in scheduler.epochs(1_000_000):
        for batch in scheduler.steps(batches.epoch(epoch)):
            loss = loss_of(batch)
            total = scheduler.loss(loss)
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimizer.step()
            yield loss.detach()


def race(sizes: Sizes, batches: Batches, vocabulary: int, block: int, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of every block but the first by contender, and how far (nats) the losses of the first batch lie apart without dropout."""
    torch.manual_seed(0)
    ours = build_model(sizes, vocabulary, vocabulary)
    theirs = PlainModel(ours)
    still = build_model(replace(sizes, dropout=0.0, attention_dropout=0.0, ffn_dropout=0.0), vocabulary, vocabulary)
    still.load_state_dict(ours.state_dict())
    with torch.no_grad():
        difference = abs(float(mean_loss(still)(batches[0])) - float(plain_loss(PlainModel(still), batches[0], vocabulary)))
    loops: dict[str, Iterator[float | Tensor]] = {PLAIN: plain(theirs, batches, vocabulary), APPLICATION: application(ours, batches)}
    times, _ = blocks_in_turns(loops, block, rounds + 1, OwnRandomness(0))
    return {name: taken[1:] for name, taken in times.items()}, difference


def tokens_of(batch: Batch) -> tuple[int, int]:
    """Of source and target, without padding."""
    return int((batch.source != PAD).sum()), int((batch.target_out != PAD).sum())


def operations(sizes: Sizes, vocabulary: int, source: int, target: int) -> int:
    """Multiplications and additions of the matrix products with weights: forward, and twice as many backward."""
    d, f = sizes.width, sizes.ffn
    encoder = sizes.encoder_layers * (4 * d * d + 2 * d * f)
    decoder = sizes.decoder_layers * (6 * d * d + 2 * d * f) + d * vocabulary
    return 3 * 2 * (source * (encoder + sizes.decoder_layers * 2 * d * d) + target * decoder)


def overhead(sizes: Sizes, batches: Batches, vocabulary: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """The rows of ``scheduler_overhead.py``."""
    steps = list(islice(chain.from_iterable(batches.epoch(epoch) for epoch in count()), EVERY * (rounds + 1)))

    def make() -> Task:
        model = build_model(sizes, vocabulary, vocabulary)
        return Task(model, steps, mean_loss(model), adam)

    return measure(make, rounds)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sizes", default="transformer_tiny", choices=sorted(SIZES), metavar="NAME")
    parser.add_argument("--tokens", type=int, default=4096, help="of a batch, padding counted")
    parser.add_argument("--vocabulary", type=int, default=10_000)
    parser.add_argument("--data", help="folder of Multi30k; random sentences without it")
    parser.add_argument("--block", type=int, default=4, help="steps of a block")
    parser.add_argument("--rounds", type=int, default=10, help="blocks of each, after one that warms up")
    parser.add_argument("--overhead-rounds", type=int, default=2, help=f"rounds of {EVERY} steps of each loop; 0: no second table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = SIZES[options.sizes]
    batches, vocabulary = batches_of(options.data, options.tokens, options.vocabulary)
    rate = matrix_rate()
    times, difference = race(sizes, batches, vocabulary, options.block, options.rounds)
    rate = max(rate, matrix_rate())
    read = list(islice(chain.from_iterable(batches.epoch(epoch) for epoch in count()), options.block * (options.rounds + 1)))[
        options.block :
    ]
    source, target = map(sum, zip(*map(tokens_of, read), strict=True))
    limit = operations(sizes, vocabulary, source, target) / rate

    def row(name: str, taken: list[float]) -> tuple[str, ...]:
        low, middle, high = quartiles([theirs / ours for theirs, ours in zip(times[PLAIN], taken, strict=True)])
        total = sum(taken)
        ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        return name, f"{1000 * total / len(read):.0f}", f"{target / total:,.0f}", ratio, f"{limit / total:.0%}"

    print(f"{options.sizes}, vocabulary {vocabulary:,}, batches of {options.tokens:,}, {target / len(read):,.0f} of them target tokens\n")
    rows = [row(name, taken) for name, taken in times.items()]
    show(("loop", "ms a step", "tokens/s", "x plain, by block", "of the limit"), rows)
    print(f"\nmatrix rate {rate / 1e9:.0f} GFLOP/s; losses without dropout differ by {difference:.1e} nats (tolerance {TOLERANCE})")
    if options.overhead_rounds:
        print(f"\nOverhead of pruning; medians of {options.overhead_rounds} rounds (with quartiles)\n")
        header = ("loop", "ms a step", "beside the plain loop", "in the scheduler")
        show(header, overhead(sizes, batches, vocabulary, options.overhead_rounds))
    print(f"\n{machine()}")
    if difference > TOLERANCE:
        raise SystemExit("the losses differ by more than the tolerance: the two do not train the same model")


if __name__ == "__main__":
    main()
