"""The datasets by name. A new one is a reader in a file of its own and a line in `READERS`."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from idl.data.folder import FolderReader
from idl.data.preparation import prepare
from idl.data.reader import Reader
from idl.data.rooms import RoomsReader, RoomsRecipe
from idl.data.store import Store
from idl.errors import InputError
from idl.progress import Progress, silent
from idl.protocol import Protocol


@dataclass(frozen=True)
class DatasetConfig:
    """Which dataset is wanted, and how it is read.

    dataset: name in `READERS`, or the path of a prepared store (.h5), which the rest then does not concern.
    data: path of the raw data ("folder").
    depth_scale: units per metre of integer depth maps ("folder").
    invalid_values: integers that mean missing depth ("folder"), with commas between them.
    scene: what a scene is ("folder"): auto, folder or block:N.
    min_depth_m, max_depth_m: range of valid depth, metres.
    num_scenes, views, dataset_seed: the recipe of "rooms".
    """

    dataset: str = "rooms"
    data: str = ""
    depth_scale: float = 1000.0
    invalid_values: str = "0,65535"
    scene: str = "auto"
    min_depth_m: float = Protocol.min_depth_m
    max_depth_m: float = Protocol.max_depth_m
    num_scenes: int = 320
    views: int = 6
    dataset_seed: int = 0

    @property
    def protocol(self) -> Protocol:
        """Raises InputError where the range is none."""
        if not 0 < self.min_depth_m < self.max_depth_m < float("inf"):
            raise InputError(
                f"min_depth={self.min_depth_m:g}, max_depth={self.max_depth_m:g}: expected 0 < min < max, in metres."
            )
        return Protocol(min_depth_m=self.min_depth_m, max_depth_m=self.max_depth_m)


def _rooms(config: DatasetConfig) -> Reader:
    recipe = RoomsRecipe(config.num_scenes, config.views, config.protocol.resolution, config.dataset_seed)
    return RoomsReader(recipe)


def _folder(config: DatasetConfig) -> Reader:
    if not config.data:
        raise InputError("dataset=folder: no data given. Pass data=FOLDER with rgb/ and depth/ in it.")
    try:
        invalid_values = tuple(int(part) for part in config.invalid_values.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"invalid_values={config.invalid_values}: expected whole numbers such as 0,65535.") from error
    root = Path(config.data).expanduser()
    return FolderReader(root, config.protocol, config.depth_scale, invalid_values, config.scene)


READERS: dict[str, Callable[[DatasetConfig], Reader]] = {"rooms": _rooms, "folder": _folder}


def reader(config: DatasetConfig) -> Reader:
    """Make the reader that `config` names. Raises InputError with the nearest name where there is none."""
    if config.dataset not in READERS:
        near = get_close_matches(config.dataset, READERS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"dataset={config.dataset}: no such dataset.{hint} Pass one of {', '.join(READERS)}, or a store's .h5."
        )
    return READERS[config.dataset](config)


def require(config: DatasetConfig) -> None:
    """Make sure that `config` names a dataset that can be asked for. Raises InputError; reads no image."""
    if config.dataset.endswith(".h5"):
        Store.open(Path(config.dataset).expanduser())
    else:
        reader(config)


def open_store(config: DatasetConfig, folder: Path, *, workers: int = 1, progress: Progress = silent) -> Store:
    """Return the prepared dataset, made under `folder` where it is not there yet."""
    if config.dataset.endswith(".h5"):
        return Store.open(Path(config.dataset).expanduser())
    return prepare(reader(config), config.protocol, folder, workers=workers, progress=progress)
