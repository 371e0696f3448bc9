"""The command that gives a run's figures again."""

import shlex

import click


def command_line() -> str:
    """Write the command that runs, with every option that is not at its default: MLflow passes all of them."""
    context = click.get_current_context()
    words = ["idl", context.info_name or ""]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if value is None or value == parameter.get_default(context):
            continue
        words += [parameter.opts[0], str(value).lower() if isinstance(value, bool) else str(value)]
    return shlex.join(words)
