"""The arms of a verdict: what a frozen encoder, the image itself, untrained twins and shuffled truth come to."""

from idl.arms.columns import ARMS
from idl.arms.measure import Controls, check, measure
from idl.arms.result import ArmsAtK, ArmsResult, MeasuredArm, TwinRecord

__all__ = ["ARMS", "ArmsAtK", "ArmsResult", "Controls", "MeasuredArm", "TwinRecord", "check", "measure"]
