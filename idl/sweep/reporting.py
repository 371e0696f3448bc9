"""The report of a sweep: that of its winner as a probe, and what the search was."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from idl import figures
from idl.report import Image, Run, RunReport
from idl.sweep.config import SweepConfig
from idl.sweep.result import SOUND, SweepResult, SweepTrial
from idl.sweep.watcher import Asked


@dataclass(frozen=True)
class SweepFindings:
    """What a sweep run knows at its end, besides its winner's run.

    unit: of the one target; "m" where several are searched, which are judged in metres.
    plans: how the images of each training set were held, a sentence each.
    seconds: where the time of this worker went, by part.
    """

    config: SweepConfig
    result: SweepResult
    unit: str
    plans: Sequence[str]
    seconds: Mapping[str, float]

    @property
    def measure(self) -> str:
        """What the study minimises, with its unit."""
        name = "squared error of validation" if len(self.result.space.target) > 1 else "validation loss"
        return ", ".join(filter(None, (name, figures.squared(self.unit))))


def with_search(run: Run, findings: SweepFindings, exact_val_loss: float) -> Run:
    """Put the search beside what the winner's run shows.

    exact_val_loss: of the exact solver at the winner's k, with the penalty that validation chose.
    """
    report, search = run.report, search_report(findings)
    merged = replace(
        report,
        params={**report.params, **search.params},
        metrics={**report.metrics, **search.metrics, "exact_val_loss": exact_val_loss},
        figures={**report.figures, **search.figures},
        tables={**report.tables, **search.tables},
        description=f"{search.description}\n\n{report.description}",
        tags={**report.tags, **search.tags},
    )
    return replace(run, report=merged)


def search_report(findings: SweepFindings, tested_in: str = "") -> RunReport:
    """What the search was. tested_in: the run that tested the winner, where that is another one."""
    result = findings.result
    outcomes = [trial.outcome for trial in result.trials]
    metrics = {
        "best_trial": result.number,
        "best_loss": next(trial.loss for trial in result.trials if trial.number == result.number),
        "num_trials": len(outcomes),
        **{f"num_{outcome}": outcomes.count(outcome) for outcome in ("converged", "ended", "diverged")},
        **{f"importance/{name}": share for name, share in result.importances.items()},
        **{f"seconds/{part}": seconds for part, seconds in findings.seconds.items()},
    }
    tested = f"\n\nThat was the best already: it is tested, and registered, in run {tested_in}." if tested_in else ""
    return RunReport(
        params={**sweep_params(findings.config), **result.space.described()},
        metrics=metrics,
        figures=_figures(findings),
        tables={
            "sweep/trials.csv": _table(result.trials),
            "sweep/seconds.csv": {"part": [*findings.seconds], "seconds": [*findings.seconds.values()]},
        },
        description=_description(findings) + tested,
        tags={"study": result.study, **({"tested_in": tested_in} if tested_in else {})},
    )


def sweep_params(config: SweepConfig) -> dict[str, object]:
    """Return how the search went about it. Of a database's URL, which may hold a password, the kind alone."""
    storage = config.storage.partition(":")[0].partition("+")[0] or "journal"
    fixed = {name: value for name, value in asdict(config.fixed).items() if name in ("epochs", "patience", "schedule")}
    asked = {name: value for name, value in asdict(config).items() if name not in ("fixed", "storage", "seed")}
    return {**asked, "sweep_seed": config.seed, "study_storage": storage, **fixed}


def trial_params(trial: SweepTrial | Asked) -> dict[str, object]:
    """Return the settings of a trial by name."""
    placed = {name: value for name, value in trial.place._asdict().items() if value is not None}
    settings = asdict(trial.trial)
    # As the options of a probe are called, which `batch_size` and `seed` are other ones of.
    settings["step_images"], settings["order_seed"] = settings.pop("batch_size"), settings.pop("seed")
    # MLflow's axes are linear, and rates are searched in the logarithm.
    return {**placed, **settings, "log10_lr": f"{math.log10(trial.trial.lr):.4f}"}


def _figures(findings: SweepFindings) -> dict[str, Image]:
    trials = findings.result.trials
    losses = [trial.loss for trial in trials]
    sound = [trial.outcome in SOUND for trial in trials]
    made = {
        "sweep/history.png": figures.search_history(losses, sound, findings.measure, f"Study {findings.result.study}"),
        "sweep/k_and_lr.png": figures.search_plane(
            [trial.trial.k for trial in trials], [trial.trial.lr for trial in trials], losses, sound, findings.measure
        ),
    }
    if importances := findings.result.importances:
        made["sweep/importance.png"] = figures.importance_chart([*importances], [*importances.values()])
    return made


def _table(trials: Sequence[SweepTrial]) -> dict[str, list[object]]:
    rows = [
        {
            "number": trial.number,
            **trial_params(trial),
            **{name: getattr(trial, name) for name in ("outcome", "loss", "train_loss", "val_loss", "excess_loss")},
            "best_epoch": trial.best_epoch,
        }
        for trial in trials
    ]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _description(findings: SweepFindings) -> str:
    result = findings.result
    best = next(trial for trial in result.trials if trial.number == result.number)
    placed = ", ".join(f"{name} {value}" for name, value in best.place._asdict().items() if value is not None)
    square = figures.squared(findings.unit)
    unit = f" {square}" if square else ""
    searched = ", ".join(f"{name} {words}" for name, words in result.space.described().items() if words)
    sentences = [
        f"Study **{result.study}**: the best of {len(result.trials)} trials is number {best.number}, with "
        f"{placed + ', ' if placed else ''}k {best.trial.k} and a learning rate of {best.trial.lr:.3g} "
        f"({best.trial.solver}): {findings.measure.partition(',')[0]} {best.loss:.4g}{unit}.",
        f"Searched: {searched}.",
    ]
    if result.importances:
        ranked = sorted(result.importances.items(), key=lambda each: -each[1])
        sentences.append("What mattered: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in ranked) + ".")
    if len(result.space.target) > 1:
        sentences.append(
            "Several targets were searched: a trial's loss is the mean squared error in metres over all valid pixels "
            "of the validation split, predicted and clamped to the protocol's range; `val_loss` is in each target's "
            "own space."
        )
    return " ".join(sentences) + "".join(f"\n\n> {plan}" for plan in findings.plans)
