"""What can go wrong while features are read, each on real files: nothing wrong is trained on, nothing comes twice or
not at all, and what hangs is named.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from seed_dist.config import TrainConfig
from seed_dist.data.prefetch import Work, prefetched
from seed_dist.data.reader import PairedFeatures
from seed_dist.errors import DataError, SeedDistError
from seed_dist.order import SampleOrder
from seed_dist.train.data import Order
from tests.features import write_features
from tests.file_server import serving

ROOT = Path(__file__).resolve().parents[2]
# Two windows of the order; 12 shards, the last of 6; epochs end inside batches.
SAMPLES, PER_SHARD, GLOBAL_BATCH = 1546, 140, 24
VALUES = np.arange(SAMPLES * 40).reshape(SAMPLES, 5, 8).astype(np.float32)  # a sample tells its number


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_features(tmp_path, "train", "causal", VALUES, ["c"] * SAMPLES, per_shard=PER_SHARD)


def opened(folder: Path) -> PairedFeatures:
    return PairedFeatures(folder.parents[2], "train", ("causal",))


def orders(size: int, accumulation: int = 1) -> list[Order]:
    """Of every rank, in blocks of one sample."""
    training = TrainConfig(steps=1000, global_batch=GLOBAL_BATCH, accumulation=accumulation)
    return [Order(SampleOrder(SAMPLES, 3, 1), training, rank, size) for rank in range(size)]


def reading(features: PairedFeatures, order: Order, timeout_s: float = 20.0) -> Work:
    """What the training loop asks of its reader, see seed_dist/train/steps.py."""

    def make(step: int, slot: np.ndarray) -> np.ndarray:
        ids = np.concatenate(order.micro_batches(step))
        return features.read(ids, {"causal": slot})["causal"]

    local = GLOBAL_BATCH // order.size
    slots = lambda: [np.empty((local, 5, 8), np.float32) for _ in range(4)]  # noqa: E731
    return Work(make, slots, features.read_of, timeout_s)


def consumed(features: PairedFeatures, order: Order, first: int, last: int) -> list[list[int]]:
    """The numbers of the samples that arrive, read off their values, step by step."""
    steps = prefetched(reading(features, order), first, last)
    return [(batch[:, 0, 0] / 40).astype(int).tolist() for batch in steps]


def uninterrupted(steps: int) -> list[list[int]]:
    order = orders(1)[0]
    return [order.micro_batches(step)[0].tolist() for step in range(steps)]


def describe_remote(folder: Path, url: str, cache: Path) -> None:
    """The shards were moved behind a server."""
    value = {"url": url, "cache": str(cache), "cache_bytes": 100_000_000}
    (folder / "remote.json").write_text(json.dumps(value))


def read_everything(folder: Path) -> None:
    """A whole epoch, with every sample compared: passes only when all of it is right."""
    features = opened(folder)
    assert (features.read(np.arange(SAMPLES))["causal"] == VALUES).all()


def test_l1_a_shard_cut_anywhere_is_never_trained_on(folder: Path) -> None:
    path = folder / "shard-000004.tar"
    intact = path.read_bytes()
    cuts = [*range(0, len(intact), 512), *np.random.default_rng(0).integers(0, len(intact), 20).tolist()]
    for cut in cuts:
        path.write_bytes(intact[:cut])
        with pytest.raises(DataError, match=r"shard-000004.tar has \d+ bytes, but the manifest says"):
            opened(folder)
    path.write_bytes(intact)
    features = opened(folder)  # cut after it was opened
    os.truncate(path, 5000)
    with pytest.raises(DataError, match=r"sample 00000\d\d\d in .*shard-000004.tar ends after .* Restore shard-000004"):
        features.read(np.arange(SAMPLES))


def test_l2_a_flipped_bit_is_never_trained_on(folder: Path) -> None:
    read_everything(folder)
    path, rng = folder / "shard-000007.tar", np.random.default_rng(0)
    intact = path.read_bytes()
    index = opened(folder).sets["causal"]._files.index
    for row in range(7 * PER_SHARD, 8 * PER_SHARD, 12):
        data = bytearray(intact)
        data[int(index.offset[row]) + int(rng.integers(int(index.size[row])))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"sample {row:08d} in .*shard-000007.tar has checksum"):
            read_everything(folder)


def test_l3_a_missing_and_an_added_shard(folder: Path) -> None:
    (folder / "shard-000012.tar").write_bytes((folder / "shard-000000.tar").read_bytes())
    read_everything(folder)  # the manifest says what belongs to the set
    (folder / "shard-000003.tar").unlink()
    with pytest.raises(DataError, match=r"shard-000003.tar is missing"):
        opened(folder)
    (folder / "shard-000012.tar").rename(folder / "shard-000003.tar")  # another shard under its name
    with pytest.raises(DataError, match=r"in .*shard-000003.tar has checksum"):
        read_everything(folder)


CONSUMER = """
import sys, time
from pathlib import Path
from tests.faults.test_loading import opened, orders, prefetched, reading
folder, log, rank, size, first = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
work = reading(opened(folder), orders(size)[rank])
made = []
noted = lambda step, slot: (made.append(step), work.make(step, slot))[1]
steps = prefetched(type(work)(noted, work.slots, work.read_of, 20.0), first, 1000)
with log.open("a") as file:
    for step, batch in enumerate(steps, first):
        while len(made) < step - first + 4:
            time.sleep(0.001)  # until all memory is full of steps that nobody has had
        print(step, *(batch[:, 0, 0] / 40).astype(int).tolist(), file=file, flush=True)
