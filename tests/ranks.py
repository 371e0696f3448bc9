"""What ranks do in the tests: the command line with a small basis, and an encoder that fails on one rank.

IDL_TEST_FAULT, "RANK:IMAGES:HOW": that rank's encoder fails at its first batch after so many images, by "raise",
"input" (an InputError) or "kill", and leaves the file HOW.fault, which is as old as that.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from planted import SmallNetwork
from torch import Tensor, nn

from idl import cli, features
from idl.errors import InputError

BASIS_IMAGES = 8


class FaultyNetwork(SmallNetwork):
    num_seen = 0

    def forward(self, x: Tensor) -> Tensor:
        rank, images, how = os.environ["IDL_TEST_FAULT"].split(":")
        # Trials of a single image come before the run.
        if len(x) > 1 and os.environ.get("RANK", "0") == rank:
            self.num_seen += len(x)
            if self.num_seen > int(images):
                Path(f"{how}.fault").touch()
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise InputError("planted bad input") if how == "input" else ValueError("planted fault")
        return super().forward(x)


def network() -> nn.Module:
    """Factory for `encoder=ranks:network`."""
    return FaultyNetwork() if os.environ.get("IDL_TEST_FAULT") else SmallNetwork()


def main(*arguments: str, program: Callable[[], None] = cli.main) -> None:
    """Run the command line."""
    features.BASIS_IMAGES = BASIS_IMAGES
    sys.argv = ["idl", *arguments]
    program()


if __name__ == "__main__":
    main(*sys.argv[1:], program=cli.run)
