"""The reports of a probe: of its own run, with its version in the registry, and of one measured on another dataset.

No number is computed here that decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from idl import __version__
from idl.data.splits import Split
from idl.data.store import Store
from idl.evaluate import Evaluation
from idl.fitting import PROBE, ArmFit
from idl.probe_config import EncodedData
from idl.probes.gradient_fit import TrainResult
from idl.probes.linear_probe import DepthModel, LinearProbe, ProbeCard
from idl.protocol import Protocol
from idl.report import Championship, DatasetInput, Image, ModelVersion, RunReport, charts
from idl.report.dataset import CONTEXTS, dataset_inputs
from idl.report.encoder import encoder_params, example, model_slug, origin_json, run_tags
from idl.report.views import panels, per_image_table, quality
from idl.targets import Target

Part = Literal["test", "val", "train", "all"]
# A k is enough where its cross-validated loss is within this share of the best.
ENOUGH = 0.01
# Of the metrics, those that are tags of the registered version.
TAGGED = ("rmse", "abs_rel", "delta1", "r2", "angle_mean_deg")


@dataclass(frozen=True)
class ProbeResult:
    """A probe that is fitted and measured, with its control arms. descent: of one trained by gradient descent."""

    data: EncodedData
    arms: Mapping[str, ArmFit]
    test: Evaluation
    descent: TrainResult | None = None

    @property
    def loss_over_null(self) -> float:
        """Test loss of the probe over that of the null arm on the same grid."""
        null = self.test.pooled_loss("null")
        return self.test.pooled_loss(PROBE) / null if null > 0 else float("nan")

    @property
    def smallest_k(self) -> int:
        """Smallest k whose cross-validated loss is within 1 % of the best."""
        return self.arms[PROBE].fit.curve.smallest_k_within(ENOUGH)


def probe_report(result: ProbeResult) -> RunReport:
    """Return everything that a probe's run leaves in MLflow, save the model."""
    data, test, descent = result.data, result.test, result.descent
    encoder, solution = data.encoder, result.arms[PROBE].fit.solution
    metrics = {
        "train_loss": solution.train_loss,
        "val_loss": solution.val_loss,
        # A probe by gradient descent is not cross-validated.
        **({} if descent else {"cv_loss": solution.cv_loss}),
        "test_loss": test.pooled_loss(PROBE),
        "loss_over_null": result.loss_over_null,
        "rank": solution.rank,
        "smallest_k_within_1_percent": result.smallest_k,
        **{f"test_{name}": value for name, value in test.sums.summary().items()},
    }
    for name, arm in result.arms.items():
        if name != PROBE:
            key = f"arms/{name.replace('+', '_')}"
            metrics[f"{key}_val_loss"] = arm.fit.solution.val_loss
            metrics[f"{key}_test_loss"] = test.pooled_loss(name)
            metrics |= {f"{key}_test_{each}": value for each, value in test.arm_errors[name].items()}
    if descent is not None:
        metrics |= {"excess_loss": descent.excess_loss, "best_epoch": descent.best_epoch}
    throughput = data.encoded.throughput
    if throughput.num_images:
        metrics["images_per_s"] = throughput.num_images / throughput.seconds
    metrics["encoded_images"] = throughput.num_images
    return RunReport(
        params={
            **encoder_params(encoder),
            "k_chosen": solution.k,
            "penalty": solution.penalty,
            **({"outcome": descent.outcome} if descent else {}),
            "num_test": len(data.split.indices["test"]),
            "encoder_digest": encoder.digest,
            "dataset_digest": data.store.digest,
            "split_digest": data.split.digest,
            "protocol_digest": data.protocol.digest,
        },
        metrics=metrics,
        curves={"train_loss": descent.train_losses, "val_loss": descent.val_losses} if descent else {},
        figures={"curves/loss_over_k.png": _loss_over_k(result), "arms/test_loss.png": _arms_chart(result)},
        panels=panels(test.panels, data.target, data.limits, f"{encoder.name}, k = {solution.k}"),
        tables={
            "curves/loss_over_k.csv": _curve_table(result),
            "arms/arms.csv": _arms_table(result),
            "per_image.json": per_image_table(data.store, data.split.indices["test"], test)
            | {f"loss_{name}": losses.tolist() for name, losses in test.losses.items()},
        },
        datasets=dataset_inputs(data.store, data.split),
        description=_description(result),
        tags={
            **run_tags(data.store, encoder),
            **_target_tags(data.target),
            "protocol": data.protocol.name,
            "protocol_digest": data.protocol.digest,
            "split_digest": data.split.digest,
            **data.split.test_tags(data.store),
            "basis_digest": data.encoded.basis.digest,
        },
    )


