"""Writes of Optuna that are kept back, to be one transaction of a statement a table."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session


@dataclass
class Block:
    """What a transaction is about to write. trials: those that it has locked, or made, and their state, by id."""

    trials: dict[int, FrozenTrial] = field(default_factory=dict)
    params: list[dict[str, Any]] = field(default_factory=list)
    attributes: dict[tuple[int, str], str] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    ended: dict[int, tuple[TrialState, datetime]] = field(default_factory=dict)

    def of(self, trial_id: int) -> FrozenTrial | None:
        """The trial, if it is one of the block. Raises UpdateFinishedTrialError for one that has ended."""
        trial = self.trials.get(trial_id)
        if trial is not None and (trial.state.is_finished() or trial_id in self.ended):
            raise UpdateFinishedTrialError(f"Trial#{trial.number} has already finished and can not be updated.")
        return trial

    def send(self, session: Session) -> None:
        """Write, a statement a table."""
        table = models.TrialModel
        found = session.scalars(select(table).where(table.trial_id.in_(self.ended))) if self.ended else ()
        loaded: dict[Any, models.TrialModel] = {trial.trial_id: trial for trial in found}
        attributes = [
            {"trial_id": trial_id, "key": key, "value_json": text} for (trial_id, key), text in self.attributes.items()
        ]
        for model, rows in (
            (models.TrialParamModel, self.params),
            (models.TrialUserAttributeModel, attributes),
            (models.TrialIntermediateValueModel, self.reports),
            (models.TrialValueModel, self.values),
        ):
            if rows:
                session.execute(insert(model), rows)
        for trial_id, (state, when) in self.ended.items():
            # The model knows how Optuna keeps times.
            loaded[trial_id].state, loaded[trial_id].datetime_complete = state, when


class Transaction(Session):
    """A session that can hold its commits back, as though each write were one and all of them are.

    Optuna opens, commits and closes one for every write; a write that it refuses, of a trial that has ended, it rolls
    back before anything was sent.
    """

    block: Block | None = None
    _is_broken = False

    @property
    def is_held(self) -> bool:
        """Whether commits are held back."""
        return self.block is not None

    def commit(self) -> None:
        """Commit, or only send what is new."""
        if self.is_held:
            self._require_whole()
            self.flush()
        else:
            super().commit()

    def rollback(self) -> None:
        """Roll back; where commits are held, only what was not sent, or, after an error of the database, all."""
        if self.is_held and not isinstance(sys.exc_info()[1], SQLAlchemyError):
            self.expunge_all()
            return
        self._is_broken = self.is_held
        super().rollback()

    def close(self) -> None:
        """Close; where commits are held, only forget what was read: others may change it meanwhile."""
        if self.is_held:
            self.expunge_all()
        else:
            super().close()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Commit once, at the end of the block; where it raises, nothing is written."""
        self.block = Block()
        try:
            yield
            self._require_whole()
            self.block.send(self)
            super().commit()
        finally:
            self.block = None
            self._is_broken = False
            # Also rolls back what is not committed.
            super().close()

    def _require_whole(self) -> None:
        if self._is_broken:
            raise StorageInternalError("a write of the transaction failed before")
