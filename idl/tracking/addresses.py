"""Addresses of registered models, and the one version that an address means."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from idl.errors import InputError

ADDRESS = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<version>\d+)|@(?P<alias>[\w.-]+))")


def read_address(uri: str) -> re.Match[str]:
    """Take `models:/NAME/VERSION` or `models:/NAME@ALIAS` apart. Raises InputError where it is neither."""
    address = ADDRESS.fullmatch(uri)
    if address is None:
        raise InputError(f"{uri}: not a registered model. Write models:/NAME/VERSION or models:/NAME@ALIAS.")
    return address


def resolve(client: Any, uri: str, known: Sequence[str], kind: str) -> tuple[str, int]:
    """Return the name and the number of the version that `uri` means.

    client: mlflow's. known: names of the registered models of this `kind` ("encoders", "probes"), for the message.

    Raises InputError: not such an address; no such model, version or alias (those that exist are named).
    """
    from mlflow.exceptions import MlflowException

    address = read_address(uri)
    name, version, alias = address["name"], address["version"], address["alias"]
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        near = get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"{uri}: no registered model {name}.{hint} Registered {kind}: {listed(known)}.") from None
    if alias is not None:
        if alias not in model.aliases:
            raise InputError(f"{uri}: {name} has no alias {alias}. Its aliases: {listed(sorted(model.aliases))}.")
        return name, int(model.aliases[alias])
    numbers = sorted(int(found.version) for found in client.search_model_versions(f"name = '{name}'"))
    if int(version) not in numbers:
        raise InputError(f"{uri}: {name} has no version {version}. Its versions: {listed(numbers)}.")
    return name, int(version)


def listed(values: Sequence[object]) -> str:
    """Join values for a message."""
    return ", ".join(str(value) for value in values) or "none"
