"""Where the ranks of one attempt meet: at a store that rank 0 opens, if they are of its attempt.

Rank 0 answers everybody who calls at a port with the name of its attempt and the port of its store. A port that is
taken is passed over: it answers at the first free one of a few, and the others look for it there. So neither a foreign
program at one of the ports is mistaken for it, nor can a process that an earlier attempt of a job left behind take a
seat among the ranks of the next. (torch's store by itself counts whoever comes, and waits for ever at a silent program.)
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta

from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from seed_dist.errors import TrainingError
from seed_dist.topology import World

PORTS = 8  # from MASTER_PORT on
_ANSWER_S = 5.0
_PAUSE_S = 0.2
_LONGEST = 1024  # bytes of an answer


def attempt_name(env: Mapping[str, str] = os.environ) -> str:
    """Differs between jobs, between a job's requeued attempts and between the srun steps of an attempt."""
    names = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID", "SUBMITIT_LOCAL_JOB_ID")
    return ".".join(env.get(name, "0") for name in names)


def meet(world: World, address: str, port: int, attempt: str, timeout_s: float) -> Store:
    """The store that all ranks of `attempt` share. TrainingError when rank 0 finds no free port, or this rank no rank 0
    of its attempt in time.
    """
    ports = range(port, port + PORTS)
    timeout = timedelta(seconds=timeout_s)
    if world.is_main:
        # Port 0: any free one. It does not wait for the others here, the first collective does.
        store = TCPStore(address, 0, world.size, is_master=True, timeout=timeout, wait_for_workers=False)
        _tell(ports, f"{attempt} {store.port}\n".encode())
        return store
    return TCPStore(address, _ask(world, address, ports, attempt, timeout_s), is_master=False, timeout=timeout)


def _tell(ports: range, answer: bytes) -> None:
    """Answer whoever calls, as long as this process lives."""
    for port in ports:
        try:
            server = socket.create_server(("", port))
            break
        except OSError as error:
            problem = error
    else:
        raise TrainingError(f"ports {ports[0]} to {ports[-1]} are all taken ({problem}); set MASTER_PORT to another")

    def serve() -> None:
        while True:
            with suppress(OSError), server.accept()[0] as connection:  # callers may be gone already
                connection.sendall(answer)

    threading.Thread(target=serve, name="rendezvous", daemon=True).start()


def _ask(world: World, address: str, ports: range, attempt: str, timeout_s: float) -> int:
    """The port of rank 0's store."""
    deadline = time.monotonic() + timeout_s
    while True:
        heard = {port: answer for port in ports if (answer := _call(address, port))}
        for answer in heard.values():
            name, _, store_port = answer.strip().partition(" ")
            if name == attempt and store_port.isdecimal():
                return int(store_port)
        if time.monotonic() > deadline:
            raise TrainingError(
                f"rank {world.rank} found no rank 0 of attempt {attempt} at {address}, ports {ports[0]} to "
                f"{ports[-1]}, within {timeout_s:.0f} s (what answered: {heard or 'nothing'}). Look at what rank 0 said; if it is "
                "running, whether the nodes may reach each other's ports."
            )
        time.sleep(_PAUSE_S)


def _call(address: str, port: int) -> str | None:
    """What is said at a port; None where nobody listens or nothing is said."""
    try:
        with socket.create_connection((address, port), timeout=_ANSWER_S) as connection:
            return connection.recv(_LONGEST).decode(errors="replace") or None
    except OSError:
        return None
