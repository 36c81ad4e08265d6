"""Distiller's names over Limbeck: programs that were written for it run with another import.

::

    import limbeck.compat.distiller as distiller                 # import distiller, import distiller.config
    from limbeck.compat.distiller import apputils                # import apputils
    from limbeck.compat.distiller.data_loggers import TensorBoardLogger, PythonLogger

Pruners and regularizers are taken from the tables of the schedule file, by the same names. What is different on purpose is told in
``docs/from-distiller.md``. New code uses ``limbeck.load_schedule``.
"""

from __future__ import annotations

from typing import Any

from limbeck.compat.distiller import (
    apputils,
    config,
    data_loggers,
    model_summaries,
    modules,
    policy,
    pruning,
    quantization,
    regularization,
    scheduler,
    thinning,
    utils,
)
from limbeck.compat.distiller._later import QUANTIZERS
from limbeck.compat.distiller.config import dict_config, file_config
from limbeck.compat.distiller.data_loggers import log_training_progress, log_weights_sparsity
from limbeck.compat.distiller.maskers import ParameterMasker, create_model_masks_dict
from limbeck.compat.distiller.model_summaries import model_summary, weights_sparsity_tbl_summary
from limbeck.compat.distiller.modules import (
    BatchMatmul,
    Chunk,
    Concat,
    DistillerLSTM,
    DistillerLSTMCell,
    EltwiseAdd,
    EltwiseDiv,
    EltwiseMult,
    EltwiseSub,
    Matmul,
    Mean,
    Norm,
    Split,
    Stack,
    convert_model_to_distiller_lstm,
)
from limbeck.compat.distiller.policy import (
    LossComponent,
    LRPolicy,
    PolicyLoss,
    PruningPolicy,
    RegularizationPolicy,
    ScheduledTrainingPolicy,
)
from limbeck.compat.distiller.scheduler import CompressionScheduler
from limbeck.compat.distiller.thinning import (
    ChannelRemover,
    FilterRemover,
    StructureRemover,
    ThinningRecipe,
    contract_model,
    execute_thinning_recipe,
    execute_thinning_recipes_list,
    find_nonzero_channels,
    find_nonzero_channels_list,
    remove_channels,
    remove_filters,
)
from limbeck.compat.distiller.utils import (
    density,
    density_2D,
    density_3D,
    density_blocks,
    density_ch,
    density_cols,
    density_rows,
    model_sparsity,
    normalize_module_name,
    sparsity,
    sparsity_2D,
    sparsity_3D,
    sparsity_blocks,
    sparsity_ch,
    sparsity_cols,
    sparsity_rows,
)
from limbeck.errors import did_you_mean
from limbeck.training import MultiStepMultiGammaLR
from limbeck.training.learning_rate import polynomial_lr as PolynomialLR

CLASSES = {**pruning.PRUNERS, **regularization.REGULARIZERS}
"""Constructors of the pruners and regularizers, which are names of this module too."""

LATER = dict.fromkeys(quantization.NAMES, QUANTIZERS)
"""Names of the ancestor's that are not here yet, and what they belong to."""

__all__ = [
    "BatchMatmul",
    "ChannelRemover",
    "Chunk",
    "CompressionScheduler",
    "Concat",
    "DistillerLSTM",
    "DistillerLSTMCell",
    "EltwiseAdd",
    "EltwiseDiv",
    "EltwiseMult",
    "EltwiseSub",
    "FilterRemover",
    "LRPolicy",
    "LossComponent",
    "Matmul",
    "Mean",
    "MultiStepMultiGammaLR",
    "Norm",
    "ParameterMasker",
    "PolicyLoss",
    "PolynomialLR",
    "PruningPolicy",
    "RegularizationPolicy",
    "ScheduledTrainingPolicy",
    "Split",
    "Stack",
    "StructureRemover",
    "ThinningRecipe",
    "apputils",
    "config",
    "contract_model",
    "convert_model_to_distiller_lstm",
    "create_model_masks_dict",
    "data_loggers",
    "density",
    "density_2D",
    "density_3D",
    "density_blocks",
    "density_ch",
    "density_cols",
    "density_rows",
    "dict_config",
    "execute_thinning_recipe",
    "execute_thinning_recipes_list",
    "file_config",
    "find_nonzero_channels",
    "find_nonzero_channels_list",
    "log_training_progress",
    "log_weights_sparsity",
    "model_sparsity",
    "model_summaries",
    "model_summary",
    "modules",
    "normalize_module_name",
    "policy",
    "pruning",
    "quantization",
    "regularization",
    "remove_channels",
    "remove_filters",
    "scheduler",
    "sparsity",
    "sparsity_2D",
    "sparsity_3D",
    "sparsity_blocks",
    "sparsity_ch",
    "sparsity_cols",
    "sparsity_rows",
    "thinning",
    "utils",
    "weights_sparsity_tbl_summary",
]


def __getattr__(name: str) -> Any:
    if name in CLASSES:
        return CLASSES[name]
    what = f"limbeck.compat.distiller has no '{name}'"
    if name in LATER:
        raise AttributeError(f"{what}: this version of Limbeck has no {LATER[name]}")
    raise AttributeError(f"{what}{did_you_mean(name, [*CLASSES, *__all__])}; docs/from-distiller.md lists what is here")


def __dir__() -> list[str]:
    return sorted([*globals(), *CLASSES])
