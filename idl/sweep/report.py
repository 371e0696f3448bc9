"""What a sweep shows: a page for each trial, and the search beside the report of its best probe."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from PIL import Image as Pillow

from idl import figures
from idl.evaluate import ShownImages
from idl.fitting import with_offset
from idl.probes.gradient_fit import TrainResult
from idl.report import Image, Run, RunReport
from idl.report.encoder import run_tags
from idl.report.probe import linear_probe
from idl.sweep.search import Search, SweepTrial, TrainingData
from idl.sweep.space import Stage
from idl.sweep.study import importances_of

NUM_SHOWN = 4


# The number of a trial in its study, what its run shows, and further files by path.
TrialPage = tuple[int, RunReport, Mapping[str, bytes]]


class TrialPages:
    """Makes the pages of trials: settings, loss curves, the probe itself, and pictures of what it makes of images."""

    def __init__(self, data: TrainingData) -> None:
        self._data = data
        self._shown = {
            stage: ShownImages.of(ground.encoded, ground.target, NUM_SHOWN) for stage, ground in data.encoded.items()
        }
        self._sheets = {
            stage: figures.trial_sheet(shown.rgb, shown.truth, shown.valid, data.encoded[stage].limits)
            for stage, shown in self._shown.items()
        }

    def of(self, batch: Sequence[tuple[SweepTrial, TrainResult]]) -> list[TrialPage]:
        """Return the pages of a batch, in its order by stage; the predictions of each stage are one product."""
        return [
            page
            for stage in dict.fromkeys(trial.stage for trial, _ in batch)
            for page in self._of_stage(stage, [each for each in batch if each[0].stage == stage])
        ]

    def _of_stage(self, stage: Stage, batch: Sequence[tuple[SweepTrial, TrainResult]]) -> list[TrialPage]:
        ground = self._data.encoded[stage]
        tags = {**run_tags(ground.store, ground.encoder), "target": ground.target.name}
        weights = [with_offset(descent.weights, self._data.sets[stage].train) for _, descent in batch]
        predictions = self._shown[stage].predicted(weights, figures.TILE_SIDE)
        pages = []
        for (trial, descent), of_target, prediction in zip(batch, weights, predictions, strict=True):
            words = f"trial {trial.number}: k {trial.trial.k}, lr {trial.trial.lr:.2g}, loss {trial.val_loss:.4g}"
            sheet = figures.with_predictions(self._sheets[stage], prediction, ground.limits, words)
            penalty = trial.trial.weight_decay * of_target.shape[1] / 2
            probe = linear_probe(ground, of_target, trial.trial.k, penalty)
            report = RunReport(
                params=trial_params(trial),
                metrics={**_metrics(trial), "epochs_trained": len(descent.val_losses)},
                curves={"train_loss": descent.train_losses, "val_loss": descent.val_losses},
                tags={**tags, "outcome": trial.outcome},
            )
            files = {"probe.safetensors": probe.to_bytes(), "validation.png": _png(sheet)}
            pages.append((trial.number, report, files))
        return pages


def with_search(run: Run, search: RunReport, exact_val_loss: float) -> Run:
    """Put the search beside what the winner's run shows.

    exact_val_loss: of the exact solver at the winner's k, with the penalty that validation chose.
    """
    report = run.report
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


def search_report(search: Search) -> RunReport:
    """Return what a search was: the trials that count, the best of them, and where this worker's time went."""
    trials = search.trials()
    importances = importances_of(search.study.trials()[: len(trials)])
    best = min(trials, key=lambda trial: trial.val_loss)
    outcomes = [trial.outcome for trial in trials]
    losses = [trial.val_loss for trial in trials]
    unit = figures.squared(search.data.encoded[best.stage].target.unit)
    measure = ", ".join(filter(None, ("validation loss", unit)))
    ks, rates = [trial.trial.k for trial in trials], [trial.trial.lr for trial in trials]
    pictures = {
        "sweep/history.png": figures.search_history(losses, measure, f"Study {search.study.name}"),
        "sweep/k_and_lr.png": figures.search_plane(ks, rates, losses, measure),
    }
    if importances:
        pictures["sweep/importance.png"] = figures.importance_chart([*importances], [*importances.values()])
    rows = [
        {"number": trial.number, **trial_params(trial), "outcome": trial.outcome, **_metrics(trial)} for trial in trials
    ]
    settings = ("trials", "trials_per_batch", "sampler", "sweep_seed")
    return RunReport(
        params={
            **{name: getattr(search.config, name) for name in settings},
            **search.space.searched(),
            "last_k": search.data.last_k,
        },
        metrics={
            "best_trial": best.number,
            "best_loss": best.val_loss,
            "num_trials": len(trials),
            **{f"num_{outcome}": outcomes.count(outcome) for outcome in ("converged", "diverged")},
            **{f"importance/{name}": share for name, share in importances.items()},
            **{f"seconds/{part}": spent for part, spent in search.seconds.items()},
        },
        figures=pictures,
        tables={"sweep/trials.csv": {name: [row[name] for row in rows] for name in rows[0]}},
        description=_description(search, best, len(trials), unit, importances),
        tags={"study": search.study.name},
    )


def trial_params(trial: SweepTrial) -> dict[str, object]:
    """Return the settings of a trial by name."""
    settings = asdict(trial.trial)
    # As the options of a probe are called, which `batch_size` and `seed` are other ones of.
    settings["step_images"], settings["order_seed"] = settings.pop("batch_size"), settings.pop("seed")
    placed = {} if trial.stage is None else {"stage": trial.stage}
    # MLflow's axes are linear, and rates are searched in the logarithm.
    return {**placed, **settings, "log10_lr": f"{math.log10(trial.trial.lr):.4f}"}


def _metrics(trial: SweepTrial) -> dict[str, float]:
    names = ("train_loss", "val_loss", "excess_loss", "best_epoch")
    return {"loss": trial.val_loss, **{name: getattr(trial, name) for name in names}}


def _description(search: Search, best: SweepTrial, num_trials: int, unit: str, importances: Mapping[str, float]) -> str:
    placed = "" if best.stage is None else f"stage {best.stage}, "
    searched = ", ".join(f"{name} {words}" for name, words in search.space.searched().items())
    loss = f"{best.val_loss:.4g} {unit}".strip()
    sentences = [
        f"Study **{search.study.name}**: the best of {num_trials} trials is number {best.number}, with {placed}k "
        f"{best.trial.k} and a learning rate of {best.trial.lr:.3g} ({best.trial.solver}): validation loss {loss}.",
        f"Searched: {searched}.",
    ]
    if importances:
        ranked = sorted(importances.items(), key=lambda each: -each[1])
        sentences.append("What mattered: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in ranked) + ".")
    return " ".join(sentences) + "".join(f"\n\n> {each.plan.sentence}" for each in search.data.sets.values())


def _png(picture: Image) -> bytes:
    file = io.BytesIO()
    # The least compression: half the time for a tenth more bytes.
    Pillow.fromarray(picture).save(file, "png", compress_level=1)
    return file.getvalue()
