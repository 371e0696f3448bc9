"""Losses image by image whose true effects are known, for tests and benchmarks of the verdict.

The loss of an arm on an image is pixels x scene and image x arm x the arm's own deviations by scene and image, all with
means of 1 and independent, so that the true log ratio of two arms is that of their factors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64

from idl.probes.exact import Solution
from idl.verdict.result import Arm, Cell, Clustering

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

    def cell(self, generator: np.random.Generator, name: str = "planted") -> Cell:
        """Draw scenes and their images: a cell that no gate stops, if there are scenes enough."""
        num_images = self.num_scenes * self.images_per_scene
        num_valid = generator.integers(30_000, 65_537, num_images).astype(np.float64)
        shared = num_valid * self._shared(generator)
        factors = {"constant": 4.0, "null": 3.0, "trained": 1.2, "pixels": math.exp(self.beyond_pixels)}
        errors = {arm: shared * factor * self._own(generator, 0.2) for arm, factor in factors.items()}
        errors["trained+pixels"] = shared * self._own(generator, 0.5)
        for form in FORMS:
            # Seeds of one form fail in the same scenes.
            of_form = shared * math.exp(self.learned) * self._own(generator, 0.15)
            for seed in range(NUM_SEEDS):
                errors[f"untrained-{form}-{seed}+pixels"] = of_form * self._own(generator, 0.1)
        fits = sound_fits()
        # Each arm's own share of its error is one of structure.
        arms = {
            arm: replace(fits[arm], squared_error=error, aligned_error=error * (0.3 + 0.01 * rank))
            for rank, (arm, error) in enumerate(errors.items())
        }
        lent = {"trained": shared * self._own(generator, 0.2), "constant": shared * 1.1 * self._own(generator, 0.2)}
        shuffled = {arm: replace(fits[arm], squared_error=error, aligned_error=error) for arm, error in lent.items()}
        scenes = tuple(f"scene {index // self.images_per_scene:04d}" for index in range(num_images))
        return Cell(name, arms, num_valid, Clustering(scenes, "scene"), shuffled)

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


def fit(train_loss: float, loss: float = 1.0, **others: float) -> Arm:
    """Return a fit of no fault, `others` of it or of its solution aside. loss: on validation, and cross-validated."""
    recovered = others.pop("recovered", 1.0)
    ranks, errors = {"rank": 5, "expected_rank": 5}, {"val_error": 0.1, "cv_error": 0.1}
    losses = {**ranks, "plain_train_loss": train_loss, "val_loss": loss, "cv_loss": loss, **errors, **others}
    solution = replace(plain_solution(5), **losses)  # pyright: ignore[reportArgumentType]
    return Arm((), solution, recovered)


def sound_fits() -> dict[str, Arm]:
    """Return fits that pass every gate; of the forms, "permuted" is the stronger."""
    fits = {"constant": fit(4.0, 4.0), "null": fit(3.0, 3.0), "trained": fit(1.2, 1.2)}
    fits |= {"pixels": fit(2.0, 2.0), "trained+pixels": fit(1.0, 0.9)}
    for form in FORMS:
        for seed in range(NUM_SEEDS):
            fits[f"untrained-{form}-{seed}+pixels"] = fit(1.1, 1.0 + 0.1 * (form == "random") + 0.01 * seed)
    return fits


def with_fits(cell: Cell, fits: Mapping[str, Arm]) -> Cell:
    """Return the cell with other fits of some of its arms."""
    arms = {
        name: replace(fits.get(name, arm), squared_error=arm.squared_error, aligned_error=arm.aligned_error)
        for name, arm in cell.arms.items()
    }
    return replace(cell, arms=arms)


def plain_solution(k: int) -> Solution:
    """Return a solution of numbers that can be told apart, its weights aside."""
    return Solution(
        k=k,
        penalty=0.0,
        weights=torch.zeros(1, 1, dtype=torch.float64),
        rank=1,
        train_loss=3.0,
        plain_train_loss=2.75,
        excess_loss=0.0,
        val_loss=4.0,
        val_error=0.125,
        cv_loss=4.5,
        cv_error=0.25,
    )
