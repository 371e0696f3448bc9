"""Layouts of RGB-D data: which picture belongs to which depth map. A new one is an entry of `LAYOUTS`.

Most are rules: regular expressions for the paths of pictures and of depth maps, without suffix and whatever the case. A
pair is a picture and a depth map whose groups of equal names are equal. The groups of the picture, one behind the
other, are its name, and those but `stem...` and `view...` its folder, which is a scene.
"""

import re
import shlex
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from posixpath import splitext

from idl.data.arrays import ARRAY_FORMATS
from idl.data.files import walk
from idl.data.images import MAP_SUFFIXES, PICTURE_SUFFIXES, read_map
from idl.errors import InputError

# Seconds between a picture and its depth in TUM's lists, as its own tools have it.
_MOST_SECONDS = 0.02
_FOLDERS_OF_RGB = re.compile("rgb|colou?r", re.IGNORECASE)
_NO_FOLDER = ("stem", "view")
_ABOVE = r"(?P<above>(?:.*/)?)"
_STEM = r"(?P<stem>[^/]+)"


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
    """The pairs of a folder, in order. alone: paths of pictures without depth. unread: of depth that is not read."""

    pairs: tuple[Pair, ...]
    alone: tuple[str, ...] = ()
    unread: str = ""


@dataclass(frozen=True)
class Rule:
    """Regular expressions, as above.

    suffixes: of the pictures, and of the depth maps, where not all of them. has_others: NAME_ANYTHING.png beside a
    picture NAME.png is another map of the same image, not an image without depth.
    """

    rgb: str
    depth: str
    mask: str = ""
    suffixes: tuple[tuple[str, ...], tuple[str, ...]] = (PICTURE_SUFFIXES, MAP_SUFFIXES)
    has_others: bool = False


@dataclass(frozen=True)
class Files:
    """The files of a folder. paths: from `root` on, in order."""

    root: Path
    paths: tuple[str, ...]

    @cached_property
    def pictures(self) -> tuple[str, ...]:
        """Those with the suffix of a picture."""
        return tuple(path for path in self.paths if _suffix(path) in PICTURE_SUFFIXES)

    def matched(self, expression: str, suffixes: Sequence[str] = ()) -> list[tuple[str, re.Match[str]]]:
        """Return each path, and its match, that an expression fits, of some suffixes, or of any."""
        if not expression:
            return []
        # A name may hold a line break.
        compiled = re.compile(expression, re.IGNORECASE | re.DOTALL)
        found = ((path, compiled.fullmatch(_stem(path))) for path in self.paths)
        return [(path, match) for path, match in found if match and (not suffixes or _suffix(path) in suffixes)]


def _suffix(path: str) -> str:
    return splitext(path)[1].lower()


def _stem(path: str) -> str:
    return splitext(path)[0]


def _by_rules(rules: Sequence[Rule], files: Files) -> Listing:
    """Return the pairs of the rules together. A picture that one rule has put into a pair is no longer another's."""
    pairs: dict[str, Pair] = {}
    alone: list[str] = []
    unread = ""
    for rule in rules:
        depths, masks = _Maps(files, rule, rule.depth, rule.suffixes[1]), _Maps(files, rule, rule.mask, MAP_SUFFIXES)
        before, lacking = len(pairs), []
        for path, match in files.matched(rule.rgb, rule.suffixes[0]):
            if path in pairs:
                continue
            depth, mask = depths.of(match), masks.of(match)
            if depth is None:
                if path not in depths.all and path not in masks.all:
                    lacking.append(path)
                    unread = unread or depths.unread(match)
                continue
            parts = {name: text.strip("/") for name, text in match.groupdict(default="").items()}
            name = "/".join(filter(None, parts.values()))
            folder = "/".join(text for key, text in parts.items() if text and not key.startswith(_NO_FOLDER))
            mask_path = None if mask is None else files.root / mask
            pairs[path] = Pair(name, folder, files.root / path, files.root / depth, mask_path)
        if len(pairs) > before:
            paired = {_stem(path) for path in pairs} if rule.has_others else set[str]()
            alone += [path for path in lacking if not any(_stem(path)[:end] in paired for end in _cuts(path))]
    order = {path: number for number, path in enumerate(files.paths)}
    alone = [path for path in dict.fromkeys(alone) if path not in pairs]
    return Listing(tuple(pairs[path] for path in sorted(pairs, key=order.__getitem__)), tuple(alone), unread)


