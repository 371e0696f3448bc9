"""A study, from frozen encoders to verdicts: arms of each, one family of questions, one answer a question."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from idl.arms import ArmsResult, measure
from idl.arms import check as check_arms
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders.untrained import require_twins
from idl.errors import InputError
from idl.native import require_native
from idl.pipeline import ProbeConfig, split_of
from idl.progress import Progress, prefixed, silent
from idl.study.cells import Clustering, Question, cell, clusters_of, questions, shared_scenes
from idl.study.config import StudyConfig
from idl.study.fixed import Subject, fixed
from idl.targets import target
from idl.verdict import Verdict, decide, enough_clusters, require_draws

# As an encoder's origin names it.
UNTRAINED = "none"


@dataclass(frozen=True)
class Plan:
    """What is fixed before the test split is read.

    fixed: by name, what decides the answer beside the rules; see `idl.study.fixed`.
    clusters: of the test images.
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
    """What came out.

    results: one a subject. questions, verdicts: one each, several an encoder.
    """

    plan: Plan
    results: tuple[ArmsResult, ...]
    questions: tuple[Question, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The encoders that are judged."""
        return self.plan.subjects

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

    def of_encoder(self, position: int) -> tuple[tuple[Question, Verdict], ...]:
        """Return one encoder's questions and answers."""
        pairs = zip(self.questions, self.verdicts, strict=True)
        return tuple((question, verdict) for question, verdict in pairs if question.encoder == position)


def check(probe: ProbeConfig, config: StudyConfig, subjects: Sequence[Subject], size: tuple[int, int]) -> None:
    """Make sure, before a dataset is made or read, that the study can be had. Raises InputError.

    size: rows and columns of its images.
    """
    _require_common_grid(config.common_stride, size)
    num_questions = 0
    for subject in subjects:
        encoder = subject.encoder
        if subject.task == UNTRAINED:
            raise InputError(
                f"encoder={encoder.name} (weights: {encoder.origin.weights}): was not trained for anything, so that "
                "nothing can have been learned. Pass trained weights."
            )
        num_questions += len(set(check_arms(probe, encoder, config.asked_ks).values()))
        require_twins(encoder, config.untrained_seeds)
    require_draws(num_questions, config.rules)
    names = [subject.encoder.name for subject in subjects]
    if len(set(names)) < len(names):
        raise InputError(f"encoders={','.join(names)}: one is there twice. Name each once.")


def plan(probe: ProbeConfig, config: StudyConfig, store: Store, subjects: Sequence[Subject]) -> Plan:
    """Fix all that the answer depends on, before anything is measured. subjects: as `check` lets them pass.

    Raises InputError where the store cannot be split, has no such target, no blocks that are asked for as clusters, or
    no grid of the common stride.
    """
    _require_common_grid(config.common_stride, store.protocol.size)
    wanted = target(probe.target)
    split = split_of(probe, store, wanted)
    require_native(store, wanted, split.indices["test"])
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
    shared = shared_scenes(store, split, progress)
    results = []
    for encoder in encoders:
        named = prefixed(progress, encoder.name) if len(encoders) > 1 else progress
        results.append(
            measure(planned.probe, store, encoder, cache_folder, config.asked_ks, config.controls, progress=named)
        )
    asked = questions([encoder.name for encoder in encoders], [result.ks for result in results])
    cells = [cell(question, results[question.encoder], planned.clusters, shared) for question in asked]
    verdicts = decide(cells, config.rules)
    return Study(planned, tuple(results), asked, verdicts)
