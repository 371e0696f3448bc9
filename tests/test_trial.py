"""What a trial of gradient descent may be."""

import math

import pytest

from idl.errors import InputError
from idl.probes.trial import Trial


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("k", -1, "k=-1: expected 0 or more"),
        ("lr", 0.0, "lr=0.0: expected more than 0"),
        ("lr", math.nan, "lr=nan: expected a finite number"),
        ("weight_decay", -0.1, "weight_decay=-0.1: expected 0 or more"),
        ("batch_size", 0, "batch_size=0: expected 1 or more"),
        ("epochs", 0, "epochs=0: expected 1 or more"),
        ("patience", 0, "patience=0: expected 1 or more"),
        ("warmup", 1.0, "warmup=1.0: expected a share below 1"),
        ("min_gain", 1.5, "min_gain=1.5: expected a share below 1"),
        ("solver", "newton", "solver=newton: expected sgd or adam"),
        ("schedule", "step", "schedule=step: expected constant or cosine"),
    ],
)
def test_a_trial_that_cannot_be_is_refused(name: str, value: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Trial(**({"k": 3} | {name: value}))  # pyright: ignore[reportArgumentType]
