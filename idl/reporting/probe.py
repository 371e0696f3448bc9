"""The report of a probe run; no number is computed here that decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from idl import figures
from idl.data.splits import Split, uses_published
from idl.data.store import Store
from idl.encoders import Encoder
from idl.evaluation import Evaluation
from idl.features import EncodedDataset
from idl.fitting import PROBE, ArmFit
from idl.probes.exact import Solution
from idl.probes.linear_probe import LinearProbe
from idl.probes.trial import Descent
from idl.protocol import Protocol
from idl.report import Championship, Image, ModelVersion, RunReport
from idl.reporting.shared import CONTEXTS, dataset_inputs, example, model_slug, origin_json, run_tags
from idl.reporting.views import VIEWS, Shown
from idl.targets import Target

# A k is enough where its cross-validated loss is within this share of the best.
ENOUGH = 0.01


@dataclass(frozen=True)
class Findings:
    """All that a probe run knows at its end.

    config: what was asked for, by name. shown_range: of the panels' colours, see `Shown`.
    descent: of a probe that was trained by gradient descent.
    """

    config: Mapping[str, object]
    store: Store
    split: Split
    protocol: Protocol
    target: Target
    encoder: Encoder
    encoded: EncodedDataset
    arms: Mapping[str, ArmFit]
    test: Evaluation
    shown_range: tuple[float, float]
    descent: Descent | None = None

    @property
    def probe(self) -> Solution:
        """The chosen probe."""
        return self.arms[PROBE].fit.solution

    @property
    def loss_over_null(self) -> float:
        """Test loss of the probe over that of the null arm on the same grid."""
        null = self.test.pooled_loss("null")
        return self.test.pooled_loss(PROBE) / null if null > 0 else float("nan")

    @property
    def smallest_k(self) -> int:
        """Smallest k whose cross-validated loss is within 1 % of the best."""
        return self.arms[PROBE].fit.curve.smallest_k_within(ENOUGH)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know, a sentence each."""
        notes = [*self.store.notes]
        if self.encoder.origin.warning:
            notes.append(self.encoder.origin.warning)
        return tuple(notes)


def probe_report(findings: Findings) -> RunReport:
    """Everything that a probe run leaves in MLflow, save the model."""
    test = findings.test
    metrics = {
        "train_loss": findings.probe.train_loss,
        "val_loss": findings.probe.val_loss,
        # A probe by gradient descent is not cross-validated.
        **({} if findings.descent else {"cv_loss": findings.probe.cv_loss}),
        "test_loss": test.pooled_loss(PROBE),
        "loss_over_null": findings.loss_over_null,
        "rank": findings.probe.rank,
        "smallest_k_within_1_percent": findings.smallest_k,
    }
    metrics |= {f"test_{name}": value for name, value in test.sums.summary().items()}
    for name, arm in findings.arms.items():
        if name == PROBE:
            continue
        key = f"arms/{name.replace('+', '_')}"
        metrics[f"{key}_val_loss"] = arm.fit.solution.val_loss
        metrics[f"{key}_test_loss"] = test.pooled_loss(name)
        metrics |= {f"{key}_test_{each}": value for each, value in test.arm_errors[name].items()}
    curves: dict[str, tuple[float, ...]] = {}
    if (descent := findings.descent) is not None:
        metrics |= {"excess_loss": descent.excess_loss, "best_epoch": descent.best_epoch}
        curves = {"train_loss": descent.train_losses, "val_loss": descent.val_losses}
    throughput = findings.encoded.throughput
    if throughput.num_images:
        metrics["images_per_s"] = throughput.num_images / throughput.seconds
    metrics["encoded_images"] = throughput.num_images
    return RunReport(
        params=_probe_params(findings),
        metrics=metrics,
        curves=curves,
        figures={
            "curves/loss_over_k.png": _loss_over_k(findings),
            "arms/test_loss.png": _arms_chart(findings),
        },
        panels=_panels(findings),
        tables={
            "curves/loss_over_k.csv": _curve_table(findings),
            "arms/arms.csv": _arms_table(findings),
            "per_image.json": _per_image_table(findings),
        },
        datasets=dataset_inputs(findings.store, findings.split, tuple(CONTEXTS)),
        description=_description(findings),
        tags=run_tags(findings.store, findings.encoder)
        | {
            "target": findings.target.name,
            **({"target_identity": findings.target.identity} if findings.target.identity else {}),
            "protocol": findings.protocol.name,
            "protocol_digest": findings.protocol.digest,
            "split_digest": findings.split.digest,
            **findings.split.looks(findings.store),
            "basis_digest": findings.encoded.basis.digest,
        },
    )


