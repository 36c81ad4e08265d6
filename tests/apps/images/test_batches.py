from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from limbeck import Scheduler
from limbeck.apps.images.batches import AHEAD, Batch, Batches, Form, Split, normalised
from limbeck.apps.images.pixels import Files, Memory
from limbeck.errors import DataError

CIFAR = Form((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), mirror=True)
COUNTS = st.integers(1, 40)


def split_of(count: int, form: Form = CIFAR, channels: int = 3, side: int = 32) -> Split:
    """Images that tell their number by the label, and by the first pixel before they are shifted."""
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return Split(Memory(count, (channels, side, side), lambda: images), torch.arange(count), torch.arange(count), form)


def same(one: Batch, two: Batch) -> bool:
    return torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def labels_of(batches: Batches) -> list[int]:
    return [label for _, labels in batches for label in labels.tolist()]


@given(count=COUNTS, size=COUNTS, epoch=st.integers(0, 5), seed=st.integers(-1, 2**64 - 1))
def test_an_epoch_has_every_image_once_but_for_a_last_single_one(count: int, size: int, epoch: int, seed: int) -> None:
    labels = labels_of(Batches(split_of(count, side=2), size, seed).epoch(epoch))
    assert len(set(labels)) == len(labels)
    assert len(labels) == count - (1 < size < count and count % size == 1)
    assert labels_of(Batches(split_of(count, side=2), size)) == list(range(count))


@given(count=COUNTS, size=COUNTS, start=COUNTS, augment=st.booleans())
def test_a_slice_goes_on_where_the_epoch_stood(count: int, size: int, start: int, augment: bool) -> None:
    """A batch is a function of seed, epoch and step: whoever asks for it, in whatever order, gets the same tensors."""
    whole = Batches(split_of(count, side=8), size, seed=7, augment=augment).epoch(2)
    all_of_them = list(whole)
    rest = list(whole[start:])
    assert len(rest) == len(whole[start:]) == max(0, len(whole) - start)
    assert all(same(*pair) for pair in zip(rest, all_of_them[start:], strict=True))
    anew = Batches(split_of(count, side=8), size, seed=7, augment=augment)
    assert same(anew.epoch(0).epoch(2)[-1], all_of_them[-1])


def test_epochs_seeds_and_steps_differ() -> None:
    def augmented(seed: int, epoch: int) -> Batches:
        return Batches(split_of(256), 128, seed, augment=True).epoch(epoch)

    first = augmented(1, 0)
    assert labels_of(first) == labels_of(augmented(1, 0)) != labels_of(augmented(1, 1)) != labels_of(augmented(2, 1))
    one_image = Split(
        Memory(1, (3, 32, 32), lambda: torch.ones(1, 3, 32, 32, dtype=torch.uint8)), torch.zeros(256).long(), torch.zeros(256).long(), CIFAR
    )
    views = Batches(one_image, 128, seed=1, augment=True)
    assert not torch.equal(views[0][0], views[1][0])  # the same images, other shifts
    assert not torch.equal(views[0][0], views.epoch(1)[0][0])


def test_a_run_that_resumes_sees_what_the_first_would_have_seen() -> None:
    batches = Batches(split_of(50), 8, seed=5, augment=True)
    seen: list[Tensor] = []
    state = None
    scheduler = Scheduler(torch.nn.Linear(1, 1))
    for epoch in scheduler.epochs(3):
        for step, (images, _) in enumerate(scheduler.steps(batches.epoch(epoch))):
            seen.append(images)
            if (epoch, step) == (1, 3):
                state = scheduler.state_dict()
    assert state is not None
    resumed = Scheduler(torch.nn.Linear(1, 1))
    resumed.load_state_dict(state)
    again = [images for epoch in resumed.epochs(3) for images, _ in resumed.steps(batches.epoch(epoch))]
    assert all(torch.equal(*pair) for pair in zip(again, seen[-len(again) :], strict=True))
    assert len(seen) == 21
    assert len(again) == 21 - 7 - 3  # the step that was not completed is taken again


# what a model is given


def test_images_are_normalised_by_mean_and_deviation() -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CIFAR.mean, CIFAR.std))
    torch.testing.assert_close(normalised(images, CIFAR), (images.float() / 255 - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (1, 28), (3, 32)])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 64, 48)])
def test_images_reach_a_model_in_its_shape(channels: int, side: int, shape: tuple[int, int, int]) -> None:
    split = split_of(3, Form(shape, (0.5,) * channels, (0.25,) * channels, False), channels, side)
    for batches in (Batches(split, 2), Batches(split, 2, seed=0, augment=True, channels_last=True)):
        images, _ = batches[0]
        assert images.shape[1:] == shape
        assert images.dtype == torch.float32


