"""The recipe of the rooms dataset: the few numbers that fix every pixel of it."""

from dataclasses import dataclass

from idl.errors import InputError

# Raised by one with every change that alters a pixel: it is part of the dataset's digest.
RENDERER_VERSION = 2

MAX_SCENES = 99_999
MIN_RESOLUTION = 16
MAX_RESOLUTION = 2048


@dataclass(frozen=True)
class RoomsRecipe:
    """What to render.

    num_scenes: rooms in the dataset, 1 to 99,999; scene k is the same whatever this number is.
    views: images of each room, at least 1; view j is the same whatever this number is.
    resolution: side of the square images, pixels.
    seed: rooms of different seeds are different rooms.

    Raises InputError where a number is out of its range.
    """

    num_scenes: int = 320
    views: int = 6
    resolution: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        _check("num_scenes", self.num_scenes, 1, MAX_SCENES)
        _check("views", self.views, 1, 999)
        _check("resolution", self.resolution, MIN_RESOLUTION, MAX_RESOLUTION)
        # 32 bits: a larger seed fills two words of the seed sequence, and could equal another (seed, scene) pair.
        _check("dataset_seed", self.seed, 0, 2**32 - 1)


def _check(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"rooms recipe: {name} is {value!r}, expected a whole number. Give {low} to {high}.")
    if not low <= value <= high:
        raise InputError(f"rooms recipe: {name} is {value}, out of range. Give {low} to {high}.")
