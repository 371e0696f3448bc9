"""Runs nested under another one, many of them: the trials of a sweep, in few requests and without an active run."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from idl.tracking.recorder import METRICS_PER_REQUEST, Recorder, points_of
from idl.tracking.store import quiet

if TYPE_CHECKING:
    from idl.report import RunReport

STUDY_TAG, TRIAL_TAG, WORKER_TAG = "idl.study", "idl.trial", "idl.worker"
ENTRY_POINT_TAG = "idl.entry_point"
# Of the parent: who ran it, what, and for which study.
INHERITED = (
    "mlflow.user",
    "mlflow.source.name",
    "mlflow.source.type",
    "mlflow.source.git.commit",
    STUDY_TAG,
    WORKER_TAG,
)


class TrialRuns:
    """Logs trials, each as a finished run nested under the run of the worker that trained it."""

    def __init__(self, parent: Recorder) -> None:
        import mlflow

        self._parent = parent
        with quiet():
            tags = mlflow.MlflowClient().get_run(parent.run_id).data.tags
        self._tags = {name: tags[name] for name in INHERITED if name in tags}
        self._tags |= {"mlflow.parentRunId": parent.run_id, ENTRY_POINT_TAG: "trial"}

    def log(self, number: int, report: "RunReport", files: Mapping[str, bytes]) -> None:
        """Log one trial: the report's parameters, metrics, curves and tags, and files by path.

        number: in the study.
        """
        import mlflow
        from mlflow.entities import Param

        client = mlflow.MlflowClient()
        points = points_of(report)
        params = [Param(key, str(value)) for key, value in report.params.items()]
        tags = {**self._tags, **report.tags, TRIAL_TAG: str(number)}
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                Path(folder, path).write_bytes(content)
            with quiet():
                run = client.create_run(self._parent.experiment_id, tags=tags, run_name=f"trial {number:03d}")
                run_id = run.info.run_id
                # A request holds as many points and parameters together.
                first = METRICS_PER_REQUEST - len(params)
                client.log_batch(run_id, metrics=points[:first], params=params)
                for start in range(first, len(points), METRICS_PER_REQUEST):
                    client.log_batch(run_id, metrics=points[start : start + METRICS_PER_REQUEST])
            with quiet(transfer=True):
                client.log_artifacts(run_id, folder)
            with quiet():
                client.set_terminated(run_id)
