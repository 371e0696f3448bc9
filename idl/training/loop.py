"""The one training loop, and its settings: steps, validations, checkpoints, an end at convergence."""

import itertools
import math
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from idl.data.splits import Split
from idl.data.store import Store
from idl.distributed import ALONE, World
from idl.encoders.base import Arithmetic
from idl.errors import InputError
from idl.probes.gradient_fit import rate_at
from idl.progress import Progress, silent
from idl.protocol import Protocol as ImageProtocol
from idl.report import Image
from idl.settings import setting
from idl.training.checkpoints import Checkpoints, Interruption, TrainingState, interruptible
from idl.training.images import Batch, TrainingImages, ValidationImages, evenly, to_network
from idl.training.objectives import Objective

# Validations where their distance is not given.
VALIDATIONS = 20
# Steps whose points go out in one request: it takes a tracking server 10 ms, a step of a small network 100.
STEPS_A_REQUEST = 10


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training besides the network and the dataset. Raises InputError for what cannot be.

    accumulate: the gradient is the same. clip, lr: above 0.
    lr: AdamW's; it falls to 0 along a half cosine once it has risen. weight_decay: of matrices and kernels; vectors
      (biases, norms, scales) have none.
    flip: mirror half the images.
    arithmetic: bfloat16 is autocast, with float32 weights.
    """

    epochs: float = setting(20.0, "Passes over the training split, if it does not converge before.")
    batch_size: int = setting(32, "Images a step, on all ranks together.", at_least=1)
    accumulate: int = setting(1, "Parts that a batch is cut into, to save memory.", at_least=1)
    crop: int = setting(0, "Side of random square crops, pixels; 0: whole images.", at_least=0)
    flip: bool = True
    lr: float = setting(1e-3, "AdamW's learning rate at its highest.")
    weight_decay: float = setting(0.05, "AdamW's weight decay.", at_least=0)
    warmup: float = setting(0.05, "Share of the steps over which the learning rate rises.", at_least=0)
    clip: float = setting(1.0, "Largest norm of the gradient; a longer one is scaled down.")
    validate_every: int = setting(0, "Steps between validations; 0: twenty validations in all.", at_least=0)
    val_images: int = setting(256, "Validation images, spread evenly, at most.", at_least=1)
    patience: int = setting(5, "Validations without gain after which the training has converged.", at_least=1)
    min_gain: float = setting(0.002, "Share by which the validation loss must fall to count as a gain.", at_least=0)
    checkpoint_minutes: float = setting(5.0, "Time between two checkpoints, minutes.", at_least=0)
    seed: int = setting(0, "Seed of weights, order, crops and mirror images.", at_least=0)
    arithmetic: Arithmetic = setting("float32", "Arithmetic of the products; bfloat16 is faster on some processors.")

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), field.metadata.get("at_least")
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{field.name}={value}: expected a finite number.")
            if least is not None and value < least:
                raise InputError(f"{field.name}={value}: expected {least:g} or more.")
            if field.name in ("epochs", "lr", "clip") and value <= 0:
                raise InputError(f"{field.name}={value}: expected more than 0.")
            if field.name in ("warmup", "min_gain") and value >= 1:
                raise InputError(f"{field.name}={value}: expected a share below 1.")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate={self.accumulate}: does not divide batch_size={self.batch_size}. Pass a divisor of it."
            )


# Defaults of the two commands. Each takes half an hour on one core; benchmarks/README.md has what was tried.
AUTOENCODER = TrainingConfig(epochs=20.0, crop=64, lr=3e-3, weight_decay=0.01, val_images=96)
PRETRAIN = TrainingConfig(epochs=15.0, batch_size=16, crop=128, lr=2e-3, val_images=240)


class DivergedError(InputError):
    """The loss is no number any more, or never fell below that of the untrained network."""


class Recorder(Protocol):
    """What a training logs with."""

    def log_curves(self, curves: Mapping[str, Mapping[int, float]]) -> None:
        """Write points of curves, in one request: by name and step."""

    def log_panels(self, panels: Mapping[str, Image], step: int) -> None:
        """Write one step of pictures."""


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    weights: those with the lowest validation loss, on the CPU. metrics: what `Objective.evaluate` gives for them.
    step, num_steps: steps done, and those that were planned. is_converged: it ended before its last step.
    untrained: metrics before the first step.
    images_per_s: of the training steps since it was begun or resumed, all ranks together; None where there was none.
    """

    weights: Mapping[str, Tensor]
    step: int
    num_steps: int
    is_converged: bool
    metrics: Mapping[str, float]
    untrained: Mapping[str, float]
    images_per_s: float | None


