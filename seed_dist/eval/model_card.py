"""model_card.md beside the report: the whole system, what it scores, and what it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from seed_dist.config import Recipe
from seed_dist.data.manifest import CARD_NAME
from seed_dist.eval.metrics import standard_error
from seed_dist.eval.targets import TARGETS, lookup
from seed_dist.obs.model_card import LIMITS, licences
from seed_dist.page.markdown import listed, section, table, text

NAME = "model_card.md"
_WHAT = (
    "A SEED system (Ge et al. 2023): a tokenizer that turns a picture into a short row of discrete codes, a language "
    "model that reads and writes them beside words, and a painter that makes a picture of them. Q-Former, codebook and "
    "the language model's adapter were trained; all else is frozen and comes from elsewhere."
)
_COUNTED = ("retrieval.embedding", "caption.exact", "generation.valid")  # shares of independent trials


def model_card(numbers: dict[str, Any], recipe: Recipe, work: Path) -> str:
    """Markdown of what report.json holds; `numbers` may lack any part."""
    origin = numbers.get("provenance") or {}
    about = f"Split {text(numbers.get('split'))}, {numbers.get('samples')} images of {text(numbers.get('data'))}."
    hashes = [(f"run of {stage}", value) for stage, value in (origin.get("runs") or {}).items()]
    hashes += list((origin.get("manifests") or {}).items())
    frozen = (origin.get("backbones") or {}).items()
    weights = [(name, one["reference"], one["sha256"]) for name, one in frozen if one["reference"]]
    gaps = [text(f"{gap['part']}: {gap['why']}") for gap in numbers.get("missing") or ()]
    return (
        f"# SEED: {text(recipe.name)}\n\n{_WHAT}\n\n"
        + section("What it scores", about, table(["", "value", "n", "knowing nothing"], _scores(numbers)))
        + section("Not measured", listed(gaps))
        + section("How it was made", table(["", ""], _made(recipe, origin)))
        + section("Made of", table(["what", "fingerprint"], hashes), table(["frozen", "name", "SHA-256"], weights))
        + section("Data", listed(_data_cards(work)))
        + section("Limits", listed(LIMITS))
        + section("Licences", listed(licences(recipe.backbones)))
    )


def _scores(numbers: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """With one standard error where a figure is the share of independent trials, as on the report's page."""
    for target in TARGETS:
        value = lookup(numbers, target.path)
        if value is None:
            continue
        n = lookup(numbers, f"{target.path.split('.')[0]}.n")
        spread = f" ± {standard_error(value, int(n)):.3f}" if n and target.path.startswith(_COUNTED) else ""
        baseline = lookup(numbers, target.baseline) if target.baseline else None
        chance = "" if baseline is None else f"{baseline:.3f}"
        yield target.name, f"{value:.3f}{spread}", "" if n is None else f"{int(n)}", chance


def _made(recipe: Recipe, origin: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "recipe", f"{recipe.name} (fingerprint {recipe.fingerprint()})"
    yield "seed", recipe.seed
    yield "code", (origin.get("git") or {}).get("revision") or "not known"
    yield "date", origin.get("started") or "not known"


def _data_cards(work: Path) -> Iterator[str]:
    """Links to the cards of the splits, relative to the workspace."""
    for card in sorted(work.glob(f"images/*/{CARD_NAME}")):
        split = card.parent.name
        yield f"[{text(split)}](images/{quote(split)}/{CARD_NAME})"
