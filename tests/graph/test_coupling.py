from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.graph import Coupling, capture, coupling
from limbeck.thinning import plan, tensors


class Function(nn.Module):
    """Modules by name, and how they are called."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self._run = forward

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._run(self, *inputs)


def coupled(model: nn.Module, *inputs: Tensor) -> Coupling:
    return coupling(capture(model, inputs))


def together(found: Coupling, *axes: tuple[str, int]) -> bool:
    first, *others = [found.units(*axis) for axis in axes]
    return len(set(first)) == len(first) and all(other == first for other in others)


def frozen(found: Coupling, name: str, axis: int = 0) -> str:
    """Why all of an axis stays, or nothing."""
    units = set(found.units(name, axis))
    return "; ".join(sorted({why for unit in units for why in found.frozen.get(unit, ())})) if units <= found.frozen.keys() else ""


def test_residual_with_norms_and_inplace_operations() -> None:
    model = Function(
        lambda m, x: m.c(F.relu_(m.nb(m.b(F.relu_(m.na(m.a(x)))))).add_(m.na(m.a(x)))),
        a=nn.Conv2d(3, 4, 1), na=nn.BatchNorm2d(4), b=nn.Conv2d(4, 4, 1), nb=nn.BatchNorm2d(4), c=nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    found = coupled(model, torch.zeros(1, 3, 2, 2))
    vectors = [(f"{norm}.{name}", 0) for norm in ("na", "nb") for name in ("weight", "bias", "running_mean", "running_var")]
    assert together(found, ("a.weight", 0), ("a.bias", 0), ("b.weight", 0), ("b.weight", 1), ("c.weight", 1), *vectors)
    assert not frozen(found, "a.weight")
    assert "not followed" in frozen(found, "a.weight", 1)
    assert "output" in frozen(found, "c.weight")


def test_flattened_maps_that_are_not_square() -> None:
    model = Function(lambda m, x: m.b(m.a(x).flatten(1)), a=nn.Conv2d(1, 2, 1), b=nn.Linear(12, 2))
    first, second = (found := coupled(model, torch.zeros(2, 1, 2, 3))).units("a.weight")
    assert found.units("b.weight", 1) == (first,) * 6 + (second,) * 6


def test_flattened_channels_last() -> None:
    model = Function(lambda m, x: m.b(m.a(x).permute(0, 2, 3, 1).reshape(x.size(0), -1)), a=nn.Conv2d(1, 2, 1), b=nn.Linear(12, 2))
    found = coupled(model, torch.zeros(2, 1, 2, 3))
    assert found.units("b.weight", 1) == found.units("a.weight") * 6


def test_concatenated_and_cut_again() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        left, right = torch.cat((m.a(x), m.b(x)), 1).split([2, 4], 1)
        return m.c(left) + m.d(right)

    model = Function(forward, a=nn.Linear(3, 2), b=nn.Linear(3, 4), c=nn.Linear(2, 2), d=nn.Linear(4, 2))
    found = coupled(model, torch.zeros(1, 3))
    assert together(found, ("a.weight", 0), ("c.weight", 1))
    assert together(found, ("b.weight", 0), ("d.weight", 1))
    assert "unequal sizes" in frozen(found, "a.weight")


def test_slices_that_cut_in_halves_go_together_and_others_stay() -> None:
    def halves(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(y[:, : y.size(1) // 2] * y[:, y.size(1) // 2 :])

    model = Function(halves, a=nn.Linear(3, 4), b=nn.Linear(2, 2))
    found = coupled(model, torch.zeros(1, 3))
    assert found.units("a.weight") == found.units("b.weight", 1) * 2
    assert set(next(iter(found.assumed.values()))) == set(found.units("a.weight"))
    model = Function(lambda m, x: m.b(m.a(x)[:, 1:3]), a=nn.Linear(3, 4), b=nn.Linear(2, 2))
    assert "fixed places" in frozen(coupled(model, torch.zeros(1, 3)), "a.weight")


def test_groups_go_whole() -> None:
    model = Function(lambda m, x: m.c(m.b(m.a(x))), a=nn.Conv1d(3, 4, 1), b=nn.Conv1d(4, 6, 1, groups=2), c=nn.Conv1d(6, 2, 1))
    found = coupled(model, torch.zeros(1, 3, 5))
    one, two = sorted(set(found.units("a.weight")))
    assert found.units("a.weight") == (one, one, two, two)
    assert found.units("b.weight") == found.units("c.weight", 1) == (one,) * 3 + (two,) * 3
    assert "each group" in frozen(found, "b.weight", 1)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_transposed_convolutions(axes: int, groups: int) -> None:
    layer, back = getattr(nn, f"Conv{axes}d"), getattr(nn, f"ConvTranspose{axes}d")
    model = Function(lambda m, x: m.c(m.b(m.a(x))), a=layer(3, 4, 1), b=back(4, 6, 1, groups=groups), c=layer(6, 2, 1))
    found = coupled(model, torch.zeros(1, 3, *[2] * axes))
    assert found.units("a.weight") == found.units("b.weight", 0)
    assert found.units("b.bias") == found.units("c.weight", 1)
    assert len(set(found.units("b.bias"))) == (6 if groups == 1 else 2)
    if groups == 1:
        assert together(found, ("b.weight", 1), ("b.bias", 0))


def test_group_norm_goes_by_groups_and_layer_norm_stays() -> None:
    model = Function(lambda m, x: m.b(m.n(m.a(x))), a=nn.Conv1d(3, 4, 1), n=nn.GroupNorm(2, 4), b=nn.Conv1d(4, 2, 1))
    found = coupled(model, torch.zeros(1, 3, 5))
    assert len(set(found.units("a.weight"))) == 2
    assert found.units("n.weight") == found.units("a.weight") == found.units("b.weight", 1)
    model = Function(lambda m, x: m.b(m.n(m.a(x))), a=nn.Linear(3, 4), n=nn.LayerNorm(4), b=nn.Linear(4, 2))
    found = coupled(model, torch.zeros(1, 3))
    assert "normalises" in frozen(found, "a.weight")
    assert frozen(found, "b.weight", 1)


def test_lstm_gates_directions_layers_and_projection() -> None:
    model = Function(
        lambda m, x: m.o(m.p(m.l(x)[0])[0]), l=nn.LSTM(3, 4, 2, bidirectional=True), p=nn.LSTM(8, 5, proj_size=2), o=nn.Linear(2, 2)
    )
    found = coupled(model, torch.zeros(2, 1, 3))
    hidden = found.units("l.weight_hh_l0", 1)
    assert len(set(hidden)) == 4
    for end in ("l0", "l0_reverse", "l1", "l1_reverse"):
        assert found.units(f"l.weight_ih_{end}") == found.units(f"l.bias_hh_{end}") == hidden * 4
    assert found.units("l.weight_ih_l1", 1) == found.units("p.weight_ih_l0", 1) == hidden * 2
    assert together(found, ("p.weight_hr_l0", 0), ("p.weight_hh_l0", 1), ("o.weight", 1))
    assert found.units("p.weight_hr_l0", 1) * 4 == found.units("p.weight_ih_l0")


def test_a_state_that_the_caller_gives_keeps_its_width() -> None:
    model = Function(lambda m, x, h: m.o(m.r(x, h)[0]), r=nn.GRU(3, 4), o=nn.Linear(4, 2))
    found = coupled(model, torch.zeros(2, 1, 3), torch.zeros(1, 1, 4))
    assert "state of a given width" in frozen(found, "r.weight_ih_l0")


def heads(m: nn.Module, x: Tensor) -> Tensor:
    b, t, _ = x.shape
    q, k, v = (layer(x).view(b, t, -1, 2).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return m.o(m.attend(q, k, v).transpose(1, 2).reshape(b, t, -1))


class ByHand(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-2, -1) * 0.7, -1) @ v


class Fused(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize("attend", [ByHand, Fused])
def test_attention_heads_go_whole(attend: type[nn.Module]) -> None:
    model = Function(heads, q=nn.Linear(4, 6), k=nn.Linear(4, 6), v=nn.Linear(4, 6), o=nn.Linear(6, 4), attend=attend())
    units = (found := coupled(model, torch.zeros(2, 5, 4))).units("q.weight")
    assert len(set(units)) == 3
    assert units[0::2] == units[1::2]
    assert units == found.units("k.weight") == found.units("v.bias") == found.units("o.weight", 1)
    assert not frozen(found, "q.weight")


def test_attention_module_is_followed_and_keeps_its_width() -> None:
    model = Function(lambda m, x: m.o(m.a(y := m.i(x), y, y)[0]), i=nn.Linear(3, 4), a=nn.MultiheadAttention(4, 2), o=nn.Linear(4, 2))
    found = coupled(model, torch.zeros(2, 1, 3))
    units = found.units("a.in_proj_weight")
    assert len(set(units)) == 2
    assert units == found.units("a.out_proj.weight", 1) * 3
    assert "MultiheadAttention" in frozen(found, "a.in_proj_weight")
    assert "MultiheadAttention" in frozen(found, "i.weight")


def test_unknown_operations_hold_what_reaches_them() -> None:
    model = Function(lambda m, x: m.b(torch.fft.rfft(m.a(x)).real), a=nn.Linear(3, 4), b=nn.Linear(3, 2))
    found = coupled(model, torch.zeros(1, 3))
    assert "fft_rfft" in frozen(found, "a.weight")
    assert "test_coupling.py:" in frozen(found, "a.weight")


def test_mixing_over_tokens_and_channels() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.b(m.a(x).transpose(1, 2))
        return m.d(m.c(y).transpose(1, 2)).mean(1)

    model = Function(forward, a=nn.Linear(3, 4), b=nn.Linear(5, 6), c=nn.Linear(6, 5), d=nn.Linear(4, 2))
    found = coupled(model, torch.zeros(1, 5, 3))
    assert together(found, ("a.weight", 0), ("d.weight", 1))
    assert together(found, ("b.weight", 0), ("c.weight", 1))
    assert not frozen(found, "a.weight")
    assert not frozen(found, "b.weight")
    assert frozen(found, "c.weight")


def test_positional_parameters_lose_units_with_what_they_are_added_to() -> None:
    class Position(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(1, 5, 4))
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) + self.table)

    found = coupled(Position(), torch.zeros(2, 5, 3))
    assert together(found, ("table", 2), ("a.weight", 0), ("b.weight", 1))
    assert frozen(found, "table", 1)


def test_halves_of_a_gate_go_together() -> None:
    model = Function(lambda m, x: m.b(F.glu(m.a(x), 1)), a=nn.Conv1d(3, 4, 1), b=nn.Conv1d(2, 2, 1))
    found = coupled(model, torch.zeros(1, 3, 5))
    assert found.units("a.weight") == found.units("b.weight", 1) * 2
    assert not frozen(found, "a.weight")


@pytest.mark.parametrize("reduction", [torch.mean, torch.amax, torch.std])
def test_only_a_sum_over_units_lets_any_go(reduction: Callable[..., Tensor]) -> None:
    model = Function(lambda m, x: reduction(m.a(x), 1), a=nn.Linear(3, 4))
    assert "reduces over units" in frozen(coupled(model, torch.zeros(2, 3)), "a.weight")
    model = Function(lambda m, x: m.a(x).sum(1), a=nn.Linear(3, 4))
    assert not frozen(coupled(model, torch.zeros(2, 3)), "a.weight")


def test_queries_keys_and_values_of_one_layer() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (part.view(b, t, -1, 2).transpose(1, 2) for part in m.a(x).chunk(3, -1))
        return m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1))

    found = coupled(Function(forward, a=nn.Linear(4, 12), o=nn.Linear(4, 2)), torch.zeros(1, 5, 4))
    one, two = sorted(set(found.units("o.weight", 1)))
    assert found.units("a.weight") == (one, one, two, two) * 3
    assert not frozen(found, "a.weight")


@pytest.mark.parametrize("like", [lambda y, x: y.expand_as(x), lambda y, x: y.contiguous().expand(x.shape)])
def test_a_squeeze_and_excitation_is_followed(like: Callable[[Tensor, Tensor], Tensor]) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.a(x)
        y = torch.sigmoid(m.up(F.relu(m.down(x.mean((2, 3)))))).view(x.size(0), x.size(1), 1, 1)
        return m.b(x * like(y, x))

    model = Function(forward, a=nn.Conv2d(3, 4, 1), down=nn.Linear(4, 2), up=nn.Linear(2, 4), b=nn.Conv2d(4, 2, 1))
    found = coupled(model, torch.zeros(1, 3, 2, 2))
    assert together(found, ("a.weight", 0), ("down.weight", 1), ("up.weight", 0), ("b.weight", 1))
    assert not frozen(found, "a.weight")


def test_a_view_of_what_was_made_contiguous() -> None:
    model = Function(lambda m, x: m.b(m.a(x).transpose(1, 2).contiguous().view(2, -1)), a=nn.Linear(3, 4), b=nn.Linear(20, 2))
    found = coupled(model, torch.zeros(2, 5, 3))
    assert found.units("b.weight", 1) == tuple(unit for unit in found.units("a.weight") for _ in range(5))


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_units_that_are_zero_are_so_in_the_last_hidden_state_too(cell: type[nn.RNNBase]) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        state = m.r(x)[1]
        last = state[0] if isinstance(state, tuple) else state
        return m.o(torch.cat((last[-2], last[-1]), -1))

    model = Function(forward, r=cell(3, 4, 2, bidirectional=True), o=nn.Linear(8, 2))
    for parameter in model.r.parameters():
        parameter.data.reshape(-1, 4, *parameter.shape[1:])[:, 1] = 0
    graph = capture(model, (torch.zeros(5, 2, 3),))
    recipe = plan(graph, coupling(graph), tensors(model))
    assert {cut.kept for cut in recipe.cuts if cut.tensor == "o.weight"} == {(0, 2, 3, 4, 6, 7)}


def test_halves_that_are_one_group_each_keep_their_units() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        left, right = m.b(m.a(x)).chunk(2, 1)
        return m.c(torch.cat((left, right * 2), 1))

    model = Function(forward, a=nn.Conv1d(3, 2, 1), b=nn.Conv1d(2, 4, 1, groups=2), c=nn.Conv1d(4, 2, 1))
    found = coupled(model, torch.zeros(1, 3, 5))
    assert len({*found.units("a.weight"), *found.units("b.weight"), *found.units("c.weight", 1)}) == 1


def test_what_is_cut_into_single_units_stays() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        one, two = y.chunk(2, -1)
        return m.b(y) + one * two + F.glu(m.c(x), -1)

    model = Function(forward, a=nn.Linear(3, 2), b=nn.Linear(2, 2), c=nn.Linear(3, 2))
    found = coupled(model, torch.zeros(1, 3))
    assert "cuts units from each other" in frozen(found, "a.weight")
    assert "cuts units from each other" in frozen(found, "c.weight")


def test_what_two_axes_of_units_become_is_read_whole() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.b(m.a(x).transpose(1, 2)).flatten(1)
        return m.c(torch.cat((y, x.flatten(1)), 1))

    model = Function(forward, a=nn.Linear(3, 4), b=nn.Linear(5, 6), c=nn.Linear(4 * 6 + 15, 2))
    found = coupled(model, torch.zeros(1, 5, 3))
    assert len({*found.units("a.weight"), *found.units("b.weight"), *found.units("c.weight", 1)[:24]}) == 1


def test_places_that_are_counted_stay_or_go_in_every_group() -> None:
    model = Function(lambda m, x: m.b(m.a(x).roll(1, -1)), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    assert "number of places" in frozen(coupled(model, torch.zeros(1, 3)), "a.weight")
    model = Function(lambda m, x: m.b(m.a(x).roll(1, 1)), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    assert not frozen(coupled(model, torch.zeros(1, 5, 3)), "a.weight")
    model = Function(lambda m, x: m.b(m.s(m.a(x))), a=nn.Conv2d(3, 4, 1), s=nn.ChannelShuffle(2), b=nn.Conv2d(4, 2, 1))
    one, two = sorted(set((found := coupled(model, torch.zeros(1, 3, 2, 2))).units("a.weight")))
    assert found.units("a.weight") == (one, two, one, two)
    assert found.units("b.weight", 1) == (one, one, two, two)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.InstanceNorm1d])
def test_units_that_a_norm_averages_over_stay(norm: type[nn.Module]) -> None:
    model = Function(lambda m, x: m.b(m.n(m.a(x))), a=nn.Linear(3, 4), n=norm(5), b=nn.Linear(4, 2))
    assert "normalises over units" in frozen(coupled(model, torch.zeros(2, 5, 3)), "a.weight")


def test_repeated_units() -> None:
    model = Function(lambda m, x: m.b(m.a(x).repeat_interleave(2, -1)), a=nn.Linear(3, 4), b=nn.Linear(8, 2))
    found = coupled(model, torch.zeros(1, 3))
    assert found.units("b.weight", 1) == tuple(unit for unit in found.units("a.weight") for _ in range(2))
    counts = torch.tensor([2, 1, 1, 1])
    model = Function(lambda m, x: m.b(m.a(x).repeat_interleave(counts, -1, output_size=5)), a=nn.Linear(3, 4), b=nn.Linear(5, 2))
    assert "not followed" in frozen(coupled(model, torch.zeros(1, 3)), "a.weight")


def test_rows_that_are_zero_stay_so_through_a_product_of_weights() -> None:
    class LowRank(nn.Linear):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs)
            self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight + 0.5 * (self.up @ self.down), self.bias)

    model = nn.Sequential(LowRank(3, 4), nn.ReLU(), LowRank(4, 2))
    for tensor in (model[0].weight, model[0].up, model[0].bias):
        tensor.data[1] = 0
    graph = capture(model, (torch.zeros(1, 3),))
    recipe = plan(graph, coupling(graph), tensors(model))
    assert {(cut.tensor, cut.axis): cut.kept for cut in recipe.cuts} == dict.fromkeys(
        [("0.weight", 0), ("0.bias", 0), ("0.up", 0), ("2.weight", 1), ("2.down", 1)], (0, 2, 3)
    )
