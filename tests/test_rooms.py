"""The rooms dataset as a reader: its recipe, its names, its determinism, and what its layers hold."""

import hashlib
import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from idl.data.reader import Sample
from idl.data.rooms import KINDS, MATERIALS, RoomsReader, RoomsRecipe, render_scene
from idl.errors import InputError

SMALL = RoomsRecipe(num_scenes=12, views=2, resolution=48)


@pytest.fixture(scope="module")
def scenes() -> list[list[Sample]]:
    return [render_scene(SMALL, scene) for scene in range(SMALL.num_scenes)]


def digest(samples: list[Sample]) -> str:
    found = hashlib.sha256()
    for sample in samples:
        found.update(sample.name.encode())
        for array in (sample.rgb, sample.depth_m, sample.valid, *(v for _, v in sorted(sample.layers.items()))):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def test_a_reader_announces_what_it_reads():
    reader = RoomsReader(SMALL)
    names = [name for group in reader.groups for name in group.names]
    assert len(set(names)) == len(names) == 2 * SMALL.num_scenes
    assert (reader.groups[7].scene, reader.groups[7].names) == ("room_00007", ("room_00007_0", "room_00007_1"))
    samples = reader.read(11)
    assert tuple(sample.name for sample in samples) == reader.groups[11].names
    assert {sample.scene for sample in samples} == {reader.groups[11].scene}
    recipes = [reader, RoomsReader(), RoomsReader(replace(SMALL, seed=1))]
    assert len({str(sorted(each.recipe.items())) for each in recipes}) == 3
    assert "renderer" in reader.recipe


def test_samples_keep_the_contract_and_every_object_has_one_kind(scenes: list[list[Sample]]):
    side, labels = (SMALL.resolution, SMALL.resolution), ("kinds", "materials", "objects")
    assert KINDS[0] == MATERIALS[0] == "nothing"
    for samples in scenes:
        pairs = set()
        for sample in samples:
            maps = {"rgb": sample.rgb, "depth": sample.depth_m, "valid": sample.valid, **sample.layers}
            assert {name: (each.shape, each.dtype) for name, each in maps.items()} == {
                "rgb": ((*side, 3), np.uint8),
                "depth": (side, np.float32),
                "valid": (side, bool),
                "normals": ((*side, 3), np.float16),
                **dict.fromkeys(labels, (side, np.uint8)),
            }
            assert sample.valid.all()
            assert 0.1 < sample.depth_m.min() <= sample.depth_m.max() < 10.0
            kinds, materials, objects = (sample.layers[name] for name in labels)
            assert 0 < kinds.min() <= kinds.max() < len(KINDS)
            assert 0 < materials.min() <= materials.max() < len(MATERIALS)
            assert objects.min() > 0
            pairs |= set(zip(objects.ravel().tolist(), kinds.ravel().tolist(), strict=True))
        # Also across the views of a room: an object's number and kind belong to the room.
        assert len(pairs) == len({number for number, _ in pairs})


def test_walls_floor_and_ceiling_wear_one_material_each(scenes: list[list[Sample]]):
    for samples in scenes:
        for number in range(1, 7):
            worn = [s.layers["materials"][s.layers["objects"] == number] for s in samples]
            assert len(np.unique(np.concatenate(worn))) <= 1


def test_the_same_recipe_gives_the_same_bytes_also_in_another_process(scenes: list[list[Sample]]):
    script = (
        "import pickle, sys\n"
        "from tests.test_rooms import digest\n"
        "reader = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(digest(reader.read(3)))\n"
    )
    reader = pickle.dumps(RoomsReader(SMALL)).hex()
    answer = subprocess.run([sys.executable, "-c", script, reader], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == digest(scenes[3])


def test_a_room_depends_on_nothing_but_seed_number_and_resolution(scenes: list[list[Sample]]):
    more = RoomsRecipe(num_scenes=90_000, views=3, resolution=SMALL.resolution)
    longer = render_scene(more, 5)
    assert len(longer) == 3
    assert digest(longer[:2]) == digest(scenes[5])


def test_resolution_changes_the_sampling_but_not_the_room(scenes: list[list[Sample]]):
    """With three times the pixels a side, each coarse pixel's middle is a fine pixel's middle."""
    fine = render_scene(RoomsRecipe(views=2, resolution=3 * SMALL.resolution), 4)
    for coarse, sample in zip(scenes[4], fine, strict=True):
        np.testing.assert_allclose(sample.depth_m[1::3, 1::3], coarse.depth_m, rtol=1e-5)
        assert (sample.layers["objects"][1::3, 1::3] == coarse.layers["objects"]).all()


def test_different_rooms_views_and_seeds_differ(scenes: list[list[Sample]]):
    other_seed = render_scene(RoomsRecipe(views=2, resolution=48, seed=1), 0)
    samples = [sample for each in [*scenes, other_seed] for sample in each]
    for one, other in combinations(samples, 2):
        assert np.abs(one.depth_m - other.depth_m).mean() > 0.05
        assert np.abs(one.rgb.astype(float) - other.rgb).mean() > 1.0


@pytest.mark.parametrize("bad", [{"views": 0}, {"views": 2.5}, {"views": True}, {"resolution": 1}, {"seed": 2**32}])
def test_a_bad_recipe_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        RoomsRecipe(**bad)
