"""A run from its start to its end, whatever ends it; what is written into it; the runs that have read a test split."""

import csv
import io
import json
import math
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from idl.data.reader import shortened
from idl.data.splits import are_shared
from idl.databases import without_password
from idl.errors import InputError
from idl.tracking.registry import PROBE_FILE, RegisteredVersion, register
from idl.tracking.store import MISSING, ONE_TRY, current_uris, lost_store, pages, quiet, require_reachable

if TYPE_CHECKING:
    # The report's types bring torch, which `import idl.tracking` does without.
    from idl.report import DatasetInput, Image, ModelVersion, RunReport

DEFAULT_EXPERIMENT = "idl"
ENTRY_POINT_TAG, ERROR_TAG, RESUMED_TAG = "idl.entry_point", "idl.error", "idl.resumed"
STUDY_TAG, TRIAL_TAG, WORKER_TAG, NOT_FINITE_TAG = "idl.study", "idl.trial", "idl.worker", "idl.not_finite"
NOTE_TAG = "mlflow.note.content"
# Of a trial's parent: who ran it, what, and for which study.
INHERITED = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
INHERITED += (STUDY_TAG, WORKER_TAG)
# Entry points that measure on a test split.
READERS = ("probe", "sweep", "verdict", "compare", "main", "evaluate")
SPLITS = {"training": "train", "validation": "val", "testing": "test"}
# What mlflow names a run by itself: "bustling-fox-123".
GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d{1,3}")
# mlflow's limit a request, of points and parameters together.
VALUES_PER_REQUEST = 1000
MOST_KEY_CHARACTERS = 120
MAX_ERROR_CHARACTERS = 500

Point = tuple[str, float, int]


class Terminated(SystemExit):
    """SIGTERM arrived: a SystemExit with code 143, as a shell reports it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Recorder:
    """Writes into one run; made by `start`. run: mlflow's."""

    def __init__(self, run: Any) -> None:
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self._params, self._tags = set(run.data.params), dict(run.data.tags)

    @property
    def hint(self) -> str:
        """Where a person finds the run: its page on a server, or the command that starts the UI."""
        uri, page = without_password(current_uris()[0]), f"#/experiments/{self.experiment_id}/runs/{self.run_id}"
        if uri.startswith("http"):
            return f"{uri.rstrip('/')}/{page}"
        return f"mlflow ui --backend-store-uri {uri}, then http://127.0.0.1:5000/{page}"

    def log(self, report: "RunReport") -> tuple[str, ...]:
        """Write all of `report`, and return the names of metrics left out because they are not finite.

        A parameter that the run has already is left alone: `mlflow run` logs those that it was given, as typed.
        Raises ValueError, before anything is written, for a picture that is not uint8: mlflow would rescale it.
        """
        _require_uint8({**report.figures, **report.panels})
        left_out = tuple(name for name, value in report.metrics.items() if not math.isfinite(value))
        tags = dict(report.tags)
        if report.description:
            tags[NOTE_TAG] = report.description
        if left_out:
            tags[NOT_FINITE_TAG] = ", ".join(f"{name}={report.metrics[name]}" for name in left_out)
        with quiet():
            client = self._write(report.params, tags, _points_of(report))
            if report.datasets:
                client.log_inputs(self.run_id, datasets=[_input(dataset) for dataset in report.datasets])
        texts = dict(report.texts)
        if report.config:
            texts["config.json"] = json.dumps(report.config, indent=1, default=str)
        with quiet(transfer=True):
            for path, columns in report.tables.items():
                if path.endswith(".csv"):
                    texts[path] = _csv(columns)
                else:
                    client.log_table(self.run_id, dict(columns), path)
            for path, text in texts.items():
                client.log_text(self.run_id, text, path)
            for path, picture in report.figures.items():
                client.log_image(self.run_id, picture, artifact_file=path)
        self.log_panels(report.panels, 0)
        return left_out

    def log_curves(self, curves: Mapping[str, Mapping[int, float]]) -> None:
        """Write points of curves, by name and step, in one request; values that are not finite are left out."""
        with quiet():
            self._write({}, {}, [(name, value, at) for name, curve in curves.items() for at, value in curve.items()])

    def log_panels(self, panels: Mapping[str, "Image"], step: int) -> None:
        """Write one step of pictures (uint8), which MLflow's image grid shows with a slider over the steps."""
        _require_uint8(panels)
        with quiet(transfer=True):
            for name, picture in panels.items():
                # mlflow's key, a step, a time and a UUID are one file's name, of at most 255 bytes.
                plain = re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", name)
                key = shortened(plain, MOST_KEY_CHARACTERS, told_apart_by=name)
                _client().log_image(self.run_id, picture, key=key, step=step)

    def log_trial(self, number: int, report: "RunReport", probe: bytes) -> None:
        """Log the trial of this number in its study, with its probe, as a finished run nested under this one."""
        tags = {name: self._tags[name] for name in INHERITED if name in self._tags}
        tags |= {"mlflow.parentRunId": self.run_id, ENTRY_POINT_TAG: "trial", TRIAL_TAG: str(number), **report.tags}
        with quiet():
            run = _client().create_run(self.experiment_id, tags=tags, run_name=f"trial {number:03d}")
            trial = Recorder(run)
            client = trial._write(report.params, {}, _points_of(report))
        with quiet(transfer=True), tempfile.TemporaryDirectory() as folder:
            path = Path(folder, PROBE_FILE)
            path.write_bytes(probe)
            client.log_artifact(trial.run_id, str(path))
        with quiet():
            client.set_terminated(trial.run_id)

    def tag(self, name: str, value: str) -> None:
        """Set one tag of the run."""
        self._tags[name] = value
        with quiet():
            _client().set_tag(self.run_id, name, value)

    def register(self, version: "ModelVersion") -> RegisteredVersion:
        """Register and promote a model, inside `start` and after `log`: mlflow copies the run's metrics to it."""
        return register(version, self.run_id)

    def _write(self, params: Mapping[str, object], tags: Mapping[str, str], points: Sequence[Point]) -> Any:
        """Write in as few requests as mlflow takes, and return its client. Points that are not finite are left out."""
        from mlflow.entities import Metric, Param, RunTag

        client, now = _client(), int(1000 * time.time())
        values: list[Any] = [Param(name, str(value)) for name, value in params.items() if name not in self._params]
        values += [Metric(name, float(value), now, at) for name, value, at in points if math.isfinite(value)]
        self._params |= params.keys()
        labels = [RunTag(name, value) for name, value in tags.items()]
        for first in range(0, max(1, len(values)), VALUES_PER_REQUEST):
            part = values[first : first + VALUES_PER_REQUEST]
            sent = [each for each in part if isinstance(each, Param)]
            client.log_batch(self.run_id, metrics=part[len(sent) :], params=sent, tags=labels if first == 0 else [])
        return client


