"""The tables of a fresh tracking store, created by one process while the others wait."""

from idl.errors import InputError
from idl.tracking.reachable import sqlite_path


def create_schema(tracking_uri: str, registry_uri: str) -> None:
    """Create the tables of sqlite stores that lack them; other stores are left to their server.

    Two processes that create them at the same moment break the file for good, so that the second waits on
    a lock file beside it.

    Raises InputError: a file that is no database, or one of another version of mlflow.
    """
    for uri in dict.fromkeys((tracking_uri, registry_uri)):
        path = sqlite_path(uri)
        if path is None:
            continue
        import filelock

        # Beside the database: /tmp is not shared between containers that share a folder.
        with filelock.FileLock(path.absolute().with_name(f".{path.name}.lock")):
            _open_store(uri)


def _open_store(uri: str) -> None:
    """Build mlflow's store on `uri`, which creates the tables, or checks their version."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_registered_models(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        remedy = "Choose another file with MLFLOW_TRACKING_URI."
        if "schema" in reason:
            remedy = f"Run `mlflow db upgrade {uri}` after a backup, or set MLFLOW_TRACKING_URI."
        raise InputError(f"tracking store {uri}: cannot be opened ({reason}). {remedy}") from error
