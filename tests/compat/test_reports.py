"""Summaries, loggers and helpers under the ancestor's names."""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limbeck import LimbeckError, MissingExtraError
from limbeck.compat import distiller
from limbeck.compat.distiller import apputils
from limbeck.compat.distiller.data_loggers import CsvLogger, NullLogger, PythonLogger, TensorBoardLogger

STATS = ("Performance/Training/", OrderedDict([("Loss", torch.tensor(1.5)), ("LR", 0.25)]))


class Net(nn.Module):
    """A convolution and two tied matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 2, bias=False)
        self.encoder, self.decoder = nn.Embedding(4, 3), nn.Linear(3, 4)
        self.decoder.weight = self.encoder.weight
        with torch.no_grad():
            self.conv.weight.fill_(1)[0] = 0
            self.conv.weight[:, 1] = 0
            self.encoder.weight.fill_(1)[0] = 0


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- helpers ---------------------------------------------------------------------------------------------------------------------


def test_sparsities_of_every_shape() -> None:
    net = Net()
    conv, matrix = net.conv.weight, net.encoder.weight
    assert distiller.sparsity(conv) == 1 - distiller.density(conv) == (8 + 12) / 32
    assert distiller.sparsity_2D(conv) == 1 - distiller.density_2D(conv) == 5 / 8
    assert distiller.sparsity_3D(conv) == 1 - distiller.density_3D(conv) == 1 / 4
    assert distiller.sparsity_ch(conv) == 1 - distiller.density_ch(conv) == 1 / 2
    assert distiller.sparsity_cols(conv) == distiller.sparsity_rows(conv) == 0
    assert distiller.sparsity_rows(matrix) == 1 - distiller.density_rows(matrix) == 1 / 4
    assert distiller.sparsity_cols(matrix) == 1 - distiller.density_cols(matrix) == 0
    assert distiller.sparsity_blocks(conv, [1, 2, 1, 1]) == 1 - distiller.density_blocks(conv, [1, 2, 1, 1]) == 1 / 4
    assert distiller.sparsity_2D(matrix) == distiller.sparsity_3D(matrix) == distiller.sparsity_ch(matrix) == 0


def test_the_models_sparsity_is_in_percent_and_counts_tied_weights_once() -> None:
    net = Net()
    assert distiller.model_sparsity(net) == 100 * (20 + 3) / (32 + 12)
    assert distiller.model_sparsity(net, param_dims=[4]) == 100 * 20 / 32
    assert distiller.model_sparsity(net, param_types=["gain"]) == 0
    table, total = distiller.weights_sparsity_tbl_summary(net, return_total_sparsity=True)
    assert total == distiller.model_sparsity(net)
    assert distiller.weights_sparsity_tbl_summary(net) == table
    assert "tied with decoder.weight" in table


def test_names_lose_what_wrappers_put_into_them() -> None:
    assert distiller.normalize_module_name("features.module.0.weight") == "features.0.weight"


# --- summaries -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["sparsity", "model", "modules", "percentile"])
def test_both_call_shapes_print_the_same(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    net = Net()
    printed = set()
    for arguments, named in (
        ((None, what, "wikitext2"), {}),
        ((None, what), {}),
        ((), {"optimizer": None, "what": what, "dataset": "cifar10"}),
        ((torch.optim.SGD(net.parameters(), 0.1), what), {}),
        ((what, "cifar10"), {"logdir": "logs"}),
        ((what,), {}),
        ((), {"what": what}),
    ):
        distiller.model_summary(net, *arguments, **named)
        printed.add(capsys.readouterr().out)
    assert len(printed) == 1
    assert "conv" in printed.pop()


def test_compute_takes_the_images_of_a_data_set_and_png_draws_into_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """30x30 results of 2 filters of 3 * 3 * 3 weights."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3))
    distiller.model_summary(net, "compute", "cifar10")
    assert "Total MACs: 48,600" in capsys.readouterr().out
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LimbeckError, match=rf"{tmp_path}/model\.png needs Graphviz' program 'dot', which is not installed"):
        distiller.model_summary(net, "png", dataset="cifar10", logdir=tmp_path)


def test_a_summary_that_is_not_there_is_told() -> None:
    with pytest.raises(LimbeckError, match="there is no summary 'onnx': Limbeck exports no models; choose one of sparsity"):
        distiller.model_summary(Net(), None, "onnx", "cifar10")
    with pytest.raises(LimbeckError, match=r"the summary 'compute' needs a data set .* one of cifar10, mnist, imagenet, not 'wikitext2'"):
        distiller.model_summary(Net(), None, "compute", "wikitext2")
    with pytest.raises(LimbeckError, match="did you mean 'sparsity'"):
        distiller.model_summary(Net(), "sparsty")
    for arguments, named in (((), {}), ((None, "model", "cifar10", "logs", 1), {}), (("model",), {"datset": "cifar10"})):
        with pytest.raises(TypeError, match="model_summary takes a model and"):
            distiller.model_summary(Net(), *arguments, **named)


