"""Comm: the collectives that the rest of the program uses, passed in as an argument.

`LocalComm` is arithmetic for one process and needs no process group; `ProcessGroupComm` runs over torch.distributed. A
function that takes a Comm gives the same answer for 1 rank x B rows and n ranks x B/n rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from seed_dist.errors import SeedDistError, TrainingError

T = TypeVar("T")


class Comm(Protocol):
    """Position among the ranks and what they do together: all ranks must call its methods in the same order."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...

    def barrier(self) -> None:
        """Returns when all ranks have come here."""

    def sum(self, tensor: Tensor) -> Tensor:
        """A new tensor: the element-wise sum over ranks of tensors of one shape."""

    def mean(self, tensor: Tensor) -> Tensor:
        """A new tensor: the element-wise mean over ranks of floating tensors of one shape."""

    def gather(self, tensor: Tensor) -> Tensor:
        """[B, ...] of every rank -> [size * B, ...] in rank order, without gradient. B must be equal on all ranks."""

    def gather_with_gradient(self, tensor: Tensor) -> Tensor:
        """As `gather`; the gradient of this rank's rows is the sum of what all ranks computed for them."""

    @property
    def waited_s(self) -> float:
        """Seconds that this process has spent in sums and gathers so far, most of them waiting for others. (On a GPU
        they only enter its queue.)
        """

    def agree(self, flag: bool, tag: int = 0) -> bool:
        """True on all ranks when any rank says True (logical or). TrainingError on all ranks when their tags differ:
        then one has left out a collective, and all that follow would meet the wrong ones.
        """

    def gather_objects(self, value: T) -> list[T]:
        """Small picklable values of all ranks, in rank order, on every rank."""

    def broadcast_object(self, value: T) -> T:
        """Rank 0's value on every rank."""


class LocalComm:
    """One process: every collective is the identity."""

    rank = 0
    size = 1
    waited_s = 0.0

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def barrier(self) -> None:
        return

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.detach().clone()

    def mean(self, tensor: Tensor) -> Tensor:
        return tensor.detach().clone()

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor.detach().clone()

    def gather_with_gradient(self, tensor: Tensor) -> Tensor:
        return tensor

    def agree(self, flag: bool, tag: int = 0) -> bool:
        return flag

    def gather_objects(self, value: T) -> list[T]:
        return [value]

    def broadcast_object(self, value: T) -> T:
        return value


class ProcessGroupComm:
    """The default process group of torch.distributed, which must carry CPU tensors (gloo) beside those of `device`.

    Flags and objects travel over gloo, so that agreeing on them does not wait for the GPU's queue.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), torch.device(device)
        self.waited_s = 0.0

    def barrier(self) -> None:
        self.agree(False)

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        with self._waiting():
            dist.all_reduce(total)
        return total

    def mean(self, tensor: Tensor) -> Tensor:
        return self.sum(tensor) / self.size

    def gather(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().contiguous()
        gathered = tensor.new_empty((self.size * tensor.shape[0], *tensor.shape[1:]))
        with self._waiting():
            dist.all_gather(list(gathered.chunk(self.size)), tensor)
        return gathered

    def gather_with_gradient(self, tensor: Tensor) -> Tensor:
        return cast(Tensor, _GatherWithGradient.apply(tensor, self))  # type: ignore[no-untyped-call]

    def agree(self, flag: bool, tag: int = 0) -> bool:
        votes = torch.tensor([int(flag), tag, -tag], dtype=torch.int64)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        said, largest, smallest = votes[0].item(), votes[1].item(), -votes[2].item()
        if largest != smallest:
            raise TrainingError(
                f"rank {self.rank} votes on step {tag}, but others are at {smallest} to {largest}: one of them has "
                "left out a collective. That is a defect; the newest checkpoint is good."
            )
        return bool(said)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - began_s

    def gather_objects(self, value: T) -> list[T]:
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    def broadcast_object(self, value: T) -> T:
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]


class _GatherWithGradient(torch.autograd.Function):
    """Forward: gather. Backward: a row's gradient is the sum over ranks, because every rank's loss may depend on it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, comm: ProcessGroupComm) -> Tensor:
        ctx.comm, ctx.rows = comm, len(tensor)
        return comm.gather(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = ctx.comm.sum(gradients[0])
        first = ctx.comm.rank * ctx.rows
        return total[first : first + ctx.rows], None


class RankZeroError(SeedDistError):
    """Rank 0 met an expected error and all other ranks end with it; its message is printed there, not on every rank."""


def on_main(comm: Comm, action: Callable[[], T]) -> T:
    """Run `action` on rank 0 only and give its result to all ranks.

    An expected error or a disk error there is raised on every rank: the original on rank 0, RankZeroError with the same
    exit code elsewhere, so that no rank waits for one that has gone.
    """
    value, error = None, None
    if comm.rank == 0:
        try:
            value = action()
        except (SeedDistError, OSError) as caught:
            error = caught
    outcome = None if error is None else (str(error), getattr(error, "exit_code", 1))
    value, outcome = comm.broadcast_object((value, outcome))
    if error is not None:
        raise error
    if outcome is not None:
        elsewhere = RankZeroError(f"rank 0 ended with: {outcome[0]}")
        elsewhere.exit_code = outcome[1]
        raise elsewhere
    return cast(T, value)
