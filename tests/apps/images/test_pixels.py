from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from limbeck.apps.images.pixels import DRAWS, EVALUATION_MARGIN, Files, Memory, crop_box, decoded, load_file, middle, shape_of, shifted
from limbeck.errors import DataError

DRAW = st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=DRAWS, max_size=DRAWS)
SIDE = st.integers(1, 600)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


# shifts


@given(
    draws=st.lists(DRAW, min_size=1, max_size=3),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 33),
    width=st.integers(1, 33),
    mirror=st.booleans(),
)
def test_a_shift_is_padding_a_crop_and_a_mirror(draws: list[list[float]], channels: int, height: int, width: int, mirror: bool) -> None:
    images = noise(len(draws), channels, height, width)
    found = shifted(torch.from_numpy(images), torch.tensor(draws, dtype=torch.float64), mirror).numpy()
    reach = height // 8
    for image, draw, out in zip(images, draws, found, strict=True):
        left, top = (int(place * (2 * reach + 1)) for place in draw[-3:-1])
        padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)))
        crop = padded[:, top : top + height, left : left + width]
        np.testing.assert_array_equal(out, crop[:, :, ::-1] if mirror and draw[-1] < 0.5 else crop)


def test_a_cifar_image_moves_by_up_to_four_pixels() -> None:
    image = torch.ones(1, 3, 32, 32, dtype=torch.uint8)
    corner = shifted(image, torch.tensor([[0.0, 0.0, 0.9]]), mirror=True)
    assert corner.sum() == 3 * 28 * 28
    assert corner[:, :, 4:, 4:].all()


# crops of files


@given(width=SIDE, height=SIDE, draw=DRAW)
def test_a_crop_lies_inside_the_image_and_keeps_to_its_bounds(width: int, height: int, draw: list[float]) -> None:
    left, top, right, bottom = crop_box(width, height, draw)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    wide, high = right - left, bottom - top
    if min(wide, high) >= 50:  # rounding to pixels is a matter of some per cent there
        assert 0.73 <= wide / high <= 1.37
        fallback = wide == width or high == height
        assert fallback or 0.075 <= wide * high / (width * height) <= 1


def test_crops_have_the_areas_that_they_are_drawn_with() -> None:
    generator = torch.Generator().manual_seed(1)
    boxes = [crop_box(400, 400, row) for row in torch.rand(4000, DRAWS, generator=generator).tolist()]
    areas = torch.tensor([(right - left) * (bottom - top) / 400**2 for left, top, right, bottom in boxes])
    # up to 3/4 of the area every ratio of 3:4 to 4:3 fits, so that the first try is taken and areas up to there are uniform from 0.08
    share = ((areas > 0.1) & (areas < 0.4)).float().mean() / ((areas > 0.4) & (areas < 0.7)).float().mean()
    assert share == pytest.approx(1, abs=0.1)
    assert areas.min() < 0.1


def test_a_picture_too_long_for_any_ratio_gives_its_middle() -> None:
    assert crop_box(1000, 30, [0.9, 0.5] * 10 + [0.0, 0.0, 0.9]) == (480, 0, 520, 30)  # 4:3 of 30 pixels, by hand


