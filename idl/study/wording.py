"""What an answer means, in words for people who do not know statistics."""

from idl.study.cells import Question
from idl.study.run import Study
from idl.verdict import Outcome, Verdict

_MEANINGS = {
    Outcome.LEARNED: (
        "Trained for {task}, {encoder} has learned something about {feature}: a linear probe reads there what it does "
        "not read in the image's own pixels, nor in the same network without its training."
    ),
    Outcome.NOT_LEARNED: (
        "Trained for {task}, {encoder} adds less than the margin of {margin} to what a linear probe reads of {feature} "
        "in the image's own pixels, or in the same network without its training."
    ),
    Outcome.INCONCLUSIVE: (
        "Whether {encoder}, trained for {task}, has learned something about {feature} cannot be told from these images."
    ),
    Outcome.INVALID: "Nothing is concluded about {encoder} and {feature}: {failed}.",
}
# Of the gates of `idl.verdict.gates`, where they fail.
_FAILED = {
    "no fit worse than constant": "a probe is worse than a constant guess on the very images that it was fitted to",
    "fits converged": "a probe was not fitted to its end",
    "every column counts": "numbers that a probe reads got lost in its fit",
    "no joint arm worse than its part": "a probe of encoder and pixels together does worse than one of them alone",
    "twins differ from pixels": "an untrained twin was not read at all",
    "enough clusters": "only {clusters} tested, and {fewest} are needed",
    "splits apart": "the same scenes or images were learned from and tested on",
}


def meaning(study: Study, question: Question, verdict: Verdict) -> str:
    """Say what the answer means, in a sentence or two."""
    subject = study.subjects[question.encoder]
    words = _MEANINGS[verdict.outcome].format(
        encoder=subject.encoder.name,
        task=subject.task,
        feature=study.plan.probe.target,
        margin=f"{100 * (study.plan.config.margin - 1):.3g} %",
        failed=" and ".join(_failed(study, verdict)),
    )
    beside = verdict.caution if verdict.outcome is Outcome.LEARNED else verdict.block_caution
    return f"{words} {beside}" if beside else words


def _failed(study: Study, verdict: Verdict) -> list[str]:
    """Say which conditions do not hold."""
    clusters = f"{verdict.counted_clusters} {'was' if verdict.num_clusters == 1 else 'were'}"
    return [
        _FAILED[gate.name].format(clusters=clusters, fewest=study.plan.config.rules.min_clusters)
        for gate in verdict.gates
        if not gate.passed
    ]


def notes(study: Study) -> tuple[str, ...]:
    """List what a reader of the answers must know, a sentence each."""
    found = [*study.plan.store.notes]
    for subject, result in zip(study.subjects, study.results, strict=True):
        encoder = subject.encoder
        if encoder.origin.warning:
            found.append(encoder.origin.warning)
        found += [f"{encoder.name}: {sentence}" for sentence in result.missing]
    found.append(
        "One trained network stands for itself: about a task, several trained from different seeds would speak."
    )
    return tuple(dict.fromkeys(found))


def markdown(study: Study) -> str:
    """Give all answers for a run's page, the answers first."""
    lines = []
    for question, verdict in zip(study.questions, study.verdicts, strict=True):
        lines.append(f"**{question.name}: {verdict.outcome}.** {meaning(study, question, verdict)} {verdict.reason}")
    return "\n\n".join(lines) + "".join(f"\n\n> {note}" for note in notes(study))
