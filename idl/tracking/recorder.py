"""Writes the values of a report into one run."""

import csv
import io
import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from idl.data.files import shortened
from idl.databases import without_password
from idl.tracking.registry import RegisteredVersion, register
from idl.tracking.store import current_uris, quiet

if TYPE_CHECKING:
    # The report's types bring torch, which `import idl.tracking` does without.
    from mlflow.entities import DatasetInput as Input

    from idl.report import DatasetInput, Image, ModelVersion, RunReport

# mlflow's limit a request.
METRICS_PER_REQUEST = 1000
MOST_KEY_CHARACTERS = 120
NOT_FINITE_TAG = "idl.not_finite"
SPLITS = {"training": "train", "validation": "val", "testing": "test"}


class Recorder:
    """Writes into one run, by its id; made by `start`."""

    def __init__(self, run_id: str, experiment_id: str) -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id

    @property
    def hint(self) -> str:
        """Where a person finds the run: its page on a server, or the command that starts the UI."""
        uri = current_uris()[0]
        page = f"#/experiments/{self.experiment_id}/runs/{self.run_id}"
        if uri.startswith(("http://", "https://")):
            return f"{without_password(uri).rstrip('/')}/{page}"
        return f"mlflow ui --backend-store-uri {without_password(uri)}, then http://127.0.0.1:5000/{page}"

    def log(self, report: "RunReport") -> tuple[str, ...]:
        """Write all of `report`, and return the names of metrics left out because they are not finite.

        A parameter that the run has already is left alone: `mlflow run` logs those that it was given, as they were
        typed. Metrics that are not finite are listed in the tag `idl.not_finite`. Numbers of images and scenes are in
        each dataset's profile and input tags.

        Raises ValueError, before anything is written, for a picture that is not uint8: mlflow would rescale each
        float picture by its own range.
        """
        from mlflow.entities import Param, RunTag

        for key, picture in {**report.figures, **report.panels}.items():
            _require_uint8(key, picture)
        left_out = tuple(name for name, value in report.metrics.items() if not math.isfinite(value))
        tags = dict(report.tags)
        if report.description:
            tags["mlflow.note.content"] = report.description
        if left_out:
            tags[NOT_FINITE_TAG] = ", ".join(f"{name}={report.metrics[name]}" for name in left_out)

        with quiet():
            client = self._client()
            there = client.get_run(self.run_id).data.params
            params = [Param(name, str(value)) for name, value in report.params.items() if name not in there]
            client.log_batch(self.run_id, params=params, tags=[RunTag(name, value) for name, value in tags.items()])
            log_points(client, self.run_id, points_of(report))
            if report.datasets:
                client.log_inputs(self.run_id, datasets=[_input(dataset) for dataset in report.datasets])
        with quiet(transfer=True):
            for path, columns in report.tables.items():
                if path.endswith(".csv"):
                    client.log_text(self.run_id, _csv(columns), path)
                else:
                    client.log_table(self.run_id, dict(columns), path)
            if report.config:
                client.log_text(self.run_id, json.dumps(report.config, indent=1, default=str), "config.json")
            for path, text in report.texts.items():
                client.log_text(self.run_id, text, path)
            for path, picture in report.figures.items():
                client.log_image(self.run_id, picture, artifact_file=path)
        self.log_panels(report.panels, 0)
        return left_out

    def log_curves(self, curves: Mapping[str, Mapping[int, float]]) -> None:
        """Write points of curves, by name and step, in one request; values that are not finite are left out."""
        with quiet():
            named = ((name, value, at) for name, curve in curves.items() for at, value in curve.items())
            log_points(self._client(), self.run_id, _points(named))

    def log_panels(self, panels: Mapping[str, "Image"], step: int) -> None:
        """Write one step of pictures, which MLflow's image grid shows with a slider over the steps.

        Raises ValueError for a picture that is not uint8.
        """
        for key, picture in panels.items():
            _require_uint8(key, picture)
        with quiet(transfer=True):
            client = self._client()
            for key, picture in panels.items():
                client.log_image(self.run_id, picture, key=image_key(key), step=step)

    def tag(self, name: str, value: str) -> None:
        """Set one tag of the run."""
        with quiet():
            self._client().set_tag(self.run_id, name, value)

    def register(self, version: "ModelVersion") -> RegisteredVersion:
        """Export the model, register it as a new version, and promote it where it is the best of its kind.

        To be called inside `start`, after `log`: mlflow copies the run's metrics to the model.
        """
        return register(version, self.run_id)

    def _client(self) -> Any:
        import mlflow

        return mlflow.MlflowClient()


def log_points(client: Any, run_id: str, points: Sequence[Any]) -> None:
    """Write mlflow's metrics into a run, as many a request as mlflow takes."""
    for first in range(0, len(points), METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=points[first : first + METRICS_PER_REQUEST])


def image_key(name: str) -> str:
    """Return the key of a picture in mlflow: what it does not take is replaced, and a long name is cut.

    A name that is not kept is told from others by its digest.
    """
    # The key, a step, a time and a UUID are one file's name, of at most 255 bytes.
    key = re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", name)
    return shortened(key, MOST_KEY_CHARACTERS, told_apart_by=name)


def points_of(report: "RunReport") -> list[Any]:
    """Return mlflow's metrics of a report that are finite: its curves, from step 1, and its values behind them."""
    # The value that mlflow shows for a name is that of its last step.
    last = 1 + max(map(len, report.curves.values()), default=-1)
    values = [(name, value, last) for name, value in report.metrics.items()]
    return _points(
        [*((name, each, at) for name, curve in report.curves.items() for at, each in enumerate(curve, 1)), *values]
    )


def _points(named: Iterable[tuple[str, float, int]]) -> list[Any]:
    """Return mlflow's metrics of (name, value, step), those that are finite."""
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    return [Metric(name, float(value), now, at) for name, value, at in named if math.isfinite(value)]


def _input(dataset: "DatasetInput") -> "Input":
    """Return the split as mlflow's input.

    mlflow keeps one entry, with one profile, for equal name and digest in an experiment: the splits share
    their digest, so that the split is put into the name.
    """
    from mlflow.entities import Dataset, InputTag
    from mlflow.entities import DatasetInput as Input

    counts = {"num_images": dataset.num_images, "num_scenes": dataset.num_scenes}
    entity = Dataset(
        name=f"{dataset.name}-{SPLITS[dataset.context]}",
        digest=dataset.digest,
        source_type="code",
        # The UI shows this key of a "code" source as its text.
        source=json.dumps({"tags": {"mlflow.source.name": dataset.source}}),
        # `num_rows` is what the UI shows beside the name.
        profile=json.dumps({"num_rows": dataset.num_images, **counts}),
    )
    tags = [InputTag("mlflow.data.context", dataset.context)]
    # A profile is written once for an experiment; what a run read may be a part of the split.
    tags += [InputTag(name, str(count)) for name, count in counts.items()]
    return Input(dataset=entity, tags=tags)


def _csv(columns: Mapping[str, Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _require_uint8(key: str, picture: "Image") -> None:
    if picture.dtype != np.uint8:
        raise ValueError(f"{key}: pixels are {picture.dtype}, expected uint8")
