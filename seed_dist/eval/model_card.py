"""model_card.md beside the report: the whole system, what it scores, and what it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from seed_dist.config import Recipe
from seed_dist.data.manifest import CARD_NAME
from seed_dist.eval.targets import TARGETS
from seed_dist.obs.model_card import LIMITS, licences
from seed_dist.page.markdown import listed, section, table, text

NAME = "model_card.md"
_WHAT = (
    "A SEED system (Ge et al. 2023): a tokenizer that turns a picture into a short row of discrete codes, a language "
    "model that reads and writes them beside words, and a painter that makes a picture of them. Q-Former, codebook and "
    "the language model's adapter were trained; all else is frozen and comes from elsewhere."
)


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
        + section("What it scores", about, _scores(numbers), _drawn(numbers))
        + section("Not measured", listed(gaps))
        + section("What the figures rest on", _bases(numbers))
        + section("How it was made", table(["", ""], _made(recipe, origin)))
        + section("Made of", table(["what", "fingerprint"], hashes), table(["frozen", "name", "SHA-256"], weights))
        + section("Data", listed(_data_cards(work)))
        + section("Limits", listed(LIMITS))
        + section("Licences", listed(licences(recipe.backbones)))
    )


def _scores(numbers: dict[str, Any]) -> str:
    """The targets by name, then every other figure by its path in report.json."""
    figures: Mapping[str, Any] = numbers.get("figures") or {}
    names = {target.path: target.name for target in TARGETS}
    ordered = [*(path for path in names if path in figures), *(path for path in figures if path not in names)]
    rows = [(names.get(path, path), *cells(figures[path])) for path in ordered]
    return table(["", "value", "95 %", "n", "knowing nothing", "data"], rows)


def cells(figure: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Value, interval, n, chance and data of a figure of report.json."""
    between, chance = figure["interval"], figure["chance"]
    return (
        f"{figure['value']:.3f}",
        f"{between[0]:.3f} to {between[1]:.3f}" if between is not None else figure.get("note", ""),
        f"{figure['n']}",
        "" if chance is None else f"{chance:.3f}",
        f"{figure['split']}" + (f" {figure['data'][:12]}" if figure["data"] else ""),
    )


def _drawn(numbers: dict[str, Any]) -> str:
    drawn = numbers.get("bootstrap")
    if not drawn:
        return ""
    return (
        f"Intervals: {text(drawn['method'])}, {drawn['resamples']} resamples, seed {drawn['seed']} "
        f"({text(drawn['source'])}). They say how far other pictures of this kind would move a figure, not how another "
        "training would."
    )


def _bases(numbers: dict[str, Any]) -> str:
    """How each group of figures is measured, and by which models; their hashes stand in the next sections."""
    rows = [
        (name, basis["protocol"], ", ".join([*basis["stages"], *basis["frozen"]]), basis["seed"])
        for name, basis in (numbers.get("bases") or {}).items()
    ]
    return table(["figures", "protocol", "models", "seed"], rows)


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
