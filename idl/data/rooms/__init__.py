"""The embedded dataset: rendered indoor scenes with exact depth, normals, objects, kinds and materials."""

from idl.data.rooms.furniture import KINDS
from idl.data.rooms.reader import RENDERER_VERSION, RoomsReader, RoomsRecipe, render_scene
from idl.data.rooms.surfaces import MATERIALS

__all__ = ["KINDS", "MATERIALS", "RENDERER_VERSION", "RoomsReader", "RoomsRecipe", "render_scene"]
