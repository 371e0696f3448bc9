"""The reports of a probe: of its own run, with its version in the registry, and of one measured on another dataset.

No number is computed here that decides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from jaxtyping import Float64
from torch import Tensor

from idl.data.splits import Split
from idl.data.store import Store
from idl.evaluate import Evaluation
from idl.fitting import PROBE, ArmFit
from idl.probe_config import EncodedData
from idl.probes.gradient_fit import TrainResult
from idl.probes.linear_probe import DepthModel, LinearProbe, ProbeCard
from idl.protocol import Protocol
from idl.report import Championship, DatasetInput, Image, ModelVersion, Run, RunReport, charts
from idl.report.encoder import (
    CONTEXTS,
    dataset_inputs,
    dataset_tags,
    encoder_params,
    encoder_tags,
    example,
    model_slug,
    origin_json,
    run_tags,
)
from idl.report.views import panels, per_image_table, quality
from idl.targets import Target

Part = Literal["test", "val", "train", "all"]
# A k is enough where its cross-validated loss is within this share of the best.
ENOUGH = 0.01
# Of the metrics, those that are tags of the registered version.
TAGGED = ("rmse", "abs_rel", "delta1", "r2", "angle_mean_deg")


def probe_run(
    data: EncodedData, arms: Mapping[str, ArmFit], test: Evaluation, descent: TrainResult | None = None
) -> Run:
    """Return all that a fitted and measured probe leaves in MLflow, and its version, `idl-<target>-<encoder>`.

    descent: of a probe trained by gradient descent.
    """
    store, split, encoder, target, protocol = data.store, data.split, data.encoder, data.target, data.protocol
    curve, solution = arms[PROBE].fit.curve, arms[PROBE].fit.solution
    num_encoded, seconds = data.encoded.throughput()
    losses, summary = {name: test.pooled_loss(name) for name in arms}, test.sums.summary()
    loss_over_null = losses[PROBE] / losses["null"] if losses["null"] > 0 else math.nan
    smallest_k = curve.smallest_k_within(ENOUGH)
    description = _description(data, arms, losses, smallest_k, loss_over_null, quality(summary, target))
    digests = {name: tag for name, tag in dataset_tags(store, split, protocol).items() if name.endswith("_digest")}
    # Two targets of one name from outside do not compete.
    identity = {"target_identity": target.identity} if target.identity else {}
    conditions = {**digests, "target": target.name, **identity}
    metrics = {
        "train_loss": solution.train_loss,
        "val_loss": solution.val_loss,
        "test_loss": losses[PROBE],
        "loss_over_null": loss_over_null,
        "rank": solution.rank,
        "smallest_k_within_1_percent": smallest_k,
        "encoded_images": num_encoded,
        **({"images_per_s": num_encoded / seconds} if num_encoded else {}),
        **{f"test_{name}": value for name, value in summary.items()},
    }
    # A probe by gradient descent is not cross-validated.
    metrics |= (
        {"excess_loss": descent.excess_loss, "best_epoch": descent.best_epoch}
        if descent
        else {"cv_loss": solution.cv_loss}
    )
    rows = [_arm_row(name, arm, losses[name], test.arm_errors[name]) for name, arm in arms.items()]
    for row in rows:
        if row["arm"] != PROBE:
            names = ("val_loss", "test_loss", *(f"test_{each}" for each in test.arm_errors[PROBE]))
            metrics |= {f"arms/{str(row['arm']).replace('+', '_')}_{name}": row[name] for name in names}
    # The test split is read for the chosen k only.
    curve_table = {name: each.tolist() for name, each in vars(curve).items()}
    curve_table["test_loss"] = [losses[PROBE] if k == solution.k else None for k in curve_table["k"]]
    loss_over_k = charts.loss_over_k(
        # k = 0 is the constant arm, which is drawn as a line; a logarithmic axis has no place for it.
        *(each[1:].tolist() for each in (curve.k, curve.train_loss, curve.cv_loss)),
        chosen_k=max(1, solution.k),
        test_loss_at_chosen=losses[PROBE],
        arms={name: arm.fit.solution.cv_loss for name, arm in arms.items() if name != PROBE},
        smallest_k_within=max(1, smallest_k),
        unit=target.unit,
        title=f"{target.name} from {encoder.name}: loss over k",
    )
    trained = f"{encoder.name} ({encoder.origin.weights})"
    labelled = {trained if name == PROBE else name: loss for name, loss in losses.items()}
    per_image = per_image_table(store, split.indices["test"], test)
    report = RunReport(
        params={
            **encoder_params(encoder),
            "k_chosen": solution.k,
            "penalty": solution.penalty,
            **({"outcome": descent.outcome} if descent else {}),
            "num_test": len(split.indices["test"]),
            "encoder_digest": encoder.digest,
            **digests,
        },
        metrics=metrics,
        curves={"train_loss": descent.train_losses, "val_loss": descent.val_losses} if descent else {},
        figures={
            "curves/loss_over_k.png": loss_over_k,
            "arms/test_loss.png": charts.arms_chart(labelled, target.unit, trained),
        },
        panels=panels(test.panels, target, data.limits, f"{encoder.name}, k = {solution.k}"),
        tables={
            "curves/loss_over_k.csv": curve_table,
            "arms/arms.csv": {key: [row[key] for row in rows] for key in rows[0]},
            "per_image.json": per_image | {f"loss_{name}": each.tolist() for name, each in test.losses.items()},
        },
        datasets=dataset_inputs(store, split),
        description=description,
        tags={
            **run_tags(store, encoder),
            **conditions,
            "protocol": protocol.name,
            **split.test_tags(store),
            "basis_digest": data.encoded.basis.digest,
        },
    )
    probe = linear_probe(data, arms[PROBE].weights, solution.k, solution.penalty)
    range_m = (protocol.min_depth_m, protocol.max_depth_m) if target.kind == "depth" else None
    version = ModelVersion(
        name=f"idl-{target.name}-{model_slug(encoder.name)}",
        module=DepthModel(encoder.exportable(), probe, target.decode, range_m).eval(),
        example=example(encoder),
        description=description,
        tags={
            **conditions,
            **encoder_tags(encoder),
            "dataset": store.name,
            "scenes_digest": split.scenes_digest,
            "kind": target.kind,
            # Of its panels' colours, for pictures that are made with it.
            "shown_range": ",".join(f"{end:.4g}" for end in data.limits),
            "protocol": protocol.name,
            "k": str(solution.k),
            **{name: repr(metrics[name]) for name in ("val_loss", "test_loss", "loss_over_null")},
            **{f"test_{name}": f"{summary[name]:.6g}" for name in TAGGED if name in summary},
        },
        files={
            "probe.safetensors": probe.to_bytes(),
            "protocol.json": protocol.to_json().encode(),
            "origin.json": origin_json(encoder),
        },
        championship=Championship(store.name, conditions, solution.val_loss),
    )
    return Run(report, version)


def _arm_row(name: str, arm: ArmFit, test_loss: float, errors: Mapping[str, float]) -> dict[str, Any]:
    solution = arm.fit.solution
    return {
        "arm": name,
        "columns": solution.k + 1 if name == PROBE else len(arm.columns),
        **{key: getattr(solution, key) for key in ("rank", "penalty", "train_loss", "val_loss", "cv_loss")},
        "test_loss": test_loss,
        **{f"test_{key}": value for key, value in errors.items()},
    }


def _description(
    data: EncodedData,
    arms: Mapping[str, ArmFit],
    losses: Mapping[str, float],
    smallest_k: int,
    loss_over_null: float,
    headline: str,
) -> str:
    encoder, target, protocol, fit = data.encoder, data.target, data.protocol, arms[PROBE].fit
    unit = f" {charts.squared(target.unit)}".rstrip()
    if target.kind == "depth" and protocol.is_native:
        headline += f"; {protocol.name}: at native size"
        if protocol.native_crop:
            headline += ", crop {}:{},{}:{}".format(*protocol.native_crop)
    notes = [*data.store.notes, *filter(None, [encoder.origin.warning])]
    return (
        f"A linear probe on {fit.solution.k} of {encoder.channels} channels' components of **{encoder.name}** "
        f"({encoder.origin.architecture}, weights: {encoder.origin.weights}, stride {encoder.stride}) predicts "
        f"**{target.name}** on **{data.store.name}** with a test loss of {losses[PROBE]:.4g}{unit} ({headline}). "
        f"That is {loss_over_null:.2f} times the loss of the null arm, which reads the downsampled image on the same "
        f"{data.encoded.grid[0]} x {data.encoded.grid[1]} grid ({losses['null']:.4g}{unit}), where a constant reaches "
        f"{losses['constant']:.4g} and position alone {losses['position']:.4g}{unit}. Of the k tried, {smallest_k} "
        f"components are enough to come within 1 % of the best cross-validated loss "
        f"({float(fit.curve.cv_loss.min()):.4g}{unit})."
    ) + "".join(f"\n\n> {note}" for note in notes)


def linear_probe(data: EncodedData, weights: Float64[Tensor, "columns out"], k: int, penalty: float) -> LinearProbe:
    """Return the probe that reads `k` components, with the target's offset in the bias, which comes first."""
    target, store, protocol, encoder = data.target, data.store, data.protocol, data.encoder
    card = ProbeCard(
        target=target.name,
        unit=target.unit,
        k=k,
        penalty=penalty,
        encoder=encoder.name,
        encoder_digest=encoder.digest,
        dataset=store.name,
        dataset_digest=store.digest,
        protocol_digest=protocol.digest,
        resolution=protocol.resolution,
        width=protocol.width,
        target_factory=data.config.target if target.identity else "",
        target_identity=target.identity,
    )
    basis, weights = data.encoded.basis, weights.float()
    return LinearProbe(basis.feature_mean, basis.projection[:, :k], weights[1 : 1 + k].T, weights[0], card)


