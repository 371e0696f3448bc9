"""Scenes by short names that a run carries, so that a later one knows whether its test scenes were looked at."""

import hashlib
import json
from collections.abc import Iterable, Mapping

from idl.data.store import Store

# Seven digits and a space each: with MOST of them 7,999 characters, and MLflow keeps 8,000 of a tag.
DIGITS = 7
MOST = 1000

# What of a reader's recipe decides, beside the scene's name, which scene it is. Left out: where the files of a
# published dataset lie and which parts were prepared; how many rooms and views there are; what depth counts.
_DECIDING: Mapping[str, tuple[str, ...]] = {
    "rooms": ("renderer", "seed"),
    "nyu": (),
    "diode": (),
    "folder": ("root", "scene"),
}
_OF_THE_PROTOCOL = ("resolution",)


def scene_sketch(store: Store, scenes: Iterable[str]) -> str:
    """Name scenes of a prepared dataset by hashes, with spaces between, in rising order.

    A scene has the same name in every store of the same data: whatever the resolution, the range of depth, the erosion
    and the split, as crops or whole. Of more than 1,000 scenes these are the 1,000 lowest hashes, which is a random
    sample, and of shared scenes the same one in every set: two sets that share a hundredth of all their scenes share a
    hash in all but 4 of 100,000 cases, while a few scenes of thousands may be missed. By accident two sets of 1,000
    scenes share one in 0.4 % of cases, two of 60 in 0.001 %.
    """
    data = _identity(store)
    hashes = {
        hashlib.sha256(json.dumps([data, scene], sort_keys=True).encode()).hexdigest()[:DIGITS] for scene in scenes
    }
    return " ".join(sorted(hashes)[:MOST])


def are_shared(one: str, other: str) -> bool:
    """Whether two sketches have a scene in common."""
    return not set(one.split()).isdisjoint(other.split())


def _identity(store: Store) -> object:
    if not store.recipe:
        return [store.name, store.source]
    recipe = json.loads(store.recipe)
    reader = recipe.get("reader", store.name)
    # Of a reader that is not known here, all that it says.
    deciding = _DECIDING.get(reader, tuple(name for name in recipe if name not in _OF_THE_PROTOCOL))
    return [reader, {name: recipe[name] for name in deciding if name in recipe}]
