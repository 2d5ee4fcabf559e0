"""How fast two ranks exchange data: who talks slowly shows only in pairs, for a collective makes all wait alike."""

from __future__ import annotations

import statistics
import time

import torch
import torch.distributed as dist
from torch import Tensor

from seed_dist.dist.comm import Comm

_REPEATS = 3


def partners(size: int, rank: int) -> list[int | None]:
    """Whom `rank` meets in each round, so that every two meet once and nobody waits for a third (the circle method);
    None where it has nobody to meet.
    """
    even = size + size % 2
    rounds = []
    for turn in range(even - 1):
        if rank == even - 1:
            other = next(r for r in range(even - 1) if 2 * r % (even - 1) == turn)
        else:
            other = (turn - rank) % (even - 1)
            other = even - 1 if other == rank else other
        rounds.append(other if other < size else None)
    return rounds


def pair_bandwidth(comm: Comm, size_bytes: int, rounds: int) -> float | None:
    """Bytes per second in one direction while both send: the median over the partners of at most so many rounds.

    None where there is nobody to talk to.
    """
    sent = torch.zeros(size_bytes, dtype=torch.uint8, device=comm.device)
    received = torch.empty_like(sent)
    rates = []
    for partner in partners(comm.size, comm.rank)[:rounds]:
        comm.barrier()
        if partner is not None:
            _exchange(sent, received, partner)  # connects
            took_s = [_exchange(sent, received, partner) for _ in range(_REPEATS)]
            rates.append(size_bytes / statistics.median(took_s))
    return statistics.median(rates) if rates else None


def _exchange(sent: Tensor, received: Tensor, partner: int) -> float:
    began_s = time.perf_counter()
    works = dist.batch_isend_irecv([dist.P2POp(dist.isend, sent, partner), dist.P2POp(dist.irecv, received, partner)])
    for work in works:
        work.wait()
    if sent.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began_s
