"""The search: its bounds, what trials are trained on, batch after batch of them, the test of the best, and reports."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from idl import cache
from idl.data.store import Store
from idl.encoders import Encoder
from idl.errors import InputError
from idl.fitting import PROBE, TrainingSet, arm_of, fit_arms, train_trials, training_set
from idl.pipeline import encode, evaluate_and_report
from idl.probe_config import EncodedData, ProbeConfig, split_of
from idl.probes.gradient_fit import Outcome, Solver, TrainResult, Trial
from idl.progress import Progress, silent
from idl.report import Run, RunReport, charts
from idl.report.encoder import run_tags
from idl.report.probe import linear_probe
from idl.settings import setting
from idl.sweep.study import SharedStudy, importances_of
from idl.targets import target as find_target

# A stage of the encoder, as its level; None where stages are not searched.
Stage = int | None
# User attributes of a trial in the study, which are fields of `SweepTrial`.
ATTRIBUTES = ("outcome", "train_loss", "excess_loss", "best_epoch")
SEARCHED = ("k_range", "lr_range", "weight_decay_range", "step_images_choices", "solvers", "stages")
OPEN = sys.maxsize
# Of Optuna's column.
MAX_NAME_CHARACTERS = 512


@dataclass(frozen=True)
class SweepConfig:
    """How and within which bounds a sweep searches, and where its study is kept. Raises InputError for what cannot be.

    Bounds are included, and ranges searched evenly in the logarithm; what is empty is not searched.
    """

    trials: int = setting(100, "Trials that the study is to have, those of other workers included.", at_least=1)
    # The sampler learns between batches only: with as many as `trials` it would be a random search.
    trials_per_batch: int = setting(20, "Trials that are drawn, and trained, as one.", at_least=1)
    sampler: Literal["tpe", "random"] = setting("tpe", "What draws trials: tpe learns from finished ones.")
    sweep_seed: int = setting(0, "Seed of the sampler.", at_least=0)
    storage: str = setting(
        "", "URL of a database for several machines (leave its password to PGPASSWORD); empty: a file in the cache."
    )
    study: str = setting("", "Name of the study; one that exists goes on. Empty: a new one.")
    k_range: str = setting("1:all", "Components that the probe reads, FIRST:LAST; all: as many as there are.")
    lr_range: str = setting("0.0001:1", "Learning rates, LOW:HIGH.")
    weight_decay_range: str = setting("", "Weight decays, LOW:HIGH; empty: --weight-decay.")
    step_images_choices: str = setting("", "Images a step, such as 16,32; empty: --step-images.")
    solvers: str = setting("", f"sgd, adam or sgd,adam; empty: {Trial.solver}.")
    stages: str = setting("", "Feature levels such as 1,2,3; empty: --stage.")

    def __post_init__(self) -> None:
        if not self.study.isprintable() or len(self.study) > MAX_NAME_CHARACTERS:
            raise InputError(
                f"study={self.study[:40]!a}: expected at most {MAX_NAME_CHARACTERS} characters that can be printed."
            )
        # Reading the bounds is their check.
        self.distributions(OPEN)

    @property
    def k(self) -> tuple[int, int | None]:
        """Least and largest k; None: as many components as there are."""
        first, last = self._range("k_range", lambda k: OPEN if k == "all" else int(k), "1:64 or 1:all")
        return first, None if last == OPEN else last

    @property
    def each_stage(self) -> tuple[Stage, ...]:
        """Every stage that is searched; each is a training set of its own."""
        return self._choices("stages", 0) or (None,)

    def require_k(self, most: int, of: str, *, only_first: bool = False) -> None:
        """Raise InputError where k goes (or begins) beyond `most`, of which the encoder has so many `of`."""
        first, last = self.k
        if max(first, 0 if only_first else last or 0) > most:
            raise InputError(f"k_range={self.k_range}: the encoder has {most} {of}. Pass a range within 1:{most}.")

    def distributions(self, last: int) -> dict[str, BaseDistribution]:
        """Return what Optuna draws from: settings of a trial by name, and its "stage". last: the largest k."""
        made: dict[str, BaseDistribution] = {"k": IntDistribution(self.k[0], last, log=True)}
        for name in ("lr", "weight_decay"):
            if getattr(self, f"{name}_range"):
                made[name] = FloatDistribution(*self._range(f"{name}_range", float, "1e-4:1"), log=True)
        solvers = tuple(part.strip() for part in self.solvers.split(",")) if self.solvers else ()
        if not set(solvers) <= {*get_args(Solver)} or len(set(solvers)) < len(solvers):
            raise InputError(f"solvers={self.solvers}: expected {', '.join(get_args(Solver))}, or both.")
        choices = {
            "step_images": self._choices("step_images_choices", 1),
            "solver": solvers,
            "stage": self._choices("stages", 0),
        }
        return made | {name: CategoricalDistribution(values) for name, values in choices.items() if values}

    def searched(self) -> dict[str, str]:
        """Return the options that say what is searched, by name."""
        return {name: getattr(self, name) for name in SEARCHED if getattr(self, name)}

    def _range(self, name: str, read: Callable[[str], Any], example: str) -> tuple[Any, Any]:
        text = getattr(self, name)
        try:
            low, high = (read(part) for part in text.split(":"))
        except ValueError:
            low, high = 0, 0
        # A range that is not of numbers compares as false, too.
        if not 0 < low <= high < float("inf"):
            raise InputError(f"{name}={text}: expected two numbers above 0, the lower one first, such as {example}.")
        return low, high

    def _choices(self, name: str, least: int) -> tuple[int, ...]:
        text = getattr(self, name)
        try:
            values = tuple(int(part) for part in text.split(",")) if text else ()
        except ValueError:
            values = (least - 1,)
        if any(value < least for value in values) or len(set(values)) < len(values):
            raise InputError(f"{name}={text}: expected different whole numbers from {least} on, such as 1,2.")
        return values


@dataclass(frozen=True)
class SweepTrial:
    """A finished trial of a study: its number there, its stage where stages are searched, `TrainResult`'s losses."""

    number: int
    stage: Stage
    trial: Trial
    val_loss: float
    outcome: Outcome
    train_loss: float
    excess_loss: float
    best_epoch: int


