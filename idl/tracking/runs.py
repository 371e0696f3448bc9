"""A run from its start to its end, whatever ends it."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from idl.errors import InputError
from idl.passwords import without_password
from idl.tracking.children import ENTRY_POINT_TAG
from idl.tracking.lost import explained, is_lost
from idl.tracking.quiet import quiet
from idl.tracking.reachable import current_uris, require_reachable
from idl.tracking.recorder import Recorder
from idl.tracking.schema import create_schema

DEFAULT_EXPERIMENT = "idl"
ERROR_TAG = "idl.error"
RESUMED_TAG = "idl.resumed"
MAX_ERROR_CHARACTERS = 500
# What mlflow names a run by itself: "bustling-fox-123".
GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d{1,3}")


class Terminated(SystemExit):
    """SIGTERM arrived: a SystemExit with code 143, as a shell reports it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def start(
    entry_point: str,
    experiment: str | None = None,
    run_name: str | None = None,
    *,
    resume: str | None = None,
    is_kept: Callable[[], bool] = lambda: True,
) -> Iterator[Recorder]:
    """Run the block inside a tracked run, and yield what it logs with.

    entry_point: the command, kept in the tag `idl.entry_point`.
    experiment: by name, created where it is missing; None: MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID,
      else "idl". Under `mlflow run` (MLFLOW_RUN_ID is set) that run is resumed, in its own experiment.
    run_name: for people, "probe convnext depth rooms"; None: `entry_point`. A resumed run takes it where
      mlflow had made up its name.
    resume: id of a run to go on with. One that `mlflow run` made for this process gets a note that says so.
    is_kept: asked at the end; where it says no, the run is another process's by now, and its status is left alone.

    The run ends FINISHED; KILLED on Ctrl-C and SIGTERM (inside, SIGTERM raises Terminated); FAILED on any
    other exception, with its line in the tag `idl.error`. An exception goes on to the caller.

    Raises InputError: the store cannot be reached, or stops answering while the run lasts; no run has that id.
    """
    require_reachable(None)
    with _termination_raises():
        error: BaseException | None = None
        recorder: Recorder | None = None
        try:
            recorder = _open(entry_point, experiment, run_name or entry_point, resume)
            yield recorder
        except BaseException as caught:
            error = explained(caught)
            if error is caught:
                raise
            raise error from caught
        finally:
            if recorder is not None and is_kept():
                _end(recorder, error)
            elif recorder is not None:
                _let_go()


@contextmanager
def child(parent: Recorder, run_name: str) -> Iterator[Recorder]:
    """Run the block in a run nested under `parent`; it ends as `start` says. For the trials of a sweep."""
    import mlflow

    error: BaseException | None = None
    with quiet():
        run = mlflow.start_run(
            experiment_id=parent.experiment_id, run_name=run_name, nested=True, parent_run_id=parent.run_id
        )
    recorder = Recorder(run.info.run_id, run.info.experiment_id)
    try:
        yield recorder
    except BaseException as caught:
        error = caught
        raise
    finally:
        _end(recorder, error)


def _open(entry_point: str, experiment: str | None, run_name: str, resume: str | None) -> Recorder:
    import mlflow

    tags = {ENTRY_POINT_TAG: entry_point}
    with quiet():
        create_schema(*current_uris())
        given = os.environ.get("MLFLOW_RUN_ID")
        wanted = resume or given
        if not wanted:
            run = mlflow.start_run(experiment_id=_experiment_id(experiment), run_name=run_name, tags=tags)
            return Recorder(run.info.run_id, run.info.experiment_id)
        before = _found(wanted, "resume" if resume else "MLFLOW_RUN_ID")
        name = before.info.run_name
        kept = bool(resume) or (bool(name) and not GENERATED_NAME.fullmatch(name))
        client = mlflow.MlflowClient()
        if ERROR_TAG in before.data.tags:
            client.delete_tag(wanted, ERROR_TAG)
        if given and given != wanted:
            client.set_tag(given, RESUMED_TAG, wanted)
            client.set_tag(given, "mlflow.note.content", f"Goes on in run {wanted}.")
        # mlflow would give it to the next run that is started here, a child.
        os.environ.pop("MLFLOW_RUN_ID", None)
        # Without an experiment: mlflow refuses one that differs from the run's.
        run = mlflow.start_run(run_id=wanted, run_name=None if kept else run_name, tags=tags)
        return Recorder(run.info.run_id, run.info.experiment_id)


def status_of(run_id: str) -> str | None:
    """Return a run's status (RUNNING, FINISHED, KILLED, FAILED); None where this store has no such run.

    Raises InputError: the store cannot be reached.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    require_reachable(None)
    with quiet():
        create_schema(*current_uris())
        try:
            run = mlflow.MlflowClient().get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
    return None if run.info.lifecycle_stage == "deleted" else run.info.status


def address_of(run_id: str) -> str:
    """Return where a person finds a run that there is."""
    import mlflow

    with quiet():
        return Recorder(run_id, mlflow.MlflowClient().get_run(run_id).info.experiment_id).hint


def end_left(run_id: str) -> None:
    """End a run as KILLED whose process is gone; one that has ended, or is not in this store, is left alone."""
    import mlflow

    if status_of(run_id) == "RUNNING":
        with quiet():
            mlflow.MlflowClient().set_terminated(run_id, "KILLED")


def _found(run_id: str, option: str) -> Any:
    """Return mlflow's run of that id. Raises InputError where there is none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        run = mlflow.MlflowClient().get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            raise InputError(f"{option}={run_id}: is deleted. Run `mlflow runs restore --run-id {run_id}`.")
        return run
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        remedy = "Unset it" if option == "MLFLOW_RUN_ID" else "Look its id up in the UI"
        raise InputError(
            f"{option}={run_id}: no such run at {without_password(current_uris()[0])}. "
            f"{remedy}, or set MLFLOW_TRACKING_URI to the store that has it."
        ) from None


def _experiment_id(experiment: str | None) -> str:
    """Return the experiment's id; through the client, since `set_experiment` changes the whole process."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    if experiment is None and (given := os.environ.get("MLFLOW_EXPERIMENT_ID")):
        return given
    name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # Another process was faster.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise InputError(
            f"experiment {name}: is deleted. Run `mlflow experiments restore -x {found.experiment_id}`, "
            "or choose another name."
        )
    return found.experiment_id


def _end(recorder: Recorder, error: BaseException | None) -> None:
    """Write the run's last status; where the block had failed, a failure to do so is not shown."""
    import mlflow

    status = _status(error)
    if error is None:
        try:
            with quiet():
                mlflow.end_run(status)
        except Exception as caught:
            raise explained(caught) from caught
        return
    is_gone = is_lost(error) or is_lost(error.__cause__)
    with quiet(last_try=is_gone), suppress(Exception):
        if status == "FAILED":
            line = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            with suppress(Exception):
                recorder.tag(ERROR_TAG, " ".join(line.split())[:MAX_ERROR_CHARACTERS])
        mlflow.end_run(status)


def _let_go() -> None:
    """Have mlflow take no run for this process's, without a word to the store."""
    from mlflow.tracking.fluent import _active_run_stack

    # At the end of the process mlflow would end it, too. It has no other way to leave a run.
    if runs := _active_run_stack.get():
        runs.pop()


def _status(error: BaseException | None) -> str:
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        return "KILLED"
    is_regular = error is None or (isinstance(error, SystemExit) and error.code in (None, 0))
    return "FINISHED" if is_regular else "FAILED"


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
