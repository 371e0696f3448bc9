"""A study: one or several frozen encoders, one or several features, and for each pair whether it was learned."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from idl.data.images import repeats
from idl.data.splits import NUM_FOLDS, SPLITS, Split
from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig, encoder_for_task, task_name
from idl.encoders.untrained import KINDS, require_twins
from idl.errors import InputError
from idl.evaluate import require_native
from idl.features import BASIS_IMAGES
from idl.probe_config import ProbeConfig, split_of
from idl.probe_config import check as check_probe
from idl.probes.exact import NUM_PLANTED, PENALTIES
from idl.progress import Progress, prefixed, silent
from idl.targets import target
from idl.verdict.baselines import CALIBRATION_IMAGES, NULL, ArmsResult, measure, numbers_of
from idl.verdict.decision import decide, enough_clusters, require_draws
from idl.verdict.result import Arm, Cell, Clustering, StudyConfig, Verdict

# null has none, and the autoencoder none of a hub.
_WITHOUT_WEIGHTS = {NULL, "autoencoder"}
# As an encoder's origin names it.
UNTRAINED_TASK = "none"


def chosen_encoder(config: EncoderConfig, task: str) -> EncoderConfig:
    """Return the encoder that is meant where none is named (name ""): the one that stands for `task`, or convnext."""
    if config.name or not task:
        return replace(config, name=config.name or "convnext")
    named = encoder_for_task(task)
    # Weights that were passed beside the task are those of the task's encoder.
    weights = named.weights if config.weights == "auto" else config.weights
    return replace(config, name=named.name, weights=weights)


def compared_encoders(encoders: str, weights: str) -> list[EncoderConfig]:
    """Return each of `encoders`, whose names have commas between.

    weights: of those that take any. Raises InputError for names that cannot be, and for weights that nobody takes.
    """
    names = [name.strip() for name in encoders.split(",") if name.strip()]
    if not names or NULL in names:
        raise InputError(f"encoders={encoders}: name those that are judged; {NULL} stands beside them.")
    if weights != "auto" and set(names) <= _WITHOUT_WEIGHTS:
        raise InputError(
            f"weights={weights}: encoders={encoders} has none that takes them. Pass weights=auto, or judge one encoder "
            "with `idl verdict`."
        )
    return [EncoderConfig(name, weights="auto" if name in _WITHOUT_WEIGHTS else weights) for name in names]


def encoders_of_tasks(tasks: str) -> dict[str, EncoderConfig]:
    """Return the encoder that stands for each of `tasks`, which have commas between, by the task's one name.

    Raises InputError where none stands for one, one is there twice, and where nothing is left to be judged.
    """
    named = [task_name(each) for each in tasks.split(",") if each.strip()]
    if len(set(named)) < len(named):
        raise InputError(f"tasks={tasks}: one is there twice. Name each once.")
    if set(named) <= {UNTRAINED_TASK}:
        raise InputError(f"tasks={tasks}: nothing is judged. Name a task that networks were trained for as well.")
    return {each: encoder_for_task(each) for each in named}


@dataclass(frozen=True)
class Subject:
    """An encoder that is judged. task: what it was trained for."""

    encoder: Encoder
    task: str


@dataclass(frozen=True)
class Plan:
    """What is fixed before the test split is read.

    probe: of every run; its target is the first of features, which are named as there.
    fixed: what decides the answer beside the rules, as JSON holds it. clusters: of the test images.
    """

    probe: ProbeConfig
    config: StudyConfig
    store: Store
    split: Split
    subjects: tuple[Subject, ...]
    fixed: Mapping[str, object]
    clusters: Clustering
    features: tuple[str, ...]

    @property
    def warning(self) -> str:
        """Why every answer will be INVALID, as far as that is known by now; "" where nothing speaks for it."""
        gate = enough_clusters(len(set(self.clusters.of_image)), self.clusters.kind, self.config)
        return "" if gate.passed else f"the answer will be INVALID ({gate.name}: {gate.detail})."

    @property
    def digest(self) -> str:
        """Of all of it, to be written down first."""
        return self.config.digest(self.fixed)


@dataclass(frozen=True)
class Answer:
    """The verdict on one encoder and one feature at one k.

    is_all: k is all that the encoder has. arms: what it rests on, by name.
    """

    encoder: str
    task: str
    feature: str
    k: int
    is_all: bool
    arms: Mapping[str, Arm]
    verdict: Verdict


@dataclass(frozen=True)
class Study:
    """What came out. results: by the encoder's name and the feature. answers: of each such pair by rising k."""

    plan: Plan
    results: Mapping[tuple[str, str], ArmsResult]
    answers: tuple[Answer, ...]

    def part(self, encoder: str = "", feature: str = "") -> "Study":
        """Return the study as far as it is about one encoder, or one feature, or both.

        What was fixed, and corrected for, is still of all.
        """
        plan = self.plan
        subjects = tuple(subject for subject in plan.subjects if encoder in ("", subject.encoder.name))
        features = tuple(each for each in plan.features if feature in ("", each))
        pairs = [(subject.encoder.name, each) for subject in subjects for each in features]
        return Study(
            replace(plan, probe=replace(plan.probe, target=features[0]), subjects=subjects, features=features),
            {pair: self.results[pair] for pair in pairs},
            tuple(answer for answer in self.answers if (answer.encoder, answer.feature) in pairs),
        )


