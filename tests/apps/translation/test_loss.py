"""The loss of a batch against torch's functions over all positions, padding taken out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limbeck.apps.translation.batches import Batch
from limbeck.apps.translation.hparams import Sizes
from limbeck.apps.translation.loss import translation_loss
from limbeck.apps.translation.model import build_model

SIZES = Sizes(width=8, heads=2, encoder_layers=1, decoder_layers=1, ffn=8, dropout=0.0)
BATCH = Batch(
    torch.tensor([[5, 6, 7, 3], [8, 3, 0, 0]]), torch.tensor([[2, 9, 10, 5], [2, 11, 0, 0]]), torch.tensor([[9, 10, 5, 3], [11, 3, 0, 0]])
)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_sums_over_real_tokens_and_their_gradients(smoothing: float) -> None:
    model = build_model(SIZES, 12, 12)
    ours = translation_loss(model, BATCH, smoothing)
    ours.total.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()

    logs = model(BATCH.source, BATCH.target_in).log_softmax(2)
    real = BATCH.target_out != 0
    gold = logs.gather(2, BATCH.target_out[:, :, None])[:, :, 0]
    # of 12 tokens, 11 are not the target
    expected = -((1 - smoothing) * gold + smoothing / 11 * (logs.sum(2) - gold))[real].sum()
    expected.backward()
    assert ours.tokens == 6
    torch.testing.assert_close(ours.total, expected)
    torch.testing.assert_close(ours.nll, -gold[real].sum())
    torch.testing.assert_close(grads, {name: parameter.grad for name, parameter in model.named_parameters()})


def test_parts_of_a_batch_add_up() -> None:
    model = build_model(SIZES, 12, 12)
    whole = translation_loss(model, BATCH, 0.1)
    parts = [translation_loss(model, Batch(*(tensor[row : row + 1] for tensor in BATCH)), 0.1) for row in range(2)]
    assert whole.tokens == sum(part.tokens for part in parts)
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)


def test_another_function_may_compute_the_hidden_states() -> None:
    model = build_model(SIZES, 12, 12)
    states = torch.randn(2, 4, 8)
    found = translation_loss(model, BATCH, 0.0, hidden=lambda source, target_in: states)
    expected = F.cross_entropy((states @ model.softmax.weight.T).flatten(0, 1), BATCH.target_out.flatten(), ignore_index=0, reduction="sum")
    torch.testing.assert_close(found.total, expected)


def test_a_smoothing_that_leaves_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="label_smoothing is a part of what is expected, from 0 to below 1, not 1"):
        translation_loss(build_model(SIZES, 12, 12), BATCH, 1.0)


def test_in_bfloat16_it_is_near() -> None:
    model = build_model(SIZES, 12, 12)
    plain = translation_loss(model, BATCH, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = translation_loss(model, BATCH, 0.1)
    rounded.total.backward()
    torch.testing.assert_close(rounded.total, plain.total, rtol=0.02, atol=0)
    torch.testing.assert_close(rounded.nll, plain.nll, rtol=0.02, atol=0)
