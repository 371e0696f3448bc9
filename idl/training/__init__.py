"""Encoders that are trained here: one loop, two objectives. Read `run.py` first."""

from idl.training.config import AUTOENCODER, PRETRAIN, TrainingConfig
from idl.training.loop import DivergedError, Trained, train
from idl.training.objectives import Objective, Recognition, Reconstruction
from idl.training.run import TrainingRequest, TrainingRun, require_trainable, run_training

__all__ = [
    "AUTOENCODER",
    "PRETRAIN",
    "DivergedError",
    "Objective",
    "Recognition",
    "Reconstruction",
    "Trained",
    "TrainingConfig",
    "TrainingRequest",
    "TrainingRun",
    "require_trainable",
    "run_training",
    "train",
]
