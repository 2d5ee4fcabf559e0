"""Numbers that go wrong in real trainings of two ranks: skipped together, gone back from, stopped for, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from seed_dist.config import load_recipe
from seed_dist.dist.comm import Comm
from seed_dist.dist.ds_config import DS_CONFIGS
from seed_dist.dist.engine import Engine
from seed_dist.errors import TrainingError
from seed_dist.obs.journal import JOURNAL, read_journal
from seed_dist.obs.provenance import stage_identity
from seed_dist.train import start
from seed_dist.train.data import open_data, order_of
from seed_dist.train.stages.codebook import CodebookStage
from seed_dist.train.start import Request, run_stage
from seed_dist.train.state import derived_seed
from seed_dist.watch.attempts import attempt_folders
from tests.features import tiny_workspace
from tests.forked import values, world
from tests.harness import run_ranks

pytestmark = pytest.mark.multirank

SAMPLES = 400
# A save after every other step, and a window that is soon full.
OVERRIDES = tuple(
    f"codebook_training.{option}"
    for option in (
        "steps=30", "checkpoint_every=2", "keep_checkpoints=40", "validate_every=100", "replica_check_every=1",
        "spike_window=8", "spike_patience=2",
    )
)  # fmt: skip
# One sample of rank 1 in batch 4 is no number. Batches 15 to 17 are fifty times too large: the second of them is a
# spike, of which the third is left when training has gone back, and alone it is none.
BAD_BATCH, BAD_RANK, TOO_LARGE = 4, 1, range(15, 18)
UNIFORM = range(12, 15)
_make_batch = CodebookStage.make_batch


def _poisoned(stage: CodebookStage, ids: Any, number: int, out: Any = None) -> dict[str, torch.Tensor]:
    batch = _make_batch(stage, ids, number, out)
    if number == BAD_BATCH and stage.comm.rank == BAD_RANK:
        batch["causal"][2, 0, 0] = float("nan")
    if number in TOO_LARGE:
        batch["causal"] *= 50
    return batch


def _all_bad(stage: CodebookStage, ids: Any, number: int, out: Any = None) -> dict[str, torch.Tensor]:
    batch = _make_batch(stage, ids, number, out)
    batch["causal"][:] = float("nan")
    return batch


def _twice_bad(stage: CodebookStage, ids: Any, number: int, out: Any = None) -> dict[str, torch.Tensor]:
    return (_all_bad if number in (BAD_BATCH, BAD_BATCH + 1) else _make_batch)(stage, ids, number, out)


def _uniform(stage: CodebookStage, ids: Any, number: int, out: Any = None) -> dict[str, torch.Tensor]:
    """All vectors of a window are one and the same, so all get one code."""
    batch = _make_batch(stage, ids, number, out)
    if number in UNIFORM:
        batch["causal"][:] = 0.3
    return batch


def _collapsed(stage: CodebookStage) -> None:
    """All vectors are nearest to one code."""
    with torch.no_grad():
        stage.model.quantizer.embedding.weight.fill_(100.0)
        stage.model.quantizer.embedding.weight[7] = 0.0


def _flipped(stage: CodebookStage, engine: Engine, applied: bool) -> None:
    """One bit of one weight of rank 1, after its third step."""
    _after_step(stage, engine, applied)
    stage.steps_done = getattr(stage, "steps_done", 0) + 1
    if stage.comm.rank == 1 and stage.steps_done == 3:
        stage.model.quantizer.embedding.weight.data.view(torch.int32)[5, 1] ^= 1 << 3


_after_step = CodebookStage.after_step


def _run(comm: Comm, work: Path, overrides: tuple[str, ...], last_step: int = 30) -> str:
    recipe = load_recipe("glyphs", overrides)
    data = open_data(recipe, "codebook", work)
    identity = stage_identity(recipe, "codebook", data.parents)
    try:
        return run_stage(Request(recipe, "codebook", work, identity, last_step), data, comm).value
    except TrainingError as error:
        return str(error)


def _world(comm: Comm, folder: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    with mock.patch.object(CodebookStage, "make_batch", _poisoned):
        out["straight"] = _run(comm, folder / "straight", overrides)
        for last_step in (12, 16, 21, 30):  # before the spike, in it, after it
            out[f"stopped {last_step}"] = _run(comm, folder / "stopped", overrides, last_step)
    with mock.patch.object(CodebookStage, "prepare", _collapsed):
        never = (*overrides, "codebook.revive_after_steps=0")
        out["collapsed"] = _run(
            comm, folder / "collapsed", (*never, "codebook.size=64", "codebook.codebook_weight=0.0")
        )
        for name, ends in (("revived", (30,)), ("revived twice", (5, 30))):
            for last_step in ends:
                out[name] = _run(comm, folder / name, (*overrides, "codebook.size=64"), last_step)
    return out


def _remedied(comm: Comm, folder: Path, overrides: tuple[str, ...], name: str, remedies: str) -> str:
    """One whose batches let the codebook collapse in steps 13 to 15."""
    change = (f"codebook_training.on_collapse={remedies}", "codebook_training.spike_deviations=0", "codebook.size=64")
    with mock.patch.object(CodebookStage, "make_batch", _uniform):
        return _run(comm, folder / name, (*overrides, *change, "codebook.revive_after_steps=0"))


def _failing(comm: Comm, folder: Path, overrides: tuple[str, ...], name: str) -> str:
    """One that ends with an error: its watchdog ends these ranks, should they go on."""
    method, planted, change = {
        "few": ("make_batch", _poisoned, ("codebook_training.max_rollbacks=0",)),
        "bad": ("make_batch", _all_bad, ("codebook_training.max_skipped_in_a_row=3",)),
        "flipped": ("after_step", _flipped, ()),
    }[name]
    with mock.patch.object(CodebookStage, method, planted):
        return _run(comm, folder / name, (*overrides, *change))


def _fp16_world(comm: Comm, folder: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """fp16 with a dynamic loss scale, for which a CPU is usually held to be too slow."""
    from deepspeed.accelerator import get_accelerator

    out: dict[str, Any] = {}
    with (
        mock.patch.object(start, "precision_on", return_value="fp16"),
        mock.patch.object(type(get_accelerator()), "is_fp16_supported", return_value=True),
    ):
        with mock.patch.object(CodebookStage, "make_batch", _twice_bad):
            out["straight"] = _run(comm, folder / "straight", overrides)
            for last_step in (7, 30):
                out[f"stopped {last_step}"] = _run(comm, folder / "stopped", overrides, last_step)
        out["overflows"] = _run(comm, folder / "overflows", (*overrides, "codebook.reconstruction_loss_weight=1.0e+25"))
    return out


def _folders(folder: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Workspaces with the same features; the value is the overrides that fit them."""
    (folder / "made").mkdir()
    overrides = tiny_workspace(folder / "made", SAMPLES)
    for name in names:
        (folder / name).mkdir()
        for part in ("features", "causal_qformer"):
            (folder / name / part).symlink_to(folder / "made" / part)
    return (*overrides, *OVERRIDES)


