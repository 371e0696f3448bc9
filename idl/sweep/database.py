"""Optuna's storage in a database, with writes that belong together made in one transaction of few statements.

Each of Optuna's writes is a transaction of its own that waits for the server's disk, some 25 a trial, and reads what it
is about before: 80 statements a trial.
"""

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from idl.sweep.transaction import Transaction

# A worker that is frozen while others wait for its locks; it then finds its connection closed.
LONGEST_PAUSE_SECONDS = 60


class Database(RDBStorage):
    """Optuna's own storage, which within `as_one` keeps writes back to send them together, and knows what it wrote."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.scoped_session = scoped_session(sessionmaker(bind=self.engine, class_=Transaction))
        self._is_seen = False
        # As last read, of trials that have not ended; Optuna's cache holds the same objects.
        self._known: dict[int, FrozenTrial] = {}

    @contextmanager
    def as_one(self, trial_ids: Iterable[int] = ()) -> Iterator[None]:
        """Make the writes of this block, in this thread, one transaction. Within another block it is part of that.

        trial_ids: trials of this worker that it writes to. Until the end of the block nobody else can end them.
        Where the block raises, nothing is written.
        """
        session = self._session
        if session.is_held:
            yield
            return
        with session.held():
            self._begin(session)
            if wanted := [trial_id for trial_id in trial_ids if trial_id in self._known]:
                self._lock(session, wanted)
            yield

    @contextmanager
    def locked(self, study: Study) -> Iterator[None]:
        """As `as_one`, while no other worker creates trials of the study, makes one its own, or is in such a block."""
        with self.as_one():
            session, table = self._session, models.StudyModel
            session.execute(select(table.study_id).where(table.study_id == study._study_id).with_for_update())
            yield

    @contextmanager
    def as_only(self, study: Study) -> Iterator[None]:
        """As `locked`, with the study's trials read once."""
        with self.locked(study), self.as_seen(study):
            yield

    @contextmanager
    def as_seen(self, study: Study) -> Iterator[None]:
        """Have all trials of the study read once, now, however often the block asks for them."""
        study.get_trials(deepcopy=False)
        self._is_seen = True
        try:
            yield
        finally:
            self._is_seen = False

    def show_first_sign(self, trial_id: int) -> None:
        """Record a new trial's first sign of life."""
        with self.as_one():
            self._session.execute(insert(models.TrialHeartbeatModel), [{"trial_id": trial_id}])

    def show_signs(self, trial_ids: Sequence[int]) -> None:
        """Record signs of life of trials that have shown one before."""
        table = models.TrialHeartbeatModel
        with self.as_one():
            self._session.execute(
                update(table).where(table.trial_id.in_(trial_ids)).values(heartbeat=func.now()),
                execution_options={"synchronize_session": False},
            )

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As Optuna's."""
        block = self._session.block
        if block is not None and trial_id in block.trials:
            return block.trials[trial_id]
        return super().get_trial(trial_id)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        block = self._session.block
        trial = block and block.of(trial_id)
        if block is None or trial is None or (key in trial.user_attrs and (trial_id, key) not in block.attributes):
            super().set_trial_user_attr(trial_id, key, value)
            return
        block.attributes[trial_id, key] = json.dumps(value)
        trial.user_attrs[key] = value

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """As Optuna's."""
        block = self._session.block
        trial = block and block.of(trial_id)
        if block is None or trial is None or step in trial.intermediate_values:
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)
            return
        value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(intermediate_value)
        block.reports.append(
            {"trial_id": trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": kind}
        )
        trial.intermediate_values[step] = intermediate_value

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's."""
        block = self._session.block
        if block is None or block.of(trial_id) is None or not state.is_finished():
            is_set = super().set_trial_state_values(trial_id, state, values)
            if block is not None and is_set and trial_id in self._known:
                # One that waited and is this worker's now, or one of another worker that was lost.
                block.trials[trial_id] = self._known[trial_id]
                block.trials[trial_id].state = state
            return is_set
        for objective, value in enumerate(values or ()):
            stored, kind = models.TrialValueModel.value_to_stored_repr(value)
            block.values.append({"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind})
        # Not into the trial: Optuna's cache would take it for ended, whatever becomes of this transaction.
        block.ended[trial_id] = state, datetime.now()
        return True

    @property
    def _session(self) -> Transaction:
        session: Session = self.scoped_session()
        assert isinstance(session, Transaction)
        return session

    def _begin(self, session: Transaction) -> None:
        if self.engine.name == "sqlite":
            # Else two workers could read, and then wait for each other to write.
            session.connection().exec_driver_sql("BEGIN IMMEDIATE")
        elif self.engine.name == "postgresql":
            milliseconds = 1000 * LONGEST_PAUSE_SECONDS
            session.connection().exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}")

    def _lock(self, session: Transaction, trial_ids: Sequence[int]) -> None:
        table = models.TrialModel
        wanted = select(table.trial_id, table.state).where(table.trial_id.in_(trial_ids))
        assert session.block is not None
        # In one order for all workers, so that no two wait for each other.
        for trial_id, state in session.execute(wanted.order_by(table.trial_id).with_for_update()):
            session.block.trials[trial_id] = self._known[trial_id]
            session.block.trials[trial_id].state = state

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        trial = super()._create_new_trial(study_id, template_trial)
        block = self._session.block
        if block is not None:
            self._known[trial._trial_id] = block.trials[trial._trial_id] = trial
        return trial

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        block = self._session.block
        trial = block and block.of(trial_id)
        if block is None or trial is None or previous_distribution is None:
            super()._set_trial_param(trial_id, param_name, param_value_internal, distribution, previous_distribution)
        else:
            check_distribution_compatibility(previous_distribution, distribution)
            block.params.append(
                {
                    "trial_id": trial_id,
                    "param_name": param_name,
                    "param_value": param_value_internal,
                    "distribution_json": distribution_to_json(distribution),
                }
            )
        if trial is not None:
            trial.distributions[param_name] = distribution
            trial.params[param_name] = distribution.to_external_repr(param_value_internal)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        # What Optuna's cache asks for: trials that are new, or may have changed.
        if self._is_seen:
            return []
        trials = super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        for trial in trials:
            if trial.state.is_finished():
                self._known.pop(trial._trial_id, None)
            else:
                self._known[trial._trial_id] = trial
        return trials
