"""The one exception that a user's input can cause, and the reading of a full disk."""

import errno
import os


class InputError(Exception):
    """Bad input: its text is one line that says what is wrong, where, and what to do.

    The command line prints it and ends with exit code 2.
    """


def is_disk_full(error: BaseException) -> bool:
    """Tell whether `error` means that no more bytes could be written.

    HDF5 puts the system's error number into the text of the OSError only, so the text is searched too.
    """
    numbers = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    if not isinstance(error, OSError):
        return False
    return error.errno in numbers or any(os.strerror(number) in str(error) for number in numbers)
