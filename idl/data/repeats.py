"""Images that are in a dataset more than once, pixel for pixel."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8

from idl.progress import Progress

# An image as it is decoded; None where there is none to compare.
Pixels = UInt8[np.ndarray, "H W 3"] | None


def repeats(
    read: Callable[[int], Pixels], indices: Sequence[int], progress: Progress, label: str
) -> Iterator[tuple[int, int]]:
    """Yield (position, position of the first that equals it) for each image of `indices` that repeats an earlier one.

    read: returns the image of an index; it is called from several threads, and its errors are raised here.
    What is compared is pixels, not files: a copy in another format, or at another compression, is the same image. An
    image all of one colour, which a camera that drops out gives again and again, is no repeat.
    """
    first: dict[bytes, int] = {}
    # Decoding and hashing leave Python's lock. What a thread hands back is 16 bytes, however far it runs ahead.
    with progress(label, len(indices)) as advance, ThreadPoolExecutor() as pool:
        for position, digest in enumerate(pool.map(lambda index: _digest(read(index)), indices)):
            if digest is not None and (earlier := first.setdefault(digest, position)) != position:
                yield position, earlier
            advance(1)


def _digest(pixels: Pixels) -> bytes | None:
    if pixels is None or (pixels == pixels[0, 0]).all():
        return None
    # With its shape: two images of other sizes may have the same bytes.
    content = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels).data)
    return content.digest()
