"""The watchdog of a node: a process beside the ranks, which notices when one dies or hangs and ends the others.

It is a process and not a thread, because a thread cannot run while C code holds the interpreter's lock. A death is seen
by a pidfd at once, a hang by a heartbeat that is older than its phase allows. Then, in this order: the state of all
ranks is noted where the other nodes' watchdogs look for it, all write their stacks, ranks get a short grace to die of
their own error (whose traceback says more), who still lives is killed, and the page is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from seed_dist.watch.attempts import has_ended_well
from seed_dist.watch.causes import find_cause, write_page
from seed_dist.watch.heartbeat import PHASES, HeartbeatReader
from seed_dist.watch.notes import DeathNote, RankState, names_of_notes, read_json, write_death, write_private
from seed_dist.watch.oom import oom_files, oom_kills
from seed_dist.watch.stacks import is_alive, request_dumps, stat_fields, state_of

PLAN = "plan.json"
_LOOK_EVERY_S = 0.25
_ASK_DISK_EVERY_S = 1.0
_GRACE_S = 3.5  # an error travels to the peers in milliseconds, and a command waits two seconds for rank 0 to tell it
_KILL_PATIENCE_S = 10.0
_DISK_PATIENCE_S = 2.0  # the shared disk may be what hangs
_PAGE_PATIENCE_S = 3.0  # for the notes of other nodes
_DETACHED_FROM = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Plan:
    """What a watchdog watches. `timeouts_s` by phase; `writes_page`: on the node of rank 0."""

    attempt: str  # the attempt's folder
    host: str
    pids: dict[str, int]  # by rank
    timeouts_s: dict[str, float]
    writes_page: bool


class _Rank:
    """One rank of this node."""

    def __init__(self, rank: int, pid: int, folder: Path) -> None:
        self.rank, self.pid = rank, pid
        self.stack = stack_file(folder, rank)
        self._heartbeat = HeartbeatReader(heartbeat_file(folder, rank))
        self.died_s: float | None = None
        self.status: int | None = None  # as waitpid gives it
        self.last_seen_s: tuple[float, float] | None = None  # beat and when it was first found too old
        self.pidfd = _pidfd(pid)

    def look(self) -> bool:
        """Whether the process lives. How it ended stands in /proc until its parent has asked."""
        if self.died_s is None and not is_alive(self.pid):
            self.died_s = time.time()
            fields = stat_fields(Path(f"/proc/{self.pid}/stat"))
            self.status = int(fields[-1]) if fields and fields[0] == "Z" else None
        return self.died_s is None

    def is_done(self) -> bool:
        return self._heartbeat.read().phase == "end"

    def hangs(self, timeouts_s: dict[str, float]) -> bool:
        """Whether its last sign of life is too old, in two looks: a record may be read while it is written."""
        beat = self._heartbeat.read()
        if beat.age_s <= timeouts_s.get(beat.phase, float("inf")):
            self.last_seen_s = None
            return False
        before, self.last_seen_s = self.last_seen_s, (beat.at_s, time.monotonic())
        return before is not None and before[0] == beat.at_s

    def state(self) -> RankState:
        beat, status = self._heartbeat.read(), self.status
        return RankState(
            rank=self.rank,
            pid=self.pid,
            step=beat.step,
            phase=beat.phase,
            age_s=round(beat.age_s, 2),
            detail=beat.detail if beat.phase == "data" else "",  # what was waited for then
            samples=beat.samples,
            died_s=self.died_s,
            signal=os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
            exit_code=os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
            is_stopped=self.died_s is None and state_of(self.pid) in ("T", "t"),
        )

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _pidfd(pid: int) -> int | None:
    """Wakes a poll when the process ends. None before Linux 5.3, where looking now and then has to do."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def heartbeat_file(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank:05d}.heartbeat"


def stack_file(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank:05d}.stack"


