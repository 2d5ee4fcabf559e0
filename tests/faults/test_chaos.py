"""Chaos: one fault after the other, drawn from a fixed seed, until the training is through; and then it must be the one
that nobody disturbed, and every sample must have come exactly once.

    python -m pytest -s -m nightly tests/faults/test_chaos.py

The loop below does what a batch system does: it starts the ranks, ends them all when one has ended, and starts again.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from seed_dist.config import load_recipe
from seed_dist.obs.journal import JOURNAL, parse_journal, read_journal
from seed_dist.order import SampleOrder, block_samples, digest
from seed_dist.proof.comparison import compare_runs
from seed_dist.train.data import open_data
from seed_dist.train.state import derived_seed
from tests.features import tiny_workspace
from tests.harness import TIMEOUT_S, finish, start_module_ranks

pytestmark = [pytest.mark.multirank, pytest.mark.slow]
RANKS, SAVE_EVERY, SAMPLES, GLOBAL_BATCH = 4, 5, 90, 8
COLLECTIVE_TIMEOUT_S = TIMEOUT_S / 16  # ranks must have started within it: a machine that is busy needs more
GRACE_S = COLLECTIVE_TIMEOUT_S + 4.0  # for the others after one has ended
SAVE_POINTS = ("begun", "file_written", "files_written", "manifest_written", "renamed", "pruning")
STEP_POINTS = ("before_step", "before_advance")


@dataclass
class Chaos:
    """One run directory and what is done to it."""

    work: Path
    overrides: tuple[str, ...]
    steps: int
    ahead: tuple[int, int]  # steps from one fault to the next
    rng: random.Random = field(default_factory=lambda: random.Random(4146))
    said: str = ""  # in the last attempt
    kinds: list[str] = field(default_factory=list)  # still to come before any comes again

    @property
    def run(self) -> Path:
        return self.work / "codebook"

    @property
    def is_finished(self) -> bool:
        return any(record["event"] == "finished" for record in read_journal(self.run / JOURNAL))

    @property
    def step(self) -> int:
        path = self.run / JOURNAL
        records = parse_journal(path.read_text()) if path.exists() else []
        return records[-1]["step"] if records else 0

    def attempt(
        self, fault: str = "", mlflow: str = "off", outside: tuple[int, int, signal.Signals] | None = None
    ) -> list[int]:
        """Start the ranks and wait for all of them; `outside` sends (rank, at step, signal) from here."""
        settings = [word for item in self.overrides for word in ("--set", item)]
        arguments = [
            "--recipe",
            "glyphs",
            "--stage",
            "codebook",
            "--work",
            str(self.work),
            "--mlflow",
            mlflow,
            *settings,
        ]
        processes = start_module_ranks("seed_dist.train", arguments, RANKS, self.work, {"SEED_DIST_FAULT": fault})
        began_s, ended_s = time.monotonic(), None
        while any(process.poll() is None for process in processes):
            now = time.monotonic()
            assert now - began_s < TIMEOUT_S, f"still running: {fault} {outside}"
            if outside is not None and self.step >= outside[1]:
                processes[outside[0]].send_signal(outside[2])
                outside = None
            if ended_s is None and any(process.poll() is not None for process in processes):
                ended_s = now
            if ended_s is not None and now - ended_s > GRACE_S:
                for process in processes:
                    process.kill()
            time.sleep(0.02)
        done = finish(processes)
        self.said = "\n".join(text[-2000:] for _, text in done)
        return [code for code, _ in done]

    def disturb(self) -> None:
        """One attempt with one fault. Each kind of fault comes once before any comes again."""
        if not self.kinds:
            self.kinds = list(FAULTS)
            self.rng.shuffle(self.kinds)
        kind = self.kinds.pop()
        before = self.step
        codes = FAULTS[kind](self, before + self.rng.randint(*self.ahead), self.rng.randrange(RANKS))
        print(f"{kind:<28} steps {before:>3} to {self.step:>3}, exit codes {codes}", flush=True)
        assert self.is_finished or codes != [0] * RANKS, f"{kind} looked like success"

    def next_save(self, step: int) -> int:
        return -(-step // SAVE_EVERY) * SAVE_EVERY


def killed(chaos: Chaos, step: int, rank: int) -> list[int]:
    """T1 to T4, at any moment."""
    return chaos.attempt(outside=(rank, step, signal.SIGKILL))


def killed_in_a_step(chaos: Chaos, step: int, rank: int) -> list[int]:
    """T3 and T4: around the optimizer step."""
    return chaos.attempt(f"train.{chaos.rng.choice(STEP_POINTS)}:{rank}:{step}:kill")


def leaves_with_success(chaos: Chaos, step: int, rank: int) -> list[int]:
    """T5: exit code 0 in the middle."""
    return chaos.attempt(f"train.before_step:{rank}:{step}:exit0")


def raises(chaos: Chaos, step: int, rank: int) -> list[int]:
    """T6."""
    return chaos.attempt(f"train.before_step:{rank}:{step}:raise")


def hangs(chaos: Chaos, step: int, rank: int) -> list[int]:
    """T7: stopped without dying, until the others' collective times out."""
    return chaos.attempt(outside=(rank, step, signal.SIGSTOP))


