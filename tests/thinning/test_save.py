"""A thinned model on disk: its recipes make a fresh one of the original class fit its tensors."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.apps.checkpoint import load_checkpoint, save_checkpoint
from limbeck.errors import CheckpointError, RecipeError
from limbeck.masks import Masks
from limbeck.names import named_parameters
from limbeck.recipes import Change, Cut, Recipe
from limbeck.scheduler import Scheduler
from limbeck.thinning import load_thinned, replay, save_thinned, thin, thin_now

WORDS = torch.randint(7, (5, 2), generator=torch.Generator().manual_seed(0))


class Words(nn.Module):
    """Tied words, an LSTM whose hidden units can go, and a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 6), nn.Linear(6, 7)
        self.head.weight = self.table.weight
        self.rnn, self.back = nn.LSTM(6, 8), nn.Linear(8, 6)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(8), persistent=False)

    def forward(self, words: Tensor) -> Tensor:
        hidden, _ = self.rnn(self.table(words))
        return self.head(torch.tanh(self.back(hidden * self.scale)))


def fresh(seed: int = 1) -> Words:
    torch.manual_seed(seed)
    return Words()


def without(model: Words, *units: int) -> Words:
    """Hidden units of zeros, which a next thinning takes out."""
    size = model.rnn.hidden_size
    with torch.no_grad():
        for unit in units:
            model.back.weight[:, unit] = 0
            model.rnn.weight_hh_l0[:, unit] = 0
            for vector in (model.rnn.weight_ih_l0, model.rnn.weight_hh_l0, model.rnn.bias_ih_l0, model.rnn.bias_hh_l0):
                vector[unit::size] = 0
    return model


def thinned() -> tuple[Words, list[Recipe]]:
    """A model that was thinned twice."""
    model = fresh()
    recipes = [thin(without(model, *units), (WORDS,)) for units in ((1, 4), (0,))]
    assert model.rnn.hidden_size == 5
    return model, recipes


def test_a_thinned_model_loads_into_its_class_and_computes_the_same(tmp_path: Path) -> None:
    model, recipes = thinned()
    save_thinned(tmp_path / "thin.safetensors", model, recipes)
    other = fresh(2)
    assert load_thinned(tmp_path / "thin.safetensors", other) == tuple(recipes)
    assert torch.equal(other(WORDS), model(WORDS))
    assert other.head.weight is other.table.weight
    assert other.scale.shape == (5,)
    assert list(tmp_path.iterdir()) == [tmp_path / "thin.safetensors"]
    assert "head.weight" not in load_file(tmp_path / "thin.safetensors")  # once, under the first name
    load_thinned(tmp_path / "thin.safetensors", other)  # which is as thin already
    other(WORDS).sum().backward()


def test_a_wrapped_model_is_the_same(tmp_path: Path) -> None:
    model, recipes = thinned()
    save_thinned(tmp_path / "thin.safetensors", nn.DataParallel(model), recipes)
    other = nn.DataParallel(fresh(2))
    load_thinned(tmp_path / "thin.safetensors", other)
    assert torch.equal(other.module(WORDS), model(WORDS))


def test_a_dense_model_saves_and_loads_too(tmp_path: Path) -> None:
    save_thinned(tmp_path / "dense.safetensors", fresh(), [])
    other = fresh(2)
    assert load_thinned(tmp_path / "dense.safetensors", other) == ()
    assert torch.equal(other(WORDS), fresh()(WORDS))


def test_a_recipe_that_does_not_fit_says_where_and_changes_nothing(tmp_path: Path) -> None:
    model, recipes = thinned()
    save_thinned(tmp_path / "thin.safetensors", model, recipes)

    class Other(Words):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.back = nn.LSTM(6, 9), nn.Linear(9, 6)

    other = Other()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(
        RecipeError,
        match=r"thin\.safetensors: the recipe does not fit .*: 'rnn\.weight_ih_l0' has shape \(36, 6\), not 32 along axis 0",
    ):
        load_thinned(tmp_path / "thin.safetensors", other)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())
    untied = fresh()
    untied.head.weight = nn.Parameter(untied.head.weight.detach().clone())
    with pytest.raises(CheckpointError, match=r"head\.weight: tied to table\.weight in the checkpoint, not in the model"):
        load_thinned(tmp_path / "thin.safetensors", untied)
    assert untied.rnn.hidden_size == 8


