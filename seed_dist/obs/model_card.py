"""The model card of one stage's export, README.md beside its weights: what it is, what it was made from, under which
licences. Plain Markdown, as model hubs read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seed_dist.assets import resolve
from seed_dist.assets.manifest import read_manifest
from seed_dist.config import BackboneConfig, Recipe
from seed_dist.errors import SeedDistError
from seed_dist.page.markdown import listed, section, table, text

CARD = "README.md"
_WHAT = {
    "causal_qformer": (
        "The causal Q-Former of SEED (Ge et al. 2023): it turns patch features of a frozen image encoder into a row of "
        "embeddings that are ordered from left to right, and captions into the same space."
    ),
    "codebook": (
        "A SEED image tokenizer (Ge et al. 2023): it turns a picture into a short row of discrete codes, and codes "
        "back into the embedding that a painter reads."
    ),
    "lora": (
        "An adapter with image tokens that lets a frozen language model read and write the codes of a SEED tokenizer "
        "(Ge et al. 2023)."
    ),
}
LIMITS = (
    "It knows what its training data show, with their gaps and prejudices, and nothing else.",
    "Codes keep what a picture means, not its pixels: faces, writing and exact places are not reproduced.",
    "It was not tested for safety, and is no basis for decisions about people.",
)


@dataclass(frozen=True)
class Training:
    """What the run directory tells. `samples`: of each split that was trained on; `validation`: the last one's figures
    over `validation_samples`; `reference`: how it lies beside reference runs, in words.
    """

    revision: str | None
    samples: Mapping[str, int]
    validation: Mapping[str, float]
    validation_samples: int | None
    reference: str


def export_card(recipe: Recipe, provenance: Mapping[str, Any], training: Training) -> str:
    """Of what `Stage.export` writes; `provenance` is what the weights carry."""
    stage = str(provenance["stage"])
    made = [
        ("recipe", f"{recipe.name} (fingerprint {recipe.fingerprint()})"),
        ("run", provenance["run_fingerprint"]),
        ("steps", provenance["step"]),
        ("samples seen", provenance["samples_seen"]),
        ("seed", provenance["seed"]),
        ("code", training.revision or "not known"),
    ]
    n = training.validation_samples
    figures = [(name, f"{value:.4g}") for name, value in training.validation.items()]
    about = f"On {n:,} samples of the validation split, which no step trained on:" if n else ""
    reference = f"Beside reference runs of the recipe: {text(training.reference)}."
    return (
        f"# {text(recipe.name)}: {stage}\n\n{_WHAT[stage]}\n\n"
        + section("How it was made", table(["", ""], made))
        + section("Trained on", table(["split", "samples"], training.samples.items()), _parents(provenance["parents"]))
        + section("Figures", about, table(["figure", "value"], figures), reference)
        + section("Limits", listed(LIMITS))
        + section("Licences", listed(licences(recipe.backbones)))
    )


def licences(backbones: BackboneConfig) -> Iterator[str]:
    """A line for each model from elsewhere, as its manifest names the licence. What is made of it may inherit terms."""
    for option, reference in vars(backbones).items():
        if reference is not None:
            yield f"{option.replace('_', ' ')}, {text(reference)}: {text(_licence(reference, option))}"
    yield "images and captions: as their sources say; this program does not know them"


def _licence(reference: str, option: str) -> str:
    if reference.startswith("embedded:"):
        return "that of this program, which it ships with"
    try:
        manifest = read_manifest(resolve(reference, option))
    except SeedDistError:
        return "not known, because it is not on this machine"
    if manifest is None:
        return "not known; it is a folder without a manifest"
    return manifest.licence or "its model card names none: ask its authors"


def _parents(parents: Mapping[str, str]) -> str:
    return table(["made from", "fingerprint"], parents.items())
