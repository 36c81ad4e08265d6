"""What the benchmarks compare is the same thing; how fast it is, no test asks."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from exact_nonzeros import expected
from images_throughput import APPLICATION, PRUNED, split_of
from images_throughput import PLAIN as PLAIN_LOOP
from images_throughput import race as images_race
from limbeck.apps.lm.data import Batches, batchify
from limbeck.apps.translation.hparams import Sizes as TranslationSizes
from lm_tasks import Sizes, zipf
from lm_throughput import TOLERANCE, race
from modular_lstm import KINDS, PASSES, pair
from quantized_lstm import forms as quantized_forms
from scheduler_overhead import APPLIED, PLAIN, RENEWED, LanguageModelLoss, Task, measure
from timing import OwnRandomness, blocks_in_turns, quartiles
from translation_speed import batches_of as translation_batches
from translation_speed import race as translation_race

SMALL = Sizes(16, 16, vocabulary=300, batch=4, bptt=8)


def batches(steps: int) -> Batches:
    return Batches(batchify(zipf(SMALL.batch * (SMALL.bptt * steps + 1), SMALL.vocabulary), SMALL.batch), SMALL.bptt)


@pytest.mark.parametrize(
    "name",
    [
        "exact_nonzeros",
        "group_penalty",
        "image_batches",
        "images_throughput",
        "lm_throughput",
        "mask_renewal",
        "modular_lstm",
        "quantized_lstm",
        "schedule_load",
        "scheduler_overhead",
        "thinned_speed",
        "translation_speed",
    ],
)
def test_a_benchmark_says_what_it_asks(root: Path, name: str) -> None:
    script = root / "benchmarks" / f"{name}.py"
    shown = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True).stdout
    assert f"python benchmarks/{name}.py" in shown
    assert "?" in shown


@pytest.mark.parametrize("tied", [True, False])
def test_the_application_trains_the_textbooks_model(tied: bool) -> None:
    sizes = Sizes(16, 16, vocabulary=300, batch=4, bptt=8, tied=tied)
    times, difference, last = race(sizes, batches(20), steps=5, rounds=3)
    assert [len(taken) for taken in times.values()] == [3, 3]
    assert difference < TOLERANCE
    assert last < 5.7  # nats; log(300), without having learnt anything


@pytest.mark.parametrize("kind", KINDS)
def test_torch_s_recurrent_modules_and_the_modular_ones_hold_the_same_weights(kind: str) -> None:
    modules = pair(kind, units=4, layers=2, bidirectional=True, device="cpu")
    x = torch.randn(3, 2, 4)
    results = {name: [run(module, x) for run in PASSES.values()] for name, module in modules.items()}
    torch.testing.assert_close(results["modular"], results["torch"], rtol=0, atol=1e-6)


def test_the_quantized_lstm_is_near_the_one_it_was_made_of() -> None:
    results = {name: make()() for name, make in quantized_forms(units=4, steps=3, batch=2, device="cpu").items()}
    torch.testing.assert_close(results["modular"], results["torch"], rtol=0, atol=1e-6)
    assert not torch.equal(results["int8"], results["torch"])
    torch.testing.assert_close(results["int8"], results["torch"], rtol=0, atol=0.05)
    torch.testing.assert_close(results["fp16"], results["torch"], rtol=0, atol=1e-3)


def test_every_loop_of_the_classifiers_trains_and_one_prunes() -> None:
    times, sparsity = images_race("simplenet_cifar", split_of(None, "simplenet_cifar", 256), block=1, rounds=1)
    assert [len(taken) for taken in times.values()] == [1, 1, 1]
    assert sparsity == pytest.approx({PLAIN_LOOP: 0, APPLICATION: 0, PRUNED: 0.8}, abs=0.01)


def test_every_loop_of_the_overhead_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler_overhead.EVERY", 4)
    monkeypatch.setattr("scheduler_overhead.BLOCK", 2)
    tasks = []

    def make() -> Task:
        model = SMALL.model()
        tasks.append(Task(model, batches(12), LanguageModelLoss(model, SMALL.batch), partial(torch.optim.SGD, lr=1.0), clip=0.25))
        return tasks[-1]

    assert [row[0] for row in measure(make, rounds=2)] == [PLAIN, APPLIED, RENEWED]
    sparsity = [1 - task.model.encoder.weight.count_nonzero().item() / (300 * 16) for task in tasks]
    assert sparsity == pytest.approx([0, 0.8, 0.8])


def test_the_plain_translation_model_is_the_same_one() -> None:
    sizes = TranslationSizes(width=8, heads=2, encoder_layers=2, decoder_layers=1, ffn=16)
    data, vocabulary = translation_batches(None, tokens=256, vocabulary=40)
    times, difference = translation_race(sizes, data, vocabulary, block=1, rounds=1)
    assert [len(taken) for taken in times.values()] == [1, 1]
    assert difference < 1e-4


def test_loops_that_take_turns_draw_the_same_numbers() -> None:
    def draws() -> object:
        while True:
            yield torch.rand(()).item()

    _, drawn = blocks_in_turns({"one": draws(), "other": draws()}, steps=3, rounds=4, random=OwnRandomness(7))
    assert drawn["one"] == drawn["other"]
    assert len(set(drawn["one"])) == 12


def test_the_independent_formula() -> None:
    agp = {"initial_sparsity": 0.0, "final_sparsity": 0.8, "weights": ["w"]}
    policy = {"pruner": {"instance_name": "agp"}, "starting_epoch": 2, "ending_epoch": 7, "frequency": 2}
    assert list(expected({"pruners": {"agp": agp}, "policies": [policy]}, {"w": 1000})) == [(2, "w", 1000), (4, "w", 300), (6, "w", 200)]


def test_quartiles() -> None:
    assert quartiles([3.0, 1.0, 2.0]) == (1.5, 2.0, 2.5)
    assert quartiles([4.0]) == (4.0, 4.0, 4.0)
