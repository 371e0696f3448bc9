"""NYU Depth V2, the labelled set: 1449 indoor images of 480 x 640 with a Kinect's depth."""

from idl.data.nyu.reader import CROP, DEPTHS, NyuReader

__all__ = ["CROP", "DEPTHS", "NyuReader"]
