"""Batches that do not fit into memory, and samples that an encoder cannot take."""

import logging

import numpy as np
import pytest
import torch

from seed_dist.encode.attempts import Attempts, is_out_of_memory
from seed_dist.encode.batches import Batch
from seed_dist.errors import DataError

COUNT = 11


def look(image):
    raise AssertionError("only a key of `pixels`")


def batch():
    pixels = torch.randn(COUNT, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    keys = [f"{i:03d}" for i in range(COUNT)]
    return Batch(keys, [f"caption {key}" for key in keys], [()] * COUNT, {look: pixels})


class Encoder:
    """A linear layer on the pixels, with a memory for so many samples and a dislike of some."""

    target, source, preprocess = "patches", "images", staticmethod(look)

    def __init__(self, fits=COUNT, shortage=None, refuses=()):
        self.fits, self.shortage, self.refuses = fits, shortage or torch.OutOfMemoryError("CUDA out of memory"), refuses
        self.sizes = []
        self.weight = torch.randn(48, 5, generator=torch.Generator().manual_seed(1))

    def __call__(self, batch):
        self.sizes.append(len(batch.keys))
        if len(batch.keys) > self.fits:
            raise self.shortage
        if any(caption.split()[-1] in self.refuses for caption in batch.captions if caption):
            raise ValueError("cannot take that")
        return (batch.pixels[look].flatten(1) @ self.weight).numpy()


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("shortage", SHORTAGES, ids=str)
def test_what_does_not_fit_is_halved_and_stays_so(shortage, caplog):
    attempts, encoder = Attempts(), Encoder(fits=3, shortage=shortage)
    with caplog.at_level(logging.WARNING, "seed_dist"):
        ((values, faults),) = attempts([encoder], batch())
    assert encoder.sizes == [11, 5, 2, 2, 2, 2, 2, 1]
    assert [record.args[0] for record in caplog.records] == [11, 5]
    assert np.allclose(values, Encoder()(batch()), atol=1e-5)
    assert faults == {}
    attempts([encoder], batch())
    assert encoder.sizes[8:] == [2, 2, 2, 2, 2, 1]


def test_a_real_shortage_of_the_cpu_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_one_sample_that_does_not_fit_ends_the_run():
    with pytest.raises(DataError, match=r"not even one sample \(000\) fits into memory: CUDA out of memory"):
        Attempts()([Encoder(fits=0)], batch())


def test_two_encoders_see_the_same_pieces():
    small, large = Encoder(fits=4), Encoder()
    outcomes = Attempts()([large, small], batch())
    assert (outcomes[0][0] == outcomes[1][0]).all()
    assert large.sizes == [11, 5, 2, 2, 2, 2, 2, 1]


def test_a_sample_that_fails_is_left_out_alone():
    ((values, faults),) = Attempts()([Encoder(refuses=("004", "009"))], batch())
    assert {place: fault.reason for place, fault in faults.items()} == {4: "encoder_failed", 9: "encoder_failed"}
    assert faults[4].detail == "ValueError: cannot take that"
    others = [place for place in range(COUNT) if place not in faults]
    assert (values[others] == Encoder()(batch())[others]).all()  # to the last bit: the batch had the same size


def test_in_pieces_the_places_are_those_of_the_whole():
    ((_, faults),) = Attempts()([Encoder(fits=4, refuses=("007",))], batch())
    assert list(faults) == [7]


def test_a_failure_of_one_encoder_is_not_the_others():
    outcomes = Attempts()([Encoder(refuses=("004",)), Encoder()], batch())
    assert [list(faults) for _, faults in outcomes] == [[4], []]


def test_what_no_sample_can_pass_is_a_defect():
    with pytest.raises(ValueError, match="cannot take that"):
        Attempts()([Encoder(refuses=[f"{i:03d}" for i in range(COUNT)])], batch())
    with pytest.raises(RuntimeError, match="only together"):
        Attempts()([Encoder(fits=1, shortage=RuntimeError("only together"))], batch())
