"""Which registered probes are shown, and in which order: figures under different conditions are not ranked."""

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches

from idl.errors import InputError
from idl.tracking.models import ProbeVersion

# Tags that say what a version is, not how well it does; and so does every digest.
IDENTITY = frozenset({"dataset", "protocol", "target", "encoder", "weights", "task", "kind", "shown_range"})
IDENTITY |= {"target_identity", "test_scenes"}
DIGEST = "_digest"
HIGHER_IS_BETTER = ("test_delta", "test_r2", "test_under_")
# In the target's own space: metres here, their logarithms there.
IN_TARGET_UNITS = ("train_loss", "val_loss", "test_loss", "loss_over_null")
SHOWN_DIGITS = 8
# What two versions must share, the option that chooses one of them, and the tag of its name for people.
CONDITIONS = (
    ("dataset_digest", "dataset", "dataset"),
    ("split_digest", "split", ""),
    ("protocol_digest", "protocol", "protocol"),
)

Filters = Mapping[str, str]
# Tags that an option is held against: names in full, digests by their beginning.
FILTERS: Mapping[str, tuple[str, ...]] = {
    "target": ("target",),
    "dataset": ("dataset", "dataset_digest"),
    "encoder": ("encoder", "encoder_digest"),
    "protocol": ("protocol", "protocol_digest"),
    "split": ("split_digest",),
}


def is_text(tag: str) -> bool:
    """Whether a tag's value is no figure, though it may look like one: a digest of decimal digits, 12e4."""
    return tag in IDENTITY or tag.endswith(DIGEST)


def selected(versions: Sequence[ProbeVersion], filters: Filters) -> tuple[ProbeVersion, ...]:
    """Return the versions that fit all filters, in their order.

    filters: by name in FILTERS; "" lets all pass. A digest may be cut to its first four digits or more.
    Raises InputError where a filter leaves nothing of what those before it left, with what there was.
    """
    left = tuple(versions)
    for name, wanted in filters.items():
        if not wanted or not left:
            continue
        kept = tuple(version for version in left if _fits(version, FILTERS[name], wanted))
        if not kept:
            there = sorted({shown(version, FILTERS[name]) for version in left})
            near = get_close_matches(wanted, [each.split(" ")[0] for each in there], n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise InputError(f"{name}={wanted}: no registered probe has it.{hint} There is: {', '.join(there)}.")
        left = kept
    return left


def ranked(versions: Sequence[ProbeVersion], metric: str) -> tuple[tuple[ProbeVersion, ...], tuple[ProbeVersion, ...]]:
    """Return the versions with the best `metric` first, and apart from them those that do not have it.

    Of equals the older one comes first. Raises InputError: no version has such a figure; the versions differ in
    dataset, split or protocol, or in the target where the figure is in its units.
    """
    figures = sorted({name for version in versions for name in version.tags if _is_number(version, name)})
    if metric not in figures:
        near = get_close_matches(metric, figures, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"sort={metric}: no such figure.{hint} There is: {', '.join(figures) or 'none'}.")
    having = [version for version in versions if _is_number(version, metric)]
    lacking = [version for version in versions if not _is_number(version, metric)]
    _require_comparable(having, metric)
    sign = -1.0 if metric.startswith(HIGHER_IS_BETTER) else 1.0
    order = sorted(having, key=lambda each: (sign * float(each.tags[metric]), each.created_ms, each.name, each.version))
    return tuple(order), tuple(lacking)


def grouped(versions: Sequence[ProbeVersion]) -> tuple[tuple[ProbeVersion, ...], ...]:
    """Put versions of the same dataset, split and protocol together; groups in the order of their names."""
    groups: dict[tuple[str, ...], list[ProbeVersion]] = {}
    for version in versions:
        key = (version.tags.get("dataset", ""), *(version.tags[tag] for tag, _, _ in CONDITIONS))
        groups.setdefault(key, []).append(version)
    return tuple(tuple(groups[key]) for key in sorted(groups))


def shown(version: ProbeVersion, tags: Sequence[str]) -> str:
    """Give the values of tags in one word or two, digests cut: "rooms 7d67d9c4"."""
    values = [(tag, version.tags[tag]) for tag in tags if version.tags.get(tag)]
    return " ".join(value[:SHOWN_DIGITS] if tag.endswith(DIGEST) else value for tag, value in values)


def _fits(version: ProbeVersion, tags: Sequence[str], wanted: str) -> bool:
    for tag in tags:
        value = version.tags.get(tag, "")
        if value == wanted or (tag.endswith(DIGEST) and len(wanted) >= 4 and value.startswith(wanted)):
            return True
    # "timm:resnet18" is registered as resnet18.
    return "encoder" in tags and version.tags.get("encoder", "").removeprefix("timm:") == wanted


def _is_number(version: ProbeVersion, name: str) -> bool:
    try:
        return not is_text(name) and math.isfinite(float(version.tags[name]))
    except (KeyError, ValueError):
        return False


def _require_comparable(versions: Sequence[ProbeVersion], metric: str) -> None:
    conditions: list[tuple[str, str, Callable[[ProbeVersion], str]]] = [
        (tag, option, lambda version, tags=(named, tag): shown(version, tags)) for tag, option, named in CONDITIONS
    ]
    if metric in IN_TARGET_UNITS:
        conditions.append(("target", "target", lambda version: version.tags["target"]))
    told, advice = [], []
    for tag, option, words in conditions:
        found: dict[str, list[ProbeVersion]] = {}
        for version in versions:
            found.setdefault(version.tags[tag], []).append(version)
        if len(found) > 1:
            told.append(f"{option} ({', '.join(sorted(words(alike[0]) for alike in found.values()))})")
            largest = max(found.values(), key=len)[0].tags[tag]
            advice.append(f"--{option} {largest[:SHOWN_DIGITS] if tag.endswith('_digest') else largest}")
    if told:
        raise InputError(
            f"sort={metric}: figures are not ranked over a different {' and '.join(told)}. "
            f"Choose one, as with {' '.join(advice)}."
        )
