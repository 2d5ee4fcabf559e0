"""Bands of reference runs: their width, what is judged by them, and what is said where none fits."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from seed_dist.config import STAGES
from seed_dist.errors import MismatchError
from seed_dist.status.facts import RunReader
from seed_dist.status.page import render
from seed_dist.status.reference import band_of, read_references
from seed_dist.status.text import status_text
from seed_dist.studies.reference import reduce_workspaces
from tests.unit.status.written_run import step, write_events, write_run

SHIPPED = ("codebook_training.steps=2000",)
LOSS = read_references("glyphs")["codebook"].bands["loss"]


def _run(folder: Path, factor: float, *overrides: str, last_step: int = 2000, samples: int = 20_000) -> RunReader:
    """A run whose loss is `factor` times the median of the shipped reference runs at every step."""
    run = write_run(folder / "codebook", *SHIPPED, *overrides)
    medians = [LOSS.median[next(i for i, edge in enumerate(LOSS.steps) if edge >= n)] for n in range(1, last_step + 1)]
    data = ("data", 0, {"splits": {"train": {"samples": samples, "share": 1.0, "passes": 6.4}}})
    write_events(run, ("start", 0, {}), data, *(step(n, loss=factor * loss) for n, loss in enumerate(medians, 1)))
    return RunReader(run)


def test_a_band_holds_one_more_run_in_nine_of_ten_cases() -> None:
    known = band_of([5], [[-1.0], [0.0], [1.0]])
    assert (known.median, known.high) == ([0.0], [pytest.approx(2.920 * math.sqrt(4 / 3))])
    rng, inside, trials = random.Random(0), 0, 4000
    for _ in range(trials):
        *runs, one_more = ([math.exp(rng.gauss(0, 0.3))] for _ in range(4))
        band = band_of([1], runs)
        inside += band.low[0] <= one_more[0] <= band.high[0]
    assert 0.88 < inside / trials < 0.93


def test_a_cosine_that_begins_near_zero_has_a_band_of_cosines() -> None:
    """Near 0 logarithms lie far apart, and would make the band of its neighbours as wide."""
    band = band_of([0, 500], [[2e-5, 0.95], [0.01, 0.94], [0.02, 0.96]])
    assert 0.9 < band.low[1] < 0.94
    assert 0.96 < band.high[1] < 1.0


def test_the_demos_recipe_has_bands_for_all_stages_of_three_seeds() -> None:
    references = read_references("glyphs")
    assert set(references) == set(STAGES)
    for reference in references.values():
        assert [run["seed"] for run in reference.runs] == [0, 1, 2]
        assert {"loss", "grad_norm"} < set(reference.bands)


def test_a_run_of_the_recipe_is_inside_and_one_with_a_bad_learning_rate_is_not(tmp_path: Path) -> None:
    good = _run(tmp_path / "good", 1.05)
    facts = good.facts()
    assert "loss at step 2,000 is" in facts.reference.words()
    assert "inside the band" in facts.reference.words()
    assert "of 3 reference runs" in status_text(facts)
    page = render(good, facts)
    assert page.count('class="ribbon"') >= 2  # the chart's and its legend's
    early = _run(tmp_path / "early", 1.0, last_step=130).facts().reference.words()
    assert "loss at step 80 is" in early
    bad = _run(tmp_path / "bad", 3.0, "codebook_training.lr=0.03").facts().reference
    assert "above the band" in bad.words()
    assert "but codebook_training.lr is 0.03 instead of 0.003" in bad.words()


def test_where_another_model_or_other_data_is_trained_there_is_no_band_and_it_says_why(tmp_path: Path) -> None:
    other = _run(tmp_path / "model", 1.0, "codebook.size=1024")
    facts = other.facts()
    assert facts.reference.words() == "no band for this configuration: codebook.size is 1024 instead of 2048"
    assert 'class="ribbon"' not in render(other, facts)
    data = _run(tmp_path / "data", 1.0, samples=777).facts().reference
    assert data.words() == "no band for this configuration: samples of train is 777 instead of 20000"
    unknown = _run(tmp_path / "unknown", 1.0)
    unknown.record["recipe"]["name"] = "../recipes/<b>"
    assert "no reference runs" in unknown.facts().reference.words()


def test_journals_are_reduced_and_runs_of_other_options_are_refused(tmp_path: Path) -> None:
    for seed, loss in enumerate((1.0, 2.0, 4.0)):
        run = write_run(tmp_path / str(seed) / "codebook", f"seed={seed}", "codebook_training.steps=100")
        told = [step(n, loss=loss) for n in range(1, 101)]
        write_events(run, ("start", 0, {}), ("validation", 50, {"cosine": loss / 10}), *told, ("finished", 100, {}))
    works = [tmp_path / str(seed) for seed in range(3)]
    stage = reduce_workspaces(works, ["codebook"])["stages"]["codebook"]
    assert [run["seed"] for run in stage["runs"]] == [0, 1, 2]
    assert "seed" not in stage["identity"]
    loss = stage["bands"]["loss"]
    assert loss["steps"] == list(range(4, 101, 4))
    assert loss["median"] == [2.0] * 25
    spread = 2.920 * math.log(2) * math.sqrt(4 / 3)  # a standard deviation of log 2
    assert loss["high"] == pytest.approx([2 * math.exp(spread)] * 25, rel=1e-3)
    assert stage["bands"]["validation/cosine"]["steps"] == [50]
    write_run(tmp_path / "other" / "codebook", "codebook_training.steps=100", "codebook.size=64")
    write_events(tmp_path / "other" / "codebook", step(1), ("finished", 100, {}))
    with pytest.raises(MismatchError, match=r"codebook\.size"):
        reduce_workspaces([*works, tmp_path / "other"], ["codebook"])
