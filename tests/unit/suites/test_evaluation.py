"""A tiny workspace measured by 1, 2 and 4 ranks, in batches of any size, through kills and damage: one receipt."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seed_dist.assets import weights_sha256
from seed_dist.dist.comm import LocalComm
from seed_dist.errors import DataError, MismatchError
from seed_dist.models.merged_language import save_merged
from seed_dist.suites.command import finish, make, run
from seed_dist.suites.compare import compare
from seed_dist.suites.models import Models
from seed_dist.suites.options import Bootstrap, Request
from seed_dist.suites.places import Places
from seed_dist.suites.selection import Options
from seed_dist.topology import World
from tests import forked
from tests.chromium import NEEDED, Chromium
from tests.harness import ROOT
from tests.unit.eval.tiny_workspace import build
from tests.unit.tokenize import tiny_tokenizer

IMAGES = 18


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder, _ = build(tmp_path_factory.mktemp("tiny"), {"test": IMAGES})
    return folder


@pytest.fixture
def request_(work, tmp_path):
    return asked(work, tmp_path / "out")


def asked(work, out):
    suites, data = ("retrieval", "codes"), ("workspace:test",)
    return Request(suites, data, Places(work, peers=("embedded:clip",)), out, Options(), Bootstrap(200), chunk=4)


@pytest.fixture(scope="module")
def reference(work, tmp_path_factory):
    """By one rank, in batches of 64."""
    request = asked(work, tmp_path_factory.mktemp("reference") / "out")
    list(finish(request, make(request, LocalComm())))
    return request.out


def of_ranks(comm, request):
    made = make(request, comm)
    return len(made.done)


def figures(out):
    receipt = json.loads((out / "receipt.json").read_text())
    return {f"{one['suite']} {f['name']}": f for one in receipt["measurements"] for f in one["figures"]}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, figure in found.items():
        numbers = [(figure[key], wanted[name][key]) for key in ("value", "n", "chance", "control")]
        numbers += zip(figure["interval"] or (), wanted[name]["interval"] or (), strict=True)
        for value, other in numbers:
            assert value == other or value == pytest.approx(other, abs=1e-12), name


def test_every_figure_has_what_stands_beside_it(reference):
    found = figures(reference)
    assert {f"retrieval {row}/r_mean" for row in ("embedding", "codes", "embedded_clip")} <= found.keys()
    for figure in found.values():
        assert figure["n"] > 0
        if figure["interval"] is not None:
            assert figure["interval"][0] - 1e-9 <= figure["value"] <= figure["interval"][1] + 1e-9
            assert figure["chance"] is not None
            assert figure["control"] is not None
    # The frozen CLIP knows the scenes; untrained heads do not, and shuffled captions nobody.
    clip = found["retrieval embedded_clip/i2t_r1"]
    assert clip["value"] > 0.8
    assert clip["control"] < 0.2
    assert clip["chance"] == pytest.approx(1 / IMAGES)
    assert found["codes stability/alone"]["value"] == 1
    receipt = json.loads((reference / "receipt.json").read_text())
    assert receipt["measurements"][0]["set"]["fingerprint"]
    assert receipt["measurements"][0]["models"]["tokenizer"]
    page = (reference / "receipt.html").read_text()
    assert "Best by" in page
    assert "data:image" in page
    assert "nearest by codes" in page
    assert "<script" not in page


@pytest.mark.skipif(shutil.which(NEEDED) is None, reason="needs chromium")
def test_a_phone_and_a_keyboard_reach_all_of_a_receipt(reference, tmp_path):
    with Chromium(tmp_path / "profile") as browser:
        browser.as_phone()
        browser.open((reference / "receipt.html").as_uri())
        assert browser.run("document.querySelectorAll('.scroll').length") > 2
        assert browser.faults_of_layout() == []
        assert browser.run("document.documentElement.scrollWidth") == 375
        texts = "document.querySelectorAll('td, li, p, figcaption')"
        browser.run(f"{texts}.forEach((one) => {{ one.append(' ' + 'w'.repeat(200)); }})")
        assert browser.faults_of_layout() == []
        assert browser.errors == []


@pytest.mark.multirank
@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_ranks_gives_the_same_receipt(request_, reference, tmp_path, size):
    assert forked.values(forked.world(of_ranks, size, tmp_path, request_)) == [2] * size
    list(finish(request_, make(request_, LocalComm())))
    same(figures(request_.out), figures(reference))


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_size_gives_the_same_figures(request_, reference, batch):
    request = replace(request_, batch_size=batch)
    list(finish(request, make(request, LocalComm())))
    same(figures(request.out), figures(reference))


@pytest.mark.multirank
def test_a_killed_rank_ends_the_others_and_costs_one_chunk(request_, reference, tmp_path):
    ended = forked.world(of_ranks, 2, tmp_path, request_, fault="suites.chunk_measured:1:3:kill")
    assert ended[1].code == -9
    assert ended[0].code == 1
    assert ended[0].error != "hangs"
    chunks = request_.out / "records" / "workspace-test" / "retrieval"
    kept = {path.name: path.stat().st_mtime_ns for path in chunks.glob("chunk-*.jsonl")}
    assert set(kept) == {f"chunk-00000{number}.jsonl" for number in (0, 1, 2)}
    (chunks / "chunk-000001.npz").write_bytes(b"torn")  # and a disk that lost one
    killed_s = json.loads((chunks / "seconds.json").read_text())["seconds"]
    assert 0 < killed_s < 1000
    (chunks / "seconds.json").write_text(json.dumps({"seconds": killed_s + 1000}))  # had it taken so much longer
    list(finish(request_, make(request_, LocalComm())))
    same(figures(request_.out), figures(reference))
    spent_s = json.loads((request_.out / "receipt.json").read_text())["measurements"][0]["seconds"]
    assert spent_s > killed_s + 1000, "the attempt that was killed counts"
    again = {name: (chunks / name).stat().st_mtime_ns != time for name, time in kept.items()}
    assert again == {"chunk-000000.jsonl": False, "chunk-000001.jsonl": True, "chunk-000002.jsonl": False}


def test_a_merged_model_is_measured_as_its_adapter(work, tmp_path):
    save_merged(work / "lora" / "export", tmp_path / "merged")
    receipts = []
    for name, places in (
        ("adapter", Places(work)),
        ("merged", Places(None, work / "codebook" / "export", tmp_path / "merged")),
    ):
        data = (f"workspace:{work}:test",)
        request = Request(("caption",), data, places, tmp_path / name, Options(), Bootstrap(50), chunk=4, limit=9)
        list(finish(request, make(request, LocalComm())))
        receipts.append(json.loads((request.out / "receipt.json").read_text())["measurements"][0]["models"])
    same(figures(tmp_path / "merged"), figures(tmp_path / "adapter"))
    chunks = sorted((tmp_path / "adapter").rglob("chunk-*.jsonl"))
    assert len(chunks) == 3
    for chunk in chunks:
        assert (tmp_path / "merged" / chunk.relative_to(tmp_path / "adapter")).read_text() == chunk.read_text()
    adapter, merged = receipts
    assert adapter.keys() - merged.keys() == {"language_model"}  # which is within
    assert merged["llm"] == weights_sha256(tmp_path / "merged") != adapter["llm"]


def test_what_could_not_be_measured_is_told_and_whether_a_receipt_was_written(request_, tmp_path):
    nothing = replace(request_, data=("workspace:nosuch",))
    with pytest.raises(DataError, match=r"^nothing could be measured:\n.*nosuch is not there") as caught:
        run(nothing, World(0, 1, 0, 1))
    assert str(caught.value).count("  - ") == len(nothing.suites)
    assert not (nothing.out / "receipt.json").exists()
    some = replace(request_, suites=("codes",), data=("workspace:test", "workspace:nosuch"), limit=4)
    with pytest.raises(DataError, match=r"^the receipt was written, but without these:"):
        run(some, World(0, 1, 0, 1))
    assert (some.out / "receipt.json").is_file()
    (tmp_path / "empty").mkdir()
    places = replace(request_.places, llm=tmp_path / "empty")
    with pytest.raises(DataError, match=r"holds no seed_language_model.json. Give the export/ of stage lora"):
        run(replace(request_, suites=("caption",), places=places), World(0, 1, 0, 1))


def test_a_language_model_of_another_tokenizer_is_refused(work, tmp_path):
    save_merged(work / "lora" / "export", tmp_path / "merged")
    tiny_tokenizer.export(tmp_path / "other")
    models = Models(Places(None, tmp_path / "other", tmp_path / "merged"), torch.device("cpu"))
    with pytest.raises(MismatchError, match="number of codes that the tokenizer has"):
        _ = models.language


def with_one_bad_picture(comm, request):
    from seed_dist.testsets import workspace

    original = workspace._image

    def image(images, row):
        if row == 9:
            raise DataError("sample 9 cannot be decoded")
        return original(images, row)

    workspace._image = image
    return of_ranks(comm, request)


@pytest.mark.multirank
def test_one_ranks_error_is_everybodys(request_, tmp_path):
    ended = forked.world(with_one_bad_picture, 2, tmp_path, request_)
    assert [rank.code for rank in ended] == [1, 1]
    assert all("sample 9 cannot be decoded" in rank.error for rank in ended)


def test_receipts_of_one_set_are_compared_pair_by_pair(reference, request_, work, tmp_path):
    assert all(d.value == d.low == d.high == 0 for d in compare(reference, reference))
    other, _ = build(tmp_path / "other", {"test": IMAGES})
    shutil.rmtree(other / "images")
    shutil.copytree(work / "images", other / "images")
    config = json.loads((other / "codebook" / "export" / "config.json").read_text())
    assert config["codebook"]["size"] == 20
    _scramble(other / "codebook" / "export" / "model.safetensors")
    request = replace(request_, places=replace(request_.places, run=other))
    list(finish(request, make(request, LocalComm())))
    found = {d.name: d for d in compare(reference, request.out) if d.label.startswith("retrieval")}
    assert found["embedded_clip/i2t_r1"].value == 0  # a peer that is the same in both
    a, b = figures(reference), figures(request.out)
    moved = found["embedding/r_mean"]
    assert moved.value == b["retrieval embedding/r_mean"]["value"] - a["retrieval embedding/r_mean"]["value"] != 0
    assert moved.low <= moved.value <= moved.high
    assert moved.high - moved.low < sum(
        hi - lo for hi, lo in (f["retrieval embedding/r_mean"]["interval"][::-1] for f in (a, b))
    )
    short = replace(request, limit=12, out=tmp_path / "short")
    list(finish(short, make(short, LocalComm())))
    entry = json.loads((short.out / "receipt.json").read_text())["measurements"][0]
    assert (entry["set"]["measured"], entry["set"]["of"]) == (12, IMAGES)
    assert entry["protocol"]["examples"] == "the first 12 of 18"
    with pytest.raises(MismatchError, match="measured"):
        compare(reference, short.out)


def _scramble(path):
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(5)
    save_file({name: torch.randn_like(t) if t.is_floating_point() else t for name, t in load_file(path).items()}, path)


def test_other_models_are_refused_and_missing_ones_named(request_, work, tmp_path):
    list(finish(request_, make(request_, LocalComm())))
    crop = replace(request_, options=Options(protocol="crop"))
    with pytest.raises(MismatchError, match="centre square"):
        make(crop, LocalComm())
    early = tmp_path / "early"
    shutil.copytree(work / "causal_qformer", early / "causal_qformer")
    shutil.copytree(work / "images", early / "images")
    made = make(replace(request_, places=Places(early), out=tmp_path / "e"), LocalComm())
    assert [one.suite.name for one in made.done] == ["retrieval"]
    assert made.done[0].suite.rows == ["embedding"]
    assert "--stage codebook" in made.gaps[0]["why"]
    asking = make(replace(request_, suites=("vqa",), out=tmp_path / "q"), LocalComm())
    assert (asking.done, asking.gaps[0]["suite"]) == ([], "vqa")
    assert "the set has no questions" in asking.gaps[0]["why"]


WITHOUT_DEEPSPEED = """
import runpy, sys
from importlib.machinery import PathFinder
found = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] == "deepspeed" else found(name, path, target)
PathFinder.find_spec = find_spec
sys.argv = ["seed_dist.eval", *sys.argv[1:]]
runpy.run_module("seed_dist.eval", run_name="__main__")
"""


def test_the_command_runs_where_deepspeed_is_not_installed(work, reference, tmp_path):
    out = tmp_path / "out"
    options = ["--run", str(work), "--suite", "retrieval,codes", "--data", "workspace:test", "--peer", "embedded:clip"]
    command = [
        sys.executable,
        "-c",
        WITHOUT_DEEPSPEED,
        *options,
        "--out",
        str(out),
        "--chunk",
        "4",
        "--resamples",
        "200",
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert run.returncode == 0, run.stderr
    same(figures(out), figures(reference))
    events = [json.loads(line)["event"] for line in Path(out / "journal.jsonl").read_text().splitlines()]
    assert events == ["start", "validation", "finished"]
