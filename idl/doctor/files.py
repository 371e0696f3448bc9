"""A published file on disk: its size and, where that is asked for, its checksum."""

from pathlib import Path

from idl.data.fetching import Remote, md5_of
from idl.doctor.finding import Finding
from idl.progress import Progress


def file(path: Path, remote: Remote | None, checksums: bool, progress: Progress) -> list[Finding]:
    """Size and checksum against those published, where they are known. Leftovers of a download are said."""
    found: list[Finding] = []
    size = path.stat().st_size
    told = f"{path.name}, {size:,} bytes"
    if remote is not None and remote.size not in (None, size):
        found.append(
            Finding(
                "file", "doubt", f"{told}, published {remote.size:,}", "Cut short, or another file. Fetch it again."
            )
        )
    else:
        known = remote is not None and remote.size is not None
        found.append(Finding("file", "ok", f"{told}, as published" if known else told))
    if remote is not None and remote.md5 is not None:
        found.append(_checksum(path, remote.md5, checksums, progress))
    return found


def leftovers(folder: Path, names: list[str]) -> list[Finding]:
    """Downloads that are not whole, or were not what was published."""
    found = []
    for name in names:
        if (folder / f"{name}.part").exists():
            size = (folder / f"{name}.part").stat().st_size
            found.append(
                Finding("download", "note", f"{name}.part, {size:,} bytes so far", "Pass --download to go on with it.")
            )
        if (folder / f"{name}.damaged").exists():
            found.append(Finding("download", "note", f"{name}.damaged: its checksum differed", "It may be deleted."))
    return found


def _checksum(path: Path, md5: str, checksums: bool, progress: Progress) -> Finding:
    if not checksums:
        return Finding("checksum", "note", f"{path.name}: not taken", "Pass --checksums; it reads all of the file.")
    found = md5_of(path, progress)
    if found == md5:
        return Finding("checksum", "ok", f"{path.name}: MD5 {md5}, as published")
    return Finding(
        "checksum",
        "doubt",
        f"{path.name}: MD5 {found}, published {md5}",
        "Damaged, or another version. Fetch it again.",
    )
