"""The command line, where everything is put together: an entry point of MLproject is one command."""

from idl.cli import (  # noqa: F401  (they add their commands to the group)
    commands,
    evaluating,
    examining,
    judging,
    listing,
    sweeping,
    training,
    using,
)
from idl.cli.group import cli
from idl.cli.program import main, run

__all__ = ["cli", "main", "run"]
