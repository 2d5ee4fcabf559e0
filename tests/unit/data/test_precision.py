"""Stored precisions: what comes back, how far it is off, and that it stays an ordinary array file."""

import io

import numpy as np
import pytest
import torch

from seed_dist.data.precision import PRECISIONS, decoded, decoded_dtype, finite_rows, stored_layout
from seed_dist.data.reader import FeatureShards
from seed_dist.encode.encoder import as_array
from tests.unit.data.test_shard_reader import write_set

SHAPE = (7, 33)


def features(scale=1.0):
    """Like activations: heavy tails, tokens of unlike size, one of zeros."""
    values = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0)) ** 3
    values *= torch.logspace(-3, 3, SHAPE[0])[:, None] * scale
    values[2, 3] = 0
    return values


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_stored_as_the_layout_says(dtype):
    stored = as_array(features(), dtype)
    kind, shape = stored_layout(dtype, SHAPE)
    assert (stored.dtype, stored.shape) == (kind, (5, *shape))
    back = decoded(stored, dtype)
    assert (back.dtype, back.shape) == (decoded_dtype(dtype), (5, *SHAPE))


def test_bfloat16_is_torchs():
    values = features()
    assert (decoded(as_array(values, "bfloat16"), "bfloat16") == values.bfloat16().float().numpy()).all()


@pytest.mark.parametrize("scale", [1.0, 1e-7, 100.0])
def test_int8_is_off_by_half_a_step_of_its_token_at_most(scale):
    values = features(scale)
    back = torch.from_numpy(decoded(as_array(values, "int8"), "int8"))
    largest = values.abs().amax(-1, keepdim=True)
    # A step is the largest magnitude / 127, a little more because an fp16 is rounded up: 2^-10 of it, at least 2^-24.
    step = largest / 127 * (1 + 2**-10) + 2**-24
    assert ((back - values).abs() <= step / 2 * 1.0001).all()
    assert (back[2, 3] == 0).all()
    assert ((back - values).abs() > step / 8).any()  # it is no better than it can be: the bound is not idle


def test_int8_of_known_values():
    stored = as_array(torch.tensor([[[1.0, -2.0, 127.0, 0.4, 0.6]]]), "int8")
    assert stored[0, 0, :-2].tolist() == [1, -2, 127, 0, 1]
    assert stored[0, 0, -2:].view("<f2").tolist() == [1.0]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_found_in_its_row_alone(dtype, bad):
    values = features()
    values[3, 6, 32] = bad
    stored = as_array(values, dtype)
    assert finite_rows(stored, dtype).tolist() == [True, True, True, False, True]
    others = [0, 1, 2, 4]
    assert (stored[others] == as_array(features(), dtype)[others]).all()


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_reader_decodes_into_memory_that_is_given(tmp_path, dtype):
    stored = as_array(features(), dtype)
    write_set(tmp_path / "s", stored, details={"dtype": dtype, "shape": list(SHAPE)})
    shards = FeatureShards(tmp_path / "s")
    assert (shards.dtype, shards.shape) == (decoded_dtype(dtype), SHAPE)
    assert shards.value_bytes == stored[0].nbytes
    ids = np.array([4, 0, 4])
    out = np.full((3, *SHAPE), 7, shards.dtype)
    assert shards.read(ids, out) is out
    assert (out == decoded(stored[ids], dtype)).all()
    assert (shards.read_stored(ids) == stored[ids]).all()
    member = bytes(shards._files.read(1))
    assert (np.load(io.BytesIO(member)) == stored[1]).all()
