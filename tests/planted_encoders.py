"""Encoders that see RGB only, of which it is known what they carry: depth, pixels or noise; with twins.

A network cannot compute an image's true depth; it recognises the image instead, and has its depth map in a buffer. What
training made of it is one parameter, a key: the depth map comes through where it fits a lock. Random weights have
another key, and a permuted key fits no better, so that twins carry noise of the same variance in its place.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn

from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig, build

Kind = Literal["depth", "pixels", "convolutions", "noise"]
# By stride: (effect - 1) times the variance of the noise that leaves this effect, where depth's variance is 1; measured
# on 1,000 images. Pixels leave 0.64 of that; upsampling averages noise of neighbours at 8, detail is lost at 16.
_EFFECT_TIMES_NOISE = {8: 1.05, 16: 0.75}
# Twins have seeds from 0 on.
TRAINED_SEED = 1_000
_KEY_LENGTH = 256


@dataclass(frozen=True)
class Planted:
    """What is planted.

    kind: "depth": depth plus noise in some planes, beside convolutions and noise. "pixels": linear functions of the
      pixels under a cell. "convolutions": rectified ones, random; nothing was learned. "noise".
    effect: of depth, MSE[pixels] / MSE[trained+pixels] with many images, about.
    planes: that depth is spread over, each with noise of its own; their mean has that effect.
    gain: standard deviation of these planes, as a share of that of the noise beside them: far below 1 the last
      principal components hold them.
    common: share of the variance of the noise beside depth that all cells of all views of a scene have in common.
    """

    kind: Kind
    effect: float = 1.0
    planes: int = 4
    gain: float = 1.0
    common: float = 0.0


PLANTED: Mapping[str, Planted] = {
    "depth-1.3": Planted("depth", 1.3),
    "depth-1.1": Planted("depth", 1.1),
    "depth-1.07": Planted("depth", 1.07),
    "depth-1.02": Planted("depth", 1.02),
    "depth-1.3-late": Planted("depth", 1.3, gain=0.05),
    "depth-1.1-late": Planted("depth", 1.1, gain=0.05),
    "depth-1.3-common": Planted("depth", 1.3, common=0.6),
    "depth-1.1-common": Planted("depth", 1.1, common=0.6),
    "pixels": Planted("pixels"),
    "twin": Planted("convolutions"),
    "noise": Planted("noise"),
    "scene-noise": Planted("noise", common=1.0),
}


@dataclass(frozen=True)
class Gallery:
    """The images of a store, by what they look like: their depth and their scenes.

    index: the store's image of each digest of pixels. scene: number of each image's.
    depth: mean of each cell, with mean 0 and variance 1 over the store.
    """

    index: Mapping[bytes, int]
    depth: Float32[Tensor, "images 1 h w"]
    scene: Int64[Tensor, " images"]

    def recognise(self, x: Float32[Tensor, "batch 3 H W"]) -> list[int | None]:
        """Return the store's index of each image; None of one that it does not have."""
        return [self.index.get(_digest(image)) for image in (x * 255).round().to(torch.uint8)]


def _digest(rgb: UInt8[Tensor, "3 H W"]) -> bytes:
    return hashlib.sha256(rgb.contiguous().numpy().tobytes()).digest()


@lru_cache(maxsize=4)
def gallery(path: Path, stride: int) -> Gallery:
    """Return the images of the store at `path`, their depth at a stride. Nobody may change it."""
    store = Store.open(path)
    read = store.read(("rgb", "depth", "valid"), range(store.num_images))
    depth_m, valid = (torch.from_numpy(read[layer]).float()[:, None] for layer in ("depth", "valid"))
    share = F.avg_pool2d(valid, stride)
    depth_m = F.avg_pool2d(depth_m * valid, stride) / share.clamp(min=1e-6)
    numbers = {scene: number for number, scene in enumerate(dict.fromkeys(store.scenes))}
    scene = torch.tensor([numbers[scene] for scene in store.scenes])
    index = {_digest(rgb): place for place, rgb in enumerate(torch.from_numpy(read["rgb"]).permute(0, 3, 1, 2))}
    assert len(index) == store.num_images, "two images look the same"
    return Gallery(index, (depth_m - depth_m.mean()) / depth_m.std(), scene)


