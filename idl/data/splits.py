"""Splits by scene: disjoint, seeded, with a digest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idl.errors import InputError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Image indices of the three splits, none of them empty, no scene in two of them.

    train: in a seeded random order (the basis is fitted on the first of them); val, test: in the store's order.
    scenes: the scenes of each split. digest: of the scenes of each split and the order of `train`.
    """

    indices: Mapping[str, tuple[int, ...]]
    scenes: Mapping[str, tuple[str, ...]]
    digest: str


def split_by_scene(
    image_scenes: Sequence[str], rule: str = "11:2:3", *, seed: int = 0, is_sequential: bool = False
) -> Split:
    """Divide the images by scene.

    image_scenes: the scene of each image.
    rule: shares "train:val:test", or the path of a JSON file {"train": [scene, ...], "val": [...], "test": [...]}.
    is_sequential: scenes stay in the store's order (pieces of one recording: the test comes last in time)
      instead of being shuffled with `seed`.
    Raises InputError where the rule cannot be read, a split would be empty, or a scene is on two sides.
    """
    scenes = list(dict.fromkeys(image_scenes))
    generator = np.random.default_rng([seed, 0x5917])
    if rule.endswith(".json"):
        assigned = _read_file(Path(rule), set(scenes))
    else:
        order = scenes if is_sequential else [scenes[index] for index in generator.permutation(len(scenes))]
        assigned = _cut(order, _shares(rule), rule)
    side = {scene: name for name in SPLITS for scene in assigned[name]}
    indices = {
        name: tuple(index for index, scene in enumerate(image_scenes) if side.get(scene) == name) for name in SPLITS
    }
    train = np.array(indices["train"])
    indices["train"] = tuple(int(index) for index in train[generator.permutation(len(train))])
    described = json.dumps([{name: sorted(assigned[name]) for name in SPLITS}, indices["train"]])
    return Split(indices, assigned, hashlib.sha256(described.encode()).hexdigest()[:16])


def require_rule(rule: str) -> None:
    """Raise InputError where `rule` is neither shares nor a split file that is there."""
    if not rule.endswith(".json"):
        _shares(rule)
    elif not Path(rule).is_file():
        raise InputError(f"{rule}: no such split file.")


def _shares(rule: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) for part in rule.split(":"))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not all(0 < share < float("inf") for share in shares):
        raise InputError(f"split {rule!r}: expected shares train:val:test such as 11:2:3, or a .json file.")
    return shares


def _cut(order: Sequence[str], shares: tuple[float, ...], rule: str) -> dict[str, tuple[str, ...]]:
    if len(order) < 3:
        raise InputError(
            f"split {rule!r}: only {len(order)} scenes; train, val and test need one each. "
            "Give the images scenes (subfolders, or scene=block:N)."
        )
    total = sum(shares)
    # At least one scene each, however small its share.
    num_test = max(1, round(len(order) * shares[2] / total))
    num_val = max(1, round(len(order) * shares[1] / total))
    num_train = max(1, len(order) - num_val - num_test)
    num_val = min(num_val, len(order) - num_train - 1)
    cuts = (num_train, num_train + num_val)
    return {
        "train": tuple(order[: cuts[0]]),
        "val": tuple(order[cuts[0] : cuts[1]]),
        "test": tuple(order[cuts[1] :]),
    }


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
