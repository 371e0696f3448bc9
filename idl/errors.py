"""The one exception that a user's input can cause, and the reading of a full disk."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do. The command ends with exit code 2."""


def is_disk_full(error: BaseException) -> bool:
    """Tell whether `error` means a full disk, by its number or its text: HDF5, mlflow and torch wrap what they get."""
    numbers = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno in numbers:
        return True
    texts = (*(os.strerror(number) for number in numbers), "database or disk is full", "disk I/O error")
    return any(text in str(error) for text in texts)


@contextmanager
def disk_full_reported(folder: Path, what: str = "cache") -> Iterator[None]:
    """Turn a full disk into an InputError about `folder`. what: that is written there, for people."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # A file that could not be written fails once more, and in other words, when HDF5 closes it.
        if not is_disk_full(error) and not (error.__context__ and is_disk_full(error.__context__)):
            raise
        raise InputError(
            f"{folder}: no space left for the {what}. Free some, or pass another cache=; "
            "the same command goes on from here."
        ) from error