def _cuts(path: str) -> list[int]:
    return [match.start() for match in re.finditer(r"[_.-]", _stem(path))]


class _Maps:
    """The depth maps, or the masks, of one rule, by the groups that they share with pictures."""

    def __init__(self, files: Files, rule: Rule, expression: str, suffixes: Sequence[str]) -> None:
        matches = files.matched(expression)
        self._shared = re.compile(rule.rgb).groupindex.keys() & re.compile(expression).groupindex.keys()
        self._found: dict[tuple[str, ...], list[tuple[str, re.Match[str]]]] = {}
        self._suffixes, self._root = suffixes, files.root
        for path, match in matches:
            self._found.setdefault(self._key(match), []).append((path, match))
        self.all = {path for path, _ in matches}

    def _key(self, match: re.Match[str]) -> tuple[str, ...]:
        return tuple((match[name] or "").lower() for name in sorted(self._shared))

    def of(self, picture: re.Match[str]) -> str | None:
        """Return the map of a picture. Raises InputError, naming both, where two could be it."""
        found = self._found.get(self._key(picture), ())
        found = [(path, match) for path, match in found if _suffix(path) in self._suffixes]
        exact = [path for path, match in found if all(match[name] == picture[name] for name in self._shared)]
        paths = exact or [path for path, _ in found]
        # A picture beside an array of the same name is most often there to be looked at.
        paths = [path for path in paths if _suffix(path) in ARRAY_FORMATS] or paths
        if len(paths) > 1:
            raise InputError(f"{self._root / paths[0]}: {Path(paths[1]).name} is beside it, too. Keep one of them.")
        return paths[0] if paths else None

    def unread(self, picture: re.Match[str]) -> str:
        """Return a map of a picture in a format that is not read, "" where there is none."""
        found = self._found.get(self._key(picture), ())
        return next((path for path, _ in found if _suffix(path) not in self._suffixes), "")


def _rules(*rules: Rule) -> Callable[[Files], Listing]:
    # No lambda: a reader goes to the processes that prepare it.
    return partial(_by_rules, rules)


def _tum(files: Files) -> Listing:
    """Pair each folder's rgb.txt and depth.txt, "seconds path" a line, nearest first, each file once."""
    by_name = {path.lower(): path for path in files.paths}
    pairs, alone = [], []
    for lowered, path in by_name.items():
        folder, name = path[: -len("rgb.txt")], lowered.rsplit("/", 1)[-1]
        depth_list = by_name.get(f"{folder.lower()}depth.txt")
        if name != "rgb.txt" or depth_list is None:
            continue
        pictures, depths = (_stamped(files.root / each) for each in (path, depth_list))
        stamps = [seconds for seconds, _ in depths]
        near = []
        for number, (seconds, _) in enumerate(pictures):
            for other in range(bisect_left(stamps, seconds - _MOST_SECONDS), len(stamps)):
                if stamps[other] > seconds + _MOST_SECONDS:
                    break
                near.append((abs(stamps[other] - seconds), number, other))
        partner: dict[int, int] = {}
        taken: set[int] = set()
        for _, number, other in sorted(near):
            if number not in partner and other not in taken:
                partner[number] = other
                taken.add(other)
        for number, (_, name) in enumerate(pictures):
            if number not in partner:
                alone.append(f"{folder}{name}")
                continue
            rgb, depth = (files.root / folder / each for each in (name, depths[partner[number]][1]))
            _require_files(files.root / path, rgb, depth)
            pairs.append(Pair(f"{folder}{rgb.stem}", folder.rstrip("/"), rgb, depth))
    return Listing(tuple(pairs), tuple(alone))


def _stamped(path: Path) -> list[tuple[float, str]]:
    """Return (seconds, path) of each line, in order of time; none where the file is another kind of list."""
    try:
        return sorted((float(seconds), name) for _, (seconds, name, *_) in _lines(path))
    except ValueError:
        return []


