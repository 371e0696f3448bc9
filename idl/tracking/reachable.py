"""Whether the tracking store answers, asked before work starts and answered within seconds."""

import os
import socket
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from importlib.metadata import entry_points
from urllib.parse import unquote, urlsplit

from idl.databases import sqlite_path
from idl.errors import InputError
from idl.passwords import is_unequivocal, reason_of, without_password

TIMEOUT_S = 3.0
REMEDY = "Start it, or set MLFLOW_TRACKING_URI."
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What mlflow's plug-ins for stores of other kinds are registered as.
PLUGINS = ("mlflow.tracking_store", "mlflow.model_registry_store")
OF_DATABRICKS = ("databricks", "databricks-uc", "uc")


def require_reachable(uri: str | None = None) -> None:
    """Return where runs can be written to `uri`, within about three seconds.

    uri: a tracking URI; None: mlflow's own choice (MLFLOW_TRACKING_URI, or mlflow.db in the working folder),
      together with its registry where that is another one.

    Raises InputError: a server that does not answer, a folder that is missing or read-only, a plain folder as
    the store (mlflow 3.17 refuses it), an address that is none.
    """
    if uri is not None:
        _require(uri, "tracking server")
        return
    tracking, registry = current_uris()
    _require(tracking, "tracking server")
    if registry != tracking:
        _require(registry, "model registry")


def current_uris() -> tuple[str, str]:
    """Return the tracking URI and the registry URI that mlflow uses now."""
    import mlflow

    return mlflow.get_tracking_uri(), mlflow.get_registry_uri()


def _require(uri: str, what: str) -> None:
    no_address = InputError(
        f"{what} {without_password(uri)}: not an address. Set MLFLOW_TRACKING_URI to one such as "
        "http://127.0.0.1:5000; in a password / is %2F, @ is %40."
    )
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        # What the error says may hold a part of the password.
        raise no_address from None
    scheme = parts.scheme.partition("+")[0]
    if scheme in DATABASE_PORTS and not is_unequivocal(uri):
        raise no_address
    if scheme in ("http", "https"):
        _require_http(uri, what)
    elif scheme == "sqlite":
        _require_sqlite(uri)
    elif scheme in DATABASE_PORTS and parts.hostname:
        _require_port(uri, what, parts.hostname, port or DATABASE_PORTS[scheme])
    elif scheme in ("", "file"):
        _require_no_folder(uri)
    elif scheme not in (*DATABASE_PORTS, *OF_DATABRICKS) and not _has_plugin(parts.scheme):
        raise InputError(
            f"{what} {without_password(uri)}: mlflow knows no {scheme}: as a store. Set MLFLOW_TRACKING_URI to one "
            "such as http://127.0.0.1:5000, sqlite:///mlflow.db or postgresql://user@host/name."
        )


def _has_plugin(scheme: str) -> bool:
    return any(entry_points(group=group, name=scheme) for group in PLUGINS)


def _require_http(uri: str, what: str) -> None:
    shown = without_password(uri)
    request = urllib.request.Request(shown.rstrip("/") + "/health")
    parts = urlsplit(uri)
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + b64encode(login.encode()).decode())
    context = None
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context):
            return
    except urllib.error.HTTPError as error:
        error.close()
        # 404, 401 and 403 come from something that is up; a proxy whose server is down says 502 to 504.
        if error.code < 500:
            return
        reason = f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        reason = _reason(error, uri)
    raise InputError(f"{what} {shown}: no answer ({reason}). {REMEDY}")


def _require_port(uri: str, what: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except OSError as error:
        raise InputError(f"{what} {without_password(uri)}: no answer ({_reason(error, uri)}). {REMEDY}") from None


def _require_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    if path is None:
        return
    shown = without_password(uri)
    if path.is_dir():
        raise InputError(f"tracking store {shown}: {path} is a folder. Name a file, sqlite:///mlflow.db.")
    if not path.absolute().parent.is_dir():
        folder = path.absolute().parent
        raise InputError(f"tracking store {shown}: no folder {folder}. Create it, or set MLFLOW_TRACKING_URI.")
    for place in (path.absolute().parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise InputError(
                f"tracking store {shown}: {place} is read-only. Make it writable, or set MLFLOW_TRACKING_URI."
            )


def _require_no_folder(uri: str) -> None:
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
        return
    raise InputError(
        f"tracking store {without_password(uri)}: mlflow no longer writes to a plain folder. Set "
        "MLFLOW_TRACKING_URI=sqlite:///mlflow.db, or convert it with `mlflow migrate-filestore`."
    )


def _reason(error: OSError | ValueError, uri: str) -> str:
    """Say in one line why there was no answer."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"nothing within {TIMEOUT_S:g} s" if isinstance(cause, TimeoutError) else reason_of(error, uri)
