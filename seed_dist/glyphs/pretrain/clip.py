"""Trains the small CLIP: an open_clip model, saved in open_clip's own folder layout (`local-dir:` loads it)."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from seed_dist.glyphs.pretrain.stream import LABEL_SIZES, scene_batches
from seed_dist.glyphs.scenes import IMAGE_SIZE_PX
from seed_dist.glyphs.vocabulary import MAX_TEXT_TOKENS, build_tokenizer, save_tokenizer

MEAN = STD = (0.5, 0.5, 0.5)
ATTRIBUTE_WEIGHT = 0.5


def clip_config() -> dict[str, Any]:
    """open_clip_config.json: a CLIP-ResNet image tower (Radford et al. 2021) of width 24, 2 text blocks, 128-d space.

    A vision transformer of this size was still at chance on glyph shapes after the minutes in which the convolutions
    read 88 % of them, so the embedded default takes CLIP's other published tower.
    """
    vocabulary_size = len(build_tokenizer())
    vision = {"image_size": IMAGE_SIZE_PX, "layers": [1, 1, 1, 1], "width": 24, "head_width": 64}
    text = {
        "context_length": MAX_TEXT_TOKENS,
        "vocab_size": vocabulary_size,
        "width": 128,
        "heads": 4,
        "layers": 2,
        "hf_tokenizer_name": "glyphs",
    }
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    return {
        "model_cfg": {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": preprocess,
    }


def train_clip(folder: Path, steps: int, batch_size: int, seed: int, lr: float = 2e-3) -> None:
    """Contrastive training on fresh scenes with hard-negative captions, helped by linear attribute heads.

    The heads read what the caption says (colours, glyphs, relation, background) off the image embedding and are thrown
    away afterwards; with the contrastive loss alone, glyph shapes come much later.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = clip_config()
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    save_tokenizer(folder)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    heads = torch.nn.Linear(config["model_cfg"]["embed_dim"], sum(LABEL_SIZES))
    matrices = [p for p in [*model.parameters(), *heads.parameters()] if p.ndim >= 2]
    vectors = [p for p in [*model.parameters(), *heads.parameters()] if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / (2 * steps))) + 1e-3)
    )
    started = time.monotonic()
    with (folder / "train_log.jsonl").open("w") as log:
        for step, batch in zip(range(1, steps + 1), scene_batches(batch_size, f"clip-{seed}"), strict=False):
            images = (batch.images.float() / 255 - MEAN[0]) / STD[0]
            tokens = tokenizer(batch.captions + batch.negatives)
            with torch.autocast("cpu", torch.bfloat16):
                image_feature = model.encode_image(images)
                text_feature = model.encode_text(tokens)
            attributes = heads(image_feature.float()).split(LABEL_SIZES, dim=-1)
            image_feature = F.normalize(image_feature.float(), dim=-1)
            text_feature = F.normalize(text_feature.float(), dim=-1)
            logits = model.logit_scale.exp() * image_feature @ text_feature.T
            target = torch.arange(len(images))
            to_image = logits[:, : len(images)].T
            contrastive = (F.cross_entropy(logits, target) + F.cross_entropy(to_image, target)) / 2
            reading = [F.cross_entropy(a, batch.labels[:, i]) for i, a in enumerate(attributes)]
            loss = contrastive + ATTRIBUTE_WEIGHT * sum(reading, torch.zeros(()))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            model.logit_scale.data.clamp_(max=math.log(100))
            if step % 20 == 0 or step == steps:
                accuracy = (logits.argmax(1) == target).float().mean().item()
                row = {
                    "step": step,
                    "contrastive_loss": round(contrastive.item(), 4),
                    "glyph_loss": round(reading[1].item(), 4),
                    "batch_i2t_r1": round(accuracy, 4),
                    "seconds": round(time.monotonic() - started, 1),
                }
                print(json.dumps(row), file=log, flush=True)
                print(f"clip {row}", flush=True)
            if step % 200 == 0 or step == steps:
                save_file(_halved(_rescaled(model.state_dict())), folder / "open_clip_model.safetensors")


def _halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as float16 for the package (open_clip reads them into float32); scalars and running statistics stay."""
    return {
        name: (
            value.half() if value.is_floating_point() and value.ndim > 0 and "running_" not in name else value
        ).contiguous()
        for name, value in state.items()
    }


EMBEDDING_RMS = 11.2  # of the trained image embedding, measured on the train split; cosines do not depend on it


def _rescaled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The image projection divided so that embeddings have a root mean square near 1: a good regression target."""
    names = ("visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias")
    return {name: value / EMBEDDING_RMS if name in names else value for name, value in state.items()}
