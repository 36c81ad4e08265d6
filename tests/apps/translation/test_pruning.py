"""NeurST's options on a translation model: what is pruned, why, and what the report says of it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from apps.translation.conftest import SMALL as SMALL_RUN
from apps.translation.conftest import invoke
from limbeck import NeurST, Scheduler, TargetError, Window
from limbeck.apps.checkpoint import load_checkpoint
from limbeck.apps.translation.hparams import SIZES, Sizes
from limbeck.apps.translation.model import Transformer, build_model, neurst_name
from limbeck.apps.translation.pruning import choices, kind, policies, pruning_table, report, steps
from limbeck.config import load_schedule
from limbeck.config.write import schedule_text
from limbeck.names import named_parameters
from limbeck.pruning import Prune, Pruner
from limbeck.pruning.neurst import keep_zeros_pruner
from limbeck.summaries.render import save

SMALL = Sizes(width=8, heads=2, encoder_layers=2, decoder_layers=1, ffn=16)
SEED_PATTERN = "(ln/gamma)|(ln/beta)|(modalit)"
"""Of NeurST's page on weight pruning."""


def network(sizes: Sizes = SMALL) -> Transformer:
    torch.manual_seed(4)
    return build_model(sizes, 30, 30)


def pruned(options: NeurST, model: nn.Module | None = None, prune_embeddings: bool = False) -> list[str]:
    return [name for name, choice in choices(options, model or network(), prune_embeddings).items() if choice.pruned]


def matrices(model: nn.Module, *but: str) -> list[str]:
    return [name for name, named in named_parameters(model).items() if named.parameter.dim() > 1 and not any(part in name for part in but)]


def test_without_a_pattern_attention_and_feed_forward_are_pruned() -> None:
    found = choices(NeurST(), network())
    assert pruned(NeurST()) == matrices(network(), "embedding", "softmax")
    assert {choice.why for choice in found.values() if choice.pruned} == {"attention", "feed-forward"}
    assert found["source_embedding.weight"].why == "embedding; prune_embeddings prunes it"
    assert found["encoder.norm.weight"].why == "norm; prune_vectors prunes it"
    assert found["encoder.layers.1.ffn.conv2.bias"].why == "bias; prune_vectors prunes it"


def test_embeddings_are_pruned_on_request() -> None:
    assert pruned(NeurST(), prune_embeddings=True) == matrices(network())
    untied = network(Sizes(width=8, heads=2, ffn=16, share_embeddings=False, tie_softmax=False))
    assert {"source_embedding.weight", "target_embedding.weight", "softmax.weight"} <= set(pruned(NeurST(), untied, prune_embeddings=True))


def test_vectors_are_pruned_on_request() -> None:
    every = list(named_parameters(network()))
    assert pruned(NeurST(prune_vectors=True)) == [name for name in every if "embedding" not in name]
    assert pruned(NeurST(prune_vectors=True), prune_embeddings=True) == every


def test_the_pattern_of_neurst_s_page_means_what_it_means_in_neurst() -> None:
    """It keeps norms, embeddings and softmax dense and prunes all else: there biases too (facts 1.3), here with prune_vectors."""
    assert pruned(NeurST(nopruning_variable_pattern=SEED_PATTERN)) == matrices(network(), "embedding", "softmax")
    found = choices(NeurST(nopruning_variable_pattern=SEED_PATTERN, prune_vectors=True), network())
    assert {kind(name) for name, choice in found.items() if choice.pruned} == {"attention", "feed-forward", "bias"}
    assert {kind(name) for name, choice in found.items() if not choice.pruned} == {"embedding", "norm"}


@pytest.mark.parametrize("pattern", ["norm|embedding|softmax", "ln|symbol_modality", SEED_PATTERN])
def test_patterns_are_searched_in_both_names(pattern: str) -> None:
    assert pruned(NeurST(nopruning_variable_pattern=pattern)) == pruned(NeurST())


def test_a_pattern_of_what_stays_dense_prunes_embeddings_unless_it_finds_them() -> None:
    assert pruned(NeurST(nopruning_variable_pattern="ln/gamma")) == matrices(network())


def test_a_pattern_of_what_is_pruned_goes_before_the_other() -> None:
    options = NeurST(pruning_variable_pattern="TransformerEncoder/layer_0/.*kernel", nopruning_variable_pattern="ffn")
    assert pruned(options) == [name for name in matrices(network()) if name.startswith("encoder.layers.0.")]


