"""The model card of an export: its parents, its figures, its licences as far as manifests know them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from seed_dist.assets.location import ASSETS_VARIABLE
from seed_dist.assets.manifest import AssetFile, AssetManifest
from seed_dist.assets.reference import HubReference
from seed_dist.config import load_recipe
from seed_dist.fsio import sha256_file
from seed_dist.obs.model_card import Training, export_card


def test_the_card_names_parents_figures_and_licences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path))
    known, silent = (HubReference(f"owner/{name}", "a" * 40) for name in ("known", "silent"))
    for hub, licence in ((known, "apache-2.0 [x](y)"), (silent, None)):
        hub.folder.mkdir(parents=True)
        (hub.folder / "config.json").write_text("{}")
        file = AssetFile(2, sha256_file(hub.folder / "config.json"))
        AssetManifest(str(hub), hub.revision, licence, "2024", {"config.json": file}).write(hub.folder)
    recipe = load_recipe(
        "glyphs", [f"backbones.image_encoder={known}", f"backbones.painter={silent}", "backbones.qformer=null"]
    )
    recipe = dataclasses.replace(recipe, name="<mine>")
    provenance = {
        "stage": "codebook", "run_fingerprint": "0123", "step": 7, "samples_seen": 70, "seed": 3,
        "parents": {"train": "feed"},
    }  # fmt: skip
    training = Training("c0ffee", {"train": 20000}, {"generation_cosine": 0.97}, 1000, "loss is inside the band")
    card = export_card(recipe, provenance, training)
    for line in (
        "# &lt;mine&gt;: codebook",
        f"| recipe | &lt;mine&gt; (fingerprint {recipe.fingerprint()}) |",
        "| run | 0123 |",
        "| code | c0ffee |",
        "| train | 20000 |",
        "| train | feed |",
        "On 1,000 samples of the validation split",
        r"| generation\_cosine | 0.97 |",
        "Beside reference runs of the recipe: loss is inside the band.",
        f"- image encoder, hub:owner/known&#64;{'a' * 40}: apache-2.0 \\[x\\](y)",
        f"- painter, hub:owner/silent&#64;{'a' * 40}: its model card names none: ask its authors",
        "- language model, embedded:language: that of this program, which it ships with",
    ):
        assert line in card, line
    assert "- qformer" not in card
