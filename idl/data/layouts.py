"""Layouts of RGB-D data: which picture belongs to which depth map. A new one is an entry of `LAYOUTS`.

Most are rules: regular expressions for the paths of pictures and of depth maps, without suffix and whatever the case. A
pair is a picture and a depth map whose groups of equal names are equal. The groups of the picture, one behind the
other, are its name, and those but `stem...` and `view...` its folder, which is a scene.
"""

import csv
import os
import re
import shlex
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path, PurePosixPath
from posixpath import splitext
from unicodedata import normalize

from idl.data.images import MAP_SUFFIXES, PICTURE_SUFFIXES, read_map
from idl.data.reader import walk
from idl.data.units import ARRAY_FORMATS
from idl.errors import InputError

# Seconds between a picture and its depth in TUM's lists, as its own tools have it.
_MOST_SECONDS = 0.02


@dataclass(frozen=True)
class Pair:
    """Files of one image. folder: the part of its path that names a scene, "" for none. side: as in `Sample`."""

    name: str
    folder: str
    rgb: Path
    depth: Path
    mask: Path | None = None
    side: str = ""


@dataclass(frozen=True)
class Listing:
    """The pairs of a folder, in order. alone: paths of pictures without depth. unread: of depth that is not read.

    others: a sentence on folders beside these that are laid out in another way.
    """

    pairs: Sequence[Pair] = ()
    alone: Sequence[str] = ()
    unread: str = ""
    others: str = ""


@dataclass(frozen=True)
class Rule:
    """Regular expressions, as above, in which {above} is any folders, and {stem} a name.

    rgb_suffixes, depth_suffixes: which pictures and depth maps are meant. has_others: NAME_ANYTHING.png beside a
    picture NAME.png is another map of the same image, not an image without depth.
    """

    rgb: str
    depth: str
    mask: str = ""
    rgb_suffixes: Sequence[str] = PICTURE_SUFFIXES
    depth_suffixes: Sequence[str] = MAP_SUFFIXES
    has_others: bool = False


def _suffix(path: str) -> str:
    return splitext(path)[1].lower()


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    for name, group in (("{above}", "(?P<above>(?:.*/)?)"), ("{stem}", "(?P<stem>[^/]+)")):
        expression = expression.replace(name, group)
    # A name may hold a line break.
    return re.compile(expression, re.IGNORECASE | re.DOTALL)


def _matched(paths: Sequence[str], expression: str) -> list[tuple[str, re.Match[str]]]:
    found = ((path, _compiled(expression).fullmatch(splitext(path)[0])) for path in paths)
    return [(path, match) for path, match in found if match]


def _by_rules(rules: Sequence[Rule], root: Path, paths: Sequence[str]) -> Listing:
    """Return the pairs of the rules together. A picture that one rule has put into a pair is no longer another's."""
    pairs: dict[str, Pair] = {}
    alone: list[str] = []
    unread = ""
    for rule in rules:
        depths, masks = (_Maps(root, paths, rule.rgb, expression) for expression in (rule.depth, rule.mask))
        before, lacking = len(pairs), []
        for path, match in _matched(paths, rule.rgb):
            if path in pairs or _suffix(path) not in rule.rgb_suffixes:
                continue
            depth, mask = depths.of(match, rule.depth_suffixes), masks.of(match, MAP_SUFFIXES)
            if depth:
                parts = {name: text.strip("/") for name, text in match.groupdict("").items() if text.strip("/")}
                folder = [text for name, text in parts.items() if not name.startswith(("stem", "view"))]
                pairs[path] = Pair("/".join(parts.values()), "/".join(folder), root / path, depth, mask)
            elif path not in depths.paths and path not in masks.paths:
                lacking.append(path)
                unread = unread or next(iter(depths.named(match)), "")
        if len(pairs) > before:
            paired = {splitext(path)[0] for path in pairs} if rule.has_others else set[str]()
            alone += [path for path in lacking if paired.isdisjoint(_beginnings(path))]
    in_order = [pairs[path] for path in paths if path in pairs]
    # A depth map is a picture too, which another rule may take for one without depth.
    used = {file for pair in in_order for file in (pair.rgb, pair.depth, pair.mask)}
    return Listing(in_order, [path for path in dict.fromkeys(alone) if root / path not in used], unread)


def _beginnings(path: str) -> list[str]:
    return [path[: match.start()] for match in re.finditer(r"[_.-]", splitext(path)[0])]


