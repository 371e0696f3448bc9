"""The report of a registered model that was measured on a dataset; no number is computed here that decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from idl import __version__, figures
from idl.data.splits import Split
from idl.data.store import Store
from idl.measurement import Measurement
from idl.probes.linear_probe import ProbeCard
from idl.protocol import Protocol
from idl.report import DatasetInput, Image, RunReport
from idl.reporting.shared import CONTEXTS
from idl.reporting.views import VIEWS, Shown
from idl.targets import Target

Part = Literal["test", "val", "train", "all"]


@dataclass(frozen=True)
class MeasuredModel:
    """A registered model. uri: `models:/NAME/VERSION`. protocol: under which it was measured when it was registered.

    encoder: the encoder's parameters and tags, by name.
    """

    uri: str
    card: ProbeCard
    protocol: Protocol
    encoder: Mapping[str, str]


@dataclass(frozen=True)
class MeasurementFindings:
    """All that a measuring run knows at its end.

    part: which images; split: with the digests `EVERYTHING`, and all scenes tested, where part is "all".
    config: what was asked for, by name. shown_range: of the panels' colours, see `Shown`.
    notes: what a reader of the figures must know, a sentence each.
    """

    model: MeasuredModel
    store: Store
    split: Split
    part: Part
    order: tuple[int, ...]
    protocol: Protocol
    target: Target
    measurement: Measurement
    shown_range: tuple[float, float]
    config: Mapping[str, object]
    notes: tuple[str, ...]


def measurement_report(findings: MeasurementFindings) -> RunReport:
    """Everything that a measuring run leaves in MLflow."""
    model, store, part = findings.model, findings.store, findings.part
    # The exported model clamps by itself: what comes out of it is never outside.
    summary = {name: value for name, value in findings.measurement.sums.summary().items() if name != "clamped_share"}
    metrics = {f"{part}_{name}": value for name, value in summary.items()}
    drawn: dict[str, Image] = {}
    if findings.target.kind == "depth":
        drawn["per_scene.png"] = figures.per_scene_error(*_by_scene(findings))
    return RunReport(
        params={
            "model": model.uri,
            "dataset": store.name,
            "target": findings.target.name,
            "part": part,
            **findings.config,
            "num_images": len(findings.order),
            "resolution": findings.protocol.resolution,
            "depth_range_m": f"{findings.protocol.min_depth_m:g}..{findings.protocol.max_depth_m:g}",
            "fitted_on": model.card.dataset,
            "k": model.card.k,
        },
        metrics=metrics,
        figures=drawn,
        panels=_panels(findings),
        tables={"per_image.json": _per_image_table(findings)},
        datasets=(_dataset_input(findings),),
        description=_description(findings, summary),
        tags={
            **model.encoder,
            "model": model.uri,
            "target": findings.target.name,
            "dataset": store.name,
            "dataset_digest": store.digest,
            "protocol": findings.protocol.name,
            "protocol_digest": findings.protocol.digest,
            "split_digest": findings.split.digest,
            # Of those that were read: the other parts leave the test images alone.
            **(findings.split.looks(store) if part in ("test", "all") else {}),
            "fitted_on_digest": model.card.dataset_digest,
            "fitted_protocol_digest": model.card.protocol_digest,
            "idl.version": __version__,
        },
    )


def _panels(findings: MeasurementFindings) -> dict[str, Image]:
    card, view = findings.model.card, VIEWS[findings.target.kind]
    shown = Shown(findings.target, findings.shown_range, f"{card.encoder}, k = {card.k}")
    folder = view.folder(findings.target)
    return {f"{folder}/{values.name}": view.panel(values, shown) for values in findings.measurement.panels}


def _by_scene(findings: MeasurementFindings) -> tuple[list[str], list[float]]:
    """Scenes and the mean RMSE of their images, metres."""
    rmse = findings.measurement.sums.per_image()["rmse"]
    scenes = np.array([findings.store.scenes[index] for index in findings.order])
    known = np.isfinite(rmse)
    names = list(dict.fromkeys(scenes[known].tolist()))
    return names, [float(rmse[known & (scenes == name)].mean()) for name in names]


def _per_image_table(findings: MeasurementFindings) -> dict[str, list[object]]:
    table: dict[str, list[object]] = {
        "image": [findings.store.names[index] for index in findings.order],
        "scene": [findings.store.scenes[index] for index in findings.order],
        "num_valid": findings.measurement.num_valid.astype(int).tolist(),
    }
    return table | {name: values.tolist() for name, values in findings.measurement.sums.per_image().items()}


def _dataset_input(findings: MeasurementFindings) -> DatasetInput:
    store = findings.store
    num_scenes = len({store.scenes[index] for index in findings.order})
    context = "testing" if findings.part == "all" else CONTEXTS[findings.part]
    return DatasetInput(store.name, store.digest, store.source, context, len(findings.order), num_scenes)


def _description(findings: MeasurementFindings, summary: Mapping[str, float]) -> str:
    model, store = findings.model, findings.store
    quality = VIEWS[findings.target.kind].quality(summary, findings.target, findings.protocol.averaging)
    images = "all images" if findings.part == "all" else f"the {findings.part} split"
    text = (
        f"**{model.uri}**, a linear probe of {model.card.target} on {model.card.k} components of "
        f"**{model.card.encoder}**, fitted on {model.card.dataset} ({model.card.dataset_digest}), measured on {images} "
        f"of **{store.name}** ({store.digest}), {len(findings.order)} images, under protocol {findings.protocol.name} "
        f"({findings.protocol.digest}): {quality}."
    )
    return text + "".join(f"\n\n> {note}" for note in findings.notes)