def killed_in_a_save(chaos: Chaos, step: int, rank: int) -> list[int]:
    """C1 and C2; what only rank 0 does can only happen to rank 0."""
    point = chaos.rng.choice(SAVE_POINTS)
    return chaos.attempt(f"checkpoint.{point}:*:{chaos.next_save(step)}:kill")


def disk_is_full_in_a_save(chaos: Chaos, step: int, rank: int) -> list[int]:
    """C3: training goes on without it; then the rank dies."""
    full = f"checkpoint.file_written:{rank}:{chaos.next_save(step)}:full"
    return chaos.attempt(f"{full},train.before_step:{rank}:{chaos.next_save(step) + 3}:kill")


def newest_checkpoint_is_damaged(chaos: Chaos, step: int, rank: int) -> list[int]:
    """C4: a byte of the newest is changed, then the run is killed in its next life."""
    saved = sorted((chaos.run / "checkpoints").glob("step_*[0-9]"))
    if len(saved) > 1:
        path = chaos.rng.choice(sorted(saved[-1].glob("*.safetensors")))
        content = bytearray(path.read_bytes())
        content[chaos.rng.randrange(len(content))] ^= 1 << chaos.rng.randrange(8)
        path.write_bytes(content)
        step -= SAVE_EVERY
    return chaos.attempt(f"train.before_advance:{rank}:{max(step, 1)}:kill")


def asked_to_stop(chaos: Chaos, step: int, rank: int) -> list[int]:
    """S1 seen from here: a signal to one rank, all save and leave with 75."""
    codes = chaos.attempt(outside=(rank, step, signal.SIGTERM))
    assert chaos.is_finished or codes == [75] * RANKS
    return codes