def test_a_uniform_image_stays_uniform_in_another_shape() -> None:
    """Grey from colour by the weights of BT.601, which add up to 1; colour from grey by repeating."""
    level = (200 / 255 - 0.5) / 0.25
    colour, grey = (torch.full((1, channels, 32, 32), 200, dtype=torch.uint8) for channels in (3, 1))
    for found in (
        normalised(colour, Form((1, 28, 28), (0.5,) * 3, (0.25,) * 3, False)),
        normalised(grey, Form((3, 28, 28), (0.5,), (0.25,), False)),
    ):
        torch.testing.assert_close(found, torch.full_like(found, level))


def test_channels_last_is_a_matter_of_memory_alone() -> None:
    plain, last = (Batches(split_of(6), 3, seed=1, augment=True, channels_last=last)[1][0] for last in (False, True))
    assert torch.equal(plain, last)
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


# parts


def test_a_fraction_takes_other_images_every_epoch_and_for_evaluation_a_spread() -> None:
    split = split_of(100, side=2)
    training = Batches(split, 8, seed=1, fraction=0.24)
    assert len(training) == 3
    assert len(labels_of(training.epoch(0))) == len(labels_of(training.epoch(1))) == 24
    assert set(labels_of(training.epoch(0))) != set(labels_of(training.epoch(1)))
    assert labels_of(Batches(split, 8, fraction=0.25)) == list(range(0, 100, 4))


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"batch_size": 0}, "batch_size is a number of images, 1 or more, not 0"),
        ({"batch_size": 1, "fraction": 0.0}, "fraction is a part of the images, above 0 and up to 1, not 0.0"),
        ({"batch_size": 1, "augment": True}, "augment draws by a seed; give one"),
    ],
)
def test_values_that_mean_nothing_are_refused(arguments: dict[str, float], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Batches(split_of(1), **arguments)


# files


@pytest.fixture
def photographs(tmp_path: Path) -> Split:
    rng = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(10)]
    for number, name in enumerate(names):
        Image.fromarray(rng.integers(0, 256, (80 + number, 100, 3), dtype=np.uint8)).save(tmp_path / name)
    return Split(Files(tmp_path, names, (3, 96, 96)), torch.arange(10), torch.arange(10), Form((3, 96, 96), (0.5,) * 3, (0.25,) * 3, True))


def test_files_that_are_read_ahead_are_those_that_are_asked_for(photographs: Split) -> None:
    batches = Batches(photographs, 2, seed=4, augment=True).epoch(1)
    direct = [batches[step] for step in range(len(batches))]
    assert len(direct) == 5
    assert all(same(*pair) for pair in zip(batches, direct, strict=True))
    assert all(same(*pair) for pair in zip(batches[3:], direct[3:], strict=True))


def test_reading_stays_a_few_batches_ahead_and_ends_with_the_loop(photographs: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    read = Files.batch

    def watched(self: Files, rows: Tensor, *rest: object) -> Tensor:
        asked.append(rows.tolist())
        return read(self, rows, *rest)

    monkeypatch.setattr(Files, "batch", watched)
    walk = iter(Batches(photographs, 1))
    next(walk)
    until = time.monotonic() + 20
    while len(asked) < 1 + AHEAD and time.monotonic() < until:
        time.sleep(0.01)
    walk.close()
    assert asked == [[number] for number in range(1 + AHEAD)]


def test_a_damaged_file_stops_the_loop_by_name(photographs: Split) -> None:
    assert isinstance(photographs.pixels, Files)
    (photographs.pixels.root / "7.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"7\.jpg cannot be read as an image"):
        list(Batches(photographs, 3))


def test_cifar_is_shifted_by_zero_padding_before_it_is_normalised() -> None:
    white = Split(
        Memory(1, (3, 32, 32), lambda: torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)),
        torch.zeros(64).long(),
        torch.zeros(64).long(),
        CIFAR,
    )
    images, _ = Batches(white, 64, seed=0, augment=True)[0]
    black = -torch.tensor(CIFAR.mean) / torch.tensor(CIFAR.std)
    dark = (images - black[:, None, None]).abs().amax(1) < 1e-5
    assert 0 < dark.float().mean() < 0.25  # at most 4 of 32 rows and 4 of 32 columns of each
    assert F.max_pool2d(dark.float()[:, None, 4:28, 4:28], 24).sum() == 0
