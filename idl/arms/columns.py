"""The arms of a verdict, each a set of columns of one joint system."""

from idl.probes.basis import Columns

CONSTANT = "constant"
FIXED = (CONSTANT, "position", "null", "null+position")
TRAINED = "trained"
PIXELS = "pixels"
JOINT = "trained+pixels"
ARMS = (*FIXED, "patches", PIXELS, TRAINED, JOINT)
"""Those of `FIXED` are the same at every k. A twin's are `TRAINED` and `JOINT`, on its own maps."""


def pixel_columns(columns: Columns, arm: str, k: int) -> tuple[int, ...]:
    """What an arm reads of the image itself, the bias first.

    k: numbers that the probe reads at a cell; as many patches are read, or all that there are where they are fewer.
    """
    patches = columns.of_arm("patches")[: 1 + min(k, columns.num_patches)]
    if arm in (PIXELS, JOINT):
        return (*columns.of_arm("null+position"), *patches[1:])
    if arm == "patches":
        return tuple(patches)
    return tuple(columns.of_arm(CONSTANT if arm == TRAINED else arm))


def feature_columns(columns: Columns, arm: str, k: int) -> tuple[int, ...]:
    """What an arm reads of the features: their k leading components, or all that there are where they are fewer."""
    return tuple(columns.of_arm("probe")[1 : 1 + k]) if arm in (TRAINED, JOINT) else ()
