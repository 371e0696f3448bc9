"""The command line as a program: exit codes, one line an error, a quick end."""

import atexit
import os
import sys
import threading
import traceback

import click

from idl.cli.group import cli
from idl.errors import InputError, is_disk_full
from idl.memory import keep_freed_buffers


def run() -> None:
    """Run the command line as a program, and leave at once when it is done.

    Python would take 3 s to take torch, triton and sympy apart object by object. What is registered to happen at
    the exit happens, threads that must end are waited for, and all output is written.
    """
    keep_freed_buffers()
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    # What the interpreter itself does first at its end: pools are told to stop, and their threads are joined.
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Run the command line. Bad input ends with one line and exit code 2, Ctrl-C with 130."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        # click wraps the interrupt, which may say more.
        line = str(error.__cause__ or error)
        click.echo(line or "interrupted; the same command goes on from here.", err=True)
        sys.exit(130)
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        if not is_disk_full(error):
            raise
        line = " ".join(str(error).split())[:200]
        click.echo(f"error: no space left ({line}). Free some; the same command goes on from here.", err=True)
        sys.exit(2)