def test_a_tied_parameter_is_found_under_any_of_its_names() -> None:
    assert pruned(NeurST(pruning_variable_pattern="^softmax")) == ["source_embedding.weight"]
    assert "source_embedding.weight" not in pruned(NeurST(nopruning_variable_pattern="target_symbol_modality"))


@pytest.mark.parametrize(
    ("options", "prune_embeddings", "fault"),
    [
        (NeurST(nopruning_variable_pattern="(ln/gama)"), False, "nopruning_variable_pattern '(ln/gama)' finds no parameter; did you mean 'gamma'?"),
        (NeurST(pruning_variable_pattern="self_atention"), False, "did you mean 'self_attention'?"),
        (NeurST(pruning_variable_pattern="xyz"), False, "'xyz' finds no parameter; names are such as 'Sequence"),
        (NeurST(pruning_variable_pattern="ln/"), False, "finds only biases and norms, which prune_vectors prunes"),
        (NeurST(nopruning_variable_pattern="kernel|weights"), False, "leaves only biases and norms, which prune_vectors prunes"),
        (NeurST(nopruning_variable_pattern="."), False, "leaves nothing to be pruned"),
        (NeurST(pruning_variable_pattern="ffn"), True, "prune_embeddings goes without a pattern"),
    ],
)  # fmt: skip
def test_a_pattern_that_does_not_do_what_it_says_is_an_error(options: NeurST, prune_embeddings: bool, fault: str) -> None:
    with pytest.raises(TargetError) as caught:
        choices(options, network(), prune_embeddings)
    assert fault in str(caught.value)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_parameter_of_every_size_has_a_kind_and_a_neurst_name(sizes: Sizes) -> None:
    model = build_model(replace(sizes, width=2, heads=1, ffn=2), 9, 9)
    names = [other for named in named_parameters(model).values() for other in (named.name, *named.aliases)]
    kinds = {name: kind(name) for name in names}
    assert {name for name, found in kinds.items() if found == "norm"} == {name for name in names if "norm" in name}
    assert {name for name, found in kinds.items() if found == "embedding"} == {
        name for name in names if "embedding" in name or "softmax" in name
    }
    assert {name for name, found in kinds.items() if found == "attention"} == {
        name for name in names if "attention." in name and name.endswith("weight")
    }
    assert len({neurst_name(name) for name in names}) == len(names)


def train(model: Transformer, scheduler: Scheduler, optimizer: torch.optim.Optimizer, updates: int = 8) -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in scheduler.epochs(1):
        for source in scheduler.steps([torch.randint(4, 30, (3, 5), generator=generator) for _ in range(updates)]):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(source, source).flatten(0, 1), source.flatten()).backward()
            optimizer.step()


def started(make: str, options: NeurST) -> tuple[Transformer, Scheduler, torch.optim.Optimizer]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    if make == "file":
        return model, load_schedule(schedule_text(steps(options, model), 8), model, optimizer), optimizer
    return model, Scheduler(model, policies(options, model), optimizer), optimizer


RAMP = NeurST(target_sparsity=0.5, end_pruning_step=6, pruning_frequency=2, nopruning_variable_pattern=SEED_PATTERN)


@pytest.mark.parametrize("options", [RAMP, NeurST("constant_sparsity", target_sparsity=0.3, pruning_frequency=3)], ids=["ramp", "constant"])
def test_the_options_and_their_file_give_the_same_model_bit_for_bit(options: NeurST) -> None:
    models = []
    for make in ("file", "options"):
        model, scheduler, optimizer = started(make, options)
        train(model, scheduler, optimizer)
        models.append(model)
    assert all(torch.equal(one, other) for one, other in zip(*(model.parameters() for model in models), strict=True))
    assert int(models[0].encoder.layers[0].ffn.conv1.weight.count_nonzero()) < 128  # type: ignore[union-attr]


