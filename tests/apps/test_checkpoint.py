"""Checkpoints: exact round trips, whole or not at all, and errors that name the file and the remedy."""

import json
import math
import os
import random
import struct
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.apps import _replace
from limbeck.apps._tree import decode, encode
from limbeck.apps.checkpoint import INDEX, MODEL, SCHEDULE, STATE, is_checkpoint, load_checkpoint, save_checkpoint
from limbeck.apps.rng import rng_state, set_rng_state
from limbeck.errors import CheckpointError

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
RARE = ["complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"]


class Tied(nn.Module):
    """A model with a tied pair, a buffer, and a module whose own name is a wrapper's."""

    def __init__(self, tied: bool = True, size: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Embedding(5, size)
        self.module = nn.Linear(size, size)
        self.norm = nn.BatchNorm1d(size)
        self.decoder = nn.Linear(size, 5)
        if tied:
            self.decoder.weight = self.encoder.weight


def same(one: object, other: object) -> bool:
    """Equal in type, order, structure and bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)
    if isinstance(one, dict) and isinstance(other, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    return one == other


def equal(model: nn.Module, other: nn.Module) -> bool:
    return same(dict(model.state_dict()), dict(other.state_dict()))


def tensor(dtype: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    kind = getattr(torch, dtype)
    size = math.prod(shape) * torch.empty((), dtype=kind).element_size()
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 2 if dtype == "bool" else 256, (size,), dtype=torch.uint8, generator=generator)
    return raw.view(kind).reshape(shape)


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
tensors = st.builds(tensor, st.sampled_from(DTYPES + RARE), shapes, st.integers(0, 9))
texts = st.text(alphabet=st.characters(exclude_categories=()), max_size=8)  # lone surrogates included
keys = st.one_of(texts, st.integers(), st.sampled_from(["$tensor", "__metadata__", "a/b", "0", 0]))
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, tensors)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3).map(OrderedDict),
        st.dictionaries(keys, st.integers(), max_size=3).map(Counter),
    ),
    max_leaves=12,
)


@given(trees)
@settings(max_examples=150, deadline=None)
def test_a_tree_survives_json_exactly(tree: object) -> None:
    node, held = encode(tree)
    assert same(decode(json.loads(json.dumps(node, allow_nan=False)), held), tree)


@given(st.dictionaries(keys, trees, max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_state_survives_the_disk_exactly(tmp_path_factory: pytest.TempPathFactory, state: object) -> None:
    folder = tmp_path_factory.mktemp("run") / "last"
    save_checkpoint(folder, nn.Linear(1, 1), state)
    assert same(load_checkpoint(folder).state, state)


@pytest.mark.parametrize("dtype", DTYPES + RARE)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (4, 6)])
def test_tensors_of_every_dtype_and_shape(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    original = tensor(dtype, shape, 1)
    state = {
        "plain": original,
        "moved": original.mT if original.dim() > 1 else original,
        "part": original[1:, ::2] if shape == (4, 6) else original,
    }
    save_checkpoint(tmp_path / "last", nn.Linear(1, 1), state)
    assert same(load_checkpoint(tmp_path / "last").state, state)


def test_shared_tensors_are_stored_once_and_come_back_shared(tmp_path: Path) -> None:
    big = torch.randn(1000)
    save_checkpoint(
        tmp_path / "last",
        nn.Linear(1, 1),
        {"one": big, "two": [big], "view": big[:500], "rest": big[500:], "conj": torch.tensor([1j]).conj()},
    )
    state = load_checkpoint(tmp_path / "last").state
    assert state["one"] is state["two"][0]
    assert torch.equal(state["view"], big[:500])
    assert torch.equal(state["rest"], big[500:])
    assert state["conj"].item() == -1j
    assert (tmp_path / "last" / STATE).stat().st_size < 2.5 * 4000


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": [1, {2, 3}]}, "state/a/1 is of type builtins.set"),
        ({"a": {"b": np.float64(1)}}, "state/a/b is of type numpy.float64"),
        ({"a": defaultdict(int)}, "state/a is of type collections.defaultdict"),
        ({"a": torch.Size([2])}, "state/a is of type torch.Size"),
        ({"a": {True: 1}}, "state/a has the key True of type bool"),
        ({"a": {(1, 2): 1}}, "state/a has the key (1, 2) of type tuple"),
        ({"a": Counter([1.5])}, "state/a has the key 1.5 of type float"),
        ({"a": torch.eye(2).to_sparse()}, "state/a is not a dense tensor"),
        ({"a": torch.empty(2, device="meta")}, "state/a is not a dense tensor"),
    ],
)
def test_what_cannot_be_held_is_named_and_nothing_is_written(tmp_path: Path, state: object, said: str) -> None:
    with pytest.raises(CheckpointError) as error:
        save_checkpoint(tmp_path / "last", nn.Linear(1, 1), state)
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_tree_that_holds_itself(tmp_path: Path) -> None:
    state: list[object] = []
    state.append(state)
    with pytest.raises(CheckpointError, match="holds itself"):
        save_checkpoint(tmp_path / "last", nn.Linear(1, 1), state)


def test_a_model_comes_back_with_its_ties_and_is_saved_under_its_own_names(tmp_path: Path) -> None:
    model, fresh = Tied(), Tied()
    save_checkpoint(tmp_path / "last", model, {}, schedule="version: 1  # größer\n")
    checkpoint = load_checkpoint(tmp_path / "last")
    checkpoint.restore_model(fresh)
    assert equal(model, fresh)
    assert fresh.decoder.weight is fresh.encoder.weight
    assert list(checkpoint.model) == sorted(set(model.state_dict()) - {"decoder.weight"})
    assert checkpoint.aliases == {"decoder.weight": "encoder.weight"}
    assert checkpoint.schedule == "version: 1  # größer\n"
    assert {path.name for path in (tmp_path / "last").iterdir()} == {MODEL, STATE, INDEX, SCHEDULE}


@pytest.mark.parametrize(
    "wrap",
    [lambda model: model, nn.DataParallel, lambda model: torch.compile(model, backend="eager")],
    ids=["plain", "parallel", "compiled"],
)
def test_wrapped_models_write_and_read_the_same_checkpoint(tmp_path: Path, wrap: object) -> None:
    model, fresh = Tied(), Tied()
    save_checkpoint(tmp_path / "plain", model, {})
    save_checkpoint(tmp_path / "wrapped", wrap(model), {})
    assert (tmp_path / "plain" / MODEL).read_bytes() == (tmp_path / "wrapped" / MODEL).read_bytes()
    load_checkpoint(tmp_path / "plain").restore_model(wrap(fresh))
    assert equal(model, fresh)


def test_names_with_and_without_an_inner_wrapper_meet(tmp_path: Path) -> None:
    plain, parallel = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.DataParallel(nn.Linear(2, 2)))
    save_checkpoint(tmp_path / "last", parallel, {})
    load_checkpoint(tmp_path / "last").restore_model(plain)
    assert torch.equal(plain[0].weight, parallel[0].module.weight)


def test_names_that_differ_only_in_a_wrapper_part_stay_apart(tmp_path: Path) -> None:
    class Twin(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.module = nn.Linear(2, 2)

    model, fresh = Twin(), Twin()
    save_checkpoint(tmp_path / "last", model, {})
    load_checkpoint(tmp_path / "last").restore_model(fresh)
    assert equal(model, fresh)


def test_a_model_that_does_not_fit_hears_every_fault_and_is_left_alone(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last", nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2, bias=False), "old": nn.PReLU()}), {})
    model = nn.ModuleDict({"one": nn.Linear(2, 3), "two": nn.Linear(2, 2, bias=False).double(), "olds": nn.PReLU()})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "last").restore_model(model)
    assert str(error.value) == (
        f"{tmp_path / 'last'} is not a checkpoint of this model: 5 tensors do not fit\n"
        "  old.weight: unexpected, the model has no such tensor\n"
        "  olds.weight: missing in the checkpoint; did you mean 'old.weight'?\n"
        "  one.bias: shape (2,) in the checkpoint, (3,) in the model\n"
        "  one.weight: shape (2, 2) in the checkpoint, (3, 2) in the model\n"
        "  two.weight: torch.float32 in the checkpoint, torch.float64 in the model; convert it first: model.to(torch.float32)"
    )
    assert same(dict(model.state_dict()), before)


@pytest.mark.parametrize("tied", [True, False])
def test_ties_on_one_side_only_are_a_fault(tmp_path: Path, tied: bool) -> None:
    save_checkpoint(tmp_path / "last", Tied(tied=not tied), {})
    remedy = "not in the checkpoint; build the model untied" if tied else "not in the model; build the model tied"
    with pytest.raises(CheckpointError, match=f"decoder.weight: tied to encoder.weight in the .*, {remedy}"):
        load_checkpoint(tmp_path / "last").restore_model(Tied(tied=tied))


def test_an_optimizer_and_its_schedule_go_on_bit_for_bit(tmp_path: Path) -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        torch.manual_seed(0)
        model = Tied()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return model, optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])

    def run(steps: int, model: nn.Module, optimizer: torch.optim.Optimizer, rate: torch.optim.lr_scheduler.LRScheduler) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model.decoder(model.norm(model.module(model.encoder(torch.randint(5, (4,)))))).square().sum().backward()
            optimizer.step()
            rate.step()

    straight = build()
    run(3, *straight)
    save_checkpoint(
        tmp_path / "last", straight[0], {"optimizer": straight[1].state_dict(), "rate": straight[2].state_dict(), "rng": rng_state()}
    )
    run(4, *straight)
    resumed = build()
    checkpoint = load_checkpoint(tmp_path / "last")
    checkpoint.restore_model(resumed[0])
    resumed[1].load_state_dict(checkpoint.state["optimizer"])
    resumed[2].load_state_dict(checkpoint.state["rate"])
    set_rng_state(checkpoint.state["rng"])
    run(4, *resumed)
    assert equal(straight[0], resumed[0])


def test_all_generators_are_restored(tmp_path: Path) -> None:
    random.gauss(0, 1)
    save_checkpoint(tmp_path / "last", nn.Linear(1, 1), rng_state())
    drawn = [(random.gauss(0, 1), random.random(), np.random.standard_normal(), torch.randn(3).tolist())]
    set_rng_state(load_checkpoint(tmp_path / "last").state)
    drawn.append((random.gauss(0, 1), random.random(), np.random.standard_normal(), torch.randn(3).tolist()))
    assert drawn[0] == drawn[1]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "last", nn.Linear(8, 8), {"step": 1, "masks": torch.ones(64)}, schedule="version: 1\n")
    return tmp_path / "last"


@pytest.mark.parametrize("name", [MODEL, STATE, INDEX, SCHEDULE])
def test_damage_to_each_file_is_found_and_named(saved: Path, name: str) -> None:
    path = saved / name
    whole = path.read_bytes()
    damaged = {"cut": whole[:-5], "empty": b"", "longer": whole + b"x"}
    for position in (0, len(whole) // 3, len(whole) // 2, len(whole) - 2):
        damaged[f"bit {position}"] = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
    for kind, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(saved)
        assert str(path) in str(error.value), kind
        assert "take another checkpoint" in str(error.value) or "name a folder" in str(error.value), kind
    path.unlink()
    with pytest.raises(CheckpointError, match=r"is missing; take another|it has no state\.json; name a folder"):
        load_checkpoint(saved)
    path.mkdir()
    with pytest.raises(CheckpointError, match=r"cannot be read: Is a directory|it has no state\.json"):
        load_checkpoint(saved)


def test_what_is_no_checkpoint_is_refused_with_the_remedy(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / INDEX).write_text('{"weights": 1}')
    said = {
        "absent": "absent does not exist; name a folder",
        "file": "file is a file, not a checkpoint folder; name a folder",
        "empty": "empty is an empty folder; name a folder",
        "photos": "photos is not a Limbeck checkpoint: it has no state.json; name a folder",
        "other": "state.json is not from Limbeck; name a folder",
        ".": f"is not a Limbeck checkpoint: it has no state.json; did you mean {saved}?",
    }
    for name, message in said.items():
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(tmp_path / name)
        assert message in str(error.value)


def test_another_version_says_so(saved: Path) -> None:
    index = json.loads((saved / INDEX).read_text())
    (saved / INDEX).write_text(json.dumps({**index, "version": 9}))
    with pytest.raises(CheckpointError, match=r"state\.json is of version 9, this Limbeck reads version 1; use the Limbeck that wrote it"):
        load_checkpoint(saved)


def test_white_space_is_no_damage(saved: Path) -> None:
    (saved / INDEX).write_text(json.dumps(json.loads((saved / INDEX).read_text()), indent=2))
    assert load_checkpoint(saved).state["step"] == 1


def test_a_place_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("x")
    with pytest.raises(CheckpointError, match="holds something else than a checkpoint"):
        save_checkpoint(tmp_path / "photos", nn.Linear(1, 1), {})
    with pytest.raises(CheckpointError, match="is a file; save to another folder"):
        save_checkpoint(tmp_path / "photos" / "cat.png", nn.Linear(1, 1), {})
    assert (tmp_path / "photos" / "cat.png").read_text() == "x"


def test_a_link_keeps_pointing_to_where_the_checkpoint_is(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "link").symlink_to(saved)
    save_checkpoint(tmp_path / "link", nn.Linear(1, 1), {"step": 2})
    assert (tmp_path / "link").is_symlink()
    assert load_checkpoint(saved).state == {"step": 2}


def number(folder: Path) -> int:
    """The step of a checkpoint whose model says the same."""
    checkpoint = load_checkpoint(folder)
    assert checkpoint.model["weight"].unique().tolist() == [checkpoint.state["step"]]
    return int(checkpoint.state["step"])


def save(folder: Path, step: int) -> None:
    model = nn.Linear(4, 4, bias=False)
    nn.init.constant_(model.weight, step)
    save_checkpoint(folder, model, {"step": step})


@pytest.mark.parametrize("kind", [OSError("No space left on device"), KeyboardInterrupt()], ids=["disk full", "Ctrl-C"])
@pytest.mark.parametrize("function", ["rename", "fsync", "open", "mkdir"])
def test_a_failure_at_any_call_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, kind: BaseException
) -> None:
    """``dead`` fails once and recovers at once, or leaves everything after it failing too (a full disk, a lost mount)."""
    folder, original = tmp_path / "last", getattr(os, function)
    save(folder, 0)
    newest = 0
    for forever in (False, True):
        for failing in range(9):
            calls = iter(range(1000))

            def fail(*args: object, calls=calls, failing=failing, forever=forever, **kwargs: object) -> object:  # noqa: ANN001
                call = next(calls)
                if call == failing or (forever and call > failing):
                    raise kind
                return original(*args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(os, function, fail)
                try:
                    save(folder, newest + 1)
                    stands = {newest + 1}
                except (CheckpointError, KeyboardInterrupt):
                    stands = {newest, newest + 1}
            assert number(folder) in stands
            newest = number(folder)
    save(folder, newest + 1)
    assert number(folder) == newest + 1
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_crash_between_the_renames_is_recovered_by_load_and_by_save(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    save(folder, 1)
    folder.rename(tmp_path / ".last.old")
    (tmp_path / ".last.new").mkdir()
    (tmp_path / ".last.new" / MODEL).write_text("half")
    assert number(folder) == 1
    assert _replace.standing(folder).name == ".last.old"
    assert is_checkpoint(folder)
    assert not is_checkpoint(tmp_path)
    with pytest.raises(CheckpointError):
        save_checkpoint(folder, nn.Linear(1, 1), {"bad": object()})
    assert number(folder) == 1
    save(folder, 2)
    assert number(folder) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


LOOP = """
import os, random, signal, sys, time
import torch
from torch import nn
from limbeck.apps.checkpoint import load_checkpoint, save_checkpoint

torch.set_num_threads(1)
folder, kills = sys.argv[1], int(sys.argv[2])

def save_forever(step, reports):
    model = nn.Linear(200, 200, bias=False)
    while True:
        nn.init.constant_(model.weight, step)
        save_checkpoint(folder, model, {"step": step, "momentum": torch.full((200, 200), float(step))})
        os.write(reports, b"%d\\n" % step)
        step += 1

if not kills:
    save_forever(1, 1)
chance, step = random.Random(0), 0
for _ in range(kills):
    ours, theirs = os.pipe()
    if not (child := os.fork()):
        save_forever(step, theirs)
    os.close(theirs)
    reported = int(os.read(ours, 100).split()[-1])  # the first save stands
    time.sleep(chance.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(ours) as rest:
        reported = max([reported, *map(int, rest.read().split())])
    checkpoint = load_checkpoint(folder)
    found = checkpoint.state["step"]
    assert reported <= found <= reported + 1, (reported, found)
    for tensor in (checkpoint.model["weight"], checkpoint.state["momentum"]):
        assert (tensor == found).all(), (found, tensor)
    step = found + 1
print("cut off in the middle:", os.path.exists(os.path.join(os.path.dirname(folder), ".last.new")))
"""


def saving(folder: Path, kills: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(_replace.__file__).parents[2])}
    command = [sys.executable, "-c", LOOP, str(folder), str(kills)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """SIGKILL at random moments of a loop that does nothing but save, 40 times; what was reported as saved is never lost."""
    with saving(tmp_path / "last", kills=40) as process:
        said, complaints = process.communicate()
    assert process.returncode == 0, complaints
    assert said.startswith("cut off in the middle")


def test_reading_while_another_process_saves(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    with saving(folder, kills=0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        steps = [int(load_checkpoint(folder).state["step"]) for _ in range(100)]
        process.kill()
    assert steps == sorted(steps)
    assert steps[-1] > steps[0]
