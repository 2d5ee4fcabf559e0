"""The build of torch against the GPUs of the nodes, by NVIDIA's rules and not by what torch says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from seed_dist.doctor import software
from seed_dist.doctor.finding import Finding, findings_text, has_failed
from seed_dist.doctor.software import Torch, has_kernels, probe_torch, python_finding, torch_findings

# As the builds of torch 2.13 list them.
CUDA_13 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
CUDA_126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")


@pytest.mark.parametrize(
    ("archs", "capability", "expected"),
    [
        (CUDA_13, (7, 0), False),
        (CUDA_126, (7, 0), True),
        (CUDA_126, (8, 9), True),  # machine code of 8.6
        (("sm_86",), (8, 0), False),  # made for a later one
        (("sm_80",), (9, 0), False),
        (("compute_80",), (9, 0), True),  # PTX is compiled for what comes later
        (("sm_90a",), (9, 0), True),
        ((), (7, 0), False),
    ],
)
def test_kernels(archs: tuple[str, ...], capability: tuple[int, int], expected: bool) -> None:
    assert has_kernels(archs, capability) is expected


def test_a_v100_needs_another_build_and_has_no_bf16() -> None:
    build = Torch("2.13.0", "13.0", CUDA_13, ())
    kernels, precision = torch_findings(build, ("V100", (7, 0)), "bf16")
    assert kernels.state == "failed"
    assert "torch==2.13.0" in kernels.mend
    assert kernels.mend.endswith("https://download.pytorch.org/whl/cu126")
    assert precision.state == "failed"
    assert "engine.precision=auto" in precision.mend
    fitting = Torch("2.13.0+cu126", "12.6", CUDA_126, (("V100", (7, 0)), ("V100", (7, 0))))
    found = torch_findings(fitting, None, "auto")
    assert [one.state for one in found] == ["ok", "ok"]
    assert "fp16" in found[1].text
    newer = torch_findings(Torch("2.13.0+cpu", None, (), ()), ("A100", (8, 0)), "auto")
    assert newer[0].state == "failed"
    assert "index-url" not in newer[0].mend
    assert "bf16" in newer[1].text


def test_the_torch_that_is_here_is_asked() -> None:
    import torch

    found = probe_torch()
    assert isinstance(found, Torch)
    assert (found.version, found.cuda) == (torch.__version__, torch.version.cuda)
    assert len(found.gpus) == torch.cuda.device_count()


def test_python_versions() -> None:
    assert [python_finding(version).state for version in ((3, 9), (3, 10), (3, 12), (3, 13))] == [
        "failed", "ok", "ok", "failed"
    ]  # fmt: skip


def test_ops_follow_the_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.131'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert software.ops_finding(Torch("2", "12.6", CUDA_126, ()), on_gpu=True).state == "ok"
    wrong = software.ops_finding(Torch("2", "13.0", CUDA_13, ()), on_gpu=True)
    assert (wrong.state, wrong.mend) == ("failed", "module load cuda/13.0")
    monkeypatch.setenv("SEED_DIST_CACHE", str(tmp_path))
    unbuilt = software.ops_finding(Torch("2", None, (), ()), on_gpu=False)
    assert unbuilt.state == "warning"
    assert "--build-ops" in unbuilt.mend


def test_findings_show_what_mends_them() -> None:
    found = [Finding("disk", "ok", "room"), Finding("torch", "failed", "no kernels", "pip install")]
    assert findings_text(found) == "ok       disk   room\nFAILED   torch  no kernels\n                mend: pip install"
    assert has_failed(found)
    assert not has_failed(found[:1])
