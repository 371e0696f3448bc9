"""Hugging Face's hub: a file out of its local cache, or from the network, with a verdict within seconds."""

import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from idl.errors import is_disk_full

# Without a network timm retries for 50 s before it gives up. A name server that does not answer cannot be
# given a timeout from here, so the question is asked in a thread that is left behind when the time is over.
SECONDS_TO_ANSWER = 3.0


@dataclass(frozen=True)
class HubFile:
    """A weights file on the hub.

    repository: "owner/name", with "@revision" where it is pinned.
    names: names that it may have there, the preferred one first.
    """

    repository: str
    names: Sequence[str]


class HubUnavailableError(Exception):
    """A file can be had neither from the cache nor from the hub; the text says why."""


class _StayPut(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def fetch(file: HubFile) -> Path:
    """Give the local path of `file`: from the cache without any network, else downloaded into the cache.

    HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and the usual proxy variables are followed.
    Raises HubUnavailableError, naming the hub, after at most SECONDS_TO_ANSWER where the hub does not answer.
    """
    # Imported here: with its HTTP client it costs half a second that `--help` need not pay.
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = file.repository.partition("@")
    for name in file.names:
        cached = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)

    hub = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        raise HubUnavailableError(f"{hub} is not asked, because HF_HUB_OFFLINE is set")
    reason = why_unreachable(f"{hub}/{repository}/resolve/{revision or 'main'}/{file.names[0]}")
    if reason is not None:
        raise HubUnavailableError(f"{hub} cannot be reached: {reason}")
    for name in file.names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None, etag_timeout=5))
        except Exception as error:
            # The client lets errors of its HTTP library through, and which library that is has changed.
            if is_disk_full(error):
                raise
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue
            raise HubUnavailableError(f"{hub} does not give {repository}: {_one_line(error)}") from error
    raise HubUnavailableError(f"{hub} has none of {', '.join(file.names)} in {repository}")


def why_unreachable(url: str, seconds: float = SECONDS_TO_ANSWER) -> str | None:
    """Say why nobody answers for `url`, or None where somebody does; never takes longer than `seconds`.

    403, 407 and 5xx count as no answer, because that is what a proxy says for a host that it blocks. A
    certificate that urllib does not accept counts as an answer: the hub's client brings its own authorities.
    """
    answer: list[str | None] = [f"no answer within {seconds:g} s"]

    def ask() -> None:
        answer[0] = _head(url, seconds)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0]


def _head(url: str, seconds: float) -> str | None:
    try:
        with build_opener(_StayPut).open(Request(url, method="HEAD"), timeout=seconds):
            return None
    except HTTPError as error:
        error.close()
        blocked = error.code in (403, 407) or error.code >= 500
        return f"HTTP {error.code} {error.reason}" if blocked else None
    except URLError as error:
        return None if isinstance(error.reason, ssl.SSLError) else _one_line(error.reason)
    except (OSError, HTTPException, ValueError) as error:
        return _one_line(error)


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
