"""Laws of thinning, for random small networks: what is left computes, trains, is saved and goes on as the masked model does."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from laws.drawn import LAYERS, STEPS, Maps, Step, Tokens, maps, tokens
from laws.thinned import Trained, chosen, followed, holds, masks_of, randomised, removable
from limbeck.errors import RecipeError
from limbeck.graph import capture, coupling
from limbeck.recipes import Recipe, thinner
from limbeck.thinning import apply, replay, thin

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
folders = [HealthCheck.function_scoped_fixture]  # each example overwrites what the one before wrote


def images(axes: int, seed: int) -> Tensor:
    return torch.randn(3, 3, *[2] * axes, generator=torch.Generator().manual_seed(seed))


def words(seed: int) -> Tensor:
    return torch.randint(7, (2, 4), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=5, suppress_health_check=folders)
@given(maps(), st.integers(0, 1000), st.sampled_from(("sgd", "adam")))
def test_networks_of_maps(tmp_path: Path, drawn: tuple[int, list[Step], bool], seed: int, optimizer: str) -> None:
    assert holds(lambda: Maps(*drawn), (images(drawn[0], seed),), seed, tmp_path, optimizer)


@settings(max_examples=4, suppress_health_check=folders)
@given(tokens(), st.integers(0, 1000), st.sampled_from(("sgd", "adam")))
def test_networks_of_tokens(tmp_path: Path, drawn: tuple[list[tuple[str, int]], bool, bool], seed: int, optimizer: str) -> None:
    assert holds(lambda: Tokens(*drawn), (words(seed),), seed, tmp_path, optimizer)


@pytest.mark.long
@settings(max_examples=150, suppress_health_check=[*folders, HealthCheck.too_slow])
@given(maps(max_size=7), st.integers(0, 10**6), st.sampled_from(("sgd", "adam")))
def test_many_networks_of_maps(tmp_path: Path, drawn: tuple[int, list[Step], bool], seed: int, optimizer: str) -> None:
    assert holds(lambda: Maps(*drawn), (images(drawn[0], seed),), seed, tmp_path, optimizer)


@pytest.mark.long
@settings(max_examples=150, suppress_health_check=[*folders, HealthCheck.too_slow])
@given(tokens(5), st.integers(0, 10**6), st.sampled_from(("sgd", "adam")))
def test_many_networks_of_tokens(tmp_path: Path, drawn: tuple[list[tuple[str, int]], bool, bool], seed: int, optimizer: str) -> None:
    assert holds(lambda: Tokens(*drawn), (words(seed),), seed, tmp_path, optimizer)


KINDS = [sorted(STEPS)[place::6] for place in range(6)]
RUNS = [sorted(LAYERS)[place::4] for place in range(4)]


@pytest.mark.parametrize("kinds", KINDS, ids=", ".join)
def test_each_step_can_lose_units(kinds: list[str], tmp_path: Path) -> None:
    losers = free(Maps(2, steps := [Step(kind, 3, place) for place, kind in enumerate(kinds)], flat=True), images(2, 3))
    computing = {f"steps.{place}" for place, kind in enumerate(kinds) if kind not in {"shuffle", "pool"}}
    assert losers == {"stem.weight", "stem.bias", "neck.weight", "neck.bias", "head.weight"} | computing
    assert holds(lambda: Maps(2, steps, flat=True), (images(2, 3),), 3, tmp_path)


@pytest.mark.parametrize("kinds", RUNS, ids=", ".join)
def test_each_layer_can_lose_units(kinds: list[str], tmp_path: Path) -> None:
    for kind in kinds:  # a layer norm that follows would hold what comes before
        assert "layers.0" in free(Tokens([(kind, 2)], tied=True, last=False), words(2))
    assert holds(lambda: Tokens([(kind, 2) for kind in kinds], tied=True, last=False), (words(2),), 4, tmp_path)


def free(model: nn.Module, x: Tensor) -> set[str]:
    """The first two parts of the names of parameters that have units which nothing holds."""
    found = coupling(capture(model, (x,)))
    units = set(removable(found))
    return {".".join(name.split(".")[:2]) for (name, _), classes in found.classes.items() if units & set(classes)}


@settings(max_examples=3)
@given(maps(2, 3), st.integers(0, 1000))
def test_thinning_twice_is_thinning_once_with_both(drawn: tuple[int, list[Step], bool], seed: int) -> None:
    torch.manual_seed(seed)
    model, x = randomised(Maps(*drawn)), images(drawn[0], seed)
    found = coupling(capture(model, (x,)))
    units = sorted(chosen(found, 0.5, seed))
    first, both = (masks_of(model, found, frozenset(part)) for part in (units[::2], units))
    once, twice = (Trained.of(copy.deepcopy(model), masks, "sgd") for masks in (both, first))
    whole = copy.deepcopy(once.model)
    recipes = [thin(twice.model, (x,))]
    cuts = followed(recipes[0], whole)
    twice.model.load_state_dict({name: thinner(tensor, cuts[name]) for name, tensor in whole.state_dict().items()})
    recipes.append(thin(twice.model, (x,)))
    recipe = thin(once.model, (x,))
    assert recipe
    assert len(units) == 1 or recipes[1]
    for name, tensor in once.model.state_dict().items():
        assert torch.equal(tensor, twice.model.state_dict()[name]), name
    fresh = Maps(*drawn)
    replay(recipes, fresh)
    fresh.load_state_dict(once.model.state_dict())
    assert torch.equal(fresh.eval()(x), once.model.eval()(x))


@settings(max_examples=3)
@given(maps(1, 2), st.integers(0, 1000))
def test_a_recipe_for_another_model_says_where(drawn: tuple[int, list[Step], bool], seed: int) -> None:
    torch.manual_seed(seed)
    model, x = randomised(Maps(*drawn)), images(drawn[0], seed)
    found = coupling(capture(model, (x,)))
    Trained.of(model, masks_of(model, found, chosen(found, 0.5, seed)), "sgd")
    recipe = thin(copy.deepcopy(model), (x,))
    other = Maps(drawn[0], [*drawn[1][:-1], Step("plain", 5, 0)], drawn[2])
    before = copy.deepcopy(other.state_dict())
    misfits = [cut for cut in recipe.cuts if cut.tensor not in before or before[cut.tensor].shape[cut.axis] != cut.size]
    if not misfits:
        return
    with pytest.raises(RecipeError, match=f"'{misfits[0].tensor}'") as caught:
        apply(Recipe.from_json(recipe.to_json()), other)
    assert len(caught.value.faults) >= len(misfits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
