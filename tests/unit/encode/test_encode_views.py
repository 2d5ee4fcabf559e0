"""Augmented views: a function of seed, key and view; one crop for all targets; one view for each sample of a step."""

import numpy as np
import pytest
import torch
from PIL import Image

from seed_dist.data.reader import FeatureShards, ImageShards, PairedFeatures
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.data.verification import verify
from seed_dist.data.views import view_name
from seed_dist.dist.comm import LocalComm
from seed_dist.encode.augmentation import Crop
from seed_dist.encode.workspace import EncodeRequest, encode_workspace
from seed_dist.errors import MismatchError
from seed_dist.models.vision import FrozenClip
from seed_dist.train.data import open_data
from seed_dist.train.stages.causal_qformer import CausalQFormerStage
from tests.pictures import fill
from tests.unit.encode.test_encode_targets import export_stages, small_recipe

WIDE, HIGH = 50, 48


def gradient():
    """Red tells the column, green the row."""
    columns, rows = np.meshgrid(np.arange(WIDE), np.arange(HIGH))
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8))


def test_a_crop_is_a_function_of_seed_key_and_view():
    image = gradient()
    crops = {(s, k, v): Crop(s, v)(image, k) for s in (0, 1) for k in ("a", "b") for v in (1, 2)}
    assert len({(part.size, part.tobytes()) for part in crops.values()}) == 8
    assert all(Crop(s, v)(image, k).tobytes() == part.tobytes() for (s, k, v), part in crops.items())
    assert Crop(0, 1)(image, "000000007").size == (46, 36)  # once and for all: other numbers are another data set


def test_crops_are_the_published_ones():
    """RandomResizedCrop(scale=(0.5, 1)) with torchvision's aspects, and a flip of every other picture."""
    parts = [np.asarray(Crop(0, 1)(gradient(), f"{i:09d}")) for i in range(600)]
    areas = np.array([part.shape[0] * part.shape[1] for part in parts]) / (WIDE * HIGH)
    aspects = np.array([part.shape[1] / part.shape[0] for part in parts])
    assert 0.48 < areas.min() < 0.52
    assert areas.max() > 0.97
    assert 0.72 < aspects.min() < aspects.max() < 1.40
    flipped = np.array([part[0, 0, 0] > part[0, -1, 0] for part in parts])
    assert 0.42 < flipped.mean() < 0.58
    lefts = np.array([part[..., 0].min() for part in parts])
    assert lefts.min() == 0
    assert lefts.max() > 14
    steps = [np.abs(np.diff(part[0, :, 0].astype(int))) for part in parts]
    assert all((step == 1).all() for step in steps)  # cut out, not resized


def test_a_very_long_picture_gives_its_middle():
    part = np.asarray(Crop(0, 1)(Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (2, 1))), "a"))
    assert part.shape == (2, 3)
    assert sorted(part[0]) == [98, 99, 100]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """(recipe, work) with three views of the split `train` and one of `val`."""
    folder = tmp_path_factory.mktemp("views")
    recipe, work = small_recipe(FrozenClip("embedded:clip"), "views=3"), folder / "work"
    for split, count in (("train", 9), ("val", 4)):
        shard_source(fill(folder / split, count), work / "images" / split, ShardOptions(4, 0.0, 1))
    export_stages(recipe, work)
    targets = ("patches", "image_embedding", "text_features", "causal")
    list(encode_workspace(EncodeRequest(recipe, work, targets, ["train"], batch_size=3, views=3)))
    list(encode_workspace(EncodeRequest(recipe, work, targets, ["val"], batch_size=3)))
    return recipe, work


