"""Weights: where they come from, how a file of them is read, and whether they fit an architecture."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idl.encoders import hub
from idl.encoders.base import EncoderConfig, Weights
from idl.encoders.shipped import FILES, shipped_for
from idl.errors import InputError, is_disk_full

PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *PICKLED)
_NUM_NAMED = 3


@dataclass(frozen=True)
class Source:
    """Weights that are at hand.

    path: local file; None for random weights.
    source: path, URI or hub repository, for people.
    warning: one line where these are not the weights that a user would expect.
    """

    kind: Weights
    path: Path | None
    source: str
    warning: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: tensors by name, and the text that a safetensors file carries beside them.

    metadata: files trained or registered here say "architecture", "task", and as "config" the JSON object of
      the arguments that the architecture was built with.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]

    def arguments(self, architecture: str) -> dict[str, Any]:
        """Give what `architecture` was built with, as far as the file says it; nothing where it is of another.

        Raises InputError where that is damaged.
        """
        text = self.metadata.get("config")
        if text is None or self.metadata.get("architecture") != architecture:
            return {}
        try:
            arguments = json.loads(text)
        except json.JSONDecodeError:
            arguments = None
        if not isinstance(arguments, dict):
            raise InputError(f"{self.path}: its metadata's config is no JSON object: {text[:80]}. Save it again.")
        return arguments


def locate(config: EncoderConfig, architecture: str, file: hub.HubFile | None) -> Source:
    """Find the weights that `config` asks for.

    file: the architecture's ImageNet weights on the hub, None where there are none.
    Raises InputError where they cannot be had. Only "auto" falls back, with a warning: to weights that come with
    the package for this encoder's name, which may be of another architecture, else to random ones.
    """
    wanted = config.weights
    if wanted not in ("imagenet", "auto"):
        return locate_local(config, "imagenet, shipped, random, auto, ")
    if file is None:
        reason = "timm knows no weights for it on the hub"
    else:
        try:
            return Source("imagenet", hub.fetch(file), f"hf-hub:{file.repository}")
        except hub.HubUnavailableError as error:
            reason = f"{error} ({file.repository} is not in the local cache either)"
    if wanted == "imagenet":
        raise InputError(
            f"weights=imagenet for {architecture}: {reason}. "
            "Pass weights=PATH (a .safetensors file of it), weights=random or weights=auto."
        )
    if (found := shipped_for(config.name)) is not None:
        warning = (
            f"{config.name} runs as the shipped {found.summary}, not with ImageNet weights: {reason}. "
            "Pass weights=imagenet to insist, or weights=PATH (a .safetensors file of it) for others."
        )
        return Source("shipped", found.path, found.source, warning)
    return random_instead(config, architecture, reason)


def locate_shipped(config: EncoderConfig) -> Source | None:
    """Find the weights that come with the package for an encoder of this name, or None."""
    found = shipped_for(config.name)
    return None if found is None else Source("shipped", found.path, found.source)


def random_instead(config: EncoderConfig, architecture: str, reason: str) -> Source:
    """Give random weights where trained ones were wanted, with a warning that says why."""
    warning = (
        f"{architecture} runs with RANDOM weights, which have learned nothing: {reason}. "
        "Pass weights=PATH (a .safetensors file of it) for trained ones."
    )
    return Source("random", None, f"random, seed {config.seed}", warning)


def locate_local(config: EncoderConfig, others: str) -> Source:
    """Find weights that need no hub: "random", "shipped", a path, or a URI of the registry.

    others: what else could have been passed, for the message.
    Raises InputError where they cannot be had.
    """
    if config.weights == "random":
        return Source("random", None, f"random, seed {config.seed}")
    if config.weights == "shipped":
        found = locate_shipped(config)
        if found is not None:
            return found
        if config.name in FILES:
            missing = "the files are missing from this installation. Install the package again"
        else:
            missing = f"nothing ships for it, but for {', '.join(FILES)}. Name one of these"
        raise InputError(f"weights=shipped for {config.name}: {missing}, or pass weights=random.")
    return locate_file(config, others)


def locate_file(config: EncoderConfig, others: str) -> Source:
    """Find the weights that are a path or a URI of the registry.

    others: what else could have been passed, for the message.
    Raises InputError where there is no such file, or its name does not end as a file of weights does.
    """
    wanted = config.weights
    if wanted.startswith("models:/"):
        if config.registry_file is None:
            raise InputError(f"weights={wanted}: not fetched from the registry. Pass registry_file beside it.")
        return Source("registry", config.registry_file, wanted)
    path = Path(wanted).expanduser()
    if not path.is_file():
        raise InputError(
            f"weights={wanted}: no such file. Pass {others}the path of a .safetensors or .pth file, "
            "or models:/NAME@ALIAS."
        )
    return Source("file", path, str(path))


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
        raise InputError(
            f"{path}: cannot be read as weights ({_first_line(error)}). "
            "Fetch it again, or save its state_dict as .safetensors."
        ) from error

    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds no tensors by name. Save a module's state_dict() in it.")
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"{path}: {name} is a {type(tensor).__name__}, not a tensor. Save the state_dict() only.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} is not finite. Take a checkpoint from before training diverged.")
    return Checkpoint(path, {_unwrapped(str(name)): tensor for name, tensor in content.items()}, metadata)


def load(model: nn.Module, tensors: Mapping[str, Tensor], head: tuple[str, ...], path: Path, architecture: str) -> None:
    """Load `tensors` into `model`, all of them; the classifier's may be missing, extra, or of another size.

    head: names of the top-level modules that only classify.
    Raises InputError, naming the first tensors that do not fit.
    """
    expected = model.state_dict()
    own = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] not in head}
    needed = {name for name in expected if name.split(".")[0] not in head}
    faults = {
        "missing": sorted(needed - own.keys()),
        "unexpected": sorted(own.keys() - needed),
        "of another shape": [
            f"{name} {tuple(own[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in sorted(needed & own.keys())
            if own[name].shape != expected[name].shape
        ],
    }
    told = [
        f"{len(names)} {kind} ({', '.join(names[:_NUM_NAMED])}{', ...' if len(names) > _NUM_NAMED else ''})"
        for kind, names in faults.items()
        if names
    ]
    if told:
        raise InputError(
            f"{path}: not weights of {architecture}: of its {len(needed)} tensors, {'; '.join(told)}. "
            "Pass the encoder that they belong to, with its encoder_args."
        )
    model.load_state_dict(own, strict=False)


def _unwrapped(name: str) -> str:
    # DistributedDataParallel and torch.compile, in either order.
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    return name


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
