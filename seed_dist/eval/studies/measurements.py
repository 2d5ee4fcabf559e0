"""The measurements of the studies. Each takes the bench of one arm and seed and adds numbers to that arm's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from seed_dist.eval import codebook, generation, parts, reconstruction, retrieval
from seed_dist.eval.bench import Bench
from seed_dist.eval.metrics import mean_cosine
from seed_dist.eval.studies import language
from seed_dist.eval.studies.definitions import KEPT, Arm
from seed_dist.eval.studies.probe import AdditiveReader
from seed_dist.eval.workspace import Split
from seed_dist.models.pixel_tokenizer import PixelTokenizer, as_tensor
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer, first_codes

Numbers = dict[str, Any]
Measure = Callable[[Bench, Arm, Numbers], None]
_MASK_IMAGES = 64


def retrievals(bench: Bench, arm: Arm, numbers: Numbers) -> None:
    """Embeddings and codes against captions, with the chance level and a shuffled control for each."""
    parts.retrieval_baselines(bench, numbers)
    for name, image in (("embedding", bench.causal), ("codes", bench.rebuilt)):
        control = "shuffled" if name == "embedding" else "codes_shuffled"
        feature = bench.image_feature(image)
        numbers["retrieval"][name] = retrieval.score(feature, bench.text_features, bench.captions)
        numbers["retrieval"][control] = _shuffled(bench, feature)


@torch.no_grad()
def mask(bench: Bench, arm: Arm, numbers: Numbers) -> None:
    """How much the trained Q-Former's outputs depend on which queries may read which.

    Cosines of the embeddings with the arm's own mask and with the other one, over all positions and at the position
    where they differ most. 1 would mean that queries do not listen to one another, so that no mask could matter.
    """
    model, patches = bench.workspace.qformer, bench.first("patches", _MASK_IMAGES).to(bench.workspace.device)
    other = CausalQFormer(dataclasses.replace(model.config, causal=not model.config.causal), model.has_text_path)
    other.load_state_dict(model.state_dict())
    other.to(bench.workspace.device).eval()
    cosines = F.cosine_similarity(model.embed_image(patches), other.embed_image(patches), dim=-1).mean(0)
    numbers["mask"] = {"cosine": float(cosines.mean()), "cosine_min": float(cosines.min())}


def left_to_right(bench: Bench, arm: Arm, numbers: Numbers) -> None:
    parts.left_to_right(bench, numbers)


def rebuilding(bench: Bench, arm: Arm, numbers: Numbers) -> None:
    parts.rebuilding(bench, numbers)


def usage(bench: Bench, arm: Arm, numbers: Numbers) -> None:
    """Use of the codebook, without the table of counts."""
    scores = codebook.score(_codes(bench, arm), bench.recipe.codebook.size)
    numbers["codebook"] = {name: value for name, value in scores.items() if name != "counts"}


def costs(bench: Bench, arm: Arm, numbers: Numbers) -> None:
    model, block = bench.workspace.language, bench.recipe.eval.batch_size
    numbers["language"] = language.costs(model, bench.captions, _codes(bench, arm), block)


def captions(bench: Bench, arm: Arm, numbers: Numbers) -> None:
    asked, block = bench.captions[: bench.recipe.eval.caption_samples], bench.recipe.eval.batch_size
    codes = _codes(bench, arm)[: len(asked)]
    numbers["caption"] = language.captions_from(bench.workspace.language, asked, codes, block)


def imagined(bench: Bench, arm: Arm, numbers: Numbers) -> None:
    """Codes that the language model writes for captions, unforced and with the grammar of an image forced on it.

    What they show is read off the generation embedding that they stand for, before any painting; what is no valid
    image is wrong in everything.
    """
    workspace, config = bench.workspace, bench.recipe.eval
    asked = bench.captions[: config.caption_samples]
    judge = generation.Judge(workspace.clip, asked[: config.paint_samples])
    numbers["imagined"] = scores = {"n": len(asked), "judged": len(judge.captions), "chance": judge.chance()}
    for name, is_forced in (("unforced", False), ("forced", True)):
        made = generation.imagine(workspace.language, asked, bench.recipe.qformer.queries, config.batch_size, is_forced)
        few = made.among(len(judge.captions))
        scores[name] = {"valid": made.valid, **judge.score(few, bench.embeddings(few.codes))}


def pictures(bench: Bench, arm: Arm, numbers: Numbers) -> None:
    """Pictures from codes: SEED's painted, the pixel tokenizer's decoded; what CLIP reads off them, and their pixels.

    `_of_mean`: the training split's mean picture in the place of each; `_shuffled`: another picture's;
    `_without_codes`: what the pixel tokenizer makes of its own vectors, which says whether the codes are the limit.
    """
    workspace, config = bench.workspace, bench.recipe.eval
    asked = bench.captions[: config.paint_samples]
    originals = [bench.split.images.image(i) for i in range(len(asked))]
    made = _decoded(bench, len(asked)) if arm.is_pixels else _painted(bench, len(asked))
    judge = generation.Judge(workspace.clip, asked)
    mean = _mean_picture(bench)
    found, wanted = _pixels(made), _pixels(originals)
    codes = _codes(bench, arm)
    numbers["pictures"] = {
        "n": len(asked),
        "bits": codes.shape[1] * math.log2(bench.recipe.codebook.size),
        **judge.score_all(generation.embed_pictures(workspace.clip, made, config.batch_size)),
        "originals": judge.score_all(generation.embed_pictures(workspace.clip, originals, config.batch_size)),
        "chance": judge.chance(),
        **_distances(found, wanted, ""),
        **_distances(found.roll(1, 0), wanted, "_shuffled"),
        **_distances(mean.expand_as(wanted), wanted, "_of_mean"),
        **(_distances(_without_codes(bench, wanted), wanted, "_without_codes") if arm.is_pixels else {}),
    }


@torch.no_grad()
def prefixes(bench: Bench, arm: Arm, numbers: Numbers) -> None:
    """What the decoders recover from the first k codes, for each k of KEPT that there is, for all codes and for none.

    In the place of absent codes a model trained for that has its learned vector. The published one has none, so it gets
    what it would expect there: the mean decoded embedding of each position over training images.
    """
    quantizer, captions, queries = bench.workspace.tokenizer.quantizer, bench.captions, bench.recipe.qformer.queries
    absent = _expected(bench, quantizer) if quantizer.absent is None else quantizer.absent
    wanted = bench.split.read(bench.recipe.codebook.generation_target).float()
    mean = bench.workspace.mean_of("causal")
    numbers["prefix"] = {}
    for kept in sorted({0, queries, *(k for k in KEPT if k < queries)}):
        rebuilt, generated = _from_first(bench, quantizer, kept, absent)
        feature = bench.image_feature(rebuilt)
        scores = retrieval.score(feature, bench.text_features, captions)
        found = reconstruction.score_reconstruction(rebuilt, bench.causal, mean)
        numbers["prefix"][str(kept)] = {
            "i2t": scores["i2t"]["r1"],
            "t2i": scores["t2i"]["r1"],
            "i2t_shuffled": _shuffled(bench, feature)["i2t"]["r1"],
            "cosine_centered": found["cosine_centered"],
            "last_cosine_centered": found["last_cosine_centered"],
            "generation_cosine": mean_cosine(generated, wanted.reshape(generated.shape)),
        }


def readings(bench: Bench, arm: Arm, numbers: Numbers) -> None:
    """The same from a reader that is fitted to the first k codes of training images, whatever the decoders learned."""
    train, target = Split(bench.workspace, "train"), bench.recipe.codebook.generation_target
    codes, size, queries = train.read("codes"), bench.recipe.codebook.size, bench.recipe.qformer.queries
    last, wanted = train.read("causal")[:, -1].float(), bench.split.read(target).float().flatten(1)
    known = torch.cat([last, train.read(target).float().flatten(1)], dim=1)
    numbers["reader"] = {}
    for kept in sorted({queries, *(k for k in KEPT if k < queries)}):
        found = AdditiveReader(codes[:, :kept], known, size)(bench.codes[:, :kept])
        causal, generated = found.split([last.shape[1], wanted.shape[1]], dim=1)
        feature = bench.image_feature(causal[:, None])
        numbers["reader"][str(kept)] = {
            "i2t": retrieval.score(feature, bench.text_features, bench.captions)["i2t"]["r1"],
            "i2t_shuffled": _shuffled(bench, feature)["i2t"]["r1"],
            "generation_cosine": mean_cosine(generated, wanted),
        }


_ENCODING: tuple[Measure, ...] = (mask, left_to_right, retrievals, rebuilding, usage)
MEASURES: dict[str, tuple[Measure, ...]] = {
    "causality": (*_ENCODING, costs, imagined, captions),
    "causality_fresh": _ENCODING,
    "order": (costs, imagined, captions),
    "pixels": (captions, costs, pictures, usage),
    "prefix": (prefixes, readings),
}


def _shuffled(bench: Bench, feature: Tensor) -> Numbers:
    """The control of retrieval: captions dealt out anew."""
    return retrieval.score_shuffled(feature, bench.text_features, bench.captions, bench.recipe.seed)


def _codes(bench: Bench, arm: Arm) -> Tensor:
    """Codes int64 [N, Q]; SEED's are checked to be the present tokenizer's."""
    return bench.split.read("codes").long() if arm.is_pixels else bench.codes


def _expected(bench: Bench, quantizer: SeedQuantizer) -> Tensor:
    """Mean decoded embedding of each position over training images [Q, W]."""
    codes = bench.workspace.some_training_samples("codes").long()
    return quantizer.decode(codes.to(bench.workspace.device)).mean(0)


def _from_first(bench: Bench, quantizer: SeedQuantizer, kept: int, absent: Tensor) -> tuple[Tensor, Tensor]:
    """Causal embeddings [N, Q, W] and generation embeddings [N, ..] from the first `kept` codes, on the CPU."""
    rebuilt, generated = [], []
    for codes in bench.codes.split(bench.recipe.eval.batch_size):
        decoded = quantizer.decode(codes.to(bench.workspace.device))
        seen = first_codes(decoded, torch.full((len(codes),), kept, device=decoded.device), absent)
        rebuilt.append(quantizer.reconstruct(seen).float().cpu())
        generated.append(quantizer.generation_embedding(seen).float().cpu())
    return torch.cat(rebuilt), torch.cat(generated)


def _painted(bench: Bench, count: int) -> list[Image.Image]:
    config = bench.recipe.eval
    embeddings = bench.embeddings(bench.codes[:count])
    return bench.workspace.painter.paint(embeddings, bench.recipe.seed, config.paint_steps, config.guidance)


@torch.no_grad()
def _decoded(bench: Bench, count: int) -> list[Image.Image]:
    model = PixelTokenizer.from_pretrained(bench.workspace.export("codebook"))
    values = ((model.decode(bench.split.read("codes")[:count].long()) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in values.permute(0, 2, 3, 1).numpy()]


@torch.no_grad()
def _without_codes(bench: Bench, originals: Tensor) -> Tensor:
    """Pictures [N, 3, 64, 64] in 0..1 through the pixel tokenizer's encoder and decoder alone, no code in between."""
    model = PixelTokenizer.from_pretrained(bench.workspace.export("codebook"))
    return (model.decode_vectors(model.encode_vectors(originals * 2 - 1)).clamp(-1, 1) + 1) / 2


def _mean_picture(bench: Bench) -> Tensor:
    images = Split(bench.workspace, "train").images
    rows = np.unique(np.linspace(0, len(images) - 1, min(500, len(images))).astype(np.int64))
    return _pixels([images.image(int(row)) for row in rows]).mean(0, keepdim=True)


def _pixels(made: list[Image.Image]) -> Tensor:
    """Pictures as float32 [N, 3, 64, 64] in 0..1."""
    return torch.stack([(as_tensor(picture) + 1) / 2 for picture in made])


def _distances(found: Tensor, wanted: Tensor, suffix: str) -> dict[str, float]:
    """Mean squared error, and the mean over pictures of -10 log10 of it."""
    errors = (found.double() - wanted.double()).square().mean(dim=(1, 2, 3))
    return {
        f"mse{suffix}": float(errors.mean()),
        f"psnr_db{suffix}": float((-10 * errors.clamp(min=1e-10).log10()).mean()),
    }