def require_size(objective: Objective, config: TrainingConfig, protocol: ImageProtocol) -> None:
    """Raise InputError where the images are not square, or the network takes none of their size or of the crop's."""
    resolution = protocol.resolution
    if protocol.width != protocol.resolution:
        raise InputError(
            f"protocol={protocol.name}: a training takes square images, and these have {resolution} x "
            f"{protocol.width} pixels. Pass protocol=idl."
        )
    if config.crop > resolution:
        raise InputError(f"crop={config.crop}: the images have {resolution} x {resolution} pixels. Pass less, or 0.")
    objective.require(resolution)
    try:
        objective.require(config.crop or resolution)
    except InputError as error:
        raise InputError(f"crop={config.crop}: {error}") from error


def require_data(
    objective: Objective, config: TrainingConfig, dataset: str, layers: Collection[str], num_images: int, num_ranks: int
) -> None:
    """Raise InputError where the dataset lacks a layer that the loss needs, or its training images make no batch.

    dataset: name or path, for people. num_images: of the training split.
    """
    for layer in objective.layers:
        if layer not in layers:
            have = ", ".join(layers)
            raise InputError(f"{dataset}: no layer {layer!r}, which {objective.task} learns from. It has: {have}.")
    if num_images < config.batch_size:
        raise InputError(f"batch_size={config.batch_size}: the training split has {num_images} images. Pass less.")
    if config.batch_size % (num_ranks * config.accumulate):
        raise InputError(
            f"batch_size={config.batch_size}: {num_ranks} ranks times accumulate={config.accumulate} do not divide it. "
            f"Pass a multiple of {num_ranks * config.accumulate}."
        )


def settings_of(objective: Objective, config: TrainingConfig) -> dict[str, object]:
    """Return all that decides the weights beside the dataset; how often a checkpoint is written does not."""
    settings = asdict(config) | dict(objective.settings) | {"task": objective.task}
    del settings["checkpoint_minutes"]
    return settings


