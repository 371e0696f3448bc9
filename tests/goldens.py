"""What the commands come to on tiny inputs: metrics, digests, k, penalties, verdicts and maps, kept as goldens.json.

From the repository's root, `PYTHONPATH=.:tests python tests/goldens.py` prints where they are something else now, and
with --write it writes goldens.json anew. `test_goldens.py` holds the code to it.
"""

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import mlflow
import numpy as np
import torch
from command_line import run, without_registry
from golden_cases import CASES, Case
from mlflow.entities import Run
from PIL import Image
from torch import Tensor, nn

PATH = Path(__file__).with_name("goldens.json")

# Relative tolerance where the fingerprint of the arithmetic is that of goldens.json; there, runs are equal to the bit.
SAME = 1e-9
# What is zero but for rounding, such as a ratio's logarithm, may differ by this share of the tolerance.
ABSOLUTE_SHARE = 0.01

# A number, a text, or more of them by name.
Record = dict[str, "float | str | Record"]

# Of throughput, and what Optuna estimates: no results of this code's numerics.
LEFT_OUT = re.compile(r"images_per_s|encoded_images|seconds|importance|system/")
# Name in goldens.json: name of the parameter or tag there.
SETTINGS = {
    "architecture": "architecture",
    "k": "k_chosen",
    "outcome": "outcome",
    "penalty": "penalty",
    "stride": "encoder_stride",
    "weights": "weights",
}
DIGESTS = {
    name: f"{name}_digest"
    for name in ("basis", "dataset", "encoder", "protocol", "split", "test", "verdict", "weights")
}
VERDICT = re.compile(r"verdict .*")
TRIAL = {"k": "k", "lr": "lr"}
PARENT, TRIAL_LOSS, CHILD = "mlflow.parentRunId", "val_loss", "encoder"


def record(case: Case) -> Record:
    """Return what each step of a case comes to, by name; run in an empty folder with a tracking store of its own."""
    case.inputs()
    made: Record = {}
    seen: set[str] = set()
    is_loaded = any("models:/" in arguments for arguments in case.steps.values())
    for name, arguments in case.steps.items():
        files = set(Path().glob("*/**/*_depth.*"))
        with nullcontext() if is_loaded else without_registry():
            code = run(*shlex.split(arguments))
        if code:
            raise RuntimeError(f"idl {arguments}: exit code {code}")
        found = [each for each in all_runs() if each.info.run_id not in seen]
        seen |= {each.info.run_id for each in found}
        maps: Record = {path.as_posix(): described(path) for path in sorted({*Path().glob("*/**/*_depth.*")} - files)}
        made[name] = recorded(found) | ({"maps": maps} if maps else {})
    return made


def all_runs() -> list[Run]:
    """Return the runs of the tracking store, the oldest first."""
    return mlflow.search_runs(search_all_experiments=True, output_format="list", order_by=["start_time ASC"])  # pyright: ignore[reportReturnType]


def recorded(runs: list[Run]) -> Record:
    """Return the figures of the run of a command, with those of its children: encoders by name, trials in order."""
    made: Record = {}
    trials = []
    for each in runs:
        if PARENT not in each.data.tags:
            made |= figures(each)
        elif CHILD in each.data.tags:
            made[each.data.tags[CHILD]] = figures(each)
        else:
            trials.append([each.data.params[name] for name in TRIAL.values()] + [each.data.metrics[TRIAL_LOSS]])
    rows: Record = {
        f"{number}": {name: rounded(float(value)) for name, value in zip((*TRIAL, "loss"), row, strict=True)}
        for number, row in enumerate(sorted(trials, key=lambda row: float(row[1])))
    }
    return made | ({"trials": rows} if rows else {})


def figures(of: Run) -> Record:
    """Return a run's finite metrics, and of its parameters and tags what it came to."""
    known = {**of.data.params, **of.data.tags}
    kept = {name: value for name, value in of.data.metrics.items() if math.isfinite(value) and not LEFT_OUT.match(name)}
    metrics: Record = {name: rounded(value) for name, value in kept.items()}
    parts: dict[str, Record] = {
        "digests": {name: known[key] for name, key in DIGESTS.items() if key in known},
        "metrics": metrics,
        "settings": {name: number_or_text(known[key]) for name, key in SETTINGS.items() if key in known},
        "verdicts": {name: value for name, value in of.data.tags.items() if VERDICT.fullmatch(name)},
    }
    return {name: part for name, part in parts.items() if part}


