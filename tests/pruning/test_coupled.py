from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.apps.lm.model import RNNModel
from limbeck.errors import ScheduleError, ScheduleWarning
from limbeck.graph import capture, coupling
from limbeck.pruning import Prune, Pruner
from limbeck.pruning.composed import composed_pruner
from limbeck.pruning.coupled import groups, relative
from limbeck.pruning.structures import l1_ranked_structure_pruner, random_ranked_filter_pruner
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from limbeck.thinning import thin

X = torch.zeros(1, 1, 4, 4)


class Residual(nn.Module):
    """A stem and two branches that are added to it, each with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.outer = nn.Conv2d(3, 4, 1, bias=False)
        self.last = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.last(self.outer(F.relu(self.norm(self.inner(x))))))


def net(**filters: list[float]) -> Residual:
    """Filters as large as these numbers; biases and norms as training leaves them."""
    torch.manual_seed(0)
    model = Residual()
    for name, sizes in filters.items():
        weight = getattr(model, name).weight.detach()
        weight.copy_(torch.tensor(sizes).reshape(-1, 1, 1, 1).expand_as(weight))
    for norm in (model.norm, model.last):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def begun(model: nn.Module, pruner: Pruner, x: Tensor = X, **options: bool) -> Scheduler:
    scheduler = Scheduler(model, [(Window(0, 3), Prune(pruner, **options))], example_inputs=(x,))
    scheduler.on_epoch_begin(0)
    return scheduler


def kept(scheduler: Scheduler, name: str) -> list[int]:
    mask = scheduler.masks[name]
    return mask.flatten(1).any(1).int().tolist() if mask.dim() > 1 else mask.int().tolist()


def test_the_bias_and_the_norm_follow_their_filter() -> None:
    model = net(inner=[3.0, 1.0, 2.0])
    masks = begun(model, l1_ranked_structure_pruner("Filters", 0.4, ["inner.weight"]))
    assert list(masks.masks) == ["inner.weight", "inner.bias", "norm.weight", "norm.bias"]
    assert all(kept(masks, name) == [1, 0, 1] for name in masks.masks)
    assert model.norm.bias[1] == 0


def test_what_is_masked_is_what_thinning_removes() -> None:
    torch.manual_seed(3)
    model, x = net(inner=[3.0, 1.0, 2.0]), torch.randn(2, 1, 4, 4)
    scheduler = begun(model, l1_ranked_structure_pruner("Filters", 0.4, ["inner.weight"]))
    before = model.eval()(x)
    recipe = thin(model, (X,), scheduler.masks)
    assert model.norm.num_features == 2
    assert not recipe.left
    assert torch.allclose(model(x), before, atol=1e-6)


@pytest.mark.parametrize("model", [net()], ids=["residual"])
def test_without_a_graph_or_with_none_only_targets_get_masks(model: nn.Module) -> None:
    pruner = l1_ranked_structure_pruner("Filters", 0.4, ["inner.weight"])
    scheduler = Scheduler(model, [(Window(0, 1), Prune(pruner))])
    scheduler.on_epoch_begin(0)
    assert list(scheduler.masks) == ["inner.weight"]
    assert list(begun(model, l1_ranked_structure_pruner("Filters", 0.4, ["inner.weight"], coupling="none")).masks) == ["inner.weight"]


def test_single_weights_channels_and_kernels_take_nothing_along() -> None:
    for pruner in (
        composed_pruner(["outer.weight"], 0.5),
        composed_pruner(["outer.weight"], 0.5, granularity="channels"),
        composed_pruner(["outer.weight"], 0.5, granularity="kernels"),
    ):
        assert list(begun(net(), pruner).masks) == ["outer.weight"]


def test_masks_that_disagree_across_a_residual_are_named_once() -> None:
    model = net(stem=[1.0, 2.0, 3.0, 4.0], outer=[4.0, 1.0, 2.0, 3.0])
    pruner = l1_ranked_structure_pruner("Filters", 0.5, ["stem.weight", "outer.weight"])
    with pytest.warns(ScheduleWarning, match="of the same 4 units 'stem.weight' drops 2, 'outer.weight' drops 2: they agree on 1") as told:
        scheduler = begun(model, pruner)
    assert "coupling: joint" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.on_epoch_end(0)
        scheduler.on_epoch_begin(1)
    assert kept(scheduler, "stem.bias") == [0, 0, 1, 1]
    assert kept(scheduler, "last.bias") == [1, 0, 0, 1]
    recipe = thin(model, (X,), scheduler.masks)
    assert [cut.kept for cut in recipe.cuts if cut.tensor == "head.weight"] == [(0, 2, 3)]
    assert any("'outer.weight'" in line for line in recipe.left)


def test_a_group_is_ranked_as_one() -> None:
    # mean 2.5 and 25: [.4 .8 1.2 1.6] + [1.6 .4 .8 1.2] = [2.0 1.2 2.0 2.8]; without scaling 'outer' alone would decide: [41 12 23 34]
    model = net(stem=[1.0, 2.0, 3.0, 4.0], outer=[40.0, 10.0, 20.0, 30.0])
    pruner = l1_ranked_structure_pruner("Filters", 0.5, ["stem.weight", "outer.weight"], coupling="joint")
    scheduler = begun(model, pruner)
    assert kept(scheduler, "stem.weight") == kept(scheduler, "outer.weight") == [0, 0, 1, 1]
    assert kept(scheduler, "last.bias") == kept(scheduler, "stem.bias") == [0, 0, 1, 1]
    assert not thin(model, (X,), scheduler.masks).left
    assert model.head.in_channels == 2


def test_tensors_that_are_not_listed_are_part_of_their_group() -> None:
    model = net(stem=[1.0, 2.0, 3.0, 4.0], outer=[40.0, 10.0, 20.0, 30.0])
    scheduler = begun(model, l1_ranked_structure_pruner("Filters", 0.25, ["stem.weight"], coupling="joint"))
    assert kept(scheduler, "stem.weight") == kept(scheduler, "outer.weight") == [1, 0, 1, 1]


def test_units_that_must_stay_fall_last() -> None:
    class Padded(nn.Module):
        """A shortcut that fills missing channels with zeros, at fixed numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(self.b(x) + F.pad(x, (0, 0, 0, 0, 1, 1)))

    model = Padded()
    model.a.weight.detach()[:] = torch.tensor([5.0, 6.0]).reshape(2, 1, 1, 1)
    model.b.weight.detach()[:] = torch.tensor([1.0, 5.0, 6.0, 2.0]).reshape(4, 1, 1, 1)
    scheduler = begun(model, l1_ranked_structure_pruner("Filters", 0.25, ["b.weight"], coupling="joint"))
    assert kept(scheduler, "b.weight") == [1, 0, 1, 1]
    assert kept(scheduler, "a.weight") == [0, 1]


