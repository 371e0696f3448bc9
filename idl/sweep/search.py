"""The search: what trials are trained on, batch after batch of them, and the test of the best."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from optuna.trial import FrozenTrial, create_trial

from idl import cache
from idl.data.store import Store
from idl.encoders import Encoder
from idl.errors import InputError
from idl.fitting import PROBE, TrainingSet, arm_of, fit_arms, train_trials, training_set
from idl.pipeline import encode, evaluate_and_report
from idl.probe_config import EncodedData, ProbeConfig, split_of
from idl.probes.gradient_fit import Outcome, TrainResult, Trial
from idl.progress import Progress, silent
from idl.report import Run
from idl.sweep.space import SearchSpace, Stage, SweepConfig, trial_of
from idl.sweep.study import SharedStudy
from idl.targets import target as find_target

# One a stage of the space; one under None where stages are not searched.
Encoders = Mapping[Stage, Encoder]
# User attributes of a trial in the study, which are fields of `SweepTrial`.
ATTRIBUTES = ("outcome", "train_loss", "excess_loss", "best_epoch")


@dataclass(frozen=True)
class SweepTrial:
    """A finished trial of a study. Losses as in `TrainResult`; `val_loss` is what the study minimises.

    number: in the study, from 0. stage: of the encoder, where stages are searched.
    """

    number: int
    stage: Stage
    trial: Trial
    outcome: Outcome
    train_loss: float
    val_loss: float
    excess_loss: float
    best_epoch: int


@dataclass(frozen=True)
class TrainingData:
    """What the trials of a sweep are trained on, by stage.

    encoded: what the training sets were made of. last_k: the largest k of the study's trials.
    """

    encoded: Mapping[Stage, EncodedData]
    sets: Mapping[Stage, TrainingSet]
    last_k: int


def training_data(
    config: ProbeConfig,
    space: SearchSpace,
    study: SharedStudy,
    store: Store,
    encoders: Encoders,
    cache_folder: Path,
    progress: Progress = silent,
) -> TrainingData:
    """Encode once a stage, and make its training set; what is in the cache is taken from there.

    An open range of k ends for all workers where the first one's memory lets it.
    Raises InputError where k begins beyond the components, or the study's goes beyond those that are found here.
    """

    def made(k: int | None) -> TrainingData:
        encoded: dict[Stage, EncodedData] = {}
        sets: dict[Stage, TrainingSet] = {}
        for stage, encoder in encoders.items():
            # Released before the training: other workers on this machine want the same maps.
            with encode(config, store, encoder, cache_folder, progress) as data:
                sets[stage] = training_set(data.encoded, data.target, data.statistics, k, progress)
            encoded[stage] = data
        return TrainingData(encoded, sets, max(each.num_components for each in sets.values()))

    first, last = space.k
    data = made(study.last_k() or last)
    if first > data.last_k:
        raise InputError(
            f"k_range={space.k_range}: the encoder has {data.last_k} components. Pass a range within 1:{data.last_k}."
        )
    agreed = study.agree_on_last_k(min(last or data.last_k, data.last_k))
    if agreed > data.last_k:
        # Another worker, with more memory, was first.
        data = made(agreed)
    if agreed > data.last_k:
        raise InputError(
            f"study {study.name}: its trials read up to {agreed} components, of which {data.last_k} are found here. Go "
            "on where it was begun, or pass another study name."
        )
    return replace(data, last_k=agreed)


def subject_of(config: ProbeConfig, space: SearchSpace, store: Store, encoders: Encoders) -> dict[str, str]:
    """Return what the trials of a study have in common, by name: one of another subject is another study."""
    split = split_of(config, store, find_target(config.target))
    names = ", ".join(f"{encoder.name} {encoder.digest}" for encoder in encoders.values())
    fixed = ("weight_decay", "step_images", "epochs", "patience", "order_seed")
    return {
        "encoder": f"{names} ({next(iter(encoders.values())).arithmetic})",
        "dataset": f"{store.name} {store.digest}",
        "protocol": store.protocol.digest,
        "split": f"{config.split} {split.digest}",
        "target": config.target,
        **space.searched(),
        **{name: str(getattr(config, name)) for name in fixed},
    }


@dataclass
class Search:
    """One worker's share of a sweep: batches of trials, until the study has all that were asked for.

    fixed: what the space does not say. log: is called with each batch when the study has it.
    seconds: where this worker's time went.
    """

    study: SharedStudy
    data: TrainingData
    space: SearchSpace
    config: SweepConfig
    fixed: Trial
    log: Callable[[Sequence[tuple[SweepTrial, TrainResult]]], None]
    seconds: dict[str, float] = field(default_factory=dict)
    _trained: dict[int, TrainResult] = field(default_factory=dict)

    def run(self, progress: Progress = silent) -> None:
        """Train until the study has its trials; workers that do so together may bring it a batch beyond."""
        requested = self.config.trials
        done = len(self.study.trials()[:requested])
        with progress("sweep", requested, done, "trials") as advance:
            while done < requested:
                self._train_batch(min(self.config.trials_per_batch, requested - done))
                before, done = done, len(self.study.trials()[:requested])
                advance(done - before)

    def trials(self) -> list[SweepTrial]:
        """Return the trials that count: as many as were asked for, the first ones of the study.

        Those of workers that brought it beyond that at the same moment count where more are asked for.
        """
        return [self._plain(trial) for trial in self.study.trials()[: self.config.trials]]

    def best(self) -> SweepTrial:
        """Return the trial with the lowest validation loss, the first of equals. Raises InputError: all diverged."""
        best = min(self.trials(), key=lambda each: each.val_loss)
        if best.outcome == "diverged":
            raise InputError(
                f"study {self.study.name}: every trial diverged. Lower the bounds of lr_range under another study name."
            )
        return best

    def result_of(self, trial: SweepTrial) -> TrainResult:
        """Return a trial's training: kept where it was this worker's, else done again, alone."""
        if trial.number not in self._trained:
            with self.timed("training"):
                (self._trained[trial.number],) = train_trials(self.data.sets[trial.stage], [trial.trial])
        return self._trained[trial.number]

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of a block to `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def _placed(self, params: Mapping[str, object]) -> tuple[Stage, Trial]:
        components = {stage: each.num_components for stage, each in self.data.sets.items()}
        return trial_of(params, self.fixed, components)

    def _plain(self, trial: FrozenTrial) -> SweepTrial:
        attributes = {name: trial.user_attrs[name] for name in ATTRIBUTES}
        return SweepTrial(trial.number, *self._placed(trial.params), val_loss=trial.values[0], **attributes)

    def _train_batch(self, count: int) -> None:
        distributions = self.space.distributions(self.data.last_k)
        with self.timed("drawing"):
            drawn = self.study.draw(count, distributions, self.config.sampler, self.config.sweep_seed)
        trials = [self._placed(params) for params in drawn]
        results: dict[int, TrainResult] = {}
        with self.timed("training"):
            for stage in dict.fromkeys(stage for stage, _ in trials):
                here = [position for position, (each, _) in enumerate(trials) if each == stage]
                trained = train_trials(self.data.sets[stage], [trials[position][1] for position in here])
                results |= zip(here, trained, strict=True)
        finished = [
            create_trial(
                params=params,
                distributions=distributions,
                value=results[position].val_loss,
                user_attrs={name: getattr(results[position], name) for name in ATTRIBUTES},
            )
            for position, params in enumerate(drawn)
        ]
        with self.timed("adding"):
            added = self.study.add(finished)
        batch = [(self._plain(trial), results[position]) for position, trial in enumerate(added)]
        self._trained |= {trial.number: result for trial, result in batch}
        with self.timed("logging"):
            self.log(batch)


def evaluate_best(
    data: TrainingData, best: SweepTrial, result: TrainResult, progress: Progress = silent
) -> tuple[Run, float]:
    """Read the test split, once, for the best trial, and make it a run like that of a probe with its settings.

    Returns the validation loss of the exact solver at its k, too.
    """
    encoded, trial = data.encoded[best.stage], best.trial
    config = replace(
        encoded.config,
        k=str(trial.k),
        solver=trial.solver,
        lr=trial.lr,
        weight_decay=trial.weight_decay,
        step_images=trial.batch_size,
    )
    with cache.locked(encoded.encoded.folder):
        arms = fit_arms(encoded.statistics, encoded.encoded.columns, trial.k)
        exact_val_loss = arms[PROBE].fit.solution.val_loss
        arms |= {PROBE: arm_of(result, arms[PROBE])}
        return evaluate_and_report(replace(encoded, config=config), arms, result, progress), exact_val_loss
