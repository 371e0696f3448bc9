"""The C library's allocator, set for work that asks for the same large buffers again and again."""

import ctypes
import sys

# <malloc.h> of glibc.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_buffers() -> None:
    """Let glibc keep what is freed instead of giving it back to the system at once.

    By default each buffer above 32 MB is mapped and unmapped anew, and its pages are zeroed by the system each time:
    a fifth of the time of encoding with convnext_atto on two cores. What a process holds at its peak does not
    change. Does nothing where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for option, value in ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
        mallopt(option, value)
