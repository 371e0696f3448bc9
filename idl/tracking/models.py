"""Registered probes: listed, and loaded to be used."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idl.databases import sqlite_path
from idl.errors import InputError
from idl.tracking.addresses import listed, read_address, resolve
from idl.tracking.quiet import quiet
from idl.tracking.reachable import current_uris, require_reachable
from idl.tracking.schema import create_schema
from idl.tracking.weights import ENCODER_PREFIX, FILES_FOLDER

if TYPE_CHECKING:
    # They bring torch, which `import idl.tracking` does without.
    from torch import Tensor

    from idl.probes.linear_probe import ProbeCard
    from idl.protocol import Protocol

PREFIX = "idl-"
PROBE_FILE, PROTOCOL_FILE, ORIGIN_FILE = "probe.safetensors", "protocol.json", "origin.json"
# What every probe's version has had from its first moment.
REQUIRED_TAGS = ("target", "encoder", "dataset_digest", "split_digest", "protocol_digest", "val_loss")
OURS = f"name LIKE '{PREFIX}%'"
PER_PAGE = 1000
NO_PICKLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"


@dataclass(frozen=True)
class ProbeVersion:
    """A registered version of a probe.

    aliases: those that it holds. tags: what it was fitted on, how, and how well, as text.
    source: the logged model behind it, which no other registry has.
    created_ms: milliseconds since 1970.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str
    source: str
    created_ms: int

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`, which means the same for ever."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class RegisteredProbe:
    """A registered probe, ready to predict.

    module: (batch, 3, H, W) RGB in [0, 1] in; metres (batch, 1, H, W), unit normals (batch, 3, H, W) or a field out,
      on the CPU. H and W are to be multiples of `stride`, at least two each.
    card: what the probe was fitted on and for. protocol: under which it was measured.
    origin: the encoder's description. run: parameters of its run, none where that is gone.
    """

    version: ProbeVersion
    module: "Callable[[Tensor], Tensor]"
    card: "ProbeCard"
    protocol: "Protocol"
    origin: Mapping[str, Any]
    run: Mapping[str, str]

    @property
    def kind(self) -> str:
        """Of its target: "depth", "normals" or "field"."""
        # Versions from before there was this tag.
        return self.version.tags.get("kind", "normals" if self.card.target == "normals" else "depth")

    @property
    def shown_range(self) -> tuple[float, float]:
        """Range of its run's pictures, in the unit that is shown."""
        low, high = self.version.tags.get("shown_range", f"0,{self.protocol.max_depth_m}").split(",")
        return float(low), float(high)

    @property
    def stride(self) -> int:
        """Pixels a cell of the encoder's grid."""
        return int(self.origin["stride"])


def list_probes() -> tuple[ProbeVersion, ...]:
    """Return all registered probes, by name and then newest first; encoders and other models are left out.

    Where the store is a sqlite file that is not there yet, none is made. Raises InputError: a registry that cannot
    be reached.
    """
    import mlflow

    require_reachable(None)
    file = sqlite_path(current_uris()[1])
    if file is not None and not file.exists():
        return ()
    with quiet():
        create_schema(*current_uris())
        client = mlflow.MlflowClient()
        held = _held(_pages(client.search_registered_models, OURS))
        found = [
            _version(version, held.get((version.name, int(version.version)), ()))
            for version in _pages(client.search_model_versions, OURS)
            if version.status == "READY" and _is_probe(version)
        ]
    return tuple(sorted(found, key=lambda each: (each.name, -each.version)))


def load_probe(uri: str) -> RegisteredProbe:
    """Bring a registered probe here and load it, without pickle.

    uri: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

    Raises InputError: not such an address; no such model, version or alias (those that exist are named); a model
    that is no probe of this project, or whose files are gone; a registry that cannot be reached.
    """
    import mlflow
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    if not uri:
        raise InputError("model: none given. Pass model=models:/NAME@ALIAS; `idl models` lists what there is.")
    read_address(uri)
    require_reachable(None)
    registry = current_uris()[1]
    file = sqlite_path(registry)
    if file is not None and not file.exists():
        raise InputError(f"{uri}: there is no {file}. Run where the registry is, or set MLFLOW_TRACKING_URI.")
    with quiet(transfer=True):
        create_schema(*current_uris())
        client = mlflow.MlflowClient()
        name, number = resolve(client, uri, _probe_names(client), "probes")
        found = client.get_model_version(name, str(number))
        if not _is_probe(found):
            raise InputError(f"{uri}: is no probe that idl registered. Those are: {listed(_probe_names(client))}.")
        version = _version(found, _held([client.get_registered_model(name)]).get((name, number), ()))
        run = _run(client, version.run_id)
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = Path(download_artifacts(version.uri, dst_path=folder))
                return _loaded(version, path, run)
            except (MlflowException, OSError) as error:
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"{uri}: its files cannot be read ({reason}). Register it again.") from error


def _loaded(version: ProbeVersion, path: Path, run: Mapping[str, str]) -> RegisteredProbe:
    """Load what was downloaded to `path`."""
    from mlflow.pytorch import load_model

    from idl.probes.linear_probe import LinearProbe
    from idl.protocol import Protocol

    files = path / FILES_FOLDER
    card = LinearProbe.load(str(files / PROBE_FILE)).card
    protocol = Protocol.from_json((files / PROTOCOL_FILE).read_text())
    origin = json.loads((files / ORIGIN_FILE).read_text())
    with _without_pickle():
        module = load_model(str(path))
    return RegisteredProbe(version, module, card, protocol, origin, run)


@contextmanager
def _without_pickle() -> Iterator[None]:
    """Have mlflow refuse a model that would run code of its own when it is loaded."""
    before = os.environ.get(NO_PICKLE)
    os.environ[NO_PICKLE] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_PICKLE]
        else:
            os.environ[NO_PICKLE] = before


def _is_probe(found: Any) -> bool:
    """Tell a probe's version (mlflow's) from those of encoders and of other projects."""
    named = found.name.startswith(PREFIX) and not found.name.startswith(ENCODER_PREFIX)
    return named and all(tag in found.tags for tag in REQUIRED_TAGS)


def _version(found: Any, aliases: tuple[str, ...]) -> ProbeVersion:
    return ProbeVersion(
        found.name,
        int(found.version),
        aliases,
        dict(found.tags),
        found.run_id or "",
        found.source or "",
        int(found.creation_timestamp),
    )


def _held(models: Iterable[Any]) -> dict[tuple[str, int], tuple[str, ...]]:
    """Return the aliases of each version, in order; `search_model_versions` gives none."""
    held: dict[tuple[str, int], tuple[str, ...]] = {}
    for model in models:
        for alias, number in sorted(model.aliases.items()):
            key = (model.name, int(number))
            held[key] = (*held.get(key, ()), alias)
    return held


def _probe_names(client: Any) -> list[str]:
    found = _pages(client.search_model_versions, OURS)
    return sorted({version.name for version in found if _is_probe(version)})


def _pages(search: Callable[..., Any], which: str) -> Iterator[Any]:
    """Yield all that `search` finds, page by page."""
    token = None
    while True:
        page = search(which, max_results=PER_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _run(client: Any, run_id: str) -> Mapping[str, str]:
    """Return the parameters of the run that registered a version; none where the run is gone."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).data.params if run_id else {}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
