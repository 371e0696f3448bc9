"""The datasets by name. A new one is a reader in a file of its own and a line in `READERS`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from idl.data.crops import require_size
from idl.data.diode import DiodeReader, diode
from idl.data.folder import FolderReader
from idl.data.nyu import CROP, NyuReader
from idl.data.preparation import prepare
from idl.data.published import NOTHING, fetch_published
from idl.data.reader import Archive, NativeReader, Reader
from idl.data.rooms import RoomsReader, RoomsRecipe
from idl.data.store import Store
from idl.errors import InputError
from idl.progress import Progress, silent
from idl.protocol import Protocol, preset

# The protocol where none is named: that of a prepared store, else idl.
AUTO = "auto"


@dataclass(frozen=True)
class DatasetConfig:
    """Which dataset is wanted, and how it is read.

    dataset: name in `READERS`, or the path of a prepared store (.h5). Of the rest, a store is asked for the protocol,
      the range and the erosion only: whether they are its own.
    data: path of the raw data ("folder", "nyu", "diode").
    download: what is fetched into `data` first ("nyu", "diode"): "false", "true" or names in `PUBLISHED`.
    depth_scale: units per metre of integer depth maps ("folder").
    invalid_values: integers that mean missing depth ("folder"), with commas between them.
    scene: what a scene is ("folder"): auto, folder or block:N.
    depths: which depth is the truth ("nyu"): "sensor", or "inpainted" with its holes filled in.
    subset: which frames ("diode"): all, indoors, outdoor, or scenes with commas between them.
    protocol_name: name in `idl.protocol.PRESETS`; "auto": idl, or that which a store was prepared under.
    erosion: native pixels by which the mask of valid depth is eroded (all but "rooms").
    min_depth_m, max_depth_m: range of valid depth, metres; None: the protocol's.
    num_scenes, views, dataset_seed: the recipe of "rooms".
    """

    dataset: str = "rooms"
    data: str = ""
    download: str = NOTHING
    depth_scale: float = 1000.0
    invalid_values: str = "0,65535"
    scene: str = "auto"
    depths: str = Protocol.mask
    subset: str = DiodeReader.subset
    protocol_name: str = AUTO
    erosion: int = Protocol.erosion
    min_depth_m: float | None = None
    max_depth_m: float | None = None
    num_scenes: int = 320
    views: int = 6
    dataset_seed: int = 0

    @property
    def protocol(self) -> Protocol:
        """Raises InputError where there is no such protocol, or the range or the erosion is none."""
        if self.erosion < 0:
            raise InputError(f"erosion={self.erosion}: expected native pixels, 0 or more.")
        name = Protocol.name if self.protocol_name == AUTO else self.protocol_name
        named = replace(preset(name, self.min_depth_m, self.max_depth_m), erosion=self.erosion)
        if self.dataset != "nyu":
            return named
        # Published protocols keep the whole frame, and crop where they measure.
        return replace(named, mask=self.depths, crop=None if named.is_native else CROP)


def _refuse_native(config: DatasetConfig) -> None:
    """Raise InputError where the protocol measures native depth maps, which the dataset does not have."""
    if config.protocol.is_native:
        raise InputError(
            f"protocol={config.protocol_name}: is measured on native depth maps of a published dataset, which "
            f"dataset={config.dataset} does not have. Pass protocol={Protocol.name}."
        )


def _rooms(config: DatasetConfig) -> Reader:
    _refuse_native(config)
    if config.erosion:
        raise InputError(f"erosion={config.erosion}: dataset=rooms has exact depth and no native pixels. Pass 0.")
    recipe = RoomsRecipe(config.num_scenes, config.views, config.protocol.resolution, config.dataset_seed)
    return RoomsReader(recipe)


def _folder(config: DatasetConfig) -> Reader:
    _refuse_native(config)
    if not config.data:
        raise InputError("dataset=folder: no data given. Pass data=FOLDER with rgb/ and depth/ in it.")
    try:
        invalid_values = tuple(int(part) for part in config.invalid_values.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"invalid_values={config.invalid_values}: expected whole numbers such as 0,65535.") from error
    root = Path(config.data).expanduser()
    return FolderReader(root, config.protocol, config.depth_scale, invalid_values, config.scene)


def _nyu(config: DatasetConfig) -> Reader:
    if not config.data:
        raise InputError(
            "dataset=nyu: no data given. Pass data= nyu_depth_v2_labeled.mat, or the folder that holds it."
        )
    return NyuReader(Path(config.data).expanduser(), config.protocol, config.depths)


def _diode(config: DatasetConfig) -> Reader | Archive:
    if not config.data:
        raise InputError("dataset=diode: no data given. Pass data=FOLDER with train/ or val/, or a .tar.gz, in it.")
    return diode(Path(config.data).expanduser(), config.protocol, config.subset)


READERS: dict[str, Callable[[DatasetConfig], Reader | Archive]] = {
    "rooms": _rooms,
    "folder": _folder,
    "nyu": _nyu,
    "diode": _diode,
}


def reader(config: DatasetConfig) -> Reader | Archive:
    """Make the reader that `config` names. Raises InputError with the nearest name where there is none."""
    if config.dataset not in READERS:
        near = get_close_matches(config.dataset, READERS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"dataset={config.dataset}: no such dataset.{hint} Pass one of {', '.join(READERS)}, or a store's .h5."
        )
    return READERS[config.dataset](config)


def fetch(config: DatasetConfig, progress: Progress = silent) -> None:
    """Fetch the published files that `config` asks for, unless they are there. Raises InputError."""
    # Hours are not spent on what is refused in the end.
    _ = config.protocol
    fetch_published(config.dataset, config.download, config.data, progress)


def require(config: DatasetConfig) -> None:
    """Make sure that `config` names a dataset that can be asked for. Raises InputError; reads no image."""
    if config.dataset.endswith(".h5"):
        _open(config)
    else:
        reader(config)


def native_reader(config: DatasetConfig, test_images: int) -> NativeReader:
    """Return the reader of a dataset whose native images can be cropped.

    Raises InputError, which speaks of `test_images`, where there is nothing larger than what is prepared, it cannot be
    reached image by image, the first image is too small, or the protocol measures whole native frames.
    """
    asked = f"test_images={test_images}: "
    if config.dataset.endswith(".h5"):
        raise InputError(
            f"{asked}{config.dataset} holds prepared images only, not the larger ones that crops are cut from. Pass "
            "the dataset that it was made of, or test_images=0."
        )
    if config.protocol.is_native:
        raise InputError(
            f"{asked}protocol={config.protocol.name} measures whole native frames, not crops. Pass "
            f"protocol={Protocol.name}, or test_images=0."
        )
    found = reader(config)
    if isinstance(found, Archive):
        raise InputError(
            f"{asked}{found.source} is an archive, which can only be gone through from beginning to end. Unpack it, "
            "or pass test_images=0."
        )
    if not isinstance(found, NativeReader):
        raise InputError(
            f"{asked}dataset={config.dataset} has no images larger than those that are prepared. Pass test_images=0"
            + (", and more num_scenes= for more test images." if config.dataset == "rooms" else ".")
        )
    # Before hours of preparation; the others are looked at when the crops are drawn.
    require_size(found.groups[0].names[0], found.native_size(0), test_images, config.protocol)
    return found


def open_store(config: DatasetConfig, folder: Path, *, workers: int = 1, progress: Progress = silent) -> Store:
    """Return the prepared dataset, made under `folder` where it is not there yet."""
    if config.dataset.endswith(".h5"):
        return _open(config)
    return prepare(reader(config), config.protocol, folder, workers=workers, progress=progress)


def _open(config: DatasetConfig) -> Store:
    """Open a store by its path. Raises InputError where it was prepared under another protocol than is asked for."""
    store = Store.open(Path(config.dataset).expanduser())
    made = store.protocol
    # Nothing is asked of what is not named. Crop and mask are the reader's; name and range say the rest.
    if config.protocol_name == AUTO:
        near_m = made.min_depth_m if config.min_depth_m is None else config.min_depth_m
        far_m = made.max_depth_m if config.max_depth_m is None else config.max_depth_m
        asked = replace(made, min_depth_m=near_m, max_depth_m=far_m)
    else:
        asked = config.protocol
    # 0 is the default, and asks for nothing.
    asked = replace(asked, erosion=config.erosion or made.erosion)
    names = [
        name
        for name in ("name", "min_depth_m", "max_depth_m", "erosion")
        if getattr(made, name) != getattr(asked, name)
    ]
    if names:
        told = ", ".join(f"{name} is {getattr(made, name)}, not {getattr(asked, name)}" for name in names)
        raise InputError(
            f"{store.path}: was prepared under another protocol ({told}). Pass the dataset it was made of, or leave "
            "protocol, min_depth, max_depth and erosion to it."
        )
    return store
