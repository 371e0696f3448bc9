"""The model registry: versions of probes and encoders, which of them is champion, and what comes back from there."""

import json
import math
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from idl.errors import InputError
from idl.tracking.store import MISSING, pages, quiet, registry_file, require_reachable

if TYPE_CHECKING:
    # They bring torch, which `import idl.tracking` does without.
    from torch import Tensor

    from idl.probes.linear_probe import ProbeCard
    from idl.protocol import Protocol
    from idl.report import Championship, ModelVersion

ADDRESS = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<version>\d+)|@(?P<alias>[\w.-]+))")
PREFIX, ENCODER_PREFIX = "idl-", "idl-encoder-"
OURS = f"name LIKE '{PREFIX}%'"
# mlflow's folder for files beside a model.
FILES_FOLDER = "extra_files"
WEIGHTS_FILE, ORIGIN_FILE, PROBE_FILE = "encoder.safetensors", "origin.json", "probe.safetensors"
PROTOCOL_FILE = "protocol.json"
CHAMPION, CHAMPION_DATASET_TAG, VAL_LOSS_TAG, DIGEST_TAG = "champion", "champion_dataset", "val_loss", "encoder_digest"
# Every version of a probe has these.
REQUIRED_TAGS = ("target", "kind", "encoder", "dataset_digest", "split_digest", "protocol_digest", VAL_LOSS_TAG)
# Tags that are words, whatever they look like.
IDENTITY = ("dataset", "protocol", "target", "encoder", "weights", "task", "kind", "shown_range")
IDENTITY += ("target_identity", "test_scenes")
WAIT_S = 300
# Each round ends with a look at what all processes wrote; more than two were never needed for four of them.
MAX_ROUNDS = 20
# Of a model's archive; of its images, the axes whose size is free.
PROGRAM, FREE_AXES = "data/model.pt2", (0, 2, 3)
# A model must not run code of its own when it is loaded.
NO_PICKLE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


@dataclass(frozen=True)
class RegisteredVersion:
    """A registered version of a model.

    tags: of a probe what it was fitted on, how, and how well, as text. source: the logged model behind it.
    created_ms: since 1970. note: at its registration, one line where it competed with no other version.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str
    source: str
    created_ms: int
    note: str = ""

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`, which means the same for ever."""
        return f"models:/{self.name}/{self.version}"

    @property
    def metrics(self) -> dict[str, float]:
        """The tags that are finite figures, by name; no digest is, though it may look like one."""
        found = {}
        for name, text in self.tags.items():
            if name not in IDENTITY and not name.endswith("_digest"):
                with suppress(ValueError):
                    found[name] = float(text)
        return {name: value for name, value in found.items() if math.isfinite(value)}


