"""The arms of a verdict: what a frozen encoder, the image itself, untrained twins and shuffled truth come to."""

from idl.arms.columns import ARMS
from idl.arms.fits import FittedArm
from idl.arms.measure import Controls, check, measure
from idl.arms.result import ArmsAtK, ArmsResult, MeasuredArm, TwinRecord
from idl.arms.running import CALIBRATION_IMAGES

__all__ = [
    "ARMS",
    "CALIBRATION_IMAGES",
    "ArmsAtK",
    "ArmsResult",
    "Controls",
    "FittedArm",
    "MeasuredArm",
    "TwinRecord",
    "check",
    "measure",
]
