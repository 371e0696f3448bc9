"""The rooms dataset as a reader: nothing on disk, each scene rendered when it is read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

from idl.data.reader import Group, Sample
from idl.data.rooms.render import RENDERER_VERSION, RoomsRecipe, image_name, render_scene, scene_name


@dataclass(frozen=True)
class RoomsReader:
    """Reads rooms by rendering them. What to render is in `rooms`; a group is a room."""

    rooms: RoomsRecipe = field(default_factory=RoomsRecipe)

    @property
    def name(self) -> str:
        """The dataset's name."""
        return "rooms"

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
    def is_deterministic(self) -> bool:
        """The recipe alone fixes the content."""
        return True

    @property
    def is_sequential(self) -> bool:
        """Rooms are drawn one by one: any order will do."""
        return False

    @property
    def plausible_median_m(self) -> tuple[float, float]:
        """Medians over many rooms of 3 to 6.5 m lie well inside."""
        return (0.8, 6.0)

    @property
    def groups(self) -> Sequence[Group]:
        """One group a room."""
        return self._groups

    @cached_property
    def _groups(self) -> Sequence[Group]:
        views = range(self.rooms.views)
        return tuple(
            Group(scene_name(k), tuple(image_name(k, view) for view in views)) for k in range(self.rooms.num_scenes)
        )

    def read(self, index: int) -> list[Sample]:
        """Render room `index`."""
        return render_scene(self.rooms, index)
