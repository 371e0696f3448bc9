"""What ranks do in the tests: a training on a store that is there, whose weights rank 0 writes.

Arguments: the store, the folder of checkpoints, the file to write, the step after which rank 1 is interrupted (0:
none), and whether to resume.
"""

from pathlib import Path

from planted_training import CPU, Interrupted
from safetensors.torch import save_file

from idl.data.splits import split_by_scene
from idl.data.store import Store
from idl.distributed import joined
from idl.training.loop import TrainingConfig, train

CONFIG = TrainingConfig(
    epochs=8, batch_size=4, accumulate=2, crop=16, lr=1e-3, validate_every=4, patience=50, arithmetic="float32"
)


def main(store_path: str, folder: str, out: str, at: str = "0", resume: str = "") -> None:
    """Train; rank 0 writes the last weights."""
    store = Store.open(Path(store_path))
    split = split_by_scene(store.scenes, "4:2:2")
    with joined(CPU) as world:
        objective = Interrupted(CONFIG.accumulate * int(at) if world.rank == world.size - 1 else 0)
        train(objective, CONFIG, store, split, Path(folder), CPU, world=world, resume=bool(resume))
        if world.is_first:
            save_file({name: tensor.contiguous() for name, tensor in objective.module.state_dict().items()}, out)
