"""Reading ahead changes nothing, keeps to its memory, and tells a reader that hangs from one that is slow."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from seed_dist.data.prefetch import Work, prefetched
from seed_dist.errors import DataError


def work(make, slots=3, read_of=lambda thread: None, timeout_s=5.0):
    return Work(make, lambda: [[None] for _ in range(slots)], read_of, timeout_s)


def test_every_step_comes_once_in_order_from_another_thread():
    threads = set()

    def make(step, slot):
        threads.add(threading.current_thread().name)
        slot[0] = step * 10
        return slot

    assert [made[0] for made in prefetched(work(make), 3, 9)] == [30, 40, 50, 60, 70, 80]
    assert threads == {"reader from step 3", "reader from step 4"}
    assert list(prefetched(work(make), 4, 4)) == []


def test_no_more_is_made_than_has_memory_and_a_step_is_valid_until_the_next_is_asked_for():
    made = []

    def make(step, slot):
        made.append(step)
        slot[0] = step
        return slot

    before = set(threading.enumerate())
    steps = prefetched(work(make, slots=2), 0, 20)
    for step in range(10):
        current = next(steps)
        time.sleep(0.02)
        assert current[0] == step  # nobody wrote into it meanwhile
        assert max(made) <= step + 3
    assert sorted(made) == list(range(13))  # the three ahead are there
    steps.close()
    time.sleep(0.05)
    assert set(threading.enumerate()) <= before


def test_an_error_arrives_at_its_step():
    def make(step, slot):
        if step == 2:
            raise ValueError("torn shard")
        return step

    steps = prefetched(work(make), 0, 5)
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(ValueError, match="torn shard"):
        next(steps)


@pytest.mark.parametrize("leave", [SystemExit, KeyboardInterrupt])
def test_a_reader_does_not_die_silently(leave):
    def make(step, slot):
        raise leave(0)

    with pytest.raises(leave):
        next(prefetched(work(make), 0, 5))


class Reads:
    """Threads that read, and since when."""

    def __init__(self):
        self.now = {}

    def begin(self, place):
        self.now[threading.get_ident()] = (place, time.monotonic())

    def __call__(self, thread):
        return self.now.get(thread)


def test_another_reader_takes_over_from_one_that_hangs_and_nothing_is_skipped(caplog):
    reads, release, hung = Reads(), threading.Event(), []

    def make(step, slot):
        reads.begin(f"shard-7 at byte {step}")
        if step == 4 and not hung:
            hung.append(slot)
            release.wait()
            slot[0] = "late"  # into memory that nobody uses any more
            return slot
        slot[0] = step
        return slot

    got = []
    with caplog.at_level(logging.WARNING, "seed_dist"):
        for made in prefetched(work(make, read_of=reads, timeout_s=0.3), 0, 8):
            got.append(made[0])
            assert made is not (hung or [None])[0]
            if made[0] == 5:
                release.set()
    assert got == list(range(8))
    assert "step 4: the reader from step 0 has been reading shard-7 at byte 4 for 0." in caplog.text


def test_a_step_that_hangs_again_and_again_is_an_error_that_names_the_read():
    reads, release = Reads(), threading.Event()

    def make(step, slot):
        reads.begin("shard-7 at byte 512")
        release.wait()

    began_s = time.monotonic()
    with pytest.raises(DataError, match=r"step 3: .* reading shard-7 at byte 512 for .*2 readers before it hung too"):
        next(prefetched(work(make, read_of=reads, timeout_s=0.2), 3, 8))
    release.set()
    assert 0.6 <= time.monotonic() - began_s < 5


def test_slow_is_not_hanging():
    """A step may take much longer than a read may."""
    reads = Reads()

    def make(step, slot):
        for read in range(8):
            reads.begin(f"read {read}")
            time.sleep(0.1)
        return step

    assert list(prefetched(work(make, read_of=reads, timeout_s=0.4), 0, 2)) == [0, 1]
