"""What a study notes about who works on it: whose its run is, what was tested, which runs workers have of their own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import optuna
from optuna import Study

from idl.sweep.config import SweepConfig
from idl.sweep.identity import FINISHED
from idl.sweep.storage import Storage, opened
from idl.sweep.workers import this_worker

# Attributes of a study: what of a `StudyRun` and of a `Conclusion` there is.
RUN, CONCLUDED = "run", "concluded"
# Before a worker's name: the run that it has of its own; "" where that has ended.
_OWN_RUN = "run of "


@dataclass(frozen=True)
class StudyRun:
    """The run that a study's trials are logged under, as the study notes it.

    run_id: None until the worker that has it has opened it. before: the run that the study had until then.
    worker: who has it; None: nobody.
    concludes: of how many finished trials that worker tests the best, and ends; None: it still searches.
    """

    run_id: str | None = None
    before: str | None = None
    worker: str | None = None
    concludes: int | None = None


@dataclass(frozen=True)
class Conclusion:
    """What came of a study. run_id: the run that says so. trials: finished ones by then. number: of the best.

    tested_in: the run that tested the best: an earlier one where that was the best already.
    """

    run_id: str
    trials: int
    number: int
    tested_in: str


@contextmanager
def opened_study(config: SweepConfig, folder: Path) -> Iterator[tuple[Storage, Study]]:
    """Open a study that there is. Raises InputError as `opened`."""
    with opened(config, config.study, folder) as storage:
        yield storage, optuna.load_study(study_name=config.study, storage=storage.optuna)


def num_finished(study: Study) -> int:
    """Count the trials that count."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def noted_run(study: Study) -> StudyRun:
    """Return what is noted of the study's run."""
    return StudyRun(**_known(StudyRun, study.user_attrs.get(RUN, {})))


def note_run(study: Study, run: StudyRun) -> None:
    """Note the study's run."""
    study.set_user_attr(RUN, asdict(run))


def changed(storage: Storage, study: Study, change: Callable[[StudyRun], StudyRun | None]) -> bool:
    """Change what is noted of the run, where that is still this worker's and `change` gives what; tell whether so."""
    with storage.locked(study):
        run = noted_run(study)
        made = change(run) if run.worker == this_worker() else None
        if made is not None and made != run:
            note_run(study, made)
        return made is not None


def noted_conclusion(study: Study) -> Conclusion | None:
    """Return the last conclusion; None where there is none, or an earlier version drew it."""
    noted = study.user_attrs.get(CONCLUDED)
    return noted and Conclusion(**_known(Conclusion, noted))


def note_conclusion(study: Study, conclusion: Conclusion) -> None:
    """Note what came of the study."""
    study.set_user_attr(CONCLUDED, asdict(conclusion))


def own_runs(study: Study) -> dict[str, str]:
    """Return the runs that workers have of their own, and have not ended, by worker."""
    names = study.user_attrs.items()
    return {name.removeprefix(_OWN_RUN): run for name, run in names if name.startswith(_OWN_RUN) and run}


def note_own_run(study: Study, worker: str, run_id: str) -> None:
    """Note that a worker has a run of its own; "": that it has none any more."""
    study.set_user_attr(_OWN_RUN + worker, run_id)


def _known(kind: type, noted: dict[str, Any]) -> dict[str, Any]:
    """Leave out what another version noted."""
    return {each.name: noted[each.name] for each in fields(kind) if each.name in noted}
