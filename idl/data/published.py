"""Where the published datasets are to be had, with their sizes and checksums, and which files a download is of."""

from pathlib import Path

from idl.data.fetching import Remote, fetch
from idl.errors import InputError
from idl.progress import Progress

# What `download` says besides names of files.
NOTHING, USUAL = "false", "true"

_NYU = "https://horatio.cs.nyu.edu/mit/silberman"
_DIODE = "http://diode-dataset.s3.amazonaws.com"
# By the name that `download` may have. The checksums are those that the users of the files pin.
PUBLISHED = {
    "nyu": {
        "labeled": Remote(
            "nyu_depth_v2_labeled.mat",
            f"{_NYU}/nyu_depth_v2/nyu_depth_v2_labeled.mat",
            2_972_037_809,
            "520609c519fba3ba5ac58c8fefcc3530",
        ),
        "splits": Remote(
            "splits.mat", f"{_NYU}/indoor_seg_sup/splits.mat", 2_626, md5="08e3c3aea27130ac7c01ffd739a4535f"
        ),
    },
    "diode": {
        name: Remote(f"{name}.tar.gz", f"{_DIODE}/{name}.tar.gz", md5=md5)
        for name, md5 in {
            "train": "3a94632398fe1d002d89f11743f748b1",
            "val": "5c895d09201b88973c8fe4552a67dd85",
            "train_normals": "9c0617ebe1eaf1928fdf3344e1c42aef",
            "val_normals": "323ccaf60abebdb59705dcd8b529d709",
        }.items()
    },
}
# What "true" stands for. The normals are 131 GB that only the target normals needs.
_USUAL = {"nyu": ("labeled", "splits"), "diode": ("val", "train")}


def fetch_published(dataset: str, download: str, data: str, progress: Progress) -> None:
    """Fetch what `download` names into the folder `data`, unless it is there.

    Raises InputError, before anything is fetched, where the dataset is not published, or a name or the folder cannot
    be; and as `fetch` does.
    """
    download = download.strip().lower()
    if download == NOTHING:
        return
    folder, remotes = wanted(dataset, download, data)
    for remote in remotes:
        fetch(remote, folder, progress)


def wanted(dataset: str, download: str, data: str) -> tuple[Path, tuple[Remote, ...]]:
    """The folder to fetch to, and what. `data` may also name one of the published files, in its folder.

    Raises InputError as `fetch_published` does.
    """
    if dataset not in PUBLISHED:
        raise InputError(
            f"download={download}: dataset={dataset} is not fetched from anywhere. Pass download={NOTHING}, or "
            f"dataset= {' or '.join(PUBLISHED)}."
        )
    files = PUBLISHED[dataset]
    if not data:
        raise InputError(f"download={download}: no folder to fetch to. Pass data=FOLDER.")
    path = Path(data).expanduser()
    named = {remote.name: name for name, remote in files.items()}
    names = _USUAL[dataset] if download == USUAL else tuple(part.strip() for part in download.split(",") if part)
    for name in names or (download,):
        if name not in files:
            have = ", ".join((NOTHING, USUAL, *files))
            raise InputError(f"download={name}: no such file of {dataset}. It has: {have}; names with commas between.")
    if path.name in named and not path.is_dir():
        # nyu_depth_v2_labeled.mat goes with its small split; an archive is asked for by itself.
        names = names if dataset == "nyu" or download != USUAL else (named[path.name],)
        path = path.parent
    elif path.is_file() or path.name.endswith((".mat", ".tar.gz")):
        raise InputError(f"data={data}: is no folder. Pass a folder to fetch to, or one of: {', '.join(named)} in it.")
    if dataset == "diode" and any((path / part).is_dir() for part in ("train", "val")):
        raise InputError(
            f"{path}: holds an unpacked tree, beside which archives are not read. Pass download={NOTHING} to use it, "
            "or another folder."
        )
    return path, tuple(files[name] for name in names)
