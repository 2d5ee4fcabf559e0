"""From a World to a Comm: device, threads, process group. The only place that reads how the launcher set things up."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from seed_dist.dist.comm import Comm, ProcessGroupComm
from seed_dist.dist.rendezvous import attempt_name, meet
from seed_dist.errors import ConfigError
from seed_dist.topology import World

# `file:///some/path` meets there instead of at MASTER_ADDR:MASTER_PORT; tests use it, because ports can be taken.
RENDEZVOUS_VARIABLE = "SEED_DIST_RENDEZVOUS"
_OPEN_FILES = 1 << 16


def choose_device(world: World) -> torch.device:
    """This rank's GPU, or the CPU where there is none. Raises ConfigError when ranks outnumber the visible GPUs."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if world.local_rank >= count:
        raise ConfigError(
            [
                f"local rank {world.local_rank} needs its own GPU but {count} are visible; start {count} ranks per "
                "node, or let every rank see all GPUs of its node (CUDA_VISIBLE_DEVICES must not be narrowed to one)"
            ]
        )
    return torch.device("cuda", world.local_rank)


def limit_threads(world: World) -> int:
    """Share this node's cores among its ranks, unless OMP_NUM_THREADS says otherwise; the value is the thread count."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world.local_size))
    return torch.get_num_threads()


def allow_open_files() -> int:
    """Raise this process's limit of open files as far as the system lets it: every set that is read keeps hundreds of
    shards open, and a mixture has several. The value is the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < (wanted := min(hard, _OPEN_FILES)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


@contextmanager
def open_comm(world: World, timeout_s: float, rendezvous: str | None = None) -> Iterator[Comm]:
    """The process group of all ranks, closed when the block ends well; after an error no further collective is tried.

    A dead peer is noticed at once, a silent one after `timeout_s`. Raises ConfigError when the meeting point is not
    known.
    """
    device = choose_device(world)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _prefer_loopback(world)
    _describe_world_for_deepspeed(world, device)
    # One group with two backends: gloo carries flags and objects on the host, NCCL the GPU's tensors.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, init_method = _meeting_point(world, rendezvous or os.environ.get(RENDEZVOUS_VARIABLE), timeout_s)
    dist.init_process_group(
        backend,
        store=store,
        init_method=init_method,
        rank=world.rank,
        world_size=world.size,
        timeout=timedelta(seconds=timeout_s),
    )
    comm = ProcessGroupComm(device)
    comm.barrier()  # connections are made now, where a missing rank is a clear failure and not a hang in the first step
    with _new_groups_time_out(timedelta(seconds=timeout_s)):
        yield comm
    comm.barrier()  # nobody leaves while others still talk to it
    dist.destroy_process_group()


@contextmanager
def _new_groups_time_out(timeout: timedelta) -> Iterator[None]:
    """Groups that a library makes would have torch's own time-out of half an hour, not the world's. DeepSpeed makes one
    of all ranks and reduces its gradients in it, so that a rank that hangs would hold up the others for so long.
    """
    original = dist.new_group
    dist.new_group = partial(original, timeout=timeout)
    try:
        yield
    finally:
        dist.new_group = original


def _meeting_point(world: World, rendezvous: str | None, timeout_s: float) -> tuple[Any, str | None]:
    """A store or an address, one of the two; a single process needs neither a port nor a file.

    torchrun keeps one store through all its restarts, and torch 2.13 looks into it as it is: the ranks would call at
    the addresses of those that died, and wait. So every attempt has keys of its own.
    """
    if rendezvous:
        return None, rendezvous
    if world.size == 1:
        return dist.HashStore(), None  # type: ignore[attr-defined]
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            [
                f"{world.size} ranks need {' and '.join(missing)} in the environment to find each other; torchrun sets "
                "them, under srun export the first node's name and a free port in the batch script"
            ]
        )
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return meet(world, address, port, attempt_name(), timeout_s), None
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, world.size, is_master=False, timeout=timedelta(seconds=timeout_s)
    )
    attempt = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    return dist.PrefixStore(attempt, store), None  # type: ignore[attr-defined]


def _prefer_loopback(world: World) -> None:
    """On one node gloo need not ask what this host's name resolves to, which fails on many a laptop."""
    if world.size == world.local_size and "lo" in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _describe_world_for_deepspeed(world: World, device: torch.device) -> None:
    """DeepSpeed reads its accelerator and its position from the environment, whatever the launcher was."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.update(
        RANK=str(world.rank),
        WORLD_SIZE=str(world.size),
        LOCAL_RANK=str(world.local_rank),
        LOCAL_SIZE=str(world.local_size),
    )


def is_restart() -> bool:
    """Whether the launcher or the batch system started this same command before and it was cut off."""
    counts = (os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count.isdecimal() and int(count) > 0 for count in counts)