@dataclass(frozen=True)
class MeasuredModel:
    """A registered model. uri: `models:/NAME/VERSION`. tags: of its encoder, by name."""

    uri: str
    card: ProbeCard
    tags: Mapping[str, str]


def measurement_report(
    model: MeasuredModel,
    store: Store,
    split: Split,
    part: Part,
    order: tuple[int, ...],
    protocol: Protocol,
    target: Target,
    measured: Evaluation,
    limits: tuple[float, float],
    notes: tuple[str, ...],
) -> RunReport:
    """Return everything that the measuring of a registered model leaves in MLflow.

    part: which images, `order` of the store. limits: of the panels' colours. notes: for readers, a sentence each.
    """
    card = model.card
    # The exported model clamps by itself: what comes out of it is never outside.
    summary = {name: value for name, value in measured.sums.summary().items() if name != "clamped_share"}
    scenes = [store.scenes[index] for index in order]
    images = "all images" if part == "all" else f"the {part} split"
    description = (
        f"**{model.uri}**, a linear probe of {card.target} on {card.k} components of **{card.encoder}**, fitted on "
        f"{card.dataset} ({card.dataset_digest}), measured on {images} of **{store.name}** ({store.digest}), "
        f"{len(order)} images, under protocol {protocol.name} ({protocol.digest}): "
        f"{quality(summary, target)}."
    )
    context = "testing" if part == "all" else CONTEXTS[part]
    return RunReport(
        params={"num_images": len(order), "fitted_on": card.dataset, "k_read": card.k}
        | {"dataset_digest": store.digest, "protocol_digest": protocol.digest},
        metrics={f"{part}_{name}": value for name, value in summary.items()},
        figures={"per_scene.png": _per_scene(measured, scenes)} if target.kind == "depth" else {},
        panels=panels(measured.panels, target, limits, f"{card.encoder}, k = {card.k}"),
        tables={"per_image.json": per_image_table(store, order, measured)},
        datasets=(DatasetInput(store.name, store.digest, store.source, context, len(order), len(set(scenes))),),
        description=description + "".join(f"\n\n> {note}" for note in notes),
        tags={
            **model.tags,
            **dataset_tags(store, split, protocol),
            "model": model.uri,
            "target": target.name,
            "protocol": protocol.name,
            # Of those that were read: the other parts leave the test images alone.
            **(split.test_tags(store) if part in ("test", "all") else {}),
            "fitted_on_digest": card.dataset_digest,
            "fitted_protocol_digest": card.protocol_digest,
        },
    )


def _per_scene(measured: Evaluation, scenes: list[str]) -> Image:
    """Draw the mean RMSE of each scene's images, metres."""
    of_scene: dict[str, list[float]] = {}
    for scene, rmse in zip(scenes, measured.sums.per_image()["rmse"].tolist(), strict=True):
        if math.isfinite(rmse):
            of_scene.setdefault(scene, []).append(rmse)
    return charts.per_scene_error({scene: fmean(errors) for scene, errors in of_scene.items()})
