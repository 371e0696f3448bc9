"""Which image lends its truth to which: the shuffled control."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int64

SWAPS_PER_IMAGE = 10


def derangement(scenes: Sequence[Hashable], seed: int) -> Int64[np.ndarray, " images"] | None:
    """Permute images such that none gets one of its own scene.

    scenes: of each image.
    Returns for each image the position of the one whose truth it gets, each used once; None where there is no such
    permutation, because one scene has more than half of the images.
    """
    generator = np.random.default_rng([seed, 0xDE7A])
    labels = {scene: number for number, scene in enumerate(dict.fromkeys(scenes))}
    scene_of = np.array([labels[scene] for scene in scenes])
    largest = int(np.bincount(scene_of).max())
    if 2 * largest > len(scenes):
        return None
    # Scenes side by side in a random order, moved on by the largest of them: no image stays within its own.
    ranks = generator.permutation(len(labels))
    order = np.lexsort((generator.permutation(len(scenes)), ranks[scene_of]))
    lender = np.empty(len(scenes), np.int64)
    lender[order] = np.roll(order, -largest)
    # That sends whole scenes to whole scenes: pairs are swapped at random where both may.
    for one, two in generator.integers(0, len(scenes), (SWAPS_PER_IMAGE * len(scenes), 2)).tolist():
        may = scene_of[lender[one]] != scene_of[two] and scene_of[lender[two]] != scene_of[one]
        if may:
            lender[one], lender[two] = lender[two], lender[one]
    return lender
