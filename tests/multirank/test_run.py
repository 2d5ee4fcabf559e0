"""Where a run starts: its own checkpoint, another run's, another run's weights, nothing; and when it refuses to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seed_dist.config import load_recipe
from seed_dist.dist.comm import Comm
from seed_dist.errors import CheckpointError, LockedError
from seed_dist.fsio import folder_lock
from seed_dist.obs.journal import JOURNAL, read_journal
from seed_dist.obs.provenance import stage_identity
from seed_dist.train.data import open_data
from seed_dist.train.start import Request, run_stage
from tests.features import tiny_workspace
from tests.harness import run_ranks

pytestmark = pytest.mark.multirank


def _world(comm: Comm, work: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    recipe = load_recipe("glyphs", overrides)
    data = open_data(recipe, "lora", work)
    identity = stage_identity(recipe, "lora", data.parents)
    folder, other = work / "lora", work / "other"
    base = Request(recipe=recipe, stage="lora", work=work, identity=identity, last_step=3)
    # Another workspace with the same features and tokenizer, for runs that start from this one's checkpoints.
    other.mkdir()
    for name in ("features", "codebook"):
        (other / name).symlink_to(work / name)
    elsewhere = dataclasses.replace(base, work=other)
    out: dict[str, Any] = {}

    out["limit"] = run_stage(base, data, comm).value
    third = folder / "checkpoints" / "step_00000003"
    out["third"] = _tensors(third)
    out["finished"] = run_stage(dataclasses.replace(base, last_step=6), data, comm).value
    out["sixth"] = _tensors(folder / "checkpoints" / "step_00000006")

    out["resumed"] = run_stage(dataclasses.replace(elsewhere, last_step=6, resume_from=third), data, comm).value
    out["resumed_sixth"] = _tensors(other / "lora" / "checkpoints" / "step_00000006")
    weights = dataclasses.replace(elsewhere, last_step=1, fresh=True, init_from=third)
    out["initialised"] = run_stage(weights, data, comm).value
    out["first_after_weights"] = _tensors(other / "lora" / "checkpoints" / "step_00000001")
    out["set_aside"] = sorted(path.name for path in other.iterdir() if path.name.startswith("lora"))
    out["starts"] = [r["source"] for r in read_journal(other / "lora" / JOURNAL) if r["event"] == "start"]

    with folder_lock(folder, "another training"):
        out["locked"] = _error(LockedError, base, data, comm)
    for path in (folder / "checkpoints").glob("step_*/rank_00000.safetensors"):
        path.write_bytes(b"")
    out["broken"] = _error(CheckpointError, base, data, comm)
    out["no_checkpoint"] = _error(
        CheckpointError, dataclasses.replace(elsewhere, fresh=True, resume_from=work / "nowhere"), data, comm
    )
    return out


def _error(kind: type[Exception], request: Request, data: Any, comm: Comm) -> str:
    try:
        run_stage(request, data, comm)
    except kind as error:
        return str(error)
    return "no error"


def _tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    loaded = load_file(checkpoint / "rank_00000.safetensors")
    return {
        name: tensor.clone() for name, tensor in loaded.items()
    }  # they are maps of the file, which is damaged below


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("tiny")
    overrides = (*tiny_workspace(work), "lora_training.keep_checkpoints=9")
    return run_ranks(_world, 1, tmp_path_factory.mktemp("rank"), work, overrides)[0]


def test_a_step_limit_saves_and_the_same_command_goes_on_to_the_end(answer: dict[str, Any]) -> None:
    assert (answer["limit"], answer["finished"], answer["resumed"], answer["initialised"]) == (
        "limit",
        "finished",
        "finished",
        "limit",
    )


def test_another_runs_checkpoint_is_gone_on_from_exactly(answer: dict[str, Any]) -> None:
    assert len(answer["sixth"]) > 10
    assert answer["sixth"].keys() == answer["resumed_sixth"].keys()
    for name, value in answer["sixth"].items():
        assert torch.equal(answer["resumed_sixth"][name], value), name
        assert not torch.equal(answer["third"][name], value), name


def test_the_frozen_language_model_is_in_no_checkpoint(answer: dict[str, Any]) -> None:
    parameters = {name.partition("/")[2] for name in answer["sixth"]}
    assert len(parameters) > 3
    assert [name for name in parameters if ".lora_" not in name and "rows" not in name] == []


def test_weights_alone_start_a_new_optimizer_at_step_0(answer: dict[str, Any]) -> None:
    compared = 0
    for name, value in answer["first_after_weights"].items():
        kind, _, parameter = name.partition("/")
        if kind == "master":  # one warm-up step away from the weights that it started with
            assert torch.allclose(value, answer["third"][f"master/{parameter}"], atol=2e-3), name
            compared += 1
    assert compared > 3
    assert answer["starts"] == [str(Path(answer["starts"][0]))]
    assert answer["starts"][0].endswith("step_00000003")


def test_starting_over_keeps_the_old_run_under_another_name(answer: dict[str, Any]) -> None:
    assert answer["set_aside"] == ["lora", "lora.old-1"]


def test_a_run_in_use_or_with_only_broken_checkpoints_is_refused(answer: dict[str, Any]) -> None:
    assert "in use by another training" in answer["locked"]
    assert "none is whole" in answer["broken"]
    assert "--fresh" in answer["broken"]
    assert "nowhere cannot be used" in answer["no_checkpoint"]
