"""From the arms of an encoder to the questions that a verdict answers: one an encoder and k."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from idl.arms import ArmsAtK, ArmsResult, FittedArm
from idl.data.repeats import repeats
from idl.data.splits import SPLITS, Split
from idl.data.store import Store
from idl.errors import InputError
from idl.probes.exact import PENALTIES
from idl.progress import Progress, silent
from idl.study.config import Clusters
from idl.verdict import Cell, ClusterKind, Evidence, FitRecord, Shuffled, Training

COMMON_NULL = "common null"


@dataclass(frozen=True)
class Question:
    """An encoder at one k. encoder: position among the study's. name: for people, one of its kind in a study."""

    name: str
    encoder: int
    k: int


@dataclass(frozen=True)
class Clustering:
    """What is drawn as a whole.

    of_image: what each image belongs to. kind: what that is. recordings: of each image, where clusters are blocks.
    """

    of_image: tuple[str, ...]
    kind: ClusterKind
    recordings: tuple[str, ...] = ()


def clusters_of(store: Store, indices: Sequence[int], clusters: Clusters, fewest: int) -> Clustering:
    """Return what each of the images belongs to. fewest: scenes below which "auto" takes scans, if these are more.

    Blocks of consecutive frames count as one, their recording, unless they are asked for.
    Raises InputError where blocks are asked for, and there are none.
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


def shared_scenes(store: Store, split: Split, progress: Progress = silent) -> tuple[str, ...]:
    """Name the scenes that are in two splits, and the images that are, pixel for pixel, in an earlier split too.

    An image all of one colour, which a camera that drops out gives again and again, has nothing to leak.
    """
    found = dict.fromkeys(
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
            found[f"{store.scenes[index]} (image {store.names[index]})"] = None
    return tuple(found)


def cell(question: Question, result: ArmsResult, clusters: Clustering, shared: Sequence[str]) -> Cell:
    """Bring the arms of one encoder at one k into the form that a verdict is reached from."""
    at = result.at[question.k]
    arms = dict(at.arms)
    if result.common_null is not None:
        arms[COMMON_NULL] = result.common_null
    return Cell(
        question.name,
        Evidence(
            clusters.of_image,
            result.num_valid * result.num_outputs,
            {name: arm.squared_error for name, arm in arms.items()},
            _shuffled(at),
            {name: arm.aligned_error for name, arm in arms.items()},
            clusters.kind,
            clusters.recordings,
        ),
        Training({name: _fit_record(arm.fitted) for name, arm in at.arms.items()}, shared),
    )


def _fit_record(fitted: FittedArm) -> FitRecord:
    solution = fitted.solution
    return FitRecord(
        train_loss=solution.plain_train_loss,
        excess_loss=solution.excess_loss,
        val_loss=solution.val_loss,
        val_error=solution.val_error,
        cv_loss=solution.cv_loss,
        cv_error=solution.cv_error,
        rank=solution.rank,
        expected_rank=fitted.expected_rank,
        is_left_out=fitted.features_penalty == max(PENALTIES),
        recovered=fitted.recovered,
    )


def _shuffled(at: ArmsAtK) -> Shuffled | None:
    if not at.shuffled:
        return None
    return Shuffled(at.shuffled["trained"].squared_error, at.shuffled["constant"].squared_error)


def questions(names: Sequence[str], ks: Sequence[Mapping[str, int]]) -> tuple[Question, ...]:
    """Ask for each encoder and each k that is another number there.

    names: of the encoders, each once. ks: of each, what was asked for ("all") and the number that it is.
    """
    return tuple(
        Question(f"{name}, k = {k}{' (all)' if wanted.get('all') == k else ''}", position, k)
        for position, (name, wanted) in enumerate(zip(names, ks, strict=True))
        for k in sorted(set(wanted.values()))
    )
