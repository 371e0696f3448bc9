"""Several processes that share the work of one run, as torchrun starts them: one a GPU, or one a machine.

Each runs the same command, and takes its part by its rank. Rank 0 talks to the user and to MLflow. A rank that fails
leaves its error where the others look while they wait, so that all end at once and rank 0 can log why.
"""

from idl.distributed.joining import joined
from idl.distributed.launched import announced, local_device
from idl.distributed.signs import OtherRankError, OtherRankInterruptedError
from idl.distributed.world import ALONE, World

__all__ = [
    "ALONE",
    "OtherRankError",
    "OtherRankInterruptedError",
    "World",
    "announced",
    "joined",
    "local_device",
]
