"""Encoders that are trained here: one loop, an objective a file. Read `run.py` first."""

from idl.training.config import AUTOENCODER, PRETRAIN, TrainingConfig
from idl.training.loop import DivergedError, Trained, train
from idl.training.objectives import OBJECTIVES, Autoencoding, Objective, OnConvNeXt, objective_named
from idl.training.run import TrainingRequest, TrainingRun, require_trainable, run_training

__all__ = [
    "AUTOENCODER",
    "OBJECTIVES",
    "PRETRAIN",
    "Autoencoding",
    "DivergedError",
    "Objective",
    "OnConvNeXt",
    "Trained",
    "TrainingConfig",
    "TrainingRequest",
    "TrainingRun",
    "objective_named",
    "require_trainable",
    "run_training",
    "train",
]
