"""The command line in the process of a test."""

import sys

from idl.cli import main


def run(*arguments: str) -> int:
    """Run the command line in this process; return its exit code."""
    before = sys.argv
    sys.argv = ["idl", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0
