"""The attributes of modules that are sizes, as their tensors' shapes tell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from limbeck.graph import Graph, Module
from limbeck.recipes import Change, Cut

Shapes = Mapping[str, tuple[int, ...]]
Sizes = Mapping[str, int]


def _convolution(sizes: Sizes, before: Shapes, after: Shapes) -> Sizes:
    rows, columns = after["weight"][:2]
    if sizes["groups"] == 1:
        return {"out_channels": rows, "in_channels": columns}
    groups = rows * sizes["groups"] // before["weight"][0]
    return {"out_channels": rows, "in_channels": columns * groups, "groups": groups}


def _transposed(sizes: Sizes, before: Shapes, after: Shapes) -> Sizes:
    rows, columns = after["weight"][:2]
    groups = 1 if sizes["groups"] == 1 else rows * sizes["groups"] // before["weight"][0]
    return {"in_channels": rows, "out_channels": columns * groups, "groups": groups}


def _linear(sizes: Sizes, before: Shapes, after: Shapes) -> Sizes:
    return {"out_features": after["weight"][0], "in_features": after["weight"][1]}


def _embedding(sizes: Sizes, before: Shapes, after: Shapes) -> Sizes:
    return {"num_embeddings": after["weight"][0], "embedding_dim": after["weight"][1]}


def _features(sizes: Sizes, before: Shapes, after: Shapes) -> Sizes:
    return {"num_features": next(iter(shape for shape in after.values() if shape))[0]} if any(after.values()) else {}


def _groups(sizes: Sizes, before: Shapes, after: Shapes) -> Sizes:
    if "weight" not in after:
        return {}
    return {"num_channels": after["weight"][0], "num_groups": sizes["num_groups"] * after["weight"][0] // before["weight"][0]}


def _recurrent(sizes: Sizes, before: Shapes, after: Shapes) -> Sizes:
    end = "" if "weight_ih" in after else "_l0"
    rows = {"hidden_size": sizes["hidden_size"] * after[f"weight_ih{end}"][0] // before[f"weight_ih{end}"][0]}
    projected = {"proj_size": after["weight_hr_l0"][0]} if "weight_hr_l0" in after else {}
    return {**rows, **projected, "input_size": after[f"weight_ih{end}"][1]}


KINDS: Mapping[str, Callable[[Sizes, Shapes, Shapes], Sizes]] = {
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _convolution),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _transposed),
    **dict.fromkeys(("Linear", "NonDynamicallyQuantizableLinear"), _linear),
    "Embedding": _embedding,
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"), _features),
    **dict.fromkeys(("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"), _features),
    "GroupNorm": _groups,
    **dict.fromkeys(("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"), _recurrent),
}


def changes(graph: Graph, cuts: Sequence[Cut]) -> tuple[Change, ...]:
    """What the cuts make of the modules' sizes."""
    owned: dict[str, dict[str, tuple[int, ...]]] = {}
    thin: dict[str, dict[str, tuple[int, ...]]] = {}
    for stored in graph.tensors.values():
        shape = list(stored.shape)
        for cut in cuts:
            if cut.tensor == stored.name:
                shape[cut.axis] = len(cut.kept)
        for name in (stored.name, *stored.aliases):
            module, _, leaf = name.rpartition(".")
            owned.setdefault(module, {})[leaf] = stored.shape
            thin.setdefault(module, {})[leaf] = tuple(shape)
    found = ((module, _own(name, owned), _own(name, thin)) for name, module in graph.modules.items())
    return tuple(change for module, before, after in found for change in _changes(module, before, after))


def _own(name: str, owned: Mapping[str, Shapes]) -> Shapes:
    """The shapes of a module's tensors; of a weight that is computed from others (parametrized, pruned by torch) that of the one like it."""
    shapes, made = owned.get(name, {}), owned.get(f"{name}.parametrizations.weight", {})
    stands = [
        *[shapes.get(leaf) for leaf in ("weight", "weight_orig", "weight_v")],
        *[made.get(leaf) for leaf in ("original1", "original")],
    ]
    weight = next((shape for shape in stands if shape is not None), None)
    return shapes if weight is None else {**shapes, "weight": weight}


def _changes(module: Module, before: Shapes, after: Shapes) -> list[Change]:
    if module.type not in KINDS or before == after or not {"weight", "weight_ih", "weight_ih_l0", "running_mean"} & before.keys():
        return []
    sizes = KINDS[module.type](module.sizes, before, after)
    return [
        Change(module.name, name, module.sizes[name], size)
        for name, size in sizes.items()
        if name in module.sizes and module.sizes[name] != size
    ]
