"""Encoders that are trained here: one loop, an objective a file. Read `run.py` first."""

from idl.training.objectives import OnConvNeXt

__all__ = ["OnConvNeXt"]
