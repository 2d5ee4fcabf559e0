"""Trains the small Q-Former that stage 1 starts from, as the published run starts from BLIP-2's.

BLIP-2's first stage (Li et al. 2023, section 3.1) with two of its objectives: image-text contrast by the best of all
queries, and captioning from the queries. Its third, matching, adds nothing on drawn scenes.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seed_dist.config import BackboneConfig, QFormerConfig, load_recipe
from seed_dist.glyphs.pretrain.stream import scene_batches
from seed_dist.models.captions import CaptionTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.vision import FrozenClip

CHANNEL_WIDTH = 32  # numbers that a query says to the caption decoder, like the width of a code
CHANNEL_NOISE = 2.0  # standard deviation beside a signal of 1: 32 / 2 log2(1 + 1/4) = 5 bits, less than a code holds
DECODER_LAYERS, DECODER_HEADS = 2, 4
LEARNING_RATE = 1.5e-3


class CaptionDecoder(nn.Module):
    """Writes the caption from the queries; thrown away afterwards.

    It hears each query through a narrow noisy channel, so that captions stay readable from queries that are known only
    roughly, as from codes: otherwise every query says everything, none of it loudly enough for a code.
    """

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.squeeze = nn.Linear(config.width, CHANNEL_WIDTH)
        self.norm = nn.LayerNorm(CHANNEL_WIDTH, elementwise_affine=False)
        self.widen = nn.Linear(CHANNEL_WIDTH, config.width)
        self.place = nn.Parameter(torch.randn(1, config.queries, config.width) * 0.02)
        self.words = nn.Embedding(config.vocabulary_size, config.width)
        self.position = nn.Parameter(torch.randn(1, config.max_text_tokens, config.width) * 0.02)
        layer = nn.TransformerDecoderLayer(
            config.width, DECODER_HEADS, config.mlp_width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, DECODER_LAYERS, nn.LayerNorm(config.width))
        self.out = nn.Linear(config.width, config.vocabulary_size)

    def forward(self, queries: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Queries [B, Q, W], caption ids and mask [B, T] -> mean cross-entropy of each next token."""
        heard = self.norm(self.squeeze(queries))
        heard = heard + CHANNEL_NOISE * torch.randn_like(heard)
        said = self.words(ids[:, :-1]) + self.position[:, : ids.shape[1] - 1]
        ahead = torch.ones(said.shape[1], said.shape[1], dtype=torch.bool).triu(1)
        hidden = self.decoder(said, self.widen(heard) + self.place, tgt_mask=ahead)
        scored = mask[:, 1:].bool()
        return F.cross_entropy(self.out(hidden[scored]).float(), ids[:, 1:][scored])


def contrast(images: Tensor, texts: Tensor, temperature: Tensor) -> Tensor:
    """Images [B, Q, D] against texts [B + M, D], all unit vectors: symmetric cross-entropy of the best query's cosine.

    The last M texts describe no image. BLIP-2, section 3.1.
    """
    similarity = torch.einsum("bqd,td->btq", images, texts).amax(-1) / temperature
    pairs = torch.arange(len(images))
    return (F.cross_entropy(similarity, pairs) + F.cross_entropy(similarity[:, : len(images)].T, pairs)) / 2


def train_qformer(folder: Path, clip_reference: str, steps: int, batch_size: int, seed: int) -> None:
    """Fresh scenes with hard-negative captions. Half the steps run with a causal mask and half without, so that stage 1
    is left with what it is for: to make the last query the summary.
    """
    torch.manual_seed(seed)
    recipe = load_recipe("glyphs")
    clip = FrozenClip(clip_reference)
    tokenizer = CaptionTokenizer(recipe.backbones.text_tokenizer, recipe.qformer.max_text_tokens)
    model, decoder = CausalQFormer(recipe.qformer), CaptionDecoder(recipe.qformer)
    parameters = [*model.parameters(), *decoder.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / 200, 0.5 * (1 + math.cos(math.pi * s / steps)) + 1e-3)
    )
    coin = random.Random(f"qformer-{seed}")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (folder / "train_log.jsonl").open("w") as log:
        for step, batch in zip(range(1, steps + 1), scene_batches(batch_size, f"qformer-{seed}"), strict=False):
            with torch.autocast("cpu", torch.bfloat16):
                patches = clip.patch_features((batch.images.float() / 255 - 0.5) / 0.5).clone()
                ids, mask = tokenizer(batch.captions + batch.negatives)
                queries = model.encoder(
                    model.query_tokens,
                    F.layer_norm(patches.float(), (recipe.qformer.vision_width,)),
                    (model.ln_vision.weight, model.ln_vision.bias),
                    causal=coin.random() < 0.5,
                )
                images = F.normalize(model.vision_proj(queries).float(), dim=-1)
                texts = model.text_feature(model.embed_text(ids, mask))
                contrastive = contrast(images, texts, model.temperature)
                captioning = decoder(queries, ids[: len(images)], mask[: len(images)])
            loss = contrastive + captioning
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            model.temperature.data.clamp_(min=0.01)
            if step % 50 == 0 or step == steps:
                row = {
                    "step": step,
                    "contrastive_loss": round(contrastive.item(), 4),
                    "caption_loss": round(captioning.item(), 4),
                    "seconds": round(time.monotonic() - started, 1),
                }
                print(json.dumps(row), file=log, flush=True)
                print(f"qformer {row}", flush=True)
            if step % 500 == 0 or step == steps:
                backbones = BackboneConfig(image_encoder=clip_reference, generation_encoder=clip_reference)
                halved = copy.deepcopy(model).half()  # for the package; read back into float32
                halved.save_pretrained(folder, backbones, {"pretrained": {"seed": seed, "steps": step}})
