"""What is there of a dataset on disk, what is missing, what is suspicious, and whether probing can go ahead.

Nothing is changed; what is not sure is called a doubt or a guess.
"""

from pathlib import Path

from idl.data.datasets import READERS, DatasetConfig
from idl.doctor.checks import Diagnosis, Finding
from idl.doctor.datasets import EXAMINERS, Examination
from idl.errors import InputError
from idl.progress import Progress, silent

__all__ = ["SAMPLE", "Diagnosis", "Finding", "diagnose"]

SAMPLE = 24


def diagnose(
    config: DatasetConfig, sample: int = SAMPLE, *, checksums: bool = False, progress: Progress = silent
) -> Diagnosis:
    """Return all findings on a dataset.

    sample: images whose pixels are measured, spread over the dataset; 0: all. checksums: whole files are read for them.
    Raises InputError where there is no such dataset, or nothing at the path.
    """
    kind, source = config.dataset, config.data or config.pairs
    if kind.endswith(".h5"):
        kind, source = "store", kind
    if kind not in EXAMINERS or config.dataset == "store":
        raise InputError(f"dataset={config.dataset}: expected {', '.join(READERS)}, or the path of a store (.h5).")
    if kind != "rooms":
        if not source:
            raise InputError(f"dataset={config.dataset}: no data given. Pass the path of the data behind it.")
        if not Path(source).expanduser().exists():
            raise InputError(f"{source}: no such file or folder. Pass the path of the data, or of a prepared store.")
    _ = config.build_protocol()
    told = Diagnosis(kind, str(Path(source).expanduser()))
    examination = Examination(config, sample, checksums, progress, told)
    try:
        for finding in EXAMINERS[kind](examination):
            told.findings.append(finding)
    except InputError as error:
        told.findings.append(Finding("layout", "bad", str(error)))
    told.num_looked_at = len(examination.measured)
    return told
