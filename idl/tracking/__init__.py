"""The one owner of mlflow: runs, what they log, the model registry.

Importing this package does not import mlflow, which takes 1.4 s; the first call that needs it does.
"""

from idl.tracking.children import STUDY_TAG, WORKER_TAG, TrialRuns
from idl.tracking.models import ProbeVersion, RegisteredProbe, list_probes, load_probe
from idl.tracking.reachable import require_reachable
from idl.tracking.readers import count_test_readers
from idl.tracking.recorder import Recorder
from idl.tracking.registry import RegisteredVersion
from idl.tracking.runs import Terminated, address_of, child, end_left, start, status_of
from idl.tracking.weights import fetch_weights, registered_encoder

__all__ = [
    "STUDY_TAG",
    "WORKER_TAG",
    "ProbeVersion",
    "Recorder",
    "RegisteredProbe",
    "RegisteredVersion",
    "Terminated",
    "TrialRuns",
    "address_of",
    "child",
    "count_test_readers",
    "end_left",
    "fetch_weights",
    "list_probes",
    "load_probe",
    "registered_encoder",
    "require_reachable",
    "start",
    "status_of",
]
