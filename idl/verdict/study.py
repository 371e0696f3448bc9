"""A study: one or several frozen encoders, one feature, and for each the answer whether it was learned."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from idl.data.images import repeats
from idl.data.splits import NUM_FOLDS, SPLITS, Split
from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig
from idl.encoders.tasks import encoder_for_task
from idl.encoders.untrained import KINDS, require_twins
from idl.errors import InputError
from idl.evaluate import require_native
from idl.features import BASIS_IMAGES
from idl.probe_config import ProbeConfig, split_of
from idl.probes.exact import NUM_PLANTED, PENALTIES
from idl.progress import Progress, prefixed, silent
from idl.targets import target
from idl.verdict.baselines import CALIBRATION_IMAGES, COMMON_NULL, ArmsResult, measure
from idl.verdict.baselines import check as check_arms
from idl.verdict.decision import decide, enough_clusters, require_draws
from idl.verdict.result import Cell, Clustering, Verdict
from idl.verdict.settings import StudyConfig

NULL = "null"
# null has none, and the autoencoder none of a hub.
_WITHOUT_WEIGHTS = {NULL, "autoencoder"}
# As an encoder's origin names it.
_UNTRAINED = "none"


def chosen_encoder(config: EncoderConfig, task: str) -> EncoderConfig:
    """Return the encoder that is meant where none is named (name ""): the one that stands for `task`, or convnext."""
    if config.name or not task:
        return replace(config, name=config.name or "convnext")
    named = encoder_for_task(task)
    # Weights that were passed beside the task are those of the task's encoder.
    weights = named.weights if config.weights == "auto" else config.weights
    return replace(config, name=named.name, weights=weights)


def compared_encoders(encoders: str, weights: str, common_stride: int) -> tuple[EncoderConfig, ...]:
    """Return the null at the common stride and each of `encoders`, whose names have commas between.

    weights: of those that take any. Raises InputError for names that cannot be, and for weights that nobody takes.
    """
    names = [name.strip() for name in encoders.split(",") if name.strip()]
    if not names or NULL in names:
        raise InputError(f"encoders={encoders}: name those that are judged; {NULL} stands beside them.")
    _require_each_once(names)
    if weights != "auto" and set(names) <= _WITHOUT_WEIGHTS:
        raise InputError(
            f"weights={weights}: encoders={encoders} has none that takes them. Pass weights=auto, or judge one encoder "
            "with `idl verdict`."
        )
    judged = (EncoderConfig(name, weights="auto" if name in _WITHOUT_WEIGHTS else weights) for name in names)
    return (EncoderConfig(NULL, stride=common_stride), *judged)


def _require_each_once(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise InputError(f"encoders={','.join(names)}: one is there twice. Name each once.")


@dataclass(frozen=True)
class Subject:
    """An encoder that is judged. task: what it was trained for."""

    encoder: Encoder
    task: str


@dataclass(frozen=True)
class Question:
    """An encoder at one k. encoder: position among the study's. name: for people, one of its kind in a study."""

    name: str
    encoder: int
    k: int


@dataclass(frozen=True)
class Plan:
    """What is fixed before the test split is read.

    fixed: what decides the answer beside the rules, as `fixed` gives it. clusters: of the test images.
    """

    probe: ProbeConfig
    config: StudyConfig
    store: Store
    split: Split
    subjects: tuple[Subject, ...]
    fixed: Mapping[str, object]
    clusters: Clustering

    @property
    def warning(self) -> str:
        """Why every answer will be INVALID, as far as that is known by now; "" where nothing speaks for it."""
        gate = enough_clusters(len(set(self.clusters.of_image)), self.clusters.kind, self.config.rules)
        return "" if gate.passed else f"the answer will be INVALID ({gate.name}: {gate.detail})."

    @property
    def digest(self) -> str:
        """Of all of it, to be written down first."""
        return self.config.rules.digest(self.fixed)


