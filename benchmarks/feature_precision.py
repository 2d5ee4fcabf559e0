"""What bfloat16 and int8 features cost, on a finished workspace: retrieval, losses, codes, beside fp16.

  python -m benchmarks.feature_precision --work runs/demo

The patch features of a split are encoded anew from its images in each precision. Everything after them is the trained
stages' own: causal embeddings in the same precision, recall by the stage-1 heads, stage-1 loss, and the codes of stage
2, its cosines and the share of codes that stay as they are with fp16.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.hardware import keep
from seed_dist.config import Recipe, load_recipe
from seed_dist.data.precision import PRECISIONS
from seed_dist.data.reader import FeatureShards, ImageShards
from seed_dist.encode.workspace import EncodeRequest, encode_workspace
from seed_dist.eval import retrieval
from seed_dist.losses import contrastive_loss
from seed_dist.models.captions import CaptionTokenizer, clean_caption
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer

_BATCH = 128  # samples per forward pass, and in the contrastive loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="workspace with trained stages 1 and 2")
    parser.add_argument("--recipe", default="glyphs")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE")
    parser.add_argument("--split", default="test")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=args.work) as name, torch.no_grad():
        scratch = Path(name)
        reference: Tensor | None = None
        for dtype in PRECISIONS:
            work = scratch / dtype
            work.mkdir()
            for part in ("images", "causal_qformer", "codebook"):
                (work / part).symlink_to((args.work / part).resolve())
            targets = ("patches", recipe.codebook.generation_target, "causal")
            for _ in encode_workspace(EncodeRequest(recipe, work, targets, [args.split], dtype=dtype)):
                pass
            measured, codes = _measure(recipe, work, args.split)
            reference = codes if reference is None else reference
            results[dtype] = {**measured, "codes_as_with_float16": float((codes == reference).double().mean())}
    samples = len(ImageShards(args.work / "images" / args.split))
    keep("feature_precision", {"work": f"{samples} images of {args.split}", "results": results}, ["torch"])


def _measure(recipe: Recipe, work: Path, split: str) -> tuple[dict[str, Any], Tensor]:
    """Figures of one precision, and the codes [N, Q]."""
    captions = [clean_caption(text) for text in ImageShards(work / "images" / split).captions]
    qformer = CausalQFormer.from_pretrained(work / "causal_qformer" / "export")
    quantizer = SeedTokenizer.from_pretrained(work / "codebook" / "export").quantizer
    tokenizer = CaptionTokenizer(recipe.backbones.text_tokenizer, recipe.qformer.max_text_tokens)
    patches, causal_set, target_set = (
        FeatureShards(work / "features" / name / split)
        for name in ("patches", "causal", recipe.codebook.generation_target)
    )
    images, texts, causals, losses, codes, cosines = [], [], [], [], [], []
    for start in range(0, len(captions), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(captions)))
        causal, target = (torch.from_numpy(shards.read(rows)).float() for shards in (causal_set, target_set))
        text = qformer.text_feature(qformer.embed_text(*tokenizer([captions[i] for i in rows])))
        from_patches = qformer.embed_image(torch.from_numpy(patches.read(rows)), last_only=True)
        image = qformer.image_feature(from_patches)
        losses.append(float(contrastive_loss(image, text, qformer.temperature, 0.0, lambda one: one, 0)) * len(rows))
        output = quantizer(causal)
        cosines.append(
            [
                float(F.cosine_similarity(a, b, dim=-1).mean()) * len(rows)
                for a, b in ((output.reconstructed, causal), (output.generation, target))
            ]
        )
        codes.append(output.quantized.codes)
        images.append(image)
        texts.append(text)
        causals.append(qformer.image_feature(output.reconstructed))
    text = torch.cat(texts)
    return {
        "patch_bytes_per_sample": patches.value_bytes,
        "causal_bytes_per_sample": causal_set.value_bytes,
        "stage_1_loss": round(sum(losses) / len(captions), 5),
        "embedding": retrieval.score(torch.cat(images), text, captions),
        "codes": retrieval.score(torch.cat(causals), text, captions),
        "reconstruction_cosine": round(sum(a for a, _ in cosines) / len(captions), 5),
        "generation_cosine": round(sum(b for _, b in cosines) / len(captions), 5),
    }, torch.cat(codes)


if __name__ == "__main__":
    main()