def test_one_pool_for_all_groups() -> None:
    model = net(stem=[1.0, 1.0, 1.0, 1.0], outer=[1.0, 1.0, 1.0, 1.0], inner=[9.0, 1.0, 2.0])  # inner: [2.25 .25 .5]
    pruner = composed_pruner(["stem.weight", "inner.weight"], 2 / 7, granularity="filters", scope="global", coupling="joint")
    scheduler = begun(model, pruner)
    assert kept(scheduler, "inner.weight") == [1, 0, 0]
    assert kept(scheduler, "stem.weight") == [1, 1, 1, 1]


def test_channels_that_several_read_are_ranked_as_one() -> None:
    model = net()
    model.inner.weight.detach()[:] = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    model.head.weight.detach()[:] = torch.tensor([4.0, 1.0, 2.0, 3.0]).reshape(1, 4, 1, 1)
    scheduler = begun(model, l1_ranked_structure_pruner("Channels", 0.25, ["head.weight"], coupling="joint"))
    assert scheduler.masks["inner.weight"][0].flatten().tolist() == [True, False, True, True]
    assert not thin(model, (X,), scheduler.masks).left
    assert model.stem.out_channels == 3


def test_joint_needs_the_graph_whole_structures_one_amount_and_no_leader() -> None:
    pruner = l1_ranked_structure_pruner("Filters", 0.5, ["stem.weight"], coupling="joint")
    with pytest.raises(ScheduleError, match="give example_inputs"):
        Scheduler(net(), [(Window(0, 1), Prune(pruner))])
    with pytest.raises(ScheduleError, match=r"which \['stem.weight'\] do not fall by"):
        begun(net(), Pruner({"stem.weight": 0.5}, coupling="joint"))
    with pytest.raises(ValueError, match="leave one of them out"):
        l1_ranked_structure_pruner("Filters", 0.5, ["stem.weight"], "Leader", coupling="joint")
    with pytest.raises(ValueError, match="not kernels in scope tensor"):
        composed_pruner(["stem.weight"], 0.5, granularity="kernels", coupling="joint")
    targets = {"stem.weight": 0.5, "outer.weight": 0.25}
    with pytest.raises(Exception, match=r"a group of coupled tensors \(stem.weight, outer.weight\) needs one amount"):
        begun(net(), Pruner(targets, unit=pruner.unit, coupling="joint"))


def test_a_scale_that_a_hard_mask_lets_go_begins_at_one() -> None:
    model = net()
    scheduler = begun(model, random_ranked_filter_pruner("Filters", 0.4, ["inner.weight"], redraw=True, seed=1))
    first = scheduler.masks["norm.weight"].clone()
    for epoch in range(1, 3):
        scheduler.on_epoch_end(epoch - 1)
        scheduler.on_epoch_begin(epoch)
        if back := (scheduler.masks["norm.weight"] & ~first).nonzero().flatten().tolist():
            assert model.norm.weight[back].tolist() == [1.0] * len(back)
            return
    pytest.fail("the seed draws the same filters")


