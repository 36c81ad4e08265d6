"""Options and overrides: what each layer gets, by which name, and what is refused."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest
from torch import nn

from limbeck.errors import QuantizationError, ScheduleWarning
from limbeck.quantization.affine import Mode
from limbeck.quantization.kinds import Kind, kind_of, leaves
from limbeck.quantization.models import modular
from limbeck.quantization.post_train import PostTrainLinearQuantizer
from limbeck.quantization.settings import Setting, checked, defaults, named_by, resolve

KINDS = {
    "encoder": Kind.EMBEDDING,
    **{f"rnn.cells.{cell}.{part}": Kind.OTHER for cell in (0, 1) for part in ("act_f", "eltwiseadd_gate", "eltwisemult_hidden")},
    "decoder": Kind.WEIGHTED,
}


def setting_of(overrides: dict[str, Any], default: Setting | None = None) -> dict[str, Setting]:
    return resolve(default or Setting(), checked(overrides), KINDS)


def test_the_options_have_the_ancestor_s_names_and_defaults() -> None:
    """facts 1.6: the constructor of PostTrainLinearQuantizer."""
    fields = {field.name: field.default for field in dataclasses.fields(PostTrainLinearQuantizer) if field.init}
    del fields["model"]
    assert fields == {
        "bits_activations": 8,
        "bits_parameters": 8,
        "bits_accum": 32,
        "overrides": None,
        "mode": Mode.SYMMETRIC,
        "clip_acts": "none",
        "per_channel_wts": False,
        "model_activation_stats": None,
        "clip_n_stds": None,
        "clip_half_range": False,
        "scale_approx_mult_bits": None,
        "inputs_quant_auto_fallback": True,
        "fpq_module": None,
        "save_fp_weights": False,
        "also_clip_weights": False,
    }


def test_the_ancestor_s_overrides_are_read_as_it_read_them() -> None:
    """The last row of the table in the seed: regular expressions, capitals, FP16 modules; the first that matches counts."""
    found = setting_of(
        {
            "encoder": {"fpq_module": "16"},
            "decoder": {"fpq_module": 16},
            ".*eltwise.*": {"fpq_module": 16},
            "rnn.cells.0.act_f": {"clip_acts": "LAPLACE", "mode": "ASYMMETRIC_UNSIGNED"},
            "rnn.*": {"clip_acts": "AVG", "bits_activations": 4},
        }
    )
    halves = {name for name, setting in found.items() if setting.fpq_module == 16}
    assert halves == {"encoder", "decoder", *[name for name in KINDS if "eltwise" in name]}
    assert (found["rnn.cells.0.act_f"].clip_acts, found["rnn.cells.0.act_f"].mode_activations) == ("laplace", Mode.ASYMMETRIC_UNSIGNED)
    assert (found["rnn.cells.0.act_f"].bits_activations, found["rnn.cells.1.act_f"].bits_activations) == (8, 4)


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("rnn.cells.*.act_f", True),
        ("rnn.cells.0.act_f", True),
        ("module.rnn.cells.0.act_f", True),
        ("re:rnn.*act_[fg]", True),
        (r"rnn\.cells\.\d\.act_.", True),
        ("*.act_f", True),
        ("act_f", False),
        ("not:rnn.*", False),
        ("not:decoder", True),
        ("re:act_f", False),
    ],
)
def test_names_globs_and_regular_expressions(pattern: str, named: bool) -> None:
    assert named_by(pattern, "rnn.cells.0.act_f") is named


def test_a_layer_s_very_name_is_no_pattern_for_others() -> None:
    kinds = {"fc.1": Kind.WEIGHTED, "fc_1": Kind.WEIGHTED, "fc_2": Kind.WEIGHTED}
    found = resolve(Setting(), {"fc.1": {"bits_weights": 4}, "fc.2": {"bits_weights": 6}}, kinds)
    assert {name: setting.bits_weights for name, setting in found.items()} == {"fc.1": 4, "fc_1": 8, "fc_2": 6}


def test_none_keeps_floats_and_what_is_left_out_is_as_for_all() -> None:
    default = defaults(bits_activations=6, clip_acts="AVG", mode={"weights": "symmetric_restricted"}, bits_accum=24)
    found = setting_of({"decoder": {"bits_weights": None, "mode": {"activations": "ASYMMETRIC_SIGNED"}}}, default)["decoder"]
    assert (found.bits_activations, found.bits_weights, found.bits_accum, found.bits_bias) == (6, None, 24, 24)
    assert (found.mode_activations, found.mode_weights, found.clip_acts) == (Mode.ASYMMETRIC_SIGNED, Mode.SYMMETRIC_RESTRICTED, "avg")
    assert not dataclasses.replace(found, bits_activations=None).quantizes


def test_an_embedding_is_quantized_by_rows_only_where_it_is_asked_for() -> None:
    default = defaults(per_channel_wts=True)
    found = setting_of({}, default)
    assert (found["encoder"].per_channel_wts, found["decoder"].per_channel_wts) == (False, True)
    assert setting_of({"encoder": {"per_channel_wts": True}}, default)["encoder"].per_channel_wts


def test_weights_are_clipped_as_activations_where_that_is_asked_for() -> None:
    assert Setting(clip_acts="avg").clip_weights == "none"
    assert Setting(clip_acts="avg", also_clip_weights=True).clip_weights == "avg"


def test_an_override_that_never_counts_is_worth_a_warning() -> None:
    with pytest.warns(ScheduleWarning, match=r"'decoder' says nothing: '\.\*' stands before it"):
        setting_of({".*": {"bits_weights": 4}, "decoder": {"bits_weights": 8}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        setting_of({"decoder": {"bits_weights": 8}, ".*": {"bits_weights": 4}})


def test_all_patterns_that_name_nothing_are_told_with_what_is_close() -> None:
    with pytest.raises(QuantizationError) as caught:
        setting_of({"decodr": {}, "rnn.cells.0": {}, ".*eltwse.*": {}, "decoder": {}})
    assert caught.value.faults == (
        "no layer is named 'decodr'; did you mean 'decoder'?",
        "'rnn.cells.0' is no layer, but holds 3, as 'rnn.cells.0.act_f'; write 'rnn.cells.0.*' for all of them",
        "no layer is named '.*eltwse.*'; the layers are 'encoder', 'rnn.cells.0.act_f', 'rnn.cells.0.eltwiseadd_gate', "
        "'rnn.cells.0.eltwisemult_hidden', 'rnn.cells.1.act_f' and 3 more",
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"bits_weigths": 4}, r"decoder: unknown key 'bits_weigths'; did you mean 'bits_weights'\?"),
        ({"fp16": True}, "decoder: unknown key 'fp16'; write fpq_module: 16"),
        ({"bits_weights": 17}, "decoder.bits_weights: Input should be less than or equal to 16, not 17"),
        ({"bits_activations": "many"}, "decoder.bits_activations: .*, not 'many'"),
        ({"fpq_module": 8}, "decoder.fpq_module: Input should be 16, 32 or 64, not 8"),
        ({"mode": "SYMETRIC"}, r"decoder.mode: no mode is named 'SYMETRIC'; did you mean 'symmetric'\?"),
        (
            {"mode": {"weigths": "SYMMETRIC"}},
            r"decoder.mode: a mode is for activations or weights, not for 'weigths'; did you mean 'weights'\?",
        ),
        ({"clip_acts": "LAPLAC"}, r"decoder.clip_acts: no clipping is named 'LAPLAC'; did you mean 'laplace'\?"),
        ({"clip_n_stds": 0}, "decoder.clip_n_stds: Input should be greater than 0, not 0"),
        ({"input_overrides": {0: {"bits_weights": 4}}}, "decoder.input_overrides.0: unknown key 'bits_weights'"),
        ({"input_overrides": {"first": {}}}, "decoder.input_overrides.first"),
    ],
)
def test_what_an_override_cannot_say(override: dict[str, Any], message: str) -> None:
    with pytest.raises(QuantizationError, match=message) as caught:
        checked({"decoder": override})
    assert caught.value.faults


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits_activations": 0}, "the quantizer.bits_activations: Input should be greater than or equal to 1, not 0"),
        ({"bits_accum": 64}, "bits_accum is a number from 8 to 48, not 64"),
        ({"clip_acts": "median"}, "no clipping is named 'median'"),
        ({"scale_approx_mult_bits": 1}, "scale_approx_mult_bits"),
    ],
)
def test_options_out_of_range_are_refused_when_the_quantizer_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        PostTrainLinearQuantizer(nn.Sequential(nn.Linear(2, 2)), **options)


class Own(nn.Linear):
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


class Named(nn.Linear):
    """A subclass that computes what its base does."""


def test_kinds_of_layers() -> None:
    assert kind_of(Own(2, 2)) is Kind.OTHER
    assert kind_of(Named(2, 2)) is Kind.WEIGHTED
    assert kind_of(nn.Embedding(3, 2, max_norm=1.0)) is Kind.OTHER
    assert kind_of(nn.MultiheadAttention(2, 1)) is Kind.OPAQUE


def test_leaves_are_the_layers_of_a_model_each_with_all_its_places() -> None:
    shared = nn.ReLU()
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), shared), "b": shared, "attention": nn.MultiheadAttention(2, 1)})
    found = leaves(model)
    assert list(found) == ["a.0", "a.1", "attention"]
    assert found["a.1"].places == ("a.1", "b")
    assert found["attention"].kind is Kind.OPAQUE
    assert "rnn.cells.0.act_f" in leaves(modular(nn.ModuleDict({"rnn": nn.LSTM(2, 2)})))


def test_standard_deviations_are_given_a_number() -> None:
    kinds = {"conv": Kind.WEIGHTED, "fc": Kind.WEIGHTED}
    n_std, clipped = Setting(clip_acts="n_std"), checked({"fc": {"clip_acts": "N_STD"}})
    with pytest.raises(
        QuantizationError, match="1 fault\n  the quantizer: clip_acts 'n_std' needs clip_n_stds, how many standard deviations"
    ):
        resolve(n_std, {}, kinds)
    with pytest.raises(QuantizationError, match="1 fault\n  fc: clip_acts 'n_std'"):
        resolve(Setting(), clipped, kinds)
    with pytest.raises(QuantizationError, match=r"  fc.input_overrides.0: clip_acts 'n_std'"):
        resolve(Setting(), checked({"fc": {"input_overrides": {0: {"clip_acts": "n_std"}}}}), kinds)
    assert resolve(Setting(clip_n_stds=2.0), clipped, kinds)["fc"].clip_n_stds == 2
    assert resolve(n_std, checked({"*": {"clip_n_stds": 3}}), kinds)["conv"].clip_n_stds == 3
