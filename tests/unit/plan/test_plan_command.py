"""The command: what it prints, its errors, the batch scripts, and that `docs/scaling.md` shows what it prints."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from seed_dist.plan.batch_scripts import NAMES, SCRIPTS, batch_script
from seed_dist.plan.hardware import load_hardware
from seed_dist.plan.request import Cluster
from tests.harness import ROOT

CLUSTER = Cluster(2, 4, load_hardware("a100"), wall_limit_hours=36.5)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seed_dist.plan", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_it_prints_a_plan_and_the_same_as_json() -> None:
    text = run("--recipe", "seed_v2", "--nodes", "8", "--gpus", "8", "--hardware", "v100", "--price-per-gpu-hour", "2")
    assert (text.returncode, text.stderr) == (0, "")
    assert "limited by   storage (2.6 to 6.9 GB/s needed per node, 1.25 GB/s available)" in text.stdout
    assert "price" in text.stdout
    values = json.loads(run("--recipe", "seed_v2", "--json").stdout)
    assert [stage["stage"] for stage in values["stages"]] == ["causal_qformer", "codebook", "lora"]
    sizes = json.loads(run("--recipe", "seed_v2", "--pairs", "1000", "2000", "--json").stdout)
    assert [size["pairs"] for size in sizes] == [1000, 2000]


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{"name": "own", "memory_bytes": -1}')
    found = run("--nodes", "0", "--share-of-peak", "0.4-0.1", "--storage-gbit", "0", "--hardware",
                str(tmp_path / "own.json"))  # fmt: skip
    assert found.returncode == 2
    for part in ("--recipe is missing", "--nodes is 0", "--share-of-peak is '0.4-0.1'", "--storage-gbit is 0.0",
                 "peak_flops: Field required", "memory_bytes: Input should be greater"):  # fmt: skip
        assert part in found.stderr, part
    unknown = run("--recipe", "seed_v2", "--hardware", "abacus")
    assert "choose one of a100, h100, h200, v100" in unknown.stderr


def test_passes_over_each_split_of_a_mixture() -> None:
    mixture = ("--recipe", "seed_v2", "--set", "data.mixture=[{split: a, weight: 3}, {split: b, weight: 1}]")
    steps = ("--set", "codebook_training.steps=1000", "--set", "codebook_training.global_batch=1024",
             "--set", "codebook_training.warmup_steps=0", "--stages", "codebook")  # fmt: skip
    text = run(*mixture, *steps, "--pairs-of", "a=3072000", "b=128000").stdout
    assert "1.02 M, 0.32 passes (a 0.25, b 2)" in text
    wrong = run(*mixture, "--pairs-of", "a=0", "c=5", "c=6")
    assert wrong.returncode == 2
    assert "--pairs-of a=0: give a whole number of pairs, at least 1" in wrong.stderr
    assert "--pairs-of names a, c, but the splits of the recipe's data.mixture are a, b" in wrong.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_script_is_the_projects_own(name: str, tmp_path: Path) -> None:
    """Only `#SBATCH` values, the recipe and the overrides differ; and it is still a shell script."""
    original = (SCRIPTS / f"{name}.sbatch").read_text().splitlines()
    text = batch_script(name, "seed_v2", ["lora.rank=8"], CLUSTER)
    changed = [line for line in text.splitlines() if line not in original]
    assert "#SBATCH --time=36:30:00" in changed
    if name in ("tokenizer", "lora"):
        assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --gpus-per-node=4"} <= set(changed)
    assert any("${RECIPE:-seed_v2}" in line for line in changed)
    assert 'set -- --set lora.rank=8 "$@"' in changed
    assert len(changed) <= 6
    assert "glyphs}" not in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def documented() -> list[tuple[list[str], str]]:
    """Arguments and output of every command in docs/scaling.md that stands before a block of output."""
    page = (ROOT / "docs" / "scaling.md").read_text()
    blocks = re.findall(r"```bash\npython -m seed_dist\.plan (.*?)\n```\n\n```\n(.*?)```", page, re.DOTALL)
    return [(shlex.split(words.replace("\\\n", " ")), output) for words, output in blocks]


def test_the_page_shows_what_is_printed() -> None:
    pairs = documented()
    assert len(pairs) >= 3
    for words, output in pairs:
        assert run(*words).stdout == output, words
