"""Small feature sets for tests, written with the writer that real ones are written with."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seed_dist.data.index import DIGESTS, IndexRow, write_index
from seed_dist.data.manifest import Manifest, write_manifest
from seed_dist.data.writer import npy_header, open_shard


def write_features(
    work: Path,
    split: str,
    target: str,
    values: npt.NDArray[Any],
    captions: Sequence[str],
    weights: str = "none",
    per_shard: int = 1 << 30,
    others: Sequence[tuple[str, ...]] | None = None,
) -> Path:
    """WORK/features/{target}/{split}: shards of `values` [N, ...] with N captions and `others` of the same images, made
    by weights of that name; the value is the folder.
    """
    folder = work / "features" / target / split
    folder.mkdir(parents=True)
    header, entries = npy_header(values.dtype, values.shape[1:]), []
    shards: list[tuple[str, list[Any]]] = []
    for start in range(0, len(values), per_shard):
        name, rows = f"shard-{len(shards):06d}.tar", []
        with open_shard(folder / name) as shard:
            for i in range(start, min(start + per_shard, len(values))):
                payload = header + np.ascontiguousarray(values[i]).tobytes()
                place = shard.add(f"{i:08d}.npy", payload)
                more = others[i] if others else ()
                row = IndexRow(f"{i:08d}", place.offset, place.size, zlib.crc32(payload), captions[i], "npy", more)
                rows.append(row)
        entries.append(shard.entry(len(rows)))
        shards.append((name, rows))
    digests = write_index(folder, shards)
    shape = list(values.shape[1:])
    details = {"dtype": str(values.dtype), "shape": shape, "weights_sha256": weights, DIGESTS: digests}
    write_manifest(
        folder, Manifest("features", len(values), tuple(entries), {"images": f"test images {split}"}, details)
    )
    return folder


# A recipe for these features: everything as small as it gets, deterministic codes that need reviving.
TINY = (
    "backbones.qformer=null",
    "qformer.queries=4", "qformer.width=16", "qformer.heads=2", "qformer.layers=2", "qformer.mlp_width=32",
    "qformer.vision_width=12", "qformer.projection_width=8", "codebook.size=24", "codebook.width=4",
    "codebook.decoder_layers=1", "codebook.decoder_heads=2", "codebook.generation_width=6", "codebook.head=mlp",
    "codebook.revive_after_steps=2", "codebook.usage_window_steps=3", "lora.rank=2",
    *(f"{stage}_training.{option}" for stage in ("causal_qformer", "codebook", "lora") for option in (
        "steps=6", "global_batch=8", "warmup_steps=2", "validate_every=4", "validation_samples=10",
        "checkpoint_every=2", "lr=1.0e-3",
    )),
)  # fmt: skip


def tiny_workspace(work: Path, samples: int = 40, **more_splits: int) -> tuple[str, ...]:
    """Features of all stages in WORK for train, val and `more_splits` of so many samples, and stage 1's and 2's
    untrained exports; the value is the overrides of the recipe `glyphs` that fit them."""
    made_by, overrides = _tiny_models(work)
    rng = np.random.default_rng(0)
    names = ("red heart", "blue star", "green moon", "cyan sun")
    for split, count in (("train", samples), ("val", 11), *more_splits.items()):
        kinds = rng.integers(0, len(names), count)
        captions = [f"a {names[kind]} on black" for kind in kinds]
        noise = rng.standard_normal((count, 5, 12)) / 4
        patches = np.sin(np.arange(5 * 12).reshape(5, 12) * (kinds[:, None, None] + 1)) + noise
        write_features(work, split, "patches", patches.astype(np.float16), captions)
        causal = rng.standard_normal((count, 4, 16)).astype(np.float16)
        write_features(work, split, "causal", causal, captions, made_by["causal"])
        write_features(work, split, "image_embedding", rng.standard_normal((count, 6)).astype(np.float32), captions)
        codes = rng.integers(0, 24, (count, 4)).astype(np.int32)
        write_features(work, split, "codes", codes, captions, made_by["codes"])
    return (*TINY, *overrides)


def _tiny_models(work: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Fingerprints of the models that made causal and codes, and the overrides that name the language model."""
    import torch

    from seed_dist.config import load_recipe
    from seed_dist.glyphs.vocabulary import build_tokenizer, save_tokenizer
    from seed_dist.models.model_files import module_fingerprint
    from seed_dist.models.pretrained import SeedTokenizer
    from seed_dist.models.qformer import CausalQFormer
    from seed_dist.models.tokenizer import SeedQuantizer

    from transformers import OPTConfig, OPTForCausalLM  # isort: skip  # after seed_dist.models, whose guard it needs

    torch.manual_seed(0)
    recipe, tokenizer = load_recipe("glyphs", TINY), build_tokenizer()
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 1, "ffn_dim": 32, "dropout": 0.0}
    config = OPTConfig(vocab_size=len(tokenizer), num_attention_heads=2, max_position_embeddings=64, **sizes, **special)
    OPTForCausalLM(config).save_pretrained(work / "language")
    save_tokenizer(work / "language")
    qformer = CausalQFormer(recipe.qformer)
    qformer.save_pretrained(work / "causal_qformer" / "export", recipe.backbones, {})
    quantizer = SeedQuantizer.for_qformer(recipe.codebook, recipe.qformer)
    SeedTokenizer(qformer, quantizer, recipe.backbones).save_pretrained(work / "codebook" / "export")
    made_by = {
        "causal": module_fingerprint(qformer, dataclasses.asdict(qformer.config)),
        "codes": module_fingerprint(quantizer, dataclasses.asdict(quantizer.config)),
    }
    return made_by, (f"backbones.language_model={work / 'language'}",)
