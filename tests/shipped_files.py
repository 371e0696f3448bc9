"""Small stand-ins for the weights that come with the package, saved just as those are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from idl.encoders.autoencoder import Autoencoder, AutoencoderConfig

SIZE = AutoencoderConfig(n_hid=8, latent_channels=4, n_init=6)
# Narrow, and away from every default, so that no other architecture and no other arguments take its weights.
ATTO: Mapping[str, Any] = {"dims": [8, 8, 16, 16], "depths": [1, 1, 2, 1], "ls_init_value": 0.1}
ATTO_SUMMARY = "convnext_atto, trained to say which kind of thing each pixel of rendered rooms shows"


def save_half(path: Path, model: nn.Module, architecture: str, config: Mapping[str, object], task: str) -> None:
    """Save in half precision, with the metadata of every file that is trained here."""
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {
        "format": "pt",
        "task": task,
        "architecture": architecture,
        "config": json.dumps(config),
        "dataset": "rooms",
        "dataset_digest": "0123456789abcdef",
        "seed": "0",
    }
    save_file(state, path, metadata=metadata)


def autoencoder(config: AutoencoderConfig = SIZE, seed: int = 11) -> Autoencoder:
    """An autoencoder with the weights of `seed`, rounded to half precision."""
    return Autoencoder(config, seed).half().float()


def convnext_atto(seed: int = 11) -> nn.Module:
    """A narrow convnext_atto, likewise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model("convnext_atto", num_classes=7, **ATTO).half().float().eval()


def ship(folder: Path) -> Path:
    """Fill a folder as the package's is, and return it."""
    folder.mkdir()
    save_half(folder / "autoencoder_small.safetensors", autoencoder(), "dvae", SIZE.arguments, "reconstruction")
    save_half(folder / "convnext_atto_segmentation.safetensors", convnext_atto(), "convnext_atto", ATTO, "segmentation")
    (folder / "autoencoder_small.json").write_text(json.dumps({"summary": "a small autoencoder"}))
    (folder / "convnext_atto_segmentation.json").write_text(json.dumps({"summary": ATTO_SUMMARY}))
    return folder
