"""The law of state, for translation: stop at any step, resume, and the final tensors are equal bit for bit, averages and logs included."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apps.translation.conftest import PRUNED, SMALL, invoke, rows_of
from limbeck.apps.checkpoint import step_of
from limbeck.apps.record import Recorder
from limbeck.apps.translation.session import Session
from limbeck.apps.translation.track import Tracker

RUN = f"{SMALL} {PRUNED} --update_cycle 2 --train_steps 20 --eval_steps 4 --save_checkpoint_steps 5 --eval_top_checkpoints_to_keep 3"
"""Twelve steps of pruning among twenty, in epochs of a few steps; validations and checkpoints at other steps than renewals."""


class Killed(BaseException):
    """The process is gone."""


def killed_at(step: int, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a training that is gone after a step, when its checkpoints of that step are written."""
    keep = Tracker.keep

    def kill(tracker: Tracker, validated: bool) -> None:
        keep(tracker, validated)
        if tracker.session.scheduler.clock.step == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "keep", kill)
        with pytest.raises(Killed):
            raise invoke(line).exception or AssertionError("the run was over before")


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return {f"{name}/{key}": value for name in ("model", "state") for key, value in load_file(path / f"{name}.safetensors").items()}


def assert_equal_runs(one: Path, other: Path) -> None:
    """Checkpoints of every kind, what the logs say of losses and sparsity, and the record."""
    kept = [sorted(path.parent.relative_to(run) for path in run.rglob("state.json")) for run in (one, other)]
    assert kept[0] == kept[1]
    for name in kept[0]:
        first, second = tensors(one / name), tensors(other / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    records = [json.loads((run / "run.json").read_text()) for run in (one, other)]
    for key in ("nonzeros", "averaged_steps", "validation_bleu", "best_step", "tests", "finished", "steps"):
        assert records[0][key] == records[1][key], key
    tables = [[line.rsplit(",", 1)[0] for line in (run / "metrics.csv").read_text().splitlines()] for run in (one, other)]
    assert tables[0] == tables[1]
    for name in ("sparsity.csv", "pruning.csv"):
        assert (one / name).read_text() == (other / name).read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """The run that nothing stops."""
    run = tmp_path_factory.mktemp("whole") / "run"
    result = invoke(f"translate train --data {folder} {RUN} --save {run}")
    assert result.exit_code == 0, result.output
    return run


@pytest.mark.parametrize("step", [7, *(pytest.param(step, marks=pytest.mark.long) for step in (4, 9, 12, 17, 20))])
def test_a_run_that_was_killed_resumes_to_the_same_bits(
    tmp_path: Path, folder: Path, whole: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    killed_at(step, f"translate train --data {folder} {RUN} --save {run}", monkeypatch)
    result = invoke(f"translate train --resume {run}")
    assert result.exit_code == 0, result.output
    assert_equal_runs(whole, run)


def test_a_run_that_was_killed_while_it_was_saving_goes_on_without_what_was_half_done(
    tmp_path: Path, folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the validation at step 16 had its best checkpoint and its average written, and before ``last`` knew of them."""
    run, save = tmp_path / "run", Recorder.save

    def kill(recorder: Recorder[Session], name: str) -> None:
        if recorder.session.scheduler.clock.step == 16:
            raise Killed
        save(recorder, name)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "save", kill)
        with pytest.raises(Killed):
            raise invoke(f"translate train --data {folder} {RUN} --save {run}").exception or AssertionError("the run was over before")
    result = invoke(f"translate train --resume {run}")
    assert result.exit_code == 0, result.output
    assert_equal_runs(whole, run)


def test_a_longer_run_is_the_same_run(tmp_path: Path, folder: Path, whole: Path) -> None:
    """Twelve steps, and on to twenty: what a run of twenty steps does, but for the validation after the twelfth."""
    run = tmp_path / "run"
    assert invoke(f"translate train --data {folder} {RUN} --train_steps 12 --save {run}").exit_code == 0
    result = invoke(f"translate train --resume {run} --train_steps 20")
    assert result.exit_code == 0, result.output
    assert all(torch.equal(*pair) for pair in zip(*(tensors(each / "last").values() for each in (whole, run)), strict=True))


def test_ctrl_c_keeps_a_checkpoint_tests_the_average_and_goes_on_to_the_same_bits(
    tmp_path: Path, folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, after = tmp_path / "run", Tracker.after_step

    def ask(tracker: Tracker) -> bool:
        tracker.interrupt.asked = tracker.session.scheduler.clock.step == 6
        return after(tracker)

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "after_step", ask)
        result = invoke(f"translate train --data {folder} {RUN} --save {run}")
    assert f"stopped before the end; go on with: limbeck translate train --resume {run}" in result.output.replace("\n", "")
    record = json.loads((run / "run.json").read_text())
    assert (record["finished"], record["steps"], set(record["tests"])) == (False, 6, {"test_a"})
    tested = [float(row["sparsity"]) for row in rows_of(run / "metrics.csv") if row["split"] == "test_a"]
    assert tested == pytest.approx([record["sparsity"]])  # of the average, which is tested, and not of the model in training
    assert "the checkpoint of step 4: test_a loss" in result.output
    assert "\nBLEU: nrefs:1|case:mixed|eff:no|tok:13a" in result.output
    assert invoke(f"translate train --resume {run}").exit_code == 0
    assert_equal_runs(whole, run)  # without the rows of the tests of step 6


@pytest.mark.parametrize("split", ["average", pytest.param("validation", marks=pytest.mark.long)])
def test_a_request_to_end_does_not_wait_for_a_validation(
    tmp_path: Path, folder: Path, whole: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 20, which has a numbered checkpoint, too; the resumed run validates first."""
    run, before_batch = tmp_path / "run", Tracker.before_batch

    def ask(tracker: Tracker) -> None:
        tracker.interrupt.asked = tracker.interrupt.hurried = tracker.session.global_step == 20 and tracker.progress.description == split
        before_batch(tracker)

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "before_batch", ask)
        result = invoke(f"translate train --data {folder} {RUN} --save {run}")
    assert result.exit_code == 0, result.output
    assert "the validation of step 20 is left to the run that goes on" in result.output
    record = json.loads((run / "run.json").read_text())
    assert (record["finished"], record["steps"], record["tests"]) == (False, 20, {})
    assert not (run / "best" / "ckpt-20").exists()
    result = invoke(f"translate train --resume {run}")
    assert result.exit_code == 0, result.output
    assert_equal_runs(whole, run)


def test_an_older_step_is_resumed_without_what_came_after_it(
    tmp_path: Path, folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    later = {path.parent.relative_to(run) for path in run.rglob("state.json")}
    killed_at(11, f"translate train --resume {run / 'ckpt-10'}", monkeypatch)
    aside = run / "aside-1"
    assert step_of(run / "last") == 10
    kept = {path.parent.relative_to(run) for path in run.rglob("state.json") if aside not in path.parents}
    assert kept == {path for path in later if path.name.startswith("ckpt-") and int(path.name[5:]) <= 10} | {Path("last")}
    assert {path.parent.relative_to(aside) for path in aside.rglob("state.json")} == later - kept | {Path("last")}
    result = invoke(f"translate train --resume {run}")
    assert result.exit_code == 0, result.output
    shutil.rmtree(aside)
    for name in later:
        first, second = tensors(whole / name), tensors(run / name)
        assert all(torch.equal(first[key], second[key]) for key in first), name


def test_what_a_run_carries_on_cannot_change(whole: Path) -> None:
    result = invoke(f"translate train --resume {whole} --learning_rate 0.1")
    assert "the run was saved without --learning-rate, not with 0.1; leave --learning-rate out" in str(result.exception)
    result = invoke(f"translate train --resume {whole} --update_cycle 3")
    assert result.exit_code == 1
    assert "the run was saved with --update-cycle 2, not 3" in str(result.exception)
    result = invoke(f"translate train --resume {whole} --train_steps 19")
    assert "the run has made 20 steps" in str(result.exception)
    result = invoke(f"translate train --resume {whole / 'best_avg'}")
    assert "holds a model to translate with" in str(result.exception)


def test_a_run_goes_on_in_another_folder(tmp_path: Path, folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_at(17, f"translate train --data {folder} {RUN} --save {tmp_path / 'first'}", monkeypatch)
    result = invoke(f"translate train --resume {tmp_path / 'first'} --save {tmp_path / 'second'}")
    assert result.exit_code == 0, result.output
    record, other = (json.loads((run / "run.json").read_text()) for run in (whole, tmp_path / "second"))
    assert (record["validation_bleu"], record["averaged_steps"]) == (other["validation_bleu"], other["averaged_steps"])
    assert torch.equal(*(load_file(run / "best_avg" / "model.safetensors")["encoder.norm.weight"] for run in (whole, tmp_path / "second")))
