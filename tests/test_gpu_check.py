"""The check of a GPU, which there is none of here: on the CPU, with no more packages than it says that it needs."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ABSENT = ("jaxtyping", "mlflow", "optuna", "click", "scipy", "matplotlib", "trimesh", "embreex", "sqlalchemy", "jinja2")


def test_it_finds_the_cpu_equal_to_itself_and_needs_few_packages(tmp_path: Path) -> None:
    script = (
        f"import runpy, sys; sys.modules |= dict.fromkeys({ABSENT!r}); sys.path.insert(0, {str(BENCHMARKS)!r}); "
        f"sys.argv[1:] = ['--device', 'cpu', '--quick', '--architecture', 'timm:convnext_atto', '--no-ranks']; "
        f"runpy.run_path({str(BENCHMARKS / 'gpu_check.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["differences"] == {"features": 0, "losses": 0, "descent": 0, "ranks": None}
    assert min(record["images_per_s"].values()) > 0
    assert record["descent"].keys() == {"1 trials s", "100 trials s"}
