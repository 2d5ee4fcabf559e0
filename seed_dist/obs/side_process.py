"""Processes beside a training that can neither stop nor slow it.

They run when nobody else wants the processor (SCHED_IDLE, sched(7)): a rank that wakes up has it at once. Where that is
refused they are merely nice. Where the kernel shares out the processor by sessions ("autogroup"), a process's own
niceness counts within its session only, so the session is made nice too. Their reads and writes wait for everybody
else's.

What has only idle time may never get any on a machine that others keep busy. So when training has ended, and the last
page or figures are to be delivered, they claim as much again as the system lets them (`stop_giving_way`): of the
session always, of the policy where the user may raise it. What starts then is no longer idle to begin with.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_NICENESS = 19
_TRIES, _RETRY_S = 3, 0.11  # the kernel takes one change of a session in 0.1 s from users


def start_side_process(
    module: str,
    arguments: Sequence[str],
    log: Path,
    stdin: int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
    is_idle: bool = True,
) -> subprocess.Popen[bytes] | None:
    """`python -m module arguments`, detached, its messages in the file `log`; `is_idle`: it is for idle time only, as
    all should be that run while training does, and otherwise nice.

    `environment` is added to this process's own. When it cannot be started that is noted there, if the disk lets it,
    and nothing else happens: the value is None.
    """
    try:
        with log.open("ab") as messages:
            started = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=stdin,
                stdout=messages,
                stderr=messages,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
                start_new_session=True,
            )
    except OSError as error:
        with suppress(OSError), log.open("a") as messages:  # a full disk is not worth a training
            messages.write(f"{module} not started: {error}\n")
        return None
    give_way(started.pid, is_idle)
    return started


def give_way(process: int, is_idle: bool = True) -> None:
    """Of a process that has just been started. What the system refuses is left out."""
    for thread in _threads(process):  # all that follow are as the thread that starts them
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)
        if is_idle:
            with suppress(OSError, AttributeError):
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    if is_idle:
        with suppress(psutil.Error, OSError, AttributeError):
            psutil.Process(process).ionice(psutil.IOPRIO_CLASS_IDLE)
    _set_session_nice(process, _NICENESS)  # last: it may take its time


def _threads(process: int) -> list[int]:
    """One, or what a fast start has made of it already."""
    with suppress(OSError):
        return [int(thread.name) for thread in Path(f"/proc/{process}/task").iterdir()]
    return [process]


def stop_giving_way() -> None:
    """This process has to deliver now, and nobody trains any more."""
    own = os.getpid()
    _set_session_nice(own, 0)
    with suppress(OSError, AttributeError):  # for users only with RLIMIT_NICE
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with suppress(psutil.Error, OSError, AttributeError):
        psutil.Process(own).ionice(psutil.IOPRIO_CLASS_BE)


def _set_session_nice(process: int, niceness: int) -> None:
    """Of a session that the process leads."""
    for _ in range(_TRIES):
        try:
            Path(f"/proc/{process}/autogroup").write_text(str(niceness))
            return
        except BlockingIOError:
            time.sleep(_RETRY_S)
        except OSError:  # the kernel does not share by sessions, or the process is gone
            return