def probe_version(result: ProbeResult) -> ModelVersion:
    """Return the whole model on its way to the registry as `idl-<target>-<encoder>`."""
    data, test, arm = result.data, result.test, result.arms[PROBE]
    encoder, target, protocol, solution = data.encoder, data.target, data.protocol, arm.fit.solution
    conditions = {
        "dataset_digest": data.store.digest,
        "split_digest": data.split.digest,
        "protocol_digest": protocol.digest,
        # Two targets of one name from outside do not compete.
        **_target_tags(target),
    }
    tags = conditions | {
        "dataset": data.store.name,
        "scenes_digest": data.split.scenes_digest,
        "kind": target.kind,
        # Of its panels' colours, for pictures that are made with it.
        "shown_range": ",".join(f"{end:.4g}" for end in data.limits),
        "protocol": protocol.name,
        "encoder": encoder.name,
        "encoder_digest": encoder.digest,
        "weights": encoder.origin.weights,
        "task": encoder.origin.task,
        "k": str(solution.k),
        "val_loss": repr(solution.val_loss),
        "test_loss": repr(test.pooled_loss(PROBE)),
        "loss_over_null": repr(result.loss_over_null),
    }
    summary = test.sums.summary()
    tags |= {f"test_{name}": f"{summary[name]:.6g}" for name in TAGGED if name in summary}
    probe = linear_probe(data, arm.weights, solution.k, solution.penalty)
    range_m = (protocol.min_depth_m, protocol.max_depth_m) if target.kind == "depth" else None
    return ModelVersion(
        name=f"idl-{target.name}-{model_slug(encoder.name)}",
        module=DepthModel(encoder.exportable(), probe, target.decode, range_m).eval(),
        example=example(encoder),
        description=_description(result),
        tags=tags,
        files={
            "probe.safetensors": probe.to_bytes(),
            "protocol.json": protocol.to_json().encode(),
            "origin.json": origin_json(encoder),
        },
        championship=Championship(data.store.name, conditions, solution.val_loss),
    )


def linear_probe(data: EncodedData, weights: Float64[Tensor, "columns out"], k: int, penalty: float) -> LinearProbe:
    """Return the probe that reads `k` components, with the target's offset in the bias, which comes first."""
    card = ProbeCard(
        target=data.target.name,
        unit=data.target.unit,
        k=k,
        penalty=penalty,
        encoder=data.encoder.name,
        encoder_digest=data.encoder.digest,
        dataset=data.store.name,
        dataset_digest=data.store.digest,
        protocol_digest=data.protocol.digest,
        resolution=data.protocol.resolution,
        width=data.protocol.width,
        target_factory=data.config.target if data.target.identity else "",
        target_identity=data.target.identity,
    )
    basis, weights = data.encoded.basis, weights.float()
    return LinearProbe(basis.feature_mean, basis.projection[:, :k], weights[1 : 1 + k].T, weights[0], card)


def _target_tags(target: Target) -> dict[str, str]:
    return {"target": target.name} | ({"target_identity": target.identity} if target.identity else {})


def _loss_over_k(result: ProbeResult) -> Image:
    target, curve = result.data.target, result.arms[PROBE].fit.curve
    # k = 0 is the constant arm, which is drawn as a line; a logarithmic axis has no place for it.
    return charts.loss_over_k(
        curve.k[1:].tolist(),
        curve.train_loss[1:].tolist(),
        curve.cv_loss[1:].tolist(),
        chosen_k=max(1, result.arms[PROBE].fit.solution.k),
        test_loss_at_chosen=result.test.pooled_loss(PROBE),
        arms={name: arm.fit.solution.cv_loss for name, arm in result.arms.items() if name != PROBE},
        smallest_k_within=max(1, result.smallest_k),
        unit=target.unit,
        title=f"{target.name} from {result.data.encoder.name}: loss over k",
    )


def _arms_chart(result: ProbeResult) -> Image:
    encoder = f"{result.data.encoder.name} ({result.data.encoder.origin.weights})"
    labels = [encoder if name == PROBE else name for name in result.arms]
    losses = [result.test.pooled_loss(name) for name in result.arms]
    return charts.arms_chart(labels, losses, unit=result.data.target.unit, highlighted=encoder)


def _curve_table(result: ProbeResult) -> Mapping[str, Sequence[object]]:
    curve, chosen = result.arms[PROBE].fit.curve, result.arms[PROBE].fit.solution.k
    table = {name: getattr(curve, name).tolist() for name in ("k", "penalty", "train_loss", "val_loss", "cv_loss")}
    # The test split is read for the chosen k only.
    return table | {"test_loss": [result.test.pooled_loss(PROBE) if k == chosen else None for k in table["k"]]}