def _nyu_lists(files: Files) -> Listing:
    """Pair what nyu_train.txt and nyu_test.txt list; their names are the sides where they share no scene."""
    found = {
        side: _listed(files.root / path, *_nyu_bases((files.root / path).parent, side), side=side)
        for path in files.paths
        for side in ("train", "test")
        if re.fullmatch(rf"(?:.*/)?nyu(?:_?depth_?v2)?_{side}(?:_files_with_gt)?\.txt", path, re.IGNORECASE)
    }
    scenes = [{pair.folder for pair in listing.pairs} for listing in found.values()]
    are_sides = len(scenes) == 2 and scenes[0].isdisjoint(scenes[1])
    pairs = [pair for listing in found.values() for pair in listing.pairs]
    pairs = pairs if are_sides else [replace(pair, side="") for pair in pairs]
    return Listing(tuple(pairs), tuple(path for listing in found.values() for path in listing.alone))


def _nyu_bases(folder: Path, side: str) -> list[Path]:
    return [folder, *(folder / each for each in ("sync", side, f"official_splits/{side}"))]


def _listed(path: Path, *folders: Path, side: str = "") -> Listing:
    """Return the pairs of a list, "rgb depth [scene]" a line. folders: that its paths begin in."""
    pairs, alone = [], []
    for number, (rgb, *rest) in _lines(path):
        if not rest:
            raise InputError(f"{path}, line {number}: one path, expected rgb depth [scene].")
        if rest[0] == "None":
            alone.append(rgb)
            continue
        rgb_path, depth_path = (_resolved(each, folders) for each in (rgb, rest[0]))
        _require_files(f"{path}, line {number}", rgb_path, depth_path)
        parts = [part for part in PurePosixPath(rgb).with_suffix("").parts if part not in ("/", "..", ".")]
        parts = [part for part in parts[:-1] if not _FOLDERS_OF_RGB.fullmatch(part)] + parts[-1:]
        # NYU's lists have the focal length in the place of a scene.
        is_scene = len(rest) > 1 and not re.fullmatch(r"\d+\.\d+", rest[1])
        pairs.append(
            Pair("/".join(parts), rest[1] if is_scene else "/".join(parts[:-1]), rgb_path, depth_path, side=side)
        )
    return Listing(tuple(pairs), tuple(alone))


def _resolved(name: str, folders: Sequence[Path]) -> Path:
    """Return where a listed file is: below the first folder that has it, or as it is written."""
    places = [Path(folder, name.lstrip("/")) for folder in folders] + [Path(name)]
    return next((place for place in places if place.is_file()), places[0])


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return number and words of each line that says something."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list ({error}).") from error
    return [(number, _words(line)) for number, line in enumerate(lines, 1) if line.strip() and line.strip()[0] != "#"]


def _words(line: str) -> list[str]:
    if "\t" in line:
        return [word.strip() for word in line.split("\t")]
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _require_files(where: object, *paths: Path) -> None:
    for path in paths:
        if not path.is_file():
            raise InputError(f"{where}: no such file: {path}. Correct the list, or take the line out.")


def _gray_beside(files: Files) -> Listing:
    """Pair NAME.jpg and NAME.png, where the .png have one channel."""
    rule = Rule(rf"{_ABOVE}{_STEM}", rf"{_ABOVE}{_STEM}", suffixes=((".jpg", ".jpeg"), (".png",)))
    listing = _by_rules([rule], files)
    try:
        _ = [read_map(pair.depth) for pair in listing.pairs[:1]]
    except InputError:
        return Listing(())
    return listing


@dataclass(frozen=True)
class Layout:
    """A way to lay out RGB-D pairs.

    summary: where pictures and depth are. find: returns the pairs of a folder, none where it is laid out otherwise.
    depth_scale: units per metre of integers, where none is given. is_sparse: most pictures may lack depth.
    """

    summary: str
    find: Callable[[Files], Listing] = field(repr=False)
    depth_scale: float = 1000.0
    is_sparse: bool = False


def _folders(name: str) -> Rule:
    rgb, depth, mask = (rf"{_ABOVE}{kind}/(?P<below>(?:.*/)?){_STEM}" for kind in (name, "depth", "mask"))
    return Rule(rgb, depth, mask)


