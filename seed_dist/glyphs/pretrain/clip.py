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

from seed_dist.glyphs.pretrain.stream import scene_batches
from seed_dist.glyphs.scenes import IMAGE_SIZE_PX
from seed_dist.glyphs.vocabulary import MAX_TEXT_TOKENS, build_tokenizer, save_tokenizer

MEAN = STD = (0.5, 0.5, 0.5)


def clip_config() -> dict[str, Any]:
    """open_clip_config.json: 4 vision blocks of width 128 on 8x8 patches, 2 text blocks, a 128-d joint space."""
    vocabulary_size = len(build_tokenizer())
    vision = {"image_size": IMAGE_SIZE_PX, "patch_size": 8, "layers": 4, "width": 128, "head_width": 32}
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


def train_clip(folder: Path, steps: int, batch_size: int, seed: int, lr: float = 1.5e-3) -> None:
    """Contrastive training on fresh scenes; each image also sees one hard-negative caption per image of the batch."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = clip_config()
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    save_tokenizer(folder)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / steps)) + 1e-3)
    )
    started = time.monotonic()
    with (folder / "train_log.jsonl").open("w") as log:
        for step, batch in zip(range(1, steps + 1), scene_batches(batch_size, f"clip-{seed}"), strict=False):
            images = (batch.images.float() / 255 - MEAN[0]) / STD[0]
            tokens = tokenizer(batch.captions + batch.negatives)
            with torch.autocast("cpu", torch.bfloat16):
                image_feature = model.encode_image(images)
                text_feature = model.encode_text(tokens)
            image_feature = F.normalize(image_feature.float(), dim=-1)
            text_feature = F.normalize(text_feature.float(), dim=-1)
            logits = model.logit_scale.exp() * image_feature @ text_feature.T
            target = torch.arange(len(images))
            to_image = logits[:, : len(images)].T
            loss = (F.cross_entropy(logits, target) + F.cross_entropy(to_image, target)) / 2
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
                    "loss": round(loss.item(), 4),
                    "batch_i2t_r1": round(accuracy, 4),
                    "seconds": round(time.monotonic() - started, 1),
                }
                print(json.dumps(row), file=log, flush=True)
                print(f"clip {row}", flush=True)
            if step % 200 == 0 or step == steps:
                weights = {k: v.contiguous() for k, v in model.state_dict().items()}
                save_file(weights, folder / "open_clip_model.safetensors")
