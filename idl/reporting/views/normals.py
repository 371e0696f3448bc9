"""Normals: directions as colours, and the angle between them."""

from collections.abc import Mapping

import numpy as np

from idl import figures
from idl.evaluation import PanelValues
from idl.protocol import Averaging
from idl.report import Image
from idl.reporting.views.base import Shown, View, headline
from idl.targets import Target


class NormalsView(View):
    """The angle's range is that of `Shown.limits`, in degrees."""

    def folder(self, target: Target) -> str:
        """By layer."""
        return target.layer

    def panel(self, values: PanelValues, shown: Shown) -> Image:
        """Draw directions and angles."""
        truth, prediction = (np.moveaxis(each, 0, -1) for each in (values.truth, values.prediction))
        return figures.normals_panel(values.rgb, truth, prediction, values.valid, shown.limits[1], values.name)

    def quality(self, summary: Mapping[str, float], target: Target, averaging: Averaging) -> str:
        """Give the mean angle."""
        chosen, told = headline(summary, averaging)
        return f"mean angle {chosen['angle_mean_deg']:.1f}° {told}"
