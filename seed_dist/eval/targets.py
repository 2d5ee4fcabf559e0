"""What the embedded default must reach on its test split, and where each number stands in report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Target:
    """`path` of a number, the `goal` it must reach, `baseline`: path of that number for an answer that knows nothing.

    kind: "share" is a fraction of 1, "cosine" at most 1, "zero" must be exactly 0; the others reach at least the goal.
    """

    path: str
    name: str
    meaning: str
    goal: float
    baseline: str = ""
    kind: Literal["share", "cosine", "zero"] = "share"

    def met(self, value: float) -> bool:
        return value == 0 if self.kind == "zero" else value >= self.goal


TARGETS = (
    Target(
        "retrieval.embedding.i2t.r1",
        "Image finds its caption",
        "Among all captions of the split, the best match of the last causal embedding is the right one (R@1).",
        0.50,
        "retrieval.chance.i2t.r1",
    ),
    Target(
        "retrieval.codes_of_embedding",
        "Codes keep that ability",
        "The same recall from the discrete codes alone, as a share of what the continuous embedding reaches.",
        0.85,
    ),
    Target(
        "reconstruction.cosine_centered",
        "Codes keep the embedding",
        "Cosine between embeddings rebuilt from codes and true ones, after taking away the mean of each position.",
        0.80,
        kind="cosine",
    ),
    Target(
        "codebook.used_fraction", "Codebook in use", "Share of the codebook's entries that occur in the split.", 0.60
    ),
    Target(
        "causality.max_violation",
        "Strictly left to right",
        "Largest change of an earlier embedding when later queries of the trained model are replaced.",
        0.0,
        kind="zero",
    ),
    Target(
        "caption.colour", "Captions: colours", "Right colour words, objects in order.", 0.85, "caption.chance.colour"
    ),
    Target("caption.glyph", "Captions: glyphs", "Right glyph words, objects in order.", 0.85, "caption.chance.glyph"),
    Target(
        "caption.exact",
        "Captions: every word",
        "Captions written from codes that equal the truth.",
        0.50,
        "caption.chance.exact",
    ),
    Target(
        "generation.valid",
        "Captions become codes",
        "Share of captions for which the language model, unforced, writes exactly one complete image.",
        0.98,
    ),
    Target(
        "generation.colour",
        "Painted colours",
        "Right colours in pictures painted from captions, as the frozen CLIP reads them.",
        0.70,
        "generation.chance.colour",
    ),
    Target(
        "generation.glyph",
        "Painted glyphs",
        "Right glyphs in pictures painted from captions, as the frozen CLIP reads them.",
        0.70,
        "generation.chance.glyph",
    ),
)


def lookup(numbers: Mapping[str, Any], path: str) -> float | None:
    """The number at a dotted path of report.json; None where any part is absent."""
    node: Any = numbers
    for key in path.split(".") if path else [""]:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def judge(numbers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For report.json: value, goal and whether it is met, per target that has a value."""
    judged = {}
    for target in TARGETS:
        value = lookup(numbers, target.path)
        if value is not None:
            judged[target.path] = {"value": float(value), "goal": target.goal, "met": target.met(value)}
    return judged
