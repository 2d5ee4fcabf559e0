"""What every figure of report.json carries: n, interval, chance, and what it rests on: data, protocol, models, seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seed_dist.config import StageName
from seed_dist.eval.targets import lookup
from seed_dist.eval.units import intervals, per_unit_figures
from seed_dist.metrics import bootstrap

UNSEEN = "heldout"  # the split whose (colour, glyph) pairs training never had
UNSEEN_PAIRS = "heldout_pairs"  # where its figures stand
RESAMPLES = 2000  # as the suites' default
_SEARCH = (
    "each image among all captions of the split and the other way round; a caption that is the same text is right too; "
    "ties broken at random, in expectation"
)


@dataclass(frozen=True)
class Basis:
    """What the figures below a path rest on, besides the data. `frozen`: options of `backbones`."""

    protocol: str
    stages: tuple[StageName, ...] = ()
    frozen: tuple[str, ...] = ()


BASES: Mapping[str, Basis] = {
    "retrieval.clip": Basis(f"{_SEARCH}; the frozen model's own embeddings", (), ("generation_encoder",)),
    "retrieval.embedding": Basis(
        f"{_SEARCH}; the last causal embedding and the caption through stage 1's heads",
        ("causal_qformer",),
        ("image_encoder", "text_tokenizer"),
    ),
    "retrieval.shuffled": Basis(
        f"{_SEARCH}; as retrieval.embedding, with the captions dealt out anew",
        ("causal_qformer",),
        ("image_encoder", "text_tokenizer"),
    ),
    "retrieval.codes": Basis(
        f"{_SEARCH}; the last embedding rebuilt from codes and the caption through stage 1's heads",
        ("causal_qformer", "codebook"),
        ("image_encoder", "text_tokenizer"),
    ),
    "reconstruction": Basis(
        "cosine of what the codes give with the truth; centred: less the mean of each position over training images",
        ("causal_qformer", "codebook"),
        ("image_encoder", "generation_encoder"),
    ),
    "codebook": Basis("codes of all images of the split", ("causal_qformer", "codebook"), ("image_encoder",)),
    "causality": Basis(
        "later queries replaced by noise and by zeros, earlier embeddings compared bit by bit",
        ("causal_qformer",),
        ("image_encoder",),
    ),
    "caption": Basis(
        "captions written from codes alone, greedy, compared word by word; the unit is a caption",
        ("causal_qformer", "codebook", "lora"),
        ("image_encoder", "language_model"),
    ),
    "generation": Basis(
        "codes written after a caption, unforced, painted and read by the frozen CLIP; the unit is a picture, and one "
        "that could not be made is wrong in everything",
        ("causal_qformer", "codebook", "lora"),
        ("language_model", "painter", "generation_encoder"),
    ),
}
# Figures that are no mean over units, with n and why they have no interval.
_WITHOUT: Mapping[str, tuple[str, str]] = {
    "codebook.used_fraction": ("samples", "drawing images with repetition makes any sample look poorer than it is"),
    "codebook.perplexity": ("samples", "drawing images with repetition makes any sample look poorer than it is"),
    "causality.max_violation": ("causality.images", "exact: one image that violates it is enough"),
}


def described(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """`figures`, `bases` and `bootstrap` of report.json, whose other numbers, `provenance` among them, are given."""
    origin = numbers.get("provenance") or {}
    seed = int(origin.get("seed") or 0)
    found = per_unit_figures(numbers)
    measured = {path: figure for path, figure in found.items() if "chance" not in path.split(".")}
    between = intervals(measured, RESAMPLES, seed)
    figures = {path: _entry(numbers, path, figure.n, between[path]) for path, figure in measured.items()}
    for path, (count, why) in _WITHOUT.items():
        if lookup(numbers, path) is not None:
            figures[path] = _entry(numbers, path, int(lookup(numbers, count) or 0), None) | {"note": why}
    drawn = {"method": bootstrap.METHOD, "source": bootstrap.SOURCE, "resamples": RESAMPLES, "seed": seed}
    bases = {name: _models(BASES[name], origin) for name in dict.fromkeys(one["basis"] for one in figures.values())}
    return {"figures": figures, "bases": bases, "bootstrap": drawn}


def _entry(numbers: Mapping[str, Any], path: str, n: int, between: tuple[float, float] | None) -> dict[str, Any]:
    is_unseen = path.startswith(f"{UNSEEN_PAIRS}.")
    split = UNSEEN if is_unseen else numbers.get("split")
    manifests = (numbers.get("provenance") or {}).get("manifests") or {}
    return {
        "value": float(lookup(numbers, path) or 0.0),
        "n": n,
        "interval": None if between is None else list(between),
        "chance": _chance(numbers, path),
        "basis": _basis(path.removeprefix(f"{UNSEEN_PAIRS}.")),
        "split": split,
        "data": manifests.get(f"images/{split}"),
    }


def _basis(path: str) -> str:
    return max((name for name in BASES if path.startswith(name)), key=len)


def _models(basis: Basis, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Protocol, the fingerprint of each stage's run, name and SHA-256 of each frozen model."""
    runs, backbones = origin.get("runs") or {}, origin.get("backbones") or {}
    models = {stage: runs.get(stage) for stage in basis.stages}
    frozen = {name: backbones[name] for name in basis.frozen if name in backbones}
    painting = {"painting": origin.get("painting")} if "painter" in basis.frozen else {}
    return {"protocol": basis.protocol, "stages": models, "frozen": frozen, "seed": origin.get("seed"), **painting}


def _chance(numbers: Mapping[str, Any], path: str) -> float | None:
    """The number of the same name below the nearest `chance`: what knows nothing of the picture."""
    names = path.split(".")
    for place in range(len(names) - 1, 0, -1):
        for after in (place, place + 1):  # beside the rest of the path, or in the place of one of its names
            found = lookup(numbers, ".".join([*names[:place], "chance", *names[after:]]))
            if isinstance(found, int | float):
                return float(found)
    return None
