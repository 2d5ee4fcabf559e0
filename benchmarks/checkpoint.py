"""How long a save holds training up: ours, DeepSpeed's `save_checkpoint`, `torch.distributed.checkpoint.async_save`.

  python -m benchmarks.checkpoint

Two ranks over gloo train one module under ZeRO-2. Each arm saves in the middle of training: its call is timed (stall),
then a number of steps beside the writing, then the wait until everything is flushed to the disk. All are made equally
durable: ours flushes files and folder, PyTorch's flushes by default, after DeepSpeed's the files are flushed here. Only
ours writes checksums. PyTorch's gets the same tensors, once as documented and once with a stager that uses its memory
again.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.hardware import keep, load
from benchmarks.rounds import interleaved, medians, times_faster
from seed_dist.config import EngineConfig, TrainConfig
from seed_dist.dist.checkpoint import KINDS
from seed_dist.dist.checkpoint_folder import Retention, prepare_folder
from seed_dist.dist.checkpoint_saver import CheckpointSaver, Flags
from seed_dist.dist.comm import Comm
from seed_dist.dist.ds_config import load_ds_config
from seed_dist.dist.engine import Engine, start_engine
from seed_dist.dist.launch import open_comm
from seed_dist.fsio import fsync_folder
from seed_dist.topology import World

RANKS, BATCH, WIDTH, LAYERS = 2, 16, 2048, 6
STEPS = 3  # trained beside the writing


class Stack(nn.Module):
    """Linear layers: 100 MB of fp32 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.layers(batch["x"]).square().mean(), {}


class Training:
    """The module in training, and for each arm a call that saves it and one that waits until that is durable."""

    def __init__(self, comm: Comm, folder: Path) -> None:
        self.comm, self.folder, self.number = comm, folder, 0
        training = TrainConfig(steps=10_000, global_batch=BATCH, lr=1e-5)
        module = Stack()
        config = load_ds_config(EngineConfig(), training, "fp32", comm.size)
        self.engine: Engine = start_engine(module, [{"params": list(module.parameters())}], training, config, comm)
        prepare_folder(folder / "ours", comm)
        self.saver = CheckpointSaver(self.engine, Retention(folder / "ours", 2))
        self.dcp = importlib.import_module("torch.distributed.checkpoint")
        staging = importlib.import_module("torch.distributed.checkpoint.staging")
        self.stager = staging.DefaultStager(staging.StagingOptions(False, False, False, False))
        self.group = torch.distributed.new_group(backend="gloo")  # of PyTorch's thread, which uses collectives
        self.x = {"x": torch.randn(BATCH // comm.size, WIDTH)}

    def step(self) -> None:
        loss, _ = self.engine.forward(self.x)
        self.engine.backward(loss)
        self.engine.step(1e-5)
        self.saver.settle(Flags(*self.comm.any(self.saver.flags())))

    def place(self, name: str) -> Path:
        self.number += 1
        return self.folder / name / f"{self.number:04d}"

    def nothing(self) -> Callable[[], object]:
        return lambda: None

    def ours(self) -> Callable[[], object]:
        self.number += 1
        self.saver.begin({"step": self.number})
        return self._ours_is_durable

    def _ours_is_durable(self) -> None:
        results = self.saver.wait(300.0)
        assert all(result.problem is None for result in results)

    def deepspeed(self) -> Callable[[], object]:
        path = self.place("deepspeed")
        self.engine._engine.save_checkpoint(str(path), tag="saved")
        own = f"zero_pp_rank_{self.comm.rank}_"
        for file in (path / "saved").iterdir():
            if file.name.startswith(own) or (self.comm.rank == 0 and not file.name.startswith("zero_pp")):
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        fsync_folder(path / "saved")
        return self.comm.barrier

    def _async_save(self, path: Path, **options: Any) -> Callable[[], object]:
        tensors = {
            f"{self.comm.rank}/{kind}/{part.name}": getattr(part, kind)
            for part in self.engine.fragments()
            for kind in KINDS
        }
        future = self.dcp.async_save(tensors, checkpoint_id=str(path), process_group=self.group, **options)
        return future.result if hasattr(future, "result") else future.upload_completion.result

    def async_save(self) -> Callable[[], object]:
        return self._async_save(self.place("dcp"))

    def async_save_reusing_memory(self) -> Callable[[], object]:
        return self._async_save(self.place("dcp"), async_stager=self.stager)


def measure(rank: int, store: str, folder: Path, rounds: int, answers: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with open_comm(World(rank, RANKS, rank, RANKS), 300.0, f"file://{store}") as comm:
        training = Training(comm, folder)
        names = ("nothing", "ours", "deepspeed", "async_save", "async_save_reusing_memory")
        kept: dict[str, dict[str, list[float]]] = {
            what: {name: [] for name in names} for what in ("stall_s", "until_durable_s")
        }
        sizes: dict[str, int] = {}

        def arm(name: str) -> Callable[[], None]:
            def save_and_train() -> None:
                training.step()
                comm.barrier()
                began_s = time.perf_counter()
                finish = getattr(training, name)()
                comm.barrier()  # the slowest rank's stall is everybody's
                kept["stall_s"][name].append(time.perf_counter() - began_s)
                for _ in range(STEPS):
                    training.step()
                finish()
                comm.barrier()
                kept["until_durable_s"][name].append(time.perf_counter() - began_s)

            return save_and_train

        def clear() -> None:
            comm.barrier()
            if comm.rank == 0:
                for path in folder.iterdir():
                    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                    sizes[path.name] = max(size, sizes.get(path.name, 0))
                    shutil.rmtree(path)
                (folder / "ours").mkdir()
            comm.barrier()

        seconds = interleaved({name: arm(name) for name in names}, rounds, between=clear)
        if comm.rank == 0:
            counted = {what: {name: found[1:] for name, found in kept[what].items()} for what in kept}
            answers.put({**counted, "whole_s": seconds, "bytes": sizes})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    args = parser.parse_args()
    load_before, context = load(), multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        answers, folder = context.SimpleQueue(), Path(scratch, "saved")
        folder.mkdir()
        ranks = [
            context.Process(target=measure, args=(rank, str(Path(scratch, "store")), folder, args.rounds, answers))
            for rank in range(RANKS)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        if any(rank.exitcode for rank in ranks):
            raise SystemExit("a rank failed; its traceback is above")
        found = answers.get()
    others = [name for name in found["stall_s"] if name not in ("nothing", "ours")]
    weights = LAYERS * (WIDTH * WIDTH + WIDTH) * 4
    keep(
        "checkpoint",
        {
            "work": f"{weights} bytes of weights on {RANKS} ranks, {STEPS} steps beside each save",
            "load_average_before": load_before,
            "rounds": args.rounds,
            "checkpoint_bytes": found["bytes"],
            "median_stall_s": medians(found["stall_s"]),
            "median_until_durable_s": medians(found["until_durable_s"]),
            **{f"stall_of_{name}_against_ours": times_faster(found["stall_s"], "ours", name) for name in others},
            **{f"whole_of_{name}_against_ours": times_faster(found["whole_s"], "ours", name) for name in others},
        },
        ["torch", "deepspeed"],
    )


if __name__ == "__main__":
    main()
