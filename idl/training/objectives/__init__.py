"""What a network is trained for: a file an objective, and the table of their names."""

from collections.abc import Mapping

from idl import plugins
from idl.errors import InputError
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
# What no task may see: a network that was asked for depth has not learned it by itself.
GEOMETRY = ("depth", "valid", "normals", "objects")


def objective_named(task: str) -> type[OnConvNeXt]:
    """Return the objective of a task: one of OBJECTIVES, or a class of a user's, "package.module:Class".

    Raises InputError where there is none, it is no OnConvNeXt, or it asks for layers that show geometry.
    """
    if task in OBJECTIVES:
        return OBJECTIVES[task]
    if not plugins.is_named(task):
        known = ", ".join(OBJECTIVES)
        raise InputError(f"task={task}: no such task to train for. Pass one of {known}, or package.module:Class.")
    found = plugins.load("task", task)
    if not (isinstance(found, type) and issubclass(found, OnConvNeXt)):
        raise InputError(f"task={task}: no objective. Derive it from idl.training.OnConvNeXt.")
    if shown := [layer for layer in found.layers if layer in GEOMETRY]:
        raise InputError(
            f"task={task}: asks for {', '.join(shown)}, and a network that was shown geometry has been asked for it. "
            "Take these out of its layers."
        )
    return found


__all__ = ["OBJECTIVES", "Autoencoding", "Forward", "Objective", "OnConvNeXt", "objective_named"]
