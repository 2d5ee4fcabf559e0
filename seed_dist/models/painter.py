"""Frozen painters, which make pictures of generation embeddings. The files of a painter's folder say its family."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from seed_dist.assets import resolve
from seed_dist.errors import ConfigError, DataError, MismatchError

Seed: TypeAlias = int | Sequence[int]  # one for all pictures, or one for each
_FAMILIES = "StableDiffusionPipeline, StableUnCLIPImg2ImgPipeline and StableUnCLIPPipeline"


class Painter(Protocol):
    """What every family offers. `default_steps` and `default_guidance` are those of its publication."""

    reference: str
    device: torch.device
    embedding_shape: tuple[int, ...]
    default_steps: int
    default_guidance: float

    def paint(
        self,
        embeddings: Tensor,
        seed: Seed = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: Tensor | None = None,
    ) -> list[Image.Image]:
        """Embeddings [B, *embedding_shape] -> B pictures; None means the family's default.

        Picture i depends on its embeddings, `seed` and i alone, to rounding; equal arguments give equal pictures. Given
        B seeds, it depends on `seed[i]` instead, wherever it stands.
        `guidance` above 1 drives it away from what `negative` [B or 1, *embedding_shape] shows, by default from a
        picture of nothing in particular; at 1 the embedding is painted as it is and `negative` is not used.
        """


def load_painter(reference: str, device: str | torch.device = "cpu") -> Painter:
    """The painter of a folder; ConfigError where its files are of no known family."""
    folder = resolve(reference, "painter")
    name = _pipeline_class(folder)
    if name is None:
        from seed_dist.models.small_painter import SmallPainter

        return SmallPainter(reference, device)
    if name == "StableDiffusionPipeline":
        from seed_dist.models.stable_diffusion import StableDiffusionPainter

        return StableDiffusionPainter(reference, device)
    if name in ("StableUnCLIPImg2ImgPipeline", "StableUnCLIPPipeline"):
        from seed_dist.models.stable_unclip import StableUnclipPainter

        return StableUnclipPainter(reference, device)
    raise ConfigError([f"painter {reference!r} is a {name} of diffusers, but {_FAMILIES} are what paints here"])


def require_shape(painter: Painter, shape: tuple[int, ...]) -> None:
    """MismatchError unless the painter reads generation embeddings of this shape (of one picture)."""
    if painter.embedding_shape != shape:
        raise MismatchError(
            f"the shape of embeddings that the painter {painter.reference} reads",
            list(painter.embedding_shape),
            list(shape),
            "Name a painter for this tokenizer's generation embeddings (backbones.painter).",
        )


def settings(painter: Painter, steps: int | None, guidance: float | None) -> tuple[int, float]:
    """The caller's steps and guidance, or those of the painter's family."""
    return (
        painter.default_steps if steps is None else steps,
        painter.default_guidance if guidance is None else guidance,
    )


@dataclass(frozen=True)
class Block:
    """Some of the pictures to paint: their embeddings, what they are driven away from, a source of noise for each."""

    embeddings: Tensor
    negative: Tensor | None
    generators: list[torch.Generator]

    def noise(self, *shape: int) -> Tensor:
        """[B, *shape] on the CPU in fp32, whatever the weights: half precision draws other numbers now and then."""
        return torch.stack([torch.randn(shape, generator=generator) for generator in self.generators])


def blocks(embeddings: Tensor, negative: Tensor | None, seed: Seed, size: int) -> Iterator[Block]:
    """At most `size` pictures at a time. Noise comes from the CPU, from a generator for each picture."""
    if not isinstance(seed, int) and len(seed) != len(embeddings):
        raise DataError(f"{len(seed)} seeds for {len(embeddings)} pictures. Give one for each, or one for all.")
    if negative is not None and negative.shape != embeddings.shape:
        if negative.shape != (1, *embeddings.shape[1:]):
            raise DataError(
                f"negative embeddings are {list(negative.shape)}, but {list(embeddings.shape)} is needed, or one for "
                f"all, {[1, *embeddings.shape[1:]]}."
            )
        negative = negative.expand_as(embeddings)
    for start in range(0, len(embeddings), size):
        rows = range(start, min(start + size, len(embeddings)))
        part = slice(rows.start, rows.stop)
        yield Block(
            embeddings[part], None if negative is None else negative[part], [_generator(seed, row) for row in rows]
        )


def load_pipeline(kind: Any, reference: str, device: torch.device, **options: Any) -> Any:
    """A diffusers pipeline for painting: fp16 on CUDA and fp32 elsewhere, from files that are data and never code."""
    try:
        pipeline = kind.from_pretrained(
            resolve(reference, "painter"), use_safetensors=True, local_files_only=True, **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(
            f"painter {reference!r} cannot be read as a {kind.__name__}: {error} Its folder needs every part that its "
            "model_index.json names, with weights as .safetensors; fetch them, or name another backbones.painter."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_slicing()  # pictures are decoded one by one: the decoder needs more memory than the U-Net
    return pipeline.to(device, torch.float16 if device.type == "cuda" else torch.float32)


def _generator(seed: Seed, index: int) -> torch.Generator:
    own = seed * 1_000_003 + index if isinstance(seed, int) else seed[index]
    return torch.Generator().manual_seed(own % 2**63)


def _pipeline_class(folder: Path) -> str | None:
    """What a diffusers folder says it is; None for the small painter's, which is no pipeline."""
    path = folder / "model_index.json"
    if not path.is_file():
        if not (folder / "projection").is_dir():
            raise ConfigError(
                [
                    f"painter folder {folder} holds neither model_index.json nor projection/; give the folder of a "
                    f"diffusers pipeline ({_FAMILIES}), or of the small painter"
                ]
            )
        return None
    try:
        return str(json.loads(path.read_text())["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} does not name a pipeline ({type(error).__name__}: {error}). Fetch the painter again."
        ) from error
