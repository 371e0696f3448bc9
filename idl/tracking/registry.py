"""Registered versions, and which of them is champion."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idl.tracking.quiet import quiet

if TYPE_CHECKING:
    # The report's types bring torch, which `import idl.tracking` does without.
    from idl.report import Championship, ModelVersion

CHAMPION = "champion"
CHAMPION_DATASET_TAG = "champion_dataset"
VAL_LOSS_TAG = "val_loss"
WAIT_S = 300
VERSIONS_PER_PAGE = 1000
# Each round ends with a look at what all processes wrote; more than two were never needed for four of them.
MAX_ROUNDS = 20


@dataclass(frozen=True)
class RegisteredVersion:
    """A version as it stands in the registry.

    aliases: those that this version holds after its registration.
    uri: `models:/NAME/VERSION`.
    note: one line for people where a championship did not compare this version; else empty.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    uri: str
    note: str = ""


def register(version: "ModelVersion", run_id: str, exports: Path | None = None) -> RegisteredVersion:
    """Export `version` from the active run `run_id`, register it, and settle its championship.

    The tags stand on the version from its first moment, the championship's conditions and `val_loss` among
    them. Raises ValueError as `export.log_model` does.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    from idl.tracking.export import log_model

    tags = {name: str(value) for name, value in version.tags.items()}
    if version.championship is not None:
        tags |= version.championship.conditions
        tags[VAL_LOSS_TAG] = repr(float(version.championship.val_loss))

    model_id = log_model(version, exports)
    with quiet(transfer=True):
        client = mlflow.MlflowClient()
        # Through the client: `mlflow.register_model` prints lines of its own.
        try:
            client.create_registered_model(version.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        created = client.create_model_version(
            version.name,
            f"models:/{model_id}",
            run_id=run_id,
            tags=tags,
            description=version.description,
            await_creation_for=WAIT_S,
            model_id=model_id,
        )
        # The tag by which the UI leads from the logged model to its registered version.
        link = json.dumps([{"name": version.name, "version": created.version}])
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})

        number = int(created.version)
        note = ""
        if version.championship is not None:
            note = crown(client, version.name, number, version.championship)
        aliases = client.get_registered_model(version.name).aliases
    held = tuple(sorted(alias for alias, holder in aliases.items() if int(holder) == number))
    return RegisteredVersion(version.name, number, held, f"models:/{version.name}/{number}", note)


def crown(client: Any, name: str, number: int, championship: "Championship") -> str:
    """Put `champion-<dataset>` on the version with the lowest `val_loss` under equal conditions.

    Of equals the older one stays. Where the alias is on a version of other conditions, the new version does
    not compete: the alias stays. The plain `champion` belongs to the first dataset that was ever registered
    under the name, and follows that dataset's champion.

    Everything is read again after each write: a process whose version was created meanwhile may have read
    less, so that the last one to write sees all versions and has the last word.

    Returns a line for people where `number` did not compete, else "".
    """
    alias = f"{CHAMPION}-{championship.dataset}"
    for _ in range(MAX_ROUNDS):
        model = client.get_registered_model(name)
        first = model.tags.get(CHAMPION_DATASET_TAG)
        if first is None:
            with _another_may_be_first():
                client.set_registered_model_tag(name, CHAMPION_DATASET_TAG, championship.dataset)
            continue

        versions = _versions(client, name)
        holder = _holder(model.aliases, alias)
        if holder in versions and not _matches(versions[holder], championship.conditions):
            return (
                f"{alias} stays with version {holder}, which was measured under other conditions than "
                f"version {number}. Delete the alias to let the next version take it."
            )
        best = _best(versions, championship.conditions)
        if best is None:
            return f"version {number} has no finite {VAL_LOSS_TAG}: {alias} stays as it is."

        wanted = [alias, CHAMPION] if first == championship.dataset else [alias]
        wrong = [wish for wish in wanted if _holder(model.aliases, wish) != best]
        if not wrong:
            return ""
        with _another_may_be_first():
            for wish in wrong:
                client.set_registered_model_alias(name, wish, str(best))
    return f"{alias} did not settle: other processes register {name} at the same time."


@contextmanager
def _another_may_be_first() -> Iterator[None]:
    """Pass over the refusal of a tag or an alias that another process wrote since it was looked at.

    mlflow looks whether there is one and then inserts it, without a lock: the second of two is refused by
    the database. What the first wrote is read in the next round.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        # sqlite and PostgreSQL say the one, MySQL the other.
        if not re.search("unique constraint|duplicate", str(error), re.IGNORECASE):
            raise


def _versions(client: Any, name: str) -> dict[int, Mapping[str, str]]:
    """Return the tags of all versions that are ready, by number."""
    versions: dict[int, Mapping[str, str]] = {}
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=VERSIONS_PER_PAGE, page_token=token)
        versions |= {int(found.version): found.tags for found in page if found.status == "READY"}
        token = page.token
        if not token:
            return versions


def _matches(tags: Mapping[str, str], conditions: Mapping[str, str]) -> bool:
    return all(tags.get(name) == value for name, value in conditions.items())


def _best(versions: Mapping[int, Mapping[str, str]], conditions: Mapping[str, str]) -> int | None:
    losses = {
        number: float(tags[VAL_LOSS_TAG])
        for number, tags in versions.items()
        if _matches(tags, conditions) and VAL_LOSS_TAG in tags
    }
    finite = [(loss, number) for number, loss in losses.items() if math.isfinite(loss)]
    return min(finite)[1] if finite else None


def _holder(aliases: Mapping[str, str], alias: str) -> int | None:
    return int(aliases[alias]) if alias in aliases else None
