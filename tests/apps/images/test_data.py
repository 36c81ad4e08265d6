from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet as pyarrow_parquet
import pytest
import torch
from PIL import Image

from limbeck.apps.images.batches import Batches
from limbeck.apps.images.data import HUB, load_images
from limbeck.apps.images.datasets import CIFAR10_CLASSES, CIFAR10_STATISTICS, measured
from limbeck.apps.images.pixels import Files, Memory
from limbeck.errors import DataError, MissingExtraError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# digits


def test_digits_need_no_download_and_no_choice() -> None:
    """1,797 images of 8x8 with values 0 to 16 (scikit-learn's description), the first a 0."""
    images = load_images()
    assert (len(images.train), len(images.test), images.valid) == (1500, 297, None)
    assert images.shape == (1, 8, 8)
    assert images.classes == tuple("0123456789")
    first, labels = Batches(images.train, 1500)[0]
    assert labels[:3].tolist() == [0, 1, 2]
    assert first.mean().abs() < 1e-3
    assert first.std() == pytest.approx(1, abs=1e-3)
    assert isinstance(images.train.pixels, Memory)
    assert images.train.pixels.images.max() == 255


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)])
def test_digits_adapt_to_models_of_cifar_and_mnist(shape: tuple[int, int, int]) -> None:
    images = load_images("digits", shape=shape)
    assert images.shape == Batches(images.test, 2)[0][0].shape[1:] == shape
    assert not images.train.form.mirror  # a mirrored digit is none


def test_digits_without_the_extra_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"this needs 'sklearn.datasets'.*pip install 'limbeck\[all\]'"):
        load_images()


# validation


def test_what_is_held_back_is_decided_by_the_seed_alone() -> None:
    one, two, other = (load_images("digits", validation=0.2, seed=seed) for seed in (1, 1, 2))
    assert one.valid is not None
    assert two.valid is not None
    assert other.valid is not None
    assert (len(one.train), len(one.valid)) == (1200, 300)
    assert torch.equal(one.valid.rows, two.valid.rows)
    assert not torch.equal(one.valid.rows, other.valid.rows)
    assert sorted(one.train.rows.tolist() + one.valid.rows.tolist()) == list(range(1500))
    assert one.checksum == other.checksum


@pytest.mark.parametrize(
    ("validation", "fault"),
    [(-0.1, "0 or more and less than 1, not -0.1"), (1.0, "not 1.0"), (0.0001, "nothing to hold back"), (0.9999, "nothing to train on")],
)
def test_a_validation_split_that_leaves_nothing_is_refused(validation: float, fault: str) -> None:
    with pytest.raises(DataError, match=rf"--validation-split .*{fault}"):
        load_images("digits", validation)


# parquet


def table(
    count: int, labels: list[Any] | None = None, side: int = 32, image: str = "img", label: str = "label", **change: Any
) -> pyarrow.Table:
    rows = [{"bytes": encoded(pixels), "path": None} for pixels in noise(count, side, side, 3)]
    return pyarrow.table({image: change.get("rows", rows), label: [number % 2 for number in range(count)] if labels is None else labels})


def write(folder: Path, train: pyarrow.Table, test: pyarrow.Table | None = None) -> Path:
    pyarrow_parquet.write_table(train, folder / "train.parquet")
    pyarrow_parquet.write_table(train if test is None else test, folder / "test.parquet")
    return folder


