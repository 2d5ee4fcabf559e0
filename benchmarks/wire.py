"""Bytes that a rank sends in a step of ZeRO-2, counted by its network card, beside what `seed_dist.plan` says.

    python -m benchmarks.wire            as root; --ranks 2 4 8

Every rank has a network of its own (namespaces, linked by a bridge), and the kernel counts what leaves it: gloo's
tensors and messages, headers of TCP and IP, acknowledgements. That does not depend on what else the machine does.

Theory, for P bytes of trained parameters on n ranks, mean over ranks. Each rank owns the n-th part of everything.
A reduce-scatter must take from each rank what belongs to the others, (n-1)/n P, and an all-gather must give each rank's
part to n-1 others, (n-1)/n P again (Patarasuk and Yuan 2009: rings reach both). An all-reduce is one after the other.
ZeRO-2 reduces the gradients of every micro-batch and then gathers the new weights:

    all-reduce of whole buckets, as DeepSpeed does unless told otherwise   (2 a + 1) P (n-1)/n     a: micro-batches
    a reduce of each part to its owner (use_multi_rank_bucket_allreduce    (  a + 1) P (n-1)/n
    false, and reduce_scatter true)

Norm, agreement on overflow and barriers are some hundred bytes.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.hardware import keep
from seed_dist.config import EngineConfig, TrainConfig
from seed_dist.dist.ds_config import load_ds_config
from seed_dist.dist.engine import start_engine
from seed_dist.dist.launch import open_comm
from seed_dist.plan.network import gradient_factor, zero2
from seed_dist.topology import World
from seed_dist.train.parameter_groups import parameter_groups
from tests.cluster.sandbox import Sandbox, missing_programs
from tests.harness import ROOT

WIDTH, LAYERS, STEPS = 512, 8, 4
SETTINGS: dict[str, dict[str, bool]] = {
    "as shipped": {},
    "reduce_scatter false": {"reduce_scatter": False},
    "reduce to the owner": {"use_multi_rank_bucket_allreduce": False},
}


class Layers(nn.Module):
    """Parameters of one size, biases of another."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.layers(batch["x"]).square().mean(), {}


@dataclass(frozen=True)
class Case:
    """One world: how many ranks, micro-batches of a step, and a name of SETTINGS."""

    ranks: int
    accumulation: int = 1
    setting: str = "as shipped"

    @property
    def training(self) -> TrainConfig:
        return TrainConfig(steps=100, global_batch=self.ranks * self.accumulation, accumulation=self.accumulation)

    def ds_config(self) -> dict[str, Any]:
        config = load_ds_config(EngineConfig(), self.training, "fp32", self.ranks)
        return config | {"zero_optimization": config["zero_optimization"] | SETTINGS[self.setting]}

    def theory_bytes(self) -> int:
        """What the plan says that a rank sends in a step."""
        trained = sum(parameter.numel() for parameter in Layers().parameters()) * 4
        factor = gradient_factor(self.ds_config()["zero_optimization"])
        return zero2(trained, self.ranks, 1, self.accumulation, factor).rank_bytes


def measured_bytes(case: Case) -> list[float]:
    """What each rank sent in a step, by its network's counter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hosts = {f"rank{rank}": f"10.0.1.{rank + 1}" for rank in range(case.ranks)}
        sandbox = Sandbox(folder, {"head": "10.0.0.1", **hosts}, "head")
        try:
            started = []
            for rank, (host, address) in enumerate(hosts.items()):
                place = sandbox.add_place(host, address)
                words = [f"{rank}", f"{case.ranks}", f"{case.accumulation}", case.setting, f"file://{folder}/store"]
                variables = ("env", "GLOO_SOCKET_IFNAME=eth0", "OMP_NUM_THREADS=1")
                command = place.command(*variables, sys.executable, "-m", "benchmarks.wire", "--rank", *words, cwd=ROOT)
                started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            answers = [process.communicate(timeout=300)[0] for process in started]
        finally:
            sandbox.close()
    return [float(answer.split()[-1]) for answer in answers]


def rank_main(rank: int, case: Case, rendezvous: str) -> None:
    """Print the bytes of a step, the mean over some after the first."""
    with open_comm(World(rank, case.ranks, 0, 1), 120.0, rendezvous) as comm:
        torch.manual_seed(0)
        module = Layers()
        groups = parameter_groups(module, case.training.weight_decay)
        engine = start_engine(module, groups, case.training, case.ds_config(), comm)
        counted = []
        for step in range(STEPS + 1):
            comm.barrier()
            if step in (1, STEPS):
                counted.append(sent_bytes())
                comm.barrier()  # nobody begins before all have looked
            for _ in range(case.accumulation):
                loss, _ = engine.forward({"x": torch.randn(1, WIDTH)})
                engine.backward(loss)
            engine.step(1e-4)
        print((counted[1] - counted[0]) / (STEPS - 1))


def sent_bytes() -> int:
    """By this network's only card since it was made."""
    card = re.search(r"eth0:(.*)", Path("/proc/net/dev").read_text())
    assert card, "ranks have a network of their own here"
    return int(card[1].split()[8])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rank", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        rank, size, accumulation, setting, rendezvous = args.rank
        rank_main(int(rank), Case(int(size), int(accumulation), setting), rendezvous)
        return
    missing = missing_programs()
    if missing:
        parser.error(f"{', '.join(missing)} missing: apt-get install iproute2 util-linux")
    cases = [Case(ranks, 1, setting) for setting in SETTINGS for ranks in args.ranks] + [Case(args.ranks[-1], 2)]
    rows = []
    for case in cases:
        measured, theory = measured_bytes(case), case.theory_bytes()
        mean = statistics.mean(measured)
        rows.append(
            {**vars(case), "theory_bytes": theory, "mean_bytes": round(mean), "most_bytes": round(max(measured))}
        )
        world = f"{case.setting:22} {case.ranks} ranks, {case.accumulation} micro-batches"
        print(f"{world}: {mean / 1e6:7.3f} MB, theory {theory / 1e6:7.3f}, ratio {mean / theory:.4f}", flush=True)
    keep("wire", {"rows": rows}, ["torch", "deepspeed"])


if __name__ == "__main__":
    main()
