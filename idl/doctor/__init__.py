"""What is there of a dataset on disk, what is missing, what is suspicious, and whether probing can go ahead.

Nothing is changed; what is not sure is called a doubt or a guess.
"""

from pathlib import Path

from idl.data.datasets import READERS, DatasetConfig
from idl.doctor.datasets import EXAMINERS, examine_store
from idl.doctor.findings import Diagnosis, Finding
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
    if config.dataset.endswith(".h5"):
        if not Path(config.dataset).expanduser().exists():
            raise InputError(f"{config.dataset}: no such file. Pass the path of a prepared store.")
        return examine_store(config, sample, checksums, progress)
    if config.dataset not in EXAMINERS:
        raise InputError(f"dataset={config.dataset}: expected {', '.join(READERS)}, or the path of a store (.h5).")
    if config.dataset != "rooms":
        if not config.data:
            raise InputError(f"dataset={config.dataset}: no data given. Pass the path of the data behind it.")
        if not Path(config.data).expanduser().exists():
            raise InputError(f"{config.data}: no such file or folder. Pass the path of the data.")
    _ = config.build_protocol()
    return EXAMINERS[config.dataset](config, sample, checksums, progress)
