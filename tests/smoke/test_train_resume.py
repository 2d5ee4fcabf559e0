"""The training command itself, on two ranks: killed in the middle of a save it goes on from the checkpoint before, and
ends with exactly what an undisturbed run ends with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.obs.journal import read_journal
from tests.features import tiny_workspace
from tests.harness import finish, start_module_ranks

pytestmark = [pytest.mark.multirank, pytest.mark.slow]
STEPS = 6


def _train(
    work: Path, overrides: tuple[str, ...], tmp_path: Path, *more: str, fault: str = ""
) -> list[tuple[int, str]]:
    settings = [word for item in overrides for word in ("--set", item)]
    arguments = ["--recipe", "glyphs", "--stage", "codebook", "--work", str(work), "--mlflow", "off", *settings, *more]
    environment = {"SEED_DIST_FAULT": fault} if fault else {}
    return finish(start_module_ranks("seed_dist.train", arguments, 2, tmp_path, environment))


@pytest.mark.timeout(400)
def test_a_run_killed_in_mid_save_ends_like_one_that_was_not(tmp_path: Path) -> None:
    works, outputs = [tmp_path / "straight", tmp_path / "disturbed"], []
    for work in works:
        overrides = tiny_workspace(work)
    straight, disturbed = (work / "codebook" for work in works)
    _forget_export(straight)
    _forget_export(disturbed)

    outputs.append(_train(works[0], _for(works[0], overrides), tmp_path))
    assert [code for code, _ in outputs[-1]] == [0, 0], outputs[-1]

    # Rank 1 dies when it has written its file of step 4 and has not yet told so: nobody may commit that checkpoint.
    broken = _train(works[1], _for(works[1], overrides), tmp_path, fault="checkpoint.file_written:1:4:kill")
    assert broken[1][0] == -9
    assert broken[0][0] != 0  # its peer is gone, and that is no success
    names = sorted(path.name for path in (disturbed / "checkpoints").iterdir())
    assert names == ["latest", "step_00000002", "step_00000004.partial"]
    assert not (disturbed / "export").exists()

    resumed = _train(works[1], _for(works[1], overrides), tmp_path)
    assert [code for code, _ in resumed] == [0, 0], resumed
    assert "goes on at step 2" in resumed[0][1]

    _assert_same_end(straight, disturbed)
    again = _train(works[1], _for(works[1], overrides), tmp_path)
    assert [code for code, _ in again] == [0, 0]
    assert "already finished" in again[0][1]


def _for(work: Path, overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Both workspaces name their own language model, which this stage does not use."""
    return tuple(item for item in overrides if not item.startswith("backbones."))


def _forget_export(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


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
    statistics = load_file(straight / final / "buffers.safetensors")
    assert int(statistics["model.quantizer.usage_statistics.steps"]) == STEPS


def _losses(folder: Path) -> list[tuple[int, float]]:
    records = read_journal(folder / "journal.jsonl")
    assert records[-1]["event"] == "finished"
    return [(record["step"], record["loss"]) for record in records if record["event"] == "step"]
