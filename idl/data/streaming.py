"""Which pieces of a dataset can be read already: all of them, or as they come by where it is gone through only once."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

from idl.data.reader import Reader, StreamedReader


def arriving(reader: Reader, pieces: Sequence[range]) -> Generator[int]:
    """Yield the position of each of `pieces`, ranges of groups, when all its groups can be read.

    A streamed reader goes no further than it is asked: who asks slowly has little set aside.
    """
    if not isinstance(reader, StreamedReader):
        yield from range(len(pieces))
        return
    position_of = {group: position for position, piece in enumerate(pieces) for group in piece}
    missing = [len(piece) for piece in pieces]
    for group in reader.stream(tuple(position_of)):
        position = position_of[group]
        missing[position] -= 1
        if missing[position] == 0:
            yield position


def release(reader: Reader, piece: range) -> None:
    """Drop what was set aside for groups that have been read."""
    if isinstance(reader, StreamedReader):
        for group in piece:
            reader.release(group)


@contextmanager
def tidied(reader: Reader) -> Iterator[None]:
    """Leave nothing set aside, however the block ends."""
    try:
        yield
    finally:
        if isinstance(reader, StreamedReader):
            reader.clear()
