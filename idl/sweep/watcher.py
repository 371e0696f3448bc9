"""What a sweep tells while it lasts, to whoever keeps a record of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from idl.probes.trial import Descent, Trial
from idl.sweep.result import SweepTrial
from idl.sweep.space import Place


@dataclass(frozen=True)
class Asked:
    """A trial that is about to be trained. number: in the study. retry_of: of the lost one that it repeats."""

    number: int
    place: Place
    trial: Trial
    retry_of: int | None = None


class Watcher:
    """Hears of the trials of this worker, a batch at a time; this one does nothing.

    What is recorded in `trained` and ended in `settled` survives a worker that is killed at any moment: before the
    study knows of a trial its record is complete, and any worker may end it.
    """

    def asked(self, trials: Sequence[Asked]) -> None:
        """A batch was asked for; its training begins."""

    def trained(self, trials: Sequence[tuple[SweepTrial, Descent]]) -> None:
        """The batch was trained; the study does not know of it yet."""

    def settled(self, finished: Collection[int], lost: Collection[int], is_all: bool) -> None:
        """The study knows of these trials by number: finished ones, and those that will never be.

        is_all: all of the study's, other workers' among them; else those of the last batch.
        """
