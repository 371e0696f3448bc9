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
from idl.probes.exact import PENALTIES
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
    """Name all that decides the answers beside the rules of `config`, as JSON holds it; `SCHEMA` says what each is.

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
        },
    }


SCHEMA: Mapping[str, str] = {
    "target": "what is asked for",
    "target.name": "of the target",
    "target.identity": "of its code, for one that is not built in; else empty",
    "dataset": "digest of the prepared dataset",
    "protocol": "digest of the protocol",
    "split": "digest of the scenes of each split, the order of training, and the crops if there are any",
    "encoders[]": "those that are judged, in the order of the command",
    "encoders[].name": "as on the command line",
    "encoders[].task": "what it was trained for",
    "encoders[].digest": "of network, weights and normalisation",
    "encoders[].weights_digest": "of the weights alone",
    "encoders[].arithmetic": "float32 or bfloat16",
    "ks[]": "numbers that the probe reads at a cell, as asked for",
    "clusters": "auto, scene, scan or block, as asked for",
    "controls": "what stands beside the trained encoder",
    "controls.untrained_forms[]": "how twins without training are made",
    "controls.untrained_seeds": "twins of each form",
    "controls.calibration_images": "training images that batch norms of twins are calibrated on",
    "controls.shuffle_seed": "of who lends depth maps to whom",
    "controls.common_stride": "of the null that all encoders are held against, pixels",
    "fit": "how every arm is fitted",
    "fit.solver": "exact",
    "fit.basis_images": "first training images, which the principal components come from",
    "fit.penalties[]": "those chosen from, beside half steps, in units of a column's mean square",
    "fit.folds": "of training and validation scenes, for cross-validation",
}
"""Every field by its path, as in `idl.verdict.SCHEMA`."""
