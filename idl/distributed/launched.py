"""What torchrun's environment says of this process."""

import os

import torch

from idl.distributed.world import ALONE, World
from idl.errors import InputError


def announced() -> World:
    """Return who this process is by torchrun's environment, before it has met the others."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "LOCAL_RANK" not in os.environ:
        return ALONE
    return World(int(os.environ["RANK"]), size)


def local_device(device: torch.device) -> torch.device:
    """Return the GPU of the machine's that is this rank's; with one rank, or on the CPU, `device` as it is."""
    world = announced()
    if world.size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise InputError(f"device={device}: one GPU for {world.size} ranks. Pass device=cuda: each takes its own.")
    ranks, present = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if ranks > present:
        raise InputError(
            f"device=cuda: {ranks} ranks on a machine with {present} GPUs. "
            f"Pass torchrun --nproc-per-node {present}, or device=cpu."
        )
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
