"""The ancestor's schedule files load as they are; what it ignored is told."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from limbeck import ScheduleError, ScheduleWarning
from limbeck.compat import distiller
from limbeck.compat.distiller import CompressionScheduler

SEEDS = Path(__file__).parents[3] / "shared" / "seeds"


class Block(nn.Module):
    """Two convolutions and their sum with the input, by the names of the residual networks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as ``x``."""
        return x + self.conv3(self.conv2(self.conv1(x)).relu())


class Residual(nn.Module):
    """A residual network of three layers with three blocks, 16 channels wide."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(*(Block(16) for _ in range(3))) for _ in range(3))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, ``[batch, 10]``."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x)))).mean((2, 3))
        return self.fc(x)


class AlexNet(nn.Module):
    """The parameter names of AlexNet, small; only ``features`` is parallel, as in the ancestor."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReLU() for _ in range(13)]
        for place, (before, after) in {0: (3, 8), 3: (8, 8), 6: (8, 12), 8: (12, 12), 10: (12, 8)}.items():
            layers[place] = nn.Conv2d(before, after, 3, padding=1)
        self.features = nn.DataParallel(nn.Sequential(*layers), device_ids=[])
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(8, 40), nn.ReLU(), nn.Dropout(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits, ``[batch, 10]``."""
        return self.classifier(self.features(x).mean((2, 3)))


class Words(nn.Module):
    """The parameter names of the language model; encoder and decoder are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(12, 8)
        self.rnn = nn.LSTM(8, 8, num_layers=2)
        self.decoder = nn.Linear(8, 12)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits, ``[length, 12]``."""
        return self.decoder(self.rnn(self.encoder(x))[0])


IMAGES, LABELS = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])


def trained(scheduler: CompressionScheduler, optimizer: torch.optim.Optimizer, epochs: range, inputs: Tensor = IMAGES) -> None:
    """The loop of the ancestor's last version, one batch an epoch."""
    for epoch in epochs:
        scheduler.on_epoch_begin(epoch, optimizer)
        scheduler.on_minibatch_begin(epoch, 0, 1, optimizer)
        logits = scheduler.model(inputs)
        objective = nn.functional.cross_entropy(logits, LABELS)
        loss = scheduler.before_backward_pass(epoch, 0, 1, objective, optimizer=optimizer, return_loss_components=True)
        optimizer.zero_grad()
        loss.overall_loss.backward()  # type: ignore[union-attr]
        scheduler.before_parameter_optimization(epoch, 0, 1, optimizer)
        optimizer.step()
        scheduler.on_minibatch_end(epoch, 0, 1, optimizer)
        scheduler.on_epoch_end(epoch, optimizer, metrics={"min": objective.item(), "max": 0.0})


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


# --- files in the ancestor's form ------------------------------------------------------------------------------------------------

LARGE_70 = """
version: 1
pruners:
  l0_rnn_pruner:
    class: AutomatedGradualPruner
    initial_sparsity : 0.05
    final_sparsity: 0.70
    weights: [rnn.weight_ih_l0, rnn.weight_hh_l0]
  embedding_pruner:
    class: 'AutomatedGradualPruner'
    initial_sparsity : 0.05
    final_sparsity: 0.85
    weights: [encoder.weight]
policies:
  - pruner:
      instance_name : l0_rnn_pruner
    starting_epoch: 2
    ending_epoch: 20
    frequency: 1
  - pruner:
      instance_name : 'embedding_pruner'
    starting_epoch: 3
    ending_epoch: 26
    frequency: 3
"""

RNN = (
    .05, .158091, .253481, .336963, .409332, .471382, .523906, .567698, .603552, .632261, .65462, .671423, .683462, .691533, .696428,
    .698942, .699868, .7,
)  # fmt: skip
EMBEDDING = (.05, .34621, .558455, .700729, .787026, .831341, .847668, .85)  # fmt: skip
"""The ancestor's own levels, in epochs 2 to 19 and 3, 6, ... 24."""


