"""Where the ranks of one attempt meet: a store at the first rank's address, told apart from everybody else's.

A port that is taken is passed over: rank 0 listens at the first free one of a few, and the others look for it there.
Rank 0's store says which attempt it belongs to. So neither a foreign program at one of the ports is mistaken for it, nor
can a process that an earlier attempt of a job left behind take a seat among the ranks of the next.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from seed_dist.errors import TrainingError
from seed_dist.topology import World

PORTS = 8  # from MASTER_PORT on
_CONNECT_S = 2.0  # to something that listens; between machines of one cluster that is long
_PAUSE_S = 0.2
_ATTEMPT = "seed_dist/attempt"


def attempt_name(env: Mapping[str, str] = os.environ) -> str:
    """Differs between jobs, between a job's requeued attempts and between the srun steps of an attempt."""
    names = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID", "SUBMITIT_LOCAL_JOB_ID")
    return ".".join(env.get(name, "0") for name in names)


def meet(world: World, address: str, port: int, attempt: str, timeout_s: float) -> dist.Store:
    """The store that all ranks of `attempt` share. TrainingError when rank 0 finds no free port or this rank does not
    find rank 0 in time."""
    deadline = time.monotonic() + timeout_s
    ports = range(port, port + PORTS)
    timeout = timedelta(seconds=timeout_s)
    store = _listen(world, address, ports, timeout) if world.is_main else None
    if store is not None:
        store.set(_ATTEMPT, attempt)
    while store is None:
        store = next((found for p in ports if (found := _join(address, p, attempt, timeout)) is not None), None)
        if store is None and time.monotonic() > deadline:
            raise TrainingError(
                f"rank {world.rank} found no rank 0 of attempt {attempt} at {address}, ports {ports[0]} to {ports[-1]}, "
                f"within {timeout_s:.0f} s. Look at what rank 0 said; if it is running, whether the nodes may reach each "
                "other's ports."
            )
        time.sleep(_PAUSE_S if store is None else 0)
    return dist.PrefixStore(attempt, store)


def _listen(world: World, address: str, ports: range, timeout: timedelta) -> dist.Store:
    for port in ports:
        try:
            return TCPStore(address, port, world.size, is_master=True, timeout=timeout, wait_for_workers=False)
        except dist.DistNetworkError as error:
            problem = str(error).splitlines()[0]
    raise TrainingError(
        f"ports {ports[0]} to {ports[-1]} of {address} are all taken ({problem}); set MASTER_PORT to another"
    )


def _join(address: str, port: int, attempt: str, timeout: timedelta) -> dist.Store | None:
    """Rank 0's store if it is at this port."""
    try:
        socket.create_connection((address, port), timeout=_CONNECT_S).close()
        short = timedelta(seconds=_CONNECT_S)
        store: dist.Store = TCPStore(address, port, None, is_master=False, timeout=short, wait_for_workers=False)
        if store.get(_ATTEMPT).decode() != attempt:
            return None
    except (OSError, dist.DistError):
        return None
    store.set_timeout(timeout)
    return store
