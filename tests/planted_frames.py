"""A small dataset with frames of native size, holes, and a published split; and native metrics by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image
from planted import PlantedReader

from idl.data.images import resize_depth, resize_rgb, truth_mask
from idl.data.reader import Sample
from idl.protocol import NATIVE, Protocol


@dataclass(frozen=True)
class FramesReader(PlantedReader):
    """Frames of smooth colour, depth linear in the red channel, with holes; the last `num_test` scenes are the test.

    frame: (height, width) of the frames. scale: of depth, metres.
    """

    protocol: Protocol = Protocol()  # noqa: RUF009  (frozen)
    frame: tuple[int, int] = (96, 128)
    scale_m: float = 3.0
    num_test: int = 0

    def _sample(self, scene: str, name: str, generator: np.random.Generator) -> Sample:
        height, width = self.frame
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        rgb = coarse.resize((width, height), Image.Resampling.BICUBIC)
        depth_m = self.scale_m * (0.2 + np.asarray(rgb)[..., 0] / 255.0 + 0.02 * generator.standard_normal(self.frame))
        valid = generator.random(self.frame) > 0.1
        valid[height // 3 : height // 2, width // 4 : width // 3] = False
        depth_m = np.where(valid, depth_m, np.nan).astype(np.float32)
        resized_m, kept = resize_depth(depth_m, truth_mask(depth_m, valid, self.protocol), self.protocol)
        layers = {}
        if self.protocol.is_native:
            layers[NATIVE] = np.where(valid, depth_m, np.float32(0))
        side = "test" if int(scene.removeprefix("scene_")) >= self.num_scenes - self.num_test else "train"
        return Sample(
            name,
            scene,
            resize_rgb(np.asarray(rgb), self.protocol),
            resized_m,
            kept,
            layers,
            side if self.num_test else "",
        )


def upsampled(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, pixel centres aligned, by numpy's interpolation in one dimension after the other."""

    def along(values: np.ndarray, size: int) -> np.ndarray:
        at = (np.arange(size) + 0.5) * len(values) / size - 0.5
        columns = [np.interp(at, np.arange(len(values)), values[:, column]) for column in range(values.shape[1])]
        return np.stack(columns, axis=1)

    return along(along(values.astype(np.float64), height).T, width).T


def metrics_by_hand(
    predicted_m: list[np.ndarray],
    truth_m: list[np.ndarray],
    crop: tuple[int, int, int, int],
    range_m: tuple[float, float],
) -> Mapping[str, float]:
    """Both averages of what the published tables hold, image by image: predictions and truth at native size."""
    near, far = range_m
    images, squares, ratios = [], [], []
    for prediction, truth in zip(predicted_m, truth_m, strict=True):
        p, d = (each[crop[0] : crop[1], crop[2] : crop[3]].astype(np.float64) for each in (prediction, truth))
        kept = (d >= near) & (d <= far)
        p, d = np.clip(p[kept], near, far), d[kept]
        ratio = np.maximum(p / d, d / p)
        g = np.log(p) - np.log(d)
        images.append(
            {
                "rmse": np.sqrt(np.mean((p - d) ** 2)),
                "abs_rel": np.mean(np.abs(p - d) / d),
                "log10": np.mean(np.abs(np.log10(p) - np.log10(d))),
                "rmse_log": np.sqrt(np.mean(g**2)),
                "silog": 100 * np.std(g),
                "delta1": np.mean(ratio < 1.25),
                "delta2": np.mean(ratio < 1.25**2),
            }
        )
        squares.append((p - d) ** 2)
        ratios.append(ratio)
    figures = {name: float(np.mean([each[name] for each in images])) for name in images[0]}
    figures["rmse_pooled"] = float(np.sqrt(np.mean(np.concatenate(squares))))
    figures["delta1_pooled"] = float(np.mean(np.concatenate(ratios) < 1.25))
    return figures
