"""A complete workspace of untrained stages: real shards, features, exports and frozen models, all tiny."""

import random
from pathlib import Path

import torch

from seed_dist.config import load_recipe
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.encode.workspace import EncodeRequest, encode_workspace
from seed_dist.glyphs.scenes import draw, sample_scene
from seed_dist.glyphs.vocabulary import build_tokenizer, save_tokenizer
from seed_dist.models.language import SeedLanguageModel
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.small_painter import build_painter, save_painter
from seed_dist.models.tokenizer import SeedQuantizer
from seed_dist.models.vision import FrozenClip

OVERRIDES = (
    "qformer.queries=6", "qformer.width=16", "qformer.heads=2", "qformer.layers=2", "qformer.mlp_width=32",
    "qformer.projection_width=8", "codebook.size=20", "codebook.width=4", "codebook.decoder_layers=1",
    "codebook.decoder_heads=2", "lora.rank=2", "eval.batch_size=16", "eval.paint_samples=4", "eval.paint_steps=1",
)  # fmt: skip


def draw_scenes(folder, count, seed, held_out=False):
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    for i in range(count):
        scene = sample_scene(rng, held_out=held_out)
        draw(scene, rng).save(folder / f"{i:03d}.jpg", quality=95)
        (folder / f"{i:03d}.txt").write_text(scene.caption())


def frozen_models(folder):
    """Untrained language model and painter; the value is the overrides that name them."""
    from transformers import OPTConfig, OPTForCausalLM  # after seed_dist.models, whose guard lets it load

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    sizes = {
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "num_hidden_layers": 1,
        "ffn_dim": 32,
        "num_attention_heads": 2,
    }
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    OPTForCausalLM(
        OPTConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes, **special)
    ).save_pretrained(folder / "language")
    save_tokenizer(folder / "language")
    clip = FrozenClip("embedded:clip")
    image = torch.zeros(1, 3, clip.image_size, clip.image_size)
    save_painter(folder / "painter", build_painter(clip.image_embedding(image).shape[1]))
    return (
        f"backbones.language_model={folder / 'language'}",
        f"backbones.painter={folder / 'painter'}",
        f"qformer.vision_width={clip.patch_features(image).shape[2]}",
        f"codebook.generation_width={clip.image_embedding(image).shape[1]}",
    )


def build(folder: Path, splits, draw_split=draw_scenes):
    """(workspace folder, overrides of the glyphs recipe). `splits`: name -> number of scenes."""
    overrides = (*OVERRIDES, *frozen_models(folder / "backbones"))
    recipe, work = load_recipe("glyphs", overrides), folder / "work"
    for seed, (split, count) in enumerate(splits.items()):
        draw_split(folder / split, count, seed, split == "heldout")
        shard_source(folder / split, work / "images" / split, ShardOptions(workers=1))
    torch.manual_seed(0)
    qformer = CausalQFormer(recipe.qformer)
    qformer.save_pretrained(work / "causal_qformer" / "export", recipe.backbones, {})
    quantizer = SeedQuantizer.for_qformer(recipe.codebook, recipe.qformer)
    torch.nn.init.normal_(quantizer.quantizer.embedding.weight, std=0.3)
    SeedTokenizer(qformer, quantizer, recipe.backbones).save_pretrained(work / "codebook" / "export")
    language = SeedLanguageModel(recipe.backbones.language_model, recipe.codebook.size, recipe.lora)
    (work / "lora").mkdir()
    language.save_pretrained(work / "lora" / "export", {})
    targets = ("patches", "image_embedding", "causal", "codes")
    list(encode_workspace(EncodeRequest(recipe, work, targets, tuple(splits), device="cpu")))
    return work, overrides
