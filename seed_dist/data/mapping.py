"""Many pieces of many files with one call of the system, out of memory maps, where plain reads take one call each.

`process_vm_readv` of a process on itself (Linux 3.2): the kernel copies, as it does in a read, and a page that cannot
be had ends the call early, where touching the map would kill the process (SIGBUS). The interpreter's lock is free
meanwhile. Maps are for what the page cache holds: of what it does not hold they fetch single pages, where a read
fetches all it wants.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource

import numpy as np
import numpy.typing as npt

Addresses = npt.NDArray[np.int64]

_CALL_PIECES = 1024  # IOV_MAX of Linux
_CALL_BYTES = 2 << 20  # so that pages that are not there are noticed after few of them
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = (ctypes.c_int, *(ctypes.c_void_p, ctypes.c_ulong) * 2, ctypes.c_ulong)


class MappedFile:
    """An open file and its map, both closed when the last thread that uses them lets go. `address` is where it begins
    in memory, 0 where it cannot be mapped.

    Python's own maps keep a second descriptor each, and tell no address.
    """

    def __init__(self, number: int) -> None:
        self.number, self.size_bytes = number, os.fstat(number).st_size
        found = _libc.mmap(None, self.size_bytes, mmap.PROT_READ, mmap.MAP_SHARED, number, 0)
        self.address: int = 0 if found == _FAILED else found

    def is_whole(self) -> bool:
        """Whether nobody has cut it since it was opened: a map shows zeros from there to the end of the page."""
        return os.fstat(self.number).st_size >= self.size_bytes

    def __del__(self) -> None:
        if self.address:
            _libc.munmap(self.address, self.size_bytes)
        os.close(self.number)


def copy_pieces(sources: Addresses, targets: Addresses, size_bytes: int) -> tuple[int, bool]:
    """Copy pieces of one size; how many were copied before something was wrong, and whether some had to be fetched from
    the disk, where it stops too.
    """
    pieces = np.full((2, len(sources), 2), size_bytes, np.uint64)  # struct iovec: address, length
    pieces[0, :, 0], pieces[1, :, 0] = targets, sources
    at_once = min(_CALL_PIECES, max(1, _CALL_BYTES // size_bytes))
    fetched = _fetched_pages()
    for first in range(0, len(sources), at_once):
        count = min(at_once, len(sources) - first)
        local, remote = (side[first:].ctypes.data for side in pieces)
        copied = _libc.process_vm_readv(os.getpid(), local, count, remote, count, 0)
        is_cold = _fetched_pages() > fetched
        if copied != count * size_bytes or is_cold:
            return first + max(0, copied) // size_bytes, is_cold
    return len(sources), False


def _fetched_pages() -> int:
    """How often this thread had to wait for a page of a map so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
