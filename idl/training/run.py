"""A training from its request to the report, the weights with their card, and the encoder to register."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save

from idl import __version__
from idl.data.datasets import ALWAYS, DatasetConfig, layers_of
from idl.data.datasets import reader as find_reader
from idl.data.splits import Split, require_rule, split_by_scene, split_store
from idl.data.store import Store
from idl.distributed import ALONE, World, this_process
from idl.encoders import Encoder, EncoderConfig, build
from idl.errors import InputError
from idl.progress import Progress, silent
from idl.report import Run
from idl.report.encoder import described_run
from idl.training.checkpoints import Checkpoints
from idl.training.loop import Recorder, Trained, TrainingConfig, require_data, require_size, settings_of, train
from idl.training.objectives import Objective

WEIGHTS, CARD = "weights.safetensors", "card.json"


@dataclass(frozen=True)
class TrainingRequest:
    """All that a training is asked for.

    split, split_seed: as of `split_by_scene`. command: that trains the same again, for the card.
    """

    objective: Objective
    config: TrainingConfig
    dataset: DatasetConfig
    split: str = "auto"
    split_seed: int = 0
    command: str = ""

    def dataset_settings(self) -> dict[str, object]:
        """Return the settings that decide which images are trained on."""
        settings = asdict(self.dataset) | {"split": self.split, "split_seed": self.split_seed}
        del settings["download"]
        return settings


def require_trainable(request: TrainingRequest, resume: Path | None = None) -> tuple[str, ...]:
    """Check, before there is a run and before the dataset is made, all that can be known; return notes for people.

    resume: folder of the checkpoints to go on from.
    Raises InputError where network, settings, dataset and checkpoint do not suit each other.
    """
    objective, config, dataset = request.objective, request.config, request.dataset
    require_rule(request.split)
    if dataset.dataset.endswith(".h5"):
        store = Store.open(Path(dataset.dataset).expanduser())
        require_size(objective, config, store.protocol)
        layers, scenes, is_sequential, sides = store.layers, store.scenes, store.is_sequential, store.sides
    else:
        require_size(objective, config, dataset.build_protocol())
        reader = find_reader(dataset)
        scenes = tuple(group.scene for group in reader.groups for _ in group.names)
        # The published split is known when the dataset is prepared, and looked at then.
        is_sequential, sides = reader.is_sequential, ()
        # A sample takes a second of rooms.
        layers = ALWAYS if set(objective.layers) <= set(ALWAYS) else layers_of(dataset)
    split = split_by_scene(scenes, request.split, seed=request.split_seed, is_sequential=is_sequential, sides=sides)
    num_images = len(split.indices["train"])
    require_data(objective, config, f"dataset={dataset.dataset}", layers, num_images, this_process().size)
    if resume is None or not this_process().is_first:
        return ()
    return Checkpoints(resume).newest(settings_of(objective, config) | request.dataset_settings())[1]


def run_training(
    request: TrainingRequest,
    store: Store,
    folder: Path,
    device: torch.device,
    *,
    source: str,
    world: World = ALONE,
    recorder: Recorder | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> tuple[Run, Encoder] | None:
    """Train; return what to log and register, with weights and card as files, and the encoder that a probe would read.

    None on all ranks but the first.

    store: the dataset of the request. folder: of the checkpoints. source: where the weights come from, for people.
    Raises InputError as `train` does, and where a weight is too large for half precision.
    """
    objective, config = request.objective, request.config
    split = split_store(store, request.split, request.split_seed)
    trained = train(
        objective,
        config,
        store,
        split,
        folder,
        device,
        settings=request.dataset_settings(),
        world=world,
        recorder=recorder,
        resume=resume,
        progress=progress,
    )
    if not world.is_first:
        return None
    weights = _weights_of(objective, trained, store, config.seed)
    path = folder / WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(weights)
    encoder = build(EncoderConfig(objective.encoder, weights=str(path), arithmetic=config.arithmetic), device)
    # The file is of this machine only.
    encoder.origin = replace(encoder.origin, source=source)
    files = {WEIGHTS: weights, CARD: _card_of(request, trained, store, split)}
    return _run_of(request, trained, store, split, encoder, files), encoder


def _run_of(
    request: TrainingRequest,
    trained: Trained,
    store: Store,
    split: Split,
    encoder: Encoder,
    files: Mapping[str, bytes],
) -> Run:
    """Return the kept weights' figures beside the untrained network's and a panel of feature maps; and the version.

    The curves were logged while it trained.
    """
    metrics = {f"best_val_{name}": value for name, value in trained.metrics.items()}
    metrics |= {f"untrained_val_{name}": value for name, value in trained.untrained.items()}
    metrics["num_steps"] = trained.step
    if trained.images_per_s is not None:
        metrics["images_per_s_overall"] = trained.images_per_s
    end = f"It ended after all of its {trained.step} steps"
    if trained.is_converged:
        end = f"It had converged after {trained.step} of {trained.num_steps} steps"
    pairs = ((name, value, trained.untrained[name]) for name, value in trained.metrics.items())
    named = ", ".join(f"{name.replace('_', ' ')} {kept:.4g} (untrained {first:.4g})" for name, kept, first in pairs)
    description = (
        f"**{encoder.name}** ({encoder.origin.architecture}), trained for {encoder.origin.task} on "
        f"{len(split.indices['train'])} images of {store.name} ({store.source}). {end}. "
        f"On {len(split.scenes['val'])} validation scenes: {named}."
    )
    tags = {"converged": str(trained.is_converged).lower()}
    config = settings_of(request.objective, request.config) | request.dataset_settings()
    return described_run(store, split, encoder, description, metrics, tags, config, files)


def _weights_of(objective: Objective, trained: Trained, store: Store, seed: int) -> bytes:
    """Return the weights in half precision, as a safetensors file that says how its network is built."""
    tensors = {}
    for name, tensor in trained.weights.items():
        half = tensor.half()
        if not bool(half.isfinite().all()):
            raise InputError(f"{name}: a weight is too large for half precision. Train with more weight_decay.")
        tensors[objective.published(name)] = half.contiguous()
    metadata = {
        "format": "pt",
        "task": objective.task,
        "architecture": objective.architecture,
        "config": json.dumps(objective.arguments, sort_keys=True),
        "dataset": store.name,
        "dataset_digest": store.digest,
        "seed": str(seed),
    }
    return save(tensors, metadata)


def _card_of(request: TrainingRequest, trained: Trained, store: Store, split: Split) -> bytes:
    """Return the JSON that says how to make the weights again."""
    objective = request.objective
    card = {
        "summary": f"{objective.architecture}, {objective.purpose}",
        "task": objective.task,
        "command": request.command,
        "dataset": store.source,
        "dataset_digest": store.digest,
        "split_digest": split.digest,
        "num_images": len(split.indices["train"]),
        "seed": request.config.seed,
        "steps": trained.step,
        "validation": {name: float(f"{value:.6g}") for name, value in trained.metrics.items()},
        "validation_untrained": {name: float(f"{value:.6g}") for name, value in trained.untrained.items()},
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "idl": __version__,
            "python": platform.python_version(),
            **{name: version(name).partition("+")[0] for name in ("torch", "timm", "numpy")},
        },
    }
    return (json.dumps(card, indent=1) + "\n").encode()
