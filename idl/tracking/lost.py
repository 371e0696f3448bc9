"""A tracking store that goes away while a run is logged, in one line."""

from idl.errors import InputError, is_disk_full
from idl.passwords import reason_of, without_password
from idl.tracking.reachable import current_uris


def explained(error: BaseException) -> BaseException:
    """Return an InputError for a server or a database that went away, anything else as it is."""
    if not is_lost(error):
        return error
    address = current_uris()[0]
    uri = without_password(address)
    if _is_lost_server(error):
        line = f"tracking server {uri}: stopped answering while the run was logged. Start it and run again."
    else:
        line = (
            f"tracking store {uri}: lost, or no longer fit to be written, while the run was logged "
            f"({reason_of(error, address)}). See to the database and run again."
        )
    told = InputError(line)
    told.__cause__ = error
    return told


def is_lost(error: BaseException | None) -> bool:
    """Tell whether mlflow's store went away."""
    # A full disk has a line of its own, whoever meets it.
    if error is None or is_disk_full(error):
        return False
    return _is_lost_server(error) or _database_error(error) is not None


def _is_lost_server(error: BaseException) -> bool:
    """Tell whether mlflow gave up on a request; it wraps every kind of lost connection in one such text."""
    return type(error).__name__ == "MlflowException" and "API request to" in str(error)


def _database_error(error: BaseException) -> BaseException | None:
    """Return the error of sqlalchemy that `error` is, or that mlflow wrapped in it; None where it is another.

    Known by where its class is made: importing mlflow and sqlalchemy for that takes seconds.
    """
    found = error.__cause__ if type(error).__name__ == "MlflowException" else error
    classes = type(found).__mro__
    is_of_database = any((each.__module__, each.__name__) == ("sqlalchemy.exc", "DBAPIError") for each in classes)
    return found if is_of_database else None
