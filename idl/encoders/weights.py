"""Weights: where they come from, how a file of them is read, and whether they fit an architecture."""

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from idl.encoders.base import EncoderConfig, Origin, Weights, digest_of
from idl.errors import InputError, is_disk_full
from idl.plugins import reason

T = TypeVar("T")

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# Without a network timm retries for 50 s before it gives up.
HUB_TIMEOUT_S = 3.0
SHIPPED_FOLDER = Path(__file__).with_name("shipped_weights")
_CONVNEXT = {"segmentation": "convnext_atto_segmentation", "rooms-recognition": "convnext_atto_rooms"}
# Files by the encoder's name on the command line and what they were trained for; the first is what "shipped" means. A
# ConvNeXt of any other size, or with a tag of timm's, has nothing here.
SHIPPED: Mapping[str, Mapping[str, str]] = {
    "autoencoder": {"reconstruction": "autoencoder_small"},
    "convnext": _CONVNEXT,
    "timm:convnext_atto": _CONVNEXT,
}


@dataclass(frozen=True)
class Source:
    """Weights that are at hand.

    source: path, URI or hub repository, for people. warning: one line where they are not those a user would expect.
    path, tensors: the file and its content by name; None and nothing for random weights and those that a factory sets.
    metadata: text that a safetensors file carries: of those trained or registered here "architecture", "task", and as
      "config" the JSON object of the arguments that the architecture was built with.
    """

    kind: Weights
    source: str
    warning: str | None = None
    path: Path | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def origin(self, architecture: str, network: nn.Module, task: str = "", seed: int | None = None) -> Origin:
        """Return the origin of a network with these weights. task: where the file does not record it."""
        task = self.metadata.get("task") or task or ("unknown" if self.tensors else "none")
        digest = digest_of(network.state_dict())
        return Origin(architecture, self.kind, digest, task, seed, self.source, self.warning)

    def arguments(self, architecture: str) -> dict[str, Any]:
        """Return what `architecture` was built with, as far as the file knows; nothing where it is of another.

        Raises InputError where that is damaged.
        """
        text = self.metadata.get("config", "{}")
        if self.metadata.get("architecture") != architecture:
            return {}
        try:
            return dict(json.loads(text))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self.path}: its metadata's config is no JSON object: {text[:80]}. Save it again."
            ) from error

    def load(
        self, model: nn.Module, what: str, tensors: Mapping[str, Tensor] | None = None, head: Sequence[str] = ()
    ) -> None:
        """Load all tensors into `model`; the classifier's may be missing, extra, or of another size.

        what: the model is, for people. tensors: instead of the file's own, renamed. head: names of the top-level
        modules that only classify.
        Raises InputError, naming the first tensors that do not fit.
        """
        expected, own = (
            {name: tensor for name, tensor in each.items() if name.split(".")[0] not in head}
            for each in (model.state_dict(), self.tensors if tensors is None else tensors)
        )
        faults = {
            "missing": expected.keys() - own.keys(),
            "unexpected": own.keys() - expected.keys(),
            "of another shape": {
                f"{name} {tuple(own[name].shape)} instead of {tuple(expected[name].shape)}"
                for name in own.keys() & expected.keys()
                if own[name].shape != expected[name].shape
            },
        }
        messages = [f"{len(each)} {kind} ({', '.join(sorted(each)[:3])})" for kind, each in faults.items() if each]
        if messages:
            raise InputError(
                f"{self.path}: not weights of {what}: of its {len(expected)} tensors, {'; '.join(messages)}. "
                "Pass the encoder that they belong to, with its encoder_args."
            )
        model.load_state_dict(own, strict=False)


class HubUnavailableError(Exception):
    """A file can be had neither from the cache nor from the hub; the text says why."""


def locate(
    config: EncoderConfig, architecture: str, names: Sequence[str], repository: str = "", files: Sequence[str] = ()
) -> Source:
    """Return the weights that `config` asks for by one of `names`, by a path or by a URI of the registry.

    names: "random", "shipped" (which may name a task after a colon), "auto", and "imagenet" where there may be some on
      the hub: then `repository` and `files` are as of `fetch`, or empty.
    Raises InputError where they cannot be had. Only "auto" falls back, with a warning: to weights that come with
    the package for this encoder's name, which may be of another architecture, else to random ones.
    """
    kind, _, task = config.weights.partition(":")
    if config.weights not in names and kind != "shipped":
        return from_file(config, names)
    if config.weights == "random":
        return Source("random", f"random, seed {config.seed}")
    fault = ""
    if kind != "shipped" and "imagenet" in names:
        try:
            return _read("imagenet", fetch(repository, files), f"hf-hub:{repository}")
        except HubUnavailableError as error:
            fault = str(error)
        if config.weights == "imagenet":
            raise InputError(
                f"weights=imagenet for {architecture}: {fault}. "
                "Pass weights=PATH (a .safetensors file of it), weights=random or weights=auto."
            )
    shipped = shipped_for(config.name, task)
    if shipped is not None:
        path, card = shipped
        warning = (
            f"{config.name} runs as the shipped {card.get('summary', path.stem)}, not with ImageNet weights: {fault}. "
            "Pass weights=imagenet to insist, or weights=PATH (a .safetensors file of it) for others."
        )
        return _read("shipped", path, f"{path.name} of the package", warning if fault else None)
    missing = f"nothing ships for it, but for {', '.join(SHIPPED)}"
    tasks = SHIPPED.get(config.name, {})
    if task and tasks and task not in tasks:
        missing = f"nothing that was trained for that ships, but shipped:{' and shipped:'.join(tasks)}"
    elif tasks:
        missing = "the files that ship with the package are missing from this installation"
    if kind == "shipped":
        raise InputError(
            f"weights={config.weights} for {config.name}: {missing}. Pass weights=random, or weights=PATH."
        )
    warning = (
        f"{architecture} runs with RANDOM weights, which have learned nothing: {fault or missing}. "
        "Pass weights=PATH (a .safetensors file of it) for trained ones."
    )
    return Source("random", f"random, seed {config.seed}", warning)


