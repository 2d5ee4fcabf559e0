"""The training of the pixel tokenizer, in one process, and its codes as a feature set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from seed_dist.config import Recipe, TrainConfig
from seed_dist.data.manifest import Manifest
from seed_dist.data.progress import progress_bar
from seed_dist.data.reader import ImageShards
from seed_dist.encode.batches import Batch
from seed_dist.encode.encoder import as_array
from seed_dist.encode.runner import encode_split
from seed_dist.fsio import atomic_folder
from seed_dist.losses import quantizer_loss
from seed_dist.models.model_files import module_fingerprint
from seed_dist.models.pixel_tokenizer import CODES, PixelTokenizer, as_tensor
from seed_dist.order import SampleOrder, block_samples
from seed_dist.pixels import DECODING
from seed_dist.train.schedule import learning_rate

BATCH = 64
LEARNING_RATE, WARMUP_STEPS, CLIP_NORM = 1.0e-3, 50, 1.0
QUANTIZER_WEIGHT = 1.0  # beside the mean squared error of values in -1..1
_WITHOUT_CODES = 0.1  # share of the steps before the codebook: k-means needs vectors that mean something
_KMEANS_VECTORS_PER_CODE = 16


def train_pixels(recipe: Recipe, work: Path, steps: int, export: Path) -> None:
    """Train on the pictures of WORK/images/train and write `export`, complete or not at all."""
    pictures = _Pictures(ImageShards(work / "images" / "train"), recipe.seed)
    torch.manual_seed(recipe.seed)
    model = PixelTokenizer(recipe.codebook)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = TrainConfig(steps=steps, global_batch=BATCH, lr=LEARNING_RATE, warmup_steps=WARMUP_STEPS)
    first_with_codes = max(1, round(_WITHOUT_CODES * steps))
    with progress_bar(steps, 0, "training the pixel tokenizer", "steps") as bar:
        for step in range(steps):
            if step == first_with_codes:
                model.quantizer.initialise_from(_vectors(model, pictures), recipe.seed)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, step)
            loss = _step_loss(model, pictures.batch(step), step >= first_with_codes)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            if step >= first_with_codes:
                _revive(model, pictures.batch(step), recipe.seed)
            bar.update(1)
    provenance = {"seed": recipe.seed, "steps": steps, "parents": {"train": pictures.fingerprint}}
    with atomic_folder(export) as partial:
        model.save_pretrained(partial, provenance)


class _Pictures:
    """The training pictures in memory, as bytes, in the project's data order."""

    def __init__(self, images: ImageShards, seed: int) -> None:
        self.fingerprint = images.manifest.fingerprint
        self._bytes = np.stack([np.asarray(images.image(i).resize((64, 64))) for i in range(len(images))])
        self._order = SampleOrder(len(self._bytes), seed, block_samples(self._bytes[0].nbytes))

    def batch(self, step: int, size: int = BATCH) -> Tensor:
        """Float32 [B, 3, 64, 64] in -1..1."""
        rows = self._bytes[self._order.batch(step, min(size, len(self._bytes)))]
        return torch.from_numpy(rows.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def _step_loss(model: PixelTokenizer, pictures: Tensor, with_codes: bool) -> Tensor:
    if not with_codes:
        return F.mse_loss(model.decode_vectors(model.encode_vectors(pictures)), pictures)
    made, quantized = model(pictures)
    model.quantizer.record_usage(quantized.codes)
    return F.mse_loss(made, pictures) + QUANTIZER_WEIGHT * quantizer_loss(quantized, model.config)


@torch.no_grad()
def _vectors(model: PixelTokenizer, pictures: _Pictures) -> Tensor:
    """Encoded vectors [N, c] of enough pictures for k-means."""
    wanted = _KMEANS_VECTORS_PER_CODE * model.config.size // CODES
    blocks = [model.encode_vectors(pictures.batch(step)) for step in range(-(-wanted // BATCH))]
    return torch.cat(blocks).flatten(0, 1)


@torch.no_grad()
def _revive(model: PixelTokenizer, pictures: Tensor, seed: int) -> None:
    after = model.config.revive_after_steps
    if after and bool((model.quantizer.usage_statistics.idle >= after).any()):
        model.quantizer.revive(model.encode_vectors(pictures).flatten(0, 1), seed)


class PixelCodeEncoder:
    """codes: int32 [16], made from pictures by a pixel tokenizer."""

    target, source = "codes", "images"

    def __init__(self, export: Path) -> None:
        self._model = PixelTokenizer.from_pretrained(export)
        self.preprocess = as_tensor

    def details(self) -> dict[str, Any]:
        config = dataclasses.asdict(self._model.config)
        return {
            "encoder": "pixel_tokenizer",
            "weights_sha256": module_fingerprint(self._model, config),
            "preprocessing": {"size": 64, "range": [-1, 1], "decoding": DECODING},
            "dtype": "int32",
            "shape": (CODES,),
            "codebook_size": self._model.config.size,
        }

    def check_source(self, source: Manifest) -> None:
        """Any images will do."""

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> npt.NDArray[Any]:
        return as_array(self._model.codes(batch.pixels[self.preprocess]), "int32")


def encode_pictures(work: Path, split: str, export: Path) -> Manifest:
    """WORK/features/codes/SPLIT by the pixel tokenizer; a finished set is left as it is."""
    encoder = PixelCodeEncoder(export)
    return encode_split(work / "images" / split, {work / "features" / "codes" / split: encoder})[0]
