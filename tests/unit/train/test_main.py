"""The training command refuses bad input in a second, in words, before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seed_dist.errors import ConfigError, DataError, MismatchError
from seed_dist.train.__main__ import main
from tests.features import TINY, tiny_workspace, write_features

# Any of these in a process that only checks its input would cost seconds.
_HEAVY = ("torch", "deepspeed", "transformers", "mlflow")


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    main()


def test_help_teaches_without_loading_anything_heavy(root: Path) -> None:
    script = (
        "import sys, runpy\nsys.argv = ['train', '--help']\n"
        "try: runpy.run_module('seed_dist.train', run_name='__main__')\n"
        f"finally: print('HEAVY', [name for name in {_HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    for word in ("torchrun", "srun", "causal_qformer", "--fresh", "exit code 75", "journal.jsonl"):
        assert word in done.stdout


def test_a_rank_carries_nothing_that_its_stage_has_no_use_for(tmp_path: Path, root: Path) -> None:
    """Torch's compiler and pandas would be 140 MiB of each rank and two seconds of its start."""
    unused = ("torch._dynamo", "sympy", "pandas", "mlflow", "transformers", "peft", "diffusers")
    overrides = [word for item in tiny_workspace(tmp_path) for word in ("--set", item)]
    script = (
        "import sys\nfrom seed_dist.train.__main__ import main\n"
        "main()\nassert 'deepspeed' in sys.modules\n"
        f"print('LOADED', [name for name in {unused} if name in sys.modules])"
    )
    words = ("--recipe", "glyphs", "--stage", "codebook", "--work", str(tmp_path), "--steps", "2", "--mlflow", "off")
    command = [sys.executable, "-c", script, *words, *overrides]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert "LOADED []" in done.stdout, done.stdout + done.stderr


def test_more_ranks_than_samples_are_refused_before_data_or_torch_are_touched(tmp_path: Path, root: Path) -> None:
    script = (
        "import sys, runpy\nsys.argv = ['train', '--recipe', 'glyphs', '--stage', 'lora', '--work', sys.argv[1]]\n"
        "try: runpy.run_module('seed_dist.train', run_name='__main__')\n"
        f"finally: print('HEAVY', [name for name in {_HEAVY} if name in sys.modules])"
    )
    position = {"RANK": "0", "WORLD_SIZE": "65", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "65"}
    environment = {**position, "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ConfigError.exit_code
    assert "65 ranks cannot share lora_training.global_batch 64" in done.stderr
    assert "Traceback" not in done.stderr
    assert "HEAVY []" in done.stdout


def test_an_unknown_stage_recipe_or_option_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        _run(monkeypatch, "--recipe", "glyphs", "--stage", "painting", "--work", str(tmp_path))
    assert left.value.code == 2
    common = ("--stage", "codebook", "--work", str(tmp_path))
    with pytest.raises(ConfigError, match="recipe 'nonsense' is unknown"):
        _run(monkeypatch, "--recipe", "nonsense", *common)
    with pytest.raises(ConfigError, match=r"codebook\.sise is unknown"):
        _run(monkeypatch, "--recipe", "glyphs", *common, "--set", "codebook.sise=5")
    with pytest.raises(ConfigError, match="--steps is 0"):
        _run(monkeypatch, "--recipe", "glyphs", *common, "--steps", "0")


def test_missing_features_are_named_with_the_command_that_makes_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"features/causal/train.*data_prep/encode\.py"):
        _run(monkeypatch, "--recipe", "glyphs", "--stage", "codebook", "--work", str(tmp_path))


def test_a_finished_stage_says_so_and_one_of_other_options_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    from seed_dist.config import load_recipe
    from seed_dist.obs.provenance import record_run, stage_identity
    from seed_dist.train.data import open_data

    for split in ("train", "val"):
        write_features(tmp_path, split, "codes", np.zeros((3, 4), np.int32), ["a"] * 3)
    recipe = load_recipe("glyphs", TINY)
    identity = stage_identity(recipe, "lora", open_data(recipe, "lora", tmp_path).parents)
    record_run(tmp_path / "lora", recipe, identity, 1)
    (tmp_path / "lora" / "export").mkdir()
    settings = [word for item in TINY for word in ("--set", item)]
    arguments = ("--recipe", "glyphs", "--stage", "lora", "--work", str(tmp_path), *settings)
    _run(monkeypatch, *arguments)
    assert "lora is already finished" in capsys.readouterr().err
    with pytest.raises(MismatchError, match=r"'lora\.rank': 2.*'lora\.rank': 3.*--fresh"):
        _run(monkeypatch, *arguments, "--set", "lora.rank=3")
