"""How often a verdict is wrong from images to answer: rooms, planted encoders, their twins, and a whole study each.

    PYTHONPATH=.:tests python benchmarks/verdict_end_to_end.py --seeds 100 --out end_to_end.jsonl

What each encoder carries is known (`tests/planted_encoders.py`); `tests/planted_rooms.py` draws scenes from one store
of small rooms and runs `idl.study.run` on them, cues apart. What is expected:

- depth-1.3, depth-1.1, depth-1.07, and the same beside noise that a scene has in common (-common): LEARNED with many
  images; with few LEARNED or INCONCLUSIVE, NOT LEARNED in at most 2.5 %;
- depth-1.02, an effect below the margin: never LEARNED;
- pixels, twin (a random network passed off as trained), noise, scene-noise: LEARNED in at most 2.5 %, up to 6 or 7 % at
  ten tested scenes; at least 95 % of them NOT LEARNED, but for scene-noise: of 96 numbers that a scene has in common
  fewer scenes than several times 96 do not tell whether they say something, so that it is INCONCLUSIVE.

A feature in late components is the same to a probe that reads all of them; `--ks 10,all` asks at ten as well.
Each result is a line of --out, and cases that it holds are not run again: an interrupted run goes on. The lines know
nothing of the code that reached them: another state of the code takes a file of its own.
"""

import json
import math
import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from planted_encoders import PLANTED
from planted_rooms import Case, judge, rooms
from record import record
from verdict_calibration import wilson

from idl import cache
from idl.data.store import Store
from idl.progress import terminal
from idl.verdict.result import Comparison, Outcome

Size = tuple[int, int]
Line = Mapping[str, Any]


class Sizes(click.ParamType):
    """Scenes and views of each, such as 30x2, with commas between."""

    name = "sizes"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Size, ...]:
        """Return (scenes, views) of each; fail where a part is no such pair."""
        found = []
        for text in str(value).split(","):
            scenes, _, views = text.partition("x")
            if not (scenes.isdecimal() and views.isdecimal()):
                self.fail(f"{text!r}: expected scenes and views such as 30x2.", param, ctx)
            found.append((int(scenes), int(views)))
        return tuple(found)


def run(work: tuple[Case, Path]) -> Line:
    """Reach one verdict, or one at each k, and return its figures."""
    case, path = work
    store = Store.open(path)
    start = time.perf_counter()
    study = judge(case, store)
    seconds = time.perf_counter() - start
    answers = [
        {
            "k": answer.k,
            "outcome": str(answer.verdict.outcome),
            "reason": answer.verdict.reason,
            "tested_scenes": answer.verdict.num_clusters,
            "beyond_pixels": _figures(answer.verdict.beyond_pixels),
            "learned": _figures(answer.verdict.learned),
        }
        for answer in study.answers
    ]
    (result,) = study.results.values()
    missing = list(result.missing)
    return {"case": asdict(case), "store": store.digest, "answers": answers, "missing": missing, "seconds": seconds}


def _figures(comparison: Comparison) -> Mapping[str, float]:
    return {
        "estimate": comparison.log_ratio.estimate,
        "low": comparison.log_ratio.low,
        "high": comparison.log_ratio.high,
        "smallest_detectable": comparison.smallest_detectable,
    }


def _one_thread() -> None:
    torch.set_num_threads(1)