def probe_version(findings: Findings, model: nn.Module, probe: LinearProbe) -> ModelVersion:
    """The whole model on its way to the registry as `idl-<target>-<encoder>`."""
    test = findings.test
    conditions = {
        "dataset_digest": findings.store.digest,
        "split_digest": findings.split.digest,
        "protocol_digest": findings.protocol.digest,
        "target": findings.target.name,
        # Two targets of one name from outside do not compete.
        **({"target_identity": findings.target.identity} if findings.target.identity else {}),
    }
    tags = conditions | {
        "dataset": findings.store.name,
        "scenes_digest": findings.split.scenes_digest,
        "kind": findings.target.kind,
        # Of its panels' colours, for pictures that are made with it.
        "shown_range": ",".join(f"{end:.4g}" for end in findings.shown_range),
        "protocol": findings.protocol.name,
        "encoder": findings.encoder.name,
        "encoder_digest": findings.encoder.digest,
        "weights": findings.encoder.origin.weights,
        "task": findings.encoder.origin.task,
        "k": str(findings.probe.k),
        "val_loss": repr(findings.probe.val_loss),
        "test_loss": repr(test.pooled_loss(PROBE)),
        "loss_over_null": repr(findings.loss_over_null),
    }
    tags |= {
        f"test_{name}": f"{value:.6g}"
        for name, value in test.sums.summary().items()
        if name in ("rmse", "abs_rel", "delta1", "r2", "angle_mean_deg")
    }
    return ModelVersion(
        name=f"idl-{findings.target.name}-{model_slug(findings.encoder.name)}",
        module=model,
        example=example(),
        description=_description(findings),
        tags=tags,
        files={
            "probe.safetensors": probe.to_bytes(),
            "protocol.json": findings.protocol.to_json().encode(),
            "origin.json": origin_json(findings.encoder),
        },
        championship=Championship(findings.store.name, conditions, findings.probe.val_loss),
    )


def _probe_params(findings: Findings) -> dict[str, Any]:
    encoded, protocol = findings.encoded, findings.protocol
    return dict(findings.encoder.describe()) | {
        "dataset": findings.store.name,
        **findings.config,
        "k_chosen": findings.probe.k,
        "penalty": findings.probe.penalty,
        "grid": f"{encoded.grid[0]}x{encoded.grid[1]}",
        "components": encoded.basis.num_components,
        "arithmetic": findings.encoder.arithmetic,
        **({"outcome": findings.descent.outcome} if findings.descent else {}),
        "resolution": protocol.resolution if protocol.is_square else f"{protocol.resolution}x{protocol.width}",
        "depth_range_m": f"{protocol.min_depth_m:g}..{protocol.max_depth_m:g}",
        "protocol": protocol.name,
        "mask": protocol.mask,
        "erosion": protocol.erosion,
        "crop": _crop(protocol),
        "averaging": protocol.averaging,
        "split_is_published": uses_published(str(findings.config["split"]), findings.store.sides),
        "num_train": len(findings.split.indices["train"]),
        "num_val": len(findings.split.indices["val"]),
        "num_test": len(findings.split.indices["test"]),
    }


def _crop(protocol: Protocol) -> str:
    """The native pixels that are measured, or prepared: "45:471,41:601"."""
    crop = protocol.native_crop or protocol.crop
    return f"{crop[0]}:{crop[1]},{crop[2]}:{crop[3]}" if crop else "none"


def _loss_over_k(findings: Findings) -> Image:
    curve = findings.arms[PROBE].fit.curve
    # k = 0 is the constant arm, which is drawn as a line; a logarithmic axis has no place for it.
    return figures.loss_over_k(
        curve.k[1:].tolist(),
        curve.train_loss[1:].tolist(),
        curve.cv_loss[1:].tolist(),
        chosen_k=max(1, findings.probe.k),
        test_loss_at_chosen=findings.test.pooled_loss(PROBE),
        arms={name: arm.fit.solution.cv_loss for name, arm in findings.arms.items() if name != PROBE},
        smallest_k_within=max(1, findings.smallest_k),
        unit=findings.target.unit,
        title=f"{findings.target.name} from {findings.encoder.name}: loss over k",
    )


