"""A sweep from command to finished run, everything logged: where the time goes.

    PYTHONPATH=. python benchmarks/sweep_speed.py --encoder autoencoder

The command runs in a process of its own, as a user starts it, with a tracking store of its own. A first, short sweep
encodes what the cache does not hold; it is not counted. Prints the wall-clock time of the command, its user and
system time, and the parts that the command itself reports, by the clock or, with --cpu, by processor time, which
other programs on the machine disturb less.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from record import record

# The command's own clock, replaced.
BY_PROCESSOR = "import time; time.perf_counter = time.process_time; "
START = "from idl.cli import run; run()"


def swept(folder: Path, arguments: list[str], by_processor: bool) -> tuple[float, float, float, dict[str, float]]:
    """Run `idl sweep`; return wall-clock, user and system seconds, and the parts."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", (BY_PROCESSOR if by_processor else "") + START, "sweep", *arguments],
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    line = next(line for line in done.stdout.splitlines() if line.startswith("seconds: "))
    parts = {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([\d.]+)", line.partition(": ")[2])}
    return wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, parts


@click.command()
@click.option("--trials", default=100, show_default=True)
@click.option("--encoder", default="autoencoder", show_default=True)
@click.option("--cpu", "by_processor", is_flag=True, help="Parts in processor time.")
def main(trials: int, encoder: str, by_processor: bool) -> None:
    """Time one sweep."""
    with tempfile.TemporaryDirectory() as name:
        arguments = ["--encoder", encoder, "--trials"]
        swept(Path(name), [*arguments, "1"], by_processor)
        wall, user, system, parts = swept(Path(name), [*arguments, str(trials)], by_processor)
    print(record())
    print(f"{trials} trials, {encoder}: {wall:.1f} s, user {user:.1f} s, system {system:.1f} s")
    for part, seconds in parts.items():
        print(f"{part:>12}  {seconds:6.1f} s")
    print(f"{'the rest':>12}  {(user + system if by_processor else wall) - sum(parts.values()):6.1f} s")


if __name__ == "__main__":
    main()
