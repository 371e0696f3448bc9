"""Batches of trials: asked for, trained as one, told; again, until the study has enough."""

import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

from optuna import Study
from optuna import Trial as OptunaTrial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from idl.descending import TrainingSet, train_trials
from idl.probes.trial import Descent, Trial
from idl.progress import Progress
from idl.sweep.config import SweepConfig
from idl.sweep.result import Seconds, SweepTrial
from idl.sweep.searching import suggest, trial_of
from idl.sweep.space import SearchSpace
from idl.sweep.storage import Storage, fail_stale
from idl.sweep.workers import WORKER, Heartbeat, is_running, retry, retry_gone, this_worker

SECONDS_BETWEEN_LOOKS = 1.0

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
# User attributes of a finished trial: fields of its `Descent`.
TOLD = ("outcome", "train_loss", "val_loss", "excess_loss", "best_epoch")

OnTrial = Callable[[SweepTrial, Descent], None]


@dataclass
class Search:
    """One worker's share of a sweep."""

    data: TrainingSet
    space: SearchSpace
    config: SweepConfig
    storage: Storage
    study: Study
    heartbeat: Heartbeat
    on_trial: OnTrial
    num_trained: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: asdict(Seconds()))
    _best: tuple[int, Descent] | None = None

    def run(self, progress: Progress) -> None:
        """Train batches until the study has all its trials."""
        finished = self._num_finished()
        with progress("sweep", self.config.trials, min(finished, self.config.trials), "trials") as advance:
            while finished < self.config.trials:
                if not self._train_batch():
                    # What is left is with other workers, who may yet end on the way.
                    with self.timed("waiting"):
                        time.sleep(SECONDS_BETWEEN_LOOKS)
                before, finished = finished, self._num_finished()
                advance(finished - before)

    def descent_of(self, trial: FrozenTrial) -> Descent:
        """The trial's training: kept where this worker did it just now, else done again, alone."""
        if self._best is not None and self._best[0] == trial.number:
            return self._best[1]
        with self.timed("training"):
            return train_trials(self.data, [trial_of(trial.params, self.config.fixed)])[0]

    def _num_finished(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=FINISHED))

    def _counted(self) -> list[FrozenTrial]:
        """Trials that are finished, or that some worker will finish, by number."""
        has_heartbeat = self.storage.database is not None
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state in FINISHED or (trial.state == TrialState.RUNNING and is_running(trial, has_heartbeat))
        ]

    def _train_batch(self) -> int:
        """Ask for trials that nobody has yet, train them, tell; returns how many."""
        asked: list[OptunaTrial] = []
        told: list[tuple[SweepTrial, Descent]] = []
        try:
            with self.timed("asking"):
                trials = self._ask(asked)
            if asked:
                before = self.seconds["reporting"]
                with self.timed("training"):
                    descents = train_trials(self.data, trials, Reports(self, asked))
                self.seconds["training"] -= self.seconds["reporting"] - before
                with self.timed("telling"):
                    told = self._tell(asked, descents)
        except BaseException:
            # This process may live on, and nobody else would take them up.
            for trial in asked:
                with suppress(Exception):
                    retry(self.study, self.study.trials[trial.number])
            raise
        finally:
            self.heartbeat.drop(trial._trial_id for trial in asked)
        for trial, descent in told:
            self.on_trial(trial, descent)
        return len(asked)

    def _ask(self, asked: list[OptunaTrial]) -> list[Trial]:
        """Put into `asked` as many trials as are missing, at most a batch."""
        retry_gone(self.study)
        fail_stale(self.study)
        trials = []
        for _ in range(min(self.config.at_once, self.config.trials - len(self._counted()))):
            with warnings.catch_warnings():
                # Of the heartbeat, which is shown here.
                warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed", category=UserWarning)
                trial = self.study.ask()
            asked.append(trial)
            self.heartbeat.add(trial._trial_id)
            with self.storage.as_one():
                trials.append(suggest(trial, self.space, self.config.fixed))
                trial.set_user_attr(WORKER, this_worker())
        # Two workers may have asked for the last ones at the same time: the first to ask keeps them.
        kept = {trial.number for trial in self._counted()[: self.config.trials]}
        for position in reversed(range(len(asked))):
            if asked[position].number not in kept:
                self.study.tell(asked.pop(position), state=TrialState.FAIL)
                trials.pop(position)
        return trials

    def _tell(self, asked: Sequence[OptunaTrial], descents: Sequence[Descent]) -> list[tuple[SweepTrial, Descent]]:
        """Write down what came of the trials, all or (in a journal) none; returns those that are still ours."""
        told = []
        with self.storage.as_one():
            for trial, descent in zip(asked, descents, strict=True):
                # Others may have taken a trial for lost, and tried it again.
                with suppress(UpdateFinishedTrialError):
                    for name in TOLD:
                        trial.set_user_attr(name, getattr(descent, name))
                    if descent.outcome in ("ended", "diverged"):
                        # Not as failed: the sampler is to learn from it.
                        self.study.tell(trial, state=TrialState.PRUNED)
                    else:
                        self.study.tell(trial, descent.val_loss)
                    plain = SweepTrial(trial.number, descent.trial, **{name: getattr(descent, name) for name in TOLD})
                    told.append((plain, descent))
        for trial, descent in told:
            if trial.outcome in ("finished", "converged") and (
                self._best is None or trial.val_loss < self._best[1].val_loss
            ):
                self._best = (trial.number, descent)
        self.num_trained += len(told)
        return told

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

    def __call__(self, epoch: int, losses: Mapping[int, float]) -> Collection[int]:
        """As `descend` calls it."""
        is_due = epoch % self.search.config.report_epochs == 0
        shown = {position: loss for position, loss in losses.items() if is_due or not math.isfinite(loss)}
        if not shown:
            return ()
        ended = []
        with self.search.timed("reporting"):
            with self.search.storage.as_one():
                for position, loss in shown.items():
                    try:
                        self.asked[position].report(loss, epoch)
                    except UpdateFinishedTrialError:
                        # Others have taken it for lost, and try it again.
                        ended.append(position)
            if self.search.config.pruner != "none":
                ended += [
                    position for position in shown if position not in ended and self.asked[position].should_prune()
                ]
        return ended