def test_parquet_files_are_the_images_that_were_written(tmp_path: Path) -> None:
    images = load_images(str(write(tmp_path, table(6), table(4))))
    assert (len(images.train), len(images.test), images.classes, images.shape) == (6, 4, ("0", "1"), (3, 32, 32))
    assert isinstance(images.train.pixels, Memory)
    np.testing.assert_array_equal(images.train.pixels.images.permute(0, 2, 3, 1).numpy(), noise(6, 32, 32, 3))
    assert images.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    numbers = images.train.pixels.images.double() / 255
    assert images.mean == pytest.approx(numbers.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert images.std == pytest.approx(numbers.std((0, 2, 3), correction=0).tolist(), abs=1e-4)


def test_parquet_in_pieces_with_other_columns_and_the_hubs_names(tmp_path: Path) -> None:
    names = {"info": {"features": {"fine_label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    for piece in (0, 1):
        part = table(3, image="image", label="fine_label").replace_schema_metadata({"huggingface": json.dumps(names)})
        pyarrow_parquet.write_table(part, tmp_path / f"train-0000{piece}-of-00002.parquet")
    pyarrow_parquet.write_table(part, tmp_path / "test-00000-of-00001.parquet")
    images = load_images(str(tmp_path))
    assert (len(images.train), len(images.test), images.classes) == (6, 3, ("cat", "dog"))


def test_parquet_of_plain_bytes_and_grey_images(tmp_path: Path) -> None:
    rows = [encoded(pixels) for pixels in noise(4, 28, 28)]
    images = load_images(str(write(tmp_path, pyarrow.table({"image": rows, "label": [0, 1, 2, 0]}))))
    assert images.shape == (1, 28, 28)
    assert not images.train.form.mirror


def broken(kind: str) -> pyarrow.Table:
    good = table(3)
    return {
        "columns": good.rename_columns(["picture", "label"]),
        "no label": good.rename_columns(["img", "class"]),
        "empty": good.slice(0, 0),
        "null": table(2, rows=[{"bytes": encoded(noise(32, 32, 3)), "path": None}, {"bytes": None, "path": "x.png"}]),
        "text": table(2, labels=["cat", "dog"]),
        "negative": table(2, labels=[0, -1]),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("columns", r"train\.parquet has the columns picture, label; it needs 'img' or 'image', which holds bytes, and 'label'"),
        ("no label", r"train\.parquet has the columns img, class; it needs"),
        ("empty", r"train\.parquet has no rows; fetch it anew"),
        ("null", r"train\.parquet: 'img.bytes' of row 1 is a NoneType, not bytes"),
        ("text", r"train\.parquet: 'label' of row 0 is a str, not int"),
        ("negative", r"train\.parquet has labels from -1 to 0, but the 1 classes are 0 to 0"),
    ],
)
def test_parquet_of_another_kind_is_refused_in_one_line(tmp_path: Path, kind: str, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        load_images(str(write(tmp_path, broken(kind))))


def test_damaged_parquet_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, table(3))
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"train\.parquet cannot be read as parquet \(.+\); fetch it anew"):
        load_images(str(tmp_path))
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"train\.parquet is missing; a folder of parquet files has train\.parquet and test\.parquet"):
        load_images(str(tmp_path))


def test_a_truncated_image_in_a_parquet_file_is_numbered(tmp_path: Path) -> None:
    good = encoded(noise(32, 32, 3))
    with pytest.raises(DataError, match=r"train\.parquet: image 1 cannot be read \(.+\); fetch the file anew"):
        load_images(str(write(tmp_path, table(2, rows=[{"bytes": good, "path": None}, {"bytes": good[:900], "path": None}]))))


# the real CIFAR-10


def test_the_real_cifar_10(cifar_10: Path) -> None:
    """50,000 and 10,000 images, 5,000 and 1,000 of each class; statistics as published, but for the JPEG encoding (README of the data)."""
    images = load_images(str(cifar_10), validation=0.1)
    assert images.valid is not None
    assert (len(images.train), len(images.valid), len(images.test)) == (45_000, 5_000, 10_000)
    assert images.classes == CIFAR10_CLASSES
    assert images.test.labels.bincount().tolist() == [1000] * 10
    assert torch.cat([images.train.labels, images.valid.labels]).bincount().tolist() == [5000] * 10
    assert (images.mean, images.std) == CIFAR10_STATISTICS
    digest = hashlib.sha256()
    for split in ("train", "test"):
        data = (cifar_10 / f"{split}.parquet").read_bytes()
        digest.update(f"{len(data)} ".encode() + data)
    assert images.checksum == digest.hexdigest()


@pytest.mark.long
def test_the_published_statistics_are_those_of_the_real_images(cifar_10: Path) -> None:
    pixels = load_images(str(cifar_10)).train.pixels
    assert isinstance(pixels, Memory)
    for found, published in zip(measured(pixels.images), CIFAR10_STATISTICS, strict=True):
        assert found == pytest.approx(published, abs=0.003)


# the binary version


def write_binary(folder: Path, labels: int = 1) -> np.ndarray:
    records = noise(12, labels + 3072)
    records[:, :labels] = np.arange(12)[:, None] % 10
    if labels == 1:
        for number in range(5):
            records[number * 2 : number * 2 + 2].tofile(folder / f"data_batch_{number + 1}.bin")
        records[10:].tofile(folder / "test_batch.bin")
        (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_CLASSES) + "\n\n")
    else:
        records[:10].tofile(folder / "train.bin")
        records[10:].tofile(folder / "test.bin")
    return records


