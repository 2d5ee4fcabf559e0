"""Bytes that the plan states against files that the real writers make and memory that the real engine holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seed_dist.config import load_recipe
from seed_dist.data.index import INDEX_NAME
from seed_dist.plan import memory, parameters, storage
from seed_dist.plan.storage import Feature
from tests.features import TINY, write_features
from tests.harness import run_ranks

DTYPES = {"fp16": "float16", "fp32": "float32", "int32": "int32"}


@pytest.mark.parametrize(
    "feature",
    [Feature("patches", (257, 88), "fp16"), Feature("causal", (32, 48), "fp16"), Feature("codes", (32,), "int32"),
     Feature("image_embedding", (1024,), "fp32"), Feature("patches", (16, 400), "fp16")],
)  # fmt: skip
@pytest.mark.parametrize(("samples", "per_shard"), [(7, 7), (25, 10), (20, 10)])
def test_shards_have_exactly_the_planned_size(feature: Feature, samples: int, per_shard: int, tmp_path: Path) -> None:
    values = np.zeros((samples, *feature.shape), DTYPES[feature.dtype])
    folder = write_features(tmp_path, "train", feature.target, values, ["a"] * samples, per_shard=per_shard)
    written = sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert feature.set_bytes(samples, per_shard) == written


def test_published_features_by_hand() -> None:
    """724 KB for a picture's patches, half of it in int8, and 3.62 TB for five million."""
    patches, causal = Feature("patches", (257, 1408), "fp16"), Feature("causal", (32, 768), "fp16")
    assert patches.payload_bytes == 723_712
    assert Feature("patches", (257, 1408), "int8").payload_bytes == 362_370
    assert causal.payload_bytes == 49_152
    assert patches.set_bytes(5_000_000) / 1e12 == pytest.approx(3.62, abs=0.01)
    assert Feature("text_features", (77, 768), "fp16").payload_bytes == 118_272


@pytest.mark.parametrize("words", [4, 9, 16])
def test_the_index_is_planned_within_a_quarter(words: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlcumwfgypbvk"))
    vocabulary = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(4000)]
    odds = 1 / np.arange(1, len(vocabulary) + 1)  # Zipf
    captions = [" ".join(rng.choice(vocabulary, words, p=odds / odds.sum())) for _ in range(5000)]
    values = rng.integers(0, 8192, (len(captions), 4)).astype(np.int32)
    folder = write_features(tmp_path, "train", "codes", values, captions, per_shard=1000)
    planned = storage.index_bytes(len(captions), round(np.mean([len(caption) for caption in captions])))
    assert planned == pytest.approx((folder / INDEX_NAME).stat().st_size, rel=0.25)


RECIPE = ("qformer.width=64", "qformer.mlp_width=128", "codebook.size=500", "codebook.generation_width=33")


def _held(comm: Any, folder: Path) -> dict[str, int]:
    """Bytes that one rank's engine holds, and those of a checkpoint that both write."""
    from seed_dist.dist.ds_config import load_ds_config
    from seed_dist.dist.engine import start_engine
    from seed_dist.models.tokenizer import SeedQuantizer
    from seed_dist.train.parameter_groups import parameter_groups
    from tests.toy_engine import save_now, toy_saver

    recipe = load_recipe("glyphs", (*TINY, *RECIPE))
    module = SeedQuantizer.for_qformer(recipe.codebook, recipe.qformer)
    training = recipe.codebook_training
    config = load_ds_config(recipe.engine, training, "fp32", comm.size)
    engine = start_engine(module, parameter_groups(module, training.weight_decay), training, config, comm)
    pieces = list(engine.fragments())
    path = save_now(toy_saver(folder, engine), 1)[0].path
    return {
        "weights": sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad),
        "optimizer": sum(t.nbytes for piece in pieces for t in (piece.master, piece.exp_avg, piece.exp_avg_sq)),
        "checkpoint": sum(file.stat().st_size for file in path.iterdir()),
        "buffers": sum(b.numel() * b.element_size() for b in module.buffers()),
    }


@pytest.mark.multirank
def test_the_engine_holds_and_saves_what_is_planned(tmp_path: Path) -> None:
    """Both ranks together hold masters and moments of every parameter once; one rank half of them, but for the few
    numbers by which groups are filled up."""
    recipe = load_recipe("glyphs", (*TINY, *RECIPE))
    trained = sum(parameters.codebook(recipe.codebook, recipe.qformer).values())
    ranks = run_ranks(_held, 2, tmp_path, tmp_path / "checkpoints")
    planned = memory.states(trained, 0, 2, 4, {"reduce_bucket_size": 10})
    assert all(rank["weights"] == planned["weights"] == 4 * trained for rank in ranks)
    assert sum(rank["optimizer"] for rank in ranks) == memory.checkpoint(trained)
    assert all(rank["optimizer"] == pytest.approx(planned["optimizer"], abs=12 * 8) for rank in ranks)
    tensors = memory.checkpoint(trained) + ranks[0]["buffers"]
    assert tensors < ranks[0]["checkpoint"] < tensors + 60_000  # names, places and checksums: the same for any size
