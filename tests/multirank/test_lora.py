"""Stage 3 through the engine on a LLaMA base: packed rows, codebook vectors, and a base in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seed_dist.config import load_recipe
from seed_dist.dist.comm import Comm
from seed_dist.obs.provenance import stage_identity
from seed_dist.train.data import open_data
from seed_dist.train.start import Request, run_stage
from tests.features import tiny_workspace
from tests.harness import run_ranks

pytestmark = [pytest.mark.multirank, pytest.mark.slow]

OPTIONS = (
    "lora.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]", "lora.image_embedding=codebook",
    "lora.rows_from_codebook=false", "lora.packing=true", "lora.max_tokens=40", "lora_training.accumulation=2",
    "lora_training.lr=1.0e-2", "lora_training.warmup_steps=0",
)  # fmt: skip
HALF = ("engine.precision=bf16", "lora.gradient_checkpointing=true")


def _train(comm: Comm, runs: dict[Path, tuple[str, ...]]) -> None:
    """Each workspace's six steps; with two ranks stopped after the third and resumed."""
    for work, overrides in runs.items():
        recipe = load_recipe("glyphs", overrides)
        data = open_data(recipe, "lora", work)
        identity = stage_identity(recipe, "lora", data.parents)
        for last_step in (6,) if comm.size == 1 else (3, 6):
            request = Request(recipe=recipe, stage="lora", work=work, identity=identity, last_step=last_step)
            run_stage(request, data, comm)


def _workspaces(folder: Path, count: int) -> tuple[list[Path], tuple[str, ...]]:
    """Workspaces over the same features, with a LLaMA base."""
    from tests.languages import save_language

    overrides = tiny_workspace(folder)
    base = save_language(folder / "llama", "llama")
    works = [folder / f"run{i}" for i in range(count)]
    for work in works:
        work.mkdir()
        for name in ("features", "codebook"):
            (work / name).symlink_to(folder / name)
    return works, (*overrides, f"backbones.language_model={base}", *OPTIONS)


def test_any_number_of_ranks_learns_the_same_from_packed_rows(tmp_path: Path) -> None:
    """Ranks hold different numbers of rows and of scored tokens."""
    (one, two, half), overrides = _workspaces(tmp_path, 3)
    run_ranks(_train, 1, tmp_path, {one: overrides})
    run_ranks(_train, 2, tmp_path, {two: overrides, half: (*overrides, *HALF)})
    exports: list[dict[str, Any]] = []
    for work in (one, two, half):
        folder = work / "lora" / "export"
        exports.append(load_file(folder / "rows.safetensors") | load_file(folder / "adapter_model.safetensors"))
    assert exports[0].keys() >= {"codebook", "projection.weight", "projection.bias", "marks", "output_rows"}
    for name, value in exports[0].items():
        torch.testing.assert_close(
            exports[1][name], value, rtol=2e-3, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
        assert exports[2][name].dtype == torch.float32, name
        if "lora_B" in name:  # peft starts them at zero
            direction = torch.nn.functional.cosine_similarity(exports[2][name].flatten(), value.flatten(), dim=0)
            assert float(direction) > 0.8, name
    assert torch.equal(exports[2]["codebook"], exports[0]["codebook"])  # a buffer, which no precision touches
