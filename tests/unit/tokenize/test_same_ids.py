"""A picture's ids are the same from its file through the API as from a data set that was made of it."""

import numpy as np
import pytest
import torch
from PIL import Image

from seed_dist.config import load_recipe
from seed_dist.data.reader import FeatureShards, ImageShards
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.encode.workspace import EncodeRequest, encode_workspace
from tests.pictures import fill, odd_pictures
from tests.unit.tokenize.tiny_tokenizer import export


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(picture files, workspace with their codes, tokenizer), by the functions behind data_prep/."""
    folder = tmp_path_factory.mktemp("prepared")
    source, work = fill(folder / "source", 40), folder / "work"
    for name, data in odd_pictures().items():
        stem, _, suffix = name.partition(".")
        (source / f"{stem}_{suffix}.{suffix}").write_bytes(data)
        (source / f"{stem}_{suffix}.txt").write_text("a caption")
    model = export(work / "codebook" / "export")
    model.qformer.save_pretrained(work / "causal_qformer" / "export", model.backbones, {})
    shard_source(source, work / "images" / "val", ShardOptions(16, 0.0, 1))
    targets = ("patches", "causal", "codes")
    list(encode_workspace(EncodeRequest(load_recipe("glyphs"), work, targets, ["val"], device="cpu")))
    files = sorted((path for path in source.iterdir() if path.suffix != ".txt"), key=lambda path: path.stem)
    return files, work, model


def test_the_ids_of_files_are_those_of_stored_pictures(prepared):
    files, work, model = prepared
    ids = model.encode([Image.open(path) for path in files])
    stored = ImageShards(work / "images" / "val")
    assert len(stored) == len(files) == 40 + len(odd_pictures())
    assert len({tuple(row) for row in ids.tolist()}) > 40
    assert torch.equal(model.encode([stored.image(row) for row in range(len(stored))]), ids)


def test_the_ids_of_files_are_the_codes_of_the_data_set(prepared):
    """Features on the way are kept in half precision, so an id may differ where two codes are nearly as near."""
    files, work, model = prepared
    ids = model.encode([Image.open(path) for path in files]).numpy()
    codes = FeatureShards(work / "features" / "codes" / "val").read(np.arange(len(files)))
    assert (codes == ids).mean() > 0.99