class _Maps:
    """The depth maps, or the masks, of a rule, by the groups that they share with its pictures.

    paths: of all that the expression matches, whatever the suffix.
    """

    def __init__(self, root: Path, paths: Sequence[str], rgb: str, expression: str) -> None:
        self._root, self._by_key = root, defaultdict[tuple[object, ...], list[str]](list)
        self._shared = sorted(_compiled(rgb).groupindex.keys() & _compiled(expression).groupindex.keys())
        for path, match in _matched(paths, expression):
            for key in self._keys(match):
                self._by_key[key].append(path)
        self.paths = set(chain(*self._by_key.values()))

    def _keys(self, match: re.Match[str]) -> tuple[tuple[object, ...], tuple[object, ...]]:
        """Return the shared groups, as they are, and whatever the case and the way that accents are written."""
        groups = [match[name] or "" for name in self._shared]
        return (True, *groups), (False, *(normalize("NFC", group).lower() for group in groups))

    def named(self, picture: re.Match[str]) -> Sequence[str]:
        """Return the maps of a picture's name, of any suffix; of another case only where there is none of its own."""
        exact, lowered = self._keys(picture)
        return self._by_key.get(exact) or self._by_key.get(lowered, ())

    def of(self, picture: re.Match[str], suffixes: Sequence[str]) -> Path | None:
        """Return the map of a picture. Raises InputError, naming both, where two could be it."""
        found = [path for path in self.named(picture) if _suffix(path) in suffixes]
        # A picture beside an array of the same name is most often there to be looked at.
        found = [path for path in found if _suffix(path) in ARRAY_FORMATS] or found
        if len(found) > 1:
            raise InputError(f"{self._root / found[0]}: {Path(found[1]).name} is beside it, too. Keep one of them.")
        return self._root / found[0] if found else None


def _tum(root: Path, paths: Sequence[str]) -> Listing:
    """Pair each folder's rgb.txt and depth.txt, "seconds path" a line, nearest first, each file once."""
    by_name = {path.lower(): path for path in paths}
    pairs, alone = [], []
    for path in by_name.values():
        folder, name = path[: -len("rgb.txt")], path.lower().rsplit("/", 1)[-1]
        depth_list = by_name.get(f"{folder.lower()}depth.txt")
        if name != "rgb.txt" or depth_list is None:
            continue
        pictures, depths = (_stamped(root / each) for each in (path, depth_list))
        stamps = [seconds for seconds, _ in depths]
        near = [
            (abs(stamps[other] - seconds), number, other)
            for number, (seconds, _) in enumerate(pictures)
            for other in range(
                bisect_left(stamps, seconds - _MOST_SECONDS), bisect_right(stamps, seconds + _MOST_SECONDS)
            )
        ]
        partner: dict[int, int] = {}
        taken = set[int]()
        for _, number, other in sorted(near):
            if number not in partner and other not in taken:
                partner[number] = other
                taken.add(other)
        alone += [f"{folder}{name}" for number, (_, name) in enumerate(pictures) if number not in partner]
        for number, other in sorted(partner.items()):
            rgb, depth = (root / folder / name for _, name in (pictures[number], depths[other]))
            _require_files(root / path, rgb, depth)
            pairs.append(Pair(f"{folder}{rgb.stem}", folder.rstrip("/"), rgb, depth))
    return Listing(pairs, alone)


def _stamped(path: Path) -> list[tuple[float, str]]:
    """Return (seconds, path) of each line, in order of time; none where the file is another kind of list."""
    try:
        return sorted((float(seconds), name) for _, (seconds, name, *_) in _lines(path))
    except ValueError:
        return []


def _nyu_lists(root: Path, paths: Sequence[str]) -> Listing:
    """Pair what nyu_train.txt and nyu_test.txt list; their names are the sides where they share no scene."""
    found: dict[str, Listing] = {}
    for path in paths:
        match = re.fullmatch(r"(?:.*/)?nyu(?:_?depth_?v2)?_(train|test)(?:_files_with_gt)?\.txt", path, re.IGNORECASE)
        if match:
            folder, side = (root / path).parent, match[1].lower()
            bases = [folder, *(folder / each for each in ("sync", side, f"official_splits/{side}"))]
            found[side] = _listed(root / path, *bases)
    scenes = [{pair.folder for pair in listing.pairs} for listing in found.values()]
    are_sides = len(scenes) == 2 and scenes[0].isdisjoint(scenes[1])
    pairs = [replace(pair, side=side if are_sides else "") for side, each in found.items() for pair in each.pairs]
    return Listing(pairs, [path for listing in found.values() for path in listing.alone])


