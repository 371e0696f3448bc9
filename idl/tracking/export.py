"""A module written as a model that loads without pickle and takes images of any size."""

import json
import tempfile
import zipfile
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
PROGRAM = "data/model.pt2"
FREE_AXES = (0, 2, 3)


def log_model(version: ModelVersion) -> str:
    """Log the module of `version`, with its files beside it, to the active run, and return the model's id.

    The format is torch.export's: no pickle, no code of this project needed to load it. Batch, height and
    width stay free; every other dimension is fixed to what the example gives.

    Raises ValueError: the module cannot be exported, or ties batch, height or width to the example's; it is
    in training mode or not on the CPU; it gives anything but one tensor; a file's name is a path.
    """
    import mlflow
    from mlflow.artifacts import download_artifacts
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
            # mlflow would load the model again and predict with it: half of the export's time, and nothing that
            # `_require_free_sizes` and the tests leave open.
            validate_serving_input=False,
        )
        location = mlflow.get_logged_model(info.model_id).artifact_location
        _require_free_sizes(version.name, Path(download_artifacts(f"{location}/{PROGRAM}")))
    return info.model_id


def _check(name: str, module: nn.Module, example: Float[Tensor, "batch 3 H W"]) -> torch.Size:
    """Return the shape of the module's output."""
    tensors = [*module.parameters(), *module.buffers()]
    if module.training or any(tensor.device.type != "cpu" for tensor in tensors):
        raise ValueError(f"{name}: expected a module in eval mode on the CPU")
    output = module(example)
    if not isinstance(output, Tensor):
        raise ValueError(f"{name}: expected one tensor, got {type(output).__name__}")
    return output.shape


def _require_free_sizes(name: str, program: Path) -> None:
    """Raise ValueError where the exported program has tied batch, height or width to a constant or to each other.

    mlflow exports with Dim.AUTO, which does so without a word. Read from the program's own text, since loading
    it takes as long as exporting it.
    """
    with zipfile.ZipFile(program) as archive:
        (member,) = (each for each in archive.namelist() if each.endswith("models/model.json"))
        module = json.loads(archive.read(member))["graph_module"]
    (given,) = (spec["user_input"] for spec in module["signature"]["input_specs"] if "user_input" in spec)
    sizes = module["graph"]["tensor_values"][given["arg"]["as_tensor"]["name"]]["sizes"]
    free = {sizes[axis]["as_expr"]["expr_str"] for axis in FREE_AXES if "as_expr" in sizes[axis]}
    if len(free) < len(FREE_AXES):
        told = ", ".join(str(size.get("as_int", "free")) for size in sizes)
        raise ValueError(f"{name}: not exported with free batch, height and width, but ({told})")


def _signature(output_shape: torch.Size) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    kind = np.dtype(np.float32)
    free = tuple(-1 if axis in FREE_AXES else size for axis, size in enumerate(output_shape))
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
