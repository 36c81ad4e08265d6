"""The named pruners that score by what they observe in training; each watches for itself, no collector has to be installed.

Where nothing was observed when a policy fires for the first time, it fires at the first minibatch at which something was. Distiller's
pruners of activations and gradients take ``group_type`` 3D or Filters, and ``group_dependency: Leader`` as those of structures do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from limbeck.fields import Names, Sparsity, Whole
from limbeck.groups import group
from limbeck.pruning.allotments import ALLOTMENTS
from limbeck.pruning.composed import Blocks, Granularity, Scope, composed_pruner
from limbeck.pruning.criteria import Scales
from limbeck.pruning.observed_criteria import (
    Regrowth,
    apoz,
    beside,
    gradient,
    highest_mean_activation,
    mean_activation,
    movement,
    signed_gradient,
    snip,
    taylor,
)
from limbeck.pruning.pruner import Pruner, Way
from limbeck.pruning.selectors import Below
from limbeck.pruning.structures import Dependency, FilterGroup, ranked
from limbeck.ramps import Amount, Ramp


def apoz_ranked_filter_pruner(
    group_type: FilterGroup,
    desired_sparsity: Amount,
    weights: Names,
    group_dependency: Dependency | None = None,
    coupling: Way = "follow",
) -> Pruner:
    """Drop the filters that are zero most often behind a ReLU (average percentage of zeros; Hu et al. 2016, arXiv 1607.03250).

    Counted are activations of 0 or less in what the batch norm gives that reads the filter's output, or else in that output itself.
    """
    return ranked(apoz, desired_sparsity, weights, group(group_type), group_dependency, coupling)


def apoz_ranked_filter_pruner_agp(
    initial_sparsity: Sparsity,
    final_sparsity: Sparsity,
    group_type: FilterGroup,
    weights: Names,
    group_dependency: Dependency | None = None,
    coupling: Way = "follow",
) -> Pruner:
    """As ``ActivationAPoZRankedFilterPruner``, along the cubic ramp of automated gradual pruning."""
    return apoz_ranked_filter_pruner(group_type, Ramp(initial_sparsity, final_sparsity, power=3), weights, group_dependency, coupling)


def mean_ranked_filter_pruner(
    group_type: FilterGroup,
    desired_sparsity: Amount,
    weights: Names,
    group_dependency: Dependency | None = None,
    highest_first: bool = False,
    coupling: Way = "follow",
) -> Pruner:
    """Drop the filters whose mean activation behind a ReLU is lowest (Molchanov et al. 2017, arXiv 1611.06440, section 2.2).

    Distiller dropped those with the highest mean, against its documentation; ``highest_first`` is for schedules that were tuned so.
    """
    score = highest_mean_activation if highest_first else mean_activation
    return ranked(score, desired_sparsity, weights, group(group_type), group_dependency, coupling)


def mean_ranked_filter_pruner_agp(
    initial_sparsity: Sparsity,
    final_sparsity: Sparsity,
    group_type: FilterGroup,
    weights: Names,
    group_dependency: Dependency | None = None,
    highest_first: bool = False,
    coupling: Way = "follow",
) -> Pruner:
    """As ``ActivationMeanRankedFilterPruner``, along the cubic ramp of automated gradual pruning."""
    ramp = Ramp(initial_sparsity, final_sparsity, power=3)
    return mean_ranked_filter_pruner(group_type, ramp, weights, group_dependency, highest_first, coupling)


def gradient_ranked_filter_pruner(
    group_type: FilterGroup,
    desired_sparsity: Amount,
    weights: Names,
    group_dependency: Dependency | None = None,
    signed: bool = False,
    coupling: Way = "follow",
) -> Pruner:
    """Drop the filters of the smallest ``|sum of weight * gradient|``, averaged over the steps (Molchanov et al. 2017, arXiv 1611.06440, equation 8).

    Distiller ranked by the sum with its sign, so that a filter which the loss needs badly fell first; ``signed`` is for schedules that were tuned so.
    """
    return ranked(signed_gradient if signed else gradient, desired_sparsity, weights, group(group_type), group_dependency, coupling)


def gradient_ranked_filter_pruner_agp(
    initial_sparsity: Sparsity,
    final_sparsity: Sparsity,
    group_type: FilterGroup,
    weights: Names,
    group_dependency: Dependency | None = None,
    signed: bool = False,
    coupling: Way = "follow",
) -> Pruner:
    """As ``GradientRankedFilterPruner``, along the cubic ramp of automated gradual pruning."""
    ramp = Ramp(initial_sparsity, final_sparsity, power=3)
    return gradient_ranked_filter_pruner(group_type, ramp, weights, group_dependency, signed, coupling)


def taylor_pruner(
    weights: Names,
    sparsity: Amount,
    granularity: Granularity = "filters",
    block_shape: Blocks | None = None,
    scope: Scope = "global",
    coupling: Way = "follow",
) -> Pruner:
    """Drop what the loss would miss least to first order: the smallest ``(sum of weight * gradient) ** 2`` (Molchanov et al. 2019, arXiv 1906.10771).

    >>> pruner = taylor_pruner(["conv*.weight"], 0.3)
    >>> pruner.pool, pruner.needs.key
    (None, 'taylor')
    """
    return composed_pruner(weights, sparsity, taylor, granularity, block_shape, scope, coupling=coupling)


def movement_pruner(
    weights: Names, sparsity: Amount, granularity: Granularity = "element", block_shape: Blocks | None = None, scope: Scope = "tensor"
) -> Pruner:
    """Drop what moved towards zero, since one period before the window: the smallest ``-sum of weight * gradient`` (Sanh et al. 2020, arXiv 2005.07683).

    With ``use_double_copies`` in the policy's ``args`` dropped weights go on learning, as in the paper; without, their scores stand still.
    """
    return composed_pruner(weights, sparsity, movement, granularity, block_shape, scope)


def snip_pruner(weights: Names, sparsity: Amount, scope: Scope = "global") -> Pruner:
    """Drop the weights of the smallest ``|weight * gradient|`` (SNIP; Lee et al. 2019, arXiv 1810.02340), by rights once, after the first batch.

    That is what ``epochs: [0]`` does: the first batch is trained on, its gradient scores, and the masks come before the second.
    """
    return composed_pruner(weights, sparsity, snip, "element", None, scope)


def network_slimming_pruner(weights: Names, sparsity: Amount, scope: Scope = "global") -> Pruner:
    """Drop the channels of the smallest scale: ``weights`` are those of batch norms, best trained under L1 (Liu et al. 2017, arXiv 1708.06519).

    A channel of scale 0 still gives the norm's bias. To drop that too, let a ``FollowingPruner`` with the ``biases`` follow in the policies.
    """
    return composed_pruner(weights, sparsity, Scales(), "element", None, scope)


def following_pruner(weights: Names) -> Pruner:
    """Drop the entries of a bias that have lost their weight: the filter, row or batch-norm scale in the same module that is all zero.

    It goes behind the policy that prunes the weight, at the same times. How many fall depends on the data.
    """
    return Pruner(dict.fromkeys(weights, 0.0), score=beside, select=Below())


def rigl_pruner(
    weights: Names,
    sparsity: Amount,
    drop_fraction: Annotated[float, Field(ge=0, le=1)] = 0.3,
    start: Literal["random", "magnitude"] = "random",
    seed: Whole = 0,
    densities: Literal["uniform", "erdos_renyi_kernel"] = "uniform",
) -> Pruner:
    """Sparse from the start, with connections that move: drop by magnitude, grow by gradient (RigL; Evci et al. 2020, arXiv 1911.11134).

    ``drop_fraction`` of what is kept moves at the first firing after the one that chooses the first mask, and less at each later one, along a cosine.
    ``densities`` spreads the sparsity over the tensors: ``erdos_renyi_kernel`` makes large ones sparser, for the same number of weights in all.
    ``mask_gradients`` in the policy's ``args`` keeps momentum from gathering behind the masks, for what grows to start from rest.

    >>> rigl_pruner(["fc.weight"], 0.9).score
    Regrowth(drop_fraction=0.3, start='random', seed=0, ...)
    """
    return Pruner(dict.fromkeys(weights, sparsity), score=Regrowth(drop_fraction, start, seed), allot=ALLOTMENTS[densities])


OBSERVED_PRUNERS: dict[str, Callable[..., Pruner]] = {
    "ActivationAPoZRankedFilterPruner": apoz_ranked_filter_pruner,
    "ActivationAPoZRankedFilterPruner_AGP": apoz_ranked_filter_pruner_agp,
    "ActivationMeanRankedFilterPruner": mean_ranked_filter_pruner,
    "ActivationMeanRankedFilterPruner_AGP": mean_ranked_filter_pruner_agp,
    "FollowingPruner": following_pruner,
    "GradientRankedFilterPruner": gradient_ranked_filter_pruner,
    "GradientRankedFilterPruner_AGP": gradient_ranked_filter_pruner_agp,
    "MovementPruner": movement_pruner,
    "NetworkSlimmingPruner": network_slimming_pruner,
    "RigLPruner": rigl_pruner,
    "SNIPPruner": snip_pruner,
    "TaylorPruner": taylor_pruner,
}
"""Class names of the schedule file's ``pruners`` section."""
