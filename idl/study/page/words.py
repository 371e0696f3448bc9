"""Names of arms, comparisons and outcomes for people."""

import re

from idl.verdict import Outcome

OUTCOMES = {
    Outcome.LEARNED: (
        "learned",
        "The trained network tells clearly more about it than the image's own pixels do, and more than the same "
        "network without its training.",
    ),
    Outcome.NOT_LEARNED: (
        "not-learned",
        "The pixels, or the untrained network, tell as much, within the margin that was fixed beforehand.",
    ),
    Outcome.INCONCLUSIVE: (
        "inconclusive",
        "These images are too few, or too different from one another, to say which.",
    ),
    Outcome.INVALID: ("invalid", "Something that the method needs is missing, so that nothing is concluded."),
}

_ARMS = {
    "constant": "the same guess everywhere",
    "position": "the place in the image",
    "null": "the colours, averaged a cell",
    "null+position": "colours and place",
    "patches": "raw pixels under each cell",
    "pixels": "colours, place and raw pixels",
    "trained": "the trained network",
    "trained+pixels": "the trained network and the pixels",
    "common null": "colours on the grid that all share",
}
_FORMS = {"random": "random weights", "permuted": "shuffled weights"}
_TWIN = re.compile(r"untrained-(?P<form>[^-+]+)(-(?P<seed>\d+))?(?P<joint>\+pixels)?")


def arm_words(name: str) -> str:
    """Say what an arm reads; the name itself where it is not known."""
    if match := _TWIN.fullmatch(name):
        form = _FORMS.get(match["form"], match["form"])
        seed = f", seed {match['seed']}" if match["seed"] else ""
        return f"untrained{' and the pixels' if match['joint'] else ''}: {form}{seed}"
    return _ARMS.get(name, name)


def tile_words(kind: str) -> tuple[str, str]:
    """Say what the colours of values and of errors mean, for a kind of target."""
    return {
        "depth": ("near is bright, far is dark", "error: blue too near, red too far, white right"),
        "normals": ("colour: the direction that a surface faces", "angle between them: dark is wrong"),
    }.get(kind, ("high is bright", "error: blue too low, red too high, white right"))
