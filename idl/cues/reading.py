"""From losses to what is said of each cue.

What a probe knows is its lead: how much lower its loss is than that of the best constant on the same images. An edit
matters where it costs more than READ_SHARE of the lead, and does not where it costs less, by the interval over clusters
of the loss against that threshold; where the interval holds the threshold, nothing is said. A ratio to the clean loss
alone would miss what weak probes read: one that is 1.5 % better than a constant cannot lose much, but it may lose all.
A probe whose own lead is not beyond doubt reads nothing that could be named. Then:

- colour is read where grey or a rotated hue matters, and not where neither does.
- texture is read where the low-pass matters.
- brightness is read where a flat luminance matters. The texture of luminance goes with it: where texture is read,
  texture explains what flattening does unless that is more than EXPLAINED times what the low-pass does.
- position is read where turning the image upside down matters. Only the vertical position is asked about, and what
  has a top and a bottom goes with it, such as light from above.
- layout is read where shuffled tiles matter. Tiles change their position too: where position is read, position explains
  what shuffling does unless that is more than EXPLAINED times what turning does.

What an edit does is the loss that it adds to the clean images'; one is more than another where the lower end of the
interval, with the losses paired by cluster, says so. With features that add up, EXPLAINED = 2 asks that brightness
alone is worth more than texture alone.
"""

from collections.abc import Callable, Mapping

from idl.cues.result import Cue, CueFinding, EditLoss, Reading
from idl.verdict import Interval

# A quarter: a reader of light and dark alone was measured to lose a sixth by the low-pass, which mixes neighbours.
READ_SHARE = 0.25
# The low-pass leaves edges, so that it takes less than all texture: of a reader of texture alone, flattening was
# measured to do 1.3 times as much harm. To a reader of height alone shuffling did 0.6 times as much as turning.
EXPLAINED = 2.0
GREY, HUE, FLAT, LOW_PASS, TILES, TURNED = "grey", "hue rotated", "luminance flat", "low-passed", "tiles", "upside down"
# Each edit, and what it takes away.
REMOVED: Mapping[str, str] = {
    GREY: "colour",
    HUE: "hue",
    FLAT: "light and dark",
    LOW_PASS: "texture",
    TILES: "layout",
    TURNED: "vertical position",
}
DECIDED_BY: Mapping[Cue, tuple[str, ...]] = {
    Cue.COLOUR: (GREY, HUE),
    Cue.BRIGHTNESS: (FLAT,),
    Cue.TEXTURE: (LOW_PASS,),
    Cue.LAYOUT: (TILES,),
    Cue.POSITION: (TURNED,),
}
# What goes with a cue when that is removed.
EXPLAINS: Mapping[Cue, tuple[Cue, str]] = {
    Cue.BRIGHTNESS: (Cue.TEXTURE, LOW_PASS),
    Cue.LAYOUT: (Cue.POSITION, TURNED),
}


def find(edits: Mapping[str, EditLoss], exceeds: Callable[[str, str], Interval], leads: bool) -> tuple[CueFinding, ...]:
    """Say something of every cue.

    edits: by name. exceeds: of two edits, the interval of a figure that is above 0 where the loss that the first adds
      is more than EXPLAINED times what the second adds. leads: whether the probe has a lead.
    """
    alone = {cue: _alone(cue, [edits[name] for name in names], leads) for cue, names in DECIDED_BY.items()}
    found = []
    for cue, finding in alone.items():
        explains, by_edit = EXPLAINS.get(cue, (None, ""))
        if (
            explains is not None
            and finding.reading is Reading.READ
            and alone[explains].reading is Reading.READ
            and exceeds(finding.edit.name, by_edit).low <= 0
        ):
            finding = CueFinding(cue, Reading.IMPLIED, finding.edit, explains)
        found.append(finding)
    return tuple(found)


def _alone(cue: Cue, edits: list[EditLoss], leads: bool) -> CueFinding:
    worst = max(edits, key=lambda edit: edit.log_ratio.estimate)
    if not leads:
        return CueFinding(cue, Reading.UNDECIDED, worst)
    matters = [edit for edit in edits if edit.log_over_read.low > 0]
    if matters:
        return CueFinding(cue, Reading.READ, max(matters, key=lambda edit: edit.log_ratio.estimate))
    reading = Reading.NOT_READ if all(edit.log_over_read.high < 0 for edit in edits) else Reading.UNDECIDED
    return CueFinding(cue, reading, worst)
