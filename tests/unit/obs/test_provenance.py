"""A run directory belongs to one configuration: what matters is compared, what does not is left free."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from seed_dist.assets import weights_sha256
from seed_dist.config import STAGES, load_recipe
from seed_dist.errors import MismatchError
from seed_dist.obs.provenance import RUN, check_run, git_revision, record_run, stage_identity

PARENTS = {"train": "aaaa", "val": "bbbb"}


def _identity(stage: str = "codebook", *overrides: str, parents: dict[str, str] = PARENTS) -> dict[str, object]:
    return stage_identity(load_recipe("glyphs", overrides), stage, parents)  # type: ignore[arg-type]


def test_a_new_folder_is_free_and_a_recorded_one_is_recognised(tmp_path: Path) -> None:
    assert not check_run(tmp_path, _identity())
    record_run(tmp_path, load_recipe("glyphs"), _identity(), world_size=2)
    assert check_run(tmp_path, _identity())
    record = json.loads((tmp_path / RUN).read_text())
    assert record["parents"] == PARENTS
    assert record["world_size"] == 2
    assert record["versions"]["torch"]
    assert record["recipe"]["name"] == "glyphs"
    assert "pytest" in record["command"]


def test_the_first_record_stays(tmp_path: Path) -> None:
    record_run(tmp_path, load_recipe("glyphs"), _identity(), world_size=2)
    before = (tmp_path / RUN).read_bytes()
    record_run(tmp_path, load_recipe("glyphs"), _identity(), world_size=4)
    assert (tmp_path / RUN).read_bytes() == before


def test_a_run_of_other_options_or_other_data_shows_what_differs(tmp_path: Path) -> None:
    record_run(tmp_path, load_recipe("glyphs"), _identity(), world_size=1)
    with pytest.raises(MismatchError) as caught:
        check_run(
            tmp_path, _identity("codebook", "codebook.size=64", "seed=7", parents={"train": "cccc", "val": "bbbb"})
        )
    assert caught.value.found == {
        "seed": 0,
        "codebook.size": load_recipe("glyphs").codebook.size,
        "parents.train": "aaaa",
    }
    assert caught.value.expected == {"seed": 7, "codebook.size": 64, "parents.train": "cccc"}
    assert "--fresh" in str(caught.value)


def test_other_weights_under_the_same_path_make_another_run(tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = _identity("causal_qformer", f"backbones.qformer={folder}")
    assert before == _identity("causal_qformer", f"backbones.qformer={folder}")
    (folder / "model.safetensors").write_bytes(b"trained")
    weights_sha256.cache_clear()  # as in a new process
    after = _identity("causal_qformer", f"backbones.qformer={folder}")
    assert [name for name in before if before[name] != after[name]] == ["backbones.qformer.sha256"]
    assert _identity("causal_qformer", "backbones.qformer=null")["backbones.qformer.sha256"] is None


def test_a_damaged_record_is_an_error_and_not_a_new_run(tmp_path: Path) -> None:
    (tmp_path / RUN).write_text("{")
    with pytest.raises(MismatchError, match="damaged"):
        check_run(tmp_path, _identity())


@pytest.mark.parametrize("stage", STAGES)
def test_options_that_change_nothing_that_is_learnt_are_free(stage: str) -> None:
    options = ("log_every", "validate_every", "checkpoint_every", "keep_checkpoints", "permanent_every")
    free = [f"{stage}_training.{option}=7" for option in options]
    assert _identity(stage, *free, "eval.batch_size=3", "engine.collective_timeout_s=5.0") == _identity(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_options_of_the_stage_itself_are_not(stage: str) -> None:
    for option in ("steps=9999", "global_batch=6", "lr=0.5", "accumulation=2", "beta2=0.5"):
        assert _identity(stage, f"{stage}_training.{option}") != _identity(stage), option
    other = {"causal_qformer": "lora", "codebook": "lora", "lora": "causal_qformer"}[stage]
    assert _identity(stage, f"{other}_training.lr=0.5") == _identity(stage)


def test_git_tells_commit_and_changes_and_nothing_outside_a_checkout(tmp_path: Path) -> None:
    assert git_revision(tmp_path) == {"revision": None, "dirty": None}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    found = git_revision(tmp_path)
    assert len(found["revision"]) == 40
    assert found["dirty"] is False
