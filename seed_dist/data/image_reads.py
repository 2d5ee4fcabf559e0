"""The bytes of pictures, read ahead in the order of their pairs: from files, tables, tars and URLs."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from functools import partial
from pathlib import Path

from seed_dist.data.arrow_table import DAMAGE
from seed_dist.data.cells import CellReader
from seed_dist.data.fetch import Fetcher
from seed_dist.data.filters import UnusablePairError
from seed_dist.data.pairs import Cell, Span, is_url, read_regular
from seed_dist.data.patience import HungError, Lane, Patience, Task

MAX_IMAGE_BYTES = 1 << 28  # a larger file is no picture; it would have to be in memory as a whole
_AHEAD = 4  # files; and so many URLs for each that is fetched at once, lest a few slow ones hold up the others
_NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
_FOR_A_WHILE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)  # as network disks say
_PAUSE_S = 0.5
Place = str | Cell | Span
_Begun = tuple[Lane, Task[bytes]]


def images_ahead(
    places: Iterable[Place | None], patience: Patience
) -> Generator[bytes | UnusablePairError | None, None, None]:
    """For each place, in order: the bytes there, or why they cannot be had; None for None.

    Raises DataError where one file after the other hangs, OSError for a disk that is broken.
    """
    reader, fetcher = _Reader(patience), Fetcher(patience)
    with (
        Lane(patience.timeout_s, patience.retries) as files,
        Lane(fetcher.longest_s, threads=patience.fetches) as urls,
    ):
        begun: deque[_Begun | None] = deque()
        room = {files: _AHEAD, urls: _AHEAD * patience.fetches}
        for place in places:
            lane = urls if is_url(place) else files
            while begun and (begun[0] is None or not room[lane]):
                yield _outcome(begun.popleft(), room, patience)
            if place is None:
                begun.append(None)
                continue
            room[lane] -= 1
            read = partial(fetcher.fetch, place) if is_url(place) else partial(reader.read, place)
            begun.append((lane, lane.submit(_shown(place), read)))
        while begun:
            yield _outcome(begun.popleft(), room, patience)


def _outcome(begun: _Begun | None, room: dict[Lane, int], patience: Patience) -> bytes | UnusablePairError | None:
    if begun is None:
        return None
    lane, task = begun
    room[lane] += 1
    try:
        return lane.result(task)
    except UnusablePairError as error:
        return error
    except HungError:
        return UnusablePairError("timed_out", patience.in_words)


def _shown(place: Place) -> str:
    return place if isinstance(place, str) else place.file


class _Reader:
    """Reads what is on a disk; each thread has the large file open that it is in."""

    def __init__(self, patience: Patience) -> None:
        self._retries, self._own = patience.retries, threading.local()

    def read(self, place: Place) -> bytes:
        """The bytes of a file, cell or span. Raises UnusablePairError."""
        for left in range(self._retries, -1, -1):
            try:
                data = self._read(place)
                break
            except OSError as error:
                if error.errno not in _FOR_A_WHILE:
                    raise
                if not left:
                    raise UnusablePairError("unreadable_image", f"it cannot be read: {error.strerror}") from None
                time.sleep(_PAUSE_S)
        if len(data) > MAX_IMAGE_BYTES:
            raise UnusablePairError("image_too_large", f"more than {MAX_IMAGE_BYTES} bytes")
        return data

    def _read(self, place: Place) -> bytes:
        if isinstance(place, str):
            return _file_bytes(place)
        if isinstance(place, Span) and place.size > MAX_IMAGE_BYTES:
            raise UnusablePairError("image_too_large", f"{place.size} bytes; at most {MAX_IMAGE_BYTES}")
        if not hasattr(self._own, "cells"):
            self._own.cells = CellReader()
        try:
            data: bytes | None = self._own.cells.read(place)
        except OSError:
            raise
        except DAMAGE as error:
            raise UnusablePairError("unreadable_image", f"{place.file} is damaged: {error}"[:200]) from None
        if data is None:
            raise UnusablePairError("missing_image", "the image column is empty in this row")
        return data


def _file_bytes(name: str) -> bytes:
    try:
        data = read_regular(Path(name), MAX_IMAGE_BYTES + 1)
    except PermissionError:
        raise UnusablePairError("unreadable_image", "the file may not be read: permission denied") from None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise UnusablePairError("missing_image", "there is no file of that name") from None
    except OSError as error:
        if error.errno not in _NO_NAME:
            raise
        raise UnusablePairError("missing_image", f"there is no such file: {error.strerror}") from None
    if data is None:
        raise UnusablePairError("missing_image", "there is no regular file of that name")
    return data