@dataclass(frozen=True)
class RegisteredProbe:
    """A registered probe, ready to predict, with the protocol that it was measured under and its encoder's origin.

    module: (batch, 3, H, W) RGB in [0, 1] in; metres (batch, 1, H, W), unit normals (batch, 3, H, W) or a field out,
      on the CPU. H and W are to be multiples of `stride`, at least two each.
    """

    version: RegisteredVersion
    module: "Callable[[Tensor], Tensor]"
    card: "ProbeCard"
    protocol: "Protocol"
    origin: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Of its target: "depth", "normals" or "field"."""
        return self.version.tags["kind"]

    @property
    def shown_range(self) -> tuple[float, float]:
        """Range of its run's pictures, in the unit that is shown."""
        low, high = self.version.tags["shown_range"].split(",")
        return float(low), float(high)

    @property
    def stride(self) -> int:
        """Pixels a cell of the encoder's grid; 1 where it resizes images of any size itself."""
        return 1 if self.window else int(self.origin["stride"])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images that it was fitted on, pixels."""
        return self.card.resolution, self.card.width or self.card.resolution

    @property
    def window(self) -> tuple[int, int] | None:
        """That size where the encoder brings every image to one size itself, of another shape or not; else None."""
        return self.size if "encoder_size" in self.origin else None


def register(version: "ModelVersion", run_id: str) -> RegisteredVersion:
    """Export `version` from the active run, register it, and promote it where it is the best of its kind."""
    import mlflow
    from mlflow.exceptions import MlflowException

    tags, championship = {name: str(value) for name, value in version.tags.items()}, version.championship
    if championship is not None:
        tags |= {**championship.conditions, VAL_LOSS_TAG: repr(float(championship.val_loss))}
    model_id = log_model(version)
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
        note = promote(client, version.name, int(created.version), championship) if championship else ""
        return replace(_version(created, client.get_registered_model(version.name).aliases), note=note)


def log_model(version: "ModelVersion") -> str:
    """Log the module of `version`, with its files beside it, to the active run, and return the model's id.

    The format is torch.export's: no pickle, no code of this project needed to load it. Raises ValueError: the module
    cannot be exported with free batch, height and width; it is in training mode or not on the CPU; it gives anything
    but one tensor; a file's name is a path.
    """
    import mlflow
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(shape: tuple[int, ...]) -> Schema:
        return Schema([TensorSpec(np.dtype(np.float32), shape)])

    module, example = version.module, np.ascontiguousarray(version.example, dtype=np.float32)
    if module.training or any(tensor.device.type != "cpu" for tensor in [*module.parameters(), *module.buffers()]):
        raise ValueError(f"{version.name}: expected a module in eval mode on the CPU")
    with tempfile.TemporaryDirectory() as folder, quiet(transfer=True), torch.no_grad():
        output = module(torch.from_numpy(example))
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"{version.name}: expected one tensor, got {type(output).__name__}")
        shape = tuple(-1 if axis in FREE_AXES else size for axis, size in enumerate(output.shape))
        # Without "+cpu" and the like, which the package index does not know. mlflow would take 4 s and get them wrong.
        pinned = {"mlflow": mlflow.__version__, "numpy": np.__version__, "torch": torch.__version__.partition("+")[0]}
        for name, content in version.files.items():
            if Path(name).name != name:
                raise ValueError(f"{version.name}: {name} is a path, expected the name of a file")
            Path(folder, name).write_bytes(content)
        info = Model.log(
            artifact_path=None,
            name="model",
            flavor=SimpleNamespace(save_model=partial(_save_checked, version.name)),
            pytorch_model=module,
            signature=ModelSignature(schema((-1, 3, -1, -1)), schema(shape)),
            input_example=example,
            pip_requirements=[f"{name}=={number}" for name, number in pinned.items()],
            extra_files=[str(Path(folder, name)) for name in version.files] or None,
            serialization_format="pt2",
            # mlflow would load the model again and predict with it: half of the export's time, and nothing that
            # `_save_checked` and the tests leave open.
            validate_serving_input=False,
        )
    return info.model_id


def _save_checked(name: str, path: str, validate_serving_input: bool, **settings: Any) -> None:
    """Write the model to `path`, as mlflow's PyTorch flavor does.

    Raises ValueError where batch, height or width is tied: mlflow exports with Dim.AUTO, which does so without a word.
    """
    from mlflow.pytorch import save_model

    save_model(path=path, **settings)
    # Read from the program's own text, since loading it takes as long as exporting it.
    with zipfile.ZipFile(Path(path, PROGRAM)) as archive:
        (member,) = (each for each in archive.namelist() if each.endswith("models/model.json"))
        program = json.loads(archive.read(member))["graph_module"]
    (given,) = (spec["user_input"] for spec in program["signature"]["input_specs"] if "user_input" in spec)
    sizes = program["graph"]["tensor_values"][given["arg"]["as_tensor"]["name"]]["sizes"]
    if len({sizes[axis]["as_expr"]["expr_str"] for axis in FREE_AXES if "as_expr" in sizes[axis]}) < len(FREE_AXES):
        shape = ", ".join(str(size.get("as_int", "free")) for size in sizes)
        raise ValueError(f"{name}: not exported with free batch, height and width, but ({shape})")


def promote(client: Any, name: str, number: int, championship: "Championship") -> str:
    """Put `champion-<dataset>` on the version with the lowest `val_loss` under equal conditions; of equals the older.

    Where the alias is on a version of other conditions, it stays. The plain `champion` follows the champion of the
    first dataset that was ever registered under the name. Everything is read again after each write, so that the
    last of several processes to write has seen all versions. Returns a line where `number` did not compete, else "".
    """
    from mlflow.exceptions import MlflowException

    alias, conditions = f"{CHAMPION}-{championship.dataset}", championship.conditions
    for _ in range(MAX_ROUNDS):
        model = client.get_registered_model(name)
        ready = [each for each in pages(client.search_model_versions, f"name = '{name}'") if each.status == "READY"]
        alike = {int(each.version): each.tags for each in ready if conditions.items() <= each.tags.items()}
        holder = int(model.aliases.get(alias, 0))
        if holder in {int(each.version) for each in ready} - alike.keys():
            return (
                f"{alias} stays with version {holder}, which was measured under other conditions than "
                f"version {number}. Delete the alias to let the next version take it."
            )
        losses = [(float(tags.get(VAL_LOSS_TAG, "nan")), each) for each, tags in alike.items()]
        best = min(((loss, each) for loss, each in losses if math.isfinite(loss)), default=None)
        first = model.tags.get(CHAMPION_DATASET_TAG)
        aliases = [alias, CHAMPION] if first == championship.dataset else [alias]
        wrong = [each for each in aliases if best and int(model.aliases.get(each, 0)) != best[1]]
        if first and best is None:
            return f"version {number} has no finite {VAL_LOSS_TAG}: {alias} stays as it is."
        if first and not wrong:
            return ""
        try:
            if first is None:
                client.set_registered_model_tag(name, CHAMPION_DATASET_TAG, championship.dataset)
            for each in wrong:
                client.set_registered_model_alias(name, each, str(best and best[1]))
        except MlflowException as error:
            # Another process wrote the same since the last look, as sqlite and PostgreSQL say, or MySQL.
            if not re.search("unique constraint|duplicate", str(error), re.IGNORECASE):
                raise
    return f"{alias} did not settle: other processes register {name} at the same time."


def list_probes() -> tuple[RegisteredVersion, ...]:
    """Return all registered probes, by name and then newest first; of a sqlite file that is not there yet, none."""
    import mlflow

    if registry_file():
        return ()
    require_reachable()
    with quiet():
        client = mlflow.MlflowClient()
        aliases = {model.name: model.aliases for model in pages(client.search_registered_models, OURS)}
        found = [each for each in pages(client.search_model_versions, OURS) if each.status == "READY"]
        probes = [_version(each, aliases[each.name]) for each in found if _kind(each) == "probes"]
    return tuple(sorted(probes, key=lambda each: (each.name, -each.version)))


def load_probe(uri: str) -> RegisteredProbe:
    """Return a registered probe, `models:/NAME/VERSION` or `models:/NAME@ALIAS`, loaded without pickle.

    Raises InputError: no such address, model, version or alias; no probe of this project; its files are gone.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.pytorch import load_model

    from idl.probes.linear_probe import LinearProbe
    from idl.protocol import Protocol

    if not uri:
        raise InputError("model: none given. Pass model=models:/NAME@ALIAS; `idl models` lists what there is.")
    found, aliases = _resolved(uri, "probes")
    if _kind(found) != "probes":
        raise InputError(f"{uri}: is no probe that idl registered. `idl models` lists those.")
    version = _version(found, aliases)
    with quiet(transfer=True, forced=NO_PICKLE), tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(download_artifacts(version.uri, dst_path=folder))
            files = path / FILES_FOLDER
            card = LinearProbe.load(str(files / PROBE_FILE)).card
            protocol = Protocol.from_json((files / PROTOCOL_FILE).read_text())
            origin = json.loads((files / ORIGIN_FILE).read_text())
            return RegisteredProbe(version, load_model(str(path)), card, protocol, origin)
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{uri}: its files cannot be read ({reason}). Register it again.") from error


