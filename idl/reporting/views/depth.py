"""Depth: in metres, whatever space it was fitted in."""

from collections.abc import Mapping

from idl import figures
from idl.evaluation import PanelValues
from idl.protocol import Averaging
from idl.report import Image
from idl.reporting.views.base import Shown, View, headline
from idl.targets import Target


class DepthView(View):
    """Near is bright; the error is signed."""

    def folder(self, target: Target) -> str:
        """By layer: depth and log-depth are both shown in metres, and stand side by side."""
        return target.layer

    def panel(self, values: PanelValues, shown: Shown) -> Image:
        """Draw metres; the error's range is a quarter of the depth's."""
        error_range_m = shown.limits[1] / 4
        return figures.depth_panel(
            values.rgb,
            values.truth,
            values.prediction,
            values.valid,
            shown.limits,
            error_range_m,
            values.name,
            shown.caption,
        )

    def quality(self, summary: Mapping[str, float], target: Target, averaging: Averaging) -> str:
        """Give RMSE, the share within a ratio of 1.25, and R2."""
        chosen, told = headline(summary, averaging)
        return f"RMSE {chosen['rmse']:.3f} m {told}, δ<1.25 {chosen['delta1']:.3f}, R² {chosen['r2']:.3f}"
