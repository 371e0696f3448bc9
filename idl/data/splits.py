"""Splits by scene: disjoint, seeded, with a digest; and the names by which reused test scenes are found."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idl.data.crops import CroppedStore
from idl.data.store import Store
from idl.errors import InputError

SPLITS = ("train", "val", "test")
# Four fifths of training and validation scenes are about as many as there are training scenes.
NUM_FOLDS = 5
# The published split where a dataset has one; its training side, like a dataset without, is divided by these shares.
AUTO = "auto"
_SHARES = (11.0, 2.0, 3.0)
# Test digest of what reads every image of a dataset.
EVERYTHING = "all"
# Of a scene's short name. Seven digits and a space each: with _MOST_NAMES of them 7,999 characters, and MLflow keeps
# 8,000 of a tag.
_DIGITS, _MOST_NAMES = 7, 1000
# What of a reader's recipe decides, beside the scene's name, which scene it is. Left out: where the files of a
# published dataset lie and which parts were prepared; how many rooms and views there are; what depth counts.
_DECIDING: Mapping[str, tuple[str, ...]] = {
    "rooms": ("renderer", "seed"),
    "nyu": (),
    "diode": (),
    "folder": ("root", "scene"),
}


@dataclass(frozen=True)
class Split:
    """Image indices of the three splits, none of them empty, no scene in two of them.

    train: in a seeded random order (the basis is fitted on the first of them); val, test: in the store's order.
    scenes: the scenes of each split. digest: of the scenes of each split and the order of `train`, and of the crops
      where the test split is made of crops. scenes_digest: without the crops.
    test_digest: of the scenes that are tested alone, as crops or whole, however the others are divided.
    """

    indices: Mapping[str, tuple[int, ...]]
    scenes: Mapping[str, tuple[str, ...]]
    digest: str
    scenes_digest: str = ""
    test_digest: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scenes_digest", self.scenes_digest or self.digest)
        object.__setattr__(self, "test_digest", self.test_digest or _digest(sorted(self.scenes["test"])))

    def test_tags(self, store: Store) -> Mapping[str, str]:
        """Return the tags by which a run that reads the test images of a store is found by later ones that do."""
        return {"test_digest": self.test_digest, "test_scenes": scene_sketch(store, self.scenes["test"])}


def split_by_scene(
    image_scenes: Sequence[str],
    rule: str = AUTO,
    *,
    seed: int = 0,
    is_sequential: bool = False,
    sides: Sequence[str] = (),
) -> Split:
    """Divide the images by scene.

    image_scenes: the scene of each image.
    rule: shares "train:val:test" of all scenes; or the path of a JSON file {"train": [scene, ...], "val": [...],
      "test": [...]}; or "auto": the published split, if the images are on its two sides, whose training side is divided
      11:2 into train and val; else 11:2:3.
    sides: side of the published split of each image, as in `Store`.
    is_sequential: scenes stay in the store's order (the test comes last in time) instead of being shuffled.
    Raises InputError where the rule cannot be read, a split would be empty, or a scene is on two sides.
    """
    scenes = list(dict.fromkeys(image_scenes))
    generator = np.random.default_rng([seed, 0x5917])
    if rule.endswith(".json"):
        assigned = _read_file(Path(rule), set(scenes))
    else:
        tested = _tested_scenes(image_scenes, sides) if uses_published(rule, sides) else ()
        rest = [scene for scene in scenes if scene not in set(tested)]
        order = rest if is_sequential else [rest[index] for index in generator.permutation(len(rest))]
        shares = _shares(rule)[:2] if tested else _shares(rule)
        if len(order) < len(shares):
            # Other shares of too few scenes are no help; the published test side may hold more of them.
            other = ", or pass split=11:2:3" if len(scenes) >= len(SPLITS) else ""
            raise InputError(
                f"split {rule!r}: only {len(order)} scenes for {', '.join(SPLITS[: len(shares)])}, which need one "
                f"each. Give the images scenes (subfolders, or scene=block:N){other}."
            )
        num_val, *num_test = (max(1, round(len(order) * share / sum(shares))) for share in shares[1:])
        num_train = max(1, len(order) - num_val - sum(num_test))
        cut = num_train + min(num_val, len(order) - num_train - len(num_test))
        parts = (order[:num_train], order[num_train:cut], tested or order[cut:])
        assigned = {name: tuple(part) for name, part in zip(SPLITS, parts, strict=True)}
    split_of = {scene: name for name in SPLITS for scene in assigned[name]}
    indices = {
        name: tuple(index for index, scene in enumerate(image_scenes) if split_of.get(scene) == name) for name in SPLITS
    }
    train_images = np.array(indices["train"])
    indices["train"] = tuple(train_images[generator.permutation(len(train_images))].tolist())
    return Split(indices, assigned, _digest([{name: sorted(assigned[name]) for name in SPLITS}, indices["train"]]))


def split_store(store: Store, rule: str, seed: int) -> Split:
    """Divide a prepared dataset, as `split_by_scene` does; where it has crops, they are the test split.

    Raises InputError where crops are of scenes that are not the test split's under this rule.
    """
    split = split_by_scene(store.scenes, rule, seed=seed, is_sequential=store.is_sequential, sides=store.sides)
    if not isinstance(store, CroppedStore):
        return split
    # A crop has its image's scene, which is on one side; the crops come last, so that train and val are as without.
    crops = tuple(index for index in split.indices["test"] if index in store.crops)
    if len(crops) < len(store.crops):
        raise InputError(
            f"split: {len(store.crops) - len(crops)} of {len(store.crops)} crops are of scenes that are not tested "
            "under it. Draw them under the same split and split_seed."
        )
    seen = {store.scenes[index] for index in crops}
    scenes = {**split.scenes, "test": tuple(scene for scene in split.scenes["test"] if scene in seen)}
    digest = _digest([split.digest, store.crops_digest])
    # A scene that no crop was drawn of counts as tested: rather one reuse too many than one too few.
    return Split({**split.indices, "test": crops}, scenes, digest, split.digest, split.test_digest)


def folds(store: Store, split: Split) -> Mapping[str, tuple[int, ...]]:
    """Return the fold, from 0 to NUM_FOLDS - 1, of each training and validation image, in the order of `Split.indices`.

    A recording is in one fold where there are enough of them; else consecutive blocks of frames, which are alike, are.
    """
    order = [index for name in ("train", "val") for index in sorted(split.indices[name])]
    groups, is_sequential = store.recordings, False
    if store.is_sequential and len({groups[index] for index in order}) < NUM_FOLDS:
        groups, is_sequential = store.scenes, True
    found = list(dict.fromkeys(groups[index] for index in order))
    fold = {
        group: position * NUM_FOLDS // len(found) if is_sequential else position % NUM_FOLDS
        for position, group in enumerate(found)
    }
    return {name: tuple(fold[groups[index]] for index in split.indices[name]) for name in ("train", "val")}


def uses_published(rule: str, sides: Sequence[str]) -> bool:
    """Return whether the split under `rule` is the published one of a dataset with these sides."""
    return rule == AUTO and {"train", "test"} <= set(sides)


def require_rule(rule: str) -> None:
    """Raise InputError where `rule` is neither "auto", nor shares, nor a split file that is there."""
    if not rule.endswith(".json"):
        _shares(rule)
    elif not Path(rule).is_file():
        raise InputError(f"{rule}: no such split file.")


def scene_sketch(store: Store, scenes: Iterable[str]) -> str:
    """Return hashes of scenes of a prepared dataset, with spaces between, in rising order.

    A scene has the same hash in every store of the same data: whatever the resolution, the range of depth, the erosion
    and the split, as crops or whole. Of more than 1,000 these are the 1,000 lowest, which of shared scenes is the same
    random sample in every set: two sets that share a hundredth of all their scenes share a hash in all but 4 of
    100,000 cases. By accident two sets of 1,000 scenes share one in 0.4 % of cases, two of 60 in 0.001 %.
    """
    data: object = [store.name, store.source]
    if store.recipe:
        recipe = json.loads(store.recipe)
        reader = recipe.get("reader", store.name)
        # Of a reader that is not known here, all that it says.
        deciding = _DECIDING.get(reader, tuple(name for name in recipe if name != "resolution"))
        data = [reader, {name: recipe[name] for name in deciding if name in recipe}]
    hashes = {
        hashlib.sha256(json.dumps([data, scene], sort_keys=True).encode()).hexdigest()[:_DIGITS] for scene in scenes
    }
    return " ".join(sorted(hashes)[:_MOST_NAMES])


def are_shared(one: str, other: str) -> bool:
    """Return whether two sketches have a scene in common."""
    return not set(one.split()).isdisjoint(other.split())


def _digest(described: object) -> str:
    """Return the first 16 hex digits of the SHA-256 of the JSON of a description."""
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def _shares(rule: str) -> tuple[float, ...]:
    if rule == AUTO:
        return _SHARES
    try:
        shares = tuple(float(part) for part in rule.split(":"))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not all(0 < share < float("inf") for share in shares):
        raise InputError(f"split {rule!r}: expected shares train:val:test such as 11:2:3, auto, or a .json file.")
    return shares


def _tested_scenes(image_scenes: Sequence[str], sides: Sequence[str]) -> tuple[str, ...]:
    """Return the scenes of the test side, in order. Raises InputError where a scene is not on one side."""
    found: dict[str, str] = {}
    for scene, side in zip(image_scenes, sides, strict=True):
        if side not in ("train", "test") or found.setdefault(scene, side) != side:
            raise InputError(
                f"split 'auto': not all images of scene {scene!r} are on one side of the published split. Pass "
                "split=11:2:3."
            )
    return tuple(scene for scene, side in found.items() if side == "test")


def _read_file(path: Path, known: set[str]) -> dict[str, tuple[str, ...]]:
    try:
        content = json.loads(path.read_text())
        assigned = {name: tuple(str(scene) for scene in content[name]) for name in SPLITS}
    except OSError as error:
        raise InputError(f"{path}: split file cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: expected JSON {{"train": [scene, ...], "val": [...], "test": [...]}}.') from error
    seen: dict[str, str] = {}
    for name in SPLITS:
        if not assigned[name]:
            raise InputError(f"{path}: split {name!r} is empty. Give it at least one scene.")
        for scene in assigned[name]:
            if scene not in known:
                raise InputError(f"{path}: scene {scene!r} of {name!r} is not in the dataset.")
            if seen.setdefault(scene, name) != name:
                raise InputError(f"{path}: scene {scene!r} is in {seen[scene]!r} and {name!r}. Put it on one side.")
    return assigned
