"""From a sweep's trials to their runs: what a trial's page in MLflow shows."""

import io
from collections.abc import Collection, Sequence

from PIL import Image as Pillow

from idl import figures
from idl.descending import target_weights
from idl.pipeline import linear_probe
from idl.probes.trial import Descent
from idl.report import Image, RunReport
from idl.reporting import run_tags
from idl.sweep.grounds import Grounds
from idl.sweep.reporting import trial_params
from idl.sweep.result import SweepTrial
from idl.sweep.watcher import Asked, Watcher
from idl.tracking import TrialRuns
from idl.validation import ShownImages

NUM_SHOWN = 4


class LoggedTrials(Watcher):
    """Gives every trial a run: settings, loss curve, the probe itself, and pictures of what it makes of images."""

    def __init__(self, runs: TrialRuns, grounds: Grounds) -> None:
        self._runs = runs
        self._grounds = grounds
        self._tags = {
            place: {**run_tags(ground.store, ground.encoder), "target": ground.target.name}
            for place, ground in grounds.grounds.items()
        }
        self._shown = {
            place: ShownImages.of(ground.encoded, ground.target, NUM_SHOWN) for place, ground in grounds.grounds.items()
        }
        self._sheets = {
            place: figures.trial_sheet(shown.rgb, shown.truth, shown.valid, grounds.grounds[place].limits)
            for place, shown in self._shown.items()
        }

    def asked(self, trials: Sequence[Asked]) -> None:
        """Start their runs."""
        for each in trials:
            retried = {} if each.retry_of is None else {"retry_of": str(each.retry_of)}
            name = f"trial {each.number:03d}"
            self._runs.open(each.number, name, trial_params(each), {**self._tags[each.place], **retried})

    def trained(self, trials: Sequence[tuple[SweepTrial, Descent]]) -> None:
        """Log what came of them, the predictions of each place by one product."""
        for place in dict.fromkeys(trial.place for trial, _ in trials):
            here = [each for each in trials if each[0].place == place]
            weights = [target_weights(descent, self._grounds.data[place]) for _, descent in here]
            predictions = self._shown[place].predicted(weights, figures.TILE_SIDE)
            for (trial, descent), of_target, prediction in zip(here, weights, predictions, strict=True):
                words = f"trial {trial.number}: k {trial.trial.k}, lr {trial.trial.lr:.2g}, loss {trial.loss:.4g}"
                sheet = figures.with_predictions(
                    self._sheets[place], prediction, self._grounds.grounds[place].limits, words
                )
                penalty = trial.trial.weight_decay * of_target.shape[1] / 2
                probe = linear_probe(self._grounds.grounds[place], of_target, trial.trial.k, penalty)
                files = {"probe.safetensors": probe.to_bytes(), "validation.png": _png(sheet)}
                self._runs.log(trial.number, _report(trial, descent), files)

    def settled(self, finished: Collection[int], lost: Collection[int], is_all: bool) -> None:
        """End their runs."""
        if is_all:
            self._runs.settle(finished, lost)
        else:
            self._runs.end(finished, "FINISHED")
            self._runs.end(lost, "KILLED")


def _report(trial: SweepTrial, descent: Descent) -> RunReport:
    """The run of a trial; parameters and tags of its settings are there already."""
    return RunReport(
        params={},
        metrics={
            "loss": trial.loss,
            "train_loss": trial.train_loss,
            "val_loss": trial.val_loss,
            "excess_loss": trial.excess_loss,
            "best_epoch": trial.best_epoch,
            "epochs_trained": len(descent.val_losses),
        },
        curves={"train_loss": descent.train_losses, "val_loss": descent.val_losses},
        tags={"outcome": trial.outcome},
    )


def _png(picture: Image) -> bytes:
    file = io.BytesIO()
    # The least compression: half the time for a tenth more bytes.
    Pillow.fromarray(picture).save(file, "png", compress_level=1)
    return file.getvalue()
