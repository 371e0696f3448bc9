"""From rooms to an answer: what is planted is found, with few images it is not denied, and nothing else is found.

`benchmarks/verdict_end_to_end.py` counts the same over many seeds.
"""

import pytest
import torch
from planted_encoders import PLANTED, PlantedNetwork, planted_encoder
from planted_rooms import Case, judge, rooms

from idl.data.loading import images_of
from idl.data.store import Store
from idl.encoders.untrained import KINDS, twins
from idl.verdict.result import Outcome

pytestmark = pytest.mark.slow

MANY, FEW = (100, 4), (30, 2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Store:
    own = tmp_path_factory.getbasetemp()
    # Rendered by the first process, for all.
    return rooms(*MANY, own if worker_id == "master" else own.parent)


def outcome(store: Store, encoder: str, size: tuple[int, int], seed: int) -> Outcome:
    (answer,) = judge(Case(encoder, *size, seed, untrained_seeds=1), store).answers
    return answer.verdict.outcome


def test_training_is_what_lets_depth_through(store: Store) -> None:
    trained = planted_encoder(PLANTED["depth-1.3"], store)
    images = images_of(torch.from_numpy(store.read(("rgb",), range(4))["rgb"]))
    features = trained(images)
    # An image's noise is its own, whatever it is encoded with.
    torch.testing.assert_close(trained(images[2:3]), features[2:3])
    assert isinstance(trained.network, PlantedNetwork)
    assert trained.network.images.recognise(images) == [0, 1, 2, 3]
    assert trained.network.is_open
    for form in KINDS:
        for twin in twins(trained, form, 2, tuple):
            assert isinstance(twin.network, PlantedNetwork)
            assert not twin.network.is_open


@pytest.mark.parametrize("encoder", ["depth-1.3", "depth-1.3-late"])
def test_depth_is_learned_with_many_images(store: Store, encoder: str) -> None:
    assert outcome(store, encoder, MANY, 0) is Outcome.LEARNED


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("encoder", ["depth-1.3", "depth-1.3-late", "depth-1.1"])
def test_depth_is_not_denied_with_few_images(store: Store, encoder: str, seed: int) -> None:
    assert outcome(store, encoder, FEW, seed) in (Outcome.LEARNED, Outcome.INCONCLUSIVE)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("encoder", ["pixels", "twin", "noise", "scene-noise"])
def test_pixels_and_noise_are_not_learned(store: Store, encoder: str, seed: int) -> None:
    assert outcome(store, encoder, FEW, seed) in (Outcome.NOT_LEARNED, Outcome.INCONCLUSIVE)
