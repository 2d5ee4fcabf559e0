"""A training so small that its start takes most of its time, as a user's job on a virtual cluster, and its undisturbed
twin."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from seed_dist.obs.journal import read_journal
from tests.cluster.cluster import ROOT, Cluster, Job, wait_until
from tests.features import tiny_workspace
from tests.harness import finish, start_module_ranks

# A step of the tiny model takes milliseconds. With these one lasts a second, and there is time for something to happen.
SLOW = ",".join(["train.before_step:0:*:sleep"] * 2)


class Training:
    """A stage in a workspace of its own: `steps` steps and a save after every third. Unless the stage matters it is the
    one whose ranks start fastest: the others import transformers' models or read another stage's export.
    """

    def __init__(
        self, work: Path, steps: int, samples: int = 40, stage: str = "causal_qformer", **options: object
    ) -> None:
        self.work, self.steps, self.stage, self.folder = work, steps, stage, work / stage
        work.mkdir(exist_ok=True)
        chosen = {"steps": steps, "checkpoint_every": 3, "validate_every": steps, "log_every": 1, **options}
        settings = [
            *tiny_workspace(work, samples),
            *(f"{stage}_training.{name}={value}" for name, value in chosen.items()),
        ]
        shutil.rmtree(self.folder, ignore_errors=True)  # the untrained export of a stage that is to be trained here
        self.settings = [word for item in settings for word in ("--set", item)]

    def submit(self, cluster: Cluster, *options: str, words: tuple[str, ...] = (), **variables: str) -> Job:
        """`sbatch slurm/lora.sbatch` on two nodes with a rank each, unless `options` say otherwise."""
        shape = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0")
        environment = {"RECIPE": "glyphs", "WORK": str(self.work), "SEED_DIST_FAULT": SLOW, **variables}
        arguments = ("slurm/lora.sbatch", "--stage", self.stage, *self.settings, "--mlflow", "off", *words)
        return cluster.submit(*shape, *options, *arguments, **environment)

    def submit_for_any(self, cluster: Cluster, nodes: str, ranks_per_node: int, **variables: str) -> Job:
        """The same for a range of nodes, as docs/cluster.md shows it."""
        lines = (ROOT / "slurm/lora.sbatch").read_text().splitlines(keepends=True)
        script = cluster.folder / "any-size.sbatch"
        kept = "".join(line for line in lines if "ntasks-per-node" not in line)
        script.write_text(kept.replace("--stage lora", f"--stage {self.stage}"))
        environment = {"RECIPE": "glyphs", "WORK": str(self.work), "RANKS_PER_NODE": str(ranks_per_node), **variables}
        shape = (f"--nodes={nodes}", f"--cpus-per-task={ranks_per_node}", "--gpus-per-node=0")
        return cluster.submit(*shape, script, *self.settings, "--mlflow", "off", **environment)

    def run_undisturbed(self, scratch: Path, ranks: int = 2) -> None:
        """The same to its end without a cluster, an interruption or a slow step."""
        arguments = ["--recipe", "glyphs", "--work", str(self.work), "--stage", self.stage, "--mlflow", "off"]
        ends = finish(start_module_ranks("seed_dist.train", [*arguments, *self.settings], ranks, scratch))
        assert [code for code, _ in ends] == [0] * ranks, ends

    def copy(self, work: Path) -> Training:
        """The same, not begun, in a workspace of its own."""
        shutil.copytree(self.work, work, ignore=shutil.ignore_patterns(self.stage))
        other = copy.copy(self)
        other.work, other.folder = work, work / self.stage
        return other

    def events(self, kind: str) -> list[dict[str, Any]]:
        journal = self.folder / "journal.jsonl"
        return [record for record in read_journal(journal) if record["event"] == kind] if journal.exists() else []

    def newest_step(self) -> int:
        return max((record["step"] for record in self.events("step")), default=0)

    def wait_for_step(self, step: int, job: Job) -> None:
        """Wait until the job has done so many steps."""
        wait_until(lambda: self.newest_step() >= step, 300, lambda: job.log)

    def saved_steps(self) -> list[int]:
        """Steps of the checkpoints that were finished, in order, over all attempts."""
        return [record["step"] for record in self.events("checkpoint")]


def assert_same_end(straight: Training, disturbed: Training) -> None:
    """Weights, optimizer, buffers, position and the loss of every step are equal to the last bit."""
    final = f"checkpoints/step_{straight.steps:08d}"
    compared = 0
    for path in (straight.folder / final).glob("*.safetensors"):
        ours, theirs = load_file(path), load_file(disturbed.folder / final / path.name)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), f"{path.name}: {name}"
            compared += 1
    assert compared > 20
    states = [json.loads((run.folder / final / "state.json").read_text()) for run in (straight, disturbed)]
    assert states[0] == states[1]
    curves = [{record["step"]: record["loss"] for record in run.events("step")} for run in (straight, disturbed)]
    assert sorted(curves[0]) == list(range(1, straight.steps + 1))
    assert curves[0] == curves[1]