@click.command()
@click.option("--seeds", default=20, show_default=True, help="Verdicts on each encoder at each size.")
@click.option("--first-seed", default=0, show_default=True)
@click.option("--sizes", type=Sizes(), default="30x2,60x2,200x5", show_default=True, help="Scenes x views of each.")
@click.option("--encoders", default=",".join(PLANTED), show_default=True, help="What is planted, commas between.")
@click.option("--channels", default=Case.channels, show_default=True)
@click.option("--stride", default=Case.stride, show_default=True, type=click.Choice([8, 16]))
@click.option("--ks", default=Case.ks, show_default=True)
@click.option("--draws", default=Case.draws, show_default=True, help="Bootstrap draws of each verdict.")
@click.option("--untrained-seeds", default=Case.untrained_seeds, show_default=True, help="Twins of each form.")
@click.option("--pool", type=Sizes(), default="600x5", show_default=True, help="Scenes x views rendered, once.")
@click.option("--workers", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON lines of results, to go on from.")
def main(
    seeds: int,
    first_seed: int,
    sizes: Sequence[Size],
    encoders: str,
    channels: int,
    stride: int,
    ks: str,
    draws: int,
    untrained_seeds: int,
    pool: Sequence[Size],
    workers: int,
    out: Path | None,
) -> None:
    """Reach all verdicts, and print how many are which."""
    names = encoders.split(",")
    unknown = [name for name in names if name not in PLANTED]
    if unknown:
        raise click.BadParameter(f"{unknown[0]}: expected some of {', '.join(PLANTED)}.", param_hint="encoders")
    ((pool_scenes, pool_views),) = pool
    if any(scenes > pool_scenes or views > pool_views for scenes, views in sizes):
        raise click.BadParameter(f"larger than the pool of {pool_scenes}x{pool_views}.", param_hint="sizes")
    cases = [
        Case(name, scenes, views, seed, channels, stride, ks, draws, untrained_seeds)
        # All of one seed first: an interrupted run has as many of each.
        for seed in range(first_seed, first_seed + seeds)
        for scenes, views in sizes
        for name in names
    ]
    start = time.perf_counter()
    folder = cache.default_folder() / "datasets"
    store = rooms(pool_scenes, pool_views, folder, workers=workers, progress=terminal)
    done = _read(out) if out else {}
    missing = [case for case in cases if _key(asdict(case), store.digest) not in done]
    with (
        multiprocessing.get_context("spawn").Pool(workers, _one_thread) as processes,
        terminal("verdicts", len(cases), len(cases) - len(missing), unit="verdicts") as advance,
    ):
        for line in processes.imap_unordered(run, [(case, store.path) for case in missing]):
            done[_key(line["case"], line["store"])] = line
            if out:
                with out.open("a") as file:
                    file.write(f"{json.dumps(line)}\n")
            advance(1)
    click.echo(record())
    click.echo(
        f"{seeds} seeds, {channels} channels at stride {stride}, {untrained_seeds} twins of each form, {draws} draws "
        f"of the bootstrap, {pool_scenes} rooms of {pool_views} views to draw from; {len(missing)} verdicts in "
        f"{time.perf_counter() - start:.0f} s"
    )
    _print_table([done[_key(asdict(case), store.digest)] for case in cases])


def _key(case: Line, store_digest: str) -> str:
    return json.dumps([case, store_digest], sort_keys=True)


def _read(path: Path) -> dict[str, Line]:
    """Return the results by key; a last line that was cut off is cut away."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]))
        del lines[-1]
    results = [json.loads(line) for line in lines]
    return {_key(result["case"], result["store"]): result for result in results}


def _print_table(lines: Sequence[Line]) -> None:
    rows: dict[tuple[str, int, Size], list[Line]] = defaultdict(list)
    seconds: dict[tuple[str, Size], list[float]] = defaultdict(list)
    for line in lines:
        case = line["case"]
        size = case["scenes"], case["views"]
        seconds[case["encoder"], size].append(line["seconds"])
        for answer in line["answers"]:
            rows[case["encoder"], answer["k"], size].append({"seed": case["seed"], **answer})
    sizes = sorted({size for _, _, size in rows}, key=math.prod)
    click.echo(
        "| encoder | k | scenes x views (tested) | LEARNED, % | NOT LEARNED, % | INCONCLUSIVE | INVALID | "
        "beyond pixels | detectable | learned | detectable | LEARNED with most images, NOT LEARNED here | s |\n"
        f"|{'---|' * 13}"
    )
    for encoder, k in dict.fromkeys((encoder, k) for encoder, k, _ in rows):
        most = {answer["seed"] for answer in rows[encoder, k, sizes[-1]] if answer["outcome"] == Outcome.LEARNED}
        for size in sizes:
            answers = rows[encoder, k, size]
            tested = answers[0]["tested_scenes"]
            median_s = statistics.median(seconds[encoder, size])
            cells = [encoder, k, f"{size[0]} x {size[1]} ({tested})", *_cells(answers), _lost(answers, most)]
            click.echo(f"| {' | '.join(map(str, cells))} | {median_s:.1f} |")


def _cells(answers: Sequence[Line]) -> Sequence[str]:
    """Return the outcomes, and medians of both effects and of the smallest detectable ones, as ratios of losses."""
    counts = {outcome: sum(answer["outcome"] == outcome for answer in answers) for outcome in Outcome}
    shares = []
    for outcome in (Outcome.LEARNED, Outcome.NOT_LEARNED):
        low, high = wilson(counts[outcome], len(answers))
        shares.append(f"{100 * counts[outcome] / len(answers):.1f} ({100 * low:.1f} to {100 * high:.1f})")
    medians = [
        f"{math.exp(statistics.median(answer[estimand][figure] for answer in answers)):.3f}"
        for estimand in ("beyond_pixels", "learned")
        for figure in ("estimate", "smallest_detectable")
    ]
    return [*shares, str(counts[Outcome.INCONCLUSIVE]), str(counts[Outcome.INVALID]), *medians]


def _lost(answers: Sequence[Line], learned: set[int]) -> str:
    """Return how many of the seeds that are LEARNED with the most images are NOT LEARNED here."""
    lost = sum(answer["outcome"] == Outcome.NOT_LEARNED for answer in answers if answer["seed"] in learned)
    return f"{lost} of {len(learned)}"


if __name__ == "__main__":
    main()