def from_file(config: EncoderConfig, names: Sequence[str]) -> Source:
    """Return the weights of a path or a URI of the registry. names: what else could be passed, for the message."""
    if config.weights.startswith("models:/"):
        if config.registry_file is None:
            raise InputError(f"weights={config.weights}: not fetched from the registry. Pass registry_file beside it.")
        return _read("registry", config.registry_file, config.weights)
    path = Path(config.weights).expanduser()
    if not path.is_file():
        raise InputError(
            f"weights={config.weights}: no such file. Pass {', '.join(names)}, the path of a .safetensors or .pth "
            "file, or models:/NAME/VERSION."
        )
    return _read("file", path, str(path))


def shipped_for(encoder: str, task: str = "") -> tuple[Path, Mapping[str, object]] | None:
    """Return what ships for an encoder's name: the file, and the card that says how it was trained.

    task: what it was trained for; "": whatever "shipped" means.
    None where nothing ships, or the installation lacks either. Raises InputError where the card is damaged.
    """
    files = SHIPPED.get(encoder, {})
    path = SHIPPED_FOLDER / f"{files.get(task or next(iter(files), ''), '')}.safetensors"
    card = path.with_suffix(".json")
    if not (path.is_file() and card.is_file()):
        return None
    try:
        return path, dict(json.loads(card.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{card}: damaged ({error}). Install the package again.") from error


def fetch(repository: str, names: Sequence[str]) -> Path:
    """Return the local path of a file of Hugging Face's hub: from the cache without any network, else downloaded.

    repository: "owner/name", with "@revision" where it is pinned; "": there is none.
    names: of the file, the preferred first.
    HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and the usual proxy variables are followed.
    Raises HubUnavailableError, naming the hub, after at most HUB_TIMEOUT_S where the hub does not answer.
    """
    # Imported here: with its HTTP client it costs half a second that `--help` need not pay.
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if not repository:
        raise HubUnavailableError("timm knows no weights for it on the hub")
    repository, _, pinned = repository.partition("@")
    revision = pinned or None
    for name in names:
        cached = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    hub = f"{repository} is not in the local cache, and {constants.ENDPOINT}"
    if constants.HF_HUB_OFFLINE:
        raise HubUnavailableError(f"{hub} is not asked, because HF_HUB_OFFLINE is set")
    for name in names:
        url = hf_hub_url(repository, name, revision=revision)
        try:
            _within(HUB_TIMEOUT_S, lambda url=url: get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S))
            return Path(hf_hub_download(repository, name, revision=revision, etag_timeout=5))
        except TimeoutError as error:
            raise HubUnavailableError(f"{hub} cannot be reached: no answer within {HUB_TIMEOUT_S:g} s") from error
        except Exception as error:  # the client lets errors of its HTTP library through
            if is_disk_full(error):
                raise
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue
            raise HubUnavailableError(f"{hub} does not give it: {reason(error)}") from error
    raise HubUnavailableError(f"{hub} has none of {', '.join(names)} in it")


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise TimeoutError: it is left behind in its thread then.

    A name server that does not answer cannot be given a timeout.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(seconds)


def _read(kind: Weights, path: Path, source: str, warning: str | None = None) -> Source:
    """Read a file of weights onto the CPU, without running code that it may hold.

    A training checkpoint's "state_dict" or "model" is taken out, prefixes of wrappers are cut.
    Raises InputError where the file is damaged, holds anything but tensors, or a number that is not finite.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: not a file of weights by its name. Pass one of {', '.join(SUFFIXES)}.")
    metadata: Mapping[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as opened:
                metadata = opened.metadata() or {}
                content: Any = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on a damaged file unpickling raises nearly any type
        if is_disk_full(error) or isinstance(error, MemoryError):
            raise
        message = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"{path}: cannot be read as weights ({message}). Fetch it again, or save its state_dict as .safetensors."
        ) from error

    if isinstance(content, dict):
        wrapped = (content.get(key) for key in ("state_dict", "model"))
        content = next((each for each in wrapped if isinstance(each, dict)), content)
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds no tensors by name. Save a module's state_dict() in it.")
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"{path}: {name} is a {type(tensor).__name__}, not a tensor. Save the state_dict() only.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} is not finite. Take a checkpoint from before training diverged.")
    # DistributedDataParallel and torch.compile, in either order.
    tensors = {
        re.sub(r"^(_orig_mod\.)?(module\.)?(_orig_mod\.)?", "", str(name)): each for name, each in content.items()
    }
    return Source(kind, source, warning, path, tensors, metadata)
