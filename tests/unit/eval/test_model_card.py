"""The model card beside the report has the report's figures, with n, and links to the data cards that there are."""

from seed_dist.config import load_recipe
from seed_dist.eval.model_card import model_card


def test_the_card_has_the_figures_of_the_report(believable, tmp_path):
    (tmp_path / "images" / "test").mkdir(parents=True)
    (tmp_path / "images" / "test" / "README.md").write_text("card")
    numbers = believable.numbers | {"missing": [{"part": "caption", "why": "<i>no</i> model", "command": ""}]}
    numbers["provenance"] = {
        "git": {"revision": "0123abc"},
        "runs": {"codebook": "feed"},
        "manifests": {"images/test": "beef"},
        "backbones": {
            "painter": {"reference": "a|b", "sha256": "cafe"},
            "qformer": {"reference": None, "sha256": None},
        },
    }
    card = model_card(numbers, load_recipe("glyphs"), tmp_path)
    recall = numbers["retrieval"]["embedding"]["i2t"]["r1"]
    error = (recall * (1 - recall) / 200) ** 0.5
    for line in (
        f"| Image finds its caption | {recall:.3f} ± {error:.3f} | 200 | 0.005 |",
        "| Painted glyphs | 0.610 | 40 |",
        "- caption: &lt;i&gt;no&lt;/i&gt; model",
        "| run of codebook | feed |",
        "| images/test | beef |",
        "| painter | a\\|b | cafe |",
        "- [test](images/test/README.md)",
    ):
        assert line in card, line
    assert "| qformer |" not in card
    assert "## Data" not in model_card({}, load_recipe("glyphs"), tmp_path / "none")