def test_one_crop_for_all_targets(workspace):
    recipe, work = workspace
    images, clip = ImageShards(work / "images" / "train"), FrozenClip("embedded:clip")
    crops = [Crop(recipe.seed, 2)(images.image(i), images.keys[i]) for i in range(9)]
    pixels = torch.stack([clip.preprocess(crop) for crop in crops])
    patches, embedding = (
        torch.from_numpy(FeatureShards(work / "features" / f"{target}.view2" / "train").read(np.arange(9)))
        for target in ("patches", "image_embedding")
    )
    assert torch.allclose(patches.float(), clip.patch_features(pixels), rtol=2e-3, atol=2e-3)
    assert torch.allclose(embedding, clip.image_embedding(pixels), rtol=1e-4, atol=1e-4)
    assert not (work / "features" / "text_features.view1").exists()
    details = FeatureShards(work / "features" / "causal.view2" / "train").manifest.details["view"]
    assert (details["number"], details["seed"]) == (2, recipe.seed)
    assert "view" not in FeatureShards(work / "features" / "patches" / "train").manifest.details


def test_a_step_reads_the_views_asked_for(workspace):
    recipe, work = workspace
    paired = open_data(recipe, "codebook", work).train
    assert paired.views == 3
    ids, views = np.array([5, 0, 5, 8]), np.array([2, 0, 1, 2])
    read = paired.read(ids, None, views)
    out = {target: np.zeros_like(values) for target, values in read.items()}
    assert all(paired.read(ids, out, views)[target] is out[target] for target in out)
    for target, values in read.items():
        for place, (row, view) in enumerate(zip(ids, views, strict=True)):
            shards = FeatureShards(work / "features" / view_name(target, int(view)) / "train")
            assert (values[place] == shards.read(np.array([row]))[0]).all()
            assert (out[target][place] == values[place]).all()
    plain = PairedFeatures(work, "train", ["causal", recipe.codebook.generation_target])
    assert all((plain.read(ids)[target] == paired.read(ids)[target]).all() for target in read)
    assert plain.fingerprint != paired.fingerprint
    assert open_data(recipe, "codebook", work).val.views == 1


def test_every_view_is_verified_against_the_view_it_was_made_from(workspace):
    _, work = workspace
    for name in ("causal", "causal.view2", "patches.view1"):
        assert verify(work / "features" / name / "train", progress=lambda size: None) == []


def test_views_of_another_seed_are_not_mixed(workspace, tmp_path):
    recipe, work = workspace
    for name in ("images", "causal_qformer", "codebook"):
        (tmp_path / name).symlink_to(work / name)
    list(encode_workspace(EncodeRequest(recipe, tmp_path, ["patches"], ["train"], views=2)))
    other = small_recipe(FrozenClip("embedded:clip"), "views=2", "seed=1")
    with pytest.raises(MismatchError, match=r"view.seed of .*patches.view1.train is 0, but 1 is needed"):
        list(encode_workspace(EncodeRequest(other, tmp_path, ["patches"], ["train"], views=2)))
    list(encode_workspace(EncodeRequest(other, tmp_path, ["image_embedding"], ["train"], views=2)))
    with pytest.raises(MismatchError, match=r"view, dtype and shape in .*image_embedding.view1"):
        PairedFeatures(tmp_path, "train", ["patches", "image_embedding"], views=2)


def test_a_step_of_training_draws_its_views(workspace):
    recipe, work = workspace
    stage = CausalQFormerStage(recipe, open_data(recipe, "causal_qformer", work), LocalComm())
    ids = np.arange(9)
    drawn = np.stack([stage.drawn_views(ids, step) for step in range(60)])
    assert (drawn == np.stack([stage.drawn_views(ids, step) for step in range(60)])).all()
    assert (stage.drawn_views(ids[::-1].copy(), 7)[::-1] == drawn[7]).all()  # of the sample, not of its place
    counts = np.bincount(drawn.ravel(), minlength=3)
    assert counts.min() > 0.25 * drawn.size
    patches = stage.make_batch(ids, 7)["patches"].numpy()
    for place, view in enumerate(drawn[7]):
        shards = FeatureShards(work / "features" / view_name("patches", int(view)) / "train")
        assert (patches[place] == shards.read(ids[place : place + 1])[0]).all()