def shard_is_cut(chaos: Chaos, step: int, rank: int) -> list[int]:
    """L1: what cannot be read is not trained on; mended, it goes on."""
    path = chaos.work / "features" / "causal" / "train" / "shard-000000.tar"
    intact = path.read_bytes()
    os.truncate(path, len(intact) // 2)
    codes = chaos.attempt()
    path.write_bytes(intact)
    assert codes == [3] * RANKS
    return codes


def mlflow_is_broken(chaos: Chaos, step: int, rank: int) -> list[int]:
    """O1: its database is garbage while it is copied to live; then the rank dies."""
    chaos.run.mkdir(exist_ok=True)
    (chaos.run / "mlflow.db").write_bytes(b"garbage" * 1000)
    codes = chaos.attempt(f"train.before_step:{rank}:{step}:kill", mlflow="live")
    (chaos.run / "mlflow.db").unlink(missing_ok=True)
    return codes


FAULTS = {
    function.__name__: function
    for function in (
        killed, killed_in_a_step, leaves_with_success, raises, hangs, killed_in_a_save, disk_is_full_in_a_save,
        newest_checkpoint_is_damaged, asked_to_stop, shard_is_cut, mlflow_is_broken,
    )
}  # fmt: skip


def workspace(work: Path, steps: int) -> tuple[str, ...]:
    """The tiny codebook stage, long enough to be disturbed; the value is the recipe's overrides."""
    overrides = tiny_workspace(work, SAMPLES)
    shutil.rmtree(work / "codebook")  # the untrained export that the third stage's tests need
    options = {"steps": steps, "validate_every": 2 * SAVE_EVERY, "checkpoint_every": SAVE_EVERY, "keep_checkpoints": 3}
    training = (f"codebook_training.{name}={value}" for name, value in options.items())
    return (*overrides, *training, f"engine.collective_timeout_s={COLLECTIVE_TIMEOUT_S}")


def assert_every_sample_came_once_per_epoch(chaos: Chaos) -> None:
    """By the digests of what was trained on, in all attempts; and none of the steps that count is missing."""
    recipe = load_recipe("glyphs", chaos.overrides)
    train = open_data(recipe, "codebook", chaos.work).train
    seed = derived_seed(recipe.seed, "order", train.fingerprint)
    order = SampleOrder(len(train), seed, block_samples(train.sample_bytes))
    batches = [order.batch(step, GLOBAL_BATCH) for step in range(chaos.steps)]
    ids = np.concatenate(batches)
    for epoch in range(len(ids) // SAMPLES):
        assert sorted(ids[epoch * SAMPLES : (epoch + 1) * SAMPLES]) == list(range(SAMPLES))
    expected = [f"{digest([batch]):016x}" for batch in batches]
    ledger = [record for record in read_journal(chaos.run / JOURNAL) if record["event"] == "step"]
    assert [record["step"] for record in ledger] == list(range(1, chaos.steps + 1))
    assert [record["samples_digest"] for record in ledger] == expected
    everything = [record for record in parse_journal((chaos.run / JOURNAL).read_text()) if record["event"] == "step"]
    assert all(record["samples_digest"] == expected[record["step"] - 1] for record in everything)


def carry_out(tmp_path: Path, steps: int, ahead: tuple[int, int]) -> int:
    """The twin, then chaos until the end; the value is the number of disturbed attempts."""
    twin, chaos = (
        Chaos(tmp_path / name, workspace(tmp_path / name, steps), steps, ahead) for name in ("twin", "chaos")
    )
    assert twin.attempt() == [0] * RANKS, twin.said
    began_s, disturbed = time.monotonic(), 0
    while chaos.step < steps - ahead[0] and not chaos.is_finished:
        chaos.disturb()
        disturbed += 1
    for _ in range(3):  # to the end: the last fault may have been a request to stop
        if chaos.is_finished or chaos.attempt() == [0] * RANKS:
            break
    wall_s = time.monotonic() - began_s
    assert chaos.is_finished, chaos.said
    found = compare_runs(twin.run, chaos.run, steps, same_world=True)
    assert found.difference is None, str(found.difference)
    assert found.counts["tensors"] > 100
    assert_every_sample_came_once_per_epoch(chaos)
    useful_s = sum(record["step_s"] for record in read_journal(chaos.run / JOURNAL) if record["event"] == "step")
    print(f"{disturbed} faults in {wall_s:.0f} s; useful step time {useful_s:.1f} s, effective-time ratio "
          f"{useful_s / wall_s:.3f} (the rest is starting {RANKS} ranks)")  # fmt: skip
    return disturbed


@pytest.mark.timeout(8 * TIMEOUT_S)
def test_a_minute_of_chaos_ends_like_the_undisturbed_run(tmp_path: Path) -> None:
    assert carry_out(tmp_path, steps=50, ahead=(5, 15)) >= 3


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_ten_minutes_of_chaos_end_like_the_undisturbed_run(tmp_path: Path) -> None:
    assert carry_out(tmp_path, steps=400, ahead=(5, 30)) >= len(FAULTS)
