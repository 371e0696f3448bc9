"""What every benchmark's record names: the machine and the versions."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "timm", "mlflow", "h5py", "numpy")


def record() -> str:
    """One line: processor, cores, device, Python and packages."""
    packages = ", ".join(filter(None, map(_installed, PACKAGES)))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = os.cpu_count()
    return f"{_processor()}, {cores} cores, {device}; Python {platform.python_version()}, {packages}"


def _installed(package: str) -> str:
    """Name and version; "" of one that is not there."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return platform.processor()
    lines = information.read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor")
    flags = next((line for line in lines if line.startswith("flags")), "")
    return name + (" with avx512_bf16" if "avx512_bf16" in flags else "")
