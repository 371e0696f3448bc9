"""How the kinds of targets are shown: one file a kind."""

from idl.reporting.views.base import Shown, View
from idl.reporting.views.depth import DepthView
from idl.reporting.views.field import FieldView
from idl.reporting.views.normals import NormalsView
from idl.targets import Kind

__all__ = ["VIEWS", "Shown", "View"]

VIEWS: dict[Kind, View] = {"depth": DepthView(), "normals": NormalsView(), "field": FieldView()}
