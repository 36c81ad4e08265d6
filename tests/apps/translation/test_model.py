"""The Transformer against torch's own layers with the same weights, and against itself with cached keys and values."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from limbeck.apps.translation.hparams import SIZES, Sizes
from limbeck.apps.translation.model import Attention, DecoderLayer, EncoderLayer, Transformer, build_model, neurst_name, sinusoids
from limbeck.apps.translation.subwords import BOS
from limbeck.thinning import thin

TINY = Sizes(width=12, heads=3, encoder_layers=2, decoder_layers=2, ffn=20, dropout=0.0)
SOURCE = torch.tensor([[5, 6, 7, 3], [8, 3, 0, 0]])
TARGET = torch.tensor([[BOS, 9, 10], [BOS, 11, 0]])


def tiny(sizes: Sizes = TINY, vocabulary: int = 16) -> Transformer:
    """A model whose norms and biases are not those of the start, which would hide a mistake."""
    model = build_model(sizes, vocabulary, vocabulary)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3 + ("norm.weight" in name))
    return model.eval()


def copy_attention(theirs: nn.MultiheadAttention, ours: Attention) -> None:
    packed = [ours.q, ours.kv] if hasattr(ours, "q") else [ours.qkv]
    theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in packed]))
    theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in packed]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


@torch.no_grad()
def torchs(model: Transformer) -> nn.Transformer:
    """torch's own encoder and decoder with the weights of ours."""
    sizes = model.sizes
    shape = (sizes.width, sizes.heads, sizes.ffn, sizes.dropout)
    layer = nn.TransformerEncoderLayer(*shape, norm_first=True, batch_first=True)
    encoder = nn.TransformerEncoder(layer, sizes.encoder_layers, nn.LayerNorm(sizes.width), enable_nested_tensor=False)
    theirs = nn.Transformer(
        sizes.width,
        sizes.heads,
        1,
        sizes.decoder_layers,
        sizes.ffn,
        sizes.dropout,
        custom_encoder=encoder,
        norm_first=True,
        batch_first=True,
    )
    for ours, other in zip([*model.encoder.layers, *model.decoder.layers], [*theirs.encoder.layers, *theirs.decoder.layers], strict=True):
        assert isinstance(ours, EncoderLayer | DecoderLayer)
        copy_attention(other.self_attn, ours.self_attention)
        norms = [ours.self_attention_norm, ours.ffn_norm]
        if isinstance(ours, DecoderLayer):
            copy_attention(other.multihead_attn, ours.cross_attention)
            norms.insert(1, ours.cross_attention_norm)
        for number, norm in enumerate(norms):
            getattr(other, f"norm{number + 1}").load_state_dict(norm.state_dict())
        other.linear1.load_state_dict(ours.ffn.conv1.state_dict())
        other.linear2.load_state_dict(ours.ffn.conv2.state_dict())
    theirs.encoder.norm.load_state_dict(model.encoder.norm.state_dict())
    theirs.decoder.norm.load_state_dict(model.decoder.norm.state_dict())
    return theirs


def reference(model: Transformer, theirs: nn.Transformer, source: Tensor, target: Tensor) -> Tensor:
    """The logits by torch's layers."""
    scale, causal = model.sizes.width**0.5, nn.Transformer.generate_square_subsequent_mask(target.shape[1]).isinf()
    left, right = (
        embedding(tokens) * scale + sinusoids(tokens.shape[1], model.sizes.width)
        for embedding, tokens in ((model.source_embedding, source), (model.target_embedding, target))
    )
    hidden = theirs(left, right, tgt_mask=causal, src_key_padding_mask=source == 0, memory_key_padding_mask=source == 0)
    return hidden @ model.softmax.weight.T