@pytest.mark.parametrize("labels", [1, 2])
def test_the_binary_version_of_cifar(tmp_path: Path, labels: int) -> None:
    """A record is the label, or coarse and fine label, then 1024 bytes each of red, green and blue, row by row (the page of the data)."""
    records = write_binary(tmp_path, labels)
    images = load_images(str(tmp_path))
    assert (len(images.train), len(images.test)) == (10, 2)
    assert images.train.labels.tolist() == list(range(10))
    assert images.classes == (CIFAR10_CLASSES if labels == 1 else tuple("0123456789"))
    assert isinstance(images.test.pixels, Memory)
    assert images.test.pixels.images[1, 2, 3, 4] == records[11, labels + 2 * 1024 + 3 * 32 + 4]


def test_damaged_binary_files_are_named(tmp_path: Path) -> None:
    write_binary(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(b"\0" * 4000)
    with pytest.raises(DataError, match=r"data_batch_3\.bin has 4,000 bytes, not a whole number of records of 3073"):
        load_images(str(tmp_path))
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin cannot be read: No such file"):
        load_images(str(tmp_path))
    write_binary(tmp_path)
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"batches\.meta\.txt names 2 classes, but labels go up to 9"):
        load_images(str(tmp_path))


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(
        DataError, match="holds CIFAR as Python pickles, which run code when they are opened, so they are not; take the binary version"
    ):
        load_images(str(tmp_path))


# the hub


def fake_hub(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> list[tuple[str, str, bool]]:
    asked: list[tuple[str, str, bool]] = []

    def download(repository: str, name: str, *, repo_type: str, local_files_only: bool = False) -> str:
        asked.append((repository, name, local_files_only))
        if folder is None or local_files_only:
            raise ConnectionError("no route to host")
        return str(folder / f"{name.rpartition('/')[2].partition('-')[0]}.parquet")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


@pytest.mark.parametrize("name", HUB)
def test_names_come_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    asked = fake_hub(monkeypatch, write(tmp_path, table(3), table(2)))
    images = load_images(name)
    assert (len(images.train), len(images.test)) == (3, 2)
    assert [local for *_, local in asked] == [True, False] * 2
    assert {repository for repository, *_ in asked} == {HUB[name].repository}


def test_offline_says_so_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, None)
    with pytest.raises(
        DataError, match=r"'cifar-10' could not be fetched .*\(ConnectionError\): there may be no network.*or --data digits"
    ):
        load_images("cifar-10")


def test_a_name_that_means_nothing_gets_a_guess() -> None:
    with pytest.raises(
        DataError,
        match=r"no data set 'cifar10': it is neither a folder that is there nor one of digits, cifar-10, mnist; did you mean 'cifar-10'\?",
    ):
        load_images("cifar10")


# folder trees


def plant(root: Path, *folders: str, count: int = 3, side: int = 90) -> Path:
    """A tree with ``count`` pictures in each folder."""
    for place, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(noise(side, side + 5 * number, 3, seed=place * 100 + number)).save(
                root / folder / f"{number}.{'jpg' if number else 'PNG'}"
            )
    return root


@pytest.mark.parametrize("valid", ["val", "valid", "validation"])
def test_a_tree_with_train_and_val(tmp_path: Path, valid: str) -> None:
    images = load_images(str(plant(tmp_path, "train/dog", "train/cat/deep", f"{valid}/cat", f"{valid}/dog")))
    assert images.classes == ("cat", "dog")
    assert (len(images.train), images.train.labels.tolist()) == (6, [0, 0, 0, 1, 1, 1])
    assert images.valid is not None
    assert images.test is images.valid
    assert images.shape == (3, 224, 224)
    assert isinstance(images.train.pixels, Files)
    batch, labels = Batches(images.train, 4, seed=0, augment=True)[0]
    assert batch.shape == (4, 3, 224, 224)
    assert batch.isfinite().all()
    assert labels.shape == (4,)