def check(
    probe: ProbeConfig,
    config: StudyConfig,
    subjects: Sequence[Subject],
    size: tuple[int, int],
    features: Sequence[str] = (),
) -> None:
    """Make sure, before a dataset is made or read, that the study can be had. Raises InputError.

    size: rows and columns of its images. features: as in `plan`.
    """
    if (side := math.gcd(*size)) % config.common_stride:
        strides = ", ".join(str(each) for each in range(2, 65) if side % each == 0) or "1"
        raise InputError(
            f"common_stride={config.common_stride}: does not divide images of {size[0]} x {size[1]} pixels. Pass one "
            f"of {strides}."
        )
    num_questions = 0
    for subject in subjects:
        encoder = subject.encoder
        if subject.task == UNTRAINED_TASK:
            raise InputError(
                f"encoder={encoder.name} (weights: {encoder.origin.weights}): was not trained for anything, so that "
                "nothing can have been learned. Pass trained weights."
            )
        check_probe(replace(probe, k="all"), encoder)
        num_questions += len(set(numbers_of(config.requested_ks, encoder).values()))
        require_twins(encoder, config.untrained_seeds)
    require_draws(num_questions * max(1, len(features)), config)
    if len({target(each).name for each in features}) < len(features):
        raise InputError(f"feature={','.join(features)}: one is there twice. Name each once.")
    names = [subject.encoder.name for subject in subjects]
    if len(set(names)) < len(names):
        raise InputError(f"encoders={','.join(names)}: one is there twice. Name each once.")