def _arms_chart(findings: Findings) -> Image:
    names = [*findings.arms]
    encoder = f"{findings.encoder.name} ({findings.encoder.origin.weights})"
    labels = [encoder if name == PROBE else name for name in names]
    losses = [findings.test.pooled_loss(name) for name in names]
    return figures.arms_chart(labels, losses, unit=findings.target.unit, highlighted=encoder)


def _panels(findings: Findings) -> dict[str, Image]:
    view = VIEWS[findings.target.kind]
    shown = Shown(findings.target, findings.shown_range, _caption(findings))
    folder = view.folder(findings.target)
    return {f"{folder}/{values.name}": view.panel(values, shown) for values in findings.test.panels}


def _caption(findings: Findings) -> str:
    return f"{findings.encoder.name}, k = {findings.probe.k}"


def _curve_table(findings: Findings) -> dict[str, list[object]]:
    curve = findings.arms[PROBE].fit.curve
    test_loss = findings.test.pooled_loss(PROBE)
    return {
        "k": curve.k.tolist(),
        "penalty": curve.penalty.tolist(),
        "train_loss": curve.train_loss.tolist(),
        "val_loss": curve.val_loss.tolist(),
        "cv_loss": curve.cv_loss.tolist(),
        # The test split is read for the chosen k only.
        "test_loss": [test_loss if k == findings.probe.k else None for k in curve.k.tolist()],
    }


def _arms_table(findings: Findings) -> dict[str, list[object]]:
    rows = [
        {
            "arm": name,
            "columns": len(arm.columns) if name != PROBE else arm.fit.solution.k + 1,
            "rank": arm.fit.solution.rank,
            "penalty": arm.fit.solution.penalty,
            "train_loss": arm.fit.solution.train_loss,
            "val_loss": arm.fit.solution.val_loss,
            "cv_loss": arm.fit.solution.cv_loss,
            "test_loss": findings.test.pooled_loss(name),
            **{f"test_{key}": value for key, value in findings.test.arm_errors[name].items()},
        }
        for name, arm in findings.arms.items()
    ]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _per_image_table(findings: Findings) -> dict[str, list[object]]:
    order = findings.split.indices["test"]
    table: dict[str, list[object]] = {
        "image": [findings.store.names[index] for index in order],
        "scene": [findings.store.scenes[index] for index in order],
        "num_valid": findings.test.num_valid.astype(int).tolist(),
    }
    for name in findings.arms:
        table[f"loss_{name}"] = findings.test.losses[name].tolist()
    return table | {name: values.tolist() for name, values in findings.test.sums.per_image().items()}


def _where(protocol: Protocol) -> str:
    """Where depth is measured, in words, if that is not where the probe was fitted."""
    if not protocol.is_native:
        return ""
    return f"; {protocol.name}: at native size" + (f", crop {_crop(protocol)}" if protocol.native_crop else "")


def _description(findings: Findings) -> str:
    encoder, test, probe = findings.encoder, findings.test, findings.probe
    square = figures.squared(findings.target.unit)
    unit = f" {square}" if square else ""
    # The headline is the protocol's average; the other one is among the metrics.
    view = VIEWS[findings.target.kind]
    quality = view.quality(test.sums.summary(), findings.target, findings.protocol.averaging)
    if findings.target.kind == "depth":
        quality += _where(findings.protocol)
    sentences = [
        f"A linear probe on {probe.k} of {encoder.channels} channels' components of **{encoder.name}** "
        f"({encoder.origin.architecture}, weights: {encoder.origin.weights}, stride {encoder.stride}) predicts "
        f"**{findings.target.name}** on **{findings.store.name}** with a test loss of "
        f"{test.pooled_loss(PROBE):.4g}{unit} ({quality}).",
        f"That is {findings.loss_over_null:.2f} times the loss of the null arm, which reads the downsampled image "
        f"on the same {findings.encoded.grid[0]} x {findings.encoded.grid[1]} grid "
        f"({test.pooled_loss('null'):.4g}{unit}), where a constant reaches {test.pooled_loss('constant'):.4g} "
        f"and position alone {test.pooled_loss('position'):.4g}{unit}.",
        f"Of the k tried, {findings.smallest_k} components are enough to come within 1 % of the best "
        f"cross-validated loss ({float(findings.arms[PROBE].fit.curve.cv_loss.min()):.4g}{unit}).",
    ]
    text = " ".join(sentences)
    return text + "".join(f"\n\n> {note}" for note in findings.notes)
