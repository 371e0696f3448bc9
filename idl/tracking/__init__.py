"""The one owner of mlflow: runs, what they log, the model registry.

Importing this package does not import mlflow, which takes 1.4 s; the first call that needs it does.
"""

from idl.tracking.registry import (
    RegisteredProbe,
    RegisteredVersion,
    fetch_weights,
    list_probes,
    load_probe,
    registered_encoder,
)
from idl.tracking.runs import STUDY_TAG, WORKER_TAG, Recorder, Terminated, child, count_test_readers, start
from idl.tracking.store import require_reachable

__all__ = [
    "STUDY_TAG",
    "WORKER_TAG",
    "Recorder",
    "RegisteredProbe",
    "RegisteredVersion",
    "Terminated",
    "child",
    "count_test_readers",
    "fetch_weights",
    "list_probes",
    "load_probe",
    "registered_encoder",
    "require_reachable",
    "start",
]
