"""A registered model on photographs: found and read, predicted, written."""

from idl.prediction.maps import padded, predict
from idl.prediction.outputs import Folder, PredictionConfig, Source
from idl.prediction.photographs import Photograph, find, read

__all__ = ["Folder", "Photograph", "PredictionConfig", "Source", "find", "padded", "predict", "read"]
