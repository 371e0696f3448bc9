"""mlflow's store and registry: whether they answer, within seconds, and what goes wrong with them, in one line."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from idl.databases import is_unequivocal, locked, reason_of, sqlite_path, without_password
from idl.errors import InputError, is_disk_full

# A user's own setting goes before each of these.
SETTINGS = {
    # With mlflow's 7 retries a dead server blocks for 4 minutes. 3 take about 15 s, and outlast a server's restart.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # libpq's, in seconds.
    "PGCONNECT_TIMEOUT": "5",
}
# For small requests. A model's upload waits for the server's own upload, and keeps mlflow's 120 s.
REQUEST_TIMEOUT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
# To see whether a server answers, or tell one a last word that is gone.
ONE_TRY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
LEVELS = {
    "mlflow": logging.WARNING,
    "alembic": logging.WARNING,
    # A traceback for each statement that fails; the error is raised all the same, and ends in a line.
    "mlflow.store.db.utils": logging.CRITICAL,
    # A line for each retry; what matters is said when the last one has failed.
    "urllib3.connectionpool": logging.ERROR,
    # "Failed to resolve installed pip version": true in any environment without pip, and harmless.
    "mlflow.utils.environment": logging.ERROR,
    # A traceback for each bound of a size that sympy cannot solve; the program's own sizes are looked at afterwards.
    "torch.fx.experimental.symbolic_shapes": logging.ERROR,
}
HARMLESS = (
    # sqlalchemy 2.1 deprecates what mlflow 3.17's table definitions use.
    "The ``noload`` loader strategy is deprecated",
    # pandas 3 deprecates what mlflow's log_table requires of a table with a column of text.
    "For backward compatibility, 'str' dtypes are included",
    # mlflow.pyfunc warns of its own types, when it is imported.
    ".*Any type hint is inferred as AnyType",
)
# How mlflow answers where there is no run or experiment of an id, or the id is none.
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
PER_PAGE = 1000
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


@contextmanager
def quiet(transfer: bool = False, forced: Mapping[str, str] | None = None) -> Iterator[None]:
    """Keep mlflow's own lines off the terminal, and bound its requests, until the block ends.

    transfer: files of any size are moved, which may take mlflow's own 120 s. forced: settings in the environment.
    """
    import mlflow  # noqa: F401  # Imported before the levels are set: importing it sets them.

    settings = SETTINGS if transfer else SETTINGS | REQUEST_TIMEOUT
    chosen = {name: value for name, value in settings.items() if name not in os.environ} | dict(forced or {})
    before = {name: os.environ.get(name) for name in chosen}
    levels = {} if "MLFLOW_LOGGING_LEVEL" in os.environ else {name: logging.getLogger(name).level for name in LEVELS}
    os.environ.update(chosen)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(max(LEVELS[name], level))
    try:
        with warnings.catch_warnings():
            for message in HARMLESS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def current_uris() -> tuple[str, str]:
    """Return the tracking URI and the registry URI that mlflow uses now."""
    import mlflow

    return mlflow.get_tracking_uri(), mlflow.get_registry_uri()


def pages(search: Callable[..., Any], *arguments: object) -> Iterator[Any]:
    """Yield all that a search of mlflow's client finds, page by page."""
    token = None
    while True:
        page = search(*arguments, max_results=PER_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def registry_file() -> str | None:
    """Return the path of the registry where that is a sqlite file which does not exist; looking would create it."""
    path = sqlite_path(current_uris()[1])
    return None if path is None or path.exists() else str(path)


def require_reachable(uri: str | None = None) -> None:
    """Return where runs can be written to `uri` and the registry, within seconds; create the tables of a new database.

    uri: None: mlflow's own choice. Raises InputError where it does not answer, does not let us in, or is no store.
    """
    import mlflow

    tracking, registry = (uri, uri) if uri else current_uris()
    for address, what in {registry: "model registry", tracking: "tracking store"}.items():
        is_database = address.startswith(DATABASES)
        if is_database and not is_unequivocal(address):
            raise InputError(
                f"{what} {without_password(address)}: not an address. Set MLFLOW_TRACKING_URI to one such as "
                "postgresql://user@host/name; in a password / is %2F, @ is %40."
            )
        # Several processes that create the tables of one database at once break it for good.
        with quiet(forced=ONE_TRY), _explained(address, what), locked(address) if is_database else nullcontext():
            if is_database:
                from sqlalchemy import create_engine, inspect
                from sqlalchemy.pool import NullPool

                # Whether it can be opened shows here; mlflow would try again for 100 s.
                inspect(create_engine(address, poolclass=NullPool)).get_table_names()
            # mlflow builds its stores, which creates tables or checks their version, and makes one small request.
            mlflow.MlflowClient(tracking_uri=address, registry_uri=address).search_registered_models(max_results=1)


@contextmanager
def _explained(uri: str, what: str) -> Iterator[None]:
    """Raise InputError, without a password, for what keeps a store from being used."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    shown, is_server = without_password(uri), uri.startswith("http")
    what = what.replace("store", "server") if is_server else what
    try:
        yield
    except ImportError as error:
        remedy = "pip install '.[postgres]'" if error.name == "psycopg" else "Install it, or write postgresql+psycopg:"
        line = f"the database's driver is not installed ({error.name}). {remedy}."
        raise InputError(f"{what} {shown}: {line}") from error
    except (MlflowException, SQLAlchemyError, OSError, ValueError) as error:
        first: BaseException = error
        while is_server and (before := first.__cause__ or first.__context__):
            # What the system said of the connection stands at the beginning of the chain.
            first = before
        reason = reason_of(first, uri)
        remedy = f"{'Start it' if is_server else 'See to it'}, or set MLFLOW_TRACKING_URI to another one."
        if "schema" in reason:
            remedy = f"Run `mlflow db upgrade {shown}` after a backup, or set MLFLOW_TRACKING_URI to another one."
        elif "filesystem" in reason:
            convert = "`mlflow migrate-filestore --source FOLDER --target sqlite:///mlflow.db`"
            remedy = f"Set MLFLOW_TRACKING_URI=sqlite:///mlflow.db; {convert} brings what there is into it."
        problem = "no answer" if is_server else "cannot be opened"
        raise InputError(f"{what} {shown}: {problem} ({reason}). {remedy}") from error


def lost_store(error: BaseException) -> InputError | None:
    """Return one line for a store that went away or could not be written, as `error` says; None for other errors."""
    # A full disk has a line of its own, and without mlflow there was no store.
    if is_disk_full(error) or "mlflow" not in sys.modules:
        return None
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DBAPIError

    # Others use databases too: mlflow wraps the errors of its own.
    is_mlflow = isinstance(error, MlflowException)
    if not is_mlflow or not ("API request to" in str(error) or isinstance(error.__cause__, DBAPIError)):
        return None
    uri = current_uris()[0]
    line = f"tracking store {without_password(uri)}: lost while the run was logged ({reason_of(error, uri)})."
    found = InputError(f"{line} See to it and run again.")
    found.__cause__ = error
    return found
