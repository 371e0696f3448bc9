"""Trees in DIODE's layout, with its traps, of rooms whose depth and normals are known in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (48, 64)
# Masks as they come: 1 where valid, of whatever type.
MASK_TYPES = (np.float32, np.float64, np.int64, np.uint8, np.bool_, np.int32)
# "indoors", but "outdoor"; published train and val share no scene.
SCANS = (
    "train/indoors/scene_00000/scan_00000",
    "train/indoors/scene_00000/scan_00001",
    "train/indoors/scene_00001/scan_00017",
    "train/indoors/scene_00003/scan_00030",
    "train/outdoor/scene_00011/scan_00101",
    "val/indoors/scene_00019/scan_00183",
    "val/outdoor/scene_00022/scan_00193",
)


@dataclass(frozen=True)
class View:
    """What a camera sees of a box-shaped room: z depth in metres, and unit normals, x right, y down, z forward."""

    rgb: np.ndarray
    depth_m: np.ndarray
    normals: np.ndarray
    mask: np.ndarray


def view(seed: int, size: tuple[int, int] = SIZE, scale: float = 1.0) -> View:
    """A room of 6 x 3 x 8 m times `scale`, seen from inside, turned and tilted by random angles.

    In it stands a pillar, and the pixels at its left edge are spurious: halfway between the pillar and what is behind.
    The mask has a hole, under which the depth is 0 or not a number.
    """
    height, width = size
    generator = np.random.default_rng(seed)
    yaw, pitch = generator.uniform(-0.6, 0.6), generator.choice([-1, 1]) * generator.uniform(0.15, 0.4)
    level = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    turn = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]) @ level
    inwards = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, -1]]) @ turn.T
    distances = np.array([3.0, 3.0, 1.6, 1.4, 5.0]) * scale
    # Centres of pixels; the published intrinsics are those of 1024 x 768.
    across = ((np.arange(width) + 0.5) * 1024 / width - 512) / 886.81
    along = ((np.arange(height) + 0.5) * 768 / height - 384) / 927.06
    directions = np.stack([*np.meshgrid(across, along), np.ones(size)], axis=-1)
    slopes = directions @ inwards.T
    reached = np.where(slopes < -1e-9, distances / np.maximum(-slopes, 1e-9), np.inf)
    depth_m, normals = reached.min(axis=-1), inwards[reached.argmin(axis=-1)]
    left, right = width // 4, width // 4 + width // 8
    depth_m[:, left:right] = 1.0 * scale
    normals[:, left:right] = (0, 0, -1)
    depth_m[:, left - 1] = (depth_m[:, left] + depth_m[:, left - 2]) / 2
    normals[:, left - 1] = 0
    mask = np.ones(size, bool)
    top = int(generator.integers(height // 2, height - height // 6))
    mask[top : top + height // 8, -width // 4 : -width // 8] = False
    depth_m[~mask] = generator.choice([0.0, np.nan])
    normals[~mask] = 0
    coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    rgb = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return View(rgb, depth_m.astype(np.float32), normals.astype(np.float32), mask)


def write_frame(root: Path, scan: str, number: int, seen: View, mask_type: type = np.float32) -> Path:
    """Write a frame as DIODE has it, normals in its axes; return its path without a suffix."""
    _, place, scene, scan_folder = scan.split("/")
    stem = f"{scene[-5:]}_{scan_folder[-5:]}_{place}_{10 * number:03d}_{number % 4}00"
    path = root / scan / stem
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(seen.rgb).save(f"{path}.png")
    np.save(f"{path}_depth.npy", seen.depth_m[..., None])
    np.save(f"{path}_depth_mask.npy", seen.mask.astype(mask_type))
    # Stored: x right, y up, z backward; one in three turned away from the camera.
    turned = seen.normals * np.array([1, -1, -1], np.float32)
    np.save(f"{path}_normal.npy", -turned if number % 3 == 2 else turned)
    return path


def write_tree(
    root: Path, scans: Sequence[str] = SCANS, per_scan: int = 3, size: tuple[int, int] = SIZE
) -> dict[str, View]:
    """Write frames of each scan, and clutter that is none; return what is to be seen, by path in the store's order."""
    views = {}
    for scan_number, scan in enumerate(scans):
        for number in range(per_scan):
            count = scan_number * per_scan + number
            seen = view(count, size, scale=12.0 if "outdoor" in scan else 1.0)
            path = write_frame(root, scan, number, seen, MASK_TYPES[count % len(MASK_TYPES)])
            views[path.relative_to(root).as_posix()] = seen
    first = root / scans[0]
    (first / ".DS_Store").write_bytes(b"clutter")
    (first / "._00000_00000_indoors_000_000.png").write_bytes(b"clutter")
    # Lists one frame, as the published file lists 612 of 771: not to be believed.
    (root / "diode_meta.json").write_text('{"val": {"indoors": {"scene_00019": {}}}}')
    return views
