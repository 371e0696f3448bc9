"""How often `doctor` takes depth for registered that is not, and doubts depth that is.

    PYTHONPATH=. python benchmarks/registration_calibration.py [--real FOLDER]

Registered are rooms, which are rendered, and with --real the frames in FOLDER/hololens (rgb/ and depth/) and FOLDER/nyu
(pairs.txt, rgb/ and 8-bit depth8/). Each is made unregistered in known ways: depth as a camera beside it sees it
(shifted by a share of the width), one of another focal length (enlarged about the centre), both, turned, of a later
frame, of another view of the scene, and of another scene. Of each kind, samples of 6 and of 24 frames are drawn;
printed are the shares of the samples that are called ok and that are called a doubt; the rest are notes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
from PIL import Image
from record import record

from idl.data.folder import FolderReader
from idl.data.rooms import RoomsReader, RoomsRecipe
from idl.doctor.checks import Measured, measure
from idl.doctor.registration import registration
from idl.progress import terminal
from idl.protocol import Protocol

# Scene, RGB, depth in metres, where it is valid.
Frame = tuple[str, np.ndarray, np.ndarray, np.ndarray]
Change = Callable[[np.ndarray], np.ndarray]
_SIZES = (6, 24)
_DRAWS = 1000


def rooms(num_scenes: int) -> Iterator[Frame]:
    """Render six views of each room."""
    reader = RoomsReader(RoomsRecipe(num_scenes, 6, 224))
    for index in range(num_scenes):
        for sample in reader.read(index):
            yield sample.scene, sample.rgb, sample.depth_m, sample.valid


def hololens(folder: Path) -> Iterator[Frame]:
    """One walk, in order."""
    reader = FolderReader(folder, Protocol())
    for index in range(len(reader.groups)):
        native = reader.native(index)
        yield "walk", native.image, native.depth_m, native.valid


def nyu(folder: Path, every: int) -> Iterator[Frame]:
    """Frames with in-painted depth of 8 bits, 25.5 units per metre: two of 2 * every, most of one scene."""
    lines = (folder / "pairs.txt").read_text().splitlines()
    for line in (line for index, line in enumerate(lines) if index % (2 * every) < 2):
        rgb, depth, scene = line.split()
        depth_m = (np.asarray(Image.open(folder / depth), np.float32) + 0.5) / 25.5
        yield scene, np.asarray(Image.open(folder / rgb).convert("RGB")), depth_m, np.ones(depth_m.shape, bool)


def moved(scale: float = 1.0, across: float = 0.0, down: float = 0.0) -> Change:
    """Enlarge a map about its centre, then move it by shares of its width; 0 where nothing comes from."""

    def change(values: np.ndarray) -> np.ndarray:
        height, width = values.shape
        centre, shift = np.array([height - 1, width - 1]) / 2, np.array([down, across]) * width
        rows, columns = (
            np.rint((np.arange(side) - middle - by) / scale + middle).astype(int)
            for side, middle, by in zip((height, width), centre, shift, strict=True)
        )
        inside = np.outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
        return values[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))] * inside

    return change


CHANGES: dict[str, Change] = {
    "registered": moved(),
    **{f"shift {share:.0%}": moved(across=share) for share in (0.01, 0.02, 0.03, 0.05, 0.1)},
    "shift 3% up": moved(down=-0.03),
    **{f"scale {scale:.2f}": moved(scale) for scale in (1.05, 1.1, 1.2, 1.3, 1 / 1.1, 1 / 1.3)},
    "scale 1.10, shift 3%": moved(1.1, 0.03),
    "scale 1.30, shift 5%": moved(1.3, 0.05),
    "scale 0.83, shift 5%": moved(1 / 1.2, 0.05),
    "mirrored": lambda values: values[:, ::-1],
    "upside down": lambda values: values[::-1],
}


def others(frames: Sequence[Frame], is_walk: bool) -> dict[str, list[tuple[Frame, Frame]]]:
    """Pairs of frames, RGB of the one and depth of the other."""
    half = len(frames) // 2
    pairs = {"half the frames on": list(zip(frames, [*frames[half:], *frames[:half]], strict=True))}
    if is_walk:
        return {f"{step} frames on": list(zip(frames, frames[step:], strict=False)) for step in (1, 2, 5)} | pairs
    near = [(one, other) for one, other in pairwise(frames) if one[0] == other[0]]
    return {"another view": near} | pairs


def shares(images: Sequence[Measured], generator: np.random.Generator) -> str:
    """Draw samples; say how many are called ok and how many a doubt, in per cent."""
    told = []
    fits, longer = [image.fit for image in images], max(images[0].size)
    for size in _SIZES:
        samples = (generator.choice(len(fits), size, replace=False) for _ in range(_DRAWS))
        levels = Counter(registration([fits[index] for index in sample], longer)[0] for sample in samples)
        told.append(f"{levels['ok'] / _DRAWS:8.1%} {levels['doubt'] / _DRAWS:8.1%}")
    return "  |".join(told)


@click.command()
@click.option("--real", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of real frames.")
@click.option("--num-rooms", default=10, show_default=True)
@click.option("--every", default=8, show_default=True, help="Of NYU, one frame of so many.")
def main(real: Path | None, num_rooms: int, every: int) -> None:
    """Print a table for each source of frames."""
    print(record())
    sources = {"rooms": list(rooms(num_rooms))}
    if real is not None:
        sources |= {"hololens": list(hololens(real / "hololens")), "nyu": list(nyu(real / "nyu", every))}
    generator = np.random.default_rng(0)
    for source, frames in sources.items():
        pairs = others(frames, source == "hololens")
        print(
            f"\n{source}, {len(frames)} frames\n{'':22}" + "  |".join(f"{f'ok of {n}':>8} {'doubt':>8}" for n in _SIZES)
        )
        with terminal(source, len(CHANGES) + len(pairs), unit="kinds") as advance:
            for kind, change in CHANGES.items():
                images = [measure("", rgb, change(depth_m), change(valid)) for _, rgb, depth_m, valid in frames]
                print(f"{kind:22}{shares(images, generator)}", flush=True)
                advance(1)
            for kind, paired in pairs.items():
                images = [measure("", one[1], other[2], other[3]) for one, other in paired]
                print(f"{kind:22}{shares(images, generator)}", flush=True)
                advance(1)


if __name__ == "__main__":
    main()
