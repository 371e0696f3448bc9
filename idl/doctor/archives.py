"""DIODE's archives, of which the first frames are looked at: gzip cannot seek, and what is further in takes a pass."""

import tempfile
from pathlib import Path

from idl.data.diode import DiodeArchives
from idl.data.diode.layout import NEEDED, Frame, parse
from idl.data.folder import read_rgb
from idl.data.published import PUBLISHED
from idl.data.tarball import members
from idl.doctor.files import file, leftovers
from idl.doctor.finding import Diagnosis, Finding
from idl.doctor.frames import Files, of_pixels
from idl.doctor.repeats import repeated
from idl.errors import InputError
from idl.progress import Progress

# Members that are passed over at most until enough frames are whole.
_MOST_MEMBERS = 2_000
# Where all are asked for.
_MOST_FRAMES = 24


def examine_archives(dataset: DiodeArchives, sample: int, checksums: bool, progress: Progress) -> Diagnosis:
    """Look at the archives as files, and at the first frames of those without normals."""
    remotes = {remote.name: remote for remote in PUBLISHED["diode"].values()}
    found = leftovers(dataset.archives[0].parent, list(remotes))
    for archive in dataset.archives:
        found += file(archive, remotes.get(archive.name), checksums, progress)
    absent = [name for name in remotes if name not in {archive.name for archive in dataset.archives}]
    if absent:
        found.append(Finding("archives", "missing", f"not beside: {', '.join(absent)}"))
    num_read = 0
    seen: dict[Frame, Files] = {}
    with tempfile.TemporaryDirectory(prefix="idl-doctor-") as folder:
        for archive in dataset.archives:
            if archive.name.endswith("_normals.tar.gz"):
                continue
            try:
                frames = _first_frames(archive, Path(folder) / archive.name, sample or _MOST_FRAMES)
            except InputError as error:
                found.append(Finding("archive", "bad", str(error)))
                continue
            if not frames:
                found.append(Finding("archive", "bad", f"{archive}: no frames of DIODE among its first files"))
                continue
            found.append(
                Finding("archive", "note", f"{archive.name}: its first {len(frames)} frames; all are seen in `prepare`")
            )
            seen |= frames
            told, count = of_pixels(list(frames), list(frames.values()), range(len(frames)), dataset.protocol, progress)
            found += told
            num_read += count
        # Not all that there are: 81 GB take hours to unpack, which `prepare` does once.
        images, names = [files["rgb"] for files in seen.values()], [frame.name for frame in seen]
        if seen:
            scenes = [frame.scene for frame in seen]
            found += repeated(lambda index: read_rgb(images[index]), names, scenes, progress, "first frames")
    return Diagnosis("diode", dataset.source, 0, num_read, tuple(found))


def _first_frames(archive: Path, folder: Path, most: int) -> dict[Frame, Files]:
    """Save the first frames that are whole. Raises InputError where the archive is damaged there."""
    parts: dict[Frame, dict[str, Path]] = {}
    whole: dict[Frame, Files] = {}
    for number, member in enumerate(members(archive)):
        if len(whole) >= most or number >= _MOST_MEMBERS:
            break
        parsed = parse(member.name)
        if parsed is None:
            continue
        frame, part = parsed
        path = folder / frame.file(part)
        member.save(path)
        parts.setdefault(frame, {})[part] = path
        if set(NEEDED) <= set(parts[frame]):
            whole[frame] = parts[frame]
    return whole
