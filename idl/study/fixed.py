"""What is fixed before the test split is read, as plain values: the answer follows from it and from the code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from idl.arms import CALIBRATION_IMAGES
from idl.data.splits import NUM_FOLDS, Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.encoders.untrained import FORMS
from idl.features import BASIS_IMAGES
from idl.pipeline import ProbeConfig
from idl.probes.exact import NUM_PLANTED, PENALTIES
from idl.study.config import StudyConfig
from idl.targets import target


@dataclass(frozen=True)
class Subject:
    """An encoder that is judged. task: what it was trained for."""

    encoder: Encoder
    task: str


def fixed(
    probe: ProbeConfig, config: StudyConfig, store: Store, split: Split, subjects: Sequence[Subject]
) -> Mapping[str, object]:
    """Return all that decides the answers beside the rules of `config`, as JSON holds it.

    Left out is what moves no more than the rounding of sums: the batch size, and where it is computed. The split's
    digest holds rule, seed, order of training and crops.
    """
    wanted = target(probe.target)
    return {
        "target": {"name": wanted.name, "identity": wanted.identity},
        "dataset": store.digest,
        "protocol": store.protocol.digest,
        "split": split.digest,
        "encoders": [
            {
                "name": subject.encoder.name,
                "task": subject.task,
                "digest": subject.encoder.digest,
                "weights_digest": subject.encoder.origin.weights_digest,
                "arithmetic": subject.encoder.arithmetic,
            }
            for subject in subjects
        ],
        "ks": list(config.asked_ks),
        "clusters": config.clusters,
        "controls": {
            "untrained_forms": list(FORMS),
            "untrained_seeds": config.untrained_seeds,
            "calibration_images": CALIBRATION_IMAGES,
            "shuffle_seed": config.shuffle_seed,
            "common_stride": config.common_stride,
        },
        "fit": {
            "solver": probe.solver,
            "basis_images": BASIS_IMAGES,
            "penalties": list(PENALTIES),
            "folds": NUM_FOLDS,
            "planted_effects": NUM_PLANTED,
        },
    }
