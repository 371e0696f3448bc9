"""A module written as a model that loads without pickle and takes images of any size."""

import json
import tempfile
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idl.report import ModelVersion
from idl.tracking.store import quiet

PROGRAM = "data/model.pt2"
FREE_AXES = (0, 2, 3)


def log_model(version: ModelVersion) -> str:
    """Log the module of `version`, with its files beside it, to the active run, and return the model's id.

    The format is torch.export's: no pickle, no code of this project needed to load it. Raises ValueError: the module
    cannot be exported with free batch, height and width; it is in training mode or not on the CPU; it gives anything
    but one tensor; a file's name is a path.
    """
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(shape: tuple[int, ...]) -> Schema:
        return Schema([TensorSpec(np.dtype(np.float32), shape)])

    module, example = version.module, np.ascontiguousarray(version.example, dtype=np.float32)
    if module.training or any(tensor.device.type != "cpu" for tensor in [*module.parameters(), *module.buffers()]):
        raise ValueError(f"{version.name}: expected a module in eval mode on the CPU")
    with tempfile.TemporaryDirectory() as folder, quiet(transfer=True), torch.no_grad():
        output = module(torch.from_numpy(example))
        if not isinstance(output, Tensor):
            raise ValueError(f"{version.name}: expected one tensor, got {type(output).__name__}")
        shape = tuple(-1 if axis in FREE_AXES else size for axis, size in enumerate(output.shape))
        # Without "+cpu" and the like, which the package index does not know. mlflow would take 4 s and get them wrong.
        pinned = {"mlflow": mlflow.__version__, "numpy": np.__version__, "torch": torch.__version__.partition("+")[0]}
        for name, content in version.files.items():
            if Path(name).name != name:
                raise ValueError(f"{version.name}: {name} is a path, expected the name of a file")
            Path(folder, name).write_bytes(content)
        info = Model.log(
            artifact_path=None,
            name="model",
            flavor=SimpleNamespace(save_model=partial(_save_checked, version.name)),
            pytorch_model=module,
            signature=ModelSignature(schema((-1, 3, -1, -1)), schema(shape)),
            input_example=example,
            pip_requirements=[f"{name}=={number}" for name, number in pinned.items()],
            extra_files=[str(Path(folder, name)) for name in version.files] or None,
            serialization_format="pt2",
            # mlflow would load the model again and predict with it: half of the export's time, and nothing that
            # `_save_checked` and the tests leave open.
            validate_serving_input=False,
        )
    return info.model_id


def _save_checked(name: str, path: str, validate_serving_input: bool, **settings: Any) -> None:
    """Write the model to `path`, as mlflow's PyTorch flavor does.

    Raises ValueError where batch, height or width is tied: mlflow exports with Dim.AUTO, which does so without a word.
    """
    from mlflow.pytorch import save_model

    save_model(path=path, **settings)
    # Read from the program's own text, since loading it takes as long as exporting it.
    with zipfile.ZipFile(Path(path, PROGRAM)) as archive:
        (member,) = (each for each in archive.namelist() if each.endswith("models/model.json"))
        program = json.loads(archive.read(member))["graph_module"]
    (given,) = (spec["user_input"] for spec in program["signature"]["input_specs"] if "user_input" in spec)
    sizes = program["graph"]["tensor_values"][given["arg"]["as_tensor"]["name"]]["sizes"]
    if len({sizes[axis]["as_expr"]["expr_str"] for axis in FREE_AXES if "as_expr" in sizes[axis]}) < len(FREE_AXES):
        shape = ", ".join(str(size.get("as_int", "free")) for size in sizes)
        raise ValueError(f"{name}: not exported with free batch, height and width, but ({shape})")
