"""The README path on 64 scenes: every command of the chain as a process, to a report; then again, for nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seed_dist.config import load_recipe
from seed_dist.ops.chain import ROOT, Chain

SMALL = (
    "causal_qformer_training.steps=2",
    "causal_qformer_training.warmup_steps=1",
    "causal_qformer_training.global_batch=16",
    "codebook_training.steps=4",
    "codebook_training.warmup_steps=1",
    "codebook_training.global_batch=16",
    "codebook.size=32",
    "lora_training.steps=4",
    "lora_training.warmup_steps=1",
    "lora_training.global_batch=16",
    "eval.paint_samples=2",
    "eval.paint_steps=2",
)
SCALE = 64 / 20_000  # 64 training scenes; 8 in each of the other splits


def demo(work: Path) -> subprocess.CompletedProcess[str]:
    settings = [word for item in SMALL for word in ("--set", item)]
    command = [sys.executable, "-m", "seed_dist.demo", "--work", str(work), "--ranks", "1", "--scale", str(SCALE)]
    return subprocess.run([*command, *settings], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_demo_reaches_the_report_and_then_has_nothing_left_to_do(tmp_path: Path) -> None:
    first = demo(tmp_path)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    steps = Chain("glyphs", tmp_path, overrides=SMALL).steps(load_recipe("glyphs", SMALL))
    assert len(steps) >= 10
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["retrieval"]["n"] == 8
    assert report["causality"]["max_violation"] == 0
    assert report["codebook"]["size"] == 32
    assert 0 <= report["caption"]["colour"] <= 1
    assert 0 <= report["generation"]["valid"] <= 1
    assert set(report["peak_memory_bytes"]) == set(report["seconds"])
    assert all(0 < size < 6 << 30 for size in report["peak_memory_bytes"].values())
    assert report["peak_memory_bytes"]["train_codebook"] > 300 << 20  # the children count, not the runner alone
    assert set(report["seconds"]) >= {step.name for step in steps if step.name != "eval"}
    assert (tmp_path / "report.html").stat().st_size > 20_000
    journal = [json.loads(line) for line in (tmp_path / "codebook" / "journal.jsonl").read_text().splitlines()]
    assert [row["step"] for row in journal if row["event"] == "step"] == [1, 2, 3, 4]
    assert [row["step"] for row in journal if row["event"] == "validation"] == [0, 4]

    picture = next((tmp_path / "source" / "test").glob("*.jpg"))
    command = [sys.executable, "-m", "seed_dist.chat", "--llm", str(tmp_path / "lora" / "export"), "--steps", "2"]
    lines = f"/image {picture}\n\n/paint a red star on white\n"
    chat = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120, check=False)
    assert chat.returncode == 0, chat.stderr
    (painted,) = (tmp_path / "chat").rglob("picture-*-painted.png")
    assert f"painted: {painted}" in chat.stdout

    before = (tmp_path / "report.json").read_bytes()
    again = demo(tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Already finished" in again.stdout
    assert (tmp_path / "report.json").read_bytes() == before


def test_a_workspace_of_another_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(json.dumps({"recipe": "0000", "data": "drawn scenes", "scale": SCALE}))
    refused = demo(tmp_path)
    assert refused.returncode == 4
    assert "recipe of the demo" in refused.stderr
    assert "--work" in refused.stderr
    assert not (tmp_path / "source").exists()
