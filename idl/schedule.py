"""The course of a learning rate over a training."""

import math


def rate_at(step: int, num_steps: int, warmup: float) -> float:
    """Share of the learning rate at `step`, from 0, of `num_steps`: a straight rise, then a half cosine down to 0.

    warmup: share of the steps over which it rises.
    """
    rising = round(warmup * num_steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, num_steps - rising)))
