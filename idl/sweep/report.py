"""What a sweep shows: a report for each trial, and the search beside the report of its best probe."""

import math
from dataclasses import asdict, replace
from typing import Any

from idl.probe_config import EncodedData
from idl.probes.gradient_fit import TrainResult
from idl.report import Run, RunReport, charts
from idl.report.encoder import run_tags
from idl.report.probe import linear_probe
from idl.sweep.search import Search, SweepTrial
from idl.sweep.study import importances_of


def trial_report(encoded: EncodedData, trial: SweepTrial, result: TrainResult) -> tuple[RunReport, bytes]:
    """Return what the run of a trial shows, its settings and loss curves, and the probe itself (.safetensors)."""
    penalty = trial.trial.weight_decay * result.weights.shape[1] / 2
    report = RunReport(
        params=_params(trial),
        metrics={**_metrics(trial), "epochs_trained": len(result.val_losses)},
        curves={"train_loss": result.train_losses, "val_loss": result.val_losses},
        tags={
            **run_tags(encoded.store, encoded.encoder),
            "target": encoded.target.name,
            "outcome": trial.outcome,
        },
    )
    return report, linear_probe(encoded, result.weights, trial.trial.k, penalty).to_bytes()


def with_search(run: Run, search: RunReport, exact_val_loss: float) -> Run:
    """Put the search, and the exact solver's validation loss at the winner's k, beside what the winner's run shows."""
    names = ("params", "figures", "tables", "tags")
    both: dict[str, Any] = {name: {**getattr(run.report, name), **getattr(search, name)} for name in names}
    metrics = {**run.report.metrics, **search.metrics, "exact_val_loss": exact_val_loss}
    description = f"{search.description}\n\n{run.report.description}"
    return replace(run, report=replace(run.report, **both, metrics=metrics, description=description))


def search_report(search: Search) -> RunReport:
    """Return what a search was: the trials that count, and the best of them."""
    trials, name = search.trials(), search.study.name
    importances = importances_of(search.study.trials(len(trials)))
    best = min(trials, key=lambda trial: trial.val_loss)
    outcomes, losses = [trial.outcome for trial in trials], [trial.val_loss for trial in trials]
    unit = charts.squared(search.data.encoded[best.stage].target.unit)
    measure = ", ".join(filter(None, ("validation loss", unit)))
    ks, rates = [trial.trial.k for trial in trials], [trial.trial.lr for trial in trials]
    pictures = {
        "sweep/history.png": charts.search_history(losses, measure, f"Study {name}"),
        "sweep/k_and_lr.png": charts.search_plane(ks, rates, losses, measure),
    }
    placed = "" if best.stage is None else f"stage {best.stage}, "
    searched = ", ".join(f"{option} {text}" for option, text in search.config.searched().items())
    description = (
        f"Study **{name}**: the best of {len(trials)} trials is number {best.number}, with {placed}k {best.trial.k} "
        f"and a learning rate of {best.trial.lr:.3g} ({best.trial.solver}): validation loss "
        f"{f'{best.val_loss:.4g} {unit}'.strip()}. Searched: {searched}."
    )
    if importances:
        pictures["sweep/importance.png"] = charts.importance_chart([*importances], [*importances.values()])
        ranked = sorted(importances.items(), key=lambda each: -each[1])
        description += f" What mattered: {', '.join(f'{each} {100 * share:.0f} %' for each, share in ranked)}."
    rows = [{"number": each.number, **_params(each), "outcome": each.outcome, **_metrics(each)} for each in trials]
    settings = ("trials", "trials_per_batch", "sampler", "sweep_seed")
    return RunReport(
        params={
            **{setting: getattr(search.config, setting) for setting in settings},
            **search.config.searched(),
            "last_k": search.data.last_k,
        },
        metrics={
            "best_trial": best.number,
            "best_loss": best.val_loss,
            "num_trials": len(trials),
            **{f"num_{outcome}": outcomes.count(outcome) for outcome in ("converged", "diverged")},
            **{f"importance/{setting}": share for setting, share in importances.items()},
        },
        figures=pictures,
        tables={"sweep/trials.csv": {column: [row[column] for row in rows] for column in rows[0]}},
        description=description + "".join(f"\n\n> {each.plan.sentence}" for each in search.data.sets.values()),
        tags={"study": name},
    )


def _params(trial: SweepTrial) -> dict[str, object]:
    """Return the settings of a trial by the names of a probe's options, where `batch_size` and `seed` mean others."""
    settings = asdict(trial.trial)
    settings["step_images"], settings["order_seed"] = settings.pop("batch_size"), settings.pop("seed")
    placed = {} if trial.stage is None else {"stage": trial.stage}
    # MLflow's axes are linear, and rates are searched in the logarithm.
    return {**placed, **settings, "log10_lr": f"{math.log10(trial.trial.lr):.4f}"}


def _metrics(trial: SweepTrial) -> dict[str, float]:
    names = ("train_loss", "val_loss", "excess_loss", "best_epoch")
    return {"loss": trial.val_loss, **{name: getattr(trial, name) for name in names}}
