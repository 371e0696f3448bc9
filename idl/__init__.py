"""Implicit depth learning: exact linear probes that say what a frozen network has learned unasked."""

__version__ = "0.1.0"
