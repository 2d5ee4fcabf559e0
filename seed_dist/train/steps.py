"""The batches of a run's steps, read ahead by a thread into memory that is used over and over."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from seed_dist.data.prefetch import Work, prefetched
from seed_dist.data.reader import Buffers
from seed_dist.train.run import Run

_MAX_SLOTS = 4  # steps in memory: one in use, the others read ahead
_SLOT_BYTES = 1 << 30  # of all of them, unless two steps are more already
# Of the time-out of collectives: the other ranks wait while one rank's reader hangs, three times at most.
_TIMEOUT_SHARE = 0.1
_MAX_ANNOUNCED = 512  # steps; a window of the order may be longer where samples are small, but then a few steps do


def steps_ahead(run: Run, last_step: int) -> Iterator[list[dict[str, Tensor]]]:
    """This rank's micro-batches of the steps from `run.state` on. Tensors are valid until the next step is asked for:
    by then the optimizer step, which waits for the device, has seen to it that no copy to it is under way.
    """
    train = run.stage.data.train
    timeout_s = run.stage.recipe.engine.collective_timeout_s * _TIMEOUT_SHARE
    step_bytes = run.order.micro_batch * run.training.accumulation * train.sample_bytes
    count = min(_MAX_SLOTS, max(2, _SLOT_BYTES // step_bytes))
    announce = _Announcer(run, last_step)

    def make(step: int, slot: list[Buffers]) -> list[dict[str, Tensor]]:
        announce(step)
        return read_step(run, step, slot)

    def read_of(thread: int) -> tuple[str, float] | None:
        """Asked for only while the loop waits: then the watchdog should know for what."""
        found = train.read_of(thread)
        run.heartbeat.detail(found[0] if found else "")
        return found

    work = Work(
        make=make,
        slots=lambda: [_slot(run) for _ in range(count)],
        read_of=read_of,
        timeout_s=timeout_s,
    )
    return prefetched(work, run.state.step, last_step)


def read_step(run: Run, step: int, slot: list[Buffers]) -> list[dict[str, Tensor]]:
    """This rank's micro-batches of a step, a function of the step number; the stored features lie in `slot`."""
    micro_batches = run.order.micro_batches(step)
    run.heartbeat.samples(step, np.concatenate(micro_batches).tolist())
    parts = zip(micro_batches, slot, strict=True)
    return [run.stage.make_batch(ids, step, buffers) for ids, buffers in parts]


class _Announcer:
    """Tells remote data what will be read, a window of the order ahead: a window's first steps need all its blocks."""

    def __init__(self, run: Run, last_step: int) -> None:
        self._run, self._next, self._last = run, run.state.step, last_step
        window_steps = -(-run.order.samples.window_samples // run.training.global_batch)
        self._ahead = min(window_steps, _MAX_ANNOUNCED)

    def __call__(self, step: int) -> None:
        train = self._run.stage.data.train
        while train.is_remote and self._next < min(step + self._ahead + 1, self._last):
            ids = np.concatenate(self._run.order.micro_batches(self._next))
            train.announce(ids, self._run.stage.drawn_views(ids, self._next))
            self._next += 1


def _slot(run: Run) -> list[Buffers]:
    """Memory for every micro-batch of a step; pinned where a GPU copies from it."""
    sets, pinned = run.stage.data.train.sets, run.engine.comm.device.type == "cuda"

    def buffers() -> Buffers:
        found = {}
        for target, shards in sets.items():
            dtype = torch.from_numpy(np.empty(0, shards.dtype)).dtype
            shape = (run.order.micro_batch, *shards.shape)
            found[target] = torch.empty(shape, dtype=dtype, pin_memory=pinned).numpy()
        return found

    return [buffers() for _ in range(run.training.accumulation)]
