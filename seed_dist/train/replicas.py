"""Whether all ranks still hold the same weights: what a faulty memory or link changed silently on one of them.

Every rank holds all parameters, trained and frozen, and the persistent buffers, and nothing may tell them apart.
"""

from __future__ import annotations

import socket
from collections import Counter

import torch
from torch import Tensor, nn

from seed_dist.dist.comm import Comm
from seed_dist.errors import TrainingError

_MIX = 0x1E3779B97F4A7C15  # any large odd number; SplitMix64's without its highest bit
_BLOCK = 1 << 24  # numbers at a time: 128 MiB as int64
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_replicas(module: nn.Module, comm: Comm) -> None:
    """TrainingError that names the odd rank, its host and what differs. All ranks must call it.

    To be called before an optimizer step: that overwrites every rank's trained parameters from the masters, and with
    them what had become of one rank's.
    """
    if comm.size == 1:
        return
    tensors = module.state_dict()
    digests = torch.stack([_digest(tensor) for tensor in tensors.values()]).cpu()
    by_rank = comm.gather(digests[None])
    differing = [name for name, column in zip(tensors, by_rank.T, strict=True) if len(column.unique()) > 1]
    if not differing:
        return
    rows = [tuple(row) for row in by_rank.tolist()]
    usual, holders = Counter(rows).most_common(1)[0]
    odd = [rank for rank, row in enumerate(rows) if row != usual]
    hosts = comm.gather_objects(socket.gethostname())
    who = ", ".join(f"rank {rank} on {hosts[rank]}" for rank in odd)
    if 2 * holders <= comm.size:
        who = f"{who}, or the other {holders} of {comm.size}: no majority agrees"
    raise TrainingError(
        f"the ranks no longer hold the same weights: {len(differing)} tensor(s), {', '.join(differing[:3])} first. The "
        f"odd one out is {who}. Leave that machine out (sbatch --exclude) and start again: the run goes on from its "
        "newest checkpoint. When that is younger than the last check that went well, remove it first."
    )


def _digest(tensor: Tensor) -> Tensor:
    """The sum modulo 2^64 of the bits as whole numbers, each times an odd number that its place gives: any single
    flipped bit changes it, and so do values that have changed places, such as codes that were drawn in another order.
    """
    words = tensor.detach().contiguous().view(-1)
    blocks = words.view(_WORDS[words.element_size()]).split(_BLOCK)
    places = torch.arange(min(_BLOCK, len(words)), device=words.device) * _MIX
    odd = (places ^ (places >> 32)) * _MIX | 1  # no linear function of the place: rows of equal sums may change theirs
    sums = [(block * odd[: len(block)]).sum() * (2 * n + 1) for n, block in enumerate(blocks)]
    return torch.stack(sums).sum()
