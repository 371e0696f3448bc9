"""A sweep from command to finished run, everything logged.

    PYTHONPATH=. python benchmarks/sweep_speed.py --encoder autoencoder

The command runs in a process of its own, as a user starts it, with a tracking store of its own. A first, short sweep
encodes what the cache does not hold; it is not counted. Prints the wall-clock time of the command, and its user and
system time, which other programs on the machine disturb less.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from record import record


def swept(folder: Path, arguments: list[str]) -> tuple[float, float, float]:
    """Run `idl sweep`; return wall-clock, user and system seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "idl", "sweep", *arguments],
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    return wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


@click.command()
@click.option("--trials", default=100, show_default=True)
@click.option("--encoder", default="autoencoder", show_default=True)
def main(trials: int, encoder: str) -> None:
    """Time one sweep."""
    with tempfile.TemporaryDirectory() as name:
        arguments = ["--encoder", encoder, "--trials"]
        swept(Path(name), [*arguments, "1"])
        wall, user, system = swept(Path(name), [*arguments, str(trials)])
    print(record())
    print(f"{trials} trials, {encoder}: {wall:.1f} s, user {user:.1f} s, system {system:.1f} s")


if __name__ == "__main__":
    main()
