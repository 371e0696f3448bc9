"""Encoders in the registry: found by digest, and their weights brought here."""

import tempfile
from pathlib import Path
from typing import Any

from idl.errors import InputError
from idl.tracking.addresses import listed, read_address, resolve
from idl.tracking.quiet import quiet
from idl.tracking.reachable import current_uris, require_reachable
from idl.tracking.schema import create_schema

# mlflow's folder for files beside a model.
FILES_FOLDER = "extra_files"
ENCODER_PREFIX = "idl-encoder-"
DIGEST_TAG = "encoder_digest"
WEIGHTS_FILE = "encoder.safetensors"
ORIGIN_FILE = "origin.json"


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

    read_address(uri)
    require_reachable(None)
    with quiet(transfer=True):
        create_schema(*current_uris())
        client = mlflow.MlflowClient()
        name, number = resolve(client, uri, _encoder_names(client), "encoders")
        source = f"models:/{name}/{number}"
        present = {entry.path for entry in list_artifacts(f"{source}/{FILES_FOLDER}")}
        files = [file for file in (ORIGIN_FILE, WEIGHTS_FILE) if f"{FILES_FOLDER}/{file}" in present]
        if WEIGHTS_FILE not in files:
            raise InputError(
                f"{uri}: holds no {WEIGHTS_FILE}, so that it is no encoder registered by idl. "
                f"Name one of {listed(_encoder_names(client))}."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
            for file in files:
                path = download_artifacts(f"{source}/{FILES_FOLDER}/{file}", dst_path=temporary)
                Path(path).replace(folder / file)
    return folder / WEIGHTS_FILE


def _encoder_names(client: Any) -> list[str]:
    return [model.name for model in client.search_registered_models(f"name LIKE '{ENCODER_PREFIX}%'")]