@dataclass(frozen=True)
class Study:
    """What came out. results: one a subject. questions, verdicts: one each, several an encoder."""

    plan: Plan
    results: tuple[ArmsResult, ...]
    questions: tuple[Question, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The encoders that are judged."""
        return self.plan.subjects

    @property
    def answers(self) -> tuple[tuple[Question, Verdict], ...]:
        """Every question with its answer."""
        return tuple(zip(self.questions, self.verdicts, strict=True))

    def of_encoder(self, position: int) -> tuple[tuple[Question, Verdict], ...]:
        """Return one encoder's questions and answers."""
        return tuple((question, verdict) for question, verdict in self.answers if question.encoder == position)

    def alone(self, position: int) -> "Study":
        """Return the study as far as it is about one encoder; what was fixed, and corrected for, is still of all."""
        answers = self.of_encoder(position)
        return replace(
            self,
            plan=replace(self.plan, subjects=(self.subjects[position],)),
            results=(self.results[position],),
            questions=tuple(replace(question, encoder=0) for question, _ in answers),
            verdicts=tuple(verdict for _, verdict in answers),
        )


def check(probe: ProbeConfig, config: StudyConfig, subjects: Sequence[Subject], size: tuple[int, int]) -> None:
    """Make sure, before a dataset is made or read, that the study can be had. Raises InputError.

    size: rows and columns of its images.
    """
    _require_common_grid(config.common_stride, size)
    num_questions = 0
    for subject in subjects:
        encoder = subject.encoder
        if subject.task == _UNTRAINED:
            raise InputError(
                f"encoder={encoder.name} (weights: {encoder.origin.weights}): was not trained for anything, so that "
                "nothing can have been learned. Pass trained weights."
            )
        num_questions += len(set(check_arms(probe, encoder, config.requested_ks).values()))
        require_twins(encoder, config.untrained_seeds)
    require_draws(num_questions, config.rules)
    _require_each_once([subject.encoder.name for subject in subjects])


def plan(probe: ProbeConfig, config: StudyConfig, store: Store, subjects: Sequence[Subject]) -> Plan:
    """Return all that the answer depends on, before anything is measured. subjects: as `check` lets them pass.

    Raises InputError where the store cannot be split, has no such target, no blocks that are to be clusters, or no
    grid of the common stride.
    """
    _require_common_grid(config.common_stride, store.protocol.size)
    feature = target(probe.target)
    split = split_of(probe, store, feature)
    require_native(store, feature, split.indices["test"])
    clusters = clusters_of(store, split.indices["test"], config.clusters, config.rules.min_clusters)
    return Plan(probe, config, store, split, tuple(subjects), fixed(probe, config, store, split, subjects), clusters)


def _require_common_grid(stride: int, size: tuple[int, int]) -> None:
    side = math.gcd(*size)
    if side % stride:
        strides = [str(each) for each in range(2, 65) if side % each == 0] or ["1"]
        raise InputError(
            f"common_stride={stride}: does not divide images of {size[0]} x {size[1]} pixels. Pass one of "
            f"{', '.join(strides)}."
        )


def fixed(
    probe: ProbeConfig, config: StudyConfig, store: Store, split: Split, subjects: Sequence[Subject]
) -> Mapping[str, object]:
    """Return all that decides the answers beside the rules of `config`, as JSON holds it.

    Left out is what moves no more than the rounding of sums: the batch size, and where it is computed. The split's
    digest holds rule, seed, order of training and crops.
    """
    feature = target(probe.target)
    return {
        "target": {"name": feature.name, "identity": feature.identity},
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
    """Return the names of scenes that are in two splits, and of images that are, pixel for pixel, in an earlier one.

    An image all of one colour, which a camera that drops out gives again and again, has nothing to leak.
    """
    leaked = dict.fromkeys(
        scene
        for name in ("train", "val")
        for scene in split.scenes[name]
        if scene in split.scenes["test"] or (name == "train" and scene in split.scenes["val"])
    )
    # Of crops, the images that they are of: a crop is no other image's equal even where its image is.
    order = [*dict.fromkeys((name, store.origin(index)) for name in SPLITS for index in split.indices[name])]
    for position, earlier in repeats(store.rgb, [index for _, index in order], progress, "leakage"):
        name, index = order[position]
        if order[earlier][0] != name:
            leaked[f"{store.scenes[index]} (image {store.names[index]})"] = None
    return tuple(leaked)


def questions(names: Sequence[str], ks: Sequence[Mapping[str, int]]) -> tuple[Question, ...]:
    """Return a question for each encoder and each k that is another number there.

    names: of the encoders, each once. ks: of each, as typed ("all") and the number that it is.
    """
    return tuple(
        Question(f"{name}, k = {k}{' (all)' if numbers.get('all') == k else ''}", position, k)
        for position, (name, numbers) in enumerate(zip(names, ks, strict=True))
        for k in sorted(set(numbers.values()))
    )


def cell(question: Question, result: ArmsResult, clusters: Clustering, leaked: Sequence[str]) -> Cell:
    """Return the arms of one encoder at one k in the form that a verdict is reached from."""
    at = result.at[question.k]
    common = {} if result.common_null is None else {COMMON_NULL: result.common_null}
    num_valid = result.num_valid * result.num_outputs
    return Cell(question.name, {**at.arms, **common}, num_valid, clusters, at.shuffled, leaked)


def study(planned: Plan, cache_folder: Path, *, progress: Progress = silent) -> Study:
    """Measure the arms of every encoder, then answer all questions as one family.

    The test split is read after everything of an encoder is fitted.
    Raises InputError for what does not fit the store or an encoder, and where no untrained twin of it has features.
    """
    config, store, split = planned.config, planned.store, planned.split
    encoders = [subject.encoder for subject in planned.subjects]
    for encoder in encoders:
        # All of them before the first one's test images are read.
        encoder.require(*store.protocol.size)
    leaked = leaked_scenes(store, split, progress)
    results = []
    for encoder in encoders:
        named = prefixed(progress, encoder.name) if len(encoders) > 1 else progress
        results.append(measure(planned.probe, config, store, encoder, cache_folder, progress=named))
    all_questions = questions([encoder.name for encoder in encoders], [result.ks for result in results])
    cells = [cell(question, results[question.encoder], planned.clusters, leaked) for question in all_questions]
    return Study(planned, tuple(results), all_questions, decide(cells, config.rules))