@contextmanager
def start(
    entry_point: str, experiment: str | None = None, run_name: str | None = None, *, resume: str | None = None
) -> Iterator[Recorder]:
    """Run the block inside a tracked run, and yield what it logs with.

    entry_point: the command, kept in the tag `idl.entry_point`; the run's name where `run_name` is None.
    experiment: by name, created where it is missing; None: MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, else "idl".
      Under `mlflow run` (MLFLOW_RUN_ID is set) that run is resumed, in its own experiment.
    resume: id of a run to continue. One that `mlflow run` made for this process gets a note that says so.

    The run ends FINISHED; KILLED on Ctrl-C and SIGTERM (inside, SIGTERM raises Terminated); FAILED on any other
    exception, with its line in the tag `idl.error`. Raises InputError: no such run; a store that does not answer.
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

    def opened() -> Any:
        experiment_id, run_id = parent.experiment_id, parent.run_id
        return mlflow.start_run(experiment_id=experiment_id, run_name=run_name, nested=True, parent_run_id=run_id)

    with _ended(opened) as recorder:
        yield recorder


def count_test_readers(scenes: str) -> int:
    """Return how many runs of this store, in all experiments, tested one of these scenes or were about to, however.

    scenes: the tag `test_scenes` of `Split.test_tags`.
    """
    import mlflow
    from mlflow.entities import ViewType

    with quiet():
        # Deleted ones have read the images all the same.
        experiments = [each.experiment_id for each in mlflow.search_experiments(view_type=ViewType.ALL)]
        found = pages(_client().search_runs, experiments, "tags.test_scenes LIKE '%'", ViewType.ALL)
        tags = [run.data.tags for run in found]
    # Children are parts of their parent's test: a trial's entry point is "trial", others have none.
    return sum(each.get(ENTRY_POINT_TAG) in READERS and are_shared(each["test_scenes"], scenes) for each in tags)


def _client() -> Any:
    import mlflow

    return mlflow.MlflowClient()


def _open(entry_point: str, experiment: str | None, run_name: str, resume: str | None) -> Any:
    """Return mlflow's active run, new or resumed."""
    import mlflow

    client, tags = _client(), {ENTRY_POINT_TAG: entry_point}
    # Taken away: mlflow would give it to the next run that is started here, a child.
    given = os.environ.pop("MLFLOW_RUN_ID", None)
    run_id = resume or given
    if not run_id:
        return mlflow.start_run(experiment_id=_experiment_id(client, experiment), run_name=run_name, tags=tags)
    option, remedy = ("resume", "Look its id up in the UI") if resume else ("MLFLOW_RUN_ID", "Unset it")
    before = _existing(client.get_run, run_id, option, "run", remedy)
    if before.info.lifecycle_stage == "deleted":
        raise InputError(f"{option}={run_id}: is deleted. Run `mlflow runs restore --run-id {run_id}`.")
    if ERROR_TAG in before.data.tags:
        client.delete_tag(run_id, ERROR_TAG)
    if given and given != run_id:
        client.set_tag(given, RESUMED_TAG, run_id)
        client.set_tag(given, NOTE_TAG, f"Goes on in run {run_id}.")
    name = before.info.run_name
    is_named = bool(resume) or (bool(name) and not GENERATED_NAME.fullmatch(name))
    # Without an experiment: mlflow refuses one that differs from the run's.
    return mlflow.start_run(run_id=run_id, run_name=None if is_named else run_name, tags=tags)