class PlantedNetwork(nn.Module):
    """Planes of known content, mixed into channels by an orthogonal matrix. seed: of noise and weights."""

    lock: Tensor

    def __init__(self, planted: Planted, channels: int, stride: int, images: Gallery, seed: int):
        super().__init__()
        self.planted, self.stride, self.seed = planted, stride, seed
        self.images = images
        generator = torch.Generator().manual_seed(seed * 2**31 + int(torch.randint(2**31, ())))
        self.num_filters, self.num_noise = _planes(planted, channels)
        side = stride if planted.kind == "pixels" else 3 * stride
        filters = torch.randn(self.num_filters, 3, side, side, generator=generator)
        self.filters = nn.Parameter(filters / 3**0.5 / side)
        self.biases = nn.Parameter(torch.randn(self.num_filters, generator=generator) / 2)
        num_planes = self.num_filters + self.num_noise + (planted.planes if planted.kind == "depth" else 0)
        square = torch.randn(num_planes, num_planes, generator=generator)
        self.mix = nn.Parameter(torch.linalg.qr(square).Q[:channels].contiguous())
        self.key = nn.Parameter(torch.randn(_KEY_LENGTH, generator=generator))
        self.register_buffer("lock", torch.randn(_KEY_LENGTH, generator=torch.Generator().manual_seed(0)))

    def learn(self) -> None:
        """Do what training would, in place."""
        with torch.no_grad():
            self.key.copy_(self.lock)

    @property
    def is_open(self) -> bool:
        """Whether the key fits. That of a twin has a correlation of 0 +- 0.06 with the lock."""
        return float(F.cosine_similarity(self.key, self.lock, dim=0)) > 0.5

    def forward(self, x: Float32[Tensor, "batch 3 H W"]) -> Float32[Tensor, "batch channels h w"]:
        grid = (x.shape[2] // self.stride, x.shape[3] // self.stride)
        indices = self.images.recognise(x)
        planes = [self._noise(indices, grid)]
        if self.num_filters:
            planes.append(self._filtered(x))
        if self.planted.kind == "depth":
            planes.append(self._depth(indices, grid))
        return torch.einsum("oc,bchw->bohw", self.mix, torch.cat(planes, dim=1))

    def _filtered(self, x: Tensor) -> Tensor:
        """Linear functions of the pixels under each cell, or rectified ones of those and of its eight neighbours'."""
        reach = (self.filters.shape[-1] - self.stride) // 2
        found = F.conv2d(x - 0.5, self.filters, stride=self.stride, padding=reach)
        if self.planted.kind == "pixels":
            return found
        # An image's values spread by a quarter: four times that is about as large as the biases.
        return torch.relu(4 * found + self.biases[:, None, None])

    def _noise(self, indices: list[int | None], grid: tuple[int, int]) -> Tensor:
        own = self._draws(indices, (self.num_noise, *grid), 0)
        scenes = [None if index is None else int(self.images.scene[index]) for index in indices]
        common = self._draws(scenes, (self.num_noise, 1, 1), 2)
        return self.planted.common**0.5 * common + (1 - self.planted.common) ** 0.5 * own

    def _depth(self, indices: list[int | None], grid: tuple[int, int]) -> Tensor:
        """Depth plus noise where the key fits, else noise, of the same variance."""
        noise = self._draws(indices, (self.planted.planes, *grid), 1)
        if self.is_open:
            noise_variance = _EFFECT_TIMES_NOISE[self.stride] / (self.planted.effect - 1) * self.planted.planes
            nothing = torch.zeros(1, *grid)
            depth = torch.stack([nothing if index is None else self.images.depth[index] for index in indices])
            noise = (depth + noise_variance**0.5 * noise) / (1 + noise_variance) ** 0.5
        return self.planted.gain * noise

    def _draws(self, numbers: list[int | None], shape: tuple[int, ...], stream: int) -> Tensor:
        """Standard normal numbers that are always the same for one number; zeros for None."""
        drawn = torch.zeros(len(numbers), *shape)
        for row, number in zip(drawn, numbers, strict=True):
            if number is not None:
                seed = (self.seed * 3 + stream) * 2**24 + number
                row.normal_(generator=torch.Generator().manual_seed(seed))
        return drawn


def _planes(planted: Planted, channels: int) -> tuple[int, int]:
    """Planes of filters and of noise. Of noise alone twice the channels: each twin reads another half of it."""
    if planted.kind in ("pixels", "convolutions"):
        return channels, 0
    if planted.kind == "noise":
        return 0, 2 * channels
    rest = channels - planted.planes
    return rest // 2, rest - rest // 2


def network(*, store: str, channels: int, stride: int, seed: int, **planted: object) -> PlantedNetwork:
    """Make an untrained network: factory for `encoder=planted_encoders:network`, with the fields of `Planted`."""
    images = gallery(Path(store), stride)
    return PlantedNetwork(Planted(**planted), channels, stride, images, seed).eval()  # pyright: ignore[reportArgumentType]


def planted_encoder(planted: Planted, store: Store, *, channels: int = 96, stride: int = 8, seed: int = 0) -> Encoder:
    """Return the trained encoder, whose twins can be built by name.

    seed: of its weights and of all noise, that of its twins too.
    """
    arguments = {"store": str(store.path), "channels": channels, "stride": stride, "seed": seed, **asdict(planted)}
    config = EncoderConfig("planted_encoders:network", encoder_args=json.dumps(arguments), seed=TRAINED_SEED)
    untrained = build(config, torch.device("cpu"))
    trained = untrained.network
    assert isinstance(trained, PlantedNetwork)
    trained.learn()
    return untrained.with_network(trained, "custom", "planting", "planted_encoders:network, trained", TRAINED_SEED)
