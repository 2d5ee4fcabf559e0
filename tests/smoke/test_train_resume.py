"""The training command itself on two ranks and a mixture of two splits: a full disk, a kill in the middle of a save, a
request to stop, and in the end exactly what an undisturbed run ends with.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seed_dist.errors import MismatchError
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.obs.journal import read_journal
from tests.features import tiny_workspace
from tests.harness import TIMEOUT_S, finish, start_module_ranks

pytestmark = [pytest.mark.multirank, pytest.mark.slow]
STEPS = 6
MIXTURE = "data.mixture=[{split: train, weight: 0.7}, {split: second, weight: 0.3}]"


def _train(work: Path, overrides: tuple[str, ...], tmp_path: Path, fault: str = "") -> list[tuple[int, str]]:
    settings = [word for item in overrides for word in ("--set", item)]
    arguments = ["--recipe", "glyphs", "--stage", "codebook", "--work", str(work), "--mlflow", "off", *settings]
    environment = {"SEED_DIST_FAULT": fault} if fault else {}
    return finish(start_module_ranks("seed_dist.train", arguments, 2, tmp_path, environment))


@pytest.mark.timeout(3 * TIMEOUT_S)
def test_a_disturbed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    works = [tmp_path / "straight", tmp_path / "disturbed"]
    overrides = [_overrides(work) for work in works]
    straight, disturbed = (work / "codebook" for work in works)
    done = _train(works[0], overrides[0], tmp_path)
    assert [code for code, _ in done] == [0, 0], done

    # The disk of rank 1 is full in the save of step 2: training goes on. In the save of step 3 it dies when it has
    # written its file and has not yet told so: nobody may commit that checkpoint.
    faults = "checkpoint.file_written:1:2:full,checkpoint.file_written:1:3:kill"
    broken = _train(works[1], overrides[1], tmp_path, faults)
    assert broken[1][0] == -9, broken
    assert broken[0][0] != 0  # its peer is gone, and that is no success
    assert "No space left" in broken[0][1]
    assert "It is tried once more" in broken[0][1]
    assert "Training goes on with earlier checkpoints" in broken[0][1]
    names = sorted(path.name for path in (disturbed / "checkpoints").iterdir())
    assert names == ["latest", "step_00000001", "step_00000003.partial"]

    # Only rank 1 is asked to stop, in the fifth step: both save after it and leave with the code for "try again".
    stopped = _train(works[1], overrides[1], tmp_path, "train.before_step:1:4:term")
    assert [code for code, _ in stopped] == [75, 75], stopped
    assert "goes on at step 1" in stopped[0][1]
    assert (disturbed / "checkpoints" / "latest").read_text() == "step_00000005\n"
    assert not (disturbed / "export").exists()

    refused = _train(works[1], (*overrides[1], MIXTURE.replace("0.3", "0.1")), tmp_path)
    assert [code for code, _ in refused] == [MismatchError.exit_code] * 2
    assert "{'data.mixture': {'second': 3000, 'train': 7000}}, but" in refused[0][1]

    resumed = _train(works[1], overrides[1], tmp_path)
    assert [code for code, _ in resumed] == [0, 0], resumed
    assert "goes on at step 5" in resumed[0][1]
    assert "second: 13 samples, share 0.3, 1.11 passes" in resumed[0][1]
    _assert_same_end(straight, disturbed)
    record = json.loads((disturbed / "run.json").read_text())
    assert record["parents"].keys() == {"train.train", "train.second", "val"}
    told = [event["splits"] for event in read_journal(disturbed / "journal.jsonl") if event["event"] == "data"]
    assert told[-1]["train"] == {"samples": 40, "share": 0.7, "passes": pytest.approx(STEPS * 8 * 0.7 / 40)}

    again = _train(works[1], overrides[1], tmp_path)
    assert [code for code, _ in again] == [0, 0]
    assert "already finished" in again[0][1]
    page = (disturbed / "live.html").read_text()  # by the process beside the training
    assert f"codebook: finished, step {STEPS} of {STEPS}" in page
    assert all(incident in page for incident in ("checkpoint_failed", "No space left", "by a signal to another rank"))


def _overrides(work: Path) -> tuple[str, ...]:
    """A workspace in which only this stage is still to be done, and a save after every step."""
    overrides = tiny_workspace(work, second=13)
    shutil.rmtree(work / "codebook")  # the untrained export that the third stage's tests need
    return (*overrides, "codebook_training.checkpoint_every=1", MIXTURE)


def _assert_same_end(straight: Path, disturbed: Path) -> None:
    final = f"checkpoints/step_{STEPS:08d}"
    compared = 0
    for name in ("rank_00000.safetensors", "rank_00001.safetensors", "buffers.safetensors"):
        ours, theirs = load_file(straight / final / name), load_file(disturbed / final / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), f"{name}: {key}"
            compared += 1
    assert compared > 60
    assert (straight / final / "state.json").read_bytes() == (disturbed / final / "state.json").read_bytes()
    curves = [_losses(folder) for folder in (straight, disturbed)]
    assert [step for step, _ in curves[0]] == list(range(1, STEPS + 1))
    assert curves[0] == curves[1]
    tokenizers = [SeedTokenizer.from_pretrained(folder / "export") for folder in (straight, disturbed)]
    states: list[dict[str, Any]] = [tokenizer.state_dict() for tokenizer in tokenizers]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    record = json.loads((disturbed / "run.json").read_text())
    assert tokenizers[1].provenance["run_fingerprint"] == record["fingerprint"]
    assert tokenizers[1].provenance["parents"] == record["parents"]
    statistics = load_file(straight / final / "buffers.safetensors")
    assert int(statistics["model.quantizer.usage_statistics.steps"]) == STEPS


def _losses(folder: Path) -> list[tuple[int, float]]:
    records = read_journal(folder / "journal.jsonl")
    assert records[-1]["event"] == "finished"
    return [(record["step"], record["loss"]) for record in records if record["event"] == "step"]
