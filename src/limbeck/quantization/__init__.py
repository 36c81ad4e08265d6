"""Numbers of few bits: the arithmetic, the ranges that are clipped to, and the statistics that they come from."""

from limbeck.quantization.affine import (
    Mode,
    QParams,
    as_multiplier_and_shift,
    dequantize,
    fake_quantize,
    integers,
    qparams,
    quantize,
    ranges,
)
from limbeck.quantization.clipping import CLIPPINGS, Clipping, Grid, Observed, OfTensor, named_clipping
from limbeck.quantization.histogram import Histogram
from limbeck.quantization.models import modular, modular_names, renamed, unmodular
from limbeck.quantization.observe import Collector, collect_stats
from limbeck.quantization.post_train import PostTrainLinearQuantizer, graph_of
from limbeck.quantization.recurrent import Layout, ModularRecurrent
from limbeck.quantization.rows import Row
from limbeck.quantization.settings import Override, Setting
from limbeck.quantization.stats import LayerStats, Stats, TensorStats

__all__ = [
    "CLIPPINGS",
    "Clipping",
    "Collector",
    "Grid",
    "Histogram",
    "LayerStats",
    "Layout",
    "Mode",
    "ModularRecurrent",
    "Observed",
    "OfTensor",
    "Override",
    "PostTrainLinearQuantizer",
    "QParams",
    "Row",
    "Setting",
    "Stats",
    "TensorStats",
    "as_multiplier_and_shift",
    "collect_stats",
    "dequantize",
    "fake_quantize",
    "graph_of",
    "integers",
    "modular",
    "modular_names",
    "named_clipping",
    "qparams",
    "quantize",
    "ranges",
    "renamed",
    "unmodular",
]
