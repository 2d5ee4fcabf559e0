"""The model card beside the report has the report's figures with all that they carry, and links to the data cards."""

from __future__ import annotations

from pathlib import Path

from seed_dist.config import load_recipe
from seed_dist.eval.figures import described
from seed_dist.eval.model_card import model_card
from seed_dist.eval.results import Results


def test_the_card_has_the_figures_of_the_report(believable: Results, tmp_path: Path) -> None:
    (tmp_path / "images" / "test").mkdir(parents=True)
    (tmp_path / "images" / "test" / "README.md").write_text("card")
    numbers = believable.numbers | {"missing": [{"part": "caption", "why": "<i>no</i> model", "command": ""}]}
    numbers["provenance"] = {
        "git": {"revision": "0123abc"},
        "seed": 7,
        "runs": {"codebook": "feed"},
        "manifests": {"images/test": "beef" * 4},
        "backbones": {
            "painter": {"reference": "a|b", "sha256": "cafe"},
            "qformer": {"reference": None, "sha256": None},
        },
    }
    numbers |= described(numbers)
    card = model_card(numbers, load_recipe("glyphs"), tmp_path)
    recall = numbers["figures"]["retrieval.embedding.i2t.r1"]
    low, high = recall["interval"]
    assert low < recall["value"] < high
    for line in (
        f"| Image finds its caption | {recall['value']:.3f} | {low:.3f} to {high:.3f} | 200 | 0.005 | test beef",
        "| Codebook in use |",
        "| retrieval.clip.t2i.r10 |",
        "| heldout\\_pairs.caption.glyph |",
        "percentile bootstrap over units, 95 %, 2000 resamples, seed 7",
        "| caption | captions written from codes alone",
        "- caption: &lt;i&gt;no&lt;/i&gt; model",
        "| run of codebook | feed |",
        "| images/test | beefbeefbeefbeef |",
        "| painter | a\\|b | cafe |",
        "- [test](images/test/README.md)",
    ):
        assert line in card, line
    assert "| qformer |" not in card
    assert "## Data" not in model_card({}, load_recipe("glyphs"), tmp_path / "none")
