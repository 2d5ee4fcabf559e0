"""Trains the small OPT on text alone: packed documents of scene captions, half of them said twice.

A caption that recurs in its document is what teaches a language model to look back and copy, as real text does.
"""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path

import torch
from transformers import OPTConfig, OPTForCausalLM

from seed_dist.glyphs.scenes import sample_scene
from seed_dist.glyphs.vocabulary import build_tokenizer, save_tokenizer

CONTEXT_TOKENS = 64


def build_model() -> OPTForCausalLM:
    tokenizer = build_tokenizer()
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=160,
            num_hidden_layers=4,
            ffn_dim=640,
            num_attention_heads=5,
            word_embed_proj_dim=160,
            max_position_embeddings=CONTEXT_TOKENS,
            dropout=0.0,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def packed_text(rng: random.Random, rows: int) -> torch.Tensor:
    """[rows, CONTEXT_TOKENS] token ids: documents one after the other, cut at the end of the row, none at its start."""
    tokenizer = build_tokenizer()
    out = torch.empty(rows, CONTEXT_TOKENS, dtype=torch.long)
    for row in range(rows):
        ids: list[int] = []
        while len(ids) < CONTEXT_TOKENS:
            words = sample_scene(rng).caption().split()
            words = words * 2 if rng.random() < 0.5 else words
            ids += tokenizer.convert_tokens_to_ids(["<s>", *words, "</s>"])
        out[row] = torch.tensor(ids[:CONTEXT_TOKENS])
    return out


def train_language(folder: Path, steps: int, batch_size: int, seed: int, lr: float = 2e-3) -> None:
    torch.manual_seed(seed)
    rng = random.Random(f"language-{seed}")
    model = build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / 100, 0.5 * (1 + math.cos(math.pi * s / steps)) + 1e-3)
    )
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (folder / "train_log.jsonl").open("w") as log:
        for step in range(1, steps + 1):
            ids = packed_text(rng, batch_size)
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 50 == 0 or step == steps:
                row = {"step": step, "loss": round(loss.item(), 4), "seconds": round(time.monotonic() - started, 1)}
                print(json.dumps(row), file=log, flush=True)
                print(f"language {row}", flush=True)
    model.half().save_pretrained(folder)  # for the package; read back into float32
    save_tokenizer(folder)
