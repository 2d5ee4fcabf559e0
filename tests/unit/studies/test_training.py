"""How a study's workspaces are made: the chain's commands, each thing once; and the pixel tokenizer's training."""

import numpy as np
import pytest
import torch

from seed_dist.config import load_recipe
from seed_dist.data.reader import ImageShards, PairedFeatures
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.errors import ConfigError
from seed_dist.eval.studies.definitions import BUDGET, CAUSAL, PERMUTED, PIXELS, PREFIX
from seed_dist.models.coder import load_coder
from seed_dist.models.pixel_tokenizer import CODES, as_tensor
from seed_dist.studies.pixel_training import encode_pictures, train_pixels
from seed_dist.studies.training import Plan, with_parents
from tests.unit.eval.tiny_workspace import draw_scenes


def names(plan, arm):
    return [step.name for step in plan.steps(arm, 1)]


def test_arms_train_only_what_they_do_not_take_over(tmp_path):
    plan = Plan("glyphs", tmp_path)
    assert [step.name for step in plan.common_steps()][-1] == "encode_images"
    assert names(plan, CAUSAL) == [
        "train_causal_qformer", "encode_causal", "train_codebook", "encode_codes", "train_lora",
    ]  # fmt: skip
    assert names(plan, PERMUTED) == ["train_lora"]
    assert names(plan, PREFIX) == ["train_codebook", "encode_codes"]
    assert names(plan, PIXELS) == ["train_pixels", "train_lora"]
    assert with_parents((PERMUTED, PREFIX)) == [CAUSAL, PERMUTED, PREFIX]


def test_links_lead_to_what_is_shared(tmp_path):
    plan = Plan("glyphs", tmp_path / "studies")
    for folder in ("common/images", "causal/seed-1/codebook", "causal/seed-1/features/codes"):
        (plan.work / folder).mkdir(parents=True)
        (plan.work / folder / "here").touch()
    plan.link(PERMUTED, 1)
    plan.link(PERMUTED, 1)
    plan.work.rename(tmp_path / "moved")
    arm = tmp_path / "moved" / "permuted" / "seed-1"
    for name in ("images", "codebook", "features/codes"):
        assert (arm / name / "here").exists()
    assert not (arm / "lora").exists()
    plan.link(PREFIX, 1)
    assert not (plan.work / "prefix" / "seed-1" / "codebook").is_symlink()  # its own


def test_a_value_of_the_user_wins_over_the_budget_but_not_over_what_an_arm_is(tmp_path):
    plan = Plan("glyphs", tmp_path, overrides=("lora_training.steps=77", "lora.code_order=causal", "seed=9"))
    record = plan.record(PERMUTED, 2)
    recipe = load_recipe(record.recipe, record.overrides)
    assert (recipe.lora_training.steps, recipe.lora.code_order, recipe.seed) == (77, "permuted", 2)
    assert load_recipe("glyphs", BUDGET).codebook_training.steps == recipe.codebook_training.steps
    with pytest.raises(ConfigError):
        Plan("glyphs", tmp_path, overrides=("no.such=1",)).common_steps()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    work = tmp_path_factory.mktemp("pixels")
    recipe = load_recipe("glyphs", ("codebook.size=24", "codebook.revive_after_steps=3"))
    draw_scenes(work / "source", 24, 0)
    shard_source(work / "source", work / "images" / "train", ShardOptions(workers=1))
    train_pixels(recipe, work, 25, work / "codebook" / "export")
    return work, recipe


def test_the_pixel_tokenizer_learns_and_its_codes_are_a_feature_set(trained):
    work, recipe = trained
    model = load_coder(work / "codebook" / "export")
    manifest = encode_pictures(work, "train", work / "codebook" / "export")
    assert manifest.details["shape"] == [CODES]
    assert manifest.details["codebook_size"] == recipe.codebook.size
    features = PairedFeatures(work, "train", ("codes",))
    codes = torch.from_numpy(features.read(np.arange(24))["codes"]).long()
    images = ImageShards(work / "images" / "train")
    pictures = torch.stack([as_tensor(images.image(i)) for i in range(24)])
    assert torch.equal(model.codes(pictures), codes)
    learned = (model.decode(codes) - pictures).square().mean()
    assert learned < (pictures - pictures.mean(0)).square().mean()  # better than the mean picture
    assert len(codes.unique()) > 4
