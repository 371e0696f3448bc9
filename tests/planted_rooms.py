"""Verdicts on planted encoders, reached as the commands reach them: rooms, a random part of them, a study."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from planted_encoders import PLANTED, planted_encoder

from idl.data.preparation import prepare
from idl.data.rooms import RoomsReader, RoomsRecipe
from idl.data.store import Store
from idl.probe_config import ProbeConfig
from idl.progress import Progress, silent
from idl.protocol import Protocol
from idl.verdict.result import StudyConfig
from idl.verdict.study import Study, Subject, check, plan, study

# Small enough to be rendered and probed by the thousand: 8 x 8 cells at stride 8.
RESOLUTION = 64
# A verdict needs so many scenes in the test split.
FEWEST_TESTED = 10
_REST = "not used"


@dataclass(frozen=True)
class Case:
    """One verdict that is to be reached, of an encoder in `PLANTED`.

    scenes, views: of the rooms that are used. seed: of which ones, of weights and noise, of the bootstrap.
    """

    encoder: str
    scenes: int
    views: int
    seed: int
    channels: int = 96
    stride: int = 8
    ks: str = "all"
    draws: int = 2000
    untrained_seeds: int = 3


def rooms(scenes: int, views: int, folder: Path, *, workers: int = 1, progress: Progress = silent) -> Store:
    """Return the store of small rooms that all cases take their images from, made under `folder` if need be."""
    reader = RoomsReader(RoomsRecipe(scenes, views, RESOLUTION))
    return prepare(reader, Protocol(resolution=RESOLUTION), folder, workers=workers, progress=progress)


def part(store: Store, scenes: int, views: int, seed: int) -> tuple[Store, Mapping[str, Sequence[str]]]:
    """Return the store with views beyond the first `views` in scenes that no split names, and the scenes of each split.

    Shares are 11:2:3, but for at least ten scenes that are tested. Of one seed, a larger part tests the same scenes and
    more. Raises ValueError where the store has not as many scenes.
    """
    names = list(dict.fromkeys(store.scenes))
    if scenes > len(names):
        raise ValueError(f"{scenes} scenes, and the store has {len(names)}")
    seen = dict.fromkeys(names, 0)
    of_images = []
    for scene in store.scenes:
        of_images.append(scene if seen[scene] < views else _REST)
        seen[scene] += 1
    chosen = [names[index] for index in np.random.default_rng(seed).permutation(len(names))[:scenes]]
    tested = max(FEWEST_TESTED, round(scenes * 3 / 16))
    fitted = tested + round(scenes * 2 / 16)
    split = {"test": chosen[:tested], "val": chosen[tested:fitted], "train": chosen[fitted:]}
    return replace(store, scenes=tuple(of_images)), split


def judge(case: Case, store: Store) -> Study:
    """Return the study of one planted encoder on a random part of `store`; its cache is gone with it."""
    used, split = part(store, case.scenes, case.views, case.seed)
    encoder = planted_encoder(PLANTED[case.encoder], used, channels=case.channels, stride=case.stride, seed=case.seed)
    config = StudyConfig(
        ks=case.ks,
        draws=case.draws,
        bootstrap_seed=case.seed,
        untrained_seeds=case.untrained_seeds,
        shuffle_seed=case.seed,
        common_stride=case.stride,
    )
    subjects = [Subject(encoder, "planting")]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "split.json"
        path.write_text(json.dumps(split))
        probe = ProbeConfig(k="all", split=str(path))
        check(probe, config, subjects, used.protocol.size)
        return study(plan(probe, config, used, subjects), Path(folder) / "cache")
