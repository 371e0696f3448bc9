"""The commands whose results goldens.json keeps, and their tiny inputs, which are the same on every processor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diode_files import view, write_frame
from nyu_files import NATIVE_SIZE, plant, write_mat, write_splits
from PIL import Image
from planted import write_pairs
from torch import Tensor, nn

# Relative tolerances where the arithmetic is another one than that of goldens.json.
# Measured on an AMD EPYC, torch 2.15, one thread: AVX-512, as recorded, against AVX2 and against SSE4 with MKL's
# compatible branch (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA, MKL_CBWR, OPENBLAS_CORETYPE, NPY_DISABLE_CPU_FEATURES).
# Without a network's forward pass figures moved by 2.2e-6 at most in both, most of them not at all under AVX2; with
# one by 2.2e-6 and 4.3e-6, and a share of pixels, which is counted, by 7.5e-5. What is zero but for rounding moved by
# 1e-10. Digests of datasets, splits, protocols and verdicts, k, penalties and outcomes did not move.
STEADY, NETWORK = 1e-5, 3e-4


@dataclass(frozen=True)
class Case:
    """Commands one after the other in one folder, with one cache and one tracking store.

    inputs: writes the files, below the current folder. steps: arguments of `idl`, by name.
    tolerance: relative, where the arithmetic is another one than that of goldens.json; `STEADY` or `NETWORK`.
    of_bits: digests that then differ, because they are of figures.
    """

    inputs: Callable[[], None]
    steps: Mapping[str, str]
    tolerance: float
    of_bits: tuple[str, ...] = ("basis",)
    is_slow: bool = False


def write_walk() -> None:
    """Write 8 scenes of 2 pairs, 16-bit depth, and others of another shape with a mask and depth in metres."""
    for scene in range(8):
        write_pairs(Path("walk") / f"scene_{scene:02d}", num=2, seed=scene)
    for scene in range(4):
        write_folded(Path("other") / f"scene_{scene:02d}", 2, 100 + scene, height=70, width=50)


def write_folded(root: Path, num: int, seed: int, height: int = 64, width: int = 80) -> None:
    """Write pairs whose depth is linear in how far red is from one half, which no linear probe of the pixels reads."""
    generator = np.random.default_rng(seed)
    for name in ("rgb", "depth", "mask"):
        (root / name).mkdir(parents=True)
    for index in range(num):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        rgb = coarse.resize((width, height), Image.Resampling.BICUBIC)
        rgb.save(root / "rgb" / f"{index:04d}.png")
        noise = generator.integers(-50, 51, (height, width)) / 200
        depth_m = 1.5 + 6.0 * np.abs(np.asarray(rgb)[..., 0] / 255.0 - 0.5) + noise
        depth_m[generator.random((height, width)) < 0.05] = np.nan
        np.save(root / "depth" / f"{index:04d}.npy", depth_m.astype(np.float32))
        mask = generator.random((height, width)) > 0.05
        Image.fromarray(mask.astype(np.uint8)).save(root / "mask" / f"{index:04d}.png")


def write_many_scenes() -> None:
    """Write as many scenes as a verdict needs."""
    for scene in range(28):
        write_folded(Path("walk") / f"scene_{scene:02d}", 1, scene)


def write_nyu() -> None:
    """Write the labelled file, and the published split beside it, of 10 images of native size."""
    scenes = [f"{kind}_{number:04d}" for number in range(5) for kind in ("kitchen", "office")]
    write_mat(Path("nyu/nyu_depth_v2_labeled.mat"), plant(10, NATIVE_SIZE, scenes), compression=1)
    write_splits(Path("nyu/splits.mat"), train=range(1, 8), test=range(8, 11))


def write_diode() -> None:
    """Write a tree of 8 scenes of 2 frames, in closed form."""
    for scene in range(8):
        part, place = ("train", "val")[scene % 4 == 0], ("indoors", "outdoor")[scene % 3 == 0]
        for number in range(2):
            seen = view(2 * scene + number, scale=12.0 if place == "outdoor" else 1.0)
            # To whole steps: sines of another processor may differ in the last bit, and digests would with them.
            seen = replace(seen, depth_m=np.round(seen.depth_m, 3), normals=np.round(seen.normals, 4))
            write_frame(Path("diode"), f"{part}/{place}/scene_{scene:05d}/scan_{scene:05d}", number, seen)


class Folding(nn.Module):
    """Sees what `write_folded` plants, through two matrices of which one undoes the other until they are permuted."""

    task = "folding"

    def __init__(self, fold: bool) -> None:
        super().__init__()
        self.fold = fold
        self.mix = nn.Parameter(torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]))
        self.unmix = nn.Parameter(torch.tensor([[1.0, -1.0, 1.0], [0.0, 1.0, -1.0], [0.0, 0.0, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("oc,cd,bdhw->bohw", self.unmix, self.mix, x)
        return nn.functional.avg_pool2d((y - 0.5).abs() if self.fold else y, 8)


def folding() -> nn.Module:
    """Return an encoder that has learned depth."""
    return Folding(True)


def colours() -> nn.Module:
    """Return an encoder that has learned nothing beyond the pixels."""
    return Folding(False)


CPU = "--device cpu --workers 1 --batch-size 4"
FOLDER = "--dataset folder --workers 1 --data"
WALK = f"--dataset folder --data walk {CPU}"
NYU = f"--dataset nyu --data nyu {CPU}"
DIODE = f"--dataset diode --data diode {CPU}"
NULL = "--encoder null --stride 16"
# bfloat16 is another arithmetic on another processor.
CONVNEXT = "--encoder convnext --weights shipped:rooms-recognition --arithmetic float32"
AUTOENCODER = "--encoder autoencoder --weights shipped --arithmetic float32"
ADAM, SGD = (f"--solver {name} --epochs 5 --step-images 4" for name in ("adam", "sgd"))
MODEL = "--model models:/idl-depth-{}/1"
FEW = "--split 12:4:12 --draws 500 --common-stride 16"

CASES: Mapping[str, Case] = {
    "folder_null": Case(
        write_walk,
        {
            "prepare": f"prepare {WALK}",
            "null": f"null {WALK} --stride 16",
            "depth": f"probe {WALK} {NULL}",
            "depth_k2": f"probe {WALK} {NULL} --k 2 --alignment affine",
            "evaluate": f"evaluate {FOLDER} walk {MODEL.format('null')}",
            "evaluate_other": f"evaluate {FOLDER} other {MODEL.format('null')} --part all",
            "predict": f"predict walk/scene_00/rgb other/scene_00/rgb {MODEL.format('null')} --out maps --format npy",
            "predict_png": f"predict walk/scene_00/rgb {MODEL.format('null')} --out pictures",
        },
        STEADY,
    ),
    "folder_null_targets": Case(
        write_walk,
        {
            "log_depth": f"probe {WALK} {NULL} --target log-depth",
            "inverse_depth": f"probe {WALK} {NULL} --target inverse-depth",
            "adam": f"probe {WALK} {NULL} {ADAM} --k 3",
            "sgd": f"probe {WALK} {NULL} {SGD} --k 3 --lr 0.02 --weight-decay 0.001",
        },
        STEADY,
    ),
    "folder_convnext": Case(
        write_walk,
        {
            "convnext": f"convnext {WALK} --weights shipped:rooms-recognition --arithmetic float32",
            "depth": f"probe {WALK} {CONVNEXT} --k 8",
            "log_depth": f"probe {WALK} {CONVNEXT} --k 8 --target log-depth",
            "predict": f"predict walk/scene_00/rgb {MODEL.format('convnext')} --out maps --format npy",
        },
        NETWORK,
    ),
    "folder_convnext_settings": Case(
        write_walk,
        {
            "adam": f"probe {WALK} {CONVNEXT} {ADAM} --k 8",
            "stage": f"probe {WALK} {CONVNEXT} --k 4 --stage 1",
        },
        NETWORK,
    ),
    "folder_autoencoder": Case(
        write_walk,
        {
            "depth": f"probe {WALK} {AUTOENCODER} --k 4",
            "log_depth": f"probe {WALK} {AUTOENCODER} --k all --target log-depth",
            "adam": f"probe {WALK} {AUTOENCODER} {ADAM} --k 4",
            "predict": f"predict other/scene_00/rgb {MODEL.format('autoencoder')} --out maps --format npy",
        },
        NETWORK,
        is_slow=True,
    ),
    "sweep": Case(
        write_walk,
        {
            "sweep": f"sweep {WALK} {NULL} --trials 6 --trials-per-batch 3 --epochs 4 --step-images 4 --sampler random "
            "--k-range 1:3 --lr-range 1e-3:1e-1",
        },
        STEADY,
    ),
    "training": Case(
        write_walk,
        {
            "autoencoder": f"autoencoder {WALK} --n-hid 4 --num-blocks 1 --latent-channels 2 --crop 32 --epochs 2 "
            "--lr 3e-4 --validate-every 8 --arithmetic float32",
        },
        NETWORK,
        # It is trained here.
        of_bits=("encoder", "weights"),
    ),
    "nyu": Case(
        write_nyu,
        {
            "depth": f"probe {NYU} {NULL}",
            "inpainted": f"probe {NYU} {NULL} --depths inpainted --erosion 2 --max-depth 5",
            "eigen": f"probe {NYU} {NULL} --protocol nyu-eigen",
            "crops": f"probe {NYU} {NULL} --test-images 5 --test-seed 3",
        },
        STEADY,
    ),
    "diode": Case(
        write_diode,
        {
            "prepare": f"prepare {DIODE} --subset indoors",
            "depth": f"probe {DIODE} {NULL}",
            "normals": f"probe {DIODE} {NULL} --target normals",
            "normals_adam": f"probe {DIODE} {NULL} --target normals {ADAM} --k 3",
        },
        STEADY,
    ),
    "diode_convnext": Case(
        write_diode,
        {"normals": f"probe {DIODE} {CONVNEXT} --k 8 --target normals"},
        NETWORK,
    ),
    "verdict": Case(
        write_many_scenes,
        {"verdict": f"verdict {WALK} {FEW} --encoder golden_cases:folding --untrained-seeds 2 --ks 2,all --cues true"},
        STEADY,
    ),
    "compare": Case(
        write_many_scenes,
        {
            "compare": f"compare {WALK} {FEW} --encoders golden_cases:folding,golden_cases:colours "
            "--untrained-seeds 1 --ks all --cues false",
        },
        STEADY,
    ),
}
