"""One update: gradients that add up over batches as if they were one, penalties once, and groups that enter an epoch at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck import Window
from limbeck.apps.translation.batches import Examples, evaluation_batches
from limbeck.apps.translation.cycles import Cycles
from limbeck.apps.translation.loss import translation_loss
from limbeck.apps.translation.options import TrainOptions
from limbeck.apps.translation.session import Session, start
from limbeck.apps.translation.train import add_gradients, loss_function
from limbeck.regularization import Regularize
from limbeck.regularization.regularizers import l1_regularizer


@given(count=st.integers(1, 30), size=st.integers(1, 8), begin=st.integers(0, 12))
def test_groups_hold_every_batch_once_and_a_slice_is_the_rest(count: int, size: int, begin: int) -> None:
    batches = evaluation_batches(Examples.of([[place + 4] for place in range(count)]), sentences=1)
    cycles = Cycles(batches, size)
    groups = [[int(batch.source[0, 0]) for batch in group] for group in cycles]
    assert [number for group in groups for number in group] == [place + 4 for place in range(count)]
    assert len(groups) == len(cycles)
    assert all(len(group) == size for group in groups[:-1])
    assert [[int(batch.source[0, 0]) for batch in group] for group in cycles[begin:]] == groups[begin:]


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    """The smallest run, without dropout."""
    return start(
        TrainOptions(
            data=str(folder),
            vocabulary=60,
            batch_tokens=40,
            width=8,
            heads=2,
            encoder_layers=1,
            decoder_layers=1,
            ffn=8,
            dropout=0.0,
            update_cycle=3,
            train_steps=10,
        )
    )


def gradients(session: Session) -> list[torch.Tensor]:
    found = [parameter.grad.clone() for parameter in session.model.parameters() if parameter.grad is not None]
    session.optimizer.zero_grad()
    return found


def test_several_batches_have_the_gradient_of_the_mean_over_all_their_tokens(session: Session) -> None:
    batches = session.train.epoch(0)[0]
    assert len(batches) == 3
    sums, tokens = add_gradients(session, batches, loss_function(session))
    added = gradients(session)
    losses = [translation_loss(session.model, batch, session.options.label_smoothing) for batch in batches]
    torch.stack([loss.total for loss in losses]).sum().div(sum(loss.tokens for loss in losses)).backward()  # type: ignore[no-untyped-call]
    assert tokens == sum(loss.tokens for loss in losses) == sum(int((batch.target_out != 0).sum()) for batch in batches)
    assert sums.tolist() == pytest.approx([float(sum(loss[kind].detach() for loss in losses)) for kind in (0, 1)])
    for mine, one in zip(added, gradients(session), strict=True):
        torch.testing.assert_close(mine, one)


def test_a_penalty_is_added_once_an_update(session: Session) -> None:
    name, strength = "encoder.layers.0.ffn.conv1.weight", 0.5
    batches, plain = session.train.epoch(0)[0], loss_function(session)
    add_gradients(session, batches, plain)
    weight = session.scheduler.state.parameters[name].parameter
    assert weight.grad is not None
    before = weight.grad.clone()
    session.optimizer.zero_grad()
    session.scheduler.add(Window(), Regularize(l1_regularizer({name: strength})))
    session.scheduler.on_epoch_begin(0)
    session.scheduler.on_minibatch_begin(0, 0, len(session.train))
    add_gradients(session, batches, plain)
    torch.testing.assert_close(weight.grad - before, strength * weight.detach().sign())
    session.optimizer.zero_grad()
