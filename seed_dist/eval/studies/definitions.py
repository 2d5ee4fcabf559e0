"""What is compared: a study is a question, its arms and the figures that answer it. Data only; nothing is run here.

An arm is the recipe with some values changed. Arms share what they do not differ in: one that takes over another's
stages gets that arm's models and codes of the same seed, so that only the rest can make a difference.
"""

from __future__ import annotations

from dataclasses import dataclass

from seed_dist.config import StageName

# The recipe `glyphs`, cut so that all studies of three seeds fit into an hour of two cores. All arms have this alike.
BUDGET = (
    "codebook_training.steps=800",
    "lora_training.steps=300",
    "lora_training.global_batch=32",
    "eval.caption_samples=500",
    "eval.paint_steps=10",
)
# Of 64 pictures: about as much processor time as stages 1 and 2 with the budget above take on cached features.
PIXEL_STEPS = 400
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Arm:
    """`overrides` change the recipe; stages before those that it trains itself are those of the arm `takes_from`."""

    name: str
    meaning: str
    overrides: tuple[str, ...] = ()
    trains: tuple[StageName, ...] = ("causal_qformer", "codebook", "lora")
    takes_from: Arm | None = None
    is_pixels: bool = False  # codes of the pixel tokenizer instead of SEED's


CAUSAL = Arm("causal", "the system as published: queries read from left to right")
BIDIRECTIONAL = Arm("bidirectional", "all queries read all queries", ("qformer.causal=false",))
_FRESH = ("backbones.qformer=null", "causal_qformer_training.steps=200")
_TOKENIZER: tuple[StageName, ...] = ("causal_qformer", "codebook")
CAUSAL_FRESH = Arm("causal_fresh", "causal, stage 1 from random weights; no language model", _FRESH, _TOKENIZER)
BIDIRECTIONAL_FRESH = Arm(
    "bidirectional_fresh",
    "bidirectional, stage 1 from random weights; no language model",
    (*_FRESH, "qformer.causal=false"),
    _TOKENIZER,
)
PERMUTED = Arm(
    "permuted",
    "the same codes, but the language model reads and writes them in one fixed shuffled order",
    ("lora.code_order=permuted",),
    trains=("lora",),
    takes_from=CAUSAL,
)
PIXELS = Arm("pixels", "codes of a VQ-VAE on pixels, 4x4 of 2048, as many bits", trains=("lora",), is_pixels=True)
PREFIX = Arm(
    "prefix",
    "EXTENSION: for half of the samples the decoders see the first 1 to 16 codes only",
    ("codebook.prefix_masking=0.5",),
    trains=("codebook",),
    takes_from=CAUSAL,
)


@dataclass(frozen=True)
class Figure:
    """One row of a study's table. Dotted paths into an arm's numbers; `control` and `chance` may be empty.

    `chance` knows nothing of the picture; `control` is the same figure with captions or pictures exchanged.
    """

    path: str
    name: str
    digits: int = 3
    chance: str = ""
    control: str = ""


@dataclass(frozen=True)
class Study:
    """The first arm is what the others are compared with."""

    name: str
    question: str
    arms: tuple[Arm, ...]
    figures: tuple[Figure, ...]