def plan(
    probe: ProbeConfig, config: StudyConfig, store: Store, subjects: Sequence[Subject], features: Sequence[str] = ()
) -> Plan:
    """Return all that the answer depends on, before anything is measured. subjects: as `check` lets them pass.

    features: what may have been learned, each named as a target; none: the probe's target.

    Left out of what is hashed is what moves no more than the rounding of sums: the batch size, and where it is
    computed. The split's digest holds rule, seed, order of training and crops.
    Raises InputError where the store cannot be split, has no such target or no blocks that are to be clusters, and
    where an encoder cannot take its images.
    """
    features = tuple(features) or (probe.target,)
    probe = replace(probe, target=features[0])
    targets = [target(each) for each in features]
    # The same for every feature.
    (split, *_) = [split_of(probe, store, each) for each in targets]
    for each in targets:
        require_native(store, each, split.indices["test"])
    identities = [{"name": each.name, "identity": each.identity} for each in targets]
    for subject in subjects:
        subject.encoder.require(*store.protocol.size)
    clusters = clusters_of(store, split.indices["test"], config.clusters, config.min_clusters)
    fixed = {
        **({"target": identities[0]} if len(identities) == 1 else {"targets": identities}),
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
        "ks": list(config.requested_ks),
        "clusters": config.clusters,
        "controls": {
            "untrained_forms": list(KINDS),
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
    return Plan(probe, config, store, split, tuple(subjects), fixed, clusters, features)


def clusters_of(store: Store, indices: Sequence[int], clusters: str, fewest: int) -> Clustering:
    """Return what each of the images belongs to. fewest: scenes below which "auto" takes scans, if these are more.

    Blocks of consecutive frames count as one, their recording, unless they are named.
    Raises InputError where blocks are named, and there are none.
    """
    scenes = tuple(store.scenes[index] for index in indices)
    if store.is_sequential:
        all_recordings = store.recordings
        recordings = tuple(all_recordings[index] for index in indices)
        return Clustering(scenes, "block", recordings) if clusters == "block" else Clustering(recordings, "recording")
    if clusters == "block":
        raise InputError(
            f"clusters=block: the scenes of dataset {store.name} are no blocks of frames. Pass clusters=auto."
        )
    # Names are paths; an image without a folder is its scene's.
    scans = tuple(
        f"{scene}/{store.names[index].rpartition('/')[0]}" for scene, index in zip(scenes, indices, strict=True)
    )
    if clusters == "auto":
        clusters = "scan" if len(set(scenes)) < fewest and len(set(scans)) > len(set(scenes)) else "scene"
    return Clustering(scans, "scan") if clusters == "scan" else Clustering(scenes, "scene")


def leaked_scenes(store: Store, split: Split, progress: Progress = silent) -> tuple[str, ...]:
    """Return the names of images that are, pixel for pixel, in an earlier split, with their scenes.

    An image all of one colour, which a camera that drops out gives again and again, has nothing to leak.
    """
    # Of crops, the images that they are of: a crop is no other image's equal even where its image is.
    order = [*dict.fromkeys((name, store.origin(index)) for name in SPLITS for index in split.indices[name])]
    found = repeats(store.rgb, [index for _, index in order], progress, "leakage")
    leaked = [order[position][1] for position, earlier in found if order[earlier][0] != order[position][0]]
    return tuple(dict.fromkeys(f"{store.scenes[index]} (image {store.names[index]})" for index in leaked))


def study(planned: Plan, cache_folder: Path, *, progress: Progress = silent) -> Study:
    """Measure the arms of every encoder for every feature, then answer all questions as one family.

    An encoder and its twins encode every image once, for all features. The test split is read after everything of an
    encoder is fitted. ks that are one number are one
    question.
    Raises InputError for what does not fit the store or an encoder, and where no untrained twin of it has features.
    """
    leaked = leaked_scenes(planned.store, planned.split, progress)
    results: dict[tuple[str, str], ArmsResult] = {}
    asked: list[tuple[str, str, str, int, bool]] = []
    cells: list[Cell] = []
    for subject in planned.subjects:
        name = subject.encoder.name
        named = prefixed(progress, name) if len(planned.subjects) > 1 else progress
        measured = measure(
            planned.probe,
            planned.config,
            planned.store,
            subject.encoder,
            cache_folder,
            planned.features,
            progress=named,
        )
        results |= {(name, feature): result for feature, result in zip(planned.features, measured, strict=True)}
    for subject, feature in itertools.product(planned.subjects, planned.features):
        name, result = subject.encoder.name, results[subject.encoder.name, feature]
        of_feature = [target(feature).name] if len(planned.features) > 1 else []
        for k, arms in result.arms.items():
            is_all = result.ks.get("all") == k
            asked.append((name, subject.task, feature, k, is_all))
            title = ", ".join([name, *of_feature, f"k = {k}{' (all)' if is_all else ''}"])
            cells.append(Cell(title, arms, result.num_valid, planned.clusters, result.shuffled[k], leaked))
    verdicts = decide(cells, planned.config)
    answers = zip(asked, cells, verdicts, strict=True)
    return Study(planned, results, tuple(Answer(*each, cell.arms, verdict) for each, cell, verdict in answers))
