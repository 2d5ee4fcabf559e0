"""Encoding against its ceiling: open_clip's forward pass on pixels that lie in memory, ViT-B/32 with random weights.

  python -m benchmarks.encode

Ours reads shards, decodes and pre-processes JPEG, encodes, checks for NaN, writes fp16 shards with checksums and
flushes them. `without_encoder` is the same with an encoder that computes nothing: what everything else costs.
Efficiency is the ratio of the bare pass's time to ours; 1 would mean that everything else is hidden behind it.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.hardware import keep, load
from benchmarks.rounds import interleaved, medians, times_faster
from seed_dist.data.manifest import Manifest
from seed_dist.data.reader import ImageShards
from seed_dist.data.request import ShardOptions
from seed_dist.data.sharding import shard_source
from seed_dist.encode.batches import Batch
from seed_dist.encode.clip_targets import ClipImages, PatchEncoder
from seed_dist.encode.runner import EncodeOptions, encode_split
from seed_dist.models.vision import FrozenClip

import open_clip  # isort: skip  # after seed_dist.models, whose guard it needs

MODEL, SIDE_PX = "ViT-B-32", 256


class Nothing:
    """Stands where the encoder stands and returns zeros of its shape."""

    target, source = "patches", "images"

    def __init__(self, encoder: PatchEncoder) -> None:
        self.preprocess, self._details = encoder.preprocess, encoder.details()

    def details(self) -> dict[str, Any]:
        return self._details

    def check_source(self, source: Manifest) -> None:
        """Any images will do."""

    def __call__(self, batch: Batch) -> npt.NDArray[Any]:
        return np.zeros((len(batch.keys), *self._details["shape"]), np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of torch; one more decodes, one writes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = _images(folder, args.samples)
        _save_random_clip(folder / "clip")
        clip = FrozenClip(str(folder / "clip"))
        encoder = PatchEncoder(ClipImages(clip))
        pixels = _preloaded(images, clip, args.batch_size)
        out, options = folder / "out", EncodeOptions(args.batch_size)

        def bare() -> None:
            for batch in pixels:
                clip.patches_and_embedding(batch)

        def ours(with_encoder: PatchEncoder | Nothing) -> None:
            shutil.rmtree(out, ignore_errors=True)
            encode_split(images.folder, {out: with_encoder}, options)

        load_before = load()
        arms = {"bare": bare, "ours": lambda: ours(encoder), "without_encoder": lambda: ours(Nothing(encoder))}
        seconds = interleaved(arms, args.rounds)
    keep(
        "encode",
        {
            "work": f"{args.samples} JPEGs of {SIDE_PX} px, {MODEL} fp32, batches of {args.batch_size}",
            "threads": args.threads,
            "load_before": load_before,
            "rounds": args.rounds,
            "median_seconds": medians(seconds),
            "efficiency": times_faster(seconds, "ours", "bare"),
        },
        ["torch", "open-clip-torch", "pillow"],
    )


def _save_random_clip(folder: Path) -> None:
    """A folder of MODEL's layout, as open_clip writes it for the hub."""
    folder.mkdir()
    torch.manual_seed(0)
    save_file(open_clip.create_model(MODEL).state_dict(), folder / "open_clip_model.safetensors")
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    preprocess = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": open_clip.get_model_config(MODEL), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def _images(folder: Path, count: int) -> ImageShards:
    """Smooth noise, which compresses like photographs do."""
    source, generator = folder / "source", np.random.default_rng(0)
    source.mkdir()
    for i in range(count):
        coarse = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
        (source / f"{i:06d}.jpg").write_bytes(buffer.getvalue())
        (source / f"{i:06d}.txt").write_text(f"picture {i}")
    shard_source(source, folder / "images", ShardOptions(max(1, count // 3), 0.0, 1))
    return ImageShards(folder / "images")


def _preloaded(images: ImageShards, clip: FrozenClip, batch_size: int) -> list[Tensor]:
    ready = torch.stack([clip.preprocess(images.image(i)) for i in range(len(images))])
    return list(ready.split(batch_size))


if __name__ == "__main__":
    main()