def registered_encoder(digest: str) -> str | None:
    """Return `models:/idl-encoder-NAME/VERSION` of the oldest version with this `encoder_digest`, or None."""
    import mlflow

    with quiet():
        found = mlflow.MlflowClient().search_model_versions(
            f"name LIKE '{ENCODER_PREFIX}%' AND tags.{DIGEST_TAG} = '{digest}'"
        )
    oldest = min(found, key=lambda version: (version.creation_timestamp, int(version.version)), default=None)
    return None if oldest is None else f"models:/{oldest.name}/{oldest.version}"


def fetch_weights(uri: str, folder: Path) -> Path:
    """Download a registered encoder's weights, and its `origin.json`, into `folder`; return the weights' path.

    Files appear under their names when they are complete. Raises InputError: no such address, model, version or
    alias; a model that was not registered as an encoder.
    """
    from mlflow.artifacts import download_artifacts, list_artifacts

    found, _ = _resolved(uri, "encoders")
    source = f"models:/{found.name}/{found.version}/{FILES_FOLDER}"
    with quiet(transfer=True):
        present = {Path(entry.path).name for entry in list_artifacts(source)}
        if WEIGHTS_FILE not in present:
            raise InputError(
                f"{uri}: holds no {WEIGHTS_FILE}, so that it is no encoder registered by idl. "
                "Name an idl-encoder-... of the registry."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
            for file in (ORIGIN_FILE, WEIGHTS_FILE):
                if file in present:
                    Path(download_artifacts(f"{source}/{file}", dst_path=temporary)).replace(folder / file)
    return folder / WEIGHTS_FILE


def _resolved(uri: str, kind: str) -> tuple[Any, Mapping[str, Any]]:
    """Return the version (mlflow's) of an address, and its model's aliases. kind: of models to name instead."""
    import mlflow
    from mlflow.exceptions import MlflowException

    address = ADDRESS.fullmatch(uri)
    if address is None:
        raise InputError(f"{uri}: not a registered model. Write models:/NAME/VERSION or models:/NAME@ALIAS.")
    if (file := registry_file()) is not None:
        raise InputError(f"{uri}: there is no {file}. Run where the registry is, or set MLFLOW_TRACKING_URI.")
    require_reachable()
    name = address["name"]
    with quiet():
        client = mlflow.MlflowClient()
        try:
            aliases = client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code not in MISSING:
                raise
            known = {each.name for each in pages(client.search_model_versions, OURS) if _kind(each) == kind}
            raise InputError(f"{uri}: no registered model {name}. Registered {kind}: {_listed(known)}.") from None
        versions = {int(each.version): each for each in pages(client.search_model_versions, f"name = '{name}'")}
    number = int(address["version"] or aliases.get(address["alias"], 0))
    if number not in versions:
        there = f"versions {_listed(versions)}; aliases {_listed(aliases)}"
        raise InputError(f"{uri}: {name} has no such version or alias. There are: {there}.")
    return versions[number], aliases


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, sorted(values))) or "none"


def _kind(found: Any) -> str:
    """Return what a version (mlflow's) is of: "encoders", "probes", or "" of another project's models."""
    if found.name.startswith(ENCODER_PREFIX):
        return "encoders"
    return "probes" if found.name.startswith(PREFIX) and all(tag in found.tags for tag in REQUIRED_TAGS) else ""


def _version(found: Any, aliases: Mapping[str, str]) -> RegisteredVersion:
    """Return mlflow's version as ours. aliases: of the model, and the version that each is on."""
    number = int(found.version)
    held = tuple(sorted(alias for alias, holder in aliases.items() if int(holder) == number))
    run_id, source, created_ms = found.run_id or "", found.source or "", int(found.creation_timestamp)
    return RegisteredVersion(found.name, number, held, dict(found.tags), run_id, source, created_ms)
