"""The group that all commands belong to."""

import click

from idl import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli() -> None:
    """Has a network learned something that nobody asked it for? Exact linear probes on frozen encoders."""
