"""Names: one canonical form, tied weights once, and targets that match or say what they meant."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError, TargetError
from limbeck.names import Named, canonical, matches, named_parameters, resolve, searched


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(5, 3)
        self.rnn = nn.LSTM(3, 3)
        self.decoder = nn.Linear(3, 5)
        self.decoder.weight = self.encoder.weight


def names(*spellings: str) -> dict[str, Named]:
    return {name: Named(name, nn.Parameter(torch.zeros(1))) for name in spellings}


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("fc.weight", "fc.weight"),
        ("module.layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("features.module.0.weight", "features.0.weight"),
        ("_orig_mod.module.fc.bias", "fc.bias"),
        ("net._fsdp_wrapped_module.fc.weight", "net.fc.weight"),
        ("a._checkpoint_wrapped_module.b.weight", "a.b.weight"),
        ("submodule.modules.weight", "submodule.modules.weight"),
        ("module.*.weight", "*.weight"),
    ],
)
def test_canonical(spelling: str, name: str) -> None:
    assert canonical(spelling) == name
    assert canonical(canonical(spelling)) == name


def test_tied_weights_are_one_parameter_with_aliases() -> None:
    model = Tied()
    found = named_parameters(model)
    assert list(found) == [name for name, _ in model.named_parameters()]
    assert found["encoder.weight"].aliases == ("decoder.weight",)
    assert found["encoder.weight"].parameter is model.decoder.weight


def test_one_parameter_behind_a_wrapper_is_no_alias_of_itself() -> None:
    inner = nn.Linear(2, 2)
    outer = nn.Module()
    outer.fc = inner
    outer.module = nn.Module()
    outer.module.fc = inner
    assert named_parameters(outer)["fc.weight"].aliases == ()


def test_two_parameters_of_one_canonical_name_are_refused() -> None:
    outer = nn.Module()
    outer.fc = nn.Linear(2, 2)
    outer.module = nn.Module()
    outer.module.fc = nn.Linear(2, 2)
    with pytest.raises(TargetError, match=r"two parameters have the name 'fc\.weight'"):
        named_parameters(outer)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")], ids=["DataParallel", "compile"])
def test_wrappers_leave_the_names(wrap: type[nn.DataParallel]) -> None:
    model = Tied()
    assert list(named_parameters(wrap(model))) == list(named_parameters(model))


def test_an_exact_name_beats_a_pattern_wherever_it_stands() -> None:
    parameters = names("a.weight", "b.weight", "b.bias")
    for targets in ({"*": 1, "b.weight": 2}, {"b.weight": 2, "*": 1}):
        assert resolve(targets, parameters) == {"a.weight": 1, "b.weight": 2, "b.bias": 1}


def test_among_patterns_the_first_wins() -> None:
    parameters = names("layer1.conv.weight", "layer2.conv.weight", "layer2.conv.bias")
    assert resolve({"layer2.*": 1, "*.weight": 2}, parameters) == {"layer1.conv.weight": 2, "layer2.conv.weight": 1, "layer2.conv.bias": 1}
    assert resolve({"*.weight": 2, "re:layer2.*": 1}, parameters) == {
        "layer1.conv.weight": 2,
        "layer2.conv.weight": 2,
        "layer2.conv.bias": 1,
    }


def test_the_order_is_the_model_s() -> None:
    assert list(resolve({"c": 1, "a": 2}, names("a", "b", "c"))) == ["a", "c"]


@pytest.mark.parametrize("target", ["decoder.weight", "module.decoder.weight", "encoder.weight", "decoder.w*", "re:decoder.weight"])
def test_an_alias_names_the_tied_parameter(target: str) -> None:
    assert resolve({target: 0.5}, named_parameters(Tied())) == {"encoder.weight": 0.5}


def test_old_wrapper_spellings_and_wrapped_models_meet() -> None:
    assert resolve({"module.rnn.weight_ih_l0": 1, "rnn.module.weight_hh_l0": 2}, named_parameters(nn.DataParallel(Tied()))) == {
        "rnn.weight_ih_l0": 1,
        "rnn.weight_hh_l0": 2,
    }


def test_false_values_are_values() -> None:
    assert resolve({"*": 0.5, "b": 0.0}, names("a", "b")) == {"a": 0.5, "b": 0.0}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("rnn.weight_ih_10", "no parameter is named 'rnn.weight_ih_10'; did you mean 'rnn.weight_ih_l0'?"),
        ("module.encoder.wieght", "no parameter is named 'module.encoder.wieght'; did you mean 'encoder.weight'?"),
        ("conv?.weight", "no parameter matches 'conv?.weight'"),
        ("re:conv.*", "no parameter matches 're:conv.*'"),
        ("weight", "no parameter is named 'weight'"),
        ("fc", "no parameter is named 'fc'"),
    ],
)
def test_a_target_that_matches_nothing_names_the_closest(target: str, message: str) -> None:
    with pytest.raises(TargetError) as raised:
        resolve({target: 1}, named_parameters(Tied()))
    assert str(raised.value) == message
    assert isinstance(raised.value, LimbeckError)
    assert isinstance(raised.value, LookupError)


@pytest.mark.parametrize(("one", "other"), [("encoder.weight", "decoder.weight"), ("module.encoder.weight", "encoder.weight")])
def test_two_names_of_one_parameter_must_agree(one: str, other: str) -> None:
    assert resolve({one: 0.5, other: 0.5}, named_parameters(Tied())) == {"encoder.weight": 0.5}
    with pytest.raises(TargetError) as raised:
        resolve({one: 0.5, other: 0.9}, named_parameters(Tied()))
    assert str(raised.value) == f"'{other}' is another name of 'encoder.weight', which is given 0.5 already, not 0.9; name it once"


def test_a_name_is_no_substring() -> None:
    assert not matches("fc", "fc.weight")
    assert not matches("re:fc", "fc.weight")
    assert not matches("FC.weight", "fc.weight")


def test_a_regular_expression_that_does_not_compile_says_so() -> None:
    with pytest.raises(TargetError, match=r"'re:rnn\.\(' is not a regular expression: "):
        resolve({"re:rnn.(": 1}, names("rnn.weight"))


def test_not_takes_all_others_and_no_name_of_a_tied_parameter_may_match() -> None:
    parameters = named_parameters(Tied())
    others = [name for name in parameters if name != "encoder.weight"]
    for target in ("not:encoder.weight", "not:decoder.weight", "not:decoder.w*", "not:re:decoder.*ght", "not:module.decoder.weight"):
        assert list(resolve({target: 1}, parameters)) == others
    assert list(resolve({"not:not:decoder.weight": 1}, parameters)) == ["encoder.weight"]


def test_matrices_leave_biases_and_gains() -> None:
    parameters = named_parameters(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3)))
    assert list(resolve({"matrices:*": 1}, parameters)) == ["0.weight", "2.weight"]
    assert list(resolve({"matrices:not:re:0.*": 1}, parameters)) == ["2.weight"]
    assert list(resolve({"matrices:2.weight": 1}, parameters)) == ["2.weight"]
    assert list(resolve({"not:matrices:*": 1}, parameters)) == ["0.bias", "1.weight", "1.bias", "2.bias"]
    assert resolve({"matrices:*": 1, "2.weight": 2, "*": 3}, parameters)["2.weight"] == 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("not:*", "no parameter matches 'not:*'"),
        ("not:re:.*decodr.*", "no parameter matches 're:.*decodr.*'; did you mean 'decoder'?"),
        ("re:.*(?:encodr|gamma).*", "no parameter matches 're:.*(?:encodr|gamma).*'; did you mean 'encoder'?"),
        (r"re:\wnn\.wieght.*", r"no parameter matches 're:\wnn\.wieght.*'; did you mean 'weight'?"),
        (
            "re:.*(?:ln/gamma).*",
            "no parameter matches 're:.*(?:ln/gamma).*'; the parts of names are joined by dots, as in 'encoder.weight'",
        ),
        ("matrices:*.bias", "'*.bias' matches only biases and gains, as 'decoder.bias'; take 'matrices:' away to mean them"),
        ("matrices:encoder.wieght", "no parameter is named 'encoder.wieght'; did you mean 'encoder.weight'?"),
    ],
)
def test_a_pattern_that_matches_nothing_says_which_part_is_unknown(target: str, message: str) -> None:
    with pytest.raises(TargetError) as raised:
        resolve({target: 1}, named_parameters(Tied()))
    assert str(raised.value) == message


PATTERNS = ["weight", "^rnn", "bias$", "(ih)|(decoder)", r"l\d$", "", "(?i)RNN.*HH", "ih_l0|^enc", r"(.)\1", "^encoder.weight$"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_searched_pattern_matches_where_re_search_finds_it(pattern: str) -> None:
    for name in named_parameters(Tied()):
        assert matches(searched(pattern), name) == bool(re.search(pattern, name))
        assert matches("not:" + searched(pattern), name) == (not re.search(pattern, name))
