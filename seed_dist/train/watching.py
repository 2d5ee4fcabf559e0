"""A training under its nodes' watchdogs: which attempt this is, who shares a node, and who starts what."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seed_dist.config import EngineConfig
from seed_dist.dist.comm import Comm, on_main
from seed_dist.train.run import Outcome
from seed_dist.watch.attempts import begin_attempt, end_attempt
from seed_dist.watch.heartbeat import Heartbeat
from seed_dist.watch.start import Member, memory_folder, start_watchdog, timeouts_s, watched


class Attempt:
    """This attempt as the loop sees it: `heartbeat` to beat, and how it ended."""

    def __init__(self, folder: Path, heartbeat: Heartbeat, comm: Comm) -> None:
        self.heartbeat, self._folder, self._comm = heartbeat, folder, comm

    def ends(self, outcome: Outcome, step: int) -> None:
        """All is done; a process that leaves without this has failed, whatever its exit code."""
        on_main(self._comm, lambda: end_attempt(self._folder, outcome.value, step))


@contextmanager
def watched_attempt(run: Path, comm: Comm, engine: EngineConfig) -> Iterator[Attempt]:
    """A new attempt at the run in this directory; watched from here on until the block ends."""
    members = comm.gather_objects(Member.here(comm.rank))
    me = members[comm.rank]
    hosts = [member.host for member in members]
    folder, token = on_main(comm, lambda: (begin_attempt(run.resolve(), hosts), secrets.token_hex(4)))
    memory = memory_folder(folder, token)
    with watched(folder, memory, me) as heartbeat:
        comm.barrier()  # all beat before anybody looks
        own_node = [member for member in members if member.shares_node(me)]
        if own_node[0] == me:
            start_watchdog(folder, memory, own_node, timeouts_s(engine.collective_timeout_s, engine.phase_timeout_s))
        yield Attempt(folder, heartbeat, comm)
