"""``limbeck import``: what is printed passes the check, and trains as the options themselves do."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from limbeck import TFMOT, NeurST, attach, check_file, plan
from limbeck.cli import app

RUN = CliRunner()
EXAMPLE = (
    "--hparams_set transformer_big --pretrain_model big/ --model_dir pruned/ --initial_global_step 250000 --train_steps 10000 "
    "--summary_steps 200 --save_checkpoints_steps 400 --eval_beam_size 4 --pruning_schedule polynomial_decay --initial_sparsity 0 "
    "--target_sparsity 0.1 --begin_pruning_step 0 --end_pruning_step 500 --pruning_frequency 100 "
    "--nopruning_variable_pattern '(norm.weight)|(norm.bias)|(embed)'"
)
"""The command of NeurST's page on weight pruning, with the names of a PyTorch model in its pattern."""


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.rnn = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 11)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.out(self.norm(self.rnn(self.embed(words)).tanh()))
        return logits


def trained(route: Any, steps: int) -> Tiny:
    torch.manual_seed(4)
    model = Tiny()
    model.rnn.weight.data.view(-1)[::3] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    attach(optimizer, model, route)
    for words in torch.randint(11, (steps, 12), generator=torch.Generator().manual_seed(2)):
        optimizer.zero_grad()
        F.cross_entropy(model(words), words.flip(0)).backward()
        optimizer.step()
    return model


