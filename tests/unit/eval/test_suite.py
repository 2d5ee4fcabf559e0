"""The whole evaluation on a tiny workspace: complete, without stages, with stale features, on other data."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import seed_dist.eval.workspace as workspace_module
from seed_dist.config import load_recipe
from seed_dist.errors import DataError
from seed_dist.eval import suite
from seed_dist.eval.provenance import provenance, seconds, sizes
from seed_dist.eval.report import write_report
from seed_dist.eval.workspace import Invocation, Split, Workspace
from seed_dist.models.qformer import CausalQFormer
from tests.unit.eval.tiny_workspace import build

SPLITS = {"train": 5, "test": 20, "heldout": 6}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return build(tmp_path_factory.mktemp("eval"), SPLITS)


def evaluated(work, overrides, split="test"):
    recipe = load_recipe("glyphs", overrides)
    workspace = Workspace(recipe, Invocation("glyphs", work, overrides), torch.device("cpu"))
    results = suite.evaluate(workspace, split)
    results.numbers |= {
        "provenance": provenance(recipe, work), "sizes": sizes(workspace), "seconds": seconds(work)
    }  # fmt: skip
    json_path, html_path = write_report(work, results)
    return results, json.loads(json_path.read_text()), html_path.read_text()


def copied(workspace, tmp_path):
    work, overrides = workspace
    shutil.copytree(work, tmp_path / "work")
    return tmp_path / "work", overrides


def test_every_number_of_the_schema_is_there(workspace):
    results, report, page = evaluated(*workspace)
    assert results.gaps == results.failures == []
    retrieval = report["retrieval"]
    for source in ("embedding", "codes", "chance", "shuffled", "clip"):
        assert set(retrieval[source]) == {"i2t", "t2i", "r_mean"}
        for direction in ("i2t", "t2i"):
            assert all(0 <= retrieval[source][direction][k] <= 1 for k in ("r1", "r5", "r10"))
    assert retrieval["n"] == SPLITS["test"]
    assert set(report["reconstruction"]) >= {"cosine", "cosine_centered", "generation_cosine", "baseline_cosine"}
    assert report["codebook"]["size"] == 20
    assert sum(report["codebook"]["counts"]) == SPLITS["test"] * 6
    assert report["causality"]["max_violation"] == 0
    scores = {"exact", "colour", "glyph", "relation", "background", "chance"}
    assert set(report["caption"]) >= scores
    assert set(report["heldout_pairs"]["caption"]) >= scores
    for generation in (report["generation"], report["heldout_pairs"]["generation"]):
        assert {"valid", "colour", "glyph"} <= set(generation)
    assert set(report["provenance"]) >= {"versions", "git", "manifests", "seed"}
    assert report["sizes"]["bytes"]["images"] > 0
    assert "retrieval.embedding.i2t.r1" in report["targets"]
    assert "<html" in page
    assert 'id="missing"' not in page


def test_valid_codes_are_painted_and_read(workspace, monkeypatch):
    from seed_dist.models.language import SeedLanguageModel

    def writes_images(model, captions, queries, force_image=False):
        """Every second caption becomes a valid image."""
        start, end = [model.begin_image], [model.end_image]
        codes = [model.first_code + k % model.codes for k in range(queries)]
        return [start + codes + (end if i % 2 else []) for i in range(len(captions))]

    monkeypatch.setattr(SeedLanguageModel, "generate_images", writes_images)
    results, report, page = evaluated(*workspace)
    generation = report["generation"]
    assert generation["valid"] == 0.5
    assert generation["painted"] == 2  # of the first four captions, as eval.paint_samples says
    assert generation["colour"] <= 0.5
    assert -1 <= generation["clip_similarity"] <= 1
    assert generation["originals"]["background"] > generation["chance"]["background"]
    painted = [example for example in results.examples if example.imagined is not None]
    assert len(painted) == 2
    assert all(example.readings and example.imagined_codes for example in painted)
    assert "from the caption" in page


def test_missing_stages_are_named_with_their_commands(workspace, tmp_path):
    work, overrides = copied(workspace, tmp_path)
    shutil.rmtree(work / "lora")
    shutil.rmtree(work / "features" / "codes")
    results, report, page = evaluated(work, overrides)
    assert results.failures == []
    missing = {gap["part"]: gap["command"] for gap in report["missing"]}
    assert "--target codes" in missing["retrieval.codes"]
    assert "--stage lora" in missing["caption"] or "--target codes" in missing["caption"]
    assert "--stage lora" in missing["generation"]
    assert report["caption"] is report["generation"] is report["codebook"] is None
    assert report["retrieval"]["embedding"]["r_mean"] > 0
    assert 'id="missing"' in page
    assert "data_prep/encode.py" in page


def test_nothing_trained_yet_still_gives_a_report(workspace, tmp_path):
    work, overrides = copied(workspace, tmp_path)
    for stage in ("causal_qformer", "codebook", "lora"):
        shutil.rmtree(work / stage)
    results, report, _ = evaluated(work, overrides)
    assert results.failures == []
    assert report["retrieval"]["clip"]["r_mean"] > report["retrieval"]["chance"]["r_mean"]
    assert "--stage causal_qformer" in {gap["part"]: gap["command"] for gap in report["missing"]}["causality"]


def test_features_of_an_earlier_training_are_refused(workspace, tmp_path):
    work, overrides = copied(workspace, tmp_path)
    recipe = load_recipe("glyphs", overrides)
    torch.manual_seed(1)
    CausalQFormer(recipe.qformer).save_pretrained(work / "causal_qformer" / "export", recipe.backbones, {})
    results, report, page = evaluated(work, overrides)
    failed = {failure.part: failure.why for failure in results.failures}
    assert "earlier training" in failed["retrieval.embedding"]
    assert "--target causal" in failed["retrieval.embedding"]
    assert "embedding" not in report["retrieval"]
    assert "Failed: retrieval.embedding" in page


def test_a_split_that_is_not_there(workspace):
    work, overrides = workspace
    with pytest.raises(DataError, match=r"images/other is not there"):
        evaluated(work, overrides, "other")


def test_means_are_taken_over_all_splits_of_a_mixture(workspace, monkeypatch):
    work, overrides = workspace
    monkeypatch.setattr(workspace_module, "_MEAN_SAMPLES", 6)
    mixture = "data.mixture=[{split: test, weight: 2}, {split: heldout, weight: 1}]"
    opened = [
        Workspace(load_recipe("glyphs", (*overrides, *more)), Invocation("glyphs", work), torch.device("cpu"))
        for more in ((), (mixture,))
    ]
    causal = {name: Split(opened[0], name).read("causal") for name in SPLITS}
    assert torch.equal(opened[0].some_training_samples("causal"), causal["train"])
    expected = torch.cat([causal["heldout"][[0, 5]], causal["test"][[0, 6, 12, 19]]])
    assert torch.equal(opened[1].some_training_samples("causal"), expected)


def photographs(folder: Path, count, seed, held_out):
    """Captioned pictures whose captions are no glyph scenes."""
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (90, 70), (20 * i % 255, 80, 120)).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"A photo, number {i % 7}: <b>grey</b> & plain.")


def test_other_data_has_no_attributes_and_no_targets(tmp_path):
    work, overrides = build(tmp_path, {"train": 4, "test": 9}, photographs)
    results, report, page = evaluated(work, overrides)
    assert results.failures == results.gaps == []
    assert report["data"] == "captioned images"
    assert report["targets"] == {}
    assert report["heldout_pairs"] is None
    assert report["caption"]["colour"] is None
    assert "grammar" in report["caption"]["unscored"]
    assert report["caption"]["exact"] == 0
    assert report["generation"]["colour"] is None
    assert report["retrieval"]["distinct_captions"] == 7
    assert "<b>grey" not in page  # captions are text, never markup
    assert "&lt;b&gt;grey" in page


@pytest.mark.slow
def test_the_command_runs_without_deepspeed(workspace, tmp_path):
    """`sys.modules[name] = None` makes a package look as if it were not installed."""
    work, overrides = workspace
    (work / "seconds.json").write_text('{"train_lora": 12.5}')
    settings = [word for item in overrides for word in ("--set", item)]
    options = ["--recipe", "glyphs", "--work", str(work), "--out", str(tmp_path), *settings]
    program = (
        "import sys; sys.modules['deepspeed'] = sys.modules['mlflow'] = None; sys.argv[0] = 'eval'\n"
        "from seed_dist.cli import run_command; from seed_dist.eval.__main__ import main; sys.exit(run_command(main))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *options], capture_output=True, text=True, timeout=170, check=False
    )
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["seconds"]["train_lora"] == 12.5
    assert report["seconds"]["eval"] > 0
    assert report["peak_memory_bytes"]["eval"] > 50_000_000
    colour = report["figures"]["caption.colour"]
    assert colour["n"] == SPLITS["test"]
    assert colour["interval"][0] <= report["caption"]["colour"] <= colour["interval"][1]
    assert colour["data"] == report["provenance"]["manifests"]["images/test"]
    assert report["bases"]["caption"]["frozen"]["language_model"]["sha256"]
    assert f"| {SPLITS['test']} |" in (tmp_path / "model_card.md").read_text()
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
    assert str(tmp_path / "report.html") in run.stdout
    assert "eval  test: caption" in run.stderr
