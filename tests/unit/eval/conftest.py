"""A believable evaluation without any model: drawn scenes, repainted with a blur, captions with some faults."""

import math
import random
from dataclasses import replace

import pytest
import torch
from PIL import ImageFilter

from seed_dist.eval import attributes, codebook, figures, gallery, retrieval
from seed_dist.eval.reader import Reading
from seed_dist.eval.results import Example, Results, RetrievalExamples, ShownCode
from seed_dist.eval.targets import judge
from seed_dist.eval.units import PerUnit
from seed_dist.glyphs.scenes import COLOURS, draw, sample_scene


def _example(rng, held_out):
    scene = sample_scene(rng, held_out=held_out)
    wrong = replace(scene, objects=(replace(scene.objects[0], colour=rng.choice(list(COLOURS))), *scene.objects[1:]))
    said = scene if rng.random() < 0.6 else wrong
    valid = rng.random() < 0.9
    first = scene.objects[0]
    return Example(
        caption=scene.caption(),
        original=draw(scene, rng),
        codes=[rng.randrange(512) for _ in range(32)],
        repainted=draw(scene, rng).filter(ImageFilter.GaussianBlur(0.8)),
        written=said.caption(),
        imagined_codes=[rng.randrange(512) for _ in range(32)] if valid else None,
        imagined=draw(said, rng).filter(ImageFilter.GaussianBlur(1)) if valid else None,
        readings=[
            Reading("colour", first.colour, said.objects[0].colour),
            Reading("glyph", first.glyph, first.glyph),
            Reading("background", scene.background, scene.background),
        ]
        if valid
        else [],
    )


def _retrieval(examples, n):
    torch.manual_seed(0)
    captions = [e.caption for e in examples] + [f"a caption number {i}" for i in range(n - len(examples))]
    image = torch.randn(n, 64)
    text = image + 1.6 * torch.randn(n, 64)
    codes = image + 0.6 * torch.randn(n, 64)
    rows = slice(0, len(examples))
    by_image = retrieval.queries(codes[rows], text[rows], captions[rows], 6, 3)
    by_text = retrieval.queries(text[rows], codes[rows], captions[rows], 4, 5)
    shown = RetrievalExamples(
        "codes", by_image, by_text, {i: e.original for i, e in enumerate(examples)}, dict(enumerate(captions))
    )
    scores = {
        "n": n,
        "distinct_captions": len(set(captions)),
        "embedding": retrieval.score(image, text, captions),
        "codes": retrieval.score(codes, text, captions),
        "clip": retrieval.score(image, image + 1.5 * torch.randn(n, 64), captions),
        "shuffled": retrieval.score_shuffled(image, text, captions, 0),
        "chance": retrieval.score_chance(captions),
    }
    scores["codes_of_embedding"] = PerUnit(scores["codes"]["i2t"]["r1"].parts, scores["embedding"]["i2t"]["r1"].parts)
    return scores, shown


def _journal(steps, start, end, figures):
    """Records as a training writes them; `figures`: of validation, name -> last value."""
    rng = random.Random(1)
    records = [{"event": "start", "step": 0}]
    for step in range(1, steps + 1):
        loss = end + (start - end) * math.exp(-5 * step / steps)
        records.append({"event": "step", "step": step, "loss": loss * (1 + rng.gauss(0, 0.05)), "lr": 1e-3})
        if step % (steps // 5) == 0:
            share = 1 - math.exp(-5 * step / steps)
            values = {name: loss * 1.1 if "loss" in name else last * share for name, last in figures.items()}
            records.append({"event": "validation", "step": step, "validation_samples": 1000.0, **values})
    return records


@pytest.fixture
def believable():
    return believable_results()


def believable_results(count=40, n=200):
    """Results with every part present."""
    rng = random.Random(5)
    examples = [_example(rng, False) for _ in range(count)]
    unseen = [_example(rng, True) for _ in range(count // 2)]
    truths, answers = [e.caption for e in examples], [e.written for e in examples]
    scores, shown = _retrieval(examples, n)
    zipf = torch.distributions.Categorical(1 / torch.arange(1, 513).float() ** 0.7)
    torch.manual_seed(0)
    caption = {
        **attributes.score_captions(answers, truths),
        "n": count,
        "chance": attributes.chance_captions(truths),
        "shuffled": attributes.score_captions(answers[1:] + answers[:1], truths),
    }
    reading = {"colour": 0.74, "glyph": 0.61, "relation": 0.9, "background": 0.97}
    generation = {
        **reading,
        "valid": 0.985,
        "n": count,
        "painted": count,
        "clip_similarity": 0.71,
        "clip_similarity_shuffled": 0.11,
        "before_painting": {**reading, "glyph": 0.7},
        "from_image_codes": {"colour": 0.9, "glyph": 0.82, "relation": 0.98, "background": 1.0},
        "originals": {"colour": 0.96, "glyph": 0.93, "relation": 0.98, "background": 1.0},
        "chance": attributes.chance_captions(truths),
    }
    numbers = {
        "recipe": "glyphs",
        "split": "test",
        "data": "drawn glyph scenes",
        "samples": n,
        "queries": 32,
        "retrieval": scores,
        "reconstruction": {
            "cosine": 0.971, "cosine_centered": 0.93, "last_cosine_centered": 0.88, "baseline_cosine": 0.62,
            "generation_cosine": 0.94, "generation_baseline": 0.04,
        },
        "codebook": codebook.score(zipf.sample((n, 32)), 512),
        "causality": {"max_violation": 0.0, "min_effect": 0.031, "comparisons": 62, "images": 4},
        "caption": caption,
        "generation": generation,
        "heldout_pairs": {"caption": {**caption, "exact": 0.2}, "generation": {**generation, "colour": 0.5}},
        "seconds": {"scenes": 8.2, "shard_train": 14.0, "train_causal_qformer": 133.4, "train_lora": 288.0},
        "peak_memory_bytes": {"scenes": 180_000_000, "train_lora": 2_345_000_000},
        "sizes": {
            "bytes": {"images": 61_000_000, "features/patches": 1_040_000_000},
            "parameters": {"causal Q-Former": 1_234_567, "tokenizer": 2_345_678, "LoRA adapter": 234_567},
        },
        "provenance": {"git": "0123abc", "versions": {"torch": "2.13.0", "python": "3.11.2"}, "seed": 0,
            "manifests": {"images/test": "beef" * 16}, "runs": {"codebook": "feed"},
            "backbones": {"painter": {"reference": "a|b", "sha256": "cafe"}},
        },
    }  # fmt: skip
    numbers["codebook"] |= codebook.spacing(torch.randn(512, 8))
    uses = gallery.gallery(zipf.sample((count, 32)), torch.rand(count, 32), 512, (), 4)
    codes = [
        ShownCode(use, [examples[row].original for row, _ in use.rows], ["<b>a caption</b>"] * len(use.rows))
        for use in uses
    ]
    numbers["targets"] = judge(numbers)
    numbers |= figures.described(numbers)
    journals = {
        "causal_qformer": _journal(400, 4.8, 0.6, {"i2t_r1": 0.6, "t2i_r1": 0.58}),
        "codebook": _journal(
            400, 7.0, 0.5, {"reconstruction_cosine": 0.97, "generation_cosine": 0.94, "codes_perplexity": 310.0}
        ),
        "lora": _journal(3000, 6.0, 1.1, {"caption_loss": 0.3, "image_loss": 1.4}),
    }
    return Results(numbers, [], [], examples, unseen, shown, journals, codes)
