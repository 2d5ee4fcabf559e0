"""Which part of the product may use which package; that what is used is declared and what is declared is used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.sources import ROOT, Source, imports, sources

# Package -> where it may be imported (path prefixes): one door for what changes often or costs seconds to load.
DOORS: dict[str, tuple[str, ...]] = {
    "deepspeed": ("seed_dist/dist/engine.py",),
    "torch.distributed": ("seed_dist/dist/",),
    "mlflow": ("seed_dist/obs/mlflow_sink.py",),
    "seed_dist.obs.mlflow_sink": ("seed_dist/sync.py",),  # training only appends to the journal
    "seed_dist.sync": (),  # so it is started, never called
    "transformers": ("seed_dist/models/", "seed_dist/glyphs/"),
    "peft": ("seed_dist/models/", "seed_dist/glyphs/"),
    "diffusers": ("seed_dist/models/", "seed_dist/glyphs/"),
    "open_clip": ("seed_dist/models/", "seed_dist/glyphs/"),
    "torch_fidelity": ("seed_dist/models/inception.py",),
    "lpips": ("seed_dist/models/perceptual_distance.py",),
    "huggingface_hub": ("seed_dist/assets/hub.py",),
    "torchvision": (),  # open_clip's affair; see models/torchvision_guard.py
    "tokenizers": ("seed_dist/glyphs/",),
    "webdataset": ("seed_dist/data/",),
    "pyarrow": ("seed_dist/data/",),
    "fsspec": ("seed_dist/data/remote.py", "seed_dist/data/fetch.py"),
    "urllib3": ("seed_dist/data/fetch.py",),
    "isal": ("seed_dist/data/",),
    "matplotlib": ("seed_dist/glyphs/", "seed_dist/eval/"),
    "submitit": ("launchers/",),
    "yaml": ("seed_dist/config.py",),
    "pickle": (),  # files from elsewhere are data, never code
}

# Declared without being imported in the product.
NOT_IMPORTED = {
    "ninja": "the program that builds DeepSpeed's CPU ops",
    "webdataset": "the tests read our shards with it, as users do",
}
# Imported under another name than that of the distribution.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "open_clip": "open-clip-torch"}

LOADED = """
import json, sys, time
started = time.process_time()
import {module}
print(json.dumps([time.process_time() - started, sorted(name for name in sys.modules if "." not in name)]))
"""


def requirements(section: str) -> list[Requirement]:
    """The requirements of one list in pyproject.toml (Python 3.10 has no TOML reader of its own)."""
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(rf"^{section} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block, f"pyproject.toml has no list {section}"
    return [Requirement(item) for item in re.findall(r'^\s*"([^"]+)"', block[1], re.MULTILINE)]


def wrong_doors(source: Source) -> list[str]:
    return [
        f"{source.path}:{item.line} imports {package}"
        for item in imports(source)
        for package, doors in DOORS.items()
        if f"{item.module}.".startswith(f"{package}.") and not source.path.startswith(doors)
    ]


def test_packages_come_in_through_their_doors() -> None:
    assert [problem for source in sources() for problem in wrong_doors(source)] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("seed_dist/train/loop.py", "import deepspeed"),
        ("seed_dist/models/x.py", "def f():\n    from torch import distributed"),
        ("seed_dist/models/x.py", "import torch.distributed as dist"),
        ("seed_dist/eval/x.py", "from mlflow.tracking import MlflowClient"),
        ("data_prep/x.py", "import pickle"),
        ("seed_dist/train/x.py", "from seed_dist.obs.mlflow_sink import MlflowSink"),
        ("launchers/x.py", "from seed_dist import sync"),
    ],
)
def test_the_rule_sees(path: str, text: str) -> None:
    assert len(wrong_doors(Source(path, text))) == 1


def test_every_dependency_is_used_and_every_import_is_declared() -> None:
    own = {"seed_dist", "data_prep", "launchers", "__future__", *sys.stdlib_module_names}
    imported = {item.module.partition(".")[0] for source in sources() for item in imports(source)} - own
    used = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in imported}
    declared = {canonicalize_name(item.name) for item in requirements("dependencies")}
    assert used - declared == set(), "imported, but pyproject.toml does not declare it"
    assert declared - used - NOT_IMPORTED.keys() == set(), "declared in pyproject.toml, but nothing imports it"


def test_the_environment_is_the_one_of_the_constraints() -> None:
    """What the tests show holds of the versions in constraints.txt, and those satisfy the ranges of pyproject.toml."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate()]
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in pins}
    assert len(pinned) == len(pins), "a package is pinned twice for this Python"
    installed = {canonicalize_name(name) for names in packages_distributions().values() for name in names}
    wrong = [
        f"{name} {version(name)}, pinned {pin}"
        for name, pin in pinned.items()
        if name in installed and not pin.contains(version(name), prereleases=True)
    ]
    assert wrong == [], "run: make"
    for item in (*requirements("dependencies"), *requirements("dev")):
        assert canonicalize_name(item.name) in pinned, f"{item.name} has no line in constraints.txt"
        assert item.specifier.contains(version(item.name), prereleases=True), f"{item.name} is outside its range"


@pytest.mark.parametrize(
    ("module", "limit_s", "never"),
    [
        ("seed_dist.config", 1.0, {"torch", "numpy", "transformers", "deepspeed"}),
        ("seed_dist.assets.__main__", 1.0, {"torch", "numpy", "transformers", "huggingface_hub"}),
        ("seed_dist.plan.__main__", 1.0, {"torch", "numpy", "transformers", "deepspeed", "pyarrow"}),
        ("seed_dist.chat.__main__", 1.0, {"torch", "numpy", "transformers", "deepspeed"}),
        ("seed_dist.status.__main__", 0.5, {"torch", "numpy", "pydantic", "yaml"}),
        ("seed_dist.compare", 0.5, {"torch", "numpy", "pydantic", "yaml"}),
        ("seed_dist.doctor.__main__", 1.0, {"torch", "numpy", "transformers", "deepspeed", "pyarrow"}),
        ("seed_dist.sync", 1.0, {"torch", "numpy", "mlflow"}),
        ("seed_dist.order", 1.0, {"torch", "transformers", "deepspeed"}),
        ("seed_dist.models.torchvision_guard", 20.0, {"transformers", "deepspeed", "mlflow", "diffusers"}),
        ("seed_dist.losses", 20.0, {"transformers", "deepspeed", "mlflow"}),
        ("seed_dist.eval.__main__", 20.0, {"deepspeed", "mlflow"}),
    ],
)
def test_import_budget(module: str, limit_s: float, never: set[str]) -> None:
    """Processor time, best of three for the small ones: a busy machine must not fail it."""
    tries = 3 if limit_s <= 1 else 1
    for _ in range(tries):
        seconds, loaded = _loaded(module)
        assert never & set(loaded) == set()
        if seconds < limit_s:
            break
    assert seconds < limit_s


def _loaded(module: str) -> tuple[float, list[str]]:
    """Seconds of processor time and top-level modules that importing `module` costs in a new interpreter."""
    command = [sys.executable, "-c", LOADED.format(module=module)]
    run = subprocess.run(command, cwd=Path(ROOT), capture_output=True, text=True, check=True, timeout=120)
    seconds, names = json.loads(run.stdout.splitlines()[-1])
    return seconds, names
