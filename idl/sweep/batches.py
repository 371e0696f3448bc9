"""Batches of trials: asked for, trained as one, told; again, until the study has enough."""

import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

from optuna import Study
from optuna import Trial as OptunaTrial
from optuna.trial import FrozenTrial, TrialState

from idl.descending import TrainingSet, train_trials
from idl.probes.trial import Descent, Trial
from idl.progress import Progress
from idl.sweep.config import SweepConfig
from idl.sweep.identity import FINISHED
from idl.sweep.result import SOUND, Seconds, SweepTrial
from idl.sweep.searching import suggest, trial_of
from idl.sweep.signs import Watch
from idl.sweep.space import Place, SearchSpace
from idl.sweep.storage import Storage, fail_stale
from idl.sweep.watcher import Asked, Watcher
from idl.sweep.workers import (
    RETRY_OF,
    SECONDS_BETWEEN_LOOKS,
    WORKER,
    Heartbeat,
    is_running,
    retry,
    retry_gone,
    this_worker,
)

# User attributes of a finished trial: fields of its `SweepTrial`, all but the loss those of its `Descent`.
OF_DESCENT = ("outcome", "train_loss", "val_loss", "excess_loss", "best_epoch")
TOLD = (*OF_DESCENT, "loss")

# Mean squared errors in metres squared of trials of one place, over the validation pixels.
InMetres = Callable[[Place, Sequence[Descent]], Sequence[float]]