@pytest.mark.parametrize("shape", ["first", "last", "new"])
def test_the_language_models_schedule_in_every_call_shape(shape: str, tmp_path: Path) -> None:
    file = tmp_path / "large_70.yaml"
    file.write_text(LARGE_70, encoding="utf-8")
    model = Words()
    scheduler = CompressionScheduler(model)
    if shape == "first":
        assert distiller.config.fileConfig(model, None, scheduler, str(file), object()) is scheduler
    elif shape == "last":
        assert distiller.file_config(model, sgd(model), file, scheduler, resumed_epoch=None) is scheduler
    else:
        scheduler = distiller.file_config(model, None, str(file))
    assert scheduler.scheduler.text == LARGE_70
    recurrent, embedded = model.rnn.weight_ih_l0.numel(), model.encoder.weight.numel()
    for epoch in range(27):
        scheduler.on_epoch_begin(epoch)
        if 2 <= epoch < 20:
            assert distiller.sparsity(model.rnn.weight_hh_l0) == int(RNN[epoch - 2] * recurrent) / recurrent
        if epoch in range(3, 26, 3):
            assert distiller.sparsity(model.decoder.weight) == int(EMBEDDING[(epoch - 3) // 3] * embedded) / embedded
        scheduler.on_epoch_end(epoch)


SENSITIVITY = """
version: 1
pruners:
  my_pruner:
    class: 'SensitivityPruner'
    sensitivities:
      'features.module.0.weight': 0.25
      'features.module.3.weight': 0.35
      'classifier.1.weight': 0.875
lr_schedulers:
  # Learning rate decay scheduler
   pruning_lr:
     class: ExponentialLR
     gamma: 0.9
policies:
  - pruner:
      instance_name : 'my_pruner'
    starting_epoch: 0
    ending_epoch: 8
    frequency: 2
  - lr_scheduler:
      instance_name: pruning_lr
    starting_epoch: 4
    ending_epoch: 200
    frequency: 1
"""


def test_alexnets_sensitivities_are_of_the_dense_tensors() -> None:
    torch.manual_seed(0)
    model = AlexNet()
    optimizer = sgd(model)
    dense = {0: model.features.module[0].weight.detach().clone(), 1: model.classifier[1].weight.detach().clone()}
    scheduler = distiller.dict_config(model, optimizer, tree(SENSITIVITY))
    scheduler.on_epoch_begin(0, optimizer)
    for weight, first, sensitivity in ((model.features.module[0].weight, dense[0], 0.25), (model.classifier[1].weight, dense[1], 0.875)):
        assert torch.equal(weight != 0, first.abs() > sensitivity * first.std())
    assert distiller.sparsity(model.features.module[6].weight) == 0
    trained(scheduler, optimizer, range(6))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 0.9**2)


ALEXNET_AGP = """
pruners:
  conv2_pruner: {class: 'AutomatedGradualPruner', initial_sparsity : 0.03, final_sparsity: 0.62, weights: ['features.module.3.weight']}
  fc_pruner:
    class: 'AutomatedGradualPruner'
    initial_sparsity : 0.05
    final_sparsity: 0.91
    weights: [classifier.1.weight, classifier.4.weight]
policies:
  - pruner: {instance_name : 'conv2_pruner'}
    starting_epoch: 1
    ending_epoch: 11
    frequency: 2
  - pruner: {instance_name : 'fc_pruner'}
    starting_epoch: 0
    ending_epoch: 18
    frequency: 2
"""
CONV2 = {1: 0.03, 3: 0.371094, 5: 0.54625, 7: 0.610781, 9: 0.62}
FC = {0: 0.05, 2: 0.333867, 4: 0.547188, 6: 0.700039, 8: 0.8025, 10: 0.864648, 12: 0.896563, 14: 0.90832, 16: 0.91}


def test_alexnets_ramps_reach_the_ancestors_levels() -> None:
    model = AlexNet()
    scheduler = distiller.dict_config(model, None, tree(ALEXNET_AGP))
    conv2, fc = model.features.module[3].weight, model.classifier[4].weight
    for epoch in range(18):
        scheduler.on_epoch_begin(epoch)
        if epoch in CONV2:
            assert distiller.sparsity(conv2) == int(CONV2[epoch] * conv2.numel()) / conv2.numel()
        if epoch in FC:
            assert distiller.sparsity(fc) == int(FC[epoch] * fc.numel()) / fc.numel()
        scheduler.on_epoch_end(epoch)


FILTERS = """
version: 1
pruners:
  filter_pruner_layer1:
    class: 'L1RankedStructureParameterPruner_AGP'
    initial_sparsity : 0.10
    final_sparsity: 0.50
    group_type: Filters
    group_dependency: Leader
    weights: [module.layer1.0.conv2.weight,
              module.layer1.1.conv2.weight,
              module.layer1.2.conv2.weight]
  fine_pruner:
    class: AutomatedGradualPruner
    initial_sparsity : 0.05
    final_sparsity: 0.70
    weights: [module.layer2.0.conv1.weight, module.layer2.1.conv2.weight]
  fc_pruner:
    class: SparsityLevelParameterPruner
    levels:
      module.fc.weight: 0.50
lr_schedulers:
   pruning_lr: {class: StepLR, step_size: 50, gamma: 0.10}
policies:
  - pruner:
      instance_name : filter_pruner_layer1
    starting_epoch: 0
    ending_epoch: 30
    frequency: 2
  - pruner: {instance_name : fine_pruner}
    starting_epoch: 0
    ending_epoch: 4
    frequency: 1
  - pruner: {instance_name : fc_pruner}
    epochs: [1, 3]
  - lr_scheduler: {instance_name: pruning_lr}
    starting_epoch: 0
    ending_epoch: 400
    frequency: 1
"""


def test_resnets_filters_follow_their_leader() -> None:
    torch.manual_seed(0)
    model = Residual()
    optimizer = sgd(model)
    scheduler = distiller.dict_config(nn.DataParallel(model, device_ids=[]), optimizer, tree(FILTERS))
    rates = {0: 0.1, 2: 0.179738, 4: 0.248105, 28: 0.5}
    for epoch in range(30):
        trained(scheduler, optimizer, range(epoch, epoch + 1))
        if epoch in rates:
            kept = [block.conv2.weight.flatten(1).any(1) for block in model.layer1]
            assert all(torch.equal(kept[0], other) for other in kept[1:])
            assert distiller.sparsity_3D(model.layer1[0].conv2.weight) == int(rates[epoch] * 16) / 16
    assert distiller.sparsity(model.fc.weight) == 0.5
    assert distiller.sparsity(model.layer2[0].conv1.weight) == int(0.7 * 2304) / 2304


GROUPS = """
version: 1
regularizers:
  my_filter_regularizer:
    class: GroupLassoRegularizer
    reg_regims:
      'module.layer3.1.conv1.weight': [0.5, '3D']
      'module.layer3.1.conv2.weight': [0.00005, '2D']
      'module.layer3.1.conv3.weight': [0.00005, 'Channels']
      'module.fc.weight': [0.0002, Rows]
    threshold_criteria: Mean_Abs
  my_L1_reg:
    class: L1Regularizer
    reg_regims:
      'module.layer3.2.conv1.weight': 0.000002
policies:
  - regularizer: {instance_name: my_filter_regularizer, args: {keep_mask: True}}
    starting_epoch: 0
    ending_epoch: 2
    frequency: 1
  - regularizer: {instance_name: my_L1_reg}
    starting_epoch: 0
    ending_epoch: 60
    frequency: 1
"""


def test_groups_are_regularized_cut_and_kept() -> None:
    torch.manual_seed(0)
    model = Residual()
    optimizer = sgd(model)
    scheduler = distiller.dict_config(model, optimizer, tree(GROUPS))
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 1, optimizer)
    loss = nn.functional.cross_entropy(model(IMAGES), LABELS)
    reported = scheduler.before_backward_pass(0, 0, 1, loss, optimizer, return_loss_components=True)
    assert isinstance(reported, distiller.PolicyLoss)
    assert [component.name for component in reported.loss_components] == ["GroupLassoRegularizer_loss", "L1Regularizer_loss"]
    assert reported.loss_components[1].value.item() == pytest.approx(0.000002 * model.layer3[2].conv1.weight.abs().sum().item())
    trained(scheduler, optimizer, range(4))
    assert distiller.sparsity_3D(model.layer3[1].conv1.weight) == 1  # a threshold of 0.5 is above every mean
    assert 0 <= distiller.sparsity_2D(model.layer3[1].conv2.weight) < 1


