"""What was seen of each layer's inputs and output, as data and as files in Distiller's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from limbeck.errors import QuantizationError, did_you_mean
from limbeck.names import canonical
from limbeck.quantization.histogram import Histogram, WholeNumbers, weighted

Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class TensorStats:
    """One input or output over all batches. Only ``min`` and ``max`` must be known; clippings ask for the rest, and say what is missing.

    ``avg_min`` and ``avg_max`` are means over samples; ``std`` has n - 1 in its denominator; ``b`` is the mean absolute deviation from the mean.

    Raises ``ValueError`` for a range whose ends are crossed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    min: Finite
    max: Finite
    avg_min: Finite | None = None
    avg_max: Finite | None = None
    mean: Finite | None = None
    std: NonNegative | None = None
    b: NonNegative | None = None
    shape: WholeNumbers | None = None
    histogram: Histogram | None = field(default=None, repr=False)  # thousands of counts

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError(f"min is {self.min:g} and max is {self.max:g}; the lower one is min")

    def observed(self, name: str = "this tensor") -> OfStats:
        """The same as a clipping takes it; ``name`` is for its messages.

        >>> from limbeck.quantization.clipping import Grid, named_clipping
        >>> named_clipping("laplace")(TensorStats(-1.0, 4.0, mean=1.0, b=0.5).observed(), Grid(bits=4))         # 1 + 5.03 * 0.5
        (tensor(-3.5150), tensor(3.5150))
        """
        return OfStats(self, name)


