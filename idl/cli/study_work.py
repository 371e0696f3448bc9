"""What one worker of a study has to do, and what its search came to."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from idl.data.store import Store
from idl.pipeline import ProbeConfig
from idl.sweep.config import SweepConfig
from idl.sweep.grounds import Encoders, Grounds
from idl.sweep.result import SweepResult
from idl.sweep.space import SearchSpace
from idl.sweep.storage import MEMORY


@dataclass(frozen=True)
class Work:
    """One worker's part in a study: what was asked for, looked at and found possible. folder: of journals."""

    options: Mapping[str, Any]
    config: SweepConfig
    space: SearchSpace
    probe: ProbeConfig
    folder: Path
    subject: Mapping[str, str]
    store: Store
    encoders: Encoders
    started: float

    @property
    def how_to_go_on(self) -> str:
        """The line that an interruption ends with."""
        if self.config.storage == MEMORY:
            return "interrupted; a study in memory cannot go on."
        return f"interrupted; the same command with --study {shlex.quote(self.config.study)} goes on from here."

    def say(self, line: str) -> None:
        """Tell the user something on the way."""
        click.echo(line, err=True)

    @property
    def name(self) -> str:
        """Of the run, for people."""
        targets = ",".join(self.space.target) or self.probe.target
        return f"sweep {self.options['encoder']} {targets} {Path(self.options['dataset']).stem}"


@dataclass(frozen=True)
class Searched:
    """What a search came to. seconds: by part. again: gathers the study's trials anew, where others finished more."""

    grounds: Grounds
    result: SweepResult
    seconds: Mapping[str, float]
    again: Callable[[], SweepResult]
