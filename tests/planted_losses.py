"""Losses image by image whose true effects are known, for tests and benchmarks of the verdict.

The loss of an arm on an image is pixels x scene and image x arm x the arm's own deviations by scene and image, all with
means of 1 and independent, so that the true log ratio of two arms is that of their factors.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64

from idl.probes.exact import Solution
from idl.verdict import Cell, Evidence, FitRecord, Shuffled, Training, untrained_and_pixels

Shape = Literal["normal", "skewed"]

FORMS = ("random", "permuted")
NUM_SEEDS = 3


@dataclass(frozen=True)
class PlantedLosses:
    """Where losses come from.

    beyond_pixels, learned: the true estimands; every seed has the second one.
    shape: "normal": deviations of 10 % by scene and by image. "skewed": lognormal; trained+pixels fails badly in a few
      scenes (deviations of 53 % by scene), which a sample of few scenes easily misses: the hard case.
    """

    num_scenes: int
    shape: Shape = "normal"
    beyond_pixels: float = 1.0
    learned: float = 1.0
    images_per_scene: int = 6

    def draw(self, generator: np.random.Generator) -> Evidence:
        """Draw scenes and their images."""
        num_images = self.num_scenes * self.images_per_scene
        num_valid = generator.integers(30_000, 65_537, num_images).astype(np.float64)
        shared = num_valid * self._shared(generator)
        factors = {"constant": 4.0, "null": 3.0, "trained": 1.2, "pixels": math.exp(self.beyond_pixels)}
        squared_error = {arm: shared * factor * self._own(generator, 0.2) for arm, factor in factors.items()}
        squared_error["trained+pixels"] = shared * self._own(generator, 0.5)
        for form in FORMS:
            # Seeds of one form fail in the same scenes.
            of_form = shared * math.exp(self.learned) * self._own(generator, 0.15)
            for seed in range(NUM_SEEDS):
                arm = untrained_and_pixels(form, seed)
                squared_error[arm] = of_form * self._own(generator, 0.1)
        shuffled = Shuffled(shared * self._own(generator, 0.2), shared * 1.1 * self._own(generator, 0.2))
        scenes = [f"scene {index // self.images_per_scene:04d}" for index in range(num_images)]
        # Each arm's own share of its error is one of structure.
        aligned = {arm: errors * (0.3 + 0.01 * rank) for rank, (arm, errors) in enumerate(squared_error.items())}
        return Evidence(scenes, num_valid, squared_error, shuffled, aligned)

    def cell(self, generator: np.random.Generator, name: str = "planted") -> Cell:
        """Draw a cell that no gate stops, if there are scenes enough."""
        return Cell(name, self.draw(generator), sound_training())

    def _shared(self, generator: np.random.Generator) -> Float64[np.ndarray, " images"]:
        by_scene, by_image = self._normal(generator)
        if self.shape == "normal":
            return np.maximum(1 + 0.25 * by_scene + 0.2 * by_image, 0.05)
        return np.exp(0.6 * by_scene + 0.4 * by_image)

    def _own(self, generator: np.random.Generator, spread: float) -> Float64[np.ndarray, " images"]:
        """Deviations of mean 1; `spread` counts for the skewed ones."""
        by_scene, by_image = self._normal(generator)
        if self.shape == "normal":
            return np.maximum(1 + 0.1 * by_scene + 0.1 * by_image, 0.0)
        return np.exp(spread * by_scene - spread**2 / 2 + 0.1 * by_image - 0.1**2 / 2)

    def _normal(
        self, generator: np.random.Generator
    ) -> tuple[Float64[np.ndarray, " images"], Float64[np.ndarray, " images"]]:
        by_scene = np.repeat(generator.standard_normal(self.num_scenes), self.images_per_scene)
        return by_scene, generator.standard_normal(len(by_scene))


def record(train_loss: float, cv_loss: float = 1.0, **others: float) -> FitRecord:
    """Return a fit of no fault, `others` aside."""
    sound = FitRecord(train_loss, 0.0, cv_loss, 0.1, cv_loss, 0.1, rank=5, expected_rank=5, recovered=1.0)
    return replace(sound, **others)  # pyright: ignore[reportArgumentType]


def sound_training(**changed: FitRecord) -> Training:
    """Return fits that pass every gate, but for those that are `changed`; of the forms, "permuted" is the stronger."""
    fits = {"constant": record(4.0, 4.0), "trained": record(1.2, 1.2)}
    fits |= {"pixels": record(2.0, 2.0), "trained+pixels": record(1.0, 0.9)}
    for form in FORMS:
        for seed in range(NUM_SEEDS):
            fits[untrained_and_pixels(form, seed)] = record(1.1, 1.0 + 0.1 * (form == "random") + 0.01 * seed)
    return Training({**fits, **changed})


def plain_solution(k: int) -> Solution:
    """Return a solution of numbers that can be told apart, its weights aside."""
    return Solution(
        k=k,
        penalty=0.0,
        weights=torch.zeros(1, 1, dtype=torch.float64),
        num_columns=1,
        rank=1,
        train_loss=3.0,
        plain_train_loss=2.75,
        excess_loss=0.0,
        val_loss=4.0,
        val_error=0.125,
        cv_loss=4.5,
        cv_error=0.25,
    )