def _arms_table(result: ProbeResult) -> dict[str, list[object]]:
    rows = []
    for name, arm in result.arms.items():
        solution = arm.fit.solution
        row = {"arm": name, "columns": solution.k + 1 if name == PROBE else len(arm.columns)}
        row |= {key: getattr(solution, key) for key in ("rank", "penalty", "train_loss", "val_loss", "cv_loss")}
        row["test_loss"] = result.test.pooled_loss(name)
        rows.append(row | {f"test_{key}": value for key, value in result.test.arm_errors[name].items()})
    return {key: [row[key] for row in rows] for key in rows[0]}


def _description(result: ProbeResult) -> str:
    data, test, protocol = result.data, result.test, result.data.protocol
    encoder, target, fit = data.encoder, data.target, result.arms[PROBE].fit
    square = charts.squared(target.unit)
    unit = f" {square}" if square else ""
    # The headline is the protocol's average; the other one is among the metrics.
    headline = quality(test.sums.summary(), target, protocol.averaging)
    if target.kind == "depth" and protocol.is_native:
        headline += f"; {protocol.name}: at native size"
        if protocol.native_crop:
            top, bottom, left, right = protocol.native_crop
            headline += f", crop {top}:{bottom},{left}:{right}"
    sentences = [
        f"A linear probe on {fit.solution.k} of {encoder.channels} channels' components of **{encoder.name}** "
        f"({encoder.origin.architecture}, weights: {encoder.origin.weights}, stride {encoder.stride}) predicts "
        f"**{target.name}** on **{data.store.name}** with a test loss of {test.pooled_loss(PROBE):.4g}{unit} "
        f"({headline}).",
        f"That is {result.loss_over_null:.2f} times the loss of the null arm, which reads the downsampled image "
        f"on the same {data.encoded.grid[0]} x {data.encoded.grid[1]} grid "
        f"({test.pooled_loss('null'):.4g}{unit}), where a constant reaches {test.pooled_loss('constant'):.4g} "
        f"and position alone {test.pooled_loss('position'):.4g}{unit}.",
        f"Of the k tried, {result.smallest_k} components are enough to come within 1 % of the best "
        f"cross-validated loss ({float(fit.curve.cv_loss.min()):.4g}{unit}).",
    ]
    notes = [*data.store.notes, *filter(None, [encoder.origin.warning])]
    return " ".join(sentences) + "".join(f"\n\n> {note}" for note in notes)


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

    part: which images, `order` of the store; split: with the digests `EVERYTHING`, and all scenes tested, where part is
      "all". limits: of the panels' colours. notes: what a reader of the figures must know, a sentence each.
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
        f"{quality(summary, target, protocol.averaging)}."
    )
    context = "testing" if part == "all" else CONTEXTS[part]
    return RunReport(
        params={
            "num_images": len(order),
            "fitted_on": card.dataset,
            "k_read": card.k,
            "dataset_digest": store.digest,
            "protocol_digest": protocol.digest,
        },
        metrics={f"{part}_{name}": value for name, value in summary.items()},
        figures={"per_scene.png": _per_scene(measured, scenes)} if target.kind == "depth" else {},
        panels=panels(measured.panels, target, limits, f"{card.encoder}, k = {card.k}"),
        tables={"per_image.json": per_image_table(store, order, measured)},
        datasets=(DatasetInput(store.name, store.digest, store.source, context, len(order), len(set(scenes))),),
        description=description + "".join(f"\n\n> {note}" for note in notes),
        tags={
            **model.tags,
            "model": model.uri,
            "target": target.name,
            "dataset": store.name,
            "dataset_digest": store.digest,
            "protocol": protocol.name,
            "protocol_digest": protocol.digest,
            "split_digest": split.digest,
            # Of those that were read: the other parts leave the test images alone.
            **(split.test_tags(store) if part in ("test", "all") else {}),
            "fitted_on_digest": card.dataset_digest,
            "fitted_protocol_digest": card.protocol_digest,
            "idl.version": __version__,
        },
    )


def _per_scene(measured: Evaluation, scenes: list[str]) -> Image:
    """Draw the mean RMSE of each scene's images, metres."""
    rmse, of_image = measured.sums.per_image()["rmse"], np.array(scenes)
    known = np.isfinite(rmse)
    names = list(dict.fromkeys(of_image[known].tolist()))
    return charts.per_scene_error(names, [float(rmse[known & (of_image == name)].mean()) for name in names])
