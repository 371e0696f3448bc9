"""A run from its start to its end, whatever ends it; the trials under it; the runs that have read a test split."""

import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from idl.data.splits import are_shared
from idl.databases import without_password
from idl.errors import InputError
from idl.tracking.recorder import METRICS_PER_REQUEST, Recorder, log_points, points_of
from idl.tracking.store import current_uris, lost_store, pages, quiet, require_reachable

if TYPE_CHECKING:
    from idl.report import RunReport

DEFAULT_EXPERIMENT = "idl"
ENTRY_POINT_TAG, ERROR_TAG, RESUMED_TAG = "idl.entry_point", "idl.error", "idl.resumed"
STUDY_TAG, TRIAL_TAG, WORKER_TAG = "idl.study", "idl.trial", "idl.worker"
# Of a trial's parent: who ran it, what, and for which study.
INHERITED = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
INHERITED += (STUDY_TAG, WORKER_TAG)
MAX_ERROR_CHARACTERS = 500
# What mlflow names a run by itself: "bustling-fox-123".
GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d{1,3}")
# How mlflow answers where there is no run or experiment of an id, or the id is none.
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
# Entry points that measure on a test split.
READERS = ("probe", "sweep", "verdict", "compare", "main", "evaluate")


class Terminated(SystemExit):
    """SIGTERM arrived: a SystemExit with code 143, as a shell reports it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def start(
    entry_point: str, experiment: str | None = None, run_name: str | None = None, *, resume: str | None = None
) -> Iterator[Recorder]:
    """Run the block inside a tracked run, and yield what it logs with.

    entry_point: the command, kept in the tag `idl.entry_point`.
    experiment: by name, created where it is missing; None: MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID,
      else "idl". Under `mlflow run` (MLFLOW_RUN_ID is set) that run is resumed, in its own experiment.
    run_name: for people, "probe convnext depth rooms"; None: `entry_point`. A resumed run takes it where
      mlflow had made up its name.
    resume: id of a run to continue. One that `mlflow run` made for this process gets a note that says so.

    The run ends FINISHED; KILLED on Ctrl-C and SIGTERM (inside, SIGTERM raises Terminated); FAILED on any
    other exception, with its line in the tag `idl.error`. An exception goes on to the caller.

    Raises InputError: the store cannot be reached, or stops answering while the run lasts; no run has that id.
    """
    require_reachable()
    with (
        _termination_raises(),
        _ended(lambda: _open(entry_point, experiment, run_name or entry_point, resume)) as recorder,
    ):
        yield recorder


@contextmanager
def child(parent: Recorder, run_name: str) -> Iterator[Recorder]:
    """Run the block in a run nested under `parent`; it ends as `start` says."""
    import mlflow

    def opened() -> Recorder:
        with quiet():
            run = mlflow.start_run(
                experiment_id=parent.experiment_id, run_name=run_name, nested=True, parent_run_id=parent.run_id
            )
        return Recorder(run.info.run_id, run.info.experiment_id)

    with _ended(opened) as recorder:
        yield recorder


class TrialRuns:
    """Logs trials, each as a finished run nested under its worker's, in few requests and without an active run."""

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

        client, points = mlflow.MlflowClient(), points_of(report)
        params = [Param(key, str(value)) for key, value in report.params.items()]
        tags = {**self._tags, **report.tags, TRIAL_TAG: str(number)}
        with quiet():
            run_id = client.create_run(
                self._parent.experiment_id, tags=tags, run_name=f"trial {number:03d}"
            ).info.run_id
            # A request holds as many points and parameters together.
            first = METRICS_PER_REQUEST - len(params)
            client.log_batch(run_id, metrics=points[:first], params=params)
            log_points(client, run_id, points[first:])
        with quiet(transfer=True), tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                Path(folder, path).write_bytes(content)
            client.log_artifacts(run_id, folder)
        with quiet():
            client.set_terminated(run_id)


def count_test_readers(scenes: str) -> int:
    """Return how many runs of this tracking store, in all experiments, tested one of these scenes or were about to.

    It counts whatever the resolution, the range of depth and the split were, and as crops or whole.
    scenes: the tag `test_scenes` of `Split.test_tags`.
    """
    import mlflow
    from mlflow.entities import ViewType

    with quiet():
        # Deleted ones have read the images all the same.
        experiments = [each.experiment_id for each in mlflow.search_experiments(view_type=ViewType.ALL)]
        search = mlflow.MlflowClient().search_runs
        tags = [run.data.tags for run in pages(search, experiments, "tags.test_scenes LIKE '%'", ViewType.ALL)]
    # Children are parts of their parent's test: a trial's entry point is "trial", others have none.
    return sum(each.get(ENTRY_POINT_TAG) in READERS and are_shared(each["test_scenes"], scenes) for each in tags)


