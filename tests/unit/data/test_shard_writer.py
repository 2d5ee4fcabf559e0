"""Bytes of a shard: headers are those of the standard library, digest and places are right."""

import hashlib
import tarfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_dist.data.writer import open_shard, tar_header


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=100), st.integers(0, 8**11 - 1))
def test_a_header_is_that_of_tarfile(name, size):
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, 0
    assert tar_header(name, size) == member.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(("name", "size"), [("x" * 101, 1), ("x", 8**11), ("x", -1), ("é", 1)])
def test_what_a_plain_header_cannot_say_is_refused(name, size):
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeEncodeError is one
        tar_header(name, size)


@pytest.mark.parametrize("sizes", [[], [0, 1, 511, 512, 513], [3_000_000, 5], [700] * 3000])
def test_places_and_digest(tmp_path, sizes):
    payloads = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    with open_shard(tmp_path / "x.tar") as shard:
        places = [shard.add(f"{i:09d}.bin", payload) for i, payload in enumerate(payloads)]
    entry, data = shard.entry(len(sizes)), (tmp_path / "x.tar").read_bytes()
    assert (entry.size_bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert len(data) % tarfile.RECORDSIZE == 0
    for place, payload in zip(places, payloads, strict=True):
        assert data[place.offset : place.offset + place.size] == payload
        assert place.checksum == zlib.crc32(payload)
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert [tar.extractfile(member).read() for member in tar] == payloads