def _experiment_id(client: Any, experiment: str | None) -> str:
    """Return the experiment's id; through the client, since `set_experiment` changes the whole process."""
    from mlflow.exceptions import MlflowException

    name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    if not experiment and (given := os.environ.get("MLFLOW_EXPERIMENT_ID")):
        found = _existing(
            client.get_experiment, given, "MLFLOW_EXPERIMENT_ID", "experiment", "Unset it, or pass --experiment"
        )
    elif (found := client.get_experiment_by_name(name)) is None:
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


def _existing(get: Callable[[str], Any], given: str, option: str, kind: str, remedy: str) -> Any:
    """Return mlflow's run or experiment of an id. Raises InputError where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return get(given)
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
        raise InputError(
            f"{option}={given}: no such {kind} at {without_password(current_uris()[0])}. {remedy}, or set "
            "MLFLOW_TRACKING_URI to the store that has it."
        ) from None


@contextmanager
def _ended(opened: Callable[[], Any]) -> Iterator[Recorder]:
    """Run the block in the run that is opened, and give the run its last status."""
    import mlflow

    recorder: Recorder | None = None
    try:
        with quiet():
            recorder = Recorder(opened())
        yield recorder
        with quiet():
            mlflow.end_run("FINISHED")
    except BaseException as caught:
        lost = lost_store(caught)
        # Where a child has said so before, nobody answers the parent either.
        is_gone = lost is not None or lost_store(caught.__cause__ or caught) is not None
        if recorder is not None:
            # A failure of these is not shown.
            with quiet(forced=ONE_TRY if is_gone else {}), suppress(Exception):
                _end(recorder, lost or caught)
        if lost is None:
            raise
        raise lost from caught


def _end(recorder: Recorder, error: BaseException) -> None:
    """Write the last status of a run that `error` ended."""
    import mlflow

    status = "FAILED"
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        status = "KILLED"
    elif isinstance(error, SystemExit) and error.code in (None, 0):
        status = "FINISHED"
    else:
        line = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        with suppress(Exception):
            _client().set_tag(recorder.run_id, ERROR_TAG, " ".join(line.split())[:MAX_ERROR_CHARACTERS])
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


def _points_of(report: "RunReport") -> Sequence[Point]:
    """Return a report's curves, from step 1, and its metrics behind them: mlflow shows the value of the last step."""
    last = 1 + max(map(len, report.curves.values()), default=-1)
    curves = [(name, each, at) for name, curve in report.curves.items() for at, each in enumerate(curve, 1)]
    return curves + [(name, value, last) for name, value in report.metrics.items()]


def _input(dataset: "DatasetInput") -> Any:
    """Return the split as mlflow's input, by a name of its own: mlflow keeps one entry for equal name and digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    counts = {"num_images": dataset.num_images, "num_scenes": dataset.num_scenes}
    entity = Dataset(
        name=f"{dataset.name}-{SPLITS[dataset.context]}",
        digest=dataset.digest,
        source_type="code",
        # The UI shows this key of a "code" source as its text, and `num_rows` beside the name.
        source=json.dumps({"tags": {"mlflow.source.name": dataset.source}}),
        profile=json.dumps({"num_rows": dataset.num_images, **counts}),
    )
    # A profile is written once for an experiment; what a run read may be a part of the split.
    tags = {"mlflow.data.context": dataset.context, **counts}
    return DatasetInput(dataset=entity, tags=[InputTag(name, str(value)) for name, value in tags.items()])


def _csv(columns: Mapping[str, Iterable[object]]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _require_uint8(pictures: Mapping[str, "Image"]) -> None:
    for key, picture in pictures.items():
        if picture.dtype != np.uint8:
            raise ValueError(f"{key}: pixels are {picture.dtype}, expected uint8")