def test_what_is_no_thinned_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read as a thinned model"):
        load_thinned(tmp_path / "nowhere.safetensors", fresh())
    save_file({"a": torch.ones(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="was not written by save_thinned"):
        load_thinned(tmp_path / "plain.safetensors", fresh())
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(CheckpointError, match="give a file that save_thinned wrote"):
        load_thinned(tmp_path / "broken.safetensors", fresh())
    with pytest.raises(CheckpointError, match="could not write"):
        save_thinned(tmp_path / "no" / "folder.safetensors", fresh(), [])


# --- replay ----------------------------------------------------------------------------------------------------------------------------


def test_recipes_are_replayed_from_where_a_model_stands() -> None:
    _, recipes = thinned()
    whole, half = fresh(), fresh()
    replay(recipes, whole)
    replay(recipes[:1], half)
    replay(recipes, half)
    replay(recipes, half)
    assert whole.rnn.hidden_size == half.rnn.hidden_size == 5
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), half.parameters(), strict=True))


def test_masks_and_the_optimizer_go_along() -> None:
    _, recipes = thinned()
    model = fresh()
    optimizer = torch.optim.AdamW(model.parameters())
    model(WORDS).sum().backward()
    optimizer.step()
    masks = Masks(named_parameters(model))
    masks.put("back.weight", torch.ones(6, 8, dtype=torch.bool), "soft")
    replay(recipes, model, masks, optimizer)
    assert masks["back.weight"].shape == masks.dense("back.weight").shape == (6, 5)
    assert optimizer.state[model.back.weight]["exp_avg_sq"].shape == (6, 5)
    optimizer.zero_grad()
    model(WORDS).sum().backward()
    optimizer.step()


def test_a_later_recipe_that_does_not_fit_leaves_the_model_as_it_was() -> None:
    good = Recipe(
        (Cut("0.weight", 0, 4, (0, 1, 2)), Cut("0.bias", 0, 4, (0, 1, 2)), Cut("2.weight", 1, 4, (0, 1, 2))),
        (Change("0", "out_features", 4, 3),),
    )
    bad = Recipe((Cut("0.weight", 0, 5, (0,)),), (Change("0", "out_features", 2, 1),))
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(
        RecipeError, match=r"'0\.weight' has shape \(3, 2\), not 5 along axis 0; module '0' has out_features 3, not 2"
    ) as told:
        replay([good, bad], model)
    assert len(told.value.faults) == 2
    assert model[0].out_features == 4


# --- checkpoints -----------------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_a_thinned_model_restores_into_a_fresh_one(tmp_path: Path) -> None:
    model = without(fresh(), 2, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(WORDS).sum().backward()
    optimizer.step()
    without(model, 2, 3)
    scheduler = Scheduler(model, optimizer=optimizer, example_inputs=(WORDS,))
    thin_now(scheduler.state)
    save_checkpoint(tmp_path / "run", model, {"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()})
    checkpoint, other = load_checkpoint(tmp_path / "run"), fresh(2)
    its = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    resumed = Scheduler(other, optimizer=its)
    checkpoint.restore_model(other)
    resumed.load_state_dict(checkpoint.state["scheduler"])
    its.load_state_dict(checkpoint.state["optimizer"])
    assert resumed.recipes == scheduler.recipes == checkpoint.recipes
    for one, opt in ((model, optimizer), (other, its)):
        opt.zero_grad()
        one(WORDS).square().sum().backward()
        opt.step()
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))
    checkpoint.restore_model(other)  # which is as thin already


def test_a_checkpoint_that_does_not_fit_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model, recipes = thinned()
    save_checkpoint(tmp_path / "run", model, {"recipes": [recipe.to_json() for recipe in recipes]})
    checkpoint = load_checkpoint(tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"is not a checkpoint of this model, which cannot be thinned alike: .* it has no 'rnn\.weight_ih_l0'"
    ):
        checkpoint.restore_model(nn.Linear(2, 2))
    other = fresh()
    other.back = nn.Linear(8, 6, bias=False)
    with pytest.raises(CheckpointError, match=r"back\.bias: unexpected"):
        checkpoint.restore_model(other)
    assert other.rnn.hidden_size == 8


def test_recipes_are_json_all_through() -> None:
    _, recipes = thinned()
    assert [Recipe.from_json(json.dumps(json.loads(recipe.to_json()))) for recipe in recipes] == recipes
