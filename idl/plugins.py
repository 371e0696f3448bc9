"""Code that a user names "package.module:factory": whether a name is one, its import, a digest of its sources."""

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

# The sources of installed packages are not read: they are many, and what a target takes from them rarely changes.
_INSTALLED = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def reason(error: BaseException) -> str:
    """Return what an error of somebody else's code says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def is_named(name: str) -> bool:
    """Whether `name` has the form "package.module:factory", and is meant to: its module has a dot, or is there."""
    module, _, factory = name.partition(":")
    if not factory.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
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
    except Exception as error:  # whatever a user's file may do
        advice = "Run where it is, or put its folder on PYTHONPATH" if isinstance(error, ImportError) else "Mend it"
        raise InputError(
            f"{option}={name}: {module_name} cannot be imported ({type(error).__name__}: {reason(error)}). {advice}."
        ) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise InputError(f"{option}={name}: {module_name} has no callable {factory_name!r}. Check the name.")
    return factory


def source_digest(module_name: str, *further: str) -> str:
    """First 16 hex digits of the SHA-256 over the sources of imported modules and of all that they take from others.

    Of installed packages only that of `module_name` is looked into, and this one never. What a module reads from files
    is not seen.
    """
    sources: dict[str, Path] = {}
    package, waiting = module_name.partition(".")[0], [module_name, *further]
    while waiting:
        name = waiting.pop()
        module, top = sys.modules.get(name), name.partition(".")[0]
        path = Path(getattr(module, "__file__", None) or "")
        if module is None or name in sources or top == __name__.partition(".")[0] or not path.is_file():
            continue
        if top != package and any(path.is_relative_to(folder) for folder in _INSTALLED):
            continue
        sources[name] = path
        for value in vars(module).values():
            origin = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(origin, str):
                waiting.append(origin)
    sha = hashlib.sha256()
    for name, path in sorted(sources.items()):
        sha.update(f"{name}\n".encode() + path.read_bytes())
    return sha.hexdigest()[:16]


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
