"""Training: learning rates on a schedule."""

from limbeck.training.learning_rate import LearningRate, MultiStepMultiGammaLR, lr_schedulers
from limbeck.training.plateau import PlateauDecay
from limbeck.training.warmup import InverseSquareRootLR, NoamLR

__all__ = ["InverseSquareRootLR", "LearningRate", "MultiStepMultiGammaLR", "NoamLR", "PlateauDecay", "lr_schedulers"]
