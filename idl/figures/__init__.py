"""Values in, images out: every function returns an RGB image, uint8 (H, W, 3), and draws on nothing else."""

from idl.figures.bars import arms_chart, per_scene_error
from idl.figures.chart import squared
from idl.figures.cues import cue_bars, cue_strip
from idl.figures.curves import loss_over_k
from idl.figures.features import feature_panel
from idl.figures.intervals import interval_chart
from idl.figures.panels import PanelParts, depth_panel, field_panel, normals_panel, panel_parts
from idl.figures.search import TILE_SIDE, importance_chart, search_history, search_plane, trial_sheet, with_predictions
from idl.figures.sheet import contact_sheet
from idl.figures.training import recognised, reconstructions

__all__ = [
    "TILE_SIDE",
    "PanelParts",
    "arms_chart",
    "contact_sheet",
    "cue_bars",
    "cue_strip",
    "depth_panel",
    "feature_panel",
    "field_panel",
    "importance_chart",
    "interval_chart",
    "loss_over_k",
    "normals_panel",
    "panel_parts",
    "per_scene_error",
    "recognised",
    "reconstructions",
    "search_history",
    "search_plane",
    "squared",
    "trial_sheet",
    "with_predictions",
]