# --- the program's logger --------------------------------------------------------------------------------------------------------


def close(messages: apputils.MessageLogger) -> None:
    for handler in messages.logger.handlers:
        handler.close()


@pytest.mark.parametrize("config", ["logging.conf", None])
def test_messages_go_to_the_console_and_to_a_file(config: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = apputils.config_pylogger(config, "prune", output_dir="runs")
    messages.info("pruned")
    messages.debug("unseen")
    close(messages)
    assert capsys.readouterr().out.splitlines() == [f"Log file for this run: {Path(messages.log_filename).resolve()}", "pruned"]
    file = Path(messages.log_filename)
    assert file.read_text(encoding="utf-8").count("\n") == 2
    assert file.parent == Path(messages.logdir)
    assert file.parent.name.startswith("prune___2")
    assert (tmp_path / "latest_log_file").read_text(encoding="utf-8").endswith("pruned\n")
    assert (tmp_path / "latest_log_dir").resolve() == file.parent.resolve()


def test_runs_of_one_second_have_folders_of_their_own() -> None:
    loggers = [apputils.config_pylogger("logging.conf", None, verbose=True) for _ in range(3)]
    for messages in loggers:
        messages.debug("seen")
        close(messages)
    assert len({messages.logdir for messages in loggers}) == 3
    assert all("seen" in Path(messages.log_filename).read_text(encoding="utf-8") for messages in loggers)


def test_a_link_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "latest_log_file").write_text("mine", encoding="utf-8")
    close(apputils.config_pylogger("logging.conf", None))
    assert (tmp_path / "latest_log_file").read_text(encoding="utf-8") == "mine"


LOGGING = """
[loggers]
keys: root
[handlers]
keys: file
[formatters]
keys: short
[logger_root]
level: INFO
handlers: file
[handler_file]
class: FileHandler
level: INFO
formatter: short
args=('%(logfilename)s', 'w')
[formatter_short]
format: <%(message)s>
"""


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("root_logger")
def test_a_logging_file_describes_the_handlers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logging.conf").write_text(LOGGING, encoding="utf-8")
    messages = apputils.config_pylogger("logging.conf", None)
    messages.info("pruned")
    assert Path(messages.log_filename).read_text(encoding="utf-8").endswith("<pruned>\n")
    assert not capsys.readouterr().out


# --- training progress -----------------------------------------------------------------------------------------------------------


def test_numbers_and_tables_go_to_pythons_logger(caplog: pytest.LogCaptureFixture) -> None:
    logger = PythonLogger(logging.getLogger("test"))
    with caplog.at_level(logging.INFO):
        distiller.log_training_progress(STATS, None, 2, 20, 100, 10, [logger, NullLogger()])
        distiller.log_weights_sparsity(Net(), 2, [logger, NullLogger()])
    assert caplog.messages[0] == "epoch 2, 20/100, Performance/Training: Loss 1.5, LR 0.25"
    assert caplog.messages[1].startswith("epoch 2\nParameters\n")


def test_the_newest_sparsities_are_a_csv_file(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    for epoch in (0, 1):
        distiller.log_training_progress(STATS, {}, epoch, 20, 100, 10, [logger])
        distiller.log_weights_sparsity(Net(), epoch, [logger])
    lines = (tmp_path / "weights_sparsity.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("Name,Shape,NNZ (dense),NNZ (sparse)")
    assert [line.split(",")[0] for line in lines[1:]] == ["conv.weight", "encoder.weight", "Total sparsity:"]


def events(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [(event.step, round(event.value, 6)) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


@pytest.mark.filterwarnings("default")  # of TensorBoard's own
@pytest.mark.parametrize("as_iterator", [True, False])
def test_tensorboard_holds_numbers_gradients_and_sparsities(tmp_path: Path, as_iterator: bool) -> None:
    pytest.importorskip("tensorboard")
    net, board = Net(), TensorBoardLogger(tmp_path)
    net.conv(torch.ones(1, 2, 2, 2)).sum().backward()
    for with_gradients in (False, True):
        board.log_gradients = with_gradients
        parameters = net.named_parameters() if as_iterator else OrderedDict(net.named_parameters())
        distiller.log_training_progress(STATS, parameters, 2, 20, 100, 10, [board])
    distiller.log_weights_sparsity(net, 2, [board])
    board.close()
    found = events(tmp_path)
    assert found["Loss/Performance/Training"] == [(220, 1.5)] * 2
    assert found["LR/Performance/Training"] == [(220, 0.25)] * 2
    assert found["gradient_norm/conv.weight"] == [(220, round(32**0.5, 6))]
    assert found["sparsity/conv.weight"] == [(2, 0.625)]
    assert found["nonzeros/Total sparsity"] == [(2, 21.0)]


def test_tensorboard_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'limbeck\[all\]'"):
        TensorBoardLogger(tmp_path)
