"""Runs nested under another one, many of them: the trials of a study, in few requests and without an active run."""

import tempfile
from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idl.tracking.quiet import quiet
from idl.tracking.recorder import METRICS_PER_REQUEST, points_of

if TYPE_CHECKING:
    from idl.report import RunReport

STUDY_TAG, TRIAL_TAG, WORKER_TAG = "idl.study", "idl.trial", "idl.worker"
ENTRY_POINT_TAG = "idl.entry_point"
# Of the parent: who ran it, and what.
INHERITED = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
RUNS_PER_PAGE = 1000


class TrialRuns:
    """The runs of a study's trials: RUNNING while they train; found by study and number, whoever made them.

    Several workers may write to one study; each number is opened by one of them.
    """

    def __init__(self, parent_id: str, study: str) -> None:
        with quiet():
            parent = _client().get_run(parent_id)
        self._parent_id = parent_id
        self._experiment_id = parent.info.experiment_id
        self._study = study
        self._inherited = {name: parent.data.tags[name] for name in INHERITED if name in parent.data.tags}
        self._run_ids: dict[int, str] = {}

    def open(self, number: int, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Start the run of a trial."""
        from mlflow.entities import Param

        own = {
            "mlflow.parentRunId": self._parent_id,
            ENTRY_POINT_TAG: "trial",
            STUDY_TAG: self._study,
            TRIAL_TAG: str(number),
        }
        with quiet():
            client = _client()
            run = client.create_run(self._experiment_id, tags={**self._inherited, **tags, **own}, run_name=name)
            self._run_ids[number] = run.info.run_id
            client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])

    def log(self, number: int, report: "RunReport", files: Mapping[str, bytes]) -> None:
        """Write what came of a trial: the report's metrics, curves and tags, and files by path."""
        from mlflow.entities import RunTag

        run_id = self._run_ids[number]
        points = iter(points_of(report))
        tags = [RunTag(name, value) for name, value in report.tags.items()]
        with quiet():
            client = _client()
            client.log_batch(run_id, metrics=list(islice(points, METRICS_PER_REQUEST - len(tags))), tags=tags)
            while batch := list(islice(points, METRICS_PER_REQUEST)):
                client.log_batch(run_id, metrics=batch)
        with tempfile.TemporaryDirectory() as folder, quiet(transfer=True):
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            client.log_artifacts(run_id, folder)

    def end(self, numbers: Collection[int], status: str) -> None:
        """End the runs of trials that were opened here. status: FINISHED or KILLED."""
        with quiet():
            for number in numbers:
                if run_id := self._run_ids.pop(number, None):
                    _client().set_terminated(run_id, status)

    def settle(self, finished: Collection[int], lost: Collection[int]) -> None:
        """End what other workers left RUNNING: trials that the study knows as finished, and those that are lost."""
        statuses = dict.fromkeys(finished, "FINISHED") | dict.fromkeys(lost, "KILLED")
        with quiet():
            for run_id, tags in self._running():
                if TRIAL_TAG in tags and int(tags[TRIAL_TAG]) in statuses:
                    _client().set_terminated(run_id, statuses[int(tags[TRIAL_TAG])])

    def _running(self) -> list[tuple[str, dict[str, str]]]:
        """Return the study's runs that are RUNNING, and their tags."""
        quote = '"' if "'" in self._study else "'"
        wanted = f"tags.`{STUDY_TAG}` = {quote}{self._study}{quote} and attributes.status = 'RUNNING'"
        found, token = [], None
        while True:
            page = _client().search_runs([self._experiment_id], wanted, max_results=RUNS_PER_PAGE, page_token=token)
            found += [(run.info.run_id, dict(run.data.tags)) for run in page]
            token = page.token
            if not token:
                return found


def _client() -> Any:
    import mlflow

    return mlflow.MlflowClient()
