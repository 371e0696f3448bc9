"""Findings in, report out: the names, sentences, tables and pictures of each kind of run."""

from idl.reporting.dataset import NUM_SHEET_IMAGES, prepare_report
from idl.reporting.encoder import EncoderFindings, encoder_report, encoder_version
from idl.reporting.measurement import MeasuredModel, MeasurementFindings, measurement_report
from idl.reporting.probe import Findings, probe_report, probe_version
from idl.reporting.shared import run_tags
from idl.reporting.training import TrainingFindings, training_report, training_version

__all__ = [
    "NUM_SHEET_IMAGES",
    "EncoderFindings",
    "Findings",
    "MeasuredModel",
    "MeasurementFindings",
    "TrainingFindings",
    "encoder_report",
    "encoder_version",
    "measurement_report",
    "prepare_report",
    "probe_report",
    "probe_version",
    "run_tags",
    "training_report",
    "training_version",
]