@dataclass(frozen=True)
class TrainingData:
    """What trials are trained on, by stage, of what that was made, and the largest k of the study's trials."""

    encoded: Mapping[Stage, EncodedData]
    sets: Mapping[Stage, TrainingSet]
    last_k: int


def training_data(
    config: ProbeConfig,
    sweep: SweepConfig,
    study: SharedStudy,
    store: Store,
    encoders: Mapping[Stage, Encoder],
    cache_folder: Path,
    progress: Progress = silent,
) -> TrainingData:
    """Encode once a stage, and make its training set; an open range of k ends where the first worker's memory lets it.

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

    last = sweep.k[1]
    data = made(study.last_k() or last)
    sweep.require_k(data.last_k, "components", only_first=True)
    agreed = study.last_k(min(last or data.last_k, data.last_k)) or data.last_k
    if agreed > data.last_k:
        # Another worker, with more memory, was first.
        data = made(agreed)
    if agreed > data.last_k:
        raise InputError(
            f"study {study.name}: its trials read up to {agreed} components, of which {data.last_k} are found here. Go "
            "on where it was begun, or pass another study name."
        )
    return replace(data, last_k=agreed)


def subject_of(
    config: ProbeConfig, sweep: SweepConfig, store: Store, encoders: Mapping[Stage, Encoder]
) -> dict[str, str]:
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
        **sweep.searched(),
        **{name: str(getattr(config, name)) for name in fixed},
    }


@dataclass
class Search:
    """One worker's share of a sweep: batches of trials, until the study has all that were requested.

    fixed: what the bounds do not say. log: is called with each batch when the study has it.
    """

    study: SharedStudy
    data: TrainingData
    config: SweepConfig
    fixed: Trial
    log: Callable[[Sequence[tuple[SweepTrial, TrainResult]]], None]
    _trained: dict[int, TrainResult] = field(default_factory=dict)

    def run(self, progress: Progress = silent) -> None:
        """Train until the study has its trials; workers that do so together may bring it a batch beyond."""
        requested = self.config.trials
        done = len(self.study.trials(requested))
        with progress("sweep", requested, done, "trials") as advance:
            while done < requested:
                self._train_batch(min(self.config.trials_per_batch, requested - done))
                before, done = done, len(self.study.trials(requested))
                advance(done - before)

    def trials(self) -> list[SweepTrial]:
        """Return the trials that count: as many as were requested, the first ones of the study."""
        return [self._plain(trial) for trial in self.study.trials(self.config.trials)]

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
            (self._trained[trial.number],) = train_trials(self.data.sets[trial.stage], [trial.trial])
        return self._trained[trial.number]

    def _placed(self, params: Mapping[str, Any]) -> tuple[Stage, Trial]:
        """Return where a trial with these settings trains, and how. A k beyond the stage's reads all."""
        named = {"batch_size" if name == "step_images" else name: value for name, value in params.items()}
        stage = named.pop("stage", None)
        named["k"] = min(named["k"], self.data.sets[stage].num_components)
        return stage, replace(self.fixed, **named)

    def _plain(self, trial: FrozenTrial) -> SweepTrial:
        attributes = {name: trial.user_attrs[name] for name in ATTRIBUTES}
        return SweepTrial(trial.number, *self._placed(trial.params), trial.values[0], **attributes)

    def _train_batch(self, count: int) -> None:
        distributions = self.config.distributions(self.data.last_k)
        drawn = self.study.draw(count, distributions, self.config.sampler, self.config.sweep_seed)
        results: dict[int, TrainResult] = {}
        placed = [self._placed(params) for params in drawn]
        for stage in dict.fromkeys(stage for stage, _ in placed):
            here = {position: trial for position, (each, trial) in enumerate(placed) if each == stage}
            results |= zip(here, train_trials(self.data.sets[stage], [*here.values()]), strict=True)
        finished = [
            create_trial(
                params=params,
                distributions=distributions,
                value=results[position].val_loss,
                user_attrs={name: getattr(results[position], name) for name in ATTRIBUTES},
            )
            for position, params in enumerate(drawn)
        ]
        added = self.study.add(finished)
        batch = [(self._plain(trial), results[position]) for position, trial in enumerate(added)]
        self._trained |= {trial.number: result for trial, result in batch}
        self.log(batch)


