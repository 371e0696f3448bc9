"""A training from its settings to the report and the encoder to register."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from idl.data.loading import images_of
from idl.data.splits import Split
from idl.data.store import Store
from idl.distributed import World
from idl.encoders import Encoder, EncoderConfig, build
from idl.progress import Progress, silent
from idl.report import Run
from idl.reporting import TrainingFindings, training_report, training_version
from idl.training.config import TrainingConfig, resolved
from idl.training.curves import Recorder
from idl.training.loop import Trained, train
from idl.training.objective import Objective
from idl.training.result import TrainedWeights, weights_of

WEIGHTS, CARD = "weights.safetensors", "card.json"


@dataclass(frozen=True)
class TrainingRun:
    """A training that has ended: what to log and register, the weights with their card, and what to tell people."""

    run: Run
    weights: TrainedWeights
    encoder: Encoder
    notes: tuple[str, ...]


def run_training(
    objective: Objective,
    config: TrainingConfig,
    store: Store,
    split: Split,
    folder: Path,
    device: torch.device,
    *,
    command: str,
    source: str,
    world: World | None = None,
    recorder: Recorder | None = None,
    asked: Mapping[str, object] | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> TrainingRun | None:
    """Train, pack the weights, and build the encoder that a probe would read; None on all ranks but the first.

    folder: of the checkpoints. asked: as in `train`; logged, too.
    command: that trains the same again. source: where the weights come from, for people.
    Raises InputError as `train` does.
    """
    world = world or World()
    config = resolved(config, device)
    asked = asked or {}
    trained = train(
        objective,
        config,
        store,
        split,
        folder,
        device,
        world=world,
        recorder=recorder,
        asked=asked,
        resume=resume,
        progress=progress,
    )
    if not world.is_first:
        return None
    weights = weights_of(objective, trained, config, store, split, command)
    path = folder / WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(weights.safetensors)
    encoder = build(EncoderConfig(objective.encoder, weights=str(path), arithmetic=config.arithmetic), device)
    # The file is of this machine only.
    encoder.origin = replace(encoder.origin, source=source)
    findings = _findings(objective, config, asked, store, split, trained, encoder, weights)
    run = Run(training_report(findings), training_version(findings))
    return TrainingRun(run, weights, encoder, trained.notes)


def _findings(
    objective: Objective,
    config: TrainingConfig,
    asked: Mapping[str, object],
    store: Store,
    split: Split,
    trained: Trained,
    encoder: Encoder,
    weights: TrainedWeights,
) -> TrainingFindings:
    shown = split.indices["val"][0]
    rgb = store.read(("rgb",), [shown])["rgb"]
    with torch.inference_mode():
        image = images_of(torch.from_numpy(rgb).to(encoder.device))
        features = encoder(image)[0].cpu()
    return TrainingFindings(
        store=store,
        split=split,
        settings=asdict(config) | dict(objective.settings) | dict(asked),
        encoder=encoder,
        step=trained.step,
        num_steps=trained.num_steps,
        is_converged=trained.is_converged,
        metrics=trained.metrics,
        untrained=trained.untrained,
        images_per_s=trained.images_per_s,
        image_name=store.names[shown],
        rgb=rgb[0],
        features=features,
        files={WEIGHTS: weights.safetensors, CARD: weights.card},
    )