class Watchdog:
    """Watches the ranks of one node; `folder` is where they beat."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._plan, self._attempt = plan, Path(plan.attempt)
        self._ranks = [_Rank(int(rank), pid, folder) for rank, pid in plan.pids.items()]
        self._oom_files = sorted({file for rank in self._ranks for file in oom_files(rank.pid)})
        self._oom_kills = [oom_kills(self._oom_files)]
        self._told = threading.Event()

    def run(self) -> None:
        """Returns when all ranks of the node are gone, or have done all they had to."""
        threading.Thread(target=self._look_for_notes, daemon=True).start()
        while True:
            found = self._look()
            if found is not None:
                self._handle(*found)
                return
            if all(rank.is_done() for rank in self._ranks):
                return
            self._wait(_LOOK_EVERY_S)

    def _look(self) -> tuple[str, int | None] | None:
        """Why something must be done, and the rank that is suspected."""
        self._oom_kills = [*self._oom_kills[-8:], oom_kills(self._oom_files)]
        for rank in self._ranks:
            if not rank.look() and not rank.is_done():
                return "died", rank.rank
        hanging = [rank.rank for rank in self._ranks if rank.look() and rank.hangs(self._plan.timeouts_s)]
        if hanging:
            return "hung", hanging[0]
        return ("told", None) if self._told.is_set() else None

    def _wait(self, timeout_s: float) -> None:
        """Until a rank dies, at most so long."""
        poller = select.poll()
        for rank in self._ranks:
            if rank.died_s is None and rank.pidfd is not None:
                poller.register(rank.pidfd, select.POLLIN)
        poller.poll(timeout_s * 1000)

    def _look_for_notes(self) -> None:
        """In a thread, because a shared disk may hang."""
        while not self._told.wait(_ASK_DISK_EVERY_S):
            with contextlib.suppress(OSError):
                if names_of_notes(self._attempt):
                    self._told.set()

    def _handle(self, why: str, suspect: int | None) -> None:
        grace_ends_s = time.monotonic() + _GRACE_S
        states = [rank.state() for rank in self._ranks]
        note = DeathNote(self._plan.host, time.time(), why, suspect, False, tuple(states))
        first = _aside(lambda: write_death(self._attempt, note))  # the other nodes act on it
        living = {rank.pid: rank.stack for rank in self._ranks if rank.look()}
        dumps = request_dumps(living)
        states = [dataclasses.replace(state, waits_for_others=waits(dumps.get(state.pid, ""))) for state in states]
        if why == "hung":
            suspect = most_suspect(states).rank
        _log(self._describe(why, suspect))
        note = dataclasses.replace(note, suspect=suspect, ranks=tuple(states))
        first.join(_DISK_PATIENCE_S)
        # Before anybody is killed: a launcher may answer that by killing all processes of the node, this one too.
        _aside(lambda: self._write(note, dumps)).join(_DISK_PATIENCE_S)
        if why == "hung":  # nobody can know of it yet
            grace_ends_s = time.monotonic() + _GRACE_S
        at_once = [rank for rank in self._ranks if why == "hung" and rank.rank == suspect]
        killed = self._end_ranks(at_once, grace_ends_s)
        endings = {rank.rank: rank.state() for rank in self._ranks}
        final = [
            dataclasses.replace(state, **{name: getattr(endings[state.rank], name) for name in _ENDING})
            for state in states
        ]
        oom_kill = oom_kills(self._oom_files) > self._oom_kills[0]
        note = dataclasses.replace(note, oom_kill=oom_kill, ranks=tuple(final), killed=tuple(killed))
        _aside(lambda: self._write_last(note, dumps)).join(_DISK_PATIENCE_S + _PAGE_PATIENCE_S)

    def _end_ranks(self, at_once: list[_Rank], grace_ends_s: float) -> list[int]:
        """Those at once, the others when their grace is over; the value is who had to be killed."""
        killed = list(at_once)
        for rank in at_once:
            rank.kill()
        self._wait_for_all(grace_ends_s)
        for rank in self._ranks:
            if rank.look() and rank not in killed:
                rank.kill()
                killed.append(rank)
        self._wait_for_all(time.monotonic() + _KILL_PATIENCE_S)
        return [rank.rank for rank in killed]

    def _wait_for_all(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            living = [rank for rank in self._ranks if rank.look()]  # all are looked at: how they end must be seen
            if not living:
                return
            self._wait(_LOOK_EVERY_S)

    def _write(self, note: DeathNote, dumps: dict[int, str]) -> None:
        write_death(self._attempt, note)
        for rank in self._ranks:
            # What a fatal error wrote of itself is there too, and before what was asked for.
            text = rank.stack.read_text(errors="replace")
            asked_for = dumps.get(rank.pid, "")
            if text or asked_for:
                write_private(stack_file(self._attempt, rank.rank), text if asked_for in text else text + asked_for)

    def _write_last(self, note: DeathNote, dumps: dict[int, str]) -> None:
        """How all have ended, and on one node the page."""
        self._write(note, dumps)
        if not self._plan.writes_page or has_ended_well(self._attempt):
            return
        deadline = time.monotonic() + _PAGE_PATIENCE_S
        cause = find_cause(self._attempt)
        while cause.silent_hosts and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
            cause = find_cause(self._attempt)
        _log(write_page(self._attempt, cause))

    def _describe(self, why: str, suspect: int | None) -> str:
        what = {"died": f"rank {suspect} died", "hung": f"rank {suspect} hangs", "told": "a rank ended"}[why]
        return f"watchdog of {self._plan.host}: {what}; those that live get {_GRACE_S:g} s to end by themselves"


_ENDING = ("died_s", "signal", "exit_code")


def waits(stack: str) -> bool:
    """Whether a stack is inside a collective."""
    return "distributed_c10d.py" in stack


def most_suspect(states: list[RankState]) -> RankState:
    """Of ranks that hang: who does not run at all, then who waits for nobody, then who is the furthest behind."""

    def order(state: RankState) -> tuple[bool, bool, int, int, float]:
        return (
            not state.is_stopped,
            state.waits_for_others,
            state.step,
            PHASES.index(state.phase),
            -state.age_s,
        )

    return min(states, key=order)


def _aside(action: Callable[[], object]) -> threading.Thread:
    """Do it without waiting for a disk that may hang."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def _log(text: str) -> None:
    with contextlib.suppress(OSError):  # whoever read it may be gone; the ranks must be ended all the same
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def main() -> None:
    folder = Path(sys.argv[1])
    for number in _DETACHED_FROM:
        signal.signal(number, signal.SIG_IGN)
    try:
        Watchdog(folder, Plan(**read_json(folder / PLAN))).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
