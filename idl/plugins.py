"""What a user writes in a file of their own and names "package.module:factory": found, imported, told apart."""

import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from idl.errors import InputError

# Of installed packages the sources are not read: they are many, and their versions stand in the run.
_INSTALLED = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OURS = __name__.partition(".")[0]


def is_named(name: str) -> bool:
    """Whether `name` has the form "package.module:factory", and is meant to: its module has a dot, or is there."""
    module, colon, factory = name.partition(":")
    if not colon or not factory.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        return False
    with _current_folder_first():
        return "." in module or find_spec(module) is not None


def load(option: str, name: str) -> Callable[..., Any]:
    """Import the module of "package.module:factory", from the current folder too, and return the factory.

    option: what the user passed it as ("encoder"), for messages.
    Raises InputError where there is no such module or factory, or the module itself fails.
    """
    module_name, _, factory_name = name.partition(":")
    try:
        with _current_folder_first():
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"{option}={name}: {module_name} cannot be imported ({error}). "
            "Run where it is, or put its folder on PYTHONPATH."
        ) from error
    except Exception as error:  # whatever a user's file may do
        told = " ".join(str(error).split())[:200]
        raise InputError(f"{option}={name}: {module_name} fails ({type(error).__name__}: {told}). Mend it.") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise InputError(f"{option}={name}: {module_name} has no callable {factory_name!r}. Check the name.")
    return factory


def source_digest(module_name: str) -> str:
    """First 16 hex digits of the SHA-256 over the source of an imported module and of all that it takes from others.

    Modules of installed packages and of this one are left out. What a module reads from files is not seen.
    """
    sha = hashlib.sha256()
    for name, path in sorted(_sources(module_name, {}).items()):
        sha.update(f"{name}\n".encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def _sources(module_name: str, found: dict[str, Path]) -> dict[str, Path]:
    """Add a module's file, and those of modules that its names lead to, to `found`; return that."""
    module = sys.modules.get(module_name)
    path = Path(getattr(module, "__file__", None) or "")
    if module is None or module_name in found or module_name.partition(".")[0] == _OURS or not path.is_file():
        return found
    if any(path.is_relative_to(folder) for folder in _INSTALLED):
        return found
    found[module_name] = path
    for value in list(vars(module).values()):
        origin = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(origin, str):
            _sources(origin, found)
    return found


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Search the current folder first, as `python -m` does, and from then on last, for imports within functions."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
        sys.path.append(here)
