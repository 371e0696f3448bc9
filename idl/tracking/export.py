"""A module written as a model that loads without pickle and takes images of any size."""

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from idl import __version__
from idl.report import ModelVersion
from idl.tracking.quiet import quiet

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

ARTIFACT_NAME = "model"
PROGRAM = "data/model.pt2"
SUM = "idl.sha256"
# 50 to 120 MB each.
MAX_KEPT = 8
FREE_AXES = (0, 2, 3)


def log_model(version: ModelVersion, exports: Path | None = None) -> str:
    """Log the module of `version`, with its files beside it, to the active run, and return the model's id.

    exports: folder where exported models are kept: an equal model is copied from there instead of being exported
      once more.

    The format is torch.export's: no pickle, no code of this project needed to load it. Batch, height and
    width stay free; every other dimension is fixed to what the example gives.

    Raises ValueError: the module cannot be exported, or ties batch, height or width to the example's; it is
    in training mode or not on the CPU; it gives anything but one tensor; a file's name is a path.
    """
    from mlflow.models import Model

    example = np.ascontiguousarray(version.example, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder, quiet(transfer=True), torch.no_grad():
        output_shape = _check(version.name, version.module, torch.from_numpy(example))
        info = Model.log(
            artifact_path=None,
            name=ARTIFACT_NAME,
            flavor=_KeptExport(version, exports),
            pytorch_model=version.module,
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
    return info.model_id


class _KeptExport:
    """mlflow's PyTorch flavor, which keeps what it exports: tracing a ConvNeXt takes 4 s, copying it 0.1 s."""

    def __init__(self, version: ModelVersion, exports: Path | None) -> None:
        self._name = version.name
        self._kept = exports / _digest(version) if exports else None

    def save_model(self, path: str, mlflow_model: Any, validate_serving_input: bool, **settings: Any) -> None:
        """Write the model to `path`, as `Model.log` asks of a flavor."""
        from mlflow.pytorch import save_model

        if self._kept is not None and _is_whole(self._kept):
            _copy(self._kept, Path(path), mlflow_model)
            return
        save_model(path=path, mlflow_model=mlflow_model, **settings)
        _require_free_sizes(self._name, Path(path, PROGRAM))
        if self._kept is not None:
            _keep(Path(path), self._kept)


def _digest(version: ModelVersion) -> str:
    """SHA-256 of the weights, the files, the versions and the answer to the example, cut to 16 hex digits.

    The answer tells programs apart that differ in their code and not in their weights.
    """
    parts = [version.name, __version__, _requirements(), list(version.example.shape)]
    content = hashlib.sha256(json.dumps(parts).encode())
    with torch.no_grad():
        content.update(version.module(torch.from_numpy(version.example)).contiguous().numpy().data)
    for name, tensor in sorted(version.module.state_dict().items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().contiguous().numpy().data)
    for name, file in sorted(version.files.items()):
        content.update(name.encode() + hashlib.sha256(file).digest())
    return content.hexdigest()[:16]


def _is_whole(kept: Path) -> bool:
    """Tell whether `kept` holds what was written; take it away where it does not."""
    try:
        whole = (kept / SUM).read_text() == hashlib.sha256((kept / PROGRAM).read_bytes()).hexdigest()
    except FileNotFoundError:
        whole = False
    if not whole:
        shutil.rmtree(kept, ignore_errors=True)
    return whole


def _keep(path: Path, kept: Path) -> None:
    """Copy an exported model to the kept ones, and let the oldest go."""
    temporary = kept.with_name(f"{kept.name}.{os.getpid()}.tmp")
    try:
        shutil.copytree(path, temporary)
        (temporary / SUM).write_text(hashlib.sha256((path / PROGRAM).read_bytes()).hexdigest())
        temporary.rename(kept)
    except OSError:
        # A full disk, or another process that was first: the run has its model all the same.
        shutil.rmtree(temporary, ignore_errors=True)
    with suppress(OSError):
        finished = [folder for folder in kept.parent.iterdir() if folder.suffix != ".tmp"]
        for folder in sorted(finished, key=lambda folder: folder.stat().st_mtime)[:-MAX_KEPT]:
            shutil.rmtree(folder, ignore_errors=True)


def _copy(kept: Path, path: Path, mlflow_model: Any) -> None:
    """Write a kept model to `path` under the identity of `mlflow_model`."""
    from mlflow.models import Model

    shutil.copytree(kept, path, ignore=shutil.ignore_patterns(SUM))
    saved = Model.load(str(kept))
    for name in ("flavors", "signature", "saved_input_example_info", "model_size_bytes"):
        setattr(mlflow_model, name, getattr(saved, name))
    mlflow_model.save(str(path / "MLmodel"))


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