@pytest.mark.parametrize("sizes", [TINY, replace(TINY, heads=1, encoder_layers=1, decoder_layers=3), replace(TINY, width=9)])
def test_values_and_gradients_are_those_of_torchs_layers(sizes: Sizes) -> None:
    model = tiny(sizes)
    theirs = torchs(model).train()  # without dropout; in evaluation torch takes another path
    model.train()
    real = TARGET != 0
    ours, torch_logits = model(SOURCE, TARGET)[real], reference(model, theirs, SOURCE, TARGET)[real]
    torch.testing.assert_close(ours, torch_logits)
    seed = torch.randn_like(ours)
    ours.backward(seed)
    mine, shared = model.encoder.layers[0].ffn.conv1.weight.grad, model.softmax.weight.grad
    assert mine is not None
    assert shared is not None
    shared = shared.clone()
    model.zero_grad()
    torch_logits.backward(seed)
    torch.testing.assert_close(mine, theirs.encoder.layers[0].linear1.weight.grad)
    torch.testing.assert_close(shared, model.softmax.weight.grad)


def test_positions_by_hand() -> None:
    table = sinusoids(600, 6)
    # width 6: rates 1, 10000 ** (-1/2), 10000 ** -1
    expected = [math.sin(3), math.sin(3 / 100), math.sin(3 / 10_000), math.cos(3), math.cos(3 / 100), math.cos(3 / 10_000)]
    torch.testing.assert_close(table[3], torch.tensor(expected))
    assert sinusoids(4, 7)[:, :6].equal(table[:4])
    assert not sinusoids(4, 7)[:, 6].any()


def test_a_sentence_longer_than_the_table() -> None:
    model = tiny()
    long = torch.randint(4, 16, (1, 520))
    whole = model(long, long[:, :3])
    model.positions = sinusoids(520, 12)
    assert whole.equal(model(long, long[:, :3]))


def test_padding_changes_nothing() -> None:
    model = tiny()
    torch.testing.assert_close(model(SOURCE, TARGET)[1, :2], model(SOURCE[1:, :2], TARGET[1:, :2])[0])


@torch.no_grad()
def test_cached_steps_give_the_logits_of_the_whole() -> None:
    model = tiny()
    target = torch.randint(4, 16, (2, 6))
    whole = model(SOURCE, target)
    state = model.start(SOURCE)
    for time in range(6):
        logits, state = model.step(target[:, time], state)
        torch.testing.assert_close(logits, whole[:, time])


@torch.no_grad()
def test_hypotheses_of_a_sentence_share_its_source() -> None:
    model = tiny()
    target = torch.randint(4, 16, (2, 3, 4))
    state = model.start(SOURCE)
    repeated = [type(seen)(*(part.repeat_interleave(3, 0) for part in seen)) for seen in state.target]
    state = state._replace(target=repeated)
    for time in range(4):
        logits, state = model.step(target[:, :, time].flatten(), state)
    torch.testing.assert_close(logits, model(SOURCE.repeat_interleave(3, 0), target.flatten(0, 1))[:, -1])


@pytest.mark.parametrize(("shared", "tied", "matrices"), [(True, True, 1), (False, True, 2), (True, False, 2), (False, False, 3)])
def test_which_embeddings_are_one(shared: bool, tied: bool, matrices: int) -> None:
    sizes = replace(TINY, share_embeddings=shared, tie_softmax=tied)
    model = build_model(sizes, 16, 16 if shared else 17)
    found = {id(parameter) for name, parameter in model.named_parameters() if re.search("embedding|softmax", name)}
    assert len(found) == matrices
    assert model(SOURCE, TARGET).shape == (2, 3, 16 if shared else 17)