def _listed(path: Path, *folders: Path) -> Listing:
    """Return the pairs of a list, "rgb depth [scene]" a line. folders: that its paths begin in."""
    pairs, alone = [], []
    for number, (rgb, *rest) in _lines(path):
        if not rest:
            raise InputError(f"{path}, line {number}: one path, expected rgb depth [scene].")
        if rest[0] == "None":
            alone.append(rgb)
            continue
        files = []
        for name in (rgb, rest[0]):
            # Windows writes its own strokes.
            spellings = dict.fromkeys((name, name.replace("\\", "/")))
            places = [Path(folder, each.lstrip("/")) for each in spellings for folder in folders]
            places += map(Path, spellings)
            files.append(next((place for place in places if place.is_file()), places[0]))
        _require_files(f"{path}, line {number}", *files)
        *above, stem = (
            part for part in PurePosixPath(rgb.replace("\\", "/")).with_suffix("").parts if part not in ("/", "..", ".")
        )
        above = [part for part in above if not re.fullmatch("rgb|colou?r", part, re.IGNORECASE)]
        # NYU's lists have the focal length in the place of a scene.
        is_scene = len(rest) > 1 and not re.fullmatch(r"\d+\.\d+", rest[1])
        pairs.append(Pair("/".join((*above, stem)), rest[1] if is_scene else "/".join(above), *files))
    return Listing(pairs, alone)


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return number and words of each line that says something: tabs are between words, commas in .csv, else spaces."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list ({error}). Save it as text in UTF-8.") from error
    comma = "," if path.suffix.lower() == ".csv" else ""
    return [(number, _words(line, comma)) for number, line in enumerate(lines, 1) if not re.match(r"\s*(#|$)", line)]


def _words(line: str, comma: str) -> list[str]:
    if between := "\t" if "\t" in line else comma:
        return [word.strip() for word in next(csv.reader([line], delimiter=between))]
    words = shlex.shlex(line, posix=True, punctuation_chars=False)
    words.whitespace_split, words.commenters, words.escape = True, "", ""
    try:
        return list(words)
    except ValueError:
        return line.split()


def _require_files(where: object, *paths: Path) -> None:
    for path in paths:
        if not path.is_file():
            raise InputError(f"{where}: no such file: {path}. Correct the list, or take the line out.")


def _require_text(*paths: Path) -> None:
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            name = os.fsencode(path).decode(errors="backslashreplace")
            raise InputError(f"{name}: the name is no text in UTF-8. Rename it.") from None


def _gray_beside(root: Path, paths: Sequence[str]) -> Listing:
    """Pair NAME.jpg and NAME.png, where the .png have one channel."""
    listing = _by_rules([Rule("{above}{stem}", "{above}{stem}", "", (".jpg", ".jpeg"), (".png",))], root, paths)
    try:
        _ = [read_map(pair.depth) for pair in listing.pairs[:1]]
    except InputError:
        return Listing()
    return listing


@dataclass(frozen=True)
class Layout:
    """A way to lay out RGB-D pairs.

    summary: where pictures and depth are. find: returns the pairs of a folder, of which the paths of all files are
    given; none where it is laid out otherwise. depth_scale: units per metre of integers, where none is given.
    is_sparse: most pictures may lack depth.
    """

    summary: str
    find: Callable[[Path, Sequence[str]], Listing] = field(repr=False)
    depth_scale: float = 1000.0
    is_sparse: bool = False


def _ruled(summary: str, *rules: Rule, depth_scale: float = 1000.0, is_sparse: bool = False) -> Layout:
    # No lambda: a reader goes to the processes that prepare it.
    return Layout(summary, partial(_by_rules, rules), depth_scale, is_sparse)


def _folders(name: str) -> Rule:
    rgb, depth, mask = (
        f"{{above}}{kind}/(?P<below>(?:.*/)?){{stem}}" for kind in (name, "depth(?:s|_?maps?)?", "masks?")
    )
    return Rule(rgb, depth, mask)


