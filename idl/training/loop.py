"""The one training loop: steps, looks at the validation split, checkpoints, an end at convergence."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from idl.data.splits import Split
from idl.data.store import Store
from idl.distributed import World
from idl.progress import Progress, silent
from idl.schedule import rate_at
from idl.training.checkpoints import Checkpoints
from idl.training.checks import (
    digests_of,
    newest,
    require_batches,
    require_layers,
    require_same,
    require_size,
    settings_of,
)
from idl.training.config import TrainingConfig, resolved
from idl.training.curves import STEPS_A_LINE, Curves, Recorder
from idl.training.images import Batch, TrainingImages, to_network
from idl.training.interruption import Interruption, noticed
from idl.training.looks import Validation
from idl.training.objective import Objective
from idl.training.standing import DivergedError, Standing, Trained

# Looks at the validation split where their distance is not given.
LOOKS = 20
# Ranks that take longer for a step ask each other after every one whether to stop.
LONG_STEP_S = 0.5


@dataclass
class _Line:
    """Steps whose points are not written yet."""

    losses: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    seconds: float = 0.0


def train(
    objective: Objective,
    config: TrainingConfig,
    store: Store,
    split: Split,
    folder: Path,
    device: torch.device,
    *,
    world: World | None = None,
    recorder: Recorder | None = None,
    asked: Mapping[str, object] | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Trained:
    """Train `objective` on the training split until its steps are done or it has converged.

    asked: what the dataset and the split were asked for with, by name, for the message where it differs at a resume.
    folder: of this training's checkpoints. resume: go on from the newest, with the same settings.
    world: all ranks call this alike; they share each batch, and rank 0 validates, logs and writes.

    Equal settings give equal weights, bit for bit on the CPU, interrupted or not.

    Raises InputError: the split has less images than a batch; the crop or the images do not suit the network; the
    checkpoint is of other settings, or there is none; DivergedError, which names the last good checkpoint. On Ctrl-C
    and SIGTERM a checkpoint is written after the step, and the signal goes on to its handler.
    """
    world = world or World()
    config = resolved(config, device)
    images = _images(objective, config, store, split, world)
    num_steps = max(1, round(config.epochs * images.steps_per_epoch))
    run = _Run(
        objective, config, store, split, images, num_steps, Checkpoints(folder), device, world, recorder, asked or {}
    )
    notes = run.restore(resume)
    with noticed() as interruption, progress("train", num_steps, run.standing.step, "step") as advance:
        for _ in run.steps(interruption):
            advance(1)
    return run.result(notes)


def _images(objective: Objective, config: TrainingConfig, store: Store, split: Split, world: World) -> TrainingImages:
    resolution = store.protocol.resolution
    require_size(objective, config, store.protocol)
    require_layers(objective, store.layers, str(store.path))
    require_batches(config, len(split.indices["train"]), world.size)
    return TrainingImages(
        store,
        split.indices["train"],
        objective.layers,
        config.batch_size,
        0 if config.crop == resolution else config.crop,
        config.flip,
        config.seed,
    )


class _Run:
    """One training in this process."""

    def __init__(
        self,
        objective: Objective,
        config: TrainingConfig,
        store: Store,
        split: Split,
        images: TrainingImages,
        num_steps: int,
        checkpoints: Checkpoints,
        device: torch.device,
        world: World,
        recorder: Recorder | None,
        asked: Mapping[str, object],
    ) -> None:
        self.standing = Standing()
        self._objective = objective
        self._config = config
        self._store = store
        self._images = images
        self._num_steps = num_steps
        self._checkpoints = checkpoints
        self._device = device
        self._world = world
        self._recorder = recorder
        self._curves = Curves(recorder)
        self._look_every = config.validate_every or max(1, num_steps // LOOKS)
        self._validation = Validation.spread(
            objective,
            store,
            split.indices["val"],
            config.val_images,
            min(32, config.batch_size),
            config.crop if objective.depends_on_frame else 0,
            device,
        )
        self._settings = settings_of(objective, config, asked) | digests_of(store, split)
        self._module = objective.module.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._forward = _distributed(self._module, device, world)
        self._optimiser = _optimiser(self._module, config)
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.arithmetic == "bfloat16")
        self._votes_each_step = True
        self._seconds, self._num_timed = 0.0, 0

    def restore(self, resume: bool) -> tuple[str, ...]:
        """Begin, or go on from the newest checkpoint; return what people should know."""
        if not resume:
            return ()
        # Read once: ranks that each found another file damaged would go on from different steps.
        state, notes = self._world.once(lambda: newest(self._checkpoints.folder))
        require_same(state["settings"], self._settings)
        self._module.load_state_dict(state["module"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.standing = Standing(**state["standing"])
        self._curves = Curves(self._recorder, is_resumed=True)
        return notes

    def steps(self, interruption: Interruption) -> Iterator[int]:
        """Do one step after the other until the end, convergence or an interruption; yield its number."""
        standing = self.standing
        if not standing.untrained:
            standing.untrained = self._evaluated()
            standing.best = dict(standing.untrained)
            standing.gained = standing.untrained["loss"]
            self._log_look(standing.untrained)
        saved = time.monotonic()
        line = _Line()
        with closing(self._images.stream(standing.step, self._world.rank, self._world.size)) as stream:
            while standing.step < self._num_steps and not self._is_converged:
                start = time.perf_counter()
                line.rates.append(self._set_rate())
                line.losses.append(self._step(next(stream)))
                standing.step += 1
                is_end = standing.step == self._num_steps
                is_look = is_end or standing.step % self._look_every == 0
                is_line = is_look or standing.step % STEPS_A_LINE == 0
                line.seconds += time.perf_counter() - start
                if is_line:
                    self._end_line(line)
                    line = _Line()
                if is_look:
                    self._look()
                yield standing.step
                is_due = time.monotonic() - saved >= 60 * self._config.checkpoint_minutes
                stops, saves = self._agreed(interruption, is_due, is_line)
                if saves or stops or is_end or self._is_converged:
                    if line.losses:
                        # Weights are kept only after losses that are numbers.
                        self._end_line(line)
                        line = _Line()
                    self._save()
                    saved = time.monotonic()
                if stops:
                    # torchrun ends the others as soon as one has left: not before the checkpoint is written.
                    self._world.barrier()
                    return

    def result(self, notes: tuple[str, ...]) -> Trained:
        """The best weights, and how they came about."""
        standing = self.standing
        return Trained(
            state=standing.best_state,
            step=standing.step,
            num_steps=self._num_steps,
            is_converged=self._is_converged and standing.step < self._num_steps,
            metrics=standing.best,
            untrained=standing.untrained,
            images_per_s=self._num_timed * self._config.batch_size / self._seconds if self._num_timed else None,
            notes=notes,
        )

    @property
    def _is_converged(self) -> bool:
        return self.standing.looks_without_gain >= self._config.patience

    def _set_rate(self) -> float:
        """Set, and return, the learning rate of the next step."""
        rate = self._config.lr * rate_at(self.standing.step, self._num_steps, self._config.warmup)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        return rate

    def _step(self, batch: Batch) -> Tensor:
        """Do a step; return its loss, or what says that there was none."""
        config = self._config
        if not self._module.training:
            self._module.train()
        total = torch.zeros((), device=self._device)
        parts = [torch.chunk(tensor, config.accumulate) for tensor in batch.values()]
        for number, part in enumerate(zip(*parts, strict=True)):
            moved = to_network(dict(zip(batch, part, strict=True)), self._device)
            waits = isinstance(self._forward, nn.parallel.DistributedDataParallel) and number + 1 < config.accumulate
            with self._forward.no_sync() if waits else nullcontext():  # pyright: ignore[reportCallIssue]
                with self._autocast:
                    output = self._forward(moved["rgb"])
                loss = self._objective.loss(output, moved) / config.accumulate
                loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self._module.parameters(), config.clip)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        # A finite loss may have a gradient that is none, and its step spoils the weights as well.
        return torch.where(norm.isfinite(), total, norm)

    def _end_line(self, line: _Line) -> None:
        """Write the points of a line. Raises DivergedError where a loss is no finite number."""
        start = time.perf_counter()
        # Means over the ranks. Waits for the device, so that the clock stops when the steps are done.
        losses = (self._world.sum(torch.stack(line.losses).double()) / self._world.size).tolist()
        seconds = line.seconds + time.perf_counter() - start
        self._seconds += seconds
        self._num_timed += len(losses)
        self._curves.line(losses, line.rates, len(losses) * self._config.batch_size / seconds, self.standing.step)
        for step, loss in enumerate(losses, self.standing.step - len(losses) + 1):
            if not np.isfinite(loss):
                raise self._diverged(f"the training loss, or its gradient, is {loss}", step)

    def _look(self) -> None:
        """Measure on the validation split, and note whether that was a gain."""
        standing, config = self.standing, self._config
        metrics = self._evaluated()
        self._log_look(metrics)
        loss, best = metrics["loss"], standing.best["loss"]
        untrained = standing.untrained["loss"]
        if not np.isfinite(loss):
            raise self._diverged(f"the validation loss is {loss}")
        if standing.best_state and loss > untrained:
            raise self._diverged(f"the validation loss is {loss:.4g}, after {best:.4g}, and {untrained:.4g} untrained")
        if loss < best:
            standing.best = metrics
            standing.best_state = {k: v.detach().cpu().clone() for k, v in self._module.state_dict().items()}
        # Against the last gain, not the look before: many small steps down add up to one.
        if loss < standing.gained - config.min_gain * abs(standing.gained):
            standing.gained, standing.looks_without_gain = loss, 0
        else:
            standing.looks_without_gain += 1
        if not standing.best_state and (self._is_converged or standing.step == self._num_steps):
            raise self._diverged(f"the validation loss is {loss:.4g}, and was never below the untrained {best:.4g}")

    def _agreed(self, interruption: Interruption, is_due: bool, is_line: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save, the same on all ranks, who ask each other once a line.

        A signal that one of them was sent is all of theirs: none may take an interrupted training for a whole one.
        """
        if self._world.size == 1:
            return interruption.number is not None, is_due
        # torchrun kills half a minute after its signal: long steps, and the first ones, are asked about one by one.
        if not is_line and not self._votes_each_step:
            return False, False
        votes = self._world.gather((interruption.number, is_due, self._seconds >= LONG_STEP_S * self._num_timed))
        number = next((number for number, _, _ in votes if number is not None), None)
        self._votes_each_step = any(is_long for _, _, is_long in votes)
        if number is not None:
            interruption.number = number
        return number is not None, votes[0][1]

    def _evaluated(self) -> dict[str, float]:
        return self._world.once(lambda: self._validation.measure(self._predict))

    def _predict(self, rgb: Tensor) -> Tensor:
        self._module.eval()
        with torch.inference_mode(), self._autocast:
            return self._module(rgb)

    def _log_look(self, metrics: Mapping[str, float]) -> None:
        self._curves.look(metrics, lambda: self._validation.panels(self._predict), self.standing.step)

    def _save(self) -> None:
        if self._world.is_first:
            state = {
                "settings": self._settings,
                "module": self._module.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "standing": dict(vars(self.standing)),
            }
            self._checkpoints.save(self.standing.step, state)

    def _diverged(self, reason: str, step: int | None = None) -> DivergedError:
        state, _ = self._checkpoints.load()
        kept = "There is no checkpoint yet"
        if state is not None:
            kept = f"The checkpoint of step {state['standing']['step']} is kept in {self._checkpoints.folder}"
        return DivergedError(
            f"training diverged at step {step or self.standing.step}: {reason}. {kept}. "
            f"Train with a lower lr than {self._config.lr:g}, or a longer warmup."
        )


def _optimiser(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, fused=True)


def _distributed(module: nn.Module, device: torch.device, world: World) -> nn.Module:
    if world.size == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, device_ids=[device.index] if device.type == "cuda" else None)