@dataclass
class Search:
    """One worker's share of a sweep."""

    data: Mapping[Place, TrainingSet]
    in_metres: InMetres | None
    space: SearchSpace
    config: SweepConfig
    storage: Storage
    study: Study
    heartbeat: Heartbeat
    watcher: Watcher
    watch: Watch
    num_trained: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: asdict(Seconds()))
    _best: tuple[SweepTrial, Descent] | None = None
    _num_lost: int = -1

    def run(self, progress: Progress) -> None:
        """Train batches until the study has all its trials."""
        wanted = self.config.trials
        finished = self._num_finished()
        with progress("sweep", wanted, min(finished, wanted), "trials") as advance:
            while finished < wanted:
                if not self._train_batch():
                    # What is left is with other workers, who may yet end on the way.
                    with self.timed("waiting"):
                        time.sleep(SECONDS_BETWEEN_LOOKS)
                before, finished = finished, self._num_finished()
                # Others may want more, and bring the study beyond it.
                advance(min(finished, wanted) - before)
        self._num_lost = -1
        self._settle()

    def descent_of(self, trial: FrozenTrial) -> Descent:
        """The trial's training: kept where this worker did it just now, else done again, alone."""
        if self._best is not None and self._best[0].number == trial.number:
            return self._best[1]
        place, settings = self.trial_of(trial)
        with self.timed("training"):
            return train_trials(self.data[place], [settings])[0]

    def trial_of(self, trial: FrozenTrial | OptunaTrial) -> tuple[Place, Trial]:
        """Where a trial of the study trains, and with what settings."""
        return trial_of(trial.params, self.config.fixed, self.components)

    def is_open(self, trial: OptunaTrial) -> bool:
        """Tell, in a block that writes to it, whether others have not taken a trial for lost, and tried it again."""
        return not self.storage.optuna.get_trial(trial._trial_id).state.is_finished()

    @property
    def components(self) -> dict[Place, int]:
        """Largest k of each place."""
        return {place: data.num_components for place, data in self.data.items()}

    @property
    def num_targets(self) -> int:
        """Targets that are searched."""
        return len({place.target for place in self.data})

    def _num_finished(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=FINISHED))

    def _counted(self) -> list[FrozenTrial]:
        """Trials that are finished, or that some worker will finish, by number."""
        has_heartbeat, is_silent = self.storage.database is not None, self.watch.silent(self.study)
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state in FINISHED
            or (trial.state == TrialState.RUNNING and is_running(trial, has_heartbeat, is_silent))
        ]

    def _train_batch(self) -> int:
        """Ask for trials that nobody has yet, train them, tell; returns how many."""
        asked: list[OptunaTrial] = []
        told: set[int] = set()
        try:
            with self.timed("asking"):
                self._ask(asked)
            self._settle()
            if asked:
                trials = [self._asked(trial) for trial in asked]
                with self.timed("watching"):
                    self.watcher.asked(trials)
                trained = self._train(asked, trials)
                with self.timed("watching"):
                    self.watcher.trained(trained)
                with self.timed("telling"):
                    told = self._tell(asked, trained)
        except BaseException:
            # This process may live on, and nobody else would take them up.
            with suppress(Exception):
                # The first that fails is the last to be tried: a lost database is waited for.
                for trial in asked:
                    retry(self.study, self.study.trials[trial.number])
            with suppress(Exception):
                # Those that the study had been told of are not lost.
                states = {trial.number: self.study.trials[trial.number].state for trial in asked}
                finished = {number for number, state in states.items() if state in FINISHED}
                self.watcher.settled(finished, states.keys() - finished, is_all=False)
            raise
        finally:
            self.heartbeat.drop(trial._trial_id for trial in asked)
        if asked:
            with self.timed("watching"):
                lost = [trial.number for trial in asked if trial.number not in told]
                self.watcher.settled(told, lost, is_all=False)
        return len(asked)

    def _asked(self, trial: OptunaTrial) -> Asked:
        place, settings = self.trial_of(trial)
        return Asked(trial.number, place, settings, trial.user_attrs.get(RETRY_OF))

    def _settle(self) -> None:
        """Tell of all trials of the study, where some were lost since this was last done."""
        lost = [trial.number for trial in self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))]
        if len(lost) == self._num_lost:
            return
        self._num_lost = len(lost)
        finished = [trial.number for trial in self.study.get_trials(deepcopy=False, states=FINISHED)]
        with self.timed("watching"):
            self.watcher.settled(finished, lost, is_all=True)

    def _train(self, asked: Sequence[OptunaTrial], trials: Sequence[Asked]) -> list[tuple[SweepTrial, Descent]]:
        """Train a batch, the trials of each place as one."""
        trained: dict[int, tuple[SweepTrial, Descent]] = {}
        for place in dict.fromkeys(each.place for each in trials):
            here = [position for position, each in enumerate(trials) if each.place == place]
            reports = Reports(self, [asked[position] for position in here], self._report_unit(place))
            before = self.seconds["reporting"]
            with self.timed("training"):
                descents = train_trials(self.data[place], [trials[position].trial for position in here], reports)
            self.seconds["training"] -= self.seconds["reporting"] - before
            for position, descent, loss in zip(here, descents, self._losses(place, descents), strict=True):
                told = {name: getattr(descent, name) for name in OF_DESCENT}
                plain = SweepTrial(trials[position].number, place, descent.trial, **told, loss=loss)
                trained[position] = plain, descent
        return [trained[position] for position in range(len(trials))]

    def _losses(self, place: Place, descents: Sequence[Descent]) -> Sequence[float]:
        """What the study minimises, of each trial of a place."""
        if self.num_targets == 1:
            return [descent.val_loss for descent in descents]
        assert self.in_metres is not None
        with self.timed("predicting"):
            sound = [descent for descent in descents if descent.outcome != "diverged"]
            losses = iter(self.in_metres(place, sound))
        return [math.inf if descent.outcome == "diverged" else next(losses) for descent in descents]

    def _report_unit(self, place: Place) -> float:
        """What validation losses are divided by before the pruner compares them: 1 where there is one target.

        Else the loss of the best constant: pixels are not predicted in every epoch.
        """
        if self.num_targets == 1:
            return 1.0
        statistics = self.data[place].val.statistics
        mean = statistics.moment[0] / statistics.num_valid
        variance = statistics.energy / statistics.num_valid - mean.square()
        return max(float(variance.mean()), 1e-12)

    def _ask(self, asked: list[OptunaTrial]) -> None:
        """Put into `asked` as many trials as are missing, at most a batch."""
        drawn: list[OptunaTrial] = []
        # Others see lost trials and those that repeat them at once, else they would draw new ones instead; and a batch
        # when all of it has settings, a worker and a sign of life. They ask after it.
        with self.storage.as_only(self.study):
            retry_gone(self.study, self.storage.database is not None, self.watch.silent(self.study))
            fail_stale(self.study)
            for _ in range(min(self.config.at_once, self.config.trials - len(self._counted()))):
                with warnings.catch_warnings():
                    # Of the heartbeat, which is shown here.
                    warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed", category=UserWarning)
                    drawn.append(self.study.ask())
                if self.storage.database is None:
                    # Seen by others already, and to be given back.
                    asked.append(drawn[-1])
                self.heartbeat.show(drawn[-1]._trial_id)
                with self.storage.as_one([drawn[-1]]):
                    suggest(drawn[-1], self.space)
                    drawn[-1].set_user_attr(WORKER, this_worker())
        asked[:] = drawn
        self.heartbeat.add(trial._trial_id for trial in asked)
        # Two workers may have asked for the last ones at the same time: the first to ask keeps them.
        kept = {trial.number for trial in self._counted()[: self.config.trials]}
        for position in reversed(range(len(asked))):
            if asked[position].number not in kept:
                self.study.tell(asked.pop(position), state=TrialState.FAIL)

    def _tell(self, asked: Sequence[OptunaTrial], trained: Sequence[tuple[SweepTrial, Descent]]) -> set[int]:
        """Write down what came of the trials, all or (but in memory) none; returns those that are still ours."""
        told = []
        with self.storage.as_one(asked):
            for trial, (plain, descent) in zip(asked, trained, strict=True):
                if not self.is_open(trial):
                    continue
                for name in TOLD:
                    trial.set_user_attr(name, getattr(plain, name))
                if descent.outcome in ("ended", "diverged"):
                    # Not as failed: the sampler is to learn from it.
                    self.study.tell(trial, state=TrialState.PRUNED)
                else:
                    self.study.tell(trial, plain.loss)
                told.append((plain, descent))
        for plain, descent in told:
            if plain.outcome in SOUND and (self._best is None or plain.loss < self._best[0].loss):
                self._best = (plain, descent)
        self.num_trained += len(told)
        return {plain.number for plain, _ in told}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of a block to `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start


@dataclass(frozen=True)
class Reports:
    """Shows Optuna the validation losses of a batch, and ends what its pruner ends."""

    search: Search
    asked: Sequence[OptunaTrial]
    unit: float

    def __call__(self, epoch: int, losses: Mapping[int, float]) -> Collection[int]:
        """As `descend` calls it."""
        if self.search.config.pruner == "none":
            return ()
        is_due = epoch % self.search.config.report_epochs == 0
        shown = {position: loss for position, loss in losses.items() if is_due or not math.isfinite(loss)}
        if not shown:
            return ()
        ended = []
        with self.search.timed("reporting"):
            with self.search.storage.as_one(self.asked):
                for position, loss in shown.items():
                    if self.search.is_open(self.asked[position]):
                        self.asked[position].report(loss / self.unit, epoch)
                    else:
                        ended.append(position)
            with self.search.storage.as_seen(self.search.study):
                ended += [
                    position for position in shown if position not in ended and self.asked[position].should_prune()
                ]
        return ended
