"""Who failed first, from notes as watchdogs and ranks of two nodes write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seed_dist.errors import ConfigError
from seed_dist.watch import causes
from seed_dist.watch.attempts import begin_attempt, read_attempt
from seed_dist.watch.notes import DeathNote, RankState, to_json, write_death, write_error, write_private

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [10.0.0.1]:1: Connection reset by peer")


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    return begin_attempt(tmp_path / "codebook", ["one", "one", "two", "two"])


@pytest.fixture(autouse=True)
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "codebook"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "latest").write_text("step_00000040\n")
    lines = [json.dumps({"event": "step", "step": step, "step_s": 6.0}) for step in range(30, 50)]
    (folder / "journal.jsonl").write_text("\n".join([*lines, '{"event": "st']))
    return folder


def rank(number: int, **values: object) -> RankState:
    base: dict[str, object] = {"pid": 100 + number, "step": 50, "phase": "backward", "age_s": 0.5}
    return RankState(**{"rank": number, **base, **values})  # type: ignore[arg-type]


def note(attempt: Path, host: str, why: str, suspect: int | None, *ranks: RankState, **more: object) -> None:
    values: dict[str, object] = {"oom_kill": False, "ranks": ranks, **more}
    write_death(attempt, DeathNote(host=host, time_s=100.0, why=why, suspect=suspect, **values))  # type: ignore[arg-type]


def lost(attempt: Path, number: int) -> None:
    """What a rank says whose peer has gone, raised where collectives raise it."""
    namespace: dict[str, object] = {"error": LOST}
    code = compile("def all_reduce():\n    raise error\n", "torch/distributed/distributed_c10d.py", "exec")
    exec(code, namespace)
    try:
        namespace["all_reduce"]()  # type: ignore[operator]
    except RuntimeError as error:
        write_error(attempt, number, "one", ("backward", 50), error)


def test_a_killed_rank_is_first_though_others_spoke_before_it_was_seen(attempt: Path) -> None:
    for number in (0, 1, 2):
        lost(attempt, number)
    note(attempt, "one", "told", None, rank(0), rank(1))
    note(attempt, "two", "died", 3, rank(2, died_s=99.0), rank(3, died_s=200.0, signal=9, samples=(7, 8)))
    cause = causes.find_cause(attempt)
    assert (cause.kind, cause.rank, cause.host, cause.what) == ("killed", 3, "two", "killed by SIGKILL")
    assert (cause.secondary, cause.silent_hosts) == ((0, 1, 2), ())
    assert (cause.saved_step, cause.lost_minutes) == (40, 1.0)  # ten steps of six seconds
    page = causes.write_page(attempt, cause)
    for text in ("rank 3 on two", "backward", "7, 8", "40 steps", "10 steps, 1 min", "requeue", "attempt-1"):
        assert text in page
    died = read_attempt(attempt)
    assert (died.outcome, died.kind, died.step, died.saved_step) == ("died", "killed", 50, 40)


def test_ranks_that_the_watchdog_killed_are_no_cause(attempt: Path) -> None:
    waiting = rank(0, step=50, waits_for_others=True, died_s=120.0, signal=9)
    note(attempt, "one", "hung", 0, waiting, rank(1, died_s=120.0, signal=9), killed=(0, 1))
    hanging = rank(2, step=50, phase="forward", age_s=300.0, is_stopped=True, died_s=121.0, signal=9)
    note(attempt, "two", "hung", 2, hanging, rank(3, died_s=122.0, signal=9), killed=(2, 3))
    write_private(attempt / "rank_00002.stack", "the stack\n")
    cause = causes.find_cause(attempt)
    assert (cause.kind, cause.rank, cause.evidence) == ("hang", 2, "the stack\n")
    assert cause.what == "no sign of life for 300 s, stopped by a signal"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("boom"), "exception"),
        (MemoryError(), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "oom"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "oom"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "device"),
        (ConnectionResetError("Connection reset by peer"), "exception"),  # a disk's or a server's, not a rank's
    ],
)
def test_an_exception_is_first_and_classified(attempt: Path, error: Exception, kind: str) -> None:
    lost(attempt, 0)
    write_error(attempt, 1, "one", ("forward", 50), error)
    cause = causes.find_cause(attempt)
    assert (cause.kind, cause.rank, cause.secondary) == (kind, 1, (0,))
    assert type(error).__name__ in cause.evidence


def test_an_expected_error_is_told_in_its_own_words_and_without_a_traceback(attempt: Path) -> None:
    write_error(attempt, 0, "one", ("start", 0), ConfigError(["lora.rank is 0; at least 1 is needed", "seed is x"]))
    cause = causes.find_cause(attempt)
    page = causes.write_page(attempt, cause)
    assert "cause:         error: ConfigError: 2 configuration problem(s): - lora.rank is 0; at least 1" in page
    assert "seed is x" in page
    assert "ConfigError" in cause.evidence  # kept for whoever mends the program
    write_error(attempt, 0, "one", ("start", 0), ValueError("boom"))
    other = causes.write_page(attempt, causes.find_cause(attempt))
    assert [text.count("\n\n") for text in (page, other)] == [0, 1]
    assert other.endswith("\n\nValueError: boom\n")


def test_a_kill_while_the_kernel_kills_for_memory_is_out_of_memory(attempt: Path) -> None:
    note(attempt, "one", "died", 1, rank(0), rank(1, died_s=100.0, signal=9), oom_kill=True)
    assert causes.find_cause(attempt).kind == "oom"
    note(attempt, "one", "died", 1, rank(0), rank(1, died_s=100.0, signal=11), oom_kill=True)
    assert causes.find_cause(attempt).kind == "crash"


def test_only_lost_connections_are_the_network_and_a_silent_node_is_named(attempt: Path) -> None:
    lost(attempt, 1)
    lost(attempt, 0)
    note(attempt, "one", "told", None, rank(0), rank(1))
    cause = causes.find_cause(attempt)
    assert (cause.kind, cause.silent_hosts) == ("network", ("two",))
    assert "from two no word came" in cause.what


def test_an_attempt_without_notes_is_still_told(attempt: Path) -> None:
    assert causes.find_cause(attempt).kind == "unknown"
    write_private(attempt / "node_one.death.json", to_json({})[:1])  # cut off
    assert causes.find_cause(attempt).kind == "unknown"