def tree(text: str) -> Any:
    """What the ancestor's reader made of a file: a mapping."""
    return yaml.safe_load(text)


# --- what the ancestor ignored ---------------------------------------------------------------------------------------------------

SSL = """
version: 1
regularizers:
  Channels_groups_regularizer:
    class: GroupLassoRegularizer
    reg_regims:
      'module.layer2.1.conv1.weight': [0.0008, 'Channels']
      'module.layer2.1.conv2.weight': [0.0008, 'Channels']
      'module.layer2.2.conv1.weight': [0.0008, 'Channels']
      'module.layer2.1.conv2.weight': [0.0008, 'Channels']
      'module.layer3.1.conv1.weight': [0.0008, 'Channels']
      'module.layer3.1.conv2.weight': [0.0008, 'Channels']
      'module.layer3.2.conv1.weight': [0.0008, 'Channels']
      'module.layer3.1.conv2.weight': [0.0008, 'Channels']
    threshold_criteria: Max
policies:
  - regularizer: {instance_name: Channels_groups_regularizer}
    starting_epoch: 0
    ending_epoch: 60
    frequency: 1
"""


def faults(model: nn.Module, text: str, tmp_path: Path, optimizer: torch.optim.Optimizer | None = None) -> tuple[str, ...]:
    file = tmp_path / "schedule.yaml"
    file.write_text(text, encoding="utf-8")
    scheduler = CompressionScheduler(model)
    with pytest.raises(ScheduleError) as error:
        distiller.file_config(model, optimizer, file, scheduler)
    assert not scheduler.scheduler.schedule
    return error.value.faults


