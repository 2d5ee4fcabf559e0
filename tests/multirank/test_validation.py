"""A stop that comes during validation: two ranks leave at the same batch, and what they go on with is what they would
have done, to the last bit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seed_dist.config import load_recipe
from seed_dist.dist.comm import Comm
from seed_dist.dist.preempt import StopRequest, stop_requests
from seed_dist.errors import SeedDistError
from seed_dist.obs.journal import JOURNAL, read_journal
from seed_dist.obs.provenance import stage_identity
from seed_dist.train.data import StageData, open_data
from seed_dist.train.stages.lora import LoraStage
from seed_dist.train.start import Request, run_stage
from tests.features import tiny_workspace
from tests.harness import run_ranks

pytestmark = pytest.mark.multirank
LAST = 6
# Nine samples: five on rank 0, in three batches; four on rank 1, in two, so it is asked once more than it computes.
OPTIONS = ("validation_samples=9", "validate_every=4", "checkpoint_every=2", "keep_checkpoints=9")


def _world(comm: Comm, straight: Path, cut: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    LoraStage.validation_batch = 2
    out: dict[str, Any] = {"straight": _attempt(comm, straight, overrides)}
    # SIGTERM to one rank while it reads a batch: the second of the first validation; the first of the one after step 4,
    # twice, because it comes first when training goes on; the second of the last step's.
    for name, rank, batch in (("0", 1, 2), ("4", 0, 4), ("4 again", 1, 1), ("6", 1, 4)):
        out[name] = _attempt(comm, cut, overrides, rank, batch)
    out["no time"] = _attempt(comm, cut, overrides, stop=StopRequest(_Over()))  # type: ignore[arg-type]
    out["end"] = _attempt(comm, cut, overrides)
    return out


class _Over:
    """A job whose time is over."""

    def is_near(self) -> bool:
        return True


def _attempt(
    comm: Comm,
    work: Path,
    overrides: tuple[str, ...],
    rank: int | None = None,
    batch: int = 0,
    stop: StopRequest | None = None,
) -> tuple[str, int]:
    """How it ended, and how many validation batches this rank has read. `rank` gets a signal during its `batch`-th."""
    recipe = load_recipe("glyphs", overrides)
    data = open_data(recipe, "lora", work)
    identity = stage_identity(recipe, "lora", data.parents)
    request = Request(recipe=recipe, stage="lora", work=work, identity=identity, last_step=LAST)
    with stop_requests() as signalled, _counted(data, batch if rank == comm.rank else None) as read:
        try:
            outcome = run_stage(request, data, comm, stop or signalled).value
        except SeedDistError as error:
            outcome = str(error)
    return outcome, len(read)


@contextmanager
def _counted(data: StageData, signal_at: int | None) -> Iterator[list[int]]:
    original, read = data.val.read, list[int]()

    def counting(ids: Any, *rest: Any) -> Any:
        read.append(len(ids))
        if len(read) == signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(ids, *rest)

    data.val.read = counting  # type: ignore[method-assign]
    yield read


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path, Path]:
    """What the attempts gave on both ranks; the run that nobody disturbed, and the other one."""
    works = [tmp_path_factory.mktemp(name) for name in ("straight", "cut")]
    overrides = (*tiny_workspace(works[0]), *(f"lora_training.{option}" for option in OPTIONS))
    for name in ("features", "codebook", "language"):
        (works[1] / name).symlink_to(works[0] / name)
    answers = run_ranks(_world, 2, tmp_path_factory.mktemp("ranks"), *works, overrides)
    return answers, works[0] / "lora", works[1] / "lora"


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_journal(run / JOURNAL) if record["event"] == kind]


def test_all_ranks_leave_at_the_same_batch(ended: tuple[list[dict[str, Any]], Path, Path]) -> None:
    (first, second), _, cut = ended
    assert (first["straight"], second["straight"]) == (("finished", 9), ("finished", 6))
    # Validations before it were whole: three batches on rank 0, two on rank 1.
    assert (first["0"], second["0"]) == (("stopped", 2), ("stopped", 2))
    assert (first["4"], second["4"]) == (("stopped", 4), ("stopped", 3))
    assert (first["4 again"], second["4 again"]) == (("stopped", 1), ("stopped", 1))
    assert (first["6"], second["6"]) == (("stopped", 5), ("stopped", 4))
    assert (first["end"], second["end"]) == (("finished", 3), ("finished", 2))
    assert [(stop["step"], stop["reason"]) for stop in events(cut, "stop")] == [
        (0, None), (4, "SIGTERM"), (4, None), (6, None),
    ]  # fmt: skip


def test_each_attempt_goes_on_where_the_one_before_was_asked_to_stop(
    ended: tuple[list[dict[str, Any]], Path, Path],
) -> None:
    _, _, cut = ended
    assert [start["step"] for start in events(cut, "start")] == [0, 0, 4, 4, 6, 6]
    assert [record["step"] for record in events(cut, "step")] == list(range(1, LAST + 1)), "no step is done twice"
    assert (cut / "export").is_dir()


def test_figures_are_there_once_and_equal(ended: tuple[list[dict[str, Any]], Path, Path]) -> None:
    _, straight, cut = ended
    ignored = ("seconds", "time_s")
    figures = [
        [{key: value for key, value in record.items() if key not in ignored} for record in events(run, "validation")]
        for run in (straight, cut)
    ]
    assert [record["step"] for record in figures[0]] == [0, 4, 6]
    assert figures[0] == figures[1]
    assert figures[0][0]["validation_samples"] == 9


def test_parameters_and_optimizer_are_equal_to_the_last_bit(ended: tuple[list[dict[str, Any]], Path, Path]) -> None:
    _, straight, cut = ended
    compared = 0
    for path in (straight / f"checkpoints/step_{LAST:08d}").glob("*.safetensors"):
        ours, theirs = load_file(path), load_file(cut / "checkpoints" / path.parent.name / path.name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
        compared += len(ours)
    assert compared > 20


def test_a_validation_that_no_attempt_has_time_for_is_an_error(
    ended: tuple[list[dict[str, Any]], Path, Path],
) -> None:
    """Otherwise the job would be queued again and again and never come further."""
    first, second = ended[0]
    assert "validation at step 6" in first["no time"][0]
    assert "9 samples do not fit" in first["no time"][0]
    assert second["no time"][0].startswith("rank 0 ended with")
