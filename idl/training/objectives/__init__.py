"""What a network is trained for: a file an objective, and the table of their names."""

from collections.abc import Mapping

from idl.training.objectives.autoencoding import Autoencoding
from idl.training.objectives.base import Forward, Objective, OnConvNeXt
from idl.training.objectives.distillation import Distillation
from idl.training.objectives.masked import Masked
from idl.training.objectives.recognition import Recognition
from idl.training.objectives.reconstruction import Reconstruction
from idl.training.objectives.segmentation import Segmentation

# By the task's name: what `pretrain` trains a ConvNeXt for.
OBJECTIVES: Mapping[str, type[OnConvNeXt]] = {
    each.task: each for each in (Segmentation, Recognition, Distillation, Masked, Reconstruction)
}

__all__ = ["OBJECTIVES", "Autoencoding", "Forward", "Objective", "OnConvNeXt"]
