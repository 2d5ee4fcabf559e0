"""Trains the small painter by flow matching on fresh scenes, conditioned on the frozen small CLIP's image embedding.

It sees the embedding of a scene with everything somewhere and paints the scene with everything in the middle of its
place. The embedding hardly knows where in its place a thing lies; a painter that must guess spends its training on
places instead of shapes.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any, cast

import torch

from seed_dist.glyphs.pretrain.stream import scene_batches
from seed_dist.models.small_painter import build_painter, condition, fold, load_small_painter, save_painter
from seed_dist.models.vision import FrozenClip

DROP_CONDITION = 0.1  # share of samples trained without condition, for classifier-free guidance
MAX_EMBEDDING_NOISE = (
    0.5  # the codes give embeddings that are a little off; noise up to this RMS makes the painter robust
)
EMA_DECAY = 0.998
LEARNING_RATE = 1e-3
MIN_WEIGHTED_LEVEL = 0.2


def learning_rate_factor(step: int, steps: int) -> float:
    """Warm-up over 100 steps, flat, then linear to zero over the last third."""
    return min(1.0, (step + 1) / 100, max(0.0, (steps - step) / (steps / 3)))


def train_painter(
    folder: Path, clip_reference: str, steps: int, batch_size: int, seed: int, start: str | None = None
) -> None:
    """x_t = (1 - s) x + s e with noise e; the U-Net learns x, weighted as the velocity e - x = (x_t - x) / s would be.

    Flow matching as in Lipman et al. 2023; the weight 1 / s^2 is bounded at s = MIN_WEIGHTED_LEVEL.
    """
    torch.manual_seed(seed)
    clip = FrozenClip(clip_reference)
    model = cast(Any, build_painter(128) if start is None else load_small_painter(start))
    model = model.to(memory_format=torch.channels_last)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    folder.mkdir(parents=True, exist_ok=True)
    started, losses = time.monotonic(), []
    with (folder / "train_log.jsonl").open("w") as log:
        for step, batch in zip(range(1, steps + 1), scene_batches(batch_size, f"painter-{seed}"), strict=False):
            images, still = batch.images.float() / 127.5 - 1, batch.still.float() / 127.5 - 1
            with torch.autocast("cpu", torch.bfloat16):
                label = condition(clip.image_embedding(images))
            label = label + torch.rand(len(label), 1) * MAX_EMBEDDING_NOISE * torch.randn_like(label)
            label = label * (torch.rand(len(label), 1) >= DROP_CONDITION)
            clean = fold(still)
            noise = torch.randn_like(clean)
            level = torch.sigmoid(torch.randn(len(images)) + 0.5).view(-1, 1, 1, 1)
            mixed = (1 - level) * clean + level * noise
            with torch.autocast("cpu", torch.bfloat16):
                painted = model(mixed, level.flatten() * 1000, label)
            loss = ((painted.float() - clean) / level.clamp_min(MIN_WEIGHTED_LEVEL)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                decay = min(EMA_DECAY, (step + 1) / (step + 10))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
            losses.append(loss.item())
            if step % 50 == 0 or step == steps:
                seconds = round(time.monotonic() - started, 1)
                row = {"step": step, "loss": round(sum(losses[-50:]) / len(losses[-50:]), 5), "seconds": seconds}
                print(json.dumps(row), file=log, flush=True)
                print(f"painter {row}", flush=True)
            if step % 500 == 0 or step == steps:
                save_painter(folder, average)
