"""splits.mat: which images are on which side of the published split."""

from pathlib import Path

import numpy as np

from idl.errors import InputError

_KEYS = {"train": "trainNdxs", "test": "testNdxs"}


def read_sides(path: Path, num_images: int) -> tuple[str, ...]:
    """Return "train" or "test" for each image.

    path: MATLAB v5, with `trainNdxs` and `testNdxs`, which count the images from 1.
    Raises InputError where the two lists are not there, count from 0, or do not divide `num_images` images.
    """
    numbers = _read(path)
    together = np.concatenate(list(numbers.values()))
    if not len(numbers["train"]) or not len(numbers["test"]):
        raise InputError(f"{path}: one side of the split is empty. Take the published file.")
    if together.min() == 0:
        raise InputError(f"{path}: counts the images from 0, expected 1 to {num_images}. Add 1 to both lists.")
    both = np.intersect1d(numbers["train"], numbers["test"])
    if len(both):
        raise InputError(f"{path}: image {both[0]} is in trainNdxs and in testNdxs. Take the published file.")
    values, counts = np.unique(together, return_counts=True)
    if counts.max() > 1:
        raise InputError(f"{path}: image {values[counts > 1][0]} is listed twice. Take the published file.")
    if len(values) != num_images or values[0] != 1 or values[-1] != num_images:
        raise InputError(
            f"{path}: lists {len(values)} images, {values[0]} to {values[-1]}; the dataset has 1 to {num_images}. "
            "Take the split of this file, or remove it: the split is by scene then."
        )
    sides = np.full(num_images, "test", dtype="<U5")
    sides[numbers["train"] - 1] = "train"
    return tuple(str(side) for side in sides)


def _read(path: Path) -> dict[str, np.ndarray]:
    # Here, because it takes a quarter of a second, as much as the rest of the command line's modules.
    import scipy.io

    try:
        content = scipy.io.loadmat(path, variable_names=list(_KEYS.values()))
    except NotImplementedError as error:
        raise InputError(f"{path}: is MATLAB v7.3. Save it in MATLAB with -v7, or take the published file.") from error
    except Exception as error:
        # scipy raises whatever a damaged byte leads to: struct.error, zlib.error, TypeError, IndexError and others.
        raise InputError(f"{path}: not a readable MATLAB file ({error}). Take the published file.") from error
    missing = [key for key in _KEYS.values() if key not in content]
    if missing:
        raise InputError(f"{path}: no list `{missing[0]}`. Take the published splits.mat.")
    found = {side: np.asarray(content[key]).flatten() for side, key in _KEYS.items()}
    for side, values in found.items():
        if values.dtype.kind not in "iuf" or not np.array_equal(values, np.round(values)):
            raise InputError(f"{path}: `{_KEYS[side]}` holds no whole numbers. Take the published file.")
    return {side: values.astype(np.int64) for side, values in found.items()}