# In the order in which they are tried.
LAYOUTS: Mapping[str, Layout] = {
    "tum": Layout("rgb.txt and depth.txt, nearest within 0.02 s", _tum, 5000.0, is_sparse=True),
    "nyu-lists": Layout("nyu_train.txt and nyu_test.txt", _nyu_lists),
    "plain": _ruled(
        "rgb/NAME.png with depth/NAME.png, or NAME.png with NAME_depth.png",
        _folders("rgb"),
        Rule("{above}{stem}", "{above}{stem}[_-]depth", "{above}{stem}[_-]mask", has_others=True),
    ),
    "scannet": _ruled("color/NAME.jpg with depth/NAME.png, as of ScanNet and Open3D", _folders("(?:colou?r|images?)")),
    "7-scenes": _ruled(
        "seq-01/NAME.color.png with NAME.depth.png", Rule(r"{above}{stem}\.color", r"{above}{stem}\.depth")
    ),
    "kitti": _ruled(
        "DRIVE/image_02/data/NAME.png with DRIVE/proj_depth/groundtruth/image_02/NAME.png",
        Rule(
            r"(?:.*/)?(?P<drive>[^/]+_sync)/(?P<view>image_0\d)/data/{stem}",
            r"(?:.*/)?(?P<drive>[^/]+_sync)/proj_depth/groundtruth/(?P<view>image_0\d)/{stem}",
        ),
        Rule(
            r"(?:.*/)?image/(?P<drive>[^/]+_sync)_image_(?P<stem>\d+)_(?P<view>image_0\d)",
            r"(?:.*/)?groundtruth_depth/(?P<drive>[^/]+_sync)_groundtruth_depth_(?P<stem>\d+)_(?P<view>image_0\d)",
        ),
        depth_scale=256.0,
        is_sparse=True,
    ),
    "hypersim": _ruled(
        "images/CAMERA_final_preview/NAME.tonemap.jpg with CAMERA_geometry_hdf5/NAME.depth_meters.hdf5: distance to "
        "the camera's centre, turned into depth along its axis",
        Rule(
            r"{above}images/(?P<view>[^/]+)_final_preview/{stem}\.(?:tonemap|color)",
            r"{above}images/(?P<view>[^/]+)_geometry_hdf5/{stem}\.depth_meters",
        ),
    ),
    "vkitti": _ruled(
        "rgb/CAMERA/rgb_N.jpg with depth/CAMERA/depth_N.png",
        Rule("{above}rgb/(?P<view>(?:.*/)?)rgb_{stem}", "{above}depth/(?P<view>(?:.*/)?)depth_{stem}"),
        depth_scale=100.0,
    ),
    "replica": _ruled(
        "frameN.jpg with depthN.png",
        Rule(r"{above}frame(?P<stem>\d+)", r"{above}depth(?P<stem>\d+)"),
        depth_scale=6553.5,
    ),
    "nyu-sync": _ruled(
        "SCENE/rgb_N.jpg with sync_depth_N.png or depth_N.png",
        Rule("{above}rgb_{stem}", "{above}(?:sync_)?depth_{stem}"),
    ),
    "colors": _ruled(
        "NAME_colors.png (or _rgb, _color) with NAME_depth.png",
        Rule("{above}{stem}[_-](?:colors?|rgb|image)", "{above}{stem}[_-]depth"),
    ),
    "beside": Layout("NAME.jpg with NAME.png", _gray_beside),
}


def recognise(
    root: Path, name: str = "auto", pairs: str = "", patterns: tuple[str, str] = ("", "")
) -> tuple[str, Layout, Listing]:
    """Return the layout of a folder, by name, and its pairs.

    name: of a layout, or "auto": the first that has pairs. pairs: a file, which lists them. patterns: of the pictures
    and of their depth maps, whose stars stand for the same.
    Raises InputError where there are none, two pictures or two maps have one name, or most pictures lack their depth.
    """
    paths = () if pairs else tuple(walk(root))
    if pairs:
        path = Path(pairs).expanduser()
        path = path if path.is_file() or not (root / pairs).is_file() else root / pairs
        name, layout = "pairs", _ruled(f"'rgb depth [scene]' a line of {path}")
        listing = _listed(path, path.parent, root)
    elif any(patterns):
        name, layout = "patterns", _ruled(" with ".join(patterns), _pattern_rule(*patterns))
        listing = layout.find(root, paths)
    elif name not in ("auto", *LAYOUTS):
        raise InputError(f"layout={name}: no such layout. Pass auto, or one of {', '.join(LAYOUTS)}.")
    else:
        unread = ""
        for found, layout in LAYOUTS.items() if name == "auto" else ((name, LAYOUTS[name]),):
            listing = layout.find(root, paths)
            unread = unread or listing.unread
            if listing.pairs:
                others = _laid_out_otherwise(root, paths, listing, found) if name == "auto" else ""
                name, listing = found, replace(listing, others=others)
                break
        else:
            layout, listing = LAYOUTS.get(name, LAYOUTS["plain"]), Listing(unread=unread)
    _require(root, paths, layout, listing, is_auto=name == "auto")
    return name, layout, replace(listing, pairs=_unlinked(listing.pairs))


