"""The datasets by name. A new one is a reader in a file of its own and a line in `READERS`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from idl.data.crops import require_size
from idl.data.diode import DiodeReader
from idl.data.download import NOTHING, requested
from idl.data.download import fetch as fetch_file
from idl.data.folder import DEPTH_FORMATS, FolderReader
from idl.data.layouts import LAYOUTS
from idl.data.nyu import CROP, DEPTHS, NyuReader
from idl.data.preparation import prepare, store_path
from idl.data.reader import NativeReader, Reader
from idl.data.rooms import RoomsReader, RoomsRecipe
from idl.data.store import Store
from idl.errors import InputError
from idl.progress import Progress, silent
from idl.protocol import PRESETS, Protocol, preset
from idl.settings import setting

# The protocol where none is named: that of a prepared store, else idl.
AUTO = "auto"
# Layers that every dataset has.
ALWAYS = ("depth", "rgb", "valid")


@dataclass(frozen=True)
class DatasetConfig:
    """Which dataset is read, and how. Of a prepared store only what its protocol says counts: it must be its own.

    min_depth, max_depth: metres.
    """

    dataset: str = setting("rooms", "rooms, folder, nyu, diode, or the path of a prepared store (.h5).")
    data: str = setting(
        "", "Folder of RGB-D pairs (folder); nyu_depth_v2_labeled.mat or its folder (nyu); unpacked folder (diode)."
    )
    download: str = setting(
        NOTHING,
        "true: fetch nyu, or diode's train and val, into data first; or names: labeled, splits; train, val, "
        "train_normals, val_normals.",
    )
    depth_scale: float | None = setting(
        None,
        "Units per metre of depth maps in a folder; auto: 1000 of integers, or that of the layout (TUM 5000, "
        "KITTI 256); floats are metres.",
    )
    depth_format: str = setting(
        "auto", "Of integers in a folder; sunrgbd: millimetres rotated by 3 bits.", choices=DEPTH_FORMATS
    )
    invalid_values: str = setting("0,65535", "Integers that mean missing depth in a folder.")
    scene: str = setting("auto", "What a scene is in a folder: auto, folder, or block:N frames.")
    layout: str = setting("auto", f"Of a folder: auto, {', '.join(LAYOUTS)}.")
    pairs: str = setting("", "Of a folder: a file that lists its pairs, 'rgb depth [scene]' a line.")
    rgb_pattern: str = setting("", "Of a folder: its pictures, such as 'scene_*/left/*.jpg'.")
    depth_pattern: str = setting("", "Of a folder: their depth maps, with as many stars: 'scene_*/depth/*_d.npy'.")
    subset: str = setting("all", "Of diode: all, indoors, outdoor, or scenes with commas between them.")
    depths: str = setting(
        Protocol.mask,
        "What is truth in nyu: the sensor's depth, or that with its holes filled in.",
        choices=tuple(DEPTHS),
    )
    erosion: int = setting(
        Protocol.erosion,
        "Native pixels by which valid depth is eroded; of diode also beside jumps in depth.",
        at_least=0,
    )
    min_valid_share: float = setting(
        Protocol.min_valid_share, "Share of a cell that must have been measured for its depth to count.", at_least=0
    )
    protocol: str = setting(
        AUTO, f"What the figures mean: {', '.join(PRESETS)}; auto: idl, or that of the prepared store."
    )
    min_depth: float | None = setting(None, "Metres; nearer truth is not valid. auto: as the protocol says.")
    max_depth: float | None = setting(None, "Metres; farther truth is not valid. auto: as the protocol says.")
    num_scenes: int = setting(320, "Scenes of rooms.")
    views: int = setting(6, "Views of each scene of rooms.")
    dataset_seed: int = setting(0, "Seed of rooms.")

    def build_protocol(self) -> Protocol:
        """Return the protocol. Raises InputError where there is none of that name, or range or erosion cannot be."""
        if self.erosion < 0:
            raise InputError(f"erosion={self.erosion}: expected native pixels, 0 or more.")
        if not 0 <= self.min_valid_share <= 1:
            raise InputError(f"min_valid_share={self.min_valid_share:g}: expected a share from 0 to 1.")
        named = preset(Protocol.name if self.protocol == AUTO else self.protocol, self.min_depth, self.max_depth)
        named = replace(named, erosion=self.erosion, min_valid_share=self.min_valid_share)
        if self.dataset != "nyu":
            return named
        # Published protocols keep the whole frame, and crop where they measure.
        return replace(named, mask=self.depths, crop=None if named.is_native else CROP)


def _rooms(config: DatasetConfig, protocol: Protocol) -> Reader:
    for name in ("erosion", "min_valid_share"):
        value, default = getattr(config, name), getattr(Protocol, name)
        if value != default:
            raise InputError(f"{name}={value:g}: dataset=rooms has exact depth and no native pixels. Pass {default:g}.")
    return RoomsReader(RoomsRecipe(config.num_scenes, config.views, protocol.resolution, config.dataset_seed))


def _folder(config: DatasetConfig, protocol: Protocol) -> Reader:
    if config.pairs and not config.data:
        config = replace(config, data=str(Path(config.pairs).expanduser().parent))
    root = _data(config, "FOLDER with rgb/ and depth/ in it")
    try:
        invalid_values = tuple(int(part) for part in config.invalid_values.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"invalid_values={config.invalid_values}: expected whole numbers such as 0,65535.") from error
    return FolderReader(
        root,
        protocol,
        config.depth_scale,
        invalid_values,
        config.scene,
        layout=config.layout,
        pair_list=config.pairs,
        patterns=(config.rgb_pattern, config.depth_pattern),
        depth_format=config.depth_format,
    )


def _nyu(config: DatasetConfig, protocol: Protocol) -> Reader:
    return NyuReader(_data(config, " nyu_depth_v2_labeled.mat, or the folder that holds it"), protocol, config.depths)


def _diode(config: DatasetConfig, protocol: Protocol) -> Reader:
    found = DiodeReader(_data(config, "FOLDER with train/ or val/ in it"), protocol, config.subset)
    # What is missing is said before anything is made.
    _ = found.frames
    return found


def _data(config: DatasetConfig, expected: str) -> Path:
    if not config.data:
        raise InputError(f"dataset={config.dataset}: no data given. Pass data={expected}.")
    path = Path(config.data).expanduser()
    if not path.is_absolute() and not path.exists():
        raise InputError(
            f"{path.absolute()}: no such file or folder (data={config.data} is relative to the working folder: to the "
            "project under mlflow run). Pass an absolute path."
        )
    return path


READERS: dict[str, Callable[[DatasetConfig, Protocol], Reader]] = {
    "rooms": _rooms,
    "folder": _folder,
    "nyu": _nyu,
    "diode": _diode,
}


def reader(config: DatasetConfig) -> Reader:
    """Return the reader that `config` names.

    Raises InputError, with the nearest name, where there is none, and where the protocol measures native depth maps,
    which the dataset does not have.
    """
    if config.dataset not in READERS:
        near = get_close_matches(config.dataset, READERS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"dataset={config.dataset}: no such dataset.{hint} Pass one of {', '.join(READERS)}, or a store's .h5."
        )
    protocol = config.build_protocol()
    if protocol.is_native and config.dataset in ("rooms", "folder"):
        raise InputError(
            f"protocol={config.protocol}: is measured on native depth maps of a published dataset, which "
            f"dataset={config.dataset} does not have. Pass protocol={Protocol.name}."
        )
    return READERS[config.dataset](config, protocol)


def fetch(config: DatasetConfig, progress: Progress = silent) -> None:
    """Fetch the published files that `config` asks for, unless they are there.

    Raises InputError, before anything is fetched, where they cannot be; and as `download.fetch` does.
    """
    # Hours are not spent on what is refused in the end.
    _ = config.build_protocol()
    names = config.download.strip().lower()
    folder, remotes = (Path(), ()) if names == NOTHING else requested(config.dataset, names, config.data)
    for remote in remotes:
        fetch_file(remote, folder, progress)


def require(config: DatasetConfig) -> None:
    """Raise InputError where `config` names no dataset that can be read; no image is read for it."""
    _ = _open(config) if config.dataset.endswith(".h5") else reader(config)


def layers_of(config: DatasetConfig, folder: Path | None = None) -> tuple[str, ...]:
    """Return the layers that a dataset has, prepared in `folder`, or will have, as one sample shows."""
    if config.dataset.endswith(".h5"):
        return _open(config).layers
    found = reader(config)
    prepared = None if folder is None else store_path(found, config.build_protocol(), folder)
    if prepared is not None and prepared.exists():
        return Store.open(prepared).layers
    return tuple(sorted({*ALWAYS, *(layer for sample in found.read(0)[:1] for layer in sample.layers)}))


def native_reader(config: DatasetConfig, test_images: int) -> NativeReader:
    """Return the reader of a dataset whose native images can be cropped.

    Raises InputError, which speaks of `test_images`, where there is nothing larger than what is prepared, the first
    image is too small, or the protocol measures whole native frames.
    """
    option, protocol = f"test_images={test_images}", config.build_protocol()
    if protocol.is_native:
        raise InputError(
            f"{option}: protocol={protocol.name} measures whole native frames, not crops. Pass "
            f"protocol={Protocol.name}, or test_images=0."
        )
    found = None if config.dataset.endswith(".h5") else reader(config)
    if not isinstance(found, NativeReader):
        raise InputError(
            f"{option}: {config.dataset} has no images larger than those that are prepared, which crops are cut from. "
            "Pass the dataset that a store was made of, or test_images=0, of rooms with more num_scenes=."
        )
    # Before hours of preparation; the others are looked at when the crops are drawn.
    require_size(found.groups[0].names[0], found.native_size(0), test_images, protocol)
    return found


def open_store(config: DatasetConfig, folder: Path, *, workers: int = 1, progress: Progress = silent) -> Store:
    """Return the prepared dataset, made under `folder` where it is not there yet."""
    if config.dataset.endswith(".h5"):
        return _open(config)
    return prepare(reader(config), config.build_protocol(), folder, workers=workers, progress=progress)


def _open(config: DatasetConfig) -> Store:
    """Return a store by its path. Raises InputError where its protocol is not the one that `config` names."""
    store = Store.open(Path(config.dataset).expanduser())
    # Nothing is expected of what is not named. Crop and mask are the reader's; name and range say the rest.
    named = None if config.protocol == AUTO else config.build_protocol()
    expected: dict[str, object] = {
        "name": named and named.name,
        "min_depth_m": named.min_depth_m if named else config.min_depth,
        "max_depth_m": named.max_depth_m if named else config.max_depth,
        "erosion": config.erosion or None,
        "min_valid_share": None if config.min_valid_share == Protocol.min_valid_share else config.min_valid_share,
    }
    actual = {name: getattr(store.protocol, name) for name in expected}
    different = [name for name, value in expected.items() if value not in (None, actual[name])]
    if different:
        differences = ", ".join(f"{name} is {actual[name]}, not {expected[name]}" for name in different)
        raise InputError(
            f"{store.path}: was prepared under another protocol ({differences}). Pass the dataset it was made of, or "
            "leave protocol, min_depth, max_depth, erosion and min_valid_share to it."
        )
    return store
