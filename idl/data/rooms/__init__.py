"""The embedded dataset: rendered indoor scenes with exact depth, normals, objects, kinds and materials.

Nothing is on disk: each scene is rendered when it is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache

import numpy as np

from idl.data.reader import Group, Sample
from idl.data.rooms.furniture import KINDS
from idl.data.rooms.geometry import Geometry, draw_camera
from idl.data.rooms.layout import draw_room
from idl.data.rooms.render import draw_lights, render_view
from idl.data.rooms.surfaces import MATERIALS
from idl.errors import InputError

__all__ = ["KINDS", "MATERIALS", "RENDERER_VERSION", "RoomsReader", "RoomsRecipe", "render_scene"]

# Raised by one with every change that alters a pixel: it is part of the dataset's digest.
RENDERER_VERSION = 2


@dataclass(frozen=True)
class RoomsRecipe:
    """What to render. Raises InputError where a number is out of its range.

    num_scenes: rooms in the dataset. views: images of each room. A scene, and a view, is the same whatever these are.
    resolution: side of the square images, pixels. seed: rooms of different seeds are different rooms.
    """

    num_scenes: int = 320
    views: int = 6
    resolution: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("num_scenes", self.num_scenes, 1, 99_999),
            ("views", self.views, 1, 999),
            ("resolution", self.resolution, 16, 2048),
            # 32 bits: a larger seed fills two words of the seed sequence, and could equal another (seed, scene) pair.
            ("dataset_seed", self.seed, 0, 2**32 - 1),
        ):
            if type(value) is not int or not low <= value <= high:
                raise InputError(f"rooms recipe: {name} is {value}, out of range. Give {low} to {high}.")


@dataclass(frozen=True)
class RoomsReader:
    """Reads rooms by rendering them; a group is a room. A median depth of many rooms lies well inside the range."""

    rooms: RoomsRecipe = field(default_factory=RoomsRecipe)
    name: str = "rooms"
    is_deterministic: bool = True
    is_sequential: bool = False
    plausible_median_m: tuple[float, float] = (0.8, 6.0)

    @property
    def source(self) -> str:
        """The recipe in words."""
        r = self.rooms
        return f"{r.num_scenes} rendered rooms, {r.views} views each, seed {r.seed}"

    @property
    def recipe(self) -> Mapping[str, object]:
        """The recipe's numbers and the renderer's version: all that decides the content."""
        return {"renderer": RENDERER_VERSION, **asdict(self.rooms)}

    @property
    def groups(self) -> Sequence[Group]:
        """One group a room."""
        return _groups(self.rooms)

    def read(self, index: int) -> list[Sample]:
        """Render room `index`."""
        return render_scene(self.rooms, index)


@lru_cache(maxsize=4)
def _groups(recipe: RoomsRecipe) -> Sequence[Group]:
    scenes = (f"room_{scene:05d}" for scene in range(recipe.num_scenes))
    return tuple(Group(scene, tuple(f"{scene}_{view}" for view in range(recipe.views))) for scene in scenes)


def render_scene(recipe: RoomsRecipe, scene: int) -> list[Sample]:
    """Render all views of one room; recipe.seed, recipe.resolution and `scene` alone decide a view."""
    room_seed, *view_seeds = np.random.SeedSequence([recipe.seed, scene]).spawn(1 + recipe.views)
    rng = np.random.default_rng(room_seed)
    room = draw_room(rng)
    geometry = Geometry(room)
    lights = draw_lights(rng, geometry, room.size_m)
    tan_half_view = float(np.tan(np.radians(rng.uniform(55, 80)) / 2))
    samples, positions = [], np.empty((0, 3))
    for view, seed in enumerate(view_seeds):
        rng = np.random.default_rng(seed)
        camera = draw_camera(rng, geometry, room.size_m, tan_half_view, positions)
        positions = np.concatenate([positions, camera.position_m[None]])
        brightness = rng.uniform(0.22, 0.42)
        maps = render_view(geometry, lights, camera, recipe.resolution, brightness)
        samples.append(Sample(f"room_{scene:05d}_{view}", f"room_{scene:05d}", **maps))
    return samples