def printed(arguments: str) -> str:
    result = RUN.invoke(app, ["import", *shlex.split(arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore::limbeck.ScheduleWarning")  # of biases, which --prune_vectors asks for
@pytest.mark.parametrize(
    "options",
    [
        {"target_sparsity": 0.5, "end_pruning_step": 9, "pruning_frequency": 3},
        {"target_sparsity": 0.7, "initial_sparsity": 0.2, "begin_pruning_step": 2, "end_pruning_step": 11, "pruning_frequency": 4},
        {"target_sparsity": 0.5, "end_pruning_step": 8, "pruning_frequency": 1, "polynomial_power": 1.5, "prune_vectors": True},
        {"target_sparsity": 0.4, "end_pruning_step": 8, "pruning_frequency": 2, "pruning_variable_pattern": "rnn|^out"},
        {"target_sparsity": 0.4, "begin_pruning_step": 4, "end_pruning_step": 4, "nopruning_variable_pattern": r"(?i)(NORM)|\bembed"},
        {"target_sparsity": 0.4, "begin_pruning_step": 0, "end_pruning_step": 0},
        {"pruning_schedule": "constant_sparsity", "target_sparsity": 0.3, "pruning_frequency": 5},
        {"pruning_schedule": "ConstantSparsity", "target_sparsity": 0.3, "begin_pruning_step": 1, "keep_prune_property": False},
    ],
    ids=str,
)
def test_the_printed_file_trains_as_neurst_s_options_do(options: dict[str, Any], tmp_path: Path) -> None:
    flags = {name: value for name, value in options.items() if not isinstance(value, bool)}
    line = "--train_steps 60 " + " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in flags.items())
    line += " --prune_vectors" if options.get("prune_vectors") else ""
    line += " --no_keep_prune_property" if options.get("keep_prune_property") is False else ""
    file = tmp_path / "pruned.yaml"
    file.write_text(printed(f"neurst {line}"), encoding="utf-8")
    report = check_file(file, Tiny())
    assert report.ok, report.text()
    assert all("biases or gains" in str(warning) for warning in report.warnings)
    whole = trained(NeurST(**options), 14)
    assert same(trained(file, 14), whole)
    assert not same(trained(NeurST(), 14), whole)


def config(kind: str, **values: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": values}


RAMP = {"initial_sparsity": 0.2, "final_sparsity": 0.7, "end_step": 12}


@pytest.mark.parametrize(
    ("schedule", "flags", "more"),
    [
        (config("PolynomialDecay", **RAMP, begin_step=0, frequency=4, power=3), "", {}),
        (config("PolynomialDecay", **RAMP, begin_step=0, frequency=1, power=2), "", {}),
        (config("PolynomialDecay", **RAMP, begin_step=1, frequency=5), "--weights '*.weight'", {"weights": ["*.weight"]}),
        (config("PolynomialDecay", **RAMP, begin_step=3, frequency=3), "--block_size 2,4 --block_pooling_type MAX",
         {"block_size": (2, 4), "block_pooling_type": "MAX"}),
        (config("ConstantSparsity", target_sparsity=0.6, begin_step=0, end_step=-1, frequency=5), "--train_steps 50", {}),
        (config("ConstantSparsity", target_sparsity=0.6, begin_step=1), "--train_steps 15", {}),
        (config("ConstantSparsity", target_sparsity=0.5, begin_step=0), "--sparsity_m_by_n '(1, 4)'", {"sparsity_m_by_n": (1, 4)}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::limbeck.ScheduleWarning")  # of the norm's gains, which '*.weight' takes
def test_the_printed_file_trains_as_tfmot_s_options_do(schedule: dict[str, Any], flags: str, more: dict[str, Any], tmp_path: Path) -> None:
    source, file = tmp_path / "config.json", tmp_path / "pruned.yaml"
    source.write_text(json.dumps(schedule), encoding="utf-8")
    file.write_text(printed(f"tfmot {source} {flags}"), encoding="utf-8")
    report = check_file(file, Tiny())
    assert report.ok, report.text()
    assert same(trained(file, 15), trained(TFMOT(schedule, **more), 15))


def test_the_command_of_neurst_s_page() -> None:
    text = printed(f"neurst {EXAMPLE}")
    assert text == NEURST_FILE
    rows = {row.name: row for row in plan(text, Tiny()).rows}
    assert [name for name, row in rows.items() if row.timeline] == ["rnn.weight", "out.weight"]
    renewals = [firing for firing in rows["out.weight"].timeline if firing.time]
    assert [firing.time for firing in renewals] == [100, 200, 300, 400, 500]
    assert [firing.nonzeros for firing in renewals] == [84, 81, 80, 79, 79]  # of 88: 83.7, 81.1, 79.8, 79.3, 79.2, by the table of NeurST


NEURST_FILE = """\
# From NeurST's options, by limbeck import neurst; what differs: docs/optimizer.md.
# Steps are updates of the optimizer, from 0 on; ending_step is excluded.
# Step 0 is never seen: the first renewal is that of step 100.
# Biases and gains, which NeurST prunes, are left alone; --prune_vectors prunes them.
# nopruning_variable_pattern searches PyTorch's names.
# Left out, no pruning: eval_beam_size, hparams_set, initial_global_step, model_dir, pretrain_model, save_checkpoints_steps, summary_steps, train_steps.
version: 1
pruners:
  keep_zeros:
    class: KeepZerosPruner
    weights: ['matrices:not:re:.*(?:(norm.weight)|(norm.bias)|(embed)).*']
  polynomial_decay:
    class: PolynomialDecayPruner
    target_sparsity: 0.1
    initial_sparsity: 0.0
    power: 3.0
    begin_step: 0
    weights: ['matrices:not:re:.*(?:(norm.weight)|(norm.bias)|(embed)).*']
policies:
- pruner: {instance_name: keep_zeros}
  starting_step: 0
  ending_step: 1
- pruner:
    instance_name: polynomial_decay
    args: {after_step: true}
  starting_step: 100
  ending_step: 501
  frequency: 100
"""


def test_files_of_neurst_are_read_and_later_ones_win(tmp_path: Path) -> None:
    (tmp_path / "training_args.yml").write_text(
        "entry.class: trainer\nentry.params:\n  train_steps: 200000\n  summary_steps: 200\n  optimizer.class: adam\n"
        "  optimizer.params: {epsilon: 1.e-9, target_sparsity: 0.9}\n  pruning_schedule.class: constant_sparsity\n"
        "  pruning_schedule.params: {target_sparsity: 0.3, pruning_frequency: 50}\nbatch_size: 32\npretrain_model:\n",
        encoding="utf-8",
    )
    (tmp_path / "wordpiece.yml").write_text("target_sparsity: 0.4\nbegin_pruning_step: 7\n", encoding="utf-8")
    text = printed(f"neurst --config_paths {tmp_path}/training_args.yml,{tmp_path}/wordpiece.yml --begin_pruning_step 8")
    assert "target_sparsity: 0.4\n" in text
    assert "  starting_step: 8\n  ending_step: 200001\n  frequency: 50" in text
    assert "# Left out, no pruning: batch_size, config_paths" not in text
    assert "# Left out, no pruning: batch_size, entry, optimizer, summary_steps, train_steps.\n" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("neurst --target_sparsty 0.5", 2, "NeurST has no option '--target_sparsty'; did you mean '--target_sparsity'?"),
        ("neurst --target_sparsity 0.5 --pruning_freqency=3", 2, "NeurST has no option '--pruning_freqency'; did you mean '--pruning_frequency'?"),
        ("neurst --target_sparsity 0.5 loose", 2, "NeurST has no option 'loose'; its own help names them all"),
        ("neurst --target_sparsity x", 2, "Invalid value for '--target_sparsity'"),
        ("neurst", 1, "target_sparsity is 0, with which NeurST prunes nothing; give --target_sparsity, a fraction of zeros"),
        ("neurst --target_sparsity 0.5", 1, "end_pruning_step -1: a polynomial decay must arrive somewhere; give the last step"),
        ("neurst --target_sparsity 1", 1, "target_sparsity 1.0 must be a fraction of zeros: 0 or more, and below 1"),
        ("neurst --target_sparsity .5 --initial_sparsity -1", 1, "initial_sparsity -1.0 must be a fraction of zeros"),
        ("neurst --target_sparsity .5 --begin_pruning_step -1", 1, "begin_pruning_step -1 is before the first step"),
        ("neurst --target_sparsity .5 --begin_pruning_step 5 --end_pruning_step 4", 1, "end_pruning_step 4 comes before begin_pruning_step 5"),
        ("neurst --target_sparsity .5 --end_pruning_step 9 --pruning_frequency 0", 1, "a frequency of 0 steps never fires"),
        ("neurst --target_sparsity .5 --end_pruning_step 9 --polynomial_power 0", 1, "polynomial_power 0.0 must be a number above 0"),
        ("neurst --target_sparsity .5 --end_pruning_step 99", 1, "nothing would ever be pruned: from step 0 on every 100th step counts"),
        ("neurst --target_sparsity .5 --pruning_schedule constant_sparsity --end_pruning_step -2", 1, "only -1 stands for no end"),
        ("neurst --target_sparsity .5 --pruning_schedule polynomial_decy", 1, "no pruning_schedule is named 'polynomial_decy'; did you mean"),
        ("neurst --target_sparsity .5 --pruning_schedule constant_sparsity", 1, "a schedule file needs an end: give --train_steps, the updates"),
        ("tfmot {0}/good.yml --train_steps 98", 1, "a run of 98 steps never comes to a renewal of masks"),
        ("tfmot {0}/good.yml", 1, "a schedule file needs an end: give --train_steps, the updates"),
        ("neurst --target_sparsity .5 --end_pruning_step 200 --train_steps many", 1, "train_steps 'many' must be a whole number of steps"),
        ("neurst --config_paths {0}/absent.yml", 1, "absent.yml: cannot be read: No such file or directory"),
        ("neurst --config_paths {0}/wrong.yml", 1, "wrong.yml: NeurST has no option 'target_sparsty'; did you mean 'target_sparsity'?"),
        ("tfmot {0}/wrong.yml", 1, "the schedule has no 'target_sparsty'; it has class_name, config"),
        ("tfmot {0}/neurst.yml", 1, "neurst.yml looks like options of NeurST, not like get_config() of TFMOT: limbeck import neurst --config_paths"),
        ("neurst --config_paths {0}/good.yml", 1, "good.yml looks like what get_config() of TFMOT gives, not like options of NeurST: limbeck import tfmot"),
        ("tfmot {0}/unknown.yml", 1, "no schedule of TFMOT is named 'PolynomalDecay'; did you mean 'PolynomialDecay'?"),
        ("tfmot {0}/key.yml", 1, "ConstantSparsity has no 'final_sparsity'; it has target_sparsity, begin_step, end_step, frequency"),
        ("tfmot {0}/missing.yml", 1, "ConstantSparsity needs 'begin_step'; get_config() of the schedule has it"),
        ("tfmot {0}/text.yml", 1, "begin_step '1' must be a whole number of steps"),
        ("tfmot {0}/good.yml --sparsity_m_by_n 4", 2, "sparsity_m_by_n '4' must be two whole numbers, as in 2,4"),
        ("tfmot {0}/good.yml --sparsity_m_by_n 4,4", 1, "sparsity_m_by_n (4, 4) would drop 4 of every 4"),
        ("tfmot {0}/good.yml --sparsity_m_by_n 1,4 --block_size 2,2", 1, "give one of the two"),
        ("tfmot {0}/good.yml --block_pooling_type MEAN", 1, "no block_pooling_type is named 'MEAN'; give AVG or MAX"),
        ("tfmot {0}/good.yml --block_size 0,4", 1, "block_size (0, 4) must be two numbers from 1 on"),
        ("tfmot {0}/good.yml --weigths x", 2, "No such option"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    arguments: str, status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "wrong": {"target_sparsty": 0.5},
        "neurst": {"pruning_schedule.params": {"target_sparsity": 0.5}},
        "unknown": config("PolynomalDecay"),
        "key": config("ConstantSparsity", target_sparsity=0.5, begin_step=0, final_sparsity=0.5),
        "missing": config("ConstantSparsity", target_sparsity=0.5),
        "text": config("ConstantSparsity", target_sparsity=0.5, begin_step="1"),
        "good": config("ConstantSparsity", target_sparsity=0.5, begin_step=0),
    }
    for name, tree in files.items():
        (tmp_path / f"{name}.yml").write_text(json.dumps(tree), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["limbeck", "import", *shlex.split(arguments.format(tmp_path))])
    monkeypatch.setenv("COLUMNS", "400")
    from limbeck.cli import main

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == status
    shown = capsys.readouterr()
    assert message in shown.err
    assert not shown.out


def test_differences_are_said(tmp_path: Path) -> None:
    text = printed("neurst --target_sparsity .5 --begin_pruning_step 1 --end_pruning_step 500 --pruning_frequency 150 --freeze_variables x")
    assert "the last renewal, 49 steps before its end, stays below the target.\n" in text
    assert "NeurST prunes frozen variables too, and so does this.\n" in text
    source = tmp_path / "config.yml"
    source.write_text("{class_name: ConstantSparsity, config: {target_sparsity: 0.5, begin_step: 0}}", encoding="utf-8")
    text = printed(f"tfmot {source} --sparsity_m_by_n 1,4")
    assert "# sparsity_m_by_n 1,4 counts zeros: 1 of every 4 fall, 3:4 stay.\n" in text
    assert "n_of_m: '3:4'\n" in text
    text = printed(f"tfmot {source} --block_size 1,4 --train_steps 500")
    assert "# Blocks of 1 x 4 in kernels [in, out] are 4 x 1 in PyTorch's [out, in]." in text
    assert "block_size: [4, 1]" in text


def test_the_help_says_that_files_of_distiller_need_no_import() -> None:
    assert "Distiller's schedule files need no import" in " ".join(RUN.invoke(app, ["import", "--help"]).stdout.split())


def test_both_patterns_together_say_which_is_used() -> None:
    text = printed("neurst --target_sparsity .5 --end_pruning_step 500 --pruning_variable_pattern a --nopruning_variable_pattern b")
    assert "# nopruning_variable_pattern b is not used: pruning_variable_pattern is given.\n" in text
    assert "weights: ['matrices:re:.*(?:a).*']" in text