"""


def test_l4_l8_a_killed_rank_goes_on_behind_what_it_consumed_not_what_it_had_read_ahead(
    folder: Path, tmp_path: Path
) -> None:
    """Three kills, each with a full queue; the position is the number of consumed steps."""
    log = tmp_path / "consumed"
    log.touch()
    for kill in range(1, 4):
        first = len(log.read_text().splitlines())
        command = [sys.executable, "-c", CONSUMER, str(folder), str(log), "0", "1", str(first)]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        deadline = time.monotonic() + 60
        while len(log.read_text().splitlines()) < first + 3 * kill and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        lines = log.read_text().splitlines(keepends=True)
        log.write_text("".join(line for line in lines if line.endswith("\n")))  # a torn line is no consumed step
    lines = [list(map(int, line.split())) for line in log.read_text().splitlines()]
    assert [line[0] for line in lines] == list(range(len(lines)))
    assert len(lines) >= 18
    expected = uninterrupted(len(lines))
    assert [line[1:] for line in lines] == expected


def test_l5_a_read_that_hangs_is_named_and_another_reader_takes_over(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is replaced by a pipe that nobody writes to: opening it blocks in the kernel as a dead mount would."""
    features, path = opened(folder), folder / "shard-000005.tar"
    path.rename(folder / "aside")
    os.mkfifo(path)

    def heal() -> None:
        path.rename(folder / "pipe")
        (folder / "aside").rename(path)

    timer = threading.Timer(0.7, heal)
    timer.start()
    began_s = time.monotonic()
    try:
        with caplog.at_level(logging.WARNING, "seed_dist"):
            steps = prefetched(reading(features, orders(1)[0], timeout_s=0.5), 0, 20)
            got = [(batch[:, 0, 0] / 40).astype(int).tolist() for batch in steps]
    finally:
        timer.join()
        os.close(os.open(folder / "pipe", os.O_WRONLY | os.O_NONBLOCK))  # lets the left reader go
    assert got == uninterrupted(20)
    assert time.monotonic() - began_s < 5
    assert "has been reading" in caplog.text
    assert "shard-000005.tar at byte" in caplog.text


