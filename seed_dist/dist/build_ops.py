"""Builds DeepSpeed's CPU FusedAdam once and keeps it: `python -m seed_dist.dist.build_ops`.

DeepSpeed compiles its ops on first use with ninja and g++, in a folder whose lock file outlives a killed compiler and
then makes everybody wait for ever. Here the compiler works in a temporary folder, the finished library is renamed into
place, and the lock is one that the kernel frees. Training does the same by itself when this was not run before.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from seed_dist.assets.location import cache_folder
from seed_dist.cli import run_command
from seed_dist.errors import SeedDistError
from seed_dist.fsio import fingerprint

OP_NAME = "fused_adam"
_LOG = logging.getLogger("seed_dist")


def library_path() -> Path:
    """Where the library for exactly this Python, torch, DeepSpeed and CPU belongs.

    It is compiled for the processor that it is built on (-march=native), and home folders are shared between unlike
    nodes, so the processor's feature flags are part of the name.
    """
    key = fingerprint(
        {
            "python": platform.python_version_tuple()[:2],
            "torch": importlib.metadata.version("torch"),
            "deepspeed": importlib.metadata.version("deepspeed"),
            "machine": platform.machine(),
            "cpu_flags": _cpu_flags(),
        }
    )
    return cache_folder() / "ops" / key / f"{OP_NAME}.so"


def ensure_built(compile_into: Callable[[Path], Path]) -> Path:
    """The library's path; builds it first when it is missing. `compile_into(folder)` returns the file that it made
    there.

    Several processes may call this at once: one builds, the others wait for it. Raises SeedDistError when the compiler
    or ninja is missing.
    """
    path = library_path()
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits; freed by the kernel when its owner dies
        if not path.is_file():
            _build(path, compile_into)
    return path


def _build(path: Path, compile_into: Callable[[Path], Path]) -> None:
    missing = [
        tool for tool in ("ninja", os.environ.get("CXX", "g++")) if shutil.which(tool, path=_search_path()) is None
    ]
    if missing:
        raise SeedDistError(
            f"DeepSpeed's FusedAdam has to be compiled once, but {' and '.join(missing)} cannot be found. "
            "Install them (Debian, Ubuntu: apt-get install g++ ninja-build) and run the same command again."
        )
    _LOG.info("compiling DeepSpeed's FusedAdam for this CPU, once; takes one to three minutes ...")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as folder:
        os.replace(compile_into(Path(folder)), path)
    _LOG.info("compiled in %.0f s; kept in %s", time.monotonic() - started, path)


def _search_path() -> str:
    """PATH with this interpreter's own folder, where pip puts ninja even when the environment is not activated."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(folder: Path) -> Path:
    from seed_dist.dist.engine import compile_fused_adam  # torch and deepspeed, only when there is something to do

    return compile_fused_adam(folder)


def main() -> None:
    argparse.ArgumentParser(prog="python -m seed_dist.dist.build_ops", description=__doc__).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ["DS_ACCELERATOR"] = "cpu"
    print(ensure_built(_compile))


if __name__ == "__main__":
    sys.exit(run_command(main))
