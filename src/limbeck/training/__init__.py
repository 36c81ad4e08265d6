"""Training: learning rates on a schedule."""

from limbeck.training.learning_rate import LearningRate, MultiStepMultiGammaLR, lr_schedulers
from limbeck.training.plateau import PlateauDecay

__all__ = ["LearningRate", "MultiStepMultiGammaLR", "PlateauDecay", "lr_schedulers"]
