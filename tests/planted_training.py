"""A network and an objective with a known answer, small stores, and recorders, for the tests of training."""

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planted import PlantedReader
from torch import Tensor, nn

from idl.data.preparation import prepare
from idl.data.reader import Sample
from idl.data.splits import Split, split_by_scene
from idl.data.store import Store
from idl.encoders.autoencoder import AutoencoderConfig
from idl.protocol import Protocol
from idl.report import Image
from idl.training.images import Batch
from idl.training.loop import Trained, TrainingConfig, train
from idl.training.objectives import Autoencoding, Forward, Objective, OnConvNeXt

CPU = torch.device("cpu")
SMALL = AutoencoderConfig(n_hid=4, num_blocks=1, latent_channels=2)
MIXTURE = torch.tensor([[0.5, -1.0, 0.25], [2.0, 0.125, -0.5]])
OFFSET = torch.tensor([0.25, -0.75])


class LabelledReader(PlantedReader):
    """Planted images with the layers of rooms: a pixel's kind and material follow from its red and its green.

    change: what is done to each sample at last.
    """

    change: Callable[[Sample], Sample] = staticmethod(lambda sample: sample)

    def read(self, index: int) -> list[Sample]:
        return [self.change(self._labelled(sample)) for sample in super().read(index)]

    def _labelled(self, sample: Sample) -> Sample:
        layers = {
            "kinds": 1 + sample.rgb[..., 0] // 16,
            "materials": sample.rgb[..., 1] // 20,
            "red": sample.rgb[..., 0],
        }
        return replace(sample, layers={**sample.layers, **layers, "objects": sample.rgb[..., 2]})


def small_store(folder: Path, reader: PlantedReader | None = None) -> tuple[Store, Split]:
    """A store of 24 images of 32 x 32, 8 scenes, 4 of them to train on."""
    reader = reader or PlantedReader(resolution=32)
    store = prepare(reader, Protocol(resolution=32), folder)
    return store, split_by_scene(store.scenes, "4:2:2")


class WideReader(LabelledReader):
    """Labelled images without their lower part, and a layer of another size, "tall"."""

    def read(self, index: int) -> list[Sample]:
        return [
            replace(
                sample,
                rgb=sample.rgb[:24],
                depth_m=sample.depth_m[:24],
                valid=sample.valid[:24],
                layers={name: layer[:24] for name, layer in sample.layers.items()}
                | {"tall": np.tile(sample.rgb[..., 1], (2, 1))[:48, :6]},
            )
            for sample in super().read(index)
        ]


def wide_store(folder: Path) -> Store:
    """A store of 24 images of 24 x 40, some layers compressed, and one, "tall", of 48 x 6."""
    return prepare(WideReader(resolution=40), Protocol(resolution=24, width=40), folder)


class Linear(Objective):
    """A 1 x 1 convolution that is to give MIXTURE times RGB plus OFFSET; validation losses may be planted."""

    task = "mixing"
    purpose = "trained to mix colours"
    encoder = "mixer"
    architecture = "mixer"
    stride = 1
    arguments: Mapping[str, object] = {}

    def __init__(self, planted: Iterable[float] = (), seed: int = 0) -> None:
        self.settings: Mapping[str, object] = {"outputs": 2}
        self.module = nn.Conv2d(3, 2, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self._planted = iter(planted)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        wanted = torch.einsum("oc,bchw->bohw", MIXTURE, batch["rgb"]) + OFFSET.view(-1, 1, 1)
        return (output - wanted).square().mean()

    def evaluate(self, forward: Forward, batches: Iterable[Batch]) -> Mapping[str, float]:
        measured = [float(self.loss(forward(batch["rgb"]), batch)) for batch in batches]
        return {"loss": next(self._planted, float(np.mean(measured)))}

    def panels(self, forward: Forward, batch: Batch) -> Mapping[str, Image]:
        return {}


class SeesNormals(OnConvNeXt):
    """A task that is told the answer."""

    layers = ("rgb", "normals")


@dataclass
class Notes:
    """A recorder that keeps what it is given, and may do something at a step."""

    at: Mapping[int, Callable[[], object]] = field(default_factory=dict)
    points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    panels: list[tuple[int, str]] = field(default_factory=list)

    def log_curves(self, curves: Mapping[str, Mapping[int, float]]) -> None:
        for name, points in curves.items():
            self.points.setdefault(name, []).extend(sorted(points.items()))
        for step in curves.get("train_loss", {}):
            if step in self.at:
                self.at[step]()

    def log_panels(self, panels: Mapping[str, Image], step: int) -> None:
        self.panels += [(step, key) for key in panels]

    def curve(self, name: str) -> list[tuple[int, float]]:
        return self.points.get(name, [])


def signalled(number: int) -> Callable[[], None]:
    """What sends this process a signal."""
    return lambda: os.kill(os.getpid(), number)


class Interrupted(Autoencoding):
    """In the loss of the part `at` of a batch, counted from the first of this process, its process gets a signal."""

    def __init__(self, at: int, number: int = signal.SIGINT) -> None:
        super().__init__(SMALL, seed=0)
        self.num_losses, self.at, self.number = 0, at, number

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        # Counted where gradients are: validations compute losses, too.
        self.num_losses += output.requires_grad
        if self.num_losses == self.at and output.requires_grad:
            signalled(self.number)()
        return super().loss(output, batch)


def trained(
    objective: Objective, config: TrainingConfig, made: tuple[Store, Split], folder: Path, **further: Any
) -> Trained:
    return train(objective, config, *made, folder, CPU, **further)


def same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