def test_vocabularies_of_unlike_size_are_not_shared() -> None:
    with pytest.raises(ValueError, match="one embedding cannot serve vocabularies of 16 and 17; let both"):
        build_model(TINY, 16, 17)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"heads": 5}, "a width of 12 cannot be split over 5 heads"), ({"ffn": 0}, "ffn is a number from 1 on"), ({"dropout": 1.0}, "dropout is a probability")],
)  # fmt: skip
def test_sizes_that_fit_no_model(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.parametrize("name", SIZES)
def test_counts_by_hand(name: str) -> None:
    """An encoder layer has ``4 d^2 + 2 d f`` weights, a decoder layer ``8 d^2 + 2 d f``; then biases, gains and shifts, of which each norm has ``2 d``."""
    sizes = SIZES[name]
    d, f = sizes.width, sizes.ffn
    expected = 10_000 * d + sizes.encoder_layers * (4 * d * d + 2 * d * f + 9 * d + f) + 2 * d
    expected += sizes.decoder_layers * (8 * d * d + 2 * d * f + 15 * d + f) + 2 * d
    with torch.device("meta"):
        model = build_model(sizes, 10_000, 10_000)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    if name == "transformer_tiny":
        assert round(expected / 1e6, 1) == 2.6  # the "2.6M" of Wu et al. 2021


def test_the_start() -> None:
    model = build_model(replace(SIZES["transformer_tiny"], encoder_layers=1, decoder_layers=1), 1000, 1000)
    assert abs(float(model.softmax.weight.detach().std()) - 128**-0.5) < 1e-3  # type: ignore[arg-type]
    qkv = model.encoder.layers[0].self_attention.qkv  # type: ignore[union-attr]
    bound = (6 / (128 + 384)) ** 0.5
    assert 0.99 * bound < float(qkv.weight.detach().abs().max()) <= bound  # type: ignore[operator,arg-type,union-attr]
    assert not qkv.bias.any()  # type: ignore[operator,union-attr]


def test_neursts_names() -> None:
    names = {name: neurst_name(name) for name, _ in tiny().named_parameters(remove_duplicate=False)}
    assert len(set(names.values())) == len(names)
    # ../shared/facts/neurst_tfmot.md, 1.3: what the pattern of document 004 leaves dense
    dense = {name for name, theirs in names.items() if re.search("(ln/gamma)|(ln/beta)|(modalit)", theirs)}
    assert dense == {name for name in names if re.search("norm|embedding|softmax", name)}
    assert names["decoder.layers.0.cross_attention.kv.bias"] == (
        "SequenceToSequence/TransformerDecoder/layer_0/encdec_attention_prepost_wrapper/encdec_attention/kv_transform/bias"
    )
    assert (
        names["encoder.layers.1.ffn.conv1.weight"] == "SequenceToSequence/TransformerEncoder/layer_1/ffn_prepost_wrapper/ffn/conv1/kernel"
    )
    assert names["encoder.norm.weight"] == "SequenceToSequence/TransformerEncoder/output_ln/gamma"


@torch.no_grad()
@pytest.mark.parametrize("crossed", [False, True])
def test_whole_heads_and_hidden_units_can_be_thinned(crossed: bool) -> None:
    model = tiny()
    layer = model.decoder.layers[0] if crossed else model.encoder.layers[0]
    assert isinstance(layer, EncoderLayer | DecoderLayer)
    attention = layer.cross_attention if isinstance(layer, DecoderLayer) else layer.self_attention
    values = attention.kv if crossed else attention.qkv
    for tensor in (values.weight, values.bias):
        tensor[-12:-8] = 0  # the first of the three heads' values
    for tensor in (layer.ffn.conv1.weight, layer.ffn.conv1.bias):
        tensor[5:8] = 0
    before = model(SOURCE, TARGET)
    state = model.start(SOURCE)
    first, _ = model.step(TARGET[:, 0], state)
    thin(model, (SOURCE, TARGET))
    assert attention.output.in_features == 8
    assert layer.ffn.conv2.in_features == 17
    torch.testing.assert_close(model(SOURCE, TARGET), before)
    torch.testing.assert_close(model.step(TARGET[:, 0], model.start(SOURCE))[0], first)


@torch.no_grad()
def test_it_can_be_exported() -> None:
    model = tiny()
    program = torch.export.export(model, (SOURCE, TARGET))
    torch.testing.assert_close(program.module()(SOURCE, TARGET), model(SOURCE, TARGET))


@pytest.mark.long
def test_it_can_be_compiled() -> None:
    model = tiny(replace(TINY, dropout=0.3)).train()
    hidden = torch.compile(model.hidden, backend="aot_eager", dynamic=True)
    model.eval()
    torch.testing.assert_close(hidden(SOURCE, TARGET), model.hidden(SOURCE, TARGET))
    torch.testing.assert_close(hidden(SOURCE[:, :3], TARGET[:, :2]), model.hidden(SOURCE[:, :3], TARGET[:, :2]))
    model.train()
    hidden(SOURCE, TARGET).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
