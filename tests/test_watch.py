"""What a watch has seen, against the same numbers taken by hand; and that it leaves nothing on the model."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck._forward import owners
from limbeck.errors import CheckpointError
from limbeck.names import named_parameters
from limbeck.pruning.criteria import BATCH_NORM
from limbeck.tile import ELEMENT, FILTERS, Tile
from limbeck.watch import Activations, FollowingNorm, Gradients, Need, Watch

SIZES = Gradients("sizes", lambda total, weight, grad: total.add_(grad.abs().sum(1)))
PRODUCTS = Gradients("products", lambda total, weight, grad: total.add_((weight * grad).sum(1)))


def of_filters(owner: nn.Module, attribute: str, values: Tensor) -> Tensor | None:
    return values.mean((0, 2, 3))[:, None, None, None] if isinstance(owner, nn.Conv2d) else None


OUTPUT = Activations("output", of_filters)


def watching(model: nn.Module, *needs: Need, names: tuple[str, ...] = (), unit: Tile = FILTERS) -> Watch:
    parameters = named_parameters(model)
    return Watch(needs, model, parameters, names or tuple(parameters), lambda name: unit)


class Net(nn.Module):
    """Convolutions that a batch norm reads, that one reads after something else was done, and that none reads."""

    def __init__(self) -> None:
        super().__init__()
        self.normed, self.added, self.bare = (nn.Conv2d(2, 2, 3, padding=1, bias=False) for _ in range(3))
        self.bn1, self.bn2 = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.normed(x)), inplace=True)
        x = F.relu(self.bn2(self.added(x) + x))
        return self.bare(x)


CONVS = ("normed.weight", "added.weight", "bare.weight")


@pytest.mark.parametrize(
    ("layer", "name", "unit", "gated"),
    [
        (nn.Conv2d(4, 4, 3), "0.weight", FILTERS, True),
        (nn.Conv2d(4, 4, 3), "0.bias", ELEMENT, False),  # of which the norm takes the mean away
        (nn.ConvTranspose2d(4, 4, 3), "0.weight", FILTERS, False),  # the norm reads its second axis
    ],
)
def test_a_norm_gates_the_filters_that_it_reads_and_nothing_else_of_as_many_entries(
    layer: nn.Module, name: str, unit: Tile, gated: bool
) -> None:
    model = nn.Sequential(layer, norm := nn.BatchNorm2d(4))
    nn.init.uniform_(norm.weight, 1.0, 2.0)
    watch = watching(model, replace(PRODUCTS, gated=True), names=(name,), unit=unit)
    watch.open()
    (model(torch.randn(3, 4, 5, 5)) * torch.randn(4)[:, None, None]).relu().sum().backward()
    watch.step()
    watch.close()
    stats, own = watch.stats(name), model.get_parameter(name)
    assert stats is not None
    assert own.grad is not None
    assert norm.weight.grad is not None
    expected = norm.weight * norm.weight.grad if gated else unit.fold(own * own.grad).sum(1)
    torch.testing.assert_close(unit.fold(stats["products"])[:, 0], expected.detach())


def test_what_was_seen_follows_a_model_that_is_moved() -> None:
    """The meta device stands for a GPU; there the parameter would stay the same, with other data."""
    net = Net()
    watch = watching(net, SIZES, OUTPUT, names=("bare.weight",))
    for device in ("cpu", "meta"):
        net.to(device)
        watch._parameters["bare.weight"] = net.bare.weight
        watch._forward.owners[:] = owners(net, watch._parameters)
        watch.open()
        net(torch.ones(1, 2, 4, 4, device=device)).sum().backward()
        watch.step()
        watch.close()
    stats = watch.stats("bare.weight")
    assert stats is not None
    assert all(value.is_meta for value in stats.values())


@pytest.mark.parametrize("unit", [ELEMENT, FILTERS, Tile((2, 2), pad=True)])
def test_gradients_add_up_over_steps(unit: Tile) -> None:
    layer = nn.Linear(5, 3)
    watch = watching(layer, SIZES, PRODUCTS, names=("weight",), unit=unit)
    sizes, products = torch.zeros(3, 5), torch.zeros(3, 5)
    for _ in range(4):
        layer.zero_grad()
        layer(torch.randn(7, 5)).square().sum().backward()
        watch.step()
        grad = layer.weight.grad
        assert grad is not None
        for row in range(3):
            for column in range(5):
                mates = unit.unfold(torch.arange(unit.fold(grad).shape[0])[:, None], grad.shape)
                same = mates == mates[row, column]
                sizes[row, column] += grad[same].abs().sum()
                products[row, column] += (layer.weight.detach() * grad)[same].sum()
        with torch.no_grad():
            layer.weight.mul_(0.9)
    stats = watch.stats("weight")
    assert stats is not None
    assert torch.allclose(stats["sizes"], sizes)
    assert torch.allclose(stats["products"], products, atol=1e-5)


def test_a_parameter_without_gradient_is_missing_and_says_so() -> None:
    layer = nn.Linear(5, 3)
    layer.bias.requires_grad_(False)
    watch = watching(layer, SIZES)
    assert watch.stats("weight") is None
    layer(torch.randn(7, 5)).sum().backward()
    watch.step()
    assert watch.missing() == ("'bias': no gradient",)
    assert watch.stats("bias") is None
    assert watch.stats("weight") is not None


def test_what_is_not_required_is_given_once_it_was_seen() -> None:
    layer = nn.Linear(5, 3, bias=False)
    watch = watching(layer, Gradients("sizes", SIZES.accumulate, required=False))
    assert watch.missing() == ()
    assert watch.stats("weight") == {}
    layer(torch.randn(7, 5)).sum().backward()
    watch.step()
    assert set(watch.stats("weight") or {}) == {"sizes"}


def test_a_sparse_gradient_is_a_gradient() -> None:
    embedding = nn.Embedding(4, 3, sparse=True)
    watch = watching(embedding, SIZES)
    embedding(torch.tensor([1, 1, 3])).sum().backward()
    watch.step()
    assert (watch.stats("weight") or {})["sizes"][:, 0].tolist() == [0, 6, 0, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_16_bits_are_added_in_32(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.ones(1, 1, dtype=dtype))
    watch = watching(nn.ParameterDict({"weight": weight}), SIZES)
    weight.grad = torch.ones(1, 1, dtype=dtype)
    for _ in range(5000):
        watch.step()
    assert (watch.stats("weight") or {})["sizes"].item() == 5000


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_activations_are_the_mean_of_all_batches_together(batches: list[int]) -> None:
    conv = nn.Conv2d(2, 3, 3)
    watch = watching(conv, OUTPUT, names=("weight",))
    inputs = [torch.randn(size, 2, 5, 5) for size in batches]
    for x in inputs:
        watch.open()
        conv(x)
        watch.close()
    together = conv(torch.cat(inputs)).mean((0, 2, 3))
    assert torch.allclose((watch.stats("weight") or {})["output"].flatten(), together, atol=1e-5)


def test_a_batch_norm_is_behind_a_convolution_only_if_it_reads_its_very_output() -> None:
    net = Net()
    watch = watching(net, OUTPUT, names=CONVS)
    expected = {name: torch.zeros(2) for name in CONVS}
    for _ in range(3):
        x = torch.randn(4, 2, 6, 6)
        twin = copy.deepcopy(net)
        normed = twin.bn1(twin.normed(x))
        added = twin.added(F.relu(normed))
        bare = twin.bare(F.relu(twin.bn2(added + F.relu(normed))))
        for name, values in zip(CONVS, (normed, added, bare), strict=True):
            expected[name] += values.mean((0, 2, 3)).detach() / 3
        watch.open()
        net(x)
        watch.close()
    for name in CONVS:
        assert torch.allclose((watch.stats(name) or {})["output"].flatten(), expected[name], atol=1e-5)


def test_the_following_norm_s_scale_folds_it() -> None:
    net = Net()
    watch = watching(net, FollowingNorm(), names=(*CONVS, "bn1.weight"))
    assert watch.missing() == tuple(f"'{name}': no forward pass of its module in training" for name in CONVS)
    with torch.no_grad():
        net.bn1.weight.normal_()
    watch.open()
    for _ in range(3):
        net(torch.randn(4, 2, 6, 6) * 3)
    watch.close()
    net.eval()
    x = torch.randn(1, 2, 6, 6)
    scale = (watch.stats("normed.weight") or {})[BATCH_NORM]
    assert scale.shape == (2, 1, 1, 1)
    zero = net.bn1(torch.zeros(1, 2, 6, 6))
    assert torch.allclose(F.conv2d(x, net.normed.weight * scale, padding=1) + zero, net.bn1(net.normed(x)), atol=1e-5)
    for name in ("added.weight", "bare.weight", "bn1.weight"):
        assert (watch.stats(name) or {})[BATCH_NORM].item() == 1


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(2, track_running_stats=False)])
def test_a_norm_without_scale_or_without_statistics(norm: nn.BatchNorm2d) -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 1), norm)
    watch = watching(net, FollowingNorm(), names=("0.weight",))
    watch.open()
    net(torch.randn(4, 2, 6, 6))
    watch.close()
    scale = (watch.stats("0.weight") or {})[BATCH_NORM]
    expected = torch.ones(()) if norm.running_var is None else (norm.running_var + norm.eps) ** -0.5
    assert torch.allclose(scale.flatten(), expected)


def test_evaluation_is_not_seen() -> None:
    net = Net().eval()
    watch = watching(net, OUTPUT, FollowingNorm(), names=CONVS)
    watch.open()
    net(torch.randn(4, 2, 6, 6))
    watch.close()
    assert [line.split("'")[1] for line in watch.missing()] == sorted(2 * CONVS, key=CONVS.index)


def test_nothing_stays_on_the_model() -> None:
    net = Net()
    watch = watching(net, OUTPUT, SIZES, names=CONVS)
    before = {name: sorted(vars(module)) for name, module in net.named_modules()}
    keys = list(net.state_dict())
    watch.open()
    watch.open()
    net(torch.randn(4, 2, 6, 6)).sum().backward()
    watch.step()
    assert list(net.state_dict()) == keys
    watch.close()
    assert {name: sorted(vars(module)) for name, module in net.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_hooks_with_kwargs for module in net.modules())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_the_model_is_not_watched(copied: Callable[[nn.Module], nn.Module]) -> None:
    net = Net()
    watch = watching(net, OUTPUT, names=CONVS)
    watch.open()
    twin = copied(net)
    twin(torch.randn(4, 2, 6, 6))
    assert watch.stats("bare.weight") is None
    net(torch.randn(4, 2, 6, 6))
    assert watch.stats("bare.weight") is not None
    watch.close()


def test_forgetting_spares_what_lasts() -> None:
    net = Net()
    lasting = Gradients("lasting", SIZES.accumulate, lasting=True), Activations("kept", of_filters, lasting=True)
    watch = watching(net, SIZES, OUTPUT, *lasting, names=CONVS)
    watch.open()
    net(torch.randn(4, 2, 6, 6)).sum().backward()
    watch.step()
    watch.close()
    watch.forget()
    assert watch.stats("bare.weight") is None
    assert set(watch.state_dict()["totals"]) == {"lasting"}
    assert set(watch.state_dict()["means"]) == {"kept"}


def test_a_restored_watch_goes_on_as_if_it_had_never_stopped() -> None:
    net = Net()
    needs = (SIZES, OUTPUT, FollowingNorm())
    one = watching(net, *needs, names=CONVS)

    def train(*watches: Watch) -> None:
        net.zero_grad()
        for watch in watches:
            watch.open()
        net(torch.randn(4, 2, 6, 6)).square().sum().backward()
        for watch in watches:
            watch.step()
            watch.close()

    train(one)
    saved = copy.deepcopy(one.state_dict())
    other = watching(net, *needs, names=CONVS)
    other.load_state_dict(saved)
    train(one, other)
    for name in CONVS:
        first, second = one.stats(name), other.stats(name)
        assert first is not None
        assert second is not None
        assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(CheckpointError, match=r"bare\.weight"):
        watching(net, *needs, names=CONVS[:2]).load_state_dict(saved)


def test_loading_copies() -> None:
    layer = nn.Linear(2, 2, bias=False)
    watch, other = watching(layer, SIZES), watching(layer, SIZES)
    layer(torch.ones(1, 2)).sum().backward()
    watch.step()
    other.load_state_dict(watch.state_dict())
    other.step()
    assert (watch.stats("weight") or {})["sizes"].tolist() == [[2, 2], [2, 2]]
    assert (other.stats("weight") or {})["sizes"].tolist() == [[4, 4], [4, 4]]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.decoder = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        made: Tensor = self.decoder(self.embedding(tokens))
        return made


def test_a_tied_weight_is_seen_in_every_module_that_holds_it() -> None:
    model, seen = Tied(), []

    def measure(owner: nn.Module, attribute: str, x: Tensor) -> Tensor | None:
        seen.append((type(owner), attribute))
        return x.square().mean(0, keepdim=True) if isinstance(owner, nn.Linear) else None

    watch = watching(model, Activations("input", measure, side="input"))
    tokens = torch.tensor([0, 1, 3])
    watch.open()
    model(tokens)
    watch.close()
    assert seen == [(nn.Embedding, "weight"), (nn.Linear, "weight")]
    expected = model.embedding(tokens).square().mean(0, keepdim=True)
    assert torch.allclose((watch.stats("embedding.weight") or {})["input"], expected)


def test_of_what_a_recurrent_layer_takes_and_gives_the_first_counts() -> None:
    lstm = nn.LSTM(3, 2)
    shapes = []

    def measure(owner: nn.Module, attribute: str, x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return x.mean()

    needs = Activations("input", measure, side="input"), Activations("output", measure)
    watch = watching(lstm, *needs, names=("weight_ih_l0",))
    x = torch.randn(5, 2, 3)
    watch.open()
    lstm(x)
    lstm(input=x)
    lstm(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 4])))
    watch.close()
    assert shapes == [(5, 2, 3), (5, 2, 2), (5, 2, 3), (5, 2, 2), (9, 3), (9, 2)]


def test_a_wrapped_model_is_seen_under_its_own_names() -> None:
    net = Net()
    wrapped = nn.DataParallel(net)
    watch = watching(wrapped, FollowingNorm(), names=CONVS)
    watch.open()
    wrapped(torch.randn(4, 2, 6, 6))
    watch.close()
    assert watch.state_dict()["norms"] == {"normed.weight": "bn1", "added.weight": "", "bare.weight": ""}


@pytest.mark.parametrize("compiled_before", [False, True])
def test_a_compiled_model_is_seen_while_the_watch_is_open_and_compiled_when_it_is_not(compiled_before: bool) -> None:
    runs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        def run(*given: object) -> object:
            runs.append(graph)
            return graph.forward(*given)

        return run

    torch.compiler.reset()
    watching(forgotten := Net(), OUTPUT, names=CONVS).open()
    del forgotten
    gc.collect()  # a run that failed within a step
    net = Net()
    model = torch.compile(net, backend=backend)
    x = torch.randn(4, 2, 6, 6)
    if compiled_before:
        model(x)
    one, other = watching(model, OUTPUT, names=CONVS), watching(model, FollowingNorm(), names=CONVS)
    before = len(runs)
    for watch in (one, other):
        watch.open()
    model(x)
    for watch in (one, other):
        watch.close()
    assert len(runs) == before
    assert one.missing() == other.missing() == ()
    model(x)
    assert len(runs) == before + 1
    assert one.state_dict()["means"]["output"]["bare.weight"][1] == 4 * 2 * 6 * 6


def _of_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    conv = nn.Conv2d(1, 1, 1, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1.0)
    watch = watching(conv, OUTPUT)
    watch.open()
    conv(torch.full((3, 1, 1, 1), 5.0) if rank else torch.full((1, 1, 1, 1), 1.0))
    watch.close()
    for _ in range(2):  # asking changes nothing
        assert (watch.stats("weight") or {})["output"].item() == 4.0
    torch.distributed.destroy_process_group()


@pytest.mark.long
def test_all_ranks_rank_by_the_activations_of_all(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_of_rank, (str(tmp_path),), nprocs=2)
