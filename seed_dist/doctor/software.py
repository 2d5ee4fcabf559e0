"""Python, the torch build against the GPUs, precision, and DeepSpeed's compiled optimizer."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.dist.build_ops import library_path
from seed_dist.dist.ds_config import Capability, resolve_precision
from seed_dist.doctor.finding import Finding
from seed_dist.errors import ConfigError

_PYTHONS = ((3, 10), (3, 13))  # from, and below; as in pyproject.toml
_OLDEST_OF_CUDA_13 = (7, 5)
_TORCH_S = 120.0
_BUILD_S = 600.0
_BUILD = "python -m seed_dist.doctor --build-ops"
# torch.cuda.get_arch_list() is empty where there is no GPU, as on login nodes; what it reads elsewhere is here.
_PROBE = """
import json, torch
flags = getattr(torch._C, "_cuda_getArchFlags", lambda: "")() if torch.version.cuda else ""
count = torch.cuda.device_count()
gpus = [[torch.cuda.get_device_name(i), *torch.cuda.get_device_capability(i)] for i in range(count)]
archs = (flags or "").split()
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "archs": archs, "gpus": gpus}))
"""


@dataclass(frozen=True)
class Torch:
    """A torch build and the GPUs that it sees here: (name, compute capability). `cuda` is None for a CPU build."""

    version: str
    cuda: str | None
    archs: tuple[str, ...]
    gpus: tuple[tuple[str, Capability], ...]


def python_finding(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    shown = f"{version[0]}.{version[1]}"
    if _PYTHONS[0] <= version < _PYTHONS[1]:
        return Finding("python", "ok", shown)
    return Finding(
        "python", "failed", f"{shown}, but 3.10, 3.11 or 3.12 is needed", "python3.11 -m venv .venv && make ops"
    )


def probe_torch() -> Torch | Finding:
    """In a process of its own: importing torch may take long or crash. A finding where it cannot be imported."""
    try:
        run = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False, timeout=_TORCH_S
        )
    except subprocess.TimeoutExpired:
        return Finding("torch", "failed", f"importing it took more than {_TORCH_S:.0f} s: is the disk overloaded?")
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding("torch", "failed", f"it cannot be imported: {last}", "make ops")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    gpus = tuple((name, (major, minor)) for name, major, minor in found["gpus"])
    return Torch(found["torch"], found["cuda"], tuple(found["archs"]), gpus)


def has_kernels(archs: tuple[str, ...], capability: Capability) -> bool:
    """Whether a build runs on such a GPU: machine code of its major version up to its minor, or PTX of any older one
    (NVIDIA, CUDA C++ Programming Guide, binary and PTX compatibility).
    """
    for kind, major, minor in re.findall(r"\b(sm|compute)_(\d+)(\d)[af]?\b", " ".join(archs)):
        built = int(major), int(minor)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def torch_findings(torch: Torch, target: tuple[str, Capability | None] | None, precision: str) -> list[Finding]:
    """`target`: the hardware that the jobs will find, as named; without it the GPUs that are here."""
    wanted: list[tuple[str, Capability | None]] = [target] if target else list(dict(torch.gpus).items())
    build = f"{torch.version}, {'CUDA ' + torch.cuda if torch.cuda else 'CPU only'}"
    if not wanted:
        return [
            Finding("torch", "ok", f"{build}; no GPU here, and --hardware names none"),
            _precision_finding(precision, "the CPU", None),
        ]
    found = [_kernels_finding(torch, build, name, capability) for name, capability in wanted]
    return found + [_precision_finding(precision, name, capability) for name, capability in wanted]


def _kernels_finding(torch: Torch, build: str, name: str, capability: Capability | None) -> Finding:
    if capability is None or has_kernels(torch.archs, capability):
        return Finding("torch", "ok", f"{build}; runs on {name}")
    install = (
        f"python -m pip install --force-reinstall torch=={torch.version.partition('+')[0]} {_torchvision()}".rstrip()
    )
    # PyTorch's CUDA 12.6 builds keep Volta; the ones of the usual registry, for CUDA 13, do not.
    index = " --index-url https://download.pytorch.org/whl/cu126" if capability < _OLDEST_OF_CUDA_13 else ""
    return Finding(
        "torch",
        "failed",
        f"{build}, has no kernels for {name} (compute capability {capability[0]}.{capability[1]}); it is built for "
        f"{', '.join(torch.archs) or 'no GPU'}",
        f"{install}{index}",
    )


def _torchvision() -> str:
    """The version that goes with the torch that is there; nothing where it is not installed."""
    try:
        return f"torchvision=={importlib.metadata.version('torchvision').partition('+')[0]}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _precision_finding(requested: str, name: str, capability: Capability | None) -> Finding:
    """By compute capability: torch.cuda.is_bf16_supported() is true of a V100, which only emulates it."""
    try:
        precision = resolve_precision(requested, capability)
    except ConfigError as error:
        return Finding("precision", "failed", error.problems[0], "add to every command: --set engine.precision=auto")
    return Finding("precision", "ok", f"{precision} on {name} (engine.precision is {requested})")


def build_ops() -> Finding:
    """Compile DeepSpeed's optimizer for this CPU now."""
    command = [sys.executable, "-m", "seed_dist.dist.build_ops"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_BUILD_S)
    except subprocess.TimeoutExpired:
        return Finding(
            "ops", "failed", f"compiling took more than {_BUILD_S:.0f} s", "python -m seed_dist.dist.build_ops"
        )
    if run.returncode == 0:
        return Finding("ops", "ok", f"built: {run.stdout.strip()}")
    return Finding("ops", "failed", (run.stderr.strip().splitlines() or ["no message"])[-1], "sudo apt-get install g++")


def ops_finding(torch: Torch, on_gpu: bool) -> Finding:
    """On a GPU DeepSpeed compiles with nvcc in the first training; for a CPU it is compiled by us, once."""
    if on_gpu and torch.cuda is None:
        return Finding("ops", "warning", "not looked at: they are compiled for a CUDA build of torch, and this is none")
    if on_gpu and torch.cuda is not None:
        return _nvcc_finding(torch.cuda)
    if library_path().is_file():
        return Finding("ops", "ok", f"FusedAdam for this CPU is built: {library_path()}")
    tools = [tool for tool in ("g++", "ninja") if not (_beside_python(tool) or shutil.which(tool))]
    if tools:
        install = "sudo apt-get install g++ ninja-build"
        return Finding(
            "ops", "failed", f"FusedAdam cannot be built without {' and '.join(tools)}", f"{install}\n{_BUILD}"
        )
    return Finding(
        "ops", "warning", "FusedAdam for this CPU is not built; the first training takes a minute more", _BUILD
    )


def _nvcc_finding(cuda: str) -> Finding:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return Finding(
            "ops", "warning", "no nvcc here; the nodes need one to compile FusedAdam once", "module load cuda"
        )
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
    found = re.search(r"release (\d+)\.", told)
    if found and found[1] == cuda.partition(".")[0]:
        return Finding("ops", "ok", f"{nvcc} is of CUDA {found[1]}, as torch is")
    version = found[1] if found else "an unknown version"
    return Finding("ops", "failed", f"{nvcc} is of CUDA {version}, torch of {cuda}", f"module load cuda/{cuda}")


def _beside_python(tool: str) -> bool:
    return Path(sys.executable).with_name(tool).exists()
