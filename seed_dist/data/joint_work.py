"""One work by several processes, here or on other machines: who may begin it, and who does which piece.

Every process walks through all pieces and does those that nobody else has; a piece whose owner died is free again. All
of them see every result, so each knows by itself when the work is finished.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from seed_dist.data.leases import Holding, Lease, Leases
from seed_dist.data.workers import run_tasks

_POLL_S = 0.2
_SAY_AFTER_S = 10.0
_PROCESS = "process-"
_log = logging.getLogger(__name__)


class _Piece(Protocol):
    @property
    def piece(self) -> str:
        """The name of its lease."""
        ...


Task = TypeVar("Task", bound=_Piece)
Result = TypeVar("Result")


def do_jointly(
    work: Callable[[Task], Result | None], tasks: Sequence[Task], workers: int, leases: Leases
) -> Generator[tuple[Task, Result], None, None]:
    """Each task with its result, as they finish, wherever that was.

    `work` claims the lease of a piece itself, in a worker process; None means that another process has it. Raises
    FileNotFoundError once another process has finished the whole and removed the folder of the leases.
    """
    left = list(tasks)
    while left:
        leases.require_folder()
        free = [task for task in left if not leases.is_taken(task.piece)]
        if not free:
            time.sleep(_POLL_S)
            continue
        busy = {task.piece for task in left} - {task.piece for task in free}
        for task, result in run_tasks(work, free, workers):
            if result is None:
                busy.add(task.piece)
            else:
                yield task, result
        left = [task for task in left if task.piece in busy]


@contextmanager
def only_one(leases: Leases, name: str, *, open_again: bool = False) -> Iterator[Lease]:
    """Wait until no other process has the lease `name`, and have it during the block.

    Where another process has finished the whole meanwhile and removed the folder of the leases, it is made again with
    `open_again`; otherwise FileNotFoundError.
    """
    said = time.monotonic() + _SAY_AFTER_S
    while (lease := leases.claim(name)) is None:
        if time.monotonic() > said and (owner := next((o for o in leases.owners() if o.name == name), None)):
            _log.warning("waiting for %s, which is at the work %r", owner.owner, name)
            said = float("inf")
        time.sleep(_POLL_S)
        leases.open_folder() if open_again else leases.require_folder()
    with lease:
        yield lease


def take_part(leases: Leases) -> Lease:
    """A lease that tells others that this process is at the work. FileNotFoundError when they have just finished it and
    removed the folder of the leases: nobody else draws that name.
    """
    lease = leases.claim(f"{_PROCESS}{secrets.token_hex(8)}")
    if lease is None:
        raise FileNotFoundError(f"the folder of the leases is gone, and with it the place of {_PROCESS}*")
    return lease


def taking_part(leases: Leases) -> list[Holding]:
    """The living processes that are at the work."""
    return [held for held in leases.owners() if held.name.startswith(_PROCESS) and not held.is_stale]