def test_a_run_by_options_and_one_by_their_file_end_with_the_same_bits(tmp_path: Path, folder: Path) -> None:
    options = "--target_sparsity 0.5 --end_pruning_step 6 --pruning_frequency 2 --nopruning_variable_pattern 'norm|embedding|softmax'"
    (tmp_path / "half.yaml").write_text(invoke(f"import neurst {options}").output, encoding="utf-8")
    for name, pruning in (("options", options), ("file", f"--compress {tmp_path}/half.yaml")):
        result = invoke(f"translate train --data {folder} {SMALL_RUN} --train_steps 8 --eval_steps 8 {pruning} --save {tmp_path}/{name}")
        assert result.exit_code == 0, result.output
    one, other = (load_checkpoint(tmp_path / name / "last") for name in ("options", "file"))
    assert all(torch.equal(tensor, other.model[name]) for name, tensor in one.model.items())
    assert one.masks.keys() == other.masks.keys()
    rows = [
        list(csv.DictReader((tmp_path / name / "pruning.csv").read_text(encoding="utf-8").splitlines())) for name in ("options", "file")
    ]
    assert [row | {"Why": ""} for row in rows[0]] == [row | {"Why": ""} for row in rows[1]]
    whys = [row["Why"] for row in rows[0]], [row["Why"] for row in rows[1]]
    assert "embedding; nopruning_variable_pattern finds it" in whys[0]
    assert "embedding; no policy prunes it" in whys[1]


def test_options_that_prune_nothing_are_no_policies() -> None:
    assert policies(NeurST(), network()) == []
    assert policies(NeurST(pruning_variable_pattern="xyz"), network()) == []


def test_the_report_says_what_was_pruned_why_and_how_sparse_it_is() -> None:
    model, scheduler, optimizer = started("options", RAMP)
    train(model, scheduler, optimizer)
    rows = {row.name: row for row in report(model, scheduler, choices(RAMP, model))}
    for name, named in named_parameters(model).items():
        row, numel = rows[name], named.parameter.numel()
        assert row.nonzeros == int(named.parameter.count_nonzero())
        assert row.pruned == (name in pruned(RAMP))
        if row.pruned:
            assert row.target == row.sparsity == (numel - round(numel * 0.5)) / numel
            assert row.why.endswith("nopruning_variable_pattern does not find it")
        else:
            assert row.target is None
    assert rows["source_embedding.weight"].why == "embedding; nopruning_variable_pattern finds it"
    assert rows["source_embedding.weight"].aliases == ("target_embedding.weight", "softmax.weight")


def test_the_report_of_a_schedule_file_says_what_its_policies_do() -> None:
    model, scheduler, _ = started("file", NeurST("constant_sparsity", target_sparsity=0.25, pruning_frequency=4))
    rows = {row.name: row for row in report(model, scheduler)}
    assert (rows["encoder.layers.0.ffn.conv1.weight"].why, rows["encoder.layers.0.ffn.conv1.weight"].target) == (
        "feed-forward; a policy prunes it",
        0.25,
    )
    assert rows["decoder.norm.weight"].why == "norm; no policy prunes it"


def test_a_target_that_depends_on_data_is_not_told() -> None:
    model = network()
    scheduler = Scheduler(
        model, [(Window(0, 1), Prune(keep_zeros_pruner(["encoder.*.ffn.*weight"]))), (Window(4), Prune(Pruner({"softmax.weight": 0.5})))]
    )
    rows = {row.name: row for row in report(model, scheduler)}
    assert (rows["encoder.layers.0.ffn.conv1.weight"].pruned, rows["encoder.layers.0.ffn.conv1.weight"].target) == (True, None)
    assert rows["source_embedding.weight"].target == 0.5


def test_the_table_can_be_written_and_sums_the_matrices_up(tmp_path: Path) -> None:
    model, scheduler, optimizer = started("options", RAMP)
    train(model, scheduler, optimizer)
    table = pruning_table(report(model, scheduler, choices(RAMP, model)))
    save(table, tmp_path / "pruning.csv")
    lines = list(csv.DictReader((tmp_path / "pruning.csv").read_text(encoding="utf-8").splitlines()))
    weights = [named.parameter for named in named_parameters(model).values() if named.parameter.dim() > 1]
    assert len(lines) == len(list(named_parameters(model))) + 1
    assert int(lines[-1]["Non-zero"]) == sum(int(weight.count_nonzero()) for weight in weights)
    assert int(lines[-1]["Weights"]) == sum(weight.numel() for weight in weights)
    assert any(note.startswith("Pruned: 15 of ") for note in table.notes)  # two layers of 4 matrices, and one of 7
