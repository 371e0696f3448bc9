"""Random weights from a seed, beside the global random state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` inside the block, and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        # The CPU generator alone: torch.manual_seed would seed those of the GPUs too, which are not forked.
        torch.default_generator.manual_seed(seed)
        yield
