"""Pictures at URLs, bounded in bytes and time. What a server refuses is lost for good; what fails is tried again."""

from __future__ import annotations

import time

import fsspec
import urllib3

from seed_dist.data.filters import UnusablePairError
from seed_dist.data.patience import Patience
from seed_dist.errors import DataError

MAX_FETCH_BYTES = 1 << 26
_CHUNK_BYTES = 1 << 17
_FIRST_PAUSE_S = 0.5  # after the first failed attempt; twice as long after each further one
_REDIRECTS = 5
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # RFC 9110 and RFC 6585: later it may be otherwise
_HEADERS = {"User-Agent": "seed-dist"}
# Google's and DeviantArt's words for pages that shall not be collected, or not for training; img2dataset keeps to them.
_FORBIDDING = ("noai", "noimageai", "noindex", "noimageindex")


class Fetcher:
    """Threads may share it; connections are kept open."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._http = urllib3.PoolManager(num_pools=4 * patience.fetches, maxsize=patience.fetches, headers=_HEADERS)
        self._retries = urllib3.Retry(connect=0, read=0, other=0, status=0, redirect=_REDIRECTS)

    @property
    def longest_s(self) -> float:
        """Seconds after which even the last attempt is over, with some to spare."""
        attempts = 1 + self._patience.retries
        return attempts * self._patience.timeout_s + _FIRST_PAUSE_S * 2**self._patience.retries + 5.0

    def fetch(self, url: str) -> bytes:
        """The bytes at a URL. UnusablePairError says why there are none, DataError what must be installed."""
        scheme = url.partition("://")[0].lower()
        if scheme in ("file", "local"):
            raise UnusablePairError("not_downloaded", "that is a path of this machine and no URL")
        read = self._over_http if scheme in ("http", "https") else self._from_system
        problem = _TryAgainError("")
        for attempt in range(1 + self._patience.retries):
            if attempt:
                time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
            try:
                return read(url, time.monotonic() + self._patience.timeout_s)
            except _TryAgainError as error:
                problem = error
        if problem.is_late:
            raise UnusablePairError("timed_out", self._patience.in_words)
        raise UnusablePairError("fetch_failed", f"in {1 + self._patience.retries} attempts: {problem}"[:200])

    def _over_http(self, url: str, deadline: float) -> bytes:
        timeout = urllib3.Timeout(total=self._patience.timeout_s)
        try:
            answer = self._http.request("GET", url, preload_content=False, timeout=timeout, retries=self._retries)
            with answer:
                _require_answer(answer)
                data = _body(answer, deadline)
        except (urllib3.exceptions.LocationValueError, UnicodeError) as error:
            raise UnusablePairError("not_downloaded", f"no address: {error}"[:200]) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, urllib3.exceptions.ResponseError):
                raise UnusablePairError("not_downloaded", f"more than {_REDIRECTS} redirections") from None
            is_refused = isinstance(reason, urllib3.exceptions.NewConnectionError)  # which urllib3 calls late, too
            is_late = isinstance(reason, urllib3.exceptions.TimeoutError | TimeoutError) and not is_refused
            raise _TryAgainError(f"{type(reason).__name__}: {reason}", is_late) from None
        return data

    def _from_system(self, url: str, _: float) -> bytes:
        try:
            system, path = fsspec.core.url_to_fs(url)
            data: bytes = system.cat_file(path, start=0, end=MAX_FETCH_BYTES + 1)
        except ImportError as error:
            raise DataError(f"{url} cannot be fetched: {error}. Install that package.") from None
        except (FileNotFoundError, IsADirectoryError, PermissionError, ValueError, TypeError) as error:
            raise UnusablePairError("not_downloaded", f"{type(error).__name__}: {error}"[:200]) from None
        except Exception as error:  # noqa: BLE001 - every file system has errors of its own
            raise _TryAgainError(f"{type(error).__name__}: {error}", isinstance(error, TimeoutError)) from None
        return _bounded(data)


def _require_answer(answer: urllib3.BaseHTTPResponse) -> None:
    if answer.status in _AGAIN:
        raise _TryAgainError(f"status {answer.status}")
    if answer.status != 200:
        raise UnusablePairError("not_downloaded", f"status {answer.status}")
    words = answer.headers.get("X-Robots-Tag", "").lower().replace(":", ",").split(",")
    if forbidden := {word.strip() for word in words}.intersection(_FORBIDDING):
        raise UnusablePairError("not_downloaded", f"the site forbids it: X-Robots-Tag {', '.join(sorted(forbidden))}")


def _body(answer: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """All of the answer: a server that sends a byte now and then keeps to every timeout but this."""
    length = answer.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > MAX_FETCH_BYTES:
        raise UnusablePairError("image_too_large", f"{length} bytes; at most {MAX_FETCH_BYTES}")
    data = bytearray()
    while chunk := answer.read1(_CHUNK_BYTES):
        data += chunk
        if len(data) > MAX_FETCH_BYTES:
            break
        if time.monotonic() > deadline:
            raise _TryAgainError("", is_late=True)
    return _bounded(bytes(data))


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_FETCH_BYTES:
        raise UnusablePairError("image_too_large", f"more than {MAX_FETCH_BYTES} bytes")
    return data


class _TryAgainError(Exception):
    """What went wrong, for now."""

    def __init__(self, what: str, is_late: bool = False) -> None:
        self.is_late = is_late
        super().__init__(what)