def test_l5_a_read_that_hangs_for_good_ends_the_run_long_before_the_collectives_do(folder: Path) -> None:
    features, path = opened(folder), folder / "shard-000005.tar"
    path.unlink()
    os.mkfifo(path)
    began_s = time.monotonic()
    with pytest.raises(DataError, match=r"has been reading .*shard-000005.tar at byte \d+ .* start again"):
        list(prefetched(reading(features, orders(1)[0], timeout_s=0.3), 0, 20))
    assert time.monotonic() - began_s < 5
    waiting = sum(thread.name.startswith("reader from") for thread in threading.enumerate())
    for _ in range(100):  # lets the left readers go: each opening of the pipe needs a writer
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            break
        time.sleep(0.01)
    assert waiting >= 1


def test_l6_another_number_of_ranks_or_micro_batches_in_the_middle_reads_the_same(folder: Path) -> None:
    features = opened(folder)
    lines: list[list[int]] = []
    for size, accumulation, last in [(1, 1, 5), (2, 1, 9), (3, 1, 16), (4, 1, 20), (8, 1, 27), (24, 1, 31)]:
        ranks = [consumed(features, order, len(lines), last) for order in orders(size, accumulation)]
        lines += [[number for part in parts for number in part] for parts in zip(*ranks, strict=True)]
    assert lines == uninterrupted(31)


@pytest.mark.parametrize("size", [1, 3, 8, 24])
def test_l7_epochs_end_without_a_short_batch_a_double_or_a_rank_without_work(folder: Path, size: int) -> None:
    """More ranks than the last shard has samples; 1546 samples are no multiple of any batch."""
    steps = -(-3 * SAMPLES // GLOBAL_BATCH)
    positions = [order.samples.batch(step, GLOBAL_BATCH) for order in orders(1) for step in range(steps)]
    flat = np.concatenate(positions)
    for epoch in range(3):
        assert sorted(flat[epoch * SAMPLES : (epoch + 1) * SAMPLES]) == list(range(SAMPLES))
    features = opened(folder)
    ranks = [consumed(features, order, 0, steps) for order in orders(size)]
    assert {len(part) for parts in ranks for part in parts} == {GLOBAL_BATCH // size}
    for step in range(steps):
        assert sorted(number for parts in ranks for number in parts[step]) == sorted(positions[step])


def test_l9_a_slow_source_is_waited_for_and_the_wait_is_seen(folder: Path, tmp_path: Path) -> None:
    """Every answer takes a fifth of the time that counts as hanging; the steps together take several times that."""
    (tmp_path / "server").mkdir()
    for shard in folder.glob("*.tar"):
        shard.rename(tmp_path / "server" / shard.name)
    with serving(tmp_path / "server") as server:
        describe_remote(folder, server.url, tmp_path / "cache")
        server.delay_s = 0.2
        waits_s, got = [], []
        steps = prefetched(reading(opened(folder), orders(1)[0], timeout_s=1.0), 0, 10)
        began_s = time.monotonic()
        for batch in steps:
            waits_s.append(time.monotonic() - began_s)
            got.append((batch[:, 0, 0] / 40).astype(int).tolist())
            began_s = time.monotonic()
    assert got == uninterrupted(10)
    assert waits_s[0] > 1.0  # twelve shards, one after the other
    assert max(waits_s[5:]) < 0.5  # then all of it is on this node


def test_a_server_that_never_answers_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    for shard in folder.glob("*.tar"):
        shard.rename(tmp_path / "server" / shard.name)
    with serving(tmp_path / "server") as server:
        describe_remote(folder, server.url, tmp_path / "cache")
        features = opened(folder)
        server.faults = ["hang"] * 100
        with pytest.raises(SeedDistError, match=rf"has been reading {server.url}/shard-0000\d\d.tar at byte \d+"):
            next(prefetched(reading(features, orders(1)[0], timeout_s=0.3), 0, 10))