def train(
    objective: Objective,
    config: TrainingConfig,
    store: Store,
    split: Split,
    folder: Path,
    device: torch.device,
    *,
    settings: Mapping[str, object] | None = None,
    world: World = ALONE,
    recorder: Recorder | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Trained:
    """Train `objective` on the training split until its steps are done or it has converged.

    Equal settings give equal weights, bit for bit on the CPU, interrupted or not.

    folder: of this training's checkpoints. resume: go on from the newest, with the same settings.
    settings: further ones that must be the same then, of the dataset and the split.
    world: all ranks call this alike; they share each batch, and rank 0 validates, logs and writes.

    Raises InputError where dataset, network and settings do not suit each other or a checkpoint's, and DivergedError,
    which names the last good checkpoint. On Ctrl-C and SIGTERM a checkpoint is written after the step, and the signal
    goes on to its handler.
    """
    train_images, layers = split.indices["train"], objective.layers
    require_size(objective, config, store.protocol)
    require_data(objective, config, str(store.path), store.layers, len(train_images), world.size)
    crop = 0 if config.crop == store.protocol.resolution else config.crop
    val_crop = config.crop if objective.depends_on_frame else 0
    val_images = evenly(split.indices["val"], config.val_images)
    digests = {"dataset_digest": store.digest, "split_digest": split.digest}
    loop = _Loop(
        objective,
        config,
        TrainingImages(store, train_images, layers, config.batch_size, crop, config.flip, config.seed),
        ValidationImages(store, val_images, layers, min(32, config.batch_size), val_crop, device),
        settings_of(objective, config) | dict(settings or {}) | digests,
        Checkpoints(folder),
        device,
        world,
        recorder,
    )
    if resume:
        loop.resume()
    with interruptible() as interruption, progress("train", loop.num_steps, loop.state.step, "step") as advance:
        loop.run(interruption, advance)
    state = loop.state
    return Trained(
        weights=state.best_state,
        step=state.step,
        num_steps=loop.num_steps,
        is_converged=loop.is_converged and state.step < loop.num_steps,
        metrics=state.best,
        untrained=state.untrained,
        images_per_s=loop.num_logged * config.batch_size / loop.logged_s if loop.num_logged else None,
    )


@dataclass
class _Loop:
    """One training in this process."""

    objective: Objective
    config: TrainingConfig
    images: TrainingImages
    validation: ValidationImages
    settings: Mapping[str, object]
    checkpoints: Checkpoints
    device: torch.device
    world: World
    recorder: Recorder | None

    def __post_init__(self) -> None:
        config = self.config
        self.num_steps = max(1, round(config.epochs * self.images.steps_per_epoch))
        self.validate_every = config.validate_every or max(1, self.num_steps // VALIDATIONS)
        self.module = self.objective.module.to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.forward = self.module
        if self.world.size > 1:
            devices = [self.device.index] if self.device.type == "cuda" else None
            self.forward = nn.parallel.DistributedDataParallel(self.module, device_ids=devices)
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, fused=True)
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=config.arithmetic == "bfloat16")
        self.state = TrainingState()
        # Losses and learning rates of the steps that are not logged yet, and their time.
        self.pending: list[tuple[Tensor, float]] = []
        self.pending_s = 0.0
        self.logged_s, self.num_logged = 0.0, 0

    def resume(self) -> None:
        """Go on from the newest checkpoint."""
        # Read once: ranks that each found another file damaged would go on from different steps.
        content, _ = self.world.once(lambda: self.checkpoints.newest(self.settings))
        self.module.load_state_dict(content["module"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.state = TrainingState(**content["state"])

    def run(self, interruption: Interruption, advance: Callable[[int], None]) -> None:
        """Do one step after the other until the end, convergence or an interruption."""
        state, world = self.state, self.world
        if not state.untrained:
            state.untrained = self.validate()
            state.best, state.gained = dict(state.untrained), state.untrained["loss"]
        saved = time.monotonic()
        with closing(self.images.stream(state.step, world.rank, world.size)) as stream:
            while state.step < self.num_steps and not self.is_converged:
                start = time.perf_counter()
                rate = self.config.lr * rate_at(state.step, self.num_steps, self.config.warmup)
                self.pending.append((self.do_step(next(stream), rate), rate))
                state.step += 1
                self.pending_s += time.perf_counter() - start
                is_end = state.step == self.num_steps
                is_validated = is_end or state.step % self.validate_every == 0
                if is_validated or state.step % STEPS_A_REQUEST == 0:
                    self.log_steps()
                if is_validated:
                    self.compare(self.validate())
                advance(1)
                is_due = time.monotonic() - saved >= 60 * self.config.checkpoint_minutes
                # A signal that one rank was sent is all of theirs: none may take the training for a whole one.
                votes = world.gather((interruption.number, is_due))
                number = next((number for number, _ in votes if number is not None), None)
                if number is not None or votes[0][1] or is_end or self.is_converged:
                    # Weights are kept only after losses that are numbers.
                    self.log_steps()
                    self.save()
                    saved = time.monotonic()
                if number is not None:
                    interruption.number = number
                    # torchrun ends the others as soon as one has left: not before the checkpoint is written.
                    world.barrier()
                    return

    @property
    def is_converged(self) -> bool:
        """Whether the last validations were without gain."""
        return self.state.validations_without_gain >= self.config.patience

    def do_step(self, batch: Batch, rate: float) -> Tensor:
        """Do a step at a learning rate; return its loss, or its gradient's norm where that is no finite number."""
        accumulate = self.config.accumulate
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if not self.module.training:
            self.module.train()
        total = torch.zeros((), device=self.device)
        parts = [torch.chunk(tensor, accumulate) for tensor in batch.values()]
        for number, part in enumerate(zip(*parts, strict=True), start=1):
            moved = to_network(dict(zip(batch, part, strict=True)), self.device)
            moved = self.objective.prepared(moved, self.state.step * accumulate + number)
            waits = isinstance(self.forward, nn.parallel.DistributedDataParallel) and number < accumulate
            with self.forward.no_sync() if waits else nullcontext():  # pyright: ignore[reportCallIssue]
                with self.autocast:
                    output = self.forward(moved["rgb"])
                loss = self.objective.loss(output, moved) / accumulate
                loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        # A finite loss may have a gradient that is none, and its step spoils the weights as well.
        return torch.where(norm.isfinite(), total, norm)

    def log_steps(self) -> None:
        """Log the steps since the last call. Raises DivergedError where a loss is no finite number."""
        if not self.pending:
            return
        start = time.perf_counter()
        tensors, rates = zip(*self.pending, strict=True)
        # Means over the ranks. Waits for the device, so that the clock stops when the steps are done.
        losses = (self.world.sum(torch.stack(tensors).double()) / self.world.size).tolist()
        seconds = self.pending_s + time.perf_counter() - start
        self.pending, self.pending_s = [], 0.0
        self.logged_s += seconds
        self.num_logged += len(losses)
        last = self.state.step
        steps = range(last - len(losses) + 1, last + 1)
        if self.recorder is not None:
            curves = {"train_loss": losses, "lr": rates}
            points = {name: dict(zip(steps, values, strict=True)) for name, values in curves.items()}
            throughput = {last: len(losses) * self.config.batch_size / seconds}
            self.recorder.log_curves({**points, "images_per_s": throughput})
        for step, loss in zip(steps, losses, strict=True):
            if not np.isfinite(loss):
                raise self.diverged(f"the training loss, or its gradient, is {loss}", step)

    def validate(self) -> dict[str, float]:
        """Return, and log, the metrics of the validation images."""
        step, objective, validation = self.state.step, self.objective, self.validation
        prepared = map(objective.prepared, validation.batches(), itertools.count())
        metrics = self.world.once(lambda: dict(objective.evaluate(self.predict, prepared)))
        if self.recorder is not None:
            shown = objective.prepared(validation.shown(), 0)
            self.recorder.log_panels(objective.panels(self.predict, shown), step)
            self.recorder.log_curves({f"val_{name}": {step: value} for name, value in metrics.items()})
        return metrics

    def predict(self, rgb: Tensor) -> Tensor:
        """Return the module's output as it is used, not trained."""
        self.module.eval()
        with torch.inference_mode(), self.autocast:
            return self.module(rgb)

    def compare(self, metrics: dict[str, float]) -> None:
        """Keep the weights where they are the best, and count validations without gain. Raises DivergedError."""
        state = self.state
        loss, best, untrained = metrics["loss"], state.best["loss"], state.untrained["loss"]
        if not np.isfinite(loss):
            raise self.diverged(f"the validation loss is {loss}")
        if state.best_state and loss > untrained:
            raise self.diverged(f"the validation loss is {loss:.4g}, after {best:.4g}, and {untrained:.4g} untrained")
        if loss < best:
            state.best = metrics
            state.best_state = {k: v.detach().cpu().clone() for k, v in self.module.state_dict().items()}
        # Against the last gain, not the validation before: many small steps down add up to one.
        if loss < state.gained - self.config.min_gain * abs(state.gained):
            state.gained, state.validations_without_gain = loss, 0
        else:
            state.validations_without_gain += 1
        if not state.best_state and (self.is_converged or state.step == self.num_steps):
            raise self.diverged(f"the validation loss is {loss:.4g}, and was never below the untrained {best:.4g}")

    def save(self) -> None:
        """Write a checkpoint, on the first rank."""
        if self.world.is_first:
            networks = {"module": self.module.state_dict(), "optimiser": self.optimiser.state_dict()}
            state = dict(vars(self.state))
            self.checkpoints.save(self.state.step, {"settings": self.settings, "state": state, **networks})

    def diverged(self, reason: str, step: int | None = None) -> DivergedError:
        """Return the error, which names the last checkpoint."""
        kept = "There is no checkpoint yet"
        for path in self.checkpoints.paths():
            kept = f"The checkpoint of step {int(path.stem.removeprefix('step-'))} is kept in {path.parent}"
        return DivergedError(
            f"training diverged at step {step or self.state.step}: {reason}. {kept}. "
            f"Train with a lower lr than {self.config.lr:g}, or a longer warmup."
        )
