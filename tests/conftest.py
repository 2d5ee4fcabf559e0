"""What every test may rely on: one thread, no network, no accelerator unless asked for, everything left as it was."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported anywhere: two ranks with a thread per core each would fight over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", WDS_SECURE="1", MPLBACKEND="Agg")
# Compiled ops live in the virtual environment, as under make: one checkout's tests never touch another's.
os.environ.setdefault("SEED_DIST_CACHE", str(Path(sys.prefix) / "cache"))
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))

# Set by launchers; a test that runs inside a job or after a sloppy neighbour must still be a single process.
_LAUNCHER_PREFIXES = ("SLURM_", "SUBMITIT_")
_LAUNCHER_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TRACKING = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")
for _name in list(os.environ):
    if _name.startswith(_LAUNCHER_PREFIXES) or _name in (
        *_LAUNCHER_NAMES,
        "SEED_DIST_FAULT",
        "SEED_DIST_RENDEZVOUS",
        *_TRACKING,
    ):
        del os.environ[_name]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def environment_restored() -> Iterator[None]:
    """Whatever a test or the code under test sets in the environment, or wherever it goes, ends with the test."""
    before, folder = dict(os.environ), Path.cwd()
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)
    os.chdir(folder)


@pytest.fixture(autouse=True)
def logger_restored() -> Iterator[None]:
    """The program's logger is as if nothing had run: a command makes it write by itself and tell no other logger, and
    pytest's `caplog` then listens to it twice, or not at all."""
    _forget_logger()  # fixtures of modules and of the session may have used it
    yield
    _forget_logger()


def _forget_logger() -> None:
    logger = logging.getLogger("seed_dist")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped without a CUDA device; torch is imported only when there are such tests."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
