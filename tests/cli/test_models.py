"""What ``--model`` and ``--model-arg`` name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.cli._models import example_inputs, parse_input, resolve_model
from limbeck.errors import LimbeckError


# Seed 000's sizes, tied and untied, for WikiText-2's 33,278 words.
@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        (["tied=true"], 7_295_600), (["emsize=650", "nhid=650", "tied=true"], 28_390_700), (["emsize=1500", "nhid=1500", "tied=true"], 85_917_000),
        ([], 13_951_200), (["emsize=650", "nhid=650"], 50_021_400), (["emsize=1500", "nhid=1500"], 135_834_000),
    ],
)  # fmt: skip
def test_the_language_model_costs_no_memory(arguments: list[str], weights: int) -> None:
    parameters = list(resolve_model("lm:LSTM", arguments).parameters())
    assert sum(parameter.numel() for parameter in parameters if parameter.dim() > 1) == weights
    assert all(parameter.is_meta for parameter in parameters)


def test_an_image_model_goes_by_its_short_name() -> None:
    model = resolve_model("images:resnet50")
    assert (
        sum(weight.numel() for weight in model.parameters() if weight.dim() > 1) == 25_502_912
    )  # document 003's "Parameters" of the dense model
    assert next(model.parameters()).is_meta


def test_a_function_of_the_users_is_called_with_the_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text("from torch import nn\n\n\ndef net(width: int) -> nn.Module:\n    return nn.Linear(width, 1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = resolve_model("my_models:net", ["width=7"])
    assert isinstance(model, nn.Linear)
    assert model.in_features == 7


@pytest.mark.parametrize(
    ("spec", "arguments", "message"),
    [
        ("lm:LSTMM", [], "no model is named 'lm:LSTMM'; did you mean 'lm:LSTM'?"),
        ("images:resnet20_cifr", [], "no model is named 'images:resnet20_cifr'; did you mean 'images:resnet20_cifar'?"),
        (
            "resnet",
            [],
            "no model is named 'resnet'; give one of lm:LSTM, lm:GRU, lm:RNN_TANH, lm:RNN_RELU, "
            "an image model as in images:resnet50, a translation model as in translate:transformer_base, or package.module:function",
        ),
        ("translate:transformer_smal", [], "no model is named 'translate:transformer_smal'; did you mean 'translate:transformer_small'?"),
        (
            "translate:transformer_tiny",
            ["heads=3"],
            "--model translate:transformer_tiny: a width of 128 cannot be split over 3 heads; let the number of heads divide it",
        ),
        ("lm:LSTM", ["emsize"], "--model-arg takes name=value, not 'emsize'"),
        ("lm:LSTM", ["emsiz=3"], "--model-arg: lm:LSTM has no 'emsiz'; did you mean 'emsize'?"),
        ("lm:LSTM", ["emsize=wide"], "--model-arg emsize: 'wide' should be a valid integer, unable to parse string as an integer"),
        ("lm:LSTM", ["emsize=3", "tied=true"], "--model lm:LSTM: tied weights need emsize equal to nhid, not 3 and 200"),
        ("nowhere.at:all", [], "--model nowhere.at:all: No module named 'nowhere'"),
        ("shutil:copyfil", [], "--model shutil:copyfil: the module shutil has no function 'copyfil'; did you mean 'copyfile'?"),
        ("math:pi", [], "--model math:pi: the module math has 'pi', which is no function"),
        ("builtins:dict", [], "--model builtins:dict gave {}, not a torch.nn.Module"),
    ],
)
def test_what_is_wrong_is_named(spec: str, arguments: list[str], message: str) -> None:
    with pytest.raises(LimbeckError) as caught:
        resolve_model(spec, arguments)
    assert str(caught.value) == message


def test_what_the_users_module_raises_is_told_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_models.py").write_text("def net():\n    return {}['width']\n")
    (tmp_path / "unfinished_models.py").write_text("width = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(LimbeckError, match="--model broken_models:net: net raised KeyError: 'width'"):
        resolve_model("broken_models:net")
    with pytest.raises(LimbeckError, match="importing unfinished_models raised ZeroDivisionError: division by zero"):
        resolve_model("unfinished_models:net")


def test_an_example_of_what_an_applications_model_takes_runs_through_it() -> None:
    model = resolve_model("lm:LSTM", ["vocabulary=10", "emsize=4", "nhid=4"], device="cpu")
    logits, _ = model(*example_inputs("lm:LSTM", model))
    assert logits.shape == (1, 1, 10)
    logits, _ = model(*example_inputs("lm:LSTM", model, ["5,2"]))
    assert logits.shape == (5, 2, 10)


def test_a_translation_model_takes_a_sentence_and_its_translation() -> None:
    spec, sizes = (
        "translate:transformer_tiny",
        ["vocabulary=10", "target_vocabulary=12", "share_embeddings=false", "width=8", "heads=2", "ffn=8"],
    )
    model = resolve_model(spec, sizes, device="cpu").eval()
    assert model(*example_inputs(spec, model)).shape == (1, 1, 12)
    assert model(*example_inputs(spec, model, ["2,5"])).shape == (2, 5, 12)
    logits = model(*example_inputs(spec, model, ["2,5", "2,3"]))
    assert logits.shape == (2, 3, 12)
    assert logits.isfinite().all()
    with pytest.raises(LimbeckError, match="two numbers, sentences and subwords, as in 1,20, not 1,2,3"):
        example_inputs(spec, model, ["1,2,3"])


def test_each_input_has_a_shape_and_may_have_a_type() -> None:
    words, mask = example_inputs("my.models:encoder", nn.Identity(), ["2,16:int64", "2,16:bool"])
    assert (words.shape, words.dtype, mask.dtype) == ((2, 16), torch.int64, torch.bool)
    with pytest.raises(LimbeckError, match=r"nothing tells what my\.models:encoder takes; give the shape"):
        example_inputs("my.models:encoder", nn.Identity())
    language = resolve_model("lm:LSTM", ["vocabulary=10", "emsize=4", "nhid=4"], device="cpu")
    with pytest.raises(LimbeckError, match="two numbers, words and sequences, as in 35,1, not 1,3,4"):
        example_inputs("lm:LSTM", language, ["1,3,4"])


@pytest.mark.parametrize("text", ["1,3,x", "0,3", "", "1;3", "1,3:", "1,3:float128", "1,3:relu"])
def test_a_shape_is_positive_numbers_with_commas_and_a_type_of_torchs(text: str) -> None:
    with pytest.raises(LimbeckError, match="--input-shape takes positive numbers"):
        parse_input(text)