def test_the_same_numbers_give_the_same_piece(tmp_path: Path) -> None:
    file = tmp_path / "wide.jpg"
    Image.fromarray(noise(300, 500, 3)).save(file)
    chance = torch.rand(DRAWS, dtype=torch.float64).tolist()
    one, two = (np.asarray(load_file(file, (3, 64, 64), chance, mirror=True)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert one.shape == (64, 64, 3)


def test_mirroring_turns_a_piece_around(tmp_path: Path) -> None:
    file = tmp_path / "wide.png"
    Image.fromarray(noise(80, 90, 3)).save(file)
    draw = [0.5] * (DRAWS - 1)
    straight, turned = (np.asarray(load_file(file, (3, 64, 64), [*draw, last], mirror=True)) for last in (0.6, 0.4))
    np.testing.assert_array_equal(straight, turned[:, ::-1])


@pytest.mark.parametrize("form", ["jpg", "png"])
def test_a_piece_is_what_pillow_cuts_out_of_the_whole_picture(tmp_path: Path, form: str) -> None:
    """The decoder's reduced sizes save time on large photographs and change little: the mean error stays under 1 of 255 on a smooth picture."""
    ramp = np.linspace(0, 255, 1600)
    smooth = np.stack([np.tile(ramp, (1200, 1)), np.tile(ramp[:1200, None], (1, 1600)), np.full((1200, 1600), 128)], -1).astype(np.uint8)
    file = tmp_path / f"large.{form}"
    Image.fromarray(smooth).save(file)
    chance = [0.9, 0.5] * 10 + [0.5, 0.5, 0.9]
    found = np.asarray(load_file(file, (3, 64, 64), chance, mirror=True)).astype(float)
    with Image.open(file) as whole:
        direct = np.asarray(whole.crop(crop_box(1600, 1200, chance)).resize((64, 64), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(found - direct).mean() < 1


@pytest.mark.parametrize(("width", "height", "resized"), [(640, 480, (341, 256)), (480, 640, (256, 341)), (100, 100, (256, 256))])
def test_evaluation_takes_the_middle_of_256_pixels(width: int, height: int, resized: tuple[int, int]) -> None:
    """Sizes by hand: the short side becomes 256, the long one 256 * 640 / 480 = 341.3; then 224 are cut out of the middle."""
    image = Image.fromarray(noise(height, width))
    left, top = (round((side - 224) / 2) for side in resized)
    by_hand = image.resize(resized, Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224))
    np.testing.assert_array_equal(np.asarray(middle(image, (224, 224), EVALUATION_MARGIN)), np.asarray(by_hand))


def test_evaluation_of_a_large_photograph_is_that_of_the_whole(tmp_path: Path) -> None:
    """What the decoder's reduced size changes stays under 1 of 255 on average."""
    ramp = np.linspace(0, 6, 1500)
    smooth = (128 + 100 * np.sin(ramp[:1200, None] ** 2) * np.cos(3 * ramp)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "large.jpg", quality=95)
    found = np.asarray(load_file(tmp_path / "large.jpg", (1, 224, 224), None)).astype(float)
    with Image.open(tmp_path / "large.jpg") as whole:
        direct = np.asarray(middle(whole, (224, 224))).astype(float)
    assert 0 < np.abs(found - direct).mean() < 1


@given(width=st.integers(1, 90), height=st.integers(1, 90), wide=st.integers(1, 40), high=st.integers(1, 40))
def test_the_middle_has_the_size_asked_for(width: int, height: int, wide: int, high: int) -> None:
    white = Image.new("L", (width, height), 255)
    for margin in (EVALUATION_MARGIN, (1, 1)):
        found = np.asarray(middle(white, (wide, high), margin))
        assert found.shape == (high, wide)
        assert found.all()  # nothing from beyond the edge


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_every_mode_come_in_the_channels_asked_for(tmp_path: Path, mode: str, channels: int) -> None:
    file = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.fromarray(noise(20, 20, 3)).convert(mode).save(file)
    for chance in (None, [0.5] * DRAWS):
        assert np.asarray(load_file(file, (channels, 8, 8), chance)).reshape(8, 8, -1).shape == (8, 8, channels)


def test_files_and_memory_give_the_same_batch_of_whole_pictures(tmp_path: Path) -> None:
    pictures = noise(4, 256, 256, 3)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    files = Files(tmp_path, [f"{number}.png" for number in range(4)], (3, 224, 224))
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)[:, :, 16:240, 16:240]
    memory = Memory(4, (3, 224, 224), lambda: images)
    rows = torch.tensor([2, 0, 2])
    cpu = torch.device("cpu")
    assert torch.equal(files.batch(rows, None, False, cpu), memory.batch(rows, None, False, cpu))


# damage


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "half.jpg"
    file.write_bytes(encoded(noise(90, 90, 3), "JPEG")[:700])
    for chance in (None, [0.5] * DRAWS):
        with pytest.raises(DataError, match=r"half\.jpg cannot be read as an image \(.*truncated.*\); replace or remove it"):
            load_file(file, (3, 32, 32), chance)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("not an image")
    with pytest.raises(DataError, match=r"note\.png cannot be read as an image \(no known image format\)"):
        load_file(tmp_path / "note.png", (3, 32, 32), None)


def test_encoded_images_decode_to_their_pixels() -> None:
    pixels = noise(5, 9, 7, 3)
    images = decoded([encoded(image) for image in pixels], (3, 9, 7), "here")
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), pixels)
    assert shape_of(encoded(pixels[0]), "here") == (3, 9, 7)
    assert shape_of(encoded(pixels[0, ..., 0]), "here") == (1, 9, 7)


def test_damaged_encoded_images_are_numbered() -> None:
    good = encoded(noise(32, 32, 3))
    with pytest.raises(DataError, match=r"^here: image 1 cannot be read \(.+\); fetch the file anew$"):
        decoded([good, good[: len(good) // 2]], (3, 32, 32), "here")
    with pytest.raises(DataError, match="here: image 1 has 32x30 pixels, the first 32x32"):
        decoded([good, encoded(noise(30, 32, 3))], (3, 32, 32), "here")
    with pytest.raises(DataError, match="here: image 0 cannot be read"):
        shape_of(b"nothing", "here")


def test_the_area_bound_is_reached() -> None:
    low = crop_box(1000, 1000, [0.0, 0.5] * 10 + [0.0, 0.0, 0.9])
    assert low == (0, 0, round(math.sqrt(0.08) * 1000), round(math.sqrt(0.08) * 1000))
