"""Encoders in the registry: found by digest, and their weights brought here."""

import re
import tempfile
from pathlib import Path
from typing import Any

from idl.errors import InputError
from idl.tracking.quiet import quiet
from idl.tracking.reachable import current_uris, require_reachable
from idl.tracking.schema import create_schema

# mlflow's folder for files beside a model.
FILES_FOLDER = "extra_files"
ENCODER_PREFIX = "idl-encoder-"
DIGEST_TAG = "encoder_digest"
WEIGHTS_FILE = "encoder.safetensors"
ORIGIN_FILE = "origin.json"
ADDRESS = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<version>\d+)|@(?P<alias>[\w.-]+))")


def registered_encoder(digest: str) -> str | None:
    """Return `models:/idl-encoder-NAME/VERSION` of the oldest version with this `encoder_digest`, or None."""
    import mlflow

    with quiet():
        create_schema(*current_uris())
        found = mlflow.MlflowClient().search_model_versions(
            f"name LIKE '{ENCODER_PREFIX}%' AND tags.{DIGEST_TAG} = '{digest}'"
        )
    if not found:
        return None
    oldest = min(found, key=lambda version: (version.creation_timestamp, int(version.version)))
    return f"models:/{oldest.name}/{oldest.version}"


def fetch_weights(uri: str, folder: Path) -> Path:
    """Download a registered encoder's `encoder.safetensors` into `folder`, and return its path.

    uri: `models:/NAME/VERSION` or `models:/NAME@ALIAS`. Its `origin.json`, where it has one, is put beside
    the weights. Files appear under their names only when they are complete.

    Raises InputError: not such an address; no such model, version or alias (those that exist are named); a
    model that was not registered as an encoder; a registry that cannot be reached.
    """
    import mlflow
    from mlflow.artifacts import download_artifacts, list_artifacts

    address = ADDRESS.fullmatch(uri)
    if address is None:
        raise InputError(f"{uri}: not a registered model. Write models:/NAME/VERSION or models:/NAME@ALIAS.")
    require_reachable(None)
    with quiet(transfer=True):
        create_schema(*current_uris())
        number = _resolve(mlflow.MlflowClient(), uri, address)
        source = f"models:/{address['name']}/{number}"
        present = {entry.path for entry in list_artifacts(f"{source}/{FILES_FOLDER}")}
        names = [name for name in (ORIGIN_FILE, WEIGHTS_FILE) if f"{FILES_FOLDER}/{name}" in present]
        if WEIGHTS_FILE not in names:
            raise InputError(
                f"{uri}: holds no {WEIGHTS_FILE}, so that it is no encoder registered by idl. "
                f"Name one of {_list(_encoder_names(mlflow.MlflowClient()))}."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
            for name in names:
                path = download_artifacts(f"{source}/{FILES_FOLDER}/{name}", dst_path=temporary)
                Path(path).replace(folder / name)
    return folder / WEIGHTS_FILE


def _resolve(client: Any, uri: str, address: re.Match[str]) -> int:
    """Return the number of the version that `address` means."""
    from mlflow.exceptions import MlflowException

    name, version, alias = address["name"], address["version"], address["alias"]
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise InputError(
            f"{uri}: no registered model {name}. Registered encoders: {_list(_encoder_names(client))}."
        ) from None
    if alias is not None:
        if alias not in model.aliases:
            raise InputError(f"{uri}: {name} has no alias {alias}. Its aliases: {_list(sorted(model.aliases))}.")
        return int(model.aliases[alias])
    numbers = sorted(int(found.version) for found in client.search_model_versions(f"name = '{name}'"))
    if int(version) not in numbers:
        raise InputError(f"{uri}: {name} has no version {version}. Its versions: {_list(numbers)}.")
    return int(version)


def _encoder_names(client: Any) -> list[str]:
    return [model.name for model in client.search_registered_models(f"name LIKE '{ENCODER_PREFIX}%'")]


def _list(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values) or "none"