def _laid_out_otherwise(root: Path, paths: Sequence[str], listing: Listing, name: str) -> str:
    """Return a sentence on pairs of another layout in folders that hold nothing of this one; "" for none."""
    files = (file for pair in listing.pairs for file in (pair.rgb, pair.depth, pair.mask) if file)
    read = {str(file.parent) for file in files} | {str((root / path).parent) for path in listing.alone}
    rest = [path for path in paths if str((root / path).parent) not in read]
    for other, layout in LAYOUTS.items() if rest else ():
        with suppress(InputError):
            if other != name and (more := layout.find(root, rest).pairs):
                told = f"{len(more)} pairs of the layout {other} beside them were not read ({more[0].name}, ...)"
                return f"{told}. Pass layout={other} to read those."
    return ""


def _pattern_rule(rgb: str, depth: str) -> Rule:
    (rgb_parts, rgb_suffixes), (depth_parts, depth_suffixes) = (
        _pattern_parts(pattern, known) for pattern, known in ((rgb, PICTURE_SUFFIXES), (depth, MAP_SUFFIXES))
    )
    if len(rgb_parts) != len(depth_parts) or len(rgb_parts) == 1:
        raise InputError(
            f"rgb_pattern={rgb}, depth_pattern={depth}: expected both, with as many stars, such as "
            "'left/*.jpg' and 'depth/*_d.png'."
        )
    # Of the picture's path: what a star stands for before its last part is a folder of a scene.
    stars = range(1, len(rgb_parts), 2)
    names = {star: f"{'above' if '/' in ''.join(rgb_parts[star:]) else 'stem'}{star}" for star in stars}

    def expression(parts: Sequence[str]) -> str:
        groups = {star: f"(?P<{names[star]}>{'(?:.*/)?' if parts[star] == '**/' else '[^/]*'})" for star in stars}
        return "".join(groups.get(number) or re.escape(part) for number, part in enumerate(parts))

    return Rule(expression(rgb_parts), expression(depth_parts), "", rgb_suffixes, depth_suffixes)


def _pattern_parts(pattern: str, known: Sequence[str]) -> tuple[list[str], Sequence[str]]:
    """Return the parts of a pattern, every other one of them a star, and the suffixes that it means."""
    stem, suffix = splitext(pattern)
    suffixes = [suffix.lower()] if suffix.lower() in known else known
    return re.split(r"(\*\*/|\*)", stem if suffix == ".*" or suffixes is not known else pattern), suffixes


def _unlinked(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return the pairs without those whose picture is one of another's through a link; a hard link is no such."""
    by_file: dict[tuple[int, int], list[Path]] = defaultdict(list)
    for pair in pairs:
        status = pair.rgb.stat()
        by_file[status.st_dev, status.st_ino].append(pair.rgb)
    # Resolving takes twenty times as long.
    real = {rgb: rgb.resolve() for same in by_file.values() if len(same) > 1 for rgb in same}
    kept: dict[Path, Path] = {}
    for rgb in sorted(real, key=lambda rgb: real[rgb] != rgb.absolute()):
        kept.setdefault(real[rgb], rgb)
    return [pair for pair in pairs if pair.rgb not in real or kept[real[pair.rgb]] == pair.rgb]


def _require(root: Path, paths: Sequence[str], layout: Layout, listing: Listing, *, is_auto: bool) -> None:
    num_pairs, num_alone = len(listing.pairs), len(listing.alone)
    if listing.unread and num_alone >= num_pairs:
        raise InputError(
            f"{root / listing.unread}: depth in a format that is not read. Convert it to one of "
            f"{', '.join(MAP_SUFFIXES)}."
        )
    if not num_pairs:
        pictures = [path for path in paths if _suffix(path) in PICTURE_SUFFIXES]
        expected = f"{LAYOUTS['plain'].summary}, or another layout" if is_auto else layout.summary
        have = f" among {len(pictures)} pictures ({pictures[0]}, ...)" if pictures else ""
        raise InputError(
            f"{root}: no RGB-D pairs{have}. Expected {expected}; or list them: pairs=FILE, 'rgb depth' a line."
        )
    if num_alone > num_pairs and not layout.is_sparse:
        raise InputError(
            f"{root / listing.alone[0]}: no depth beside it, as for {num_alone} of {num_alone + num_pairs} images. "
            f"Expected {layout.summary}."
        )
    seen: dict[str, Pair] = {}
    for pair in listing.pairs:
        if not f"{pair.rgb}{pair.depth}".isprintable():
            _require_text(pair.rgb, pair.depth)
        other = seen.setdefault(pair.name, pair)
        if other is not pair and other.rgb == pair.rgb:
            raise InputError(f"{pair.rgb}: is listed twice. Take one of the lines out.")
        if other is not pair:
            raise InputError(f"{other.rgb}: {pair.rgb} is an image of the same name. Keep one of them.")
