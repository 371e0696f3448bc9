"""Which machine a worker runs on, and whether it still does."""

from pathlib import Path

import pytest

from idl.sweep import workers
from idl.sweep.workers import is_elsewhere, is_gone, this_worker

ELSEWHERE = "other/pid:[4026531836]@0b5ca9b1:17:4242"


def test_a_machine_is_known_by_when_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers on two machines may have one name, one image and namespaces of one number."""
    here = this_worker()
    host, pid, start = here.rsplit(":", 2)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot in host
    other = here.replace(boot, "0b5ca9b1-0d3c-4b43-9d0b-6f3a4c1f2e55").replace(f":{start}", ":1")
    assert (is_elsewhere(here), is_gone(here)) == (False, False)
    assert (is_elsewhere(other), is_gone(other)) == (True, False)
    # A file's machine was started anew.
    assert is_gone(other, is_local=True)
    assert not is_gone(ELSEWHERE, is_local=True)
    # As earlier versions named workers.
    old = host.replace(f"@{boot}", "")
    assert not is_gone(f"{old}:{pid}:{start}")
    assert is_gone(f"{old}:{pid}:1")
    monkeypatch.setattr(workers, "_host", lambda: host.replace("pid:[", "pid:[1"))
    assert (is_elsewhere(here), is_gone(here)) == (True, False)