def test_a_validation_split_of_a_tree_leaves_val_for_the_test(tmp_path: Path) -> None:
    images = load_images(str(plant(tmp_path, "train/a", "train/b", "val/a", "val/b")), validation=1 / 3)
    assert images.valid is not None
    assert (len(images.train), len(images.valid), len(images.test)) == (4, 2, 6)
    assert images.test.pixels is not images.valid.pixels


def test_a_tree_with_three_folders(tmp_path: Path) -> None:
    plant(tmp_path, "train/a", "train/b", count=2)
    plant(tmp_path / "val", "a", "b", count=3)
    plant(tmp_path / "test", "a", "b", count=4)
    images = load_images(str(tmp_path))
    assert images.valid is not None
    assert (len(images.train), len(images.valid), len(images.test)) == (4, 6, 8)


def test_pictures_without_labels_are_no_test(tmp_path: Path) -> None:
    """As in ImageNet, whose test images lie side by side."""
    plant(tmp_path, "train/a", "train/b", "val/a", "val/b", "test")
    images = load_images(str(tmp_path))
    assert images.test is images.valid
    assert len(images.test) == 6


def test_class_folders_alone_are_divided(tmp_path: Path) -> None:
    plant(tmp_path, "a", "b", count=5)
    with pytest.raises(
        DataError, match=r"has images to train on and none to test on; hold some back with --validation-split 0\.1, or add a folder val/"
    ):
        load_images(str(tmp_path))
    images = load_images(str(tmp_path), validation=0.2)
    assert (len(images.train), len(images.test), images.classes) == (8, 2, ("a", "b"))
    assert images.test is images.valid


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)])
def test_a_tree_for_a_small_model_is_kept_in_memory(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    images = load_images(str(plant(tmp_path, "train/a", "train/b", "val/a", "val/b", side=32)), shape=shape)
    assert isinstance(images.train.pixels, Memory)
    assert images.train.pixels.images.shape == (6, *shape)
    if shape == (3, 32, 32):  # the first has the very size: nothing is resized, nothing cut off
        np.testing.assert_array_equal(images.train.pixels.images[0].permute(1, 2, 0).numpy(), noise(32, 32, 3))
    assert Batches(images.train, 4, seed=0, augment=True)[0][0].shape == (4, *shape)


def test_a_tree_that_changes_has_another_checksum(tmp_path: Path) -> None:
    plant(tmp_path, "train/a", "train/b", "val/a", "val/b")
    one, again = (load_images(str(tmp_path)).checksum for _ in range(2))
    (tmp_path / "train/a/0.PNG").rename(tmp_path / "train/a/9.PNG")
    assert one == again != load_images(str(tmp_path)).checksum


def test_classes_that_differ_are_named(tmp_path: Path) -> None:
    plant(tmp_path, "train/cat", "train/dog", "val/cat", "val/cow")
    with pytest.raises(
        DataError,
        match=r"val has other classes than .*train: it lacks 'dog' and has besides 'cow'; the class folders of both must be the same",
    ):
        load_images(str(tmp_path))


def test_a_tree_without_train_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "val/cat", "val/dog")
    with pytest.raises(DataError, match=r"has val/ and no train/; add it"):
        load_images(str(tmp_path))


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no images in class folders; --data takes a folder with train/CLASS"):
        load_images(str(tmp_path))
    plant(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    shutil.rmtree(tmp_path / "train/dog")
    (tmp_path / "train/dog").mkdir()
    with pytest.raises(DataError, match=r"train has classes without an image: 'dog'; remove their folders or fill them"):
        load_images(str(tmp_path))


@pytest.mark.parametrize("shape", [(3, 224, 224), (3, 32, 32)])
def test_a_truncated_photograph_is_named(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    plant(tmp_path, "train/a", "train/b", "val/a", "val/b")
    file = tmp_path / "train/b/2.jpg"
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(DataError, match=r"(?i)train/b/2\.jpg cannot be read as an image \(.*truncated.*\); replace or remove it"):
        list(Batches(load_images(str(tmp_path), shape=shape).train, 2))


def test_channels_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, "train/a", "val/a")
    for data in ("digits", str(tmp_path)):
        with pytest.raises(DataError, match=r"the model takes images of 4 channels; of '.*' they can be had with 1 or 3"):
            load_images(data, shape=(4, 32, 32))
