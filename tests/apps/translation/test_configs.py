"""Options in files, flat and nested as NeurST's are, and the one place where options are declared."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import typer.main

from limbeck import NeurST
from limbeck.apps.translation.configs import SAME, read_configs
from limbeck.apps.translation.hparams import SIZES, Sizes
from limbeck.apps.translation.options import FIXED, HABITS, PRUNING_FIELDS, SIZE_FIELDS, TrainOptions
from limbeck.cli import app
from limbeck.errors import LimbeckError

NAMES = {field.name for field in fields(TrainOptions)}
NEURST = """\
entry.class: trainer
entry.params:
  train_steps: 250000
  save_checkpoints_steps: 1000
  criterion.class: label_smoothed_cross_entropy
  criterion.params: {label_smoothing: 0.2}
  optimizer.class: Adam
  optimizer.params: {epsilon: 1.e-9, beta_1: 0.8, beta_2: 0.98}
  lr_schedule.class: noam
  lr_schedule.params: {initial_factor: 2.0, dmodel: 1024, warmup_steps: 8000}
validator.class: SeqGenerationValidator
validator.params:
  eval_search_method.class: beam_search
  eval_search_method.params: {beam_size: 5}
  eval_metric.class: bleu
  eval_criterion.class: label_smoothed_cross_entropy
  eval_criterion.params: {label_smoothing: 0.0}
  eval_dataset.params: {batch_size: 7, source: newstest.en}
pretrain_model:
"""


def test_a_file_of_neurst_s(tmp_path: Path) -> None:
    (tmp_path / "training_args.yml").write_text(NEURST, encoding="utf-8")
    found, [note] = read_configs([tmp_path / "training_args.yml"])
    assert found == {
        "train_steps": 250_000, "save_checkpoint_steps": 1000, "label_smoothing": 0.2, "adam_epsilon": 1e-9, "adam_beta1": 0.8,
        "adam_beta2": 0.98, "lr_schedule": "noam", "lr_factor": 2.0, "warmup_steps": 8000, "beam_size": 5,
    }  # fmt: skip
    named = note.partition("without a counterpart here: ")[2].split(", ")
    assert {"entry", "entry.lr_schedule.dmodel", "validator"} <= set(named)
    assert {"validator.eval_criterion.label_smoothing", "validator.eval_dataset.batch_size", "validator.eval_dataset.source"} <= set(named)


def test_later_files_win(tmp_path: Path) -> None:
    for name, text in (("a", "width: 8\nheads: 2"), ("b", "heads: 4")):
        (tmp_path / f"{name}.yml").write_text(text, encoding="utf-8")
    assert read_configs([tmp_path / "a.yml", tmp_path / "b.yml"])[0] == {"width": 8, "heads": 4}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("trian_steps: 3", "line 1, trian_steps: no option is named 'trian_steps'; did you mean 'train_steps'?"),
        ("a: 1\nsummary_steps: 0", "line 2, summary_steps: 0 should be greater than or equal to 1"),
        ("optimizer.class: sgd", "optimizer 'sgd' is not what is done here, which is adam or adamw"),
        ("x.params: {train_step: 3}", "no option is named 'train_step'; did you mean 'train_steps'?"),
        ("task.params: {batch_by_tokens: false, batch_size: 64}", "batches are counted in subwords here, not in sentences"),
        ("[1]", "it must be a mapping of options"),
        ("command: rm", "no option is named 'command'"),
    ],
)
def test_faults_of_a_file_name_line_and_remedy(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.yml").write_text(text, encoding="utf-8")
    with pytest.raises(LimbeckError) as raised:
        read_configs([tmp_path / "a.yml"])
    assert fault in str(raised.value)


def test_every_option_of_the_command_is_a_field_once() -> None:
    """The command line is made of the fields: names, defaults, bounds."""
    command = typer.main.get_command(app).commands["translate"].commands["train"]  # type: ignore[attr-defined]
    made = {parameter.name: parameter for parameter in command.params}
    assert set(made) - NAMES == {"config_paths", "resume", "plan", "as_json"}
    assert NAMES - set(made) == {"command"}
    defaults = TrainOptions()
    assert all(made[name].default == getattr(defaults, name) for name in NAMES & set(made))
    assert all(made[name].help for name in made)


def test_lists_of_names_are_those_of_what_they_are_for() -> None:
    assert {field.name for field in fields(NeurST)} == set(PRUNING_FIELDS)
    assert {field.name for field in fields(Sizes)} == set(SIZE_FIELDS)
    assert set(HABITS) == set(SIZES)
    assert set(FIXED) <= NAMES
    assert set(SAME.values()) <= NAMES
    defaults, neurst = TrainOptions(), NeurST()
    assert all(getattr(defaults, name) == getattr(neurst, name) for name in PRUNING_FIELDS)


def test_sizes_are_those_of_the_set_but_for_the_ones_given() -> None:
    options = TrainOptions(hparams_set="transformer_big", ffn=64, tie_softmax=False)
    assert (options.sizes.width, options.sizes.ffn, options.sizes.tie_softmax, options.sizes.heads) == (1024, 64, False, 16)
    assert not TrainOptions(separate_vocabulary=True).sizes.share_embeddings
