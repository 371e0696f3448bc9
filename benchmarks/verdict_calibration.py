"""How often a verdict is wrong, by simulation, and how often it finds what is there.

    PYTHONPATH=.:tests python benchmarks/verdict_calibration.py --out calibration.json

Losses are drawn from `tests/planted_losses.py`, whose true effects are known; each draw goes through `decide`. The
shares of the outcomes are printed with their 95 % intervals (Wilson). What is nominal:

- an estimand at the margin, the other far above it: LEARNED is wrong, in 2.5 %; NOT LEARNED is wrong too, in 2.5 %;
- both at the margin: LEARNED in at most 2.5 %, NOT LEARNED in at most 5 %;
- both at twice the smallest detectable effect: LEARNED in at least 95 %;
- no effect: LEARNED never; NOT LEARNED where the scenes suffice.

2,000 bootstrap draws instead of the 10,000 of a verdict: the level of a bound then has a standard error of 0.35 % about
2.5 % from its draws, which averages out over the simulations (--draws 10000 shows it). Scenarios that --out holds
under the same settings are not run again: an interrupted run goes on.
"""

import json
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from planted_losses import PlantedLosses, Shape
from record import record

from idl.progress import terminal
from idl.verdict.decision import decide
from idl.verdict.result import Outcome, StudyConfig

TRUTHS = ("beyond pixels at the margin", "learned at the margin", "both at the margin", "twice detectable", "no effect")
FAR_ABOVE = 1.0
_BLOCK = 50
_NUM_PILOTS = 200


@dataclass(frozen=True)
class Scenario:
    """What is simulated; every field counts for whether a result can be used again."""

    truth: str
    num_scenes: int
    shape: Shape
    simulations: int
    draws: int

    @property
    def key(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    def seed(self, *parts: int) -> Sequence[int]:
        """Return a seed of its own for each scenario and `parts`."""
        return [TRUTHS.index(self.truth), self.num_scenes, ("normal", "skewed").index(self.shape), *parts]


def planted(scenario: Scenario) -> PlantedLosses:
    """Return the losses of a scenario; "twice detectable" takes the mean of what pilots say is detectable."""
    margin = StudyConfig().log_margin
    effects = {
        "beyond pixels at the margin": (margin, FAR_ABOVE),
        "learned at the margin": (FAR_ABOVE, margin),
        "both at the margin": (margin, margin),
        "no effect": (0.0, 0.0),
        "twice detectable": (FAR_ABOVE, FAR_ABOVE),
    }
    losses = PlantedLosses(scenario.num_scenes, scenario.shape, *effects[scenario.truth])
    if scenario.truth != "twice detectable":
        return losses
    # The standard error of a log ratio does not depend on the ratio.
    generator = np.random.default_rng(scenario.seed(1))
    config = StudyConfig(draws=400)
    pilots = [decide([losses.cell(generator)], config, described=False)[0] for _ in range(_NUM_PILOTS)]
    beyond_pixels, learned = (
        2 * float(np.mean([each.smallest_detectable for each in of_estimand]))
        for of_estimand in zip(*((pilot.beyond_pixels, pilot.learned) for pilot in pilots), strict=True)
    )
    return PlantedLosses(scenario.num_scenes, scenario.shape, beyond_pixels, learned)


def simulate(work: tuple[Scenario, PlantedLosses, int]) -> Counter[Outcome]:
    """Count the outcomes of one block of simulations."""
    scenario, losses, first = work
    outcomes: Counter[Outcome] = Counter()
    for number in range(first, min(first + _BLOCK, scenario.simulations)):
        generator = np.random.default_rng(scenario.seed(0, number))
        # Bootstrap draws of their own in each, so that their errors average out.
        config = StudyConfig(draws=scenario.draws, bootstrap_seed=number)
        outcomes[decide([losses.cell(generator)], config, described=False)[0].outcome] += 1
    return outcomes


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    middle = (count + z * z / 2) / (total + z * z)
    half = z / (total + z * z) * math.sqrt(count * (total - count) / total + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


@click.command()
@click.option("--simulations", default=2000, show_default=True)
@click.option("--draws", default=2000, show_default=True, help="Bootstrap draws of each simulation.")
@click.option("--scenes", multiple=True, type=int, default=(10, 20, 60), show_default=True)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    type=click.Choice(["normal", "skewed"]),
    default=("normal", "skewed"),
    show_default=True,
)
@click.option("--truth", "truths", multiple=True, type=click.Choice(TRUTHS), default=TRUTHS)
@click.option("--workers", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON of the results, to go on from.")
def main(
    simulations: int,
    draws: int,
    scenes: Sequence[int],
    shapes: Sequence[Shape],
    truths: Sequence[str],
    workers: int,
    out: Path | None,
) -> None:
    """Simulate every scenario and print the table."""
    start = time.perf_counter()
    done = json.loads(out.read_text())["scenarios"] if out and out.exists() else {}
    scenarios = [
        Scenario(truth, num_scenes, shape, simulations, draws)
        for truth in truths
        for shape in shapes
        for num_scenes in scenes
    ]
    with (
        multiprocessing.get_context("spawn").Pool(workers) as pool,
        terminal("simulations", simulations * len(scenarios), unit="verdicts") as advance,
    ):
        for scenario in scenarios:
            if scenario.key in done:
                advance(simulations)
                continue
            losses = planted(scenario)
            counts: Counter[Outcome] = Counter()
            for block in pool.imap(simulate, [(scenario, losses, first) for first in range(0, simulations, _BLOCK)]):
                counts += block
                advance(block.total())
            effects = {"beyond_pixels": losses.beyond_pixels, "learned": losses.learned}
            done[scenario.key] = {"effects": effects, "outcomes": {str(name): counts[name] for name in Outcome}}
            if out:
                _write(out, done)
    click.echo(record())
    click.echo(f"{simulations} simulations, {draws} bootstrap draws each, {time.perf_counter() - start:.0f} s")
    click.echo(
        "| truth | losses | scenes | effects | LEARNED, % | NOT LEARNED, % | INCONCLUSIVE, % |\n"
        "|---|---|---|---|---|---|---|"
    )
    for scenario in scenarios:
        click.echo(_row(scenario, done[scenario.key]))


def _row(scenario: Scenario, result: Mapping[str, Mapping[str, float]]) -> str:
    shares = []
    for outcome in (Outcome.LEARNED, Outcome.NOT_LEARNED, Outcome.INCONCLUSIVE):
        count = int(result["outcomes"][outcome])
        low, high = wilson(count, scenario.simulations)
        shares.append(f"{100 * count / scenario.simulations:.1f} ({100 * low:.1f} to {100 * high:.1f})")
    effects = ", ".join(f"{math.exp(effect):.2f}" for effect in result["effects"].values())
    return f"| {scenario.truth} | {scenario.shape} | {scenario.num_scenes} | {effects} | {' | '.join(shares)} |"


def _write(path: Path, done: Mapping[str, object]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps({"record": record(), "scenarios": done}, indent=1))
    temporary.replace(path)


if __name__ == "__main__":
    main()
