"""Records on the disk: what was written comes back, damage is noticed, records of something else are refused."""

import json

import numpy as np
import pytest

from seed_dist.errors import DataError, MismatchError
from seed_dist.suites.records import RecordFolder
from seed_dist.suites.suite import Record

IDENTITY = {"suite": "toy", "protocol": {"cut": 35}, "models": {"tokenizer": "ab"}, "set": {"fingerprint": "cd"}}


def records(rows):
    return [
        Record(
            f"k{row}", {"text": f"two\u2028lines {row}", "x": row / 3}, {"v": np.arange(3) + row, "many": np.ones(row)}
        )
        for row in rows
    ]


@pytest.fixture
def folder(tmp_path):
    found = RecordFolder(tmp_path / "set" / "toy", [f"k{row}" for row in range(7)], chunk=3)
    found.claim(IDENTITY)
    for number in (2, 0, 1):
        found.write(number, records(found.rows(number)))
    return found


def test_what_was_written_comes_back_in_the_order_of_the_set(folder):
    assert folder.missing() == []
    for row, (found, wanted) in enumerate(zip(folder.read(), records(range(7)), strict=True)):
        assert (found.key, found.fields) == (wanted.key, wanted.fields)
        assert found.arrays["v"].tolist() == wanted.arrays["v"].tolist()
        assert found.arrays["many"].shape == (row,)


def test_seconds_are_those_of_all_attempts(folder):
    assert folder.seconds() == 0
    for more_s in (1.5, 2.0):
        folder.add_seconds(more_s)
    assert RecordFolder(folder.folder, folder.keys, folder.chunk).seconds() == 3.5
    (folder.folder / "seconds.json").write_text("{}")
    with pytest.raises(DataError, match="Delete it"):
        folder.add_seconds(1.0)


@pytest.mark.parametrize("kind", ["jsonl", "npz"])
@pytest.mark.parametrize("damage", ["gone", "cut", "changed", "empty"])
def test_a_broken_chunk_is_missing(folder, kind, damage):
    path = folder.folder / f"chunk-000001.{kind}"
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        middle = len(data) // 2
        changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"cut": data[:-9], "changed": changed, "empty": b""}[damage])
    assert folder.missing() == [1]
    with pytest.raises(DataError, match="Run the same command again"):
        folder.read()
    folder.write(1, records(folder.rows(1)))
    assert len(folder.read()) == 7


def test_records_of_something_else_are_refused_with_what_differs(folder):
    folder.claim(json.loads(json.dumps(IDENTITY)))
    other = {**IDENTITY, "protocol": {"cut": 32}, "models": {"tokenizer": "ab", "judge": "x"}}
    with pytest.raises(MismatchError, match=r"protocol\.cut': 35.*protocol\.cut': 32") as error:
        folder.claim(other)
    assert "models.judge" in str(error.value)
    assert "fingerprint" not in str(error.value)
    with pytest.raises(MismatchError, match="chunk"):
        RecordFolder(folder.folder, folder.keys, chunk=4).claim(IDENTITY)


def test_records_of_other_examples_are_not_kept(folder):
    with pytest.raises(DataError, match="chunk 0"):
        folder.write(0, records([1, 0, 2]))
