"""What each stage does besides its loss: checks of its inputs, initialisation, validation, export."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seed_dist.config import STAGES, Recipe, StageName, load_recipe
from seed_dist.dist.comm import LocalComm
from seed_dist.errors import ConfigError, MismatchError
from seed_dist.models.documents import IGNORE
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.train.data import open_data
from seed_dist.train.stages.base import Stage
from seed_dist.train.stages.build import build_stage
from seed_dist.train.stages.causal_qformer import recall_at_1
from seed_dist.train.stages.codebook import CodebookStage
from seed_dist.train.stages.lora import LoraStage
from tests.features import tiny_workspace, write_features

IDS = np.array([3, 17, 0, 8])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    work = tmp_path_factory.mktemp("tiny")
    return work, tiny_workspace(work)


def _stage(tiny: tuple[Path, tuple[str, ...]], name: str, *more: str) -> Any:
    recipe: Recipe = load_recipe("glyphs", (*tiny[1], *more))
    torch.manual_seed(0)
    stage: StageName = name  # type: ignore[assignment]
    return build_stage(recipe, stage, tiny[0], open_data(recipe, stage, tiny[0]), LocalComm())


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_gives_a_loss_with_gradients_and_figures_on_the_validation_split(
    name: str, tiny: tuple[Path, tuple[str, ...]]
) -> None:
    stage: Stage = _stage(tiny, name)
    batch = stage.make_batch(IDS, 0)
    features = {"causal_qformer": "patches", "codebook": "causal", "lora": "ids"}[name]
    assert len(batch[features]) == len(IDS)
    loss, metrics = stage({key: value.float() if value.is_floating_point() else value for key, value in batch.items()})
    loss.backward()
    assert torch.isfinite(loss)
    assert all(not value.requires_grad and value.ndim == 0 for value in metrics.values())
    assert sum(value.grad is not None for value in stage.parameters()) > 4
    stage.eval()
    with torch.no_grad():
        figures, again = stage.validate(stage.validation_batches()), stage.validate(stage.validation_batches())
    assert figures == again
    assert figures["validation_samples"] == 10
    assert all(np.isfinite(value) for value in figures.values())


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_takes_the_samples_of_a_mixture_from_their_splits(name: str, tmp_path: Path) -> None:
    overrides = tiny_workspace(tmp_path, second=13)
    tiny = tmp_path, (*overrides, "data.mixture=[{split: second, weight: 1}, {split: train, weight: 3}]")
    mixed, train = _stage(tiny, name), _stage((tmp_path, overrides), name)
    second = _stage((tmp_path, (*overrides, "data.mixture=[{split: second}]")), name)
    ids = np.array([4, 12, 13, 20])  # the last two are the samples 0 and 7 of `train`
    found = mixed.make_batch(ids, 0)
    alone = [second.make_batch(ids[:2], 0), train.make_batch(ids[2:] - 13, 0)]
    for key in {"causal_qformer": ("patches",), "codebook": ("causal", "target"), "lora": ()}[name]:
        assert torch.equal(found[key], torch.cat([part[key] for part in alone]))
    if name == "lora":
        wanted = np.concatenate(
            [second.data.train.read(ids[:2])["codes"], train.data.train.read(ids[2:] - 13)["codes"]]
        )
        codes, place = found["ids"] - mixed.model.first_code, (found["ids"] == mixed.model.begin_image).nonzero()
        assert [codes[row, at + 1 : at + 5].tolist() for row, at in place.tolist()] == wanted.tolist()
    captions = [stage.data.train.captions[i] for stage, i in ((second, 4), (second, 12), (train, 0), (train, 7))]
    assert mixed.training_captions(ids, 0) == captions
    mixed.eval()
    loss, _ = mixed({key: value.float() if value.is_floating_point() else value for key, value in found.items()})
    assert torch.isfinite(loss)


def test_recall_counts_an_equal_caption_as_a_hit() -> None:
    queries, targets = np.eye(4), np.eye(4)[[1, 0, 2, 3]]
    assert recall_at_1(queries, targets, np.array([5, 5, 6, 7])) == 1.0
    assert recall_at_1(queries, targets, np.array([4, 5, 6, 7])) == 0.5


def test_stage_1_starts_from_the_weights_that_the_recipe_names(tiny: tuple[Path, tuple[str, ...]]) -> None:
    export = tiny[0] / "causal_qformer" / "export"
    stage, plain = _stage(tiny, "causal_qformer", f"backbones.qformer={export}"), _stage(tiny, "causal_qformer")
    random = plain.qformer.query_tokens.detach().clone()
    wanted = CausalQFormer.from_pretrained(export).state_dict()
    assert not torch.equal(random, wanted["query_tokens"])
    stage.prepare()
    plain.prepare()
    assert all(torch.equal(value, wanted[name]) for name, value in stage.qformer.state_dict().items())
    assert torch.equal(plain.qformer.query_tokens, random)


@pytest.mark.parametrize("name", ["causal_qformer", "lora"])
def test_captions_of_unknown_words_are_warned_of(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    overrides = tiny_workspace(tmp_path)
    _stage((tmp_path, overrides), name)
    assert "unknown" not in caplog.text
    target = {"causal_qformer": "patches", "lora": "codes"}[name]
    read = open_data(load_recipe("glyphs", overrides), name, tmp_path).train  # type: ignore[arg-type]
    values, made_by = read.read(np.arange(len(read)))[target], read.sets[target].manifest.details["weights_sha256"]
    (tmp_path / "features" / target / "train").rename(tmp_path / "aside")
    captions = ["a dog on a red sofa"] * len(values)  # 2 of 6 words
    write_features(tmp_path, "train", target, values, captions, weights=made_by)
    _stage((tmp_path, overrides), name)
    assert "33% of the words of the training captions are unknown to" in caplog.text


def test_the_codebook_starts_at_centres_of_the_data_and_is_then_used(tiny: tuple[Path, tuple[str, ...]]) -> None:
    stage: CodebookStage = _stage(tiny, "codebook")
    with torch.no_grad():
        before = stage.validate(stage.validation_batches())["codes_used_fraction"]
        stage.prepare()
        assert stage.validate(stage.validation_batches())["codes_used_fraction"] > max(before, 0.5)
    untouched: CodebookStage = _stage(tiny, "codebook", "codebook.kmeans_init=false")
    codebook = untouched.model.quantizer.embedding.weight.clone()
    untouched.prepare()
    assert torch.equal(untouched.model.quantizer.embedding.weight, codebook)


def test_weighted_terms_are_the_unweighted_ones_times_their_weights(tiny: tuple[Path, tuple[str, ...]]) -> None:
    published = ("quantizer_loss_weight=5.0", "reconstruction_loss_weight=2.0", "generation_loss_weight=0.5")
    stage = _stage(tiny, "codebook", *(f"codebook.{option}" for option in published))
    loss, metrics = stage({key: value.float() for key, value in stage.make_batch(IDS, 0).items()})
    weights = {"quantizer": 5.0, "reconstruction": 2.0, "generation": 0.5}
    for name, weight in weights.items():
        assert float(metrics[f"{name}_weighted"]) == pytest.approx(weight * float(metrics[name]))
    assert float(loss.detach()) == pytest.approx(sum(float(metrics[f"{name}_weighted"]) for name in weights), rel=1e-5)


def test_a_step_that_was_not_applied_counts_no_codes(tiny: tuple[Path, tuple[str, ...]]) -> None:
    stage = _stage(tiny, "codebook", "codebook.revive_after_steps=0")
    batch = {key: value.float() for key, value in stage.make_batch(IDS, 0).items()}
    for applied, recorded in ((False, 0), (True, 1), (False, 1)):
        stage(batch)
        stage.after_step(None, applied)
        assert int(stage.model.quantizer.usage_statistics.steps) == recorded
    assert 0 < stage.running_metrics()["codes_used_fraction"] <= 1


def test_prefixes_are_drawn_per_sample_and_only_where_asked_for(tiny: tuple[Path, tuple[str, ...]]) -> None:
    plain, masked = _stage(tiny, "codebook"), _stage(tiny, "codebook", "codebook.prefix_masking=0.5")
    assert set(plain.make_batch(IDS, 0)) == {"causal", "target"}
    ids = np.arange(40)
    kept = torch.stack([masked.make_batch(ids, step)["kept"] for step in range(30)])
    assert torch.equal(masked.make_batch(ids[5:9], 2)["kept"], kept[2, 5:9])  # whichever rank a sample is on
    shares = torch.bincount(kept.flatten(), minlength=5)[1:] / kept.numel()
    assert torch.allclose(shares, torch.tensor([0.125, 0.125, 0.125, 0.625]), atol=0.05)  # half see all four codes
    batch = {
        key: value.float() if value.is_floating_point() else value for key, value in plain.make_batch(IDS, 0).items()
    }
    masked.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(plain(batch)[0], masked({**batch, "kept": torch.full((4,), 4)})[0])


def test_both_directions_are_trained_and_a_sample_changes_its_direction(tiny: tuple[Path, tuple[str, ...]]) -> None:
    stage: LoraStage = _stage(tiny, "lora")
    ids = np.arange(40)
    directions = []
    for step in range(6):
        batch = stage.make_batch(ids, step)
        starts_with_image = batch["ids"][:, 1] == stage.model.begin_image
        scored = batch["labels"] != IGNORE
        assert 5 < int(starts_with_image.sum()) < 35
        assert torch.equal(starts_with_image, scored[:, 1:].float().argmax(1) >= 6)  # 6 image tokens come first
        directions.append(starts_with_image)
    part = stage.make_batch(ids[5:9], 2)["ids"][:, 1] == stage.model.begin_image
    assert torch.equal(part, directions[2][5:9])  # whichever rank and micro-batch a sample is in
    changed = torch.stack(directions).float().std(0) > 0
    assert int(changed.sum()) > 30


def test_new_rows_start_from_the_codebook(tiny: tuple[Path, tuple[str, ...]]) -> None:
    stage, plain = _stage(tiny, "lora"), _stage(tiny, "lora", "lora.rows_from_codebook=false")
    before = stage.model.image_tokens.rows.detach().clone()
    stage.prepare()
    plain.prepare()
    assert not torch.equal(stage.model.image_tokens.rows[:24], before[:24])
    assert torch.equal(stage.model.image_tokens.rows[24:], before[24:])
    assert torch.equal(plain.model.image_tokens.rows, before)


def test_exports_are_what_the_next_stage_loads(tiny: tuple[Path, tuple[str, ...]], tmp_path: Path) -> None:
    qformer = _stage(tiny, "causal_qformer")
    qformer.export(tmp_path / "first", {"step": 6})
    loaded = CausalQFormer.from_pretrained(tmp_path / "first")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in qformer.qformer.state_dict().items())
    codebook = _stage(tiny, "codebook")
    weights = codebook.model.quantizer.embedding.weight.detach().clone()
    codebook.export(tmp_path / "second", {"step": 6})
    tokenizer = SeedTokenizer.from_pretrained(tmp_path / "second")
    assert torch.equal(tokenizer.quantizer.quantizer.embedding.weight, weights)
    assert tokenizer.provenance == {"step": 6}
    assert tokenizer.qformer.has_text_path
    _stage(tiny, "lora").export(tmp_path / "third", {"step": 6})
    assert {"rows.safetensors", "adapter_model.safetensors"} <= {path.name for path in (tmp_path / "third").iterdir()}


@pytest.mark.parametrize(
    ("stage", "override", "found"),
    [
        ("causal_qformer", "qformer.vision_width=13", "12"),
        ("codebook", "codebook.generation_width=7", "6"),
        ("codebook", "qformer.queries=5", r"\(4, 16\)"),
        ("lora", "qformer.queries=5", "4"),
    ],
)
def test_features_that_do_not_fit_the_recipe_are_refused(
    stage: str, override: str, found: str, tiny: tuple[Path, tuple[str, ...]]
) -> None:
    option = override.partition("=")[0]
    with pytest.raises(MismatchError, match=rf"is {found}, but .*Set .*{option}"):
        _stage(tiny, stage, override)


def test_settings_that_would_train_something_else_are_refused(tiny: tuple[Path, tuple[str, ...]]) -> None:
    with pytest.raises(ConfigError, match="fewer negatives"):
        _stage(tiny, "causal_qformer", "causal_qformer_training.accumulation=2")
    with pytest.raises(ConfigError, match=r"lora\.max_tokens is 65, but .* has 64 positions"):
        _stage(tiny, "lora", "lora.max_tokens=65")
    with pytest.raises(ConfigError, match=r"lora\.rows_from_codebook is true, .* set it to false"):
        _stage(tiny, "lora", "lora.image_embedding=codebook")
    with pytest.raises(ConfigError, match=r"qformer\.vocabulary_size is 20"):
        _stage(tiny, "causal_qformer", "qformer.vocabulary_size=20")


@pytest.mark.parametrize(("stage", "target"), [("codebook", "causal"), ("lora", "codes")])
def test_features_of_other_weights_than_the_current_export_are_refused(stage: str, target: str, tmp_path: Path) -> None:
    overrides = tiny_workspace(tmp_path)
    folder = tmp_path / "features" / target / "val"
    values = open_data(load_recipe("glyphs", overrides), stage, tmp_path).val.read(np.arange(11))[target]  # type: ignore[arg-type]
    folder.rename(tmp_path / "aside")
    write_features(tmp_path, "val", target, values, ["a"] * 11, weights="other weights")
    with pytest.raises(MismatchError, match=r"other weights.*data_prep/encode\.py"):
        _stage((tmp_path, overrides), stage)


def test_of_several_captions_another_one_is_drawn_at_every_pass(tmp_path: Path) -> None:
    overrides = tiny_workspace(tmp_path)
    captions = [(f"a red heart {i}", *(f"a blue star {i} {k}" for k in range(i % 4))) for i in range(40)]
    shutil.rmtree(tmp_path / "features" / "patches" / "train")
    values = np.zeros((40, 5, 12), np.float16)
    write_features(tmp_path, "train", "patches", values, [c[0] for c in captions], others=[c[1:] for c in captions])
    stage = _stage((tmp_path, overrides), "causal_qformer")
    ids = np.arange(40)
    passes = [stage.training_captions(ids, step) for step in range(60)]
    assert stage.training_captions(ids, 7) == passes[7]
    assert stage.training_captions(ids[5:9], 7) == passes[7][5:9], "whatever samples are asked for beside it"
    for i in ids:
        assert {drawn[i] for drawn in passes} == set(captions[i])
