"""DIODE: RGB, depth, masks and normals of indoor and outdoor scenes, from a tree on disk or from its archives."""

from pathlib import Path

from idl.data.diode.archives import SUFFIX, DiodeArchives, find_archives
from idl.data.diode.reader import DiodeReader
from idl.errors import InputError
from idl.protocol import Protocol

__all__ = ["DiodeArchives", "DiodeReader", "diode"]


def diode(path: Path, protocol: Protocol, subset: str = DiodeReader.subset) -> DiodeReader | DiodeArchives:
    """The reader of what is at `path`: a tree, a .tar.gz, or a folder of them. A tree goes before archives beside it.

    Raises InputError where there is neither, or `subset` has no frames in the tree.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder. Pass data=FOLDER with train/ or val/, or a .tar.gz, in it.")
    if path.is_dir():
        tree = DiodeReader(path, protocol, subset)
        archives = () if tree.has_frames else find_archives(path)
        if not archives:
            # Asked now: what is missing is said before anything is made.
            _ = tree.groups
            return tree
    elif path.name.endswith(SUFFIX):
        archives = find_archives(path)
    else:
        raise InputError(
            f"{path}: neither a folder nor a .tar.gz. Pass DIODE's folder, or val.tar.gz as it was fetched."
        )
    return DiodeArchives(path, archives, protocol, subset)
