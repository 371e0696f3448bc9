"""Random crops of native images as a test split: drawn as recipes, made when they are read, never stored.

A crop is cut from one image of a prepared dataset at the size that it was taken at, resized to the protocol's size as
whole images are, and mirrored in half the cases. Depth stays in metres along the optical axis of the camera that took
the whole frame; what changes is the field of view.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from idl.data.reader import LAYERS, Native, NativeReader
from idl.data.store import Store
from idl.errors import InputError
from idl.protocol import Crop, Protocol

# Raised whenever a recipe changes its meaning.
CROPS_VERSION = 1
# Height of the smallest crop over that of the largest that fits: a field of view from the half to the whole.
LEAST_SHARE = 0.5
# Resizing leaves Python's lock; beyond a few threads, memory is the limit.
MOST_THREADS = 8


class CropRecipe(NamedTuple):
    """What a crop is. image: of the store. box: (top, bottom, left, right), native pixels."""

    image: int
    box: Crop
    is_mirrored: bool


def draw(
    images: Sequence[int], sizes: Sequence[tuple[int, int]], count: int, seed: int, protocol: Protocol
) -> tuple[CropRecipe, ...]:
    """Return random crops, as many of each image as of any other up to one, in the order of `images`.

    sizes: height and width of each image, native pixels; at least the protocol's inside its crop.
    The height of a crop is uniform between the protocol's resolution, or LEAST_SHARE of the largest that fits if that
    is more, and the largest that fits; its place is uniform over those where it fits.
    """
    generator = np.random.default_rng([seed, 0xC409])
    per_image = np.full(len(images), count // len(images))
    per_image[generator.permutation(len(images))[: count % len(images)]] += 1
    recipes = []
    for image, size, number in zip(images, sizes, per_image.tolist(), strict=True):
        (top, bottom, left, right), most = _room(size, protocol)
        least = max(protocol.resolution, round(LEAST_SHARE * most))
        for height in generator.integers(least, most + 1, number).tolist():
            width = height * protocol.width // protocol.resolution
            y = int(generator.integers(top, bottom - height + 1))
            x = int(generator.integers(left, right - width + 1))
            recipes.append(CropRecipe(image, (y, y + height, x, x + width), bool(generator.random() < 0.5)))
    return tuple(recipes)


def _room(size: tuple[int, int], protocol: Protocol) -> tuple[Crop, int]:
    """Return where crops of a frame lie, and the height of the largest of the protocol's shape that fits there."""
    top, bottom, left, right = protocol.crop or (0, size[0], 0, size[1])
    return (top, bottom, left, right), min(bottom - top, (right - left) * protocol.resolution // protocol.width)


def require_size(name: str, size: tuple[int, int], count: int, protocol: Protocol) -> None:
    """Raise InputError where no crop that is downsampled fits into an image.

    name, size: of the image, height and width in native pixels. count: crops that are asked for.
    """
    if _room(size, protocol)[1] < protocol.resolution:
        cut = " inside the protocol's crop" if protocol.crop else ""
        raise InputError(
            f"test_images={count}: {name} has {size[0]} x {size[1]} pixels; crops of at least "
            f"{protocol.resolution} x {protocol.width} do not fit{cut}. Pass test_images=0."
        )


@dataclass(frozen=True, kw_only=True)
class CroppedStore(Store):
    """A prepared dataset with crops behind its images: image `num_whole` and after are crops, the rest is as it was.

    It has the layers that crops have. Its digest is that of the dataset; the crops have their own, `crops_digest`.
    reader: of the dataset. recipes: of the crops, in order. groups: the reader's group of each image that has crops.
    """

    reader: NativeReader
    recipes: tuple[CropRecipe, ...]
    groups: Mapping[int, int]

    @property
    def num_whole(self) -> int:
        """Images that are no crops."""
        return len(self.names) - len(self.recipes)

    @property
    def crops(self) -> range:
        """Indices of the crops."""
        return range(self.num_whole, len(self.names))

    @cached_property
    def crops_digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the recipes."""
        described = json.dumps([CROPS_VERSION, self.recipes])
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    def origin(self, index: int) -> int:
        """Return the image in the file that image `index` is, or is a crop of."""
        return index if index < self.num_whole else self.recipes[index - self.num_whole].image

    def read(
        self, layers: Sequence[str], indices: Sequence[int], tops: Sequence[int] = (), height: int | None = None
    ) -> Mapping[str, np.ndarray]:
        """Return some layers of some images, as `Store.read`; strips only of whole images.

        Crops of one image are made of one reading of it. Raises also what the reader does.
        """
        whole = [row for row, index in enumerate(indices) if index < self.num_whole]
        if len(whole) == len(indices):
            return super().read(layers, indices, tops, height)
        if height is not None:
            raise ValueError("strips of crops")
        read = super().read(layers, [indices[row] for row in whole])
        made = {row: {layer: images[number] for layer, images in read.items()} for number, row in enumerate(whole)}
        recipes = {row: self.recipes[index - self.num_whole] for row, index in enumerate(indices) if row not in made}
        # Made while the next image is read; a list of an image's crops at a time, so that few images are held.
        with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
            pending: dict[int, Future[dict[str, np.ndarray]]] = {}
            for image in dict.fromkeys(recipe.image for recipe in recipes.values()):
                native = _native(self.reader, self.groups[image], self.protocol)
                made |= {row: future.result() for row, future in pending.items()}
                pending = {
                    row: pool.submit(_layers, native, recipe, layers, self.protocol)
                    for row, recipe in recipes.items()
                    if recipe.image == image
                }
            made |= {row: future.result() for row, future in pending.items()}
        return {layer: np.stack([made[row][layer] for row in range(len(indices))]) for layer in layers}


# Two images: a batch begins with the image that the last one ended with.
@lru_cache(maxsize=2)
def _native(reader: NativeReader, group: int, protocol: Protocol) -> Native:
    """Return a native image and its truth. Of the whole frame: at a crop's edge, a hole beyond it erodes too."""
    return reader.native(group).truth(protocol)


def _layers(native: Native, recipe: CropRecipe, layers: Sequence[str], protocol: Protocol) -> dict[str, np.ndarray]:
    """Return layers of one crop. An image without normals, in a dataset whose others have some, has zeros."""
    # The crop is a frame of its own from here on.
    made = native.part(recipe.box).resized(replace(protocol, crop=None), layers)
    if "normals" in layers and "normals" not in made:
        made["normals"] = np.zeros((*protocol.size, 3), np.float16)
    return {layer: mirrored(layer, made[layer]) if recipe.is_mirrored else made[layer] for layer in layers}


def mirrored(
    layer: str, image: Shaped[np.ndarray, "height width *channels"]
) -> Shaped[np.ndarray, "height width *channels"]:
    """Return a layer of an image mirrored, left to right; normals that leaned right lean left."""
    turned = image[:, ::-1]
    return turned * np.array((-1, 1, 1), image.dtype) if layer == "normals" else turned


def with_crops(store: Store, reader: NativeReader, images: Sequence[int], count: int, seed: int = 0) -> CroppedStore:
    """Return a prepared dataset with `count` random crops of some images behind its own.

    reader: of the dataset that the store was made of. images: those of its test split.
    Raises InputError where there cannot be that many, an image is not in the reader's dataset, or one is too small.
    """
    protocol = store.protocol
    group_of = {name: index for index, group in enumerate(reader.groups) for name in group.names}
    missing = [store.names[image] for image in images if store.names[image] not in group_of]
    if missing:
        raise InputError(f"test_images={count}: {store.path} has an image {missing[0]}, which its source has not.")
    groups = {image: group_of[store.names[image]] for image in images}
    sizes = [reader.native_size(groups[image]) for image in images]
    for image, size in zip(images, sizes, strict=True):
        require_size(store.names[image], size, count, protocol)
    recipes = draw(images, sizes, count, seed, protocol)
    drawn = [recipe.image for recipe in recipes]
    heights = [recipe.box[1] - recipe.box[0] for recipe in recipes]
    note = (
        f"The test split is {count} random crops (seed {seed}) of {len(set(drawn))} native images, half of them "
        f"mirrored; sides from {min(heights)} to {max(heights)} native pixels, downsampled to {protocol.resolution}."
    )
    whole = replace(
        store,
        names=store.names + tuple(f"{store.names[image]}-crop{number:05d}" for number, image in enumerate(drawn)),
        scenes=store.scenes + tuple(store.scenes[image] for image in drawn),
        sides=store.sides + tuple(store.sides[image] for image in drawn) if store.sides else (),
        layers=tuple(layer for layer in store.layers if layer in LAYERS),
        notes=(*store.notes, note),
    )
    known = {each.name: getattr(whole, each.name) for each in fields(Store)}
    return CroppedStore(**known, reader=reader, recipes=recipes, groups=groups)