def test_a_duplicate_key_is_an_error_that_names_both_lines(tmp_path: Path) -> None:
    found = faults(Residual(), SSL, tmp_path)
    assert [re.sub(r".*: (?='module)", "", fault) for fault in found] == [
        "'module.layer2.1.conv2.weight' is given twice, on lines 8 and 10",
        "'module.layer3.1.conv2.weight' is given twice, on lines 12 and 14",
    ]
    corrected = SSL.splitlines()
    for place, meant in ((9, "2.2"), (13, "3.2")):
        corrected[place] = re.sub(r"layer\d\.\d", f"layer{meant}", corrected[place])
    assert distiller.dict_config(Residual(), None, tree("\n".join(corrected))).scheduler.schedule


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("frequency: 1", "frequency: 1\n    levels: 3", "a policy has no 'levels'"),
        ("policies:", "thinners: {}\npolicies:", "no section is named 'thinners'"),
        ("rnn.weight_ih_l0", "rnn.weight_ih_10", "no parameter is named 'rnn.weight_ih_10'; did you mean"),
        ("[encoder.weight]", "encoder", "no parameter is named 'encoder'"),
        ("embedding_pruner'", "embeding_pruner'", "no pruner named 'embeding_pruner'"),
        ("final_sparsity: 0.70", "final_sparsity: 70", "70 should be less than or equal to 1"),
        ("instance_name : l0_rnn_pruner", "instance_name : l0_rnn_pruner\n      args: {keep_masks: True}", "did you mean 'keep_mask'?"),
        ("    ending_epoch: 20\n", "", "'ending_epoch'"),
        ("    starting_epoch: 2\n", "    epochs: [1]\n    starting_epoch: 2\n", "has both 'epochs' and 'starting_epoch'"),
    ],
)
def test_what_the_ancestor_ignored_is_an_error(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = LARGE_70.replace(old, new, 1)
    assert text != LARGE_70
    found = faults(Words(), text, tmp_path)
    assert len(found) == 1
    assert found[0].startswith("line ")
    assert message in found[0]


QUANTIZING = (
    LARGE_70.replace("policies:", "quantizers:\n  linear:\n    class: DorefaQuantizer\n    bits_weights: 8\npolicies:")
    + "  - quantizer: {instance_name: linear}\n    starting_epoch: 0\n    ending_epoch: 9\n    frequency: 1\n"
)


def test_a_quantizer_that_is_not_there_yet_gives_one_error(tmp_path: Path) -> None:
    [found] = faults(Words(), QUANTIZING, tmp_path)
    assert "no quantizer class is named 'DorefaQuantizer'; choose one of PostTrainLinearQuantizer" in found


def test_a_learning_rate_without_an_optimizer_is_told(tmp_path: Path) -> None:
    [found] = faults(AlexNet(), SENSITIVITY, tmp_path)
    assert "needs the optimizer" in found


def test_an_optimizer_that_the_scheduler_knows_is_enough() -> None:
    model = AlexNet()
    scheduler = CompressionScheduler(model)
    scheduler.on_epoch_begin(0, sgd(model))
    assert len(distiller.dict_config(model, None, tree(SENSITIVITY), scheduler).scheduler.schedule) == 2


def test_a_file_comes_after_the_policies_that_are_there() -> None:
    model = Words()
    scheduler = CompressionScheduler(model)
    scheduler.add_policy(
        distiller.PruningPolicy(distiller.SparsityLevelParameterPruner("level", {"rnn.weight_hh_l1": 0.5}), None), epochs=[0]
    )
    distiller.dict_config(model, None, tree(LARGE_70), scheduler)
    assert [window.begin for window, _ in scheduler.scheduler.schedule] == [0, 2, 3]


def test_another_models_scheduler_is_refused() -> None:
    with pytest.raises(ScheduleError, match="another model"):
        distiller.dict_config(Words(), None, tree(LARGE_70), CompressionScheduler(Words()))


def test_a_rate_that_is_resumed_without_its_state_is_told() -> None:
    model = AlexNet()
    with pytest.warns(ScheduleWarning, match="ExponentialLR began before epoch 31") as caught:
        distiller.dict_config(model, sgd(model), tree(SENSITIVITY), resumed_epoch=30)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distiller.dict_config(model, sgd(model), tree(SENSITIVITY), resumed_epoch=3)


def test_loading_runs_no_code(tmp_path: Path) -> None:
    found = faults(Words(), LARGE_70.replace("[encoder.weight]", "!!python/object/apply:os.getcwd []"), tmp_path)
    assert "the tag '!!python/object/apply:os.getcwd' is refused" in found[0] + found[-1]


# --- the documents ---------------------------------------------------------------------------------------------------------------


def test_every_schedule_of_the_scheduling_document_loads() -> None:
    found = sorted(SEEDS.glob("001*.txt"))
    if not found:
        pytest.skip("the document is not here: it belongs into ../shared/seeds beside the repository")
    text = found[0].read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if "<" not in block]
    whole = [block for block in blocks if "policies:" in block and block.startswith("version:")]
    assert len(whole) == 4
    for block in whole:
        model: nn.Module = Residual() if "layer3" in block else AlexNet()
        optimizer = sgd(model)
        scheduler = distiller.dict_config(model, optimizer, tree(block))
        trained(scheduler, optimizer, range(2))
        assert len(scheduler.scheduler.schedule) == block.count("instance_name")
    pruners, rates, policies = (block for block in blocks if block.startswith(("pruners:", "lr_schedulers:", "policies:")))
    model = AlexNet()
    assert len(distiller.dict_config(model, sgd(model), tree(pruners + rates + policies)).scheduler.schedule) == 2


def test_filters_ranked_jointly_need_a_batch_to_find_what_is_coupled(tmp_path: Path) -> None:
    schedule = tmp_path / "joint.yaml"
    schedule.write_text(
        "version: 1\npruners:\n  joint:\n    class: L1RankedStructureParameterPruner\n    group_type: Filters\n    desired_sparsity: 0.5\n"
        "    coupling: joint\n    weights: [conv1.weight]\n"
        "policies: [{pruner: {instance_name: joint}, starting_epoch: 0, ending_epoch: 1, frequency: 1}]\n"
    )
    with pytest.raises(ScheduleError, match=r"example_inputs to load_schedule, Scheduler or file_config"):
        distiller.file_config(Block(4), None, schedule).on_epoch_begin(0)
    model = Block(4)
    compression = distiller.file_config(model, None, schedule, example_inputs=(torch.zeros(1, 4, 6, 6),))
    compression.on_epoch_begin(0)
    compression.on_minibatch_begin(0, 0, 1)
    assert model.conv1.weight.flatten(1).any(1).sum() == 2