@dataclass(frozen=True)
class LayerStats:
    """A layer's inputs, by their place among its arguments, and its output; what is no floating-point tensor is left out."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    inputs: dict[int, TensorStats]
    output: TensorStats | None = None


@dataclass(frozen=True)
class Stats:
    """The statistics of a model, by canonical names of its layers.

    >>> stats = Stats.of({"module.fc": {"inputs": {0: {"min": 0, "max": 2.5}}, "output": {"min": -1, "max": 1, "shape": "(8, 10)"}}})
    >>> stats["fc"].output.shape, stats["fc"].inputs[0].max
    ((8, 10), 2.5)

    Raises ``QuantizationError`` when a layer is asked for that is not there.
    """

    layers: Mapping[str, LayerStats]

    def __getitem__(self, name: str) -> LayerStats:
        if name not in self.layers:
            close = did_you_mean(name, self.layers)
            raise QuantizationError(
                f"there are no statistics of '{name}'{close or '; collect them from this model, with inputs that run this layer'}"
            )
        return self.layers[name]

    def __contains__(self, name: object) -> bool:
        return name in self.layers

    def __len__(self) -> int:
        return len(self.layers)

    def tree(self, histograms: bool = True) -> dict[str, Any]:
        """Plain data in Distiller's layout: ``{layer: {inputs: {0: {min, max, ...}}, output: {...}}}``; what is not known is left out."""
        return {
            name: {
                "inputs": {place: _tree(seen, histograms) for place, seen in layer.inputs.items()},
                **({} if layer.output is None else {"output": _tree(layer.output, histograms)}),
            }
            for name, layer in self.layers.items()
        }

    def save(self, path: str | Path, histograms: bool = True) -> None:
        """Write a file: JSON where the name ends in ``.json``, else YAML. Without histograms it is as small, and holds what, Distiller's does."""
        path, tree = Path(path), self.tree(histograms)
        text = json.dumps(tree, indent=1) if path.suffix == ".json" else yaml.dump(tree, Dumper=_DUMPER, sort_keys=False, width=1 << 30)
        path.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Stats:
        """Read a file of Distiller's or ours, YAML or JSON; no code is run. Raises ``QuantizationError`` with all faults at once."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            tree = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_LOADER)  # noqa: S506 (both loaders are safe ones)
        except FileNotFoundError as error:
            raise QuantizationError(f"there is no file '{path}'; collect_stats makes statistics, and their save() writes them") from error
        except OSError as error:
            raise QuantizationError(f"{path} cannot be read: {error.strerror}; name a file of statistics") from error
        except (ValueError, yaml.YAMLError) as error:
            raise QuantizationError(f"{path} is neither YAML nor JSON: {error}") from error
        return cls.of(tree, str(path))

    @classmethod
    def of(cls, tree: Any, place: str = "statistics") -> Stats:
        """From plain data, as ``tree`` gives it; raises ``QuantizationError``, which lists all faults, for anything else."""
        if not isinstance(tree, Mapping) or (
            tree and not any(isinstance(each, Mapping) and _LAYER & each.keys() for each in tree.values())
        ):
            raise QuantizationError(
                f"{place}: no layer in it has inputs or an output; collect_stats makes statistics, and their save() writes them"
            )
        try:
            layers = _LAYERS.validate_python(tree)
        except ValidationError as error:
            faults = [_fault(each) for each in error.errors()]
            listed = "".join(f"\n  {fault}" for fault in faults)
            raise QuantizationError(f"{place}: {len(faults)} fault{'s' * (len(faults) > 1)}{listed}", faults) from error
        return cls({canonical(name): layer for name, layer in layers.items()})


_LAYERS = TypeAdapter(dict[str, LayerStats])
_LAYER = frozenset(known.name for known in fields(LayerStats))
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_KEYS = [known.name for kind in (TensorStats, LayerStats, Histogram) for known in fields(kind)]


def _tree(seen: TensorStats, histograms: bool) -> dict[str, Any]:
    """What is known of a tensor; shapes and counts are text, so that a line holds them."""
    tree = {key: value for key, value in asdict(seen if histograms else replace(seen, histogram=None)).items() if value is not None}
    if "shape" in tree:
        tree["shape"] = str(tree["shape"])
    if "histogram" in tree:
        tree["histogram"]["counts"] = " ".join(map(str, tree["histogram"]["counts"]))
    return tree


def _fault(error: Any) -> str:
    """What pydantic found, with its place and the remedy."""
    *places, last = [str(place) for place in error["loc"]] or ["the file"]
    if error["type"] == "value_error":
        return f"{'.'.join((*places, last))}: {error['msg'].removeprefix('Value error, ')}"
    where = f"{'.'.join(places)}: " if places else ""
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}unknown key '{last}'{did_you_mean(last, _KEYS)}"
    if error["type"] == "missing":
        return f"{where}'{last}' is missing"
    return f"{where}{last}: {error['msg']}"


class OfStats:
    """Statistics as something observed; each number is a tensor without dimensions, and asking for one that is missing raises ``QuantizationError``."""

    def __init__(self, stats: TensorStats, name: str) -> None:
        self._stats, self._name = stats, name

    def _known(self, key: str) -> Tensor:
        value = getattr(self._stats, key)
        if value is None:
            raise QuantizationError(
                f"the statistics of {self._name} have no '{key}', which this clipping needs; collect them again, or take 'none'"
            )
        return torch.tensor(value, dtype=torch.float32)

    @property
    def min(self) -> Tensor:
        """The lowest value."""
        return self._known("min")

    @property
    def max(self) -> Tensor:
        """The highest value."""
        return self._known("max")

    @property
    def avg_min(self) -> Tensor:
        """The mean of the samples' lowest values."""
        return self._known("avg_min")

    @property
    def avg_max(self) -> Tensor:
        """The mean of the samples' highest values."""
        return self._known("avg_max")

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self._known("mean")

    @property
    def std(self) -> Tensor:
        """The standard deviation."""
        return self._known("std")

    @property
    def b(self) -> Tensor:
        """The mean absolute deviation."""
        return self._known("b")

    @property
    def floor(self) -> Tensor:
        """Where an asymmetric range of ACIQ begins at the lowest: the mean of the samples' lowest values."""
        return self._known("avg_min")

    def histograms(self) -> list[Histogram]:
        """The histogram."""
        if self._stats.histogram is None:
            raise QuantizationError(
                f"the statistics of {self._name} have no histogram, which this clipping needs; collect them with Limbeck, and save them with histograms"
            )
        return [self._stats.histogram]

    def samples(self) -> tuple[Tensor, Tensor | None]:
        """The middles of the histogram's bins, and their counts."""
        return weighted(self.histograms())
