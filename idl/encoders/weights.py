"""Weights: where they come from, how a file of them is read, and whether they fit an architecture."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from idl.encoders.base import EncoderConfig, Origin, Weights, digest_of
from idl.errors import InputError, is_disk_full

T = TypeVar("T")

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# Without a network timm retries for 50 s before it gives up.
HUB_TIMEOUT_S = 3.0
SHIPPED_FOLDER = Path(__file__).with_name("shipped_weights")
# By the encoder's name on the command line. A ConvNeXt of any other size, or with a tag of timm's, has nothing here.
SHIPPED = {
    "autoencoder": "autoencoder_small",
    "convnext": "convnext_atto_rooms",
    "timm:convnext_atto": "convnext_atto_rooms",
}


@dataclass(frozen=True)
class Source:
    """Weights that are at hand.

    path: local file; None for random weights and those that a factory sets.
    source: path, URI or hub repository, for people.
    warning: one line where these are not the weights that a user would expect.
    """

    kind: Weights
    path: Path | None
    source: str
    warning: str | None = None

    def origin(self, architecture: str, network: nn.Module, task: str, seed: int | None) -> Origin:
        """Return the origin of a network with these weights."""
        digest = digest_of(network.state_dict())
        return Origin(architecture, self.kind, digest, task, seed, self.source, self.warning)

    def read(self) -> "Checkpoint | None":
        """Return what the file holds, None where there is none."""
        return None if self.path is None else read(self.path)


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a file by name, and the text that a safetensors file carries beside them.

    metadata: files trained or registered here have "architecture", "task", and as "config" the JSON object of
      the arguments that the architecture was built with.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]

    def arguments(self, architecture: str) -> dict[str, Any]:
        """Return what `architecture` was built with, as far as the file knows; nothing where it is of another.

        Raises InputError where that is damaged.
        """
        text = self.metadata.get("config")
        if text is None or self.metadata.get("architecture") != architecture:
            return {}
        try:
            return dict(json.loads(text))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self.path}: its metadata's config is no JSON object: {text[:80]}. Save it again."
            ) from error


class HubUnavailableError(Exception):
    """A file can be had neither from the cache nor from the hub; the text says why."""


def locate(
    config: EncoderConfig, architecture: str, names: Sequence[str], repository: str = "", files: Sequence[str] = ()
) -> Source:
    """Find the weights that `config` asks for by one of `names`, by a path or by a URI of the registry.

    names: "random", "shipped", "auto", and "imagenet" where there may be some on the hub: then `repository` and `files`
      are as of `fetch`, or empty.
    Raises InputError where they cannot be had. Only "auto" falls back, with a warning: to weights that come with
    the package for this encoder's name, which may be of another architecture, else to random ones.
    """
    if config.weights not in names:
        return locate_file(config, names)
    if config.weights == "random":
        return Source("random", None, f"random, seed {config.seed}")
    reason = ""
    if config.weights != "shipped" and "imagenet" in names:
        try:
            return Source("imagenet", fetch(repository, files), f"hf-hub:{repository}")
        except HubUnavailableError as error:
            reason = str(error)
        if config.weights == "imagenet":
            raise InputError(
                f"weights=imagenet for {architecture}: {reason}. "
                "Pass weights=PATH (a .safetensors file of it), weights=random or weights=auto."
            )
    shipped = shipped_for(config.name)
    if shipped is not None:
        path, card = shipped
        warning = (
            f"{config.name} runs as the shipped {card.get('summary', path.stem)}, not with ImageNet weights: {reason}. "
            "Pass weights=imagenet to insist, or weights=PATH (a .safetensors file of it) for others."
        )
        return Source("shipped", path, f"{path.name} of the package", warning if reason else None)
    missing = f"nothing ships for it, but for {', '.join(SHIPPED)}"
    if config.name in SHIPPED:
        missing = "the files that ship with the package are missing from this installation"
    if config.weights == "shipped":
        raise InputError(f"weights=shipped for {config.name}: {missing}. Pass weights=random, or weights=PATH.")
    warning = (
        f"{architecture} runs with RANDOM weights, which have learned nothing: {reason or missing}. "
        "Pass weights=PATH (a .safetensors file of it) for trained ones."
    )
    return Source("random", None, f"random, seed {config.seed}", warning)


def locate_file(config: EncoderConfig, names: Sequence[str]) -> Source:
    """Find the weights that are a path or a URI of the registry. names: what else could be passed, for the message."""
    if config.weights.startswith("models:/"):
        if config.registry_file is None:
            raise InputError(f"weights={config.weights}: not fetched from the registry. Pass registry_file beside it.")
        return Source("registry", config.registry_file, config.weights)
    path = Path(config.weights).expanduser()
    if not path.is_file():
        raise InputError(
            f"weights={config.weights}: no such file. Pass {', '.join(names)}, the path of a .safetensors or .pth "
            "file, or models:/NAME/VERSION."
        )
    return Source("file", path, str(path))


def shipped_for(encoder: str) -> tuple[Path, Mapping[str, object]] | None:
    """Return what ships for an encoder's name: the file, and the card that says how it was trained.

    None where nothing ships, or the installation lacks either. Raises InputError where the card is damaged.
    """
    if encoder not in SHIPPED:
        return None
    path = SHIPPED_FOLDER / f"{SHIPPED[encoder]}.safetensors"
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
            message = " ".join(str(error).split())[:200] or type(error).__name__
            raise HubUnavailableError(f"{hub} does not give it: {message}") from error
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


def read(path: Path) -> Checkpoint:
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
                content: object = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on a damaged file unpickling raises nearly any type
        if is_disk_full(error) or isinstance(error, MemoryError):
            raise
        message = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"{path}: cannot be read as weights ({message}). Fetch it again, or save its state_dict as .safetensors."
        ) from error

    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds no tensors by name. Save a module's state_dict() in it.")
    tensors: dict[str, Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"{path}: {name} is a {type(tensor).__name__}, not a tensor. Save the state_dict() only.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} is not finite. Take a checkpoint from before training diverged.")
        # DistributedDataParallel and torch.compile, in either order.
        plain = str(name).removeprefix("_orig_mod.").removeprefix("module.").removeprefix("_orig_mod.")
        tensors[plain] = tensor
    return Checkpoint(path, tensors, metadata)


def load(model: nn.Module, tensors: Mapping[str, Tensor], head: tuple[str, ...], path: Path, architecture: str) -> None:
    """Load `tensors` into `model`, all of them; the classifier's may be missing, extra, or of another size.

    head: names of the top-level modules that only classify.
    Raises InputError, naming the first tensors that do not fit.
    """
    expected, own = (
        {name: tensor for name, tensor in each.items() if name.split(".")[0] not in head}
        for each in (model.state_dict(), tensors)
    )
    faults = {
        "missing": [name for name in expected if name not in own],
        "unexpected": [name for name in own if name not in expected],
        "of another shape": [
            f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
            for name, tensor in own.items()
            if name in expected and tensor.shape != expected[name].shape
        ],
    }
    messages = [f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in faults.items() if names]
    if messages:
        raise InputError(
            f"{path}: not weights of {architecture}: of its {len(expected)} tensors, {'; '.join(messages)}. "
            "Pass the encoder that they belong to, with its encoder_args."
        )
    model.load_state_dict(own, strict=False)
