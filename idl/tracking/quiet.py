"""mlflow without its own lines on the terminal, and with retries that end."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# A user's own setting goes before each of these.
SETTINGS = {
    # 7 retries are the default: a dead server then blocks for 4 minutes. 3 take about 15 s, and outlast a
    # server's restart.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# For small requests. A model's upload waits for the server's own upload, and keeps mlflow's 120 s.
REQUEST_TIMEOUT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
# One short try for a server that is known to be gone.
LAST_TRY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}

LEVELS = {
    "mlflow": logging.WARNING,
    "alembic": logging.WARNING,
    # A traceback for each statement that fails; it is raised all the same, and ends in a line.
    "mlflow.store.db.utils": logging.CRITICAL,
    # A line for each retry; what matters is said when the last one has failed.
    "urllib3.connectionpool": logging.ERROR,
    # "Failed to resolve installed pip version": true in any environment without pip, and harmless.
    "mlflow.utils.environment": logging.ERROR,
}


@contextmanager
def quiet(transfer: bool = False, last_try: bool = False) -> Iterator[None]:
    """Raise the levels of mlflow's and alembic's loggers, and bound its HTTP requests, until the block ends.

    transfer: files of any size are moved: a request may take mlflow's own 120 s.
    last_try: the server is known to be gone: no retries, whatever the user has set.
    """
    import mlflow  # noqa: F401  # Imported before the levels are set: importing it sets them.

    settings = SETTINGS if transfer else SETTINGS | REQUEST_TIMEOUT
    chosen = LAST_TRY if last_try else {}
    defaults = {name: value for name, value in settings.items() if name not in os.environ}
    with _environment(defaults | chosen), _levels(), warnings.catch_warnings():
        # sqlalchemy 2.1 deprecates what mlflow 3.17's table definitions use.
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
        # pandas 3 deprecates what mlflow's log_table asks of a table with a column of text.
        warnings.filterwarnings("ignore", message="For backward compatibility, 'str' dtypes are included")
        # mlflow.pyfunc says so of its own types, when it is imported.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        yield


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _levels() -> Iterator[None]:
    if "MLFLOW_LOGGING_LEVEL" in os.environ:
        yield
        return
    loggers = {name: logging.getLogger(name) for name in LEVELS}
    before = {name: logger.level for name, logger in loggers.items()}
    for name, logger in loggers.items():
        logger.setLevel(max(LEVELS[name], logger.level))
    try:
        yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(before[name])