def _records(work: Path, event: str) -> list[dict[str, Any]]:
    return [record for record in read_journal(work / "codebook" / JOURNAL) if record["event"] == event]


def _saved(work: Path, step: int) -> dict[str, torch.Tensor]:
    folder = work / "codebook" / "checkpoints" / f"step_{step:08d}"
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 3
    return {f"{path.name}/{name}": tensor for path in files for name, tensor in load_file(path).items()}


def _assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert len(ours) > 60
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("fp32")
    overrides = _folders(
        folder, ("straight", "stopped", "few", "bad", "flipped", "collapsed", "revived", "revived twice")
    )
    ranks = tmp_path_factory.mktemp("ranks")
    first, second = run_ranks(_world, 2, ranks, folder, overrides)
    assert first == second
    for name in ("few", "bad", "flipped"):
        first[name], _ = values(world(_failing, 2, ranks, folder, overrides, name))
    return folder, first, overrides


@pytest.fixture(scope="module")
def fp16(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("fp16")
    shipped = json.loads((DS_CONFIGS / "zero2_fp16_v100.json").read_text())
    shipped["fp16"]["loss_scale_window"] = 5
    (folder / "fp16.json").write_text(json.dumps(shipped))
    overrides = (
        *_folders(folder, ("straight", "stopped", "overflows")),
        f"engine.deepspeed={folder / 'fp16.json'}",
    )
    return folder, run_ranks(_fp16_world, 2, tmp_path_factory.mktemp("ranks"), folder, overrides)[0]


def test_a_step_with_a_bad_sample_on_one_rank_changes_nothing_on_any_and_names_it(fp32: Any) -> None:
    folder, outcome, overrides = fp32
    assert outcome["straight"] == "finished"
    (skipped,) = _records(folder / "straight", "skipped")
    recipe = load_recipe("glyphs", overrides)
    data = open_data(recipe, "codebook", folder / "straight")
    seed = derived_seed(recipe.seed, "order", data.train.fingerprint)
    (ids,) = order_of(data, seed, recipe.codebook_training, BAD_RANK, 2).micro_batches(BAD_BATCH)
    assert skipped["step"] == BAD_BATCH + 1
    assert skipped["samples_with_bad_loss_by_rank"] == {str(BAD_RANK): ids.tolist()}
    steps = [record["step"] for record in _records(folder / "straight", "step")]
    assert steps == list(range(1, 31))
    # Its trained values at steps 4 and 6 differ by step 6 alone: Adam has counted five updates, not six.
    assert _adam_steps(folder / "straight", 4) == 4
    assert _adam_steps(folder / "straight", 6) == 5


def _state(work: Path, step: int) -> dict[str, Any]:
    text = (work / "codebook" / "checkpoints" / f"step_{step:08d}" / "state.json").read_text()
    state: dict[str, Any] = json.loads(text)
    return state


def _adam_steps(work: Path, step: int) -> int:
    (count,) = set(_state(work, step)["engine"]["adam_steps"])
    return int(count)


def test_a_spike_is_gone_back_from_and_its_batches_are_left_out(fp32: Any) -> None:
    folder, _, _ = fp32
    (rollback,) = _records(folder / "straight", "rollback")
    # Odd since batch 15, so back to step 14; batches 14 to 16 are left out.
    facts = ("step", "spike_step", "first_batch_left_out", "last_batch_left_out")
    assert [rollback[fact] for fact in facts] == [14, 17, 14, 16]
    state = _state(folder / "straight", 30)
    assert (state["step"], state["batch_offset"], state["rollbacks"]) == (30, 3, 1)
    (attempt,) = attempt_folders(folder / "straight" / "codebook")
    assert json.loads((attempt / "end.json").read_text())["step"] == 30


def test_a_run_that_is_stopped_before_in_and_after_a_spike_ends_as_one_that_is_not(fp32: Any) -> None:
    folder, outcome, _ = fp32
    assert [outcome[f"stopped {step}"] for step in (12, 16, 21, 30)] == ["limit", "limit", "limit", "finished"]
    assert len(_records(folder / "stopped", "rollback")) == 1
    _assert_same(_saved(folder / "straight", 30), _saved(folder / "stopped", 30))
    losses = [[record["loss"] for record in _records(folder / name, "step")] for name in ("straight", "stopped")]
    assert losses[0] == losses[1]


def test_too_many_spikes_end_the_run(fp32: Any) -> None:
    assert "spike at step 17" in fp32[1]["few"]
    assert "max_rollbacks" in fp32[1]["few"]


def test_too_many_skipped_steps_end_the_run_and_name_the_first_module(fp32: Any) -> None:
    folder, outcome, _ = fp32
    assert "3 steps in a row" in outcome["bad"]
    assert "Not finite is first the output of model." in outcome["bad"]
    assert "steps 1 to 3" in outcome["bad"]
    assert len(_saved(folder / "bad", 3)) > 60


def test_a_flipped_bit_on_one_rank_is_caught_at_the_next_check(fp32: Any) -> None:
    assert "1 tensor(s), model.quantizer.embedding.weight first" in fp32[1]["flipped"]
    assert [record["step"] for record in _records(fp32[0] / "flipped", "step")] == [1, 2, 3]


def test_a_collapsed_codebook_is_told_once_and_revived_alike_after_a_resume(fp32: Any) -> None:
    folder, outcome, _ = fp32
    assert (outcome["collapsed"], outcome["revived"], outcome["revived twice"]) == ("finished",) * 3
    (alarm,) = _records(folder / "collapsed", "alarm")
    assert alarm["step"] == 3  # the window is full
    assert "perplexity of codes is 1.0 of 64" in alarm["what"]
    assert "set revive_after_steps" in alarm["what"]
    assert [record["codes_perplexity"] for record in _records(folder / "collapsed", "step")][-1] == 1.0
    assert [record["codes_perplexity"] for record in _records(folder / "revived", "step")][-1] > 10
    _assert_same(_saved(folder / "revived", 30), _saved(folder / "revived twice", 30))


@pytest.mark.parametrize(
    ("remedies", "went_back"), [("[revive, raise_commitment]", False), ("[roll_back, raise_commitment]", True)]
)
def test_what_is_done_about_a_collapse_is_the_same_in_a_run_that_is_killed_before_and_after(
    tmp_path: Path, remedies: str, went_back: bool
) -> None:
    overrides = _folders(tmp_path, ("straight", "killed"))

    def run(name: str, fault: str = "") -> list[Any]:
        return world(_remedied, 2, tmp_path, tmp_path, overrides, name, remedies, fault=fault)

    assert values(run("straight")) == ["finished"] * 2
    for step in (14, 15, 19):  # in the collapse, at the first step after what was done about it, later
        assert run("killed", f"train.forward:1:{step}:kill")[1].code == -9
    assert values(run("killed")) == ["finished"] * 2
    (event,) = _records(tmp_path / "straight", "collapse")
    assert (event["collapse_step"], event["step"]) == (15, 12 if went_back else 15)
    assert (event["perplexity"], event["went_back"], event["commitment_weight"]) == (1.0, went_back, 2.0)
    assert (event.get("codes_revived") or 0) > 0 or went_back
    _assert_same(_saved(tmp_path / "straight", 30), _saved(tmp_path / "killed", 30))
    states = [_state(tmp_path / name, 30) for name in ("straight", "killed")]
    assert states[0] == states[1]
    assert (states[0]["stage_memory"], states[0]["batch_offset"]) == ({"commitment_doublings": 1}, 3 * went_back)
    names = ("codes_perplexity", "codes_age_median", "codes_age_p90", "codes_age_oldest", "codes_dead")
    straight, killed = (
        {record["step"]: [record[name] for name in names] for record in _records(tmp_path / name, "step")}
        for name in ("straight", "killed")
    )
    assert straight == killed
    assert max(oldest for _, _, _, oldest, _ in straight.values()) > 3


def test_a_collapse_ends_the_run_where_that_is_asked_for(tmp_path: Path) -> None:
    overrides = _folders(tmp_path, ("stops",))
    said, _ = values(world(_remedied, 2, tmp_path, tmp_path, overrides, "stops", "stop"))
    assert "step 15: the codebook has collapsed (perplexity 1.0" in said
    assert [record["step"] for record in _records(tmp_path / "stops", "step")][-1] == 15


def test_fp16_halves_its_scale_and_goes_on_and_a_resumed_run_has_the_same(fp16: Any) -> None:
    folder, outcome = fp16
    assert outcome["straight"] == "finished"
    assert [outcome["stopped 7"], outcome["stopped 30"]] == ["limit", "finished"]
    scales = [record["loss_scale"] for record in _records(folder / "straight", "step")]
    # Hysteresis forgives the first overflow. Five steps later the scale begins to double again.
    assert scales[:7] == [65536.0] * 5 + [32768.0] * 2
    assert scales[11:13] == [65536.0] * 2
    assert [record["loss_scale"] for record in _records(folder / "stopped", "step")] == scales
    _assert_same(_saved(folder / "straight", 30), _saved(folder / "stopped", 30))


def test_fp16_that_overflows_at_every_scale_saves_names_the_parameter_and_stops(fp16: Any) -> None:
    folder, outcome = fp16
    assert "overflow fp16 at the smallest loss scale, 1" in outcome["overflows"]
    assert "first the gradient of model." in outcome["overflows"]
    scales = [record["in_a_row"] for record in _records(folder / "overflows", "skipped")]
    assert scales == list(range(1, 19))  # 16 halvings, one more skip that hysteresis forgives, and the last
    assert _saved(folder / "overflows", 18)