_EMBEDDING = tuple(
    Figure(f"retrieval.{source}.{way}.r1", f"{source}: {words}, R@1", 3, f"retrieval.chance.{way}.r1", control)
    for source, shuffled in (("embedding", "shuffled"), ("codes", "codes_shuffled"))
    for way, words in (("i2t", "picture finds caption"), ("t2i", "caption finds picture"))
    for control in (f"retrieval.{shuffled}.{way}.r1",)
)
_CAPTION = tuple(
    Figure(f"caption.{word}", f"captions from codes: {says}", 3, f"caption.chance.{word}", f"caption.shuffled.{word}")
    for word, says in (("colour", "colour"), ("glyph", "glyph"), ("exact", "every word"))
)
_NATS = tuple(
    Figure(f"language.nats_per_{what}{suffix}", f"nats per {what}, given {words}", 2)
    for what, own, others in (
        ("image", "its caption", "another image's caption"),
        ("caption", "its codes", "another image's codes"),
    )
    for suffix, words in (("", own), ("_shuffled", others))
)
_IMAGINED = (
    Figure("imagined.unforced.valid", "codes from captions: exactly one image, unforced"),
    Figure("imagined.forced.valid", "codes from captions: exactly one image, forced"),
    *(
        Figure(f"imagined.{how}.{word}", f"codes from captions, {how}: {word}", 3, f"imagined.chance.{word}")
        for how in ("unforced", "forced")
        for word in ("colour", "glyph")
    ),
)
_REBUILT = (
    Figure("reconstruction.cosine_centered", "embeddings rebuilt from codes, centred cosine"),
    Figure("reconstruction.generation_cosine", "generation embedding, cosine", 3, "reconstruction.generation_baseline"),
    Figure("codebook.perplexity", "perplexity of the codes", 0),
)
_ENCODING = (
    Figure("mask.cosine", "embeddings with this mask and with the other, cosine"),
    Figure("mask.cosine_min", "the same at the position that differs most"),
    Figure("causality.max_violation", "largest change of an earlier embedding by later queries", 2),
    *_EMBEDDING,
    *_REBUILT,
)
_READERS = (("prefix", "by its decoder"), ("reader", "by a fitted reader"))
KEPT = (1, 2, 4, 8, 12, 16)  # of 16 codes

STUDIES = (
    Study(
        "causality",
        "Does a Q-Former whose queries read from left to right make better codes than one without that order?",
        (CAUSAL, BIDIRECTIONAL),
        (*_ENCODING, *_NATS, *_IMAGINED, *_CAPTION),
    ),
    Study(
        "causality_fresh",
        "The same where stage 1 starts from random weights, so that the queries grow up with or without the order.",
        (CAUSAL_FRESH, BIDIRECTIONAL_FRESH),
        _ENCODING,
    ),
    Study(
        "order",
        "Is it easier for a language model to read and write the codes in their causal order than in a shuffled one?",
        (CAUSAL, PERMUTED),
        (*_NATS, *_IMAGINED, *_CAPTION),
    ),
    Study(
        "pixels",
        "What do SEED's codes say that as many bits of pixel codes do not, and the other way round?",
        (CAUSAL, PIXELS),
        (
            Figure("pictures.bits", "bits per picture", 0),
            *_CAPTION,
            *_NATS,
            *(
                Figure(f"pictures.{word}", f"pictures from codes: {word}", 3, f"pictures.chance.{word}")
                for word in ("colour", "glyph", "relation", "background")
            ),
            Figure(
                "pictures.mse",
                "pictures from codes: squared error, of values 0 to 1",
                4,
                "pictures.mse_of_mean",
                "pictures.mse_shuffled",
            ),
            Figure("pictures.mse_without_codes", "the same from its vectors before the codebook", 4),
            Figure(
                "pictures.psnr_db",
                "pictures from codes: PSNR, dB",
                2,
                "pictures.psnr_db_of_mean",
                "pictures.psnr_db_shuffled",
            ),
            Figure("codebook.perplexity", "perplexity of the codes", 0),
        ),
    ),
    Study(
        "prefix",
        "How much do the first k codes say alone, with the published objective and with one that asks for it?",
        (CAUSAL, PREFIX),
        (
            *(
                Figure(f"{by}.{kept}.i2t", f"first {kept}: picture finds caption, R@1, {whose}", 3, *beside)
                for by, whose in _READERS
                for kept in KEPT
                for beside in (("prefix.0.i2t", f"{by}.{kept}.i2t_shuffled"),)
            ),
            *(
                Figure(f"prefix.{kept}.cosine_centered", f"first {kept}: embeddings rebuilt, centred cosine")
                for kept in KEPT
            ),
            *(
                Figure(
                    f"{by}.{kept}.generation_cosine", f"first {kept}: generation embedding, cosine, {whose}", 3, none
                )
                for by, whose in _READERS
                for kept in KEPT
                for none in ("prefix.0.generation_cosine",)
            ),
        ),
    ),
)
STUDY_NAMES = tuple(study.name for study in STUDIES)


def study_of(name: str) -> Study:
    return next(study for study in STUDIES if study.name == name)
