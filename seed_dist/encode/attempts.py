"""Encoders on batches that may be too large for the memory, or hold a sample that an encoder cannot take."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seed_dist.encode.batches import Batch
from seed_dist.encode.encoder import Encoder
from seed_dist.errors import DataError, SeedDistError

_LOG = logging.getLogger("seed_dist")
# What torch and the allocators of CPU and GPU say; only some of it comes as an error class of its own.
_MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
)
_OF_A_SAMPLE = (RuntimeError, ValueError, ArithmeticError, LookupError)  # what models raise for input they cannot take


@dataclass(frozen=True)
class Fault:
    """Why a sample has no features: `reason` for counting, `detail` for a person."""

    reason: str
    detail: str


Outcome = tuple[npt.NDArray[Any], dict[int, Fault]]  # stored features [B, ...], and the places that have none


class Attempts:
    """Runs encoders over batches, in pieces as large as the memory allows.

    When memory runs out the piece is halved and tried again, down to one sample, and later batches are cut alike: what
    did not fit once is not tried again. A sample that makes an encoder fail is found and left out; the others go
    through the encoder in a batch of the same size, so their numbers are what they would have been without it.
    """

    def __init__(self) -> None:
        self.most: int | None = None  # samples at once; None = whole batches

    def __call__(self, encoders: Sequence[Encoder], batch: Batch) -> list[Outcome]:
        """For each encoder its features of the batch. DataError where a single sample does not fit into memory."""
        pieces = list(self._pieces(encoders, batch))
        return [_joined([piece[number] for piece in pieces]) for number in range(len(encoders))]

    def _pieces(self, encoders: Sequence[Encoder], batch: Batch) -> Iterator[list[Outcome]]:
        start = 0
        while start < len(batch.keys):
            stop = min(start + (self.most or len(batch.keys)), len(batch.keys))
            whole = (start, stop) == (0, len(batch.keys))
            piece = batch if whole else batch.part(start, stop)
            try:
                outcomes = [_encoded(encoder, piece) for encoder in encoders]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                shortage = str(error).splitlines()[0] if str(error) else type(error).__name__
            else:
                yield outcomes
                start = stop
                continue
            self._halve(piece, shortage)  # out of the handler, whose traceback holds on to the tensors

    def _halve(self, piece: Batch, shortage: str) -> None:
        if len(piece.keys) == 1:
            raise DataError(
                f"not even one sample ({piece.keys[0]}) fits into memory: {shortage}. Free memory, or give another "
                "--device. What was finished is intact: run the same command again."
            )
        self.most = len(piece.keys) // 2
        _LOG.warning(
            "out of memory with %d samples at once (%s); going on with %d", len(piece.keys), shortage, self.most
        )
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the CPU or a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY_WORDS)


def _encoded(encoder: Encoder, batch: Batch) -> Outcome:
    error = _failure(encoder, batch)
    if not isinstance(error, BaseException):
        return error, {}
    faults: dict[int, Fault] = {}
    for place in range(len(batch.keys)):
        alone = _failure(encoder, batch.part(place, place + 1))
        if isinstance(alone, BaseException):
            faults[place] = Fault("encoder_failed", f"{type(alone).__name__}: {alone}"[:200])
    if not faults or 1 < len(faults) == len(batch.keys):
        raise error  # not one sample's fault
    return encoder(batch.blanked(faults)), faults


def _failure(encoder: Encoder, batch: Batch) -> npt.NDArray[Any] | BaseException:
    """The features, or the error that may be a sample's fault; others, and a lack of memory, are raised."""
    try:
        return encoder(batch)
    except SeedDistError:
        raise
    except _OF_A_SAMPLE as error:
        if is_out_of_memory(error):
            raise
        return error


def _joined(pieces: Sequence[Outcome]) -> Outcome:
    if len(pieces) == 1:
        return pieces[0]
    starts = np.cumsum([0, *(len(values) for values, _ in pieces)])
    faults = {
        int(start) + place: fault
        for start, (_, found) in zip(starts, pieces, strict=False)
        for place, fault in found.items()
    }
    return np.concatenate([values for values, _ in pieces]), faults
