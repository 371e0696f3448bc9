"""A module written as a model that loads without pickle and takes images of any size."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from idl.report import ModelVersion
from idl.tracking.quiet import quiet

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

ARTIFACT_NAME = "model"


def log_model(version: ModelVersion) -> str:
    """Log the module of `version`, with its files beside it, to the active run, and return the model's id.

    The format is torch.export's: no pickle, no code of this project needed to load it. Batch, height and
    width stay free; every other dimension is fixed to what the example gives.

    Raises ValueError: the module cannot be exported, or ties batch, height or width to the example's; it is
    in training mode or not on the CPU; it gives anything but one tensor; a file's name is a path.
    """
    from mlflow.pytorch import log_model as log_pytorch_model

    example = np.ascontiguousarray(version.example, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder, quiet(transfer=True), torch.no_grad():
        output_shape = _check(version.name, version.module, torch.from_numpy(example))
        info = log_pytorch_model(
            version.module,
            name=ARTIFACT_NAME,
            signature=_signature(output_shape),
            input_example=example,
            # Inferring them takes 4 s and gets them wrong.
            pip_requirements=_requirements(),
            extra_files=_written(version, Path(folder)) or None,
            serialization_format="pt2",
        )
    return info.model_id


def _check(name: str, module: nn.Module, example: Float[Tensor, "batch 3 H W"]) -> torch.Size:
    """Return the shape of the module's output, once it is known that it exports with free sizes."""
    tensors = [*module.parameters(), *module.buffers()]
    if module.training or any(tensor.device.type != "cpu" for tensor in tensors):
        raise ValueError(f"{name}: expected a module in eval mode on the CPU")
    output = module(example)
    if not isinstance(output, Tensor):
        raise ValueError(f"{name}: expected one tensor, got {type(output).__name__}")
    free = torch.export.Dim.DYNAMIC
    try:
        # mlflow exports with Dim.AUTO, which turns a dimension into a constant without a word.
        torch.export.export(module, (example,), dynamic_shapes=[{0: free, 2: free, 3: free}])
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{name}: not exported with free batch, height and width ({reason})") from error
    return output.shape


def _signature(output_shape: torch.Size) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    kind = np.dtype(np.float32)
    free = tuple(-1 if axis in (0, 2, 3) else size for axis, size in enumerate(output_shape))
    inputs = Schema([TensorSpec(kind, (-1, 3, -1, -1))])
    return ModelSignature(inputs=inputs, outputs=Schema([TensorSpec(kind, free)]))


def _requirements() -> list[str]:
    """Pin the running versions, without "+cpu" and the like, which the package index does not know."""
    import mlflow

    running = {"mlflow": mlflow.__version__, "numpy": np.__version__, "torch": torch.__version__}
    return [f"{name}=={version.partition('+')[0]}" for name, version in running.items()]


def _written(version: ModelVersion, folder: Path) -> list[str]:
    paths = []
    for name, content in version.files.items():
        if Path(name).name != name:
            raise ValueError(f"{version.name}: {name} is a path, expected the name of a file")
        path = folder / name
        path.write_bytes(content)
        paths.append(str(path))
    return paths