# In the order in which they are tried.
LAYOUTS: Mapping[str, Layout] = {
    "tum": Layout("rgb.txt and depth.txt, nearest within 0.02 s", _tum, 5000.0, is_sparse=True),
    "nyu-lists": Layout("nyu_train.txt and nyu_test.txt", _nyu_lists),
    "plain": Layout(
        "rgb/NAME.png with depth/NAME.png, or NAME.png with NAME_depth.png",
        _rules(
            _folders("rgb"),
            Rule(rf"{_ABOVE}{_STEM}", rf"{_ABOVE}{_STEM}_depth", rf"{_ABOVE}{_STEM}_mask", has_others=True),
        ),
    ),
    "scannet": Layout(
        "color/NAME.jpg with depth/NAME.png, as of ScanNet and Open3D", _rules(_folders("(?:colou?r|images?)"))
    ),
    "7-scenes": Layout(
        "seq-01/NAME.color.png with NAME.depth.png",
        _rules(Rule(rf"{_ABOVE}{_STEM}\.color", rf"{_ABOVE}{_STEM}\.depth")),
    ),
    "kitti": Layout(
        "DRIVE/image_02/data/NAME.png with DRIVE/proj_depth/groundtruth/image_02/NAME.png",
        _rules(
            Rule(
                rf"(?:.*/)?(?P<drive>[^/]+_sync)/(?P<view>image_0\d)/data/{_STEM}",
                rf"(?:.*/)?(?P<drive>[^/]+_sync)/proj_depth/groundtruth/(?P<view>image_0\d)/{_STEM}",
            ),
            Rule(
                r"(?:.*/)?image/(?P<drive>[^/]+_sync)_image_(?P<stem>\d+)_(?P<view>image_0\d)",
                r"(?:.*/)?groundtruth_depth/(?P<drive>[^/]+_sync)_groundtruth_depth_(?P<stem>\d+)_(?P<view>image_0\d)",
            ),
        ),
        256.0,
        is_sparse=True,
    ),
    "hypersim": Layout(
        "images/CAMERA_final_preview/NAME.tonemap.jpg with CAMERA_geometry_hdf5/NAME.depth_meters.hdf5: distance to "
        "the camera's centre, turned into depth along its axis",
        _rules(
            Rule(
                rf"{_ABOVE}images/(?P<view>[^/]+)_final_preview/(?P<stem>[^/]+)\.(?:tonemap|color)",
                rf"{_ABOVE}images/(?P<view>[^/]+)_geometry_hdf5/(?P<stem>[^/]+)\.depth_meters",
            )
        ),
    ),
    "vkitti": Layout(
        "rgb/CAMERA/rgb_N.jpg with depth/CAMERA/depth_N.png",
        _rules(Rule(rf"{_ABOVE}rgb/(?P<view>(?:.*/)?)rgb_{_STEM}", rf"{_ABOVE}depth/(?P<view>(?:.*/)?)depth_{_STEM}")),
        100.0,
    ),
    "replica": Layout(
        "frameN.jpg with depthN.png",
        _rules(Rule(rf"{_ABOVE}frame(?P<stem>\d+)", rf"{_ABOVE}depth(?P<stem>\d+)")),
        6553.5,
    ),
    "nyu-sync": Layout(
        "SCENE/rgb_N.jpg with sync_depth_N.png", _rules(Rule(rf"{_ABOVE}rgb_{_STEM}", rf"{_ABOVE}sync_depth_{_STEM}"))
    ),
    "colors": Layout(
        "NAME_colors.png (or _rgb, _color) with NAME_depth.png",
        _rules(Rule(rf"{_ABOVE}{_STEM}_(?:colors?|rgb|image)", rf"{_ABOVE}{_STEM}_depth")),
    ),
    "beside": Layout("NAME.jpg with NAME.png", _gray_beside),
}
# Of what is no entry of the table, because it is told.
_TOLD = Layout("as told", partial(_by_rules, ()))


def recognise(
    root: Path, name: str = "auto", pairs: str = "", patterns: tuple[str, str] = ("", "")
) -> tuple[str, Layout, Listing]:
    """Return the layout of a folder, by name, and its pairs.

    name: of a layout, or "auto": the first that has pairs. pairs: a file, which lists them. patterns: of the pictures
    and of their depth maps, whose stars stand for the same.
    Raises InputError where there are none, two pictures or two maps have one name, or most pictures lack their depth.
    """
    files = Files(root, () if pairs else tuple(walk(root)))
    if pairs:
        path = Path(pairs).expanduser()
        path = path if path.is_file() or not (root / pairs).is_file() else root / pairs
        name, layout, listing = "pairs", _TOLD, _listed(path, path.parent, root)
    elif any(patterns):
        name, layout, listing = "patterns", _TOLD, _by_rules([_pattern_rule(*patterns)], files)
    elif name in ("auto", *LAYOUTS):
        candidates, unread = LAYOUTS if name == "auto" else {name: LAYOUTS[name]}, ""
        for found, layout in candidates.items():
            listing = layout.find(files)
            unread = unread or listing.unread
            if listing.pairs:
                name = found
                break
        else:
            layout, listing = LAYOUTS.get(name, LAYOUTS["plain"]), Listing((), unread=unread)
    else:
        raise InputError(f"layout={name}: no such layout. Pass auto, or one of {', '.join(LAYOUTS)}.")
    _require(files, layout, listing, is_auto=name == "auto")
    return name, layout, _unlinked(listing)


