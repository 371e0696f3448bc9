"""Fetching from a server that breaks off, ignores ranges, changes the file, lies about its length or is not there."""

import hashlib
import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from nyu_files import plant, write_mat, write_splits

from idl.data import download
from idl.data.download import PUBLISHED, Remote, fetch, requested
from idl.errors import InputError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
OTHER = np.random.default_rng(1).bytes(3_000_000)
QUICK = {"timeout_s": 5.0, "attempts": 3, "wait_s": 0.01}


@dataclass
class Site:
    """What the server has, how it behaves, and the ranges it was asked for ("" for none)."""

    files: dict[str, bytes] = field(default_factory=lambda: {"/a.bin": CONTENT})
    # Bytes of each answer's body after which the connection is cut; the last of them for good.
    cuts: list[int] = field(default_factory=list)
    has_ranges: bool = True
    claimed: int | None = None
    statuses: list[int] = field(default_factory=list)
    is_chunked: bool = False
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/a.bin"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            answer(found, self)

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has seen enough goes away."""

    with Server(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def answer(site: Site, handler: BaseHTTPRequestHandler) -> None:
    asked = handler.headers.get("Range", "")
    site.asked.append(asked)
    if site.statuses:
        handler.send_error(site.statuses.pop(0))
        return
    content = site.files.get(handler.path)
    if content is None:
        handler.send_error(404)
        return
    start, body = 0, content
    if asked and site.has_ranges:
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            handler.send_error(416)
            return
        body = content[start:]
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    else:
        handler.send_response(200)
    if not site.is_chunked:
        handler.send_header("Content-Length", str(len(body) if site.claimed is None else site.claimed))
    handler.end_headers()
    cut = site.cuts.pop(0) if len(site.cuts) > 1 else (site.cuts or [len(body)])[0]
    handler.wfile.write(body[:cut])


def remote(site: Site, content: bytes = CONTENT, **settings: object) -> Remote:
    known = {"size": len(content), "md5": hashlib.md5(content).hexdigest(), **settings}
    return Remote("a.bin", site.url, **known)  # pyright: ignore[reportArgumentType]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".idl-fetch.lock"}


def test_whole_files_are_fetched_once(site: Site, tmp_path: Path) -> None:
    path = fetch(remote(site), tmp_path / "new/folder", **QUICK)
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == {"a.bin"}
    fetch(remote(site), path.parent, **QUICK)
    assert site.asked == [""]


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_connection_that_breaks_goes_on_where_it_broke_or_starts_over(
    site: Site, tmp_path: Path, has_ranges: bool
) -> None:
    site.cuts, site.has_ranges = [1_000_000, 10**9], has_ranges
    assert fetch(remote(site), tmp_path, **QUICK).read_bytes() == CONTENT
    assert site.asked == ["", "bytes=1000000-"]


def test_an_interrupted_download_goes_on_in_another_process(site: Site, tmp_path: Path) -> None:
    site.cuts = [700_000, 0]
    with pytest.raises(InputError, match=r"broke off 2\.3 MB before the end, 3 attempts .* goes on from 0\.7 MB"):
        fetch(remote(site), tmp_path, **QUICK)
    assert names(tmp_path) == {"a.bin.part"}
    site.cuts = []
    assert fetch(remote(site), tmp_path, **QUICK).read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=700000-"


@pytest.mark.parametrize("other", [OTHER, OTHER[:900_000]], ids=["another", "a shorter one"])
def test_two_versions_of_a_file_are_not_taken_for_one(site: Site, tmp_path: Path, other: bytes) -> None:
    site.cuts = [1_000_000, 0]
    with pytest.raises(InputError):
        fetch(remote(site, size=None), tmp_path, **QUICK)
    site.cuts, site.files["/a.bin"] = [], other
    changed = remote(site, other, size=None)
    with pytest.raises(InputError, match=r"has the MD5 .* It is kept as .*a\.bin\.damaged"):
        fetch(changed, tmp_path, **QUICK)
    assert fetch(changed, tmp_path, **QUICK).read_bytes() == other


def test_a_disk_that_fills_up_keeps_what_it_holds(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, progress: object) -> str:
        raise OSError(28, os.strerror(28), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(download, "md5_of", full)
        with pytest.raises(InputError, match=r"no space left for a.bin. Free some; the same command goes on"):
            fetch(remote(site), tmp_path, **QUICK)
    assert fetch(remote(site), tmp_path, **QUICK).read_bytes() == CONTENT
    # Nothing is behind the end: what is there is whole.
    assert site.asked == ["", "bytes=3000000-"]


def test_a_wrong_length_is_said_before_anything_is_written(site: Site, tmp_path: Path) -> None:
    site.claimed = 2_999_999
    with pytest.raises(InputError, match="the server's file has 2999999 bytes, the published one 3000000"):
        fetch(remote(site), tmp_path, **QUICK)
    assert names(tmp_path) == set()


def test_without_a_length_the_published_size_decides(site: Site, tmp_path: Path) -> None:
    site.is_chunked = True
    assert fetch(remote(site), tmp_path / "whole", **QUICK).read_bytes() == CONTENT
    site.cuts = [1_000]
    with pytest.raises(InputError, match=r"has 1000 bytes, the published file 3000000. It is kept as"):
        fetch(remote(site), tmp_path / "cut", **QUICK)
    assert names(tmp_path / "cut") == {"a.bin.damaged"}


def test_a_file_of_the_users_is_never_replaced(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"has 4 bytes, the published file 3000000. Move it away"):
        fetch(remote(site), tmp_path, **QUICK)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"


def test_busy_servers_are_asked_again_and_missing_files_are_not(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    assert fetch(remote(site), tmp_path / "busy", **QUICK).read_bytes() == CONTENT
    site.statuses = [404, 404]
    with pytest.raises(InputError, match="answers 404 Not Found"):
        fetch(remote(site), tmp_path / "gone", **QUICK)
    assert len(site.statuses) == 1


def test_no_network_is_one_line(tmp_path: Path, site: Site) -> None:
    closed = Remote("a.bin", "http://127.0.0.1:9/a.bin", None, "")
    with pytest.raises(InputError, match=r"cannot be reached \(.*refused\), 3 attempts in a row. Check the network"):
        fetch(closed, tmp_path, **QUICK)


def test_a_silent_server_is_given_up(site: Site, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler, bind_and_activate=True) as mute:
        # Listens, and never accepts.
        url = f"http://127.0.0.1:{mute.server_address[1]}/a.bin"
        with pytest.raises(InputError, match=r"cannot be reached \(timed out\), 2 attempts"):
            fetch(Remote("a.bin", url, None, ""), tmp_path, timeout_s=0.1, attempts=2, wait_s=0.01)


def test_a_disk_too_small_is_said_before_the_first_byte(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1_000_000))
    with pytest.raises(InputError, match=r"no space left for a.bin: 3 MB are missing, 1 MB are free"):
        fetch(remote(site), tmp_path, **QUICK)
    assert names(tmp_path) == set()


def test_proxies_are_used(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{site.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    # A proxy is asked for the whole address.
    site.files = {"http://nowhere.invalid/a.bin": CONTENT}
    fetch(replace(remote(site), url="http://nowhere.invalid/a.bin"), tmp_path, **QUICK)
    assert names(tmp_path) == {"a.bin"}


def test_progress_counts_from_what_was_there(site: Site, tmp_path: Path) -> None:
    content = CONTENT * 4
    site.files["/a.bin"], site.cuts = content, [5_000_000, 0]
    with pytest.raises(InputError):
        fetch(remote(site, content), tmp_path, **QUICK)
    site.cuts = []
    shown: list[tuple[str, int, int]] = []
    counts: list[int] = []

    def counting(label: str, total: int, done: int = 0, unit: str = "img") -> nullcontext:
        shown.append((label, total, done))
        return nullcontext(counts.append)

    fetch(remote(site, content), tmp_path, counting, **QUICK)
    assert shown == [("fetch a.bin", 12, 5), ("check a.bin", 12, 0)]
    assert sum(counts) == 7 + 12


def test_what_is_wanted_by_name(tmp_path: Path) -> None:
    folder, remotes = requested("nyu", "true", str(tmp_path / "nyu_depth_v2_labeled.mat"))
    assert (folder, [each.name for each in remotes]) == (tmp_path, ["nyu_depth_v2_labeled.mat", "splits.mat"])
    assert [each.name for each in requested("diode", "true", str(tmp_path))[1]] == ["val.tar.gz", "train.tar.gz"]
    assert [each.name for each in requested("diode", "true", str(tmp_path / "val.tar.gz"))[1]] == ["val.tar.gz"]
    assert [each.name for each in requested("diode", "val, val_normals", str(tmp_path))[1]] == [
        "val.tar.gz",
        "val_normals.tar.gz",
    ]


def test_a_dataset_is_fetched_and_prepared(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mat = write_mat(tmp_path / "made/a.mat", plant(12, (480, 640), tuple(f"s_{k:04d}" for k in range(12))))
    splits = write_splits(tmp_path / "made/b.mat", range(1, 9), range(9, 13))
    local = {}
    for name, path in (("labeled", mat), ("splits", splits)):
        content = path.read_bytes()
        site.files[f"/{name}"] = content
        published_as = PUBLISHED["nyu"][name]
        url = f"http://127.0.0.1:{site.port}/{name}"
        local[name] = Remote(published_as.name, url, len(content), hashlib.md5(content).hexdigest())
    monkeypatch.setitem(download.PUBLISHED, "nyu", local)
    arguments = ("--dataset", "nyu", "--data", "raw", "--download", "True", "--workers", "1", "--device", "cpu")
    assert run("prepare", *arguments) == 0
    assert "store: " in capsys.readouterr().out
    assert names(tmp_path / "raw") == {"nyu_depth_v2_labeled.mat", "splits.mat"}