def described(path: Path) -> Record:
    """Return the size, mean, spread and corners of a predicted map."""
    values = (np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path))).astype(np.float64)
    corners = {f"corner_{row}_{column}": rounded(values[row, column].item()) for row in (0, -1) for column in (0, -1)}
    size = "x".join(map(str, values.shape))
    return {"size": size, "mean": rounded(values.mean()), "std": rounded(values.std()), **corners}


def rounded(value: float) -> float:
    return float(f"{value:.12g}")


def number_or_text(text: str) -> float | str:
    try:
        return rounded(float(text))
    except ValueError:
        return text


def arithmetic() -> str:
    """Return a fingerprint of this machine's floating point: equal where sums come out the same, bit for bit.

    Of the kernels that the commands use most, on numbers whose products a float32 sum has to round.
    """
    generator = np.random.default_rng(0)

    def drawn(*shape: int) -> Tensor:
        return torch.from_numpy(generator.integers(-1000, 1000, shape) / 1024).float()

    image, kernel, deep = drawn(4, 32, 32, 32), drawn(64, 32, 3, 3), drawn(32, 1, 7, 7)
    matrix = drawn(300, 80)
    convolved = nn.functional.conv2d(image.contiguous(memory_format=torch.channels_last), kernel)
    made = [
        convolved,
        nn.functional.conv2d(image, deep, groups=32),
        nn.functional.gelu(nn.functional.layer_norm(matrix, (80,))),
        nn.functional.avg_pool2d(image, 8),
        matrix.T @ matrix,
        torch.linalg.cholesky(matrix.T.double() @ matrix.double()),
        torch.linalg.eigh(matrix.T.double() @ matrix.double())[0],
        matrix.double().exp().sum(0),
    ]
    return hashlib.sha256(b"".join(each.contiguous().numpy().tobytes() for each in made)).hexdigest()[:16]


def flattened(part: Record, path: str = "") -> Iterator[tuple[str, float | str]]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{path}{name} > ")
        else:
            yield path + name, value


def differences(name: str, expected: Record, found: Record, is_same: bool) -> list[str]:
    """Return a line for each figure of a case that is gone, new, or another one.

    is_same: whether both come from the same arithmetic.
    """
    case, before, now = CASES[name], dict(flattened(expected)), dict(flattened(found))
    tolerance = SAME if is_same else case.tolerance
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key, "nothing"), now.get(key, "nothing")
        if isinstance(old, float | int) and isinstance(new, float | int):
            is_equal = math.isclose(old, new, rel_tol=tolerance, abs_tol=ABSOLUTE_SHARE * tolerance)
        else:
            is_of_bits = key.endswith(tuple(f"digests > {digest}" for digest in case.of_bits))
            is_equal = old == new or (is_of_bits and not is_same)
        if not is_equal:
            lines.append(f"{name} > {key}: {old} before, {new} now")
    return lines


def recorded_alone(case: Case, folder: Path, store: Path) -> Record:
    """Return `record` of a case, run in an empty folder. store: an empty tracking store, to be copied."""
    shutil.copy(store, folder / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    with chdir(folder), patch.dict(os.environ, IDL_CACHE=f"{folder}/cache"), redirect_stdout(StringIO()):
        return record(case)


def main() -> None:
    """Print what differs from goldens.json, or write it."""
    torch.set_num_threads(1)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    made: dict[str, Record] = {}
    with tempfile.TemporaryDirectory() as root:
        store = Path(root) / "mlflow.db"
        mlflow.set_tracking_uri(f"sqlite:///{store}")
        all_runs()  # makes the tables
        for name, case in CASES.items():
            (Path(root) / name).mkdir()
            made[name] = recorded_alone(case, Path(root) / name, store)
    if "--write" in sys.argv:
        PATH.write_text(json.dumps({"arithmetic": arithmetic(), "cases": made}, indent=1, sort_keys=True) + "\n")
        return
    kept = json.loads(PATH.read_text())
    for name, found in made.items():
        for line in differences(name, kept["cases"].get(name, {}), found, kept["arithmetic"] == arithmetic()):
            sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
