"""Any other field: in its own unit."""

from collections.abc import Mapping

from idl import figures
from idl.evaluation import PanelValues
from idl.protocol import Averaging
from idl.report import Image
from idl.reporting.views.base import Shown, View, headline
from idl.targets import Target


class FieldView(View):
    """Of several outputs the first is shown."""

    def folder(self, target: Target) -> str:
        """By name: two fields of one layer have different units."""
        return target.name

    def panel(self, values: PanelValues, shown: Shown) -> Image:
        """Draw the field; the error's range is half of the field's to either side."""
        target = shown.target
        what = target.name if target.num_outputs == 1 else f"{target.name}, output 1 of {target.num_outputs}"
        low, high = shown.limits
        return figures.field_panel(
            values.rgb,
            values.truth,
            values.prediction,
            values.valid,
            shown.limits,
            (high - low) / 2,
            _unit(target),
            f"{values.name}: {what}",
            shown.caption,
        )

    def quality(self, summary: Mapping[str, float], target: Target, averaging: Averaging) -> str:
        """Give RMSE and R2."""
        chosen, told = headline(summary, averaging)
        rmse = " ".join(filter(None, (f"{chosen['rmse']:.4g}", _unit(target))))
        return f"RMSE {rmse} {told}, R² {chosen['r2']:.3f}"


def _unit(target: Target) -> str:
    return "" if target.unit == "1" else target.unit
