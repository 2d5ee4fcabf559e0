"""Studies on tiny workspaces: known answers of the measurements, of the spread over seeds, and what is written."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from seed_dist.config import load_recipe
from seed_dist.errors import DataError
from seed_dist.eval.bench import Bench
from seed_dist.eval.studies import measurements, run
from seed_dist.eval.studies.definitions import BIDIRECTIONAL, CAUSAL, PIXELS, STUDIES, Arm, Figure, Study, study_of
from seed_dist.eval.studies.probe import RIDGE, AdditiveReader
from seed_dist.eval.studies.spread import Spread
from seed_dist.eval.studies.table import markdown
from seed_dist.eval.studies.workspaces import ArmRecord, arm_folder, finished_seeds, record_arm
from seed_dist.eval.workspace import Invocation, Split, Workspace
from seed_dist.models.qformer import CausalQFormer
from tests.unit.eval.tiny_workspace import build

ROOT = Path(__file__).parents[3]
FINDINGS = ROOT / "docs" / "findings.md"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    work, overrides = build(tmp_path_factory.mktemp("study"), {"train": 6, "test": 20})
    return work, overrides


def bench_of(tiny, *more):
    work, overrides = tiny
    recipe = load_recipe("glyphs", (*overrides, *more))
    workspace = Workspace(recipe, Invocation("glyphs", work, overrides), CPU)
    return Bench(workspace, Split(workspace, "test"), 0)


def measured(tiny, *names):
    bench, numbers = bench_of(tiny), {}
    for name in names:
        getattr(measurements, name)(bench, CAUSAL, numbers)
    return numbers


def test_all_codes_as_a_prefix_are_the_ordinary_codes(tiny):
    numbers = measured(tiny, "retrievals", "rebuilding", "prefixes")
    assert sorted(map(int, numbers["prefix"])) == [0, 1, 2, 4, 6]  # of 6 queries
    every = numbers["prefix"]["6"]
    assert every["i2t"] == numbers["retrieval"]["codes"]["i2t"]["r1"]
    assert every["i2t_shuffled"] == numbers["retrieval"]["codes_shuffled"]["i2t"]["r1"]
    assert every["cosine_centered"] == pytest.approx(numbers["reconstruction"]["cosine_centered"], abs=1e-6)
    assert every["generation_cosine"] == pytest.approx(numbers["reconstruction"]["generation_cosine"], abs=1e-6)


def test_the_reader_of_one_code_says_the_mean_of_what_it_stood_for():
    codes = torch.tensor([[0], [0], [0], [2]])
    targets = torch.tensor([[1.0], [2.0], [3.0], [6.0]])
    said = AdditiveReader(codes, targets, 4)(torch.tensor([[0], [2], [1]]))
    shares = torch.tensor([3 / (3 + RIDGE), 1 / (1 + RIDGE), 0.0])  # of the way from the mean of all
    assert torch.allclose(said[:, 0], 3 + shares * (torch.tensor([2.0, 6.0, 0.0]) - 3), atol=1e-5)


def test_the_reader_adds_what_places_say():
    torch.manual_seed(0)
    codes, vectors = torch.randint(0, 5, (600, 3)), torch.randn(3, 5, 2)
    targets = sum(vectors[place][codes[:, place]] for place in range(3)) + 7
    said = AdditiveReader(codes[:500], targets[:500], 5)(codes[500:])
    assert torch.allclose(said, targets[500:], atol=0.1)
    shuffled = AdditiveReader(codes[:500], targets[torch.randperm(500)], 5)(codes[500:])
    assert (shuffled - targets[500:]).square().mean() > 0.5 * targets.var()


def test_no_code_at_all_is_chance(tiny):
    numbers = measured(tiny, "retrievals", "prefixes")
    chance = numbers["retrieval"]["chance"]["i2t"]["r1"]
    nothing = numbers["prefix"]["0"]
    assert nothing["i2t"] <= 3 * chance  # all pictures ask the same question, so one caption is everybody's answer
    assert abs(nothing["cosine_centered"]) < 0.9


def test_the_causal_arm_is_causal_and_the_other_is_not(tiny):
    numbers = measured(tiny, "left_to_right", "mask")
    assert numbers["causality"]["max_violation"] == 0
    assert numbers["mask"]["cosine_min"] < numbers["mask"]["cosine"] < 1  # the untrained queries hardly listen
    bench, free = bench_of(tiny), {}
    model = bench.workspace.qformer
    free_model = CausalQFormer(load_recipe("glyphs", (*tiny[1], "qformer.causal=false")).qformer)
    free_model.load_state_dict(model.state_dict())
    bench.workspace.__dict__["qformer"] = free_model.eval()
    measurements.left_to_right(bench, BIDIRECTIONAL, free)
    measurements.mask(bench, BIDIRECTIONAL, free)
    assert free["causality"]["max_violation"] > 0
    assert free["mask"]["cosine"] == pytest.approx(numbers["mask"]["cosine"], abs=1e-7)  # the same two masks


def test_an_untrained_language_model_pays_for_every_token_about_the_same(tiny):
    """log of the vocabulary for each of begin, 6 codes, end and end of sequence, paired or not."""
    cost = measured(tiny, "costs")["language"]
    vocabulary = 53 + 20 + 2
    assert cost["nats_per_image"] == pytest.approx(9 * math.log(vocabulary), rel=0.1)
    assert cost["nats_per_image_shuffled"] == pytest.approx(cost["nats_per_image"], rel=0.05)


def test_forced_codes_are_images_and_are_judged(tiny):
    scores = measured(tiny, "imagined")["imagined"]
    assert (scores["unforced"]["valid"], scores["unforced"]["colour"]) == (0, 0)
    assert scores["forced"]["valid"] == 1
    assert scores["judged"] == 4


def test_pictures_are_measured_beside_their_controls(tiny):
    scores = measured(tiny, "pictures")["pictures"]
    assert scores["bits"] == pytest.approx(6 * math.log2(20))
    assert scores["originals"]["background"] > scores["chance"]["background"]
    assert scores["mse_of_mean"] > 0.01
    assert scores["mse"] != scores["mse_shuffled"]
    found = torch.zeros(2, 3, 4, 4)
    assert measurements._distances(found + 0.1, found, "")["psnr_db"] == pytest.approx(20, abs=1e-3)


def study_folder(tiny, tmp_path, arms, seeds):
    """One trained workspace as every arm and seed."""
    for arm in arms:
        for seed in seeds:
            folder = arm_folder(tmp_path, arm, seed)
            shutil.copytree(tiny[0], folder)
            record_arm(folder, ArmRecord("glyphs", (*tiny[1], f"seed={seed}")))
    return tmp_path


def test_a_study_is_measured_on_common_seeds_written_and_not_measured_twice(tiny, tmp_path, monkeypatch):
    study = study_of("order")
    work = study_folder(tiny, tmp_path, study.arms, (0, 1))
    shutil.rmtree(arm_folder(work, study.arms[1], 1))
    shutil.copytree(arm_folder(work, study.arms[0], 1), arm_folder(work, study.arms[0], 5))
    paths = run.measure_study(work, study, "test", CPU)
    result = json.loads(paths[0].read_text())
    assert result["seeds"] == [0]
    assert set(result["arms"]) == {"causal", "permuted"}
    assert paths[1].read_text() == markdown(study, result)
    page = paths[2].read_text()
    assert study.question in page
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")

    def never(*_):
        raise AssertionError("measured again")

    kept = tuple(_named(never, measure.__name__) for measure in measurements.MEASURES["order"])
    monkeypatch.setitem(measurements.MEASURES, "order", kept)
    assert run.measure_study(work, study, "test", CPU) == paths
    with pytest.raises(AssertionError, match="measured again"):
        run.measure_study(work, study, "train", CPU)


def _named(function, name):
    def wrapped(*arguments):
        return function(*arguments)

    wrapped.__name__ = name
    return wrapped


def test_a_study_without_trained_arms_names_the_command(tmp_path):
    with pytest.raises(DataError, match=r"missing: causal, permuted.*python -m seed_dist\.studies order --work"):
        finished_seeds(tmp_path, study_of("order"), study_of("order").arms)


def result_of(first, second):
    arms = {
        name: {str(seed): {"a": {"b": value}} for seed, value in enumerate(values)}
        for name, values in (("first", first), ("second", second))
    }
    return {"study": "x", "seeds": list(range(len(first))), "arms": arms}


def test_a_difference_is_marked_only_where_no_seed_lies_among_the_others():
    study = Study("x", "?", (Arm("first", ""), Arm("second", "")), (Figure("a.b", "figure", 2, "a.c", "a.b"),))
    table = markdown(study, result_of([1.0, 2.0, 3.0], [3.5, 4.0, 6.0]))
    assert table.splitlines()[2] == "| figure |  | 3.25 | 2.00 ± 1.00 | 4.50 ± 1.32 * |"
    assert "*" not in markdown(study, result_of([1.0, 2.0, 3.0], [2.5, 4.0, 6.0]))
    assert not Spread((1.0,)).is_apart_from(Spread((9.0,)))
    assert "| 1.00 | 9.00 |" in markdown(study, result_of([1.0], [9.0]))  # one seed has no spread


def test_every_study_has_measurements_and_arms_that_differ():
    assert {study.name for study in STUDIES} == set(measurements.MEASURES)
    for study in STUDIES:
        assert len({arm.name for arm in study.arms}) == len(study.arms) > 1
        for arm in study.arms:
            load_recipe("glyphs", arm.overrides)
    assert PIXELS.is_pixels


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "studies").glob("*.json")), ids=lambda path: path.stem)
def test_the_tables_of_the_findings_are_those_of_the_measured_numbers(path):
    result = json.loads(path.read_text())
    table = markdown(study_of(result["study"]), result)
    assert len(table.splitlines()) > 4
    assert table in FINDINGS.read_text()


def test_there_are_findings():
    assert len(list((ROOT / "docs" / "studies").glob("*.json"))) >= 4