def evaluate_best(
    data: TrainingData, best: SweepTrial, result: TrainResult, progress: Progress = silent
) -> tuple[Run, float]:
    """Test the best trial, once, as a probe with its settings; return the exact solver's validation loss, too."""
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


def trial_report(encoded: EncodedData, trial: SweepTrial, result: TrainResult) -> tuple[RunReport, bytes]:
    """Return what the run of a trial shows, its settings and loss curves, and the probe itself (.safetensors)."""
    penalty = trial.trial.weight_decay * result.weights.shape[1] / 2
    report = RunReport(
        params=_params(trial),
        metrics={**_metrics(trial), "epochs_trained": len(result.val_losses)},
        curves={"train_loss": result.train_losses, "val_loss": result.val_losses},
        tags={
            **run_tags(encoded.store, encoded.encoder),
            "target": encoded.target.name,
            "outcome": trial.outcome,
        },
    )
    return report, linear_probe(encoded, result.weights, trial.trial.k, penalty).to_bytes()


def with_search(run: Run, search: RunReport, exact_val_loss: float) -> Run:
    """Put the search, and the exact solver's validation loss at the winner's k, beside what the winner's run shows."""
    names = ("params", "figures", "tables", "tags")
    both: dict[str, Any] = {name: {**getattr(run.report, name), **getattr(search, name)} for name in names}
    metrics = {**run.report.metrics, **search.metrics, "exact_val_loss": exact_val_loss}
    description = f"{search.description}\n\n{run.report.description}"
    return replace(run, report=replace(run.report, **both, metrics=metrics, description=description))


def search_report(search: Search) -> RunReport:
    """Return what a search was: the trials that count, and the best of them."""
    trials, name = search.trials(), search.study.name
    importances = importances_of(search.study.trials(len(trials)))
    best = min(trials, key=lambda trial: trial.val_loss)
    outcomes, losses = [trial.outcome for trial in trials], [trial.val_loss for trial in trials]
    unit = charts.squared(search.data.encoded[best.stage].target.unit)
    measure = ", ".join(filter(None, ("validation loss", unit)))
    ks, rates = [trial.trial.k for trial in trials], [trial.trial.lr for trial in trials]
    pictures = {
        "sweep/history.png": charts.search_history(losses, measure, f"Study {name}"),
        "sweep/k_and_lr.png": charts.search_plane(ks, rates, losses, measure),
    }
    placed = "" if best.stage is None else f"stage {best.stage}, "
    searched = ", ".join(f"{option} {text}" for option, text in search.config.searched().items())
    description = (
        f"Study **{name}**: the best of {len(trials)} trials is number {best.number}, with {placed}k {best.trial.k} "
        f"and a learning rate of {best.trial.lr:.3g} ({best.trial.solver}): validation loss "
        f"{f'{best.val_loss:.4g} {unit}'.strip()}. Searched: {searched}."
    )
    if importances:
        pictures["sweep/importance.png"] = charts.importance_chart([*importances], [*importances.values()])
        ranked = sorted(importances.items(), key=lambda each: -each[1])
        description += f" What mattered: {', '.join(f'{each} {100 * share:.0f} %' for each, share in ranked)}."
    rows = [{"number": each.number, **_params(each), "outcome": each.outcome, **_metrics(each)} for each in trials]
    settings = ("trials", "trials_per_batch", "sampler", "sweep_seed")
    return RunReport(
        params={
            **{setting: getattr(search.config, setting) for setting in settings},
            **search.config.searched(),
            "last_k": search.data.last_k,
        },
        metrics={
            "best_trial": best.number,
            "best_loss": best.val_loss,
            "num_trials": len(trials),
            **{f"num_{outcome}": outcomes.count(outcome) for outcome in ("converged", "diverged")},
            **{f"importance/{setting}": share for setting, share in importances.items()},
        },
        figures=pictures,
        tables={"sweep/trials.csv": {column: [row[column] for row in rows] for column in rows[0]}},
        description=description + "".join(f"\n\n> {each.plan.sentence}" for each in search.data.sets.values()),
        tags={"study": name},
    )


def _params(trial: SweepTrial) -> dict[str, object]:
    """Return the settings of a trial by the names of a probe's options, where `batch_size` and `seed` mean others."""
    settings = asdict(trial.trial)
    settings["step_images"], settings["order_seed"] = settings.pop("batch_size"), settings.pop("seed")
    placed = {} if trial.stage is None else {"stage": trial.stage}
    # MLflow's axes are linear, and rates are searched in the logarithm.
    return {**placed, **settings, "log10_lr": f"{math.log10(trial.trial.lr):.4f}"}


def _metrics(trial: SweepTrial) -> dict[str, float]:
    names = ("train_loss", "val_loss", "excess_loss", "best_epoch")
    return {"loss": trial.val_loss, **{name: getattr(trial, name) for name in names}}