def _open(entry_point: str, experiment: str | None, run_name: str, resume: str | None) -> Recorder:
    import mlflow

    tags = {ENTRY_POINT_TAG: entry_point}
    # Taken away: mlflow would give it to the next run that is started here, a child.
    given = os.environ.pop("MLFLOW_RUN_ID", None)
    with quiet():
        if run_id := resume or given:
            before = _required(run_id, "resume" if resume else "MLFLOW_RUN_ID")
            client, name = mlflow.MlflowClient(), before.info.run_name
            if ERROR_TAG in before.data.tags:
                client.delete_tag(run_id, ERROR_TAG)
            if given and given != run_id:
                client.set_tag(given, RESUMED_TAG, run_id)
                client.set_tag(given, "mlflow.note.content", f"Goes on in run {run_id}.")
            is_named = bool(resume) or (bool(name) and not GENERATED_NAME.fullmatch(name))
            # Without an experiment: mlflow refuses one that differs from the run's.
            run = mlflow.start_run(run_id=run_id, run_name=None if is_named else run_name, tags=tags)
        else:
            run = mlflow.start_run(experiment_id=_experiment_id(experiment), run_name=run_name, tags=tags)
        return Recorder(run.info.run_id, run.info.experiment_id)


def _required(run_id: str, option: str) -> Any:
    """Return mlflow's run of that id. Raises InputError where there is none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        run = mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
        remedy = "Unset it" if option == "MLFLOW_RUN_ID" else "Look its id up in the UI"
        raise InputError(
            f"{option}={run_id}: no such run at {without_password(current_uris()[0])}. "
            f"{remedy}, or set MLFLOW_TRACKING_URI to the store that has it."
        ) from None
    if run.info.lifecycle_stage == "deleted":
        raise InputError(f"{option}={run_id}: is deleted. Run `mlflow runs restore --run-id {run_id}`.")
    return run


def _experiment_id(experiment: str | None) -> str:
    """Return the experiment's id; through the client, since `set_experiment` changes the whole process."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    given = os.environ.get("MLFLOW_EXPERIMENT_ID") if experiment is None else None
    name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    try:
        found = client.get_experiment(given) if given else client.get_experiment_by_name(name)
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
        raise InputError(
            f"MLFLOW_EXPERIMENT_ID={given}: no such experiment at {without_password(current_uris()[0])}. Unset it, or "
            "pass --experiment."
        ) from None
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException:
            # Another process may have been faster.
            if (found := client.get_experiment_by_name(name)) is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise InputError(
            f"experiment {found.name}: is deleted. Run `mlflow experiments restore -x {found.experiment_id}`, "
            "or choose another name."
        )
    return found.experiment_id


@contextmanager
def _ended(opened: Callable[[], Recorder]) -> Iterator[Recorder]:
    """Run the block in the run that is opened, and give the run its last status."""
    import mlflow

    recorder: Recorder | None = None
    try:
        recorder = opened()
        yield recorder
        with quiet():
            mlflow.end_run("FINISHED")
    except BaseException as caught:
        error = lost_store(caught) or caught
        if recorder is not None:
            _end(recorder, error, is_gone=error is not caught or lost_store(caught.__cause__ or caught) is not None)
        if error is caught:
            raise
        raise error from caught


def _end(recorder: Recorder, error: BaseException, is_gone: bool) -> None:
    """Write the last status of a run that `error` ended; a failure to do so is not shown.

    is_gone: the store does not answer any more.
    """
    import mlflow

    is_regular = isinstance(error, SystemExit) and error.code in (None, 0)
    status = "FINISHED" if is_regular else "FAILED"
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        status = "KILLED"
    with quiet(one_try=is_gone), suppress(Exception):
        if status == "FAILED":
            line = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            with suppress(Exception):
                recorder.tag(ERROR_TAG, " ".join(line.split())[:MAX_ERROR_CHARACTERS])
        mlflow.end_run(status)


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Turn the first SIGTERM into Terminated, so that the run gets a last status; restore the handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        # The next one must not cut off the writing of the status.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        # None: a handler that Python did not install cannot be put back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