def test_dense_copies_of_a_soft_mask_keep_the_norm() -> None:
    model = net(inner=[3.0, 1.0, 2.0])
    before = model.norm.weight.detach().clone()
    scheduler = begun(model, l1_ranked_structure_pruner("Filters", 0.4, ["inner.weight"]), use_double_copies=True)
    assert model.norm.weight[1] == 0
    assert torch.equal(scheduler.masks.dense("norm.weight"), before)


def test_a_vector_that_is_pruned_by_name_is_left_to_its_pruner() -> None:
    model = net(inner=[3.0, 1.0, 2.0])
    by_name = Prune(Pruner({"norm.bias": 0.0}))
    filters = Prune(l1_ranked_structure_pruner("Filters", 0.4, ["inner.weight"]))
    scheduler = Scheduler(model, [(Window(0, 1), by_name), (Window(0, 1), filters)], example_inputs=(X,))
    scheduler.on_epoch_begin(0)
    assert kept(scheduler, "norm.bias") == [1, 1, 1]
    assert kept(scheduler, "norm.weight") == [1, 0, 1]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN_RELU"])
def test_hidden_units_of_the_language_model_go_as_one(cell: str, tied: bool) -> None:
    torch.manual_seed(2)
    model, words = RNNModel(cell, 7, 6, 6, 2, 0.0, tied), torch.arange(6).reshape(3, 2)
    pruner = l1_ranked_structure_pruner("Filters", 0.5, ["rnn.weight_hh_l0"], coupling="joint")
    scheduler = begun(model, pruner, words)
    before = model.eval()(words)
    assert ("encoder.weight" in scheduler.masks) == tied
    thin(model, (words,), scheduler.masks)
    assert (model.rnn.hidden_size, model.decoder.in_features, model.encoder.embedding_dim) == (3, 3, 3 if tied else 6)
    assert torch.allclose(model(words), before, atol=1e-5)
    logits, hidden = model(words, model.initial_hidden(2))
    assert torch.allclose(logits, before, atol=1e-5)
    assert (hidden[0] if cell == "LSTM" else hidden).shape[-1] == 3


def test_a_model_that_cannot_be_captured_is_pruned_without_its_vectors() -> None:
    class Turning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) if float(x.sum()) > 0 else self.b(-self.a(x))

    with pytest.warns(ScheduleWarning, match="do not follow the masks: the model cannot be captured"):
        scheduler = begun(Turning(), l1_ranked_structure_pruner("Filters", 0.4, ["a.weight"]), torch.zeros(1, 2))
    assert list(scheduler.masks) == ["a.weight"]


def test_groups_reach_through_a_concatenation() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 1), nn.Conv2d(1, 5, 1), nn.Conv2d(5, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.d(torch.cat((self.a(x), self.b(x)), 1) + self.c(x))

    graph = capture(Joined(), (X,))
    [group] = groups(coupling(graph), {"b.weight": 0}, {"a.weight", "b.weight", "c.weight", "d.weight"})
    assert group.axes == {"a.weight": 0, "b.weight": 0, "c.weight": 0}
    assert [group.places[name].tolist() for name in ["a.weight", "b.weight", "c.weight"]] == [[0, 1], [2, 3, 4], [0, 1, 2, 3, 4]]


def test_scores_of_nothing_stay_nothing() -> None:
    assert relative(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_a_model_that_takes_its_inputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.up, self.down = nn.Embedding(5, 4), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, *, words: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"logits": self.down(F.relu(self.up(self.table(words)))) * scale}

    torch.manual_seed(0)
    model, inputs = Named(), {"words": torch.arange(5).reshape(1, 5), "scale": torch.ones(1)}
    scheduler = Scheduler(model, [(Window(0, 1), Prune(l1_ranked_structure_pruner("Filters", 0.5, ["up.weight"])))], example_inputs=inputs)
    scheduler.on_epoch_begin(0)
    before = model(**inputs)["logits"]
    assert kept(scheduler, "up.bias") == kept(scheduler, "up.weight")
    thin(model, inputs, scheduler.masks)
    assert model.down.in_features == 3
    assert torch.allclose(model(**inputs)["logits"], before, atol=1e-6)


def test_a_tensor_that_falls_by_rows_takes_no_part_by_columns() -> None:
    torch.manual_seed(0)
    model, words = RNNModel("LSTM", 7, 6, 6, 1, 0.0, tied=True), torch.arange(6).reshape(3, 2)
    scheduler = begun(model, l1_ranked_structure_pruner("Filters", 0.5, ["encoder.weight", "rnn.weight_hh_l0"], coupling="joint"), words)
    assert kept(scheduler, "encoder.weight").count(0) == 3
    assert kept(scheduler, "rnn.weight_hh_l0").count(0) == 12
