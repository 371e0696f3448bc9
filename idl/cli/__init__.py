"""The command line, where everything is put together: each command is an entry point of MLproject."""

import atexit
import os
import sys
import threading
import traceback

import click

from idl import __version__
from idl.cli import doctor, evaluate, models, predict, probe, sweep, training, verdict
from idl.errors import InputError, is_disk_full
from idl.features import keep_freed_buffers

# Each command that these files make.
MODULES = (probe, sweep, verdict, training, models, predict, evaluate, doctor)
COMMANDS = [each for module in MODULES for each in vars(module).values() if isinstance(each, click.Command)]


@click.group(
    commands=COMMANDS,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        # `mlflow run -P depth_scale=5000` passes --depth_scale.
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
@click.version_option(__version__)
def cli() -> None:
    """Has a network learned something that nobody asked it for? Exact linear probes on frozen encoders."""


def run() -> None:
    """Run the command line as a program, and leave at once: Python would take 3 s to take torch apart."""
    keep_freed_buffers()
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    # What the interpreter itself does first at its end: pools are told to stop, and their threads are joined.
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def main() -> None:
    """Run the command line. Bad input ends with one line and exit code 2, Ctrl-C with 130."""
    try:
        cli.main(standalone_mode=False)
        return
    except click.exceptions.NoArgsIsHelpError as error:
        line, code = error.format_message(), error.exit_code
    except click.ClickException as error:
        line, code = f"error: {error.format_message()}", error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        # click wraps the interrupt, whose text may say how to go on.
        line, code = str(error.__cause__ or error) or "interrupted; the same command goes on from here.", 130
    except Exception as error:
        line, code = f"error: {error}", 2
        if not isinstance(error, InputError):
            if not is_disk_full(error):
                raise
            text = " ".join(str(error).split())[:200]
            line = f"error: no space left ({text}). Free some; the same command goes on from here."
    click.echo(line, err=True)
    sys.exit(code)