def _pattern_rule(rgb: str, depth: str) -> Rule:
    counts = {len(re.findall(r"\*\*/|\*", pattern.removesuffix(".*"))) for pattern in (rgb, depth)}
    if len(counts) > 1 or 0 in counts:
        raise InputError(
            f"rgb_pattern={rgb}, depth_pattern={depth}: expected both, with as many stars, such as "
            "'left/*.jpg' and 'depth/*_d.png'."
        )
    expressions, suffixes, names = [], [], list[str]()
    for pattern, known in ((rgb, PICTURE_SUFFIXES), (depth, MAP_SUFFIXES)):
        stem, suffix = splitext(pattern)
        suffixes.append((suffix.lower(),) if suffix.lower() in known else known)
        literals = re.split(r"\*\*/|\*", stem if suffix == ".*" or suffix.lower() in known else pattern)
        stars = re.findall(r"\*\*/|\*", pattern)[: len(literals) - 1]
        # Of the picture's path: what a star stands for before its last part is a folder of a scene.
        is_folder = ["/" in "".join(literals[number + 1 :]) or star == "**/" for number, star in enumerate(stars)]
        names = names or [f"{'above' if above else 'stem'}{number}" for number, above in enumerate(is_folder)]
        groups = [
            f"(?P<{name}>{'(?:.*/)?' if star == '**/' else '[^/]*'})" for name, star in zip(names, stars, strict=True)
        ]
        expressions.append(
            "".join(f"{re.escape(one)}{other}" for one, other in zip(literals, [*groups, ""], strict=True))
        )
    return Rule(expressions[0], expressions[1], suffixes=(suffixes[0], suffixes[1]))


def _unlinked(listing: Listing) -> Listing:
    """Return the pairs without those whose picture is one of another's through a link."""
    by_file: dict[tuple[int, int], list[Pair]] = {}
    for pair in listing.pairs:
        status = pair.rgb.stat()
        by_file.setdefault((status.st_dev, status.st_ino), []).append(pair)
    left_out: set[Pair] = set()
    for same in by_file.values():
        if len(same) > 1:
            # The one that is no link is kept; a hard link is a file of its own.
            same.sort(key=lambda pair: pair.rgb.resolve() != pair.rgb.absolute())
            seen = set[Path]()
            left_out |= {pair for pair in same if (real := pair.rgb.resolve()) in seen or seen.add(real)}
    return replace(listing, pairs=tuple(pair for pair in listing.pairs if pair not in left_out))


def _require(files: Files, layout: Layout, listing: Listing, *, is_auto: bool) -> None:
    root, pictures = files.root, files.pictures
    if listing.unread and len(listing.alone) >= len(listing.pairs):
        raise InputError(
            f"{root / listing.unread}: depth in a format that is not read. Convert it to one of "
            f"{', '.join(MAP_SUFFIXES)}."
        )
    if not listing.pairs:
        expected = f"{LAYOUTS['plain'].summary}, or another layout" if is_auto else layout.summary
        have = f" among {len(pictures)} pictures ({pictures[0]}, ...)" if pictures else ""
        raise InputError(
            f"{root}: no RGB-D pairs{have}. Expected {expected}; or list them: pairs=FILE, 'rgb depth' a line."
        )
    if len(listing.alone) > len(listing.pairs) and not layout.is_sparse:
        raise InputError(
            f"{root / listing.alone[0]}: no depth beside it, as for {len(listing.alone)} of "
            f"{len(listing.alone) + len(listing.pairs)} images. Expected {layout.summary}."
        )
    seen: dict[str, Pair] = {}
    for pair in listing.pairs:
        other = seen.setdefault(pair.name, pair)
        if other is not pair:
            raise InputError(f"{other.rgb}: {pair.rgb} is an image of the same name. Keep one of them.")
